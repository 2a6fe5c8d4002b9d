#include "storage/checkpoint/model_config.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/file_reader.h"
#include "storage/checkpoint/strict_json.h"

namespace engram {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxConfigBytes = 16 * 1024 * 1024;

// Null when there is no such key, or a null.
const Json* Find(const Json& root, absl::string_view key) {
  const Json* value = &root;
  for (const absl::string_view step : absl::StrSplit(key, '.')) {
    if (!value->is_object()) return nullptr;
    const auto found = value->find(std::string(step));
    if (found == value->end()) return nullptr;
    value = &*found;
  }
  return value->is_null() ? nullptr : value;
}

absl::StatusOr<uint64_t> ToUnsigned(const Json& value, absl::string_view where, uint64_t low,
                                    uint64_t high) {
  if (!value.is_number_integer()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " must be a whole number, not ",
                     value.is_number() ? value.dump() : std::string(JsonTypeName(value))));
  }
  const bool negative = !value.is_number_unsigned() && value.get<int64_t>() < 0;
  const uint64_t number = negative ? 0 : value.get<uint64_t>();
  if (negative || number < low || number > high) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " is ", value.dump(), ", not between ", low, " and ", high));
  }
  return number;
}

absl::Status CheckDirectory(const std::string& directory) {
  struct stat info {};
  if (::stat(directory.c_str(), &info) != 0) {
    const int error = errno;
    const std::string text(
        absl::ErrnoToStatus(error, absl::StrCat("checkpoint directory '", directory, "'"))
            .message());
    if (error == EACCES) return absl::PermissionDeniedError(text);
    return absl::NotFoundError(text);
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint directory '", directory, "' is not a directory"));
  }
  return absl::OkStatus();
}

}  // namespace

struct ModelConfig::Rep {
  std::string file;
  std::string text;
  Json json;

  absl::StatusOr<const Json*> Get(absl::string_view key) const {
    const Json* const value = Find(json, key);
    if (value == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", key, " is missing"));
    }
    return value;
  }
};

absl::StatusOr<ModelConfig> ModelConfig::Parse(std::string file, std::string text) {
  auto rep = std::make_shared<Rep>();
  ENGRAM_ASSIGN_OR_RETURN(rep->json, ParseJsonObject(file, text));
  rep->file = std::move(file);
  rep->text = std::move(text);
  return ModelConfig(std::move(rep));
}

absl::StatusOr<ModelConfig> ModelConfig::Read(const std::string& directory) {
  ENGRAM_RETURN_IF_ERROR(CheckDirectory(directory));
  const std::string path = absl::StrCat(directory, "/config.json");
  ENGRAM_ASSIGN_OR_RETURN(std::string text, ReadSmallFile(path, kMaxConfigBytes));
  return Parse(path, std::move(text));
}

absl::StatusOr<ModelConfig> ModelConfig::ReadText(const std::string& directory) {
  ENGRAM_RETURN_IF_ERROR(CheckDirectory(directory));
  auto rep = std::make_shared<Rep>();
  rep->file = absl::StrCat(directory, "/config.json");
  rep->json = Json::object();
  absl::StatusOr<std::string> text = ReadSmallFile(rep->file, kMaxConfigBytes);
  if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
  if (text.ok()) rep->text = *std::move(text);
  return ModelConfig(std::move(rep));
}

const std::string& ModelConfig::file() const { return rep_->file; }
const std::string& ModelConfig::text() const { return rep_->text; }

std::string ModelConfig::model_type() const { return Text("model_type"); }

std::string ModelConfig::Text(absl::string_view key) const {
  const Json* const value = Find(rep_->json, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

bool ModelConfig::Has(absl::string_view key) const { return Find(rep_->json, key) != nullptr; }

std::vector<std::string> ModelConfig::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : rep_->json.items()) {
    if (!value.is_null()) keys.push_back(key);
  }
  return keys;
}

bool ModelConfig::IsSet(absl::string_view key) const {
  const Json* const value = Find(rep_->json, key);
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_string()) return !value->get_ref<const std::string&>().empty();
  return !value->empty();  // a number is not empty
}

absl::StatusOr<uint64_t> ModelConfig::Unsigned(absl::string_view key, uint64_t low,
                                               uint64_t high) const {
  ENGRAM_ASSIGN_OR_RETURN(const Json* const value, rep_->Get(key));
  return ToUnsigned(*value, absl::StrCat(rep_->file, ": ", key), low, high);
}

absl::StatusOr<std::vector<uint64_t>> ModelConfig::UnsignedList(absl::string_view key, uint64_t low,
                                                                uint64_t high) const {
  ENGRAM_ASSIGN_OR_RETURN(const Json* const value, rep_->Get(key));
  if (!value->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(
        rep_->file, ": ", key, " must be a list of whole numbers, not ", JsonTypeName(*value)));
  }
  std::vector<uint64_t> numbers;
  for (const Json& element : *value) {
    const std::string where = absl::StrCat(rep_->file, ": ", key, "[", numbers.size(), "]");
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t number, ToUnsigned(element, where, low, high));
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<std::vector<uint64_t>> ModelConfig::UnsignedOrList(absl::string_view key,
                                                                  uint64_t low,
                                                                  uint64_t high) const {
  ENGRAM_ASSIGN_OR_RETURN(const Json* const value, rep_->Get(key));
  if (value->is_array()) return UnsignedList(key, low, high);
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t number, Unsigned(key, low, high));
  return std::vector<uint64_t>{number};
}

absl::StatusOr<double> ModelConfig::Number(absl::string_view key, double low, double high) const {
  ENGRAM_ASSIGN_OR_RETURN(const Json* const value, rep_->Get(key));
  if (!value->is_number()) {
    return absl::InvalidArgumentError(
        absl::StrCat(rep_->file, ": ", key, " must be a number, not ", JsonTypeName(*value)));
  }
  const double number = value->get<double>();
  if (!(number >= low && number <= high)) {
    return absl::InvalidArgumentError(absl::StrCat(rep_->file, ": ", key, " is ", value->dump(),
                                                   ", not between ", low, " and ", high));
  }
  return number;
}

absl::StatusOr<bool> ModelConfig::Flag(absl::string_view key) const {
  const Json* const value = Find(rep_->json, key);
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  return absl::InvalidArgumentError(
      absl::StrCat(rep_->file, ": ", key, " must be true or false, not ", JsonTypeName(*value)));
}

}  // namespace engram
