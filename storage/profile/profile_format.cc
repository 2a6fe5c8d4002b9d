#include "storage/profile/profile_format.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/profile/row_rules.h"
#include "storage/table/addressing.h"

namespace engram {
namespace {

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
  if (layer.head.size() > DistinctRows(layer.Classes())) {
    return Bad(layer, "the head has more rows than were asked for:", layer.head.size());
  }
  RowRules rules(HotKind::kProfile, layer);
  std::vector<RowId> ids;
  for (size_t i = 0; i < layer.head.size();) {
    const uint32_t count = layer.head[i].count;
    ids.clear();
    for (; i < layer.head.size() && ids.size() < kHotBlockRows && layer.head[i].count == count;
         ++i) {
      ids.push_back(layer.head[i].id);
    }
    ENGRAM_RETURN_IF_ERROR(rules.Check({count, ids}));
  }
  return profile_format::CheckRepeats(layer);
}

}  // namespace

absl::string_view HotKindName(HotKind kind) { return kind == HotKind::kLive ? "live" : "profile"; }

namespace profile_format {

std::vector<int32_t> OrdersOf(const std::vector<ProfiledColumn>& columns) {
  std::set<int32_t> orders;
  for (const ProfiledColumn& column : columns) orders.insert(column.order);
  return {orders.begin(), orders.end()};
}

absl::Status CheckLayerOutline(HotKind kind, const LayerProfile& layer) {
  if (layer.rows == 0 || layer.rows > kMaxLayerRows) {
    return Bad(layer, "impossible number of rows", layer.rows);
  }
  if (kind == HotKind::kLive) {
    if (layer.columns.empty() && layer.orders.empty()) return absl::OkStatus();
    return Bad(layer, "live rows have no columns, but there are", layer.columns.size());
  }
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

absl::Status CheckHeader(const HotHeader& header) {
  if (header.layers == 0 || header.layers > kMaxLayers) {
    return absl::InvalidArgumentError(absl::StrCat("the profile has ", header.layers, " layers"));
  }
  if (header.family.size() > kMaxFamilyLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile's family has ", header.family.size(), " bytes"));
  }
  if (header.table.size() > kMaxNameLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile's table has a name of ", header.table.size(), " bytes"));
  }
  if (!IsHex(header.fingerprint, kFingerprintLength)) {
    return absl::InvalidArgumentError(absl::StrCat("the profile's fingerprint is \"",
                                                   absl::CHexEscape(header.fingerprint), "\""));
  }
  if (!header.token_map_digest.empty() && !IsHex(header.token_map_digest, kTokenMapDigestLength)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the profile's token map digest is \"", absl::CHexEscape(header.token_map_digest), "\""));
  }
  return absl::OkStatus();
}

HotHeader HeaderOf(const RowProfile& profile) {
  return {.kind = HotKind::kProfile,
          .layers = static_cast<uint32_t>(profile.layers.size()),
          .tokens = profile.tokens,
          .sequences = profile.sequences,
          .fingerprint = profile.fingerprint,
          .token_map_digest = profile.token_map_digest,
          .family = profile.family,
          .table = {}};
}

absl::Status CheckProfile(const RowProfile& profile) {
  ENGRAM_RETURN_IF_ERROR(CheckHeader(HeaderOf(profile)));
  uint64_t classes = 0;
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    const LayerProfile& layer = profile.layers[i];
    if (i > 0 && profile.layers[i - 1].id >= layer.id) {
      return Bad(layer, "it follows layer", Raw(profile.layers[i - 1].id));
    }
    ENGRAM_RETURN_IF_ERROR(CheckLayerOutline(HotKind::kProfile, layer));
    for (const OrderProfile& order : layer.orders) classes += order.classes.size();
  }
  if (classes > kMaxClasses) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile has ", classes, " frequencies of rows, over ", kMaxClasses));
  }
  for (const LayerProfile& layer : profile.layers) ENGRAM_RETURN_IF_ERROR(CheckHead(layer));
  return absl::OkStatus();
}

}  // namespace profile_format

}  // namespace engram
