#include "storage/profile/profile_format.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/addressing.h"

namespace engram {
namespace {

template <typename T>
T NumberAt(absl::string_view bytes, size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

bool IsHex(absl::string_view text, size_t length) {
  return text.size() == length && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isxdigit(c);
         });
}

absl::Status Bad(const LayerProfile& layer, absl::string_view what, const absl::AlphaNum& value) {
  return absl::InvalidArgumentError(
      absl::StrCat("layer ", Raw(layer.id), " of the profile: ", what, " ", value));
}

absl::Status CheckColumns(const LayerProfile& layer) {
  if (layer.rows == 0 || layer.rows > kMaxLayerRows) {
    return Bad(layer, "impossible number of rows", layer.rows);
  }
  if (layer.columns.empty() || layer.columns.size() > kMaxColumns) {
    return Bad(layer, "impossible number of columns", layer.columns.size());
  }
  uint64_t sum = 0;
  for (const ProfiledColumn& column : layer.columns) {
    if (column.order < 1 || column.order > kMaxNgramSize) {
      return Bad(layer, "impossible order", column.order);
    }
    if (column.rows > layer.rows - sum) return Bad(layer, "columns of more rows than", layer.rows);
    sum += column.rows;
  }
  return absl::OkStatus();
}

absl::Status CheckOrder(const LayerProfile& layer, const OrderProfile& order) {
  uint64_t room = 0;
  for (const ProfiledColumn& column : layer.columns) {
    if (column.order == order.order) room += column.rows;
  }
  uint64_t above = kMaxRowCount + 1;
  for (const CountClass& each : order.classes) {
    if (each.count == 0 || each.count >= above) {
      return Bad(layer, "counts do not descend from 4294967295 to 1 at", each.count);
    }
    if (each.rows == 0 || each.rows > room) {
      return Bad(layer, "more rows, or none, asked for than there are:", each.rows);
    }
    above = each.count;
    room -= each.rows;
  }
  return absl::OkStatus();
}

// Takes memory by the head's size, whatever the layer's number of rows.
bool HasRepeats(const LayerProfile& layer) {
  if (layer.rows / 32 <= layer.head.size()) {
    std::vector<bool> seen(layer.rows);
    for (const HotRow& row : layer.head) {
      if (seen[Raw(row.id)]) return true;
      seen[Raw(row.id)] = true;
    }
    return false;
  }
  std::vector<RowId> ids;
  ids.reserve(layer.head.size());
  for (const HotRow& row : layer.head) ids.push_back(row.id);
  std::sort(ids.begin(), ids.end());
  return std::adjacent_find(ids.begin(), ids.end()) != ids.end();
}

absl::Status CheckHead(const LayerProfile& layer) {
  const std::vector<CountClass> classes = layer.Classes();
  if (layer.head.size() > DistinctRows(classes)) {
    return Bad(layer, "the head has more rows than were asked for:", layer.head.size());
  }
  size_t next = 0;
  for (const CountClass& each : classes) {
    const size_t end = next + std::min<uint64_t>(each.rows, layer.head.size() - next);
    for (size_t i = next; i < end; ++i) {
      const HotRow& row = layer.head[i];
      if (Raw(row.id) >= layer.rows) return Bad(layer, "it has no row", Raw(row.id));
      if (row.count != each.count)
        return Bad(layer, "the head's count is not the class's:", row.count);
      if (i > next && layer.head[i - 1].id >= row.id) {
        return Bad(layer, "rows of one count do not ascend at row", Raw(row.id));
      }
    }
    next = end;
  }
  return profile_format::CheckRepeats(layer);
}

}  // namespace

namespace profile_format {

std::vector<int32_t> OrdersOf(const std::vector<ProfiledColumn>& columns) {
  std::set<int32_t> orders;
  for (const ProfiledColumn& column : columns) orders.insert(column.order);
  return {orders.begin(), orders.end()};
}

absl::Status CheckLayerOutline(const LayerProfile& layer) {
  ENGRAM_RETURN_IF_ERROR(CheckColumns(layer));
  const std::vector<int32_t> orders = OrdersOf(layer.columns);
  if (layer.orders.size() != orders.size()) {
    return Bad(layer, "its columns have another number of orders than", layer.orders.size());
  }
  for (size_t i = 0; i < orders.size(); ++i) {
    if (layer.orders[i].order != orders[i]) {
      return Bad(layer, "its columns do not have, at its place, the order", layer.orders[i].order);
    }
    ENGRAM_RETURN_IF_ERROR(CheckOrder(layer, layer.orders[i]));
  }
  return absl::OkStatus();
}

absl::Status CheckRepeats(const LayerProfile& layer) {
  if (HasRepeats(layer)) return Bad(layer, "a row stands twice in the head of", layer.head.size());
  return absl::OkStatus();
}

absl::Status CheckOutline(const RowProfile& profile) {
  if (profile.family.size() > kMaxFamilyLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile's family has ", profile.family.size(), " bytes"));
  }
  if (!IsHex(profile.fingerprint, kFingerprintLength)) {
    return absl::InvalidArgumentError(absl::StrCat("the profile's fingerprint is \"",
                                                   absl::CHexEscape(profile.fingerprint), "\""));
  }
  if (!profile.token_map_digest.empty() &&
      !IsHex(profile.token_map_digest, kTokenMapDigestLength)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the profile's token map digest is \"", absl::CHexEscape(profile.token_map_digest), "\""));
  }
  if (profile.layers.empty() || profile.layers.size() > kMaxLayers) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile has ", profile.layers.size(), " layers"));
  }
  uint64_t classes = 0;
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    const LayerProfile& layer = profile.layers[i];
    if (i > 0 && profile.layers[i - 1].id >= layer.id) {
      return Bad(layer, "it follows layer", Raw(profile.layers[i - 1].id));
    }
    ENGRAM_RETURN_IF_ERROR(CheckLayerOutline(layer));
    for (const OrderProfile& order : layer.orders) classes += order.classes.size();
  }
  if (classes > kMaxClasses) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile has ", classes, " frequencies of rows, over ", kMaxClasses));
  }
  return absl::OkStatus();
}

absl::Status CheckProfile(const RowProfile& profile) {
  ENGRAM_RETURN_IF_ERROR(CheckOutline(profile));
  for (const LayerProfile& layer : profile.layers) ENGRAM_RETURN_IF_ERROR(CheckHead(layer));
  return absl::OkStatus();
}

absl::Status CheckFirstBytes(absl::string_view bytes, uint64_t file_bytes) {
  if (bytes.size() < kFirstBytes || bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::DataLossError("no profile of row frequencies (engramctl profile makes them)");
  }
  if (const auto format = NumberAt<uint32_t>(bytes, kFormatOffset); format != kFormat) {
    return absl::FailedPreconditionError(absl::StrCat("a profile of format ", format,
                                                      ", where this release knows ", kFormat,
                                                      "; make it anew with engramctl profile"));
  }
  if (const auto said = NumberAt<uint64_t>(bytes, kSizeOffset);
      said != file_bytes || said > kMaxProfileBytes) {
    return absl::DataLossError(absl::StrCat("a profile of ", said, " bytes (at most ",
                                            kMaxProfileBytes, " are possible), of which there are ",
                                            file_bytes, ": it is damaged or cut off"));
  }
  return absl::OkStatus();
}

}  // namespace profile_format

}  // namespace engram
