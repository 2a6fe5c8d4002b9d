#include "storage/profile/row_profile.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

std::string LayerIds(const std::vector<int32_t>& ids) { return absl::StrJoin(ids, ", "); }

absl::Status Differs(absl::string_view what, absl::string_view ours, absl::string_view theirs) {
  return absl::FailedPreconditionError(
      absl::StrCat("the profile is of another table: ", what, " is ", absl::CHexEscape(ours),
                   " in the profile, ", theirs, " in the table; make one with engramctl profile"));
}

absl::Status CheckLayerFor(const LayerProfile& profile, const LayerSpec& layer) {
  const std::string name = absl::StrCat("layer ", Raw(layer.id), "'s ");
  if (profile.rows != layer.rows) {
    return Differs(name + "number of rows", absl::StrCat(profile.rows), absl::StrCat(layer.rows));
  }
  std::vector<ProfiledColumn> columns;
  for (const ColumnSpec& column : layer.columns) columns.push_back({column.order, column.rows});
  if (profile.columns != columns) {
    return Differs(name + "list of columns", absl::StrCat(profile.columns.size(), " columns"),
                   absl::StrCat(columns.size(), " of other orders or sizes"));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t Accesses(const std::vector<CountClass>& classes) {
  uint64_t sum = 0;
  for (const CountClass& each : classes) sum += each.count * each.rows;
  return sum;
}

uint64_t DistinctRows(const std::vector<CountClass>& classes) {
  uint64_t sum = 0;
  for (const CountClass& each : classes) sum += each.rows;
  return sum;
}

std::vector<CountClass> LayerProfile::Classes() const {
  size_t all = 0;
  for (const OrderProfile& order : orders) all += order.classes.size();
  std::vector<CountClass> classes;
  classes.reserve(all);
  for (const OrderProfile& order : orders) {
    classes.insert(classes.end(), order.classes.begin(), order.classes.end());
  }
  std::sort(classes.begin(), classes.end(),
            [](const CountClass& a, const CountClass& b) { return a.count > b.count; });
  size_t merged = 0;
  for (const CountClass& each : classes) {
    if (merged > 0 && classes[merged - 1].count == each.count) {
      classes[merged - 1].rows += each.rows;
    } else {
      classes[merged++] = each;
    }
  }
  classes.resize(merged);
  return classes;
}

const LayerProfile* RowProfile::FindLayer(LayerId id) const {
  for (const LayerProfile& layer : layers) {
    if (layer.id == id) return &layer;
  }
  return nullptr;
}

absl::Status RowProfile::CheckFor(const TableSpec& spec) const {
  if (family != spec.family) return Differs("the model family", family, spec.family);
  std::vector<int32_t> ours, theirs;
  for (const LayerProfile& layer : layers) ours.push_back(Raw(layer.id));
  for (const LayerSpec& layer : spec.layers) {
    if (!layer.columns.empty()) theirs.push_back(Raw(layer.id));
  }
  if (ours != theirs) return Differs("the list of layers", LayerIds(ours), LayerIds(theirs));
  for (const LayerProfile& layer : layers) {
    const absl::Status status = CheckLayerFor(layer, *spec.FindLayer(layer.id));
    if (!status.ok()) return status;
  }
  if (const std::string theirs_too = AddressingFingerprint(spec); fingerprint != theirs_too) {
    return Differs("the addressing's fingerprint", fingerprint, theirs_too);
  }
  if (!token_map_digest.empty() && !spec.token_map_digest.empty() &&
      token_map_digest != spec.token_map_digest) {
    return Differs("the token map's sha256", token_map_digest, spec.token_map_digest);
  }
  return absl::OkStatus();
}

std::string AddressingFingerprint(const TableSpec& spec) {
  const AddressingSpec& a = spec.addressing;
  std::string text = absl::StrCat("engram addressing 1\n", HashKindName(a.hash), " ",
                                  a.max_ngram_size, " ", a.heads, " ", a.pad_id, " ");
  absl::StrAppend(&text, a.compressed_vocab_size, " ", a.vocab_size, " ", a.boundary_id, "\n");
  for (const LayerSpec& layer : spec.layers) {
    absl::StrAppend(&text, "layer ", Raw(layer.id), " ", layer.rows, "\n");
    for (const ColumnSpec& column : layer.columns) {
      absl::StrAppend(&text, "column ", column.order, " ", column.head, " ", column.rows, "\n");
    }
    for (const int64_t multiplier : layer.multipliers) {
      absl::StrAppend(&text, "multiplier ", multiplier, "\n");
    }
  }
  Digest digest;
  digest.Update(text);
  return digest.Hex();
}

}  // namespace engram
