#include "storage/checkpoint/strict_json.h"

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace engram {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 64;

// Follows the parser from object to object and stops it by an exception, its only way to stop.
class Guard {
 public:
  struct Refused {
    std::string what;
  };

  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) throw Refused{"is nested too deeply"};
    if (event == Json::parse_event_t::object_start) {
      open_.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      open_.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const std::string& key = value.get_ref<const std::string&>();
      if (!open_.back().insert(key).second) {
        throw Refused{absl::StrCat("holds the key '",
                                   absl::CHexEscape(absl::string_view(key).substr(0, 200)),
                                   "' twice in one object")};
      }
    }
    return true;
  }

 private:
  // The keys so far of each object not yet closed.
  std::vector<absl::flat_hash_set<std::string>> open_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonObject(absl::string_view file, absl::string_view text) {
  const auto damaged = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(file, ": ", what));
  };
  if (text.find('\0') != absl::string_view::npos) return damaged("holds a NUL byte");
  try {
    Guard guard;
    Json json = Json::parse(text.data(), text.data() + text.size(),
                            [&](int depth, Json::parse_event_t event, Json& value) {
                              return guard(depth, event, value);
                            });
    if (!json.is_object()) return damaged("is not a JSON object");
    return json;
  } catch (const Guard::Refused& refused) {
    return damaged(refused.what);
  } catch (const Json::parse_error& error) {
    return damaged(absl::StrCat("is not JSON at byte ", error.byte));
  } catch (const std::exception& error) {
    return damaged(absl::StrCat("is not JSON: ", error.what()));
  }
}

const char* JsonTypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
    case Json::value_t::number_float:
      return "a number";
    default:
      return "null";
  }
}

}  // namespace engram
