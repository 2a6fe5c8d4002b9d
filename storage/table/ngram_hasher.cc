#include "storage/table/ngram_hasher.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/addressing.h"

namespace engram {
namespace {

constexpr size_t kLanes = 8;  // columns worked on at once

// Remainders without division. With x < 2^63 exact as an integer, q the nearest integer to the
// double product x × (1/M): converting x, rounding 1/M and the fused multiply-add's own rounding
// leave q within 1/2 + (x/M) × 2^−52 of x/M, which is less than 9/16 while x/M < 2^48. So
// r = x − qM lies in ±9/16 M and one addition of M puts it right; being less than 2^31 in size for
// M < 2^30 it can be computed from the low 32 bits of x, q and M alone.
constexpr uint64_t kMinFastRows = uint64_t{1} << 15;  // x < 2^63, so x/M < 2^48
constexpr uint64_t kMaxFastRows = uint64_t{1} << 30;

// Adding 1.5 × 2^52 rounds a double below 2^51 to an integer and leaves that in the low bits.
constexpr double kRounder = 6755399441055744.0;

// Up to eight columns of one order. The lanes of doubles are in the order 0 1 4 5 | 2 3 6 7, which
// a shuffle of their low halves turns into 0 … 7. Lanes without a column repeat the first one: what
// they write is overwritten by whatever comes next in the output.
struct alignas(32) Group {
  std::array<double, kLanes> inverse;
  std::array<uint32_t, kLanes> rows;
  std::array<uint32_t, kLanes> offset;
  size_t first = 0;  // column
  int32_t order = 0;
};

// Of kPolynomial: what the token `distance` back is multiplied with, in a group's columns; 0 where
// the column does not look so far.
struct alignas(32) Weights {
  std::array<double, kLanes> wide;  // in the lanes' order of Group::inverse
  std::array<uint32_t, kLanes> low;
};

constexpr std::array<size_t, kLanes> kDoubleLane = {0, 1, 4, 5, 2, 3, 6, 7};

struct Column {
  int32_t order = 0;
  uint64_t rows = 0;
  uint64_t offset = 0;
  std::array<uint64_t, kMaxNgramSize> weight{};  // kPolynomial: vocab_size^d mod rows
};

absl::Status Bad(const LayerSpec& layer, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("layer ", Raw(layer.id), ": ", what));
}

absl::Status CheckIds(const AddressingSpec& spec, const LayerSpec& layer) {
  const int64_t ids = spec.hashed_ids();
  if (ids < 1 || ids > kMaxVocabulary) {
    return Bad(layer, absl::StrCat(ids, " token ids, not 1 to ", kMaxVocabulary));
  }
  if (spec.pad_id < 0 || spec.pad_id >= ids) {
    return Bad(layer, absl::StrCat("pad id ", spec.pad_id, " is none of the ", ids, " token ids"));
  }
  if (spec.boundary_id < -1 || spec.boundary_id >= ids) {
    return Bad(layer, absl::StrCat("boundary id ", spec.boundary_id, " is none of the ", ids,
                                   " token ids"));
  }
  return absl::OkStatus();
}

absl::Status CheckColumns(const AddressingSpec& spec, const LayerSpec& layer) {
  if (spec.max_ngram_size < 2 || spec.max_ngram_size > kMaxNgramSize || spec.heads < 1 ||
      spec.heads > kMaxHeads) {
    return Bad(layer, absl::StrCat("n-grams of up to ", spec.max_ngram_size, " in ", spec.heads,
                                   " heads, not 2 to ", kMaxNgramSize, " in 1 to ", kMaxHeads));
  }
  const size_t count = static_cast<size_t>(spec.max_ngram_size - 1) * spec.heads;
  if (layer.columns.size() != count) {
    return Bad(layer, absl::StrCat(layer.columns.size(), " columns, not ", count));
  }
  uint64_t sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const ColumnSpec& column = layer.columns[i];
    const auto order = static_cast<int32_t>(2 + i / spec.heads);
    const auto head = static_cast<int32_t>(i % spec.heads);
    if (column.order != order || column.head != head) {
      return Bad(layer, absl::StrCat("column ", i, " is of order ", column.order, " and head ",
                                     column.head, ", not ", order, " and ", head));
    }
    if (column.rows < 1 || column.rows > kMaxLayerRows - sum) {
      return Bad(layer, absl::StrCat("column ", i, " has ", column.rows, " rows"));
    }
    sum += column.rows;
  }
  if (sum > layer.rows) {
    return Bad(layer, absl::StrCat("columns of ", sum, " rows in ", layer.rows, " rows"));
  }
  return absl::OkStatus();
}

absl::Status CheckMultipliers(const AddressingSpec& spec, const LayerSpec& layer) {
  const bool wanted = spec.hash == HashKind::kXorMultiply;
  const size_t count = wanted ? static_cast<size_t>(spec.max_ngram_size) : 0;
  if (layer.multipliers.size() != count) {
    return Bad(layer, absl::StrCat(layer.multipliers.size(), " multipliers, not ", count));
  }
  const int64_t most = std::numeric_limits<int64_t>::max() / spec.hashed_ids();
  for (const int64_t multiplier : layer.multipliers) {
    if (multiplier >= 1 && multiplier <= most) continue;
    return Bad(layer, absl::StrCat("multiplier ", multiplier, " is not 1 to ", most));
  }
  return absl::OkStatus();
}

uint64_t MultiplyMod(uint64_t a, uint64_t b, uint64_t modulus) {
  __extension__ using Uint128 = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Uint128>(a) * b % modulus);
}

}  // namespace

struct NgramHasher::Rep {
  HashKind hash = HashKind::kNone;
  int32_t max_ngram_size = 0;
  int64_t hashed_ids = 0;
  int32_t pad = 0;
  int32_t boundary = -1;
  std::array<uint64_t, kMaxNgramSize> multipliers{};
  std::vector<Column> columns;
  // Empty: some column is too small or too large for the fast way.
  std::vector<Group> groups;
  std::vector<Weights> weights;  // kPolynomial: max_ngram_size − 1 for each group
  size_t width = 0;              // ids that the groups write at once: columns, or a few more
  // kPolynomial: no sum passes 2^63, so that one remainder, of the whole sum, is enough.
  bool sums_fit = false;

  void AddColumns(const AddressingSpec& spec, const LayerSpec& layer);
  bool IsFast() const;
  double LargestSum(const Column& column) const;
  void AddGroups(int32_t heads);
  void AddWeights(const Group& group);

  // How many tokens before a position its n-grams see, from how many the position before saw.
  int32_t Advance(int32_t seen, int32_t token) const {
    if (token == NgramHasher::kDeadPosition || token == boundary) return 0;
    return std::min(seen + 1, max_ngram_size - 1);
  }
  int32_t Start(const TokenSpan& tokens) const;
  int32_t Token(const int32_t* at, int32_t back, int32_t seen) const {
    return back <= seen ? at[-back] : pad;
  }

  void Xor(const int32_t* at, int32_t seen, uint32_t* out) const;
  void Polynomial(const int32_t* at, int32_t seen, uint32_t* out) const;
  void Position(const int32_t* at, int32_t seen, uint32_t* out) const {
    if (hash == HashKind::kXorMultiply) {
      Xor(at, seen, out);
    } else {
      Polynomial(at, seen, out);
    }
  }
  using Window = std::array<uint64_t, kMaxNgramSize>;  // a position's tokens, the last one first
  Window PlainWindow(const TokenSpan& tokens, size_t position) const;
  uint64_t PlainValue(const Window& window, const Column& column) const;
};

void NgramHasher::Rep::AddColumns(const AddressingSpec& spec, const LayerSpec& layer) {
  uint64_t offset = 0;
  for (const ColumnSpec& column : layer.columns) {
    Column& added = columns.emplace_back();
    added = {column.order, column.rows, offset, {}};
    offset += column.rows;
    if (hash != HashKind::kPolynomial) continue;
    uint64_t weight = 1 % column.rows;
    for (int32_t d = 1; d < column.order; ++d) {
      weight = MultiplyMod(weight, static_cast<uint64_t>(spec.vocab_size), column.rows);
      added.weight[d] = weight;
    }
  }
}

// Whether the remainders of every column can be had the fast way. A polynomial's value is computed
// in doubles too, so it must be below 2^53.
bool NgramHasher::Rep::IsFast() const {
  return std::all_of(columns.begin(), columns.end(), [&](const Column& column) {
    if (column.rows >= kMaxFastRows) return false;
    if (hash == HashKind::kXorMultiply) return column.rows > kMinFastRows;
    const double most = LargestSum(column);
    return most < 0x1p53 && most / static_cast<double>(column.rows) < 0x1p48;
  });
}

// Above every value of a polynomial column. Rounding does not matter: the bounds that it is
// compared with are far above what any sum below them could be rounded to.
double NgramHasher::Rep::LargestSum(const Column& column) const {
  double most = static_cast<double>(hashed_ids);
  for (const uint64_t weight : column.weight) {
    most += static_cast<double>(hashed_ids) * static_cast<double>(weight);
  }
  return most;
}

void NgramHasher::Rep::AddGroups(int32_t heads) {
  for (size_t first = 0; first < columns.size();) {
    const size_t order_end = (first / heads + 1) * heads;
    // Columns of a polynomial do not share their value, so a group may span orders.
    const size_t end = hash == HashKind::kXorMultiply ? order_end : columns.size();
    const size_t count = std::min(kLanes, end - first);
    Group& group = groups.emplace_back();
    group.first = first;
    group.order = columns[first].order;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const Column& column = columns[first + (lane < count ? lane : 0)];
      group.inverse[kDoubleLane[lane]] = 1.0 / static_cast<double>(column.rows);
      group.rows[lane] = static_cast<uint32_t>(column.rows);
      group.offset[lane] = static_cast<uint32_t>(column.offset);
    }
    width = std::max(columns.size(), first + kLanes);
    if (hash == HashKind::kPolynomial) AddWeights(group);
    first += count;
  }
}

void NgramHasher::Rep::AddWeights(const Group& group) {
  for (int32_t d = 1; d < max_ngram_size; ++d) {
    Weights& added = weights.emplace_back();
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const size_t column = group.first + lane < columns.size() ? group.first + lane : group.first;
      const uint64_t weight = columns[column].weight[d];
      added.wide[kDoubleLane[lane]] = static_cast<double>(weight);
      added.low[lane] = static_cast<uint32_t>(weight);
    }
  }
}

int32_t NgramHasher::Rep::Start(const TokenSpan& tokens) const {
  int32_t seen = 0;
  const size_t needed = std::min<size_t>(tokens.lookback, max_ngram_size - 1);
  for (size_t i = tokens.lookback - needed; i < tokens.lookback; ++i) {
    seen = Advance(seen, tokens.ids[i]);
  }
  return seen;
}

namespace {

__m256i Load(const std::array<uint32_t, kLanes>& lanes) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes.data()));
}

// The row ids of a group: value mod rows + offset. `low` is the value's low 32 bits in each lane,
// `wide0` and `wide1` the value as doubles, in the lanes' order of Group::inverse.
void StoreRemainders(const Group& group, __m256d wide0, __m256d wide1, __m256i low, uint32_t* out) {
  const __m256d rounder = _mm256_set1_pd(kRounder);
  const __m256d q0 = _mm256_fmadd_pd(wide0, _mm256_load_pd(group.inverse.data()), rounder);
  const __m256d q1 = _mm256_fmadd_pd(wide1, _mm256_load_pd(group.inverse.data() + 4), rounder);
  const __m256i quotient = _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castpd_ps(q0), _mm256_castpd_ps(q1), _MM_SHUFFLE(2, 0, 2, 0)));
  const __m256i rows = Load(group.rows);
  const __m256i signed_rest = _mm256_sub_epi32(low, _mm256_mullo_epi32(quotient, rows));
  // A negative remainder is a huge unsigned one, so the lesser of the two is the right one.
  const __m256i rest = _mm256_min_epu32(signed_rest, _mm256_add_epi32(signed_rest, rows));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + group.first),
                      _mm256_add_epi32(rest, Load(group.offset)));
}

}  // namespace

void NgramHasher::Rep::Xor(const int32_t* at, int32_t seen, uint32_t* out) const {
  uint64_t value = static_cast<uint64_t>(at[0]) * multipliers[0];
  int32_t order = 1;
  __m256d wide{};
  __m256i low{};
  for (const Group& group : groups) {
    while (order < group.order) {
      value ^= static_cast<uint64_t>(Token(at, order, seen)) * multipliers[order];
      ++order;
      wide = _mm256_set1_pd(static_cast<double>(static_cast<int64_t>(value)));
      low = _mm256_set1_epi32(static_cast<int32_t>(value));
    }
    StoreRemainders(group, wide, wide, low, out);
  }
}

void NgramHasher::Rep::Polynomial(const int32_t* at, int32_t seen, uint32_t* out) const {
  const Weights* weight = weights.data();
  for (const Group& group : groups) {
    __m256d wide0 = _mm256_set1_pd(at[0]);
    __m256d wide1 = wide0;
    __m256i low = _mm256_set1_epi32(at[0]);
    for (int32_t d = 1; d < max_ngram_size; ++d, ++weight) {
      const int32_t token = Token(at, d, seen);
      const __m256d wide_token = _mm256_set1_pd(token);
      // Exact: IsFast has seen to it that no sum reaches 2^53.
      wide0 = _mm256_fmadd_pd(wide_token, _mm256_load_pd(weight->wide.data()), wide0);
      wide1 = _mm256_fmadd_pd(wide_token, _mm256_load_pd(weight->wide.data() + 4), wide1);
      low = _mm256_add_epi32(low, _mm256_mullo_epi32(_mm256_set1_epi32(token), Load(weight->low)));
    }
    StoreRemainders(group, wide0, wide1, low, out);
  }
}

// By the letter of the header. `position` is an index into tokens.ids.
NgramHasher::Rep::Window NgramHasher::Rep::PlainWindow(const TokenSpan& tokens,
                                                       size_t position) const {
  Window window;
  bool blocked = false;
  for (int32_t back = 0; back < max_ngram_size; ++back) {
    const bool outside = static_cast<size_t>(back) > position;
    const int32_t found = outside ? NgramHasher::kDeadPosition : tokens.ids[position - back];
    blocked = blocked || outside || found == NgramHasher::kDeadPosition ||
              (back > 0 && found == boundary);
    window[back] = static_cast<uint64_t>(blocked ? pad : found);
  }
  return window;
}

uint64_t NgramHasher::Rep::PlainValue(const Window& window, const Column& column) const {
  uint64_t value = 0;
  for (int32_t back = 0; back < column.order; ++back) {
    if (hash == HashKind::kXorMultiply) {
      value ^= window[back] * multipliers[back];
    } else {
      const uint64_t weighted = back == 0 ? window[0] : window[back] * column.weight[back];
      value += sums_fit ? weighted : weighted % column.rows;
    }
  }
  return value;
}

absl::StatusOr<NgramHasher> NgramHasher::Create(const AddressingSpec& addressing,
                                                const LayerSpec& layer) {
  if (addressing.hash == HashKind::kNone) {
    return Bad(layer, "it has no n-gram hash: its rows are addressed by id only");
  }
  ENGRAM_RETURN_IF_ERROR(CheckIds(addressing, layer));
  ENGRAM_RETURN_IF_ERROR(CheckColumns(addressing, layer));
  ENGRAM_RETURN_IF_ERROR(CheckMultipliers(addressing, layer));
  if (addressing.hash == HashKind::kPolynomial && addressing.vocab_size < 1) {
    return Bad(layer, "a polynomial hash needs vocab_size");
  }
  auto rep = std::make_unique<Rep>();
  rep->hash = addressing.hash;
  rep->max_ngram_size = addressing.max_ngram_size;
  rep->hashed_ids = addressing.hashed_ids();
  rep->pad = static_cast<int32_t>(addressing.pad_id);
  rep->boundary = static_cast<int32_t>(addressing.boundary_id);
  std::copy(layer.multipliers.begin(), layer.multipliers.end(), rep->multipliers.begin());
  rep->AddColumns(addressing, layer);
  if (rep->IsFast()) rep->AddGroups(addressing.heads);
  rep->sums_fit = std::all_of(rep->columns.begin(), rep->columns.end(), [&](const Column& column) {
    return rep->LargestSum(column) < 0x1p62;
  });
  return NgramHasher(std::move(rep));
}

NgramHasher::NgramHasher(std::unique_ptr<const Rep> rep) : rep_(std::move(rep)) {}
NgramHasher::NgramHasher(NgramHasher&&) noexcept = default;
NgramHasher& NgramHasher::operator=(NgramHasher&&) noexcept = default;
NgramHasher::~NgramHasher() = default;

size_t NgramHasher::columns() const { return rep_->columns.size(); }
bool NgramHasher::vectorized() const { return !rep_->groups.empty(); }
size_t NgramHasher::lookback() const { return static_cast<size_t>(rep_->max_ngram_size - 1); }

absl::Status NgramHasher::Check(absl::Span<const int32_t> ids) const {
  // One pass without branches; −1 + 1 wraps to 0, as an unsigned number.
  const auto most = static_cast<uint32_t>(rep_->hashed_ids);
  bool good = true;
  for (const int32_t id : ids) good &= static_cast<uint32_t>(id) + 1 <= most;
  if (good) return absl::OkStatus();
  for (size_t i = 0; i < ids.size(); ++i) {
    if (static_cast<uint32_t>(ids[i]) + 1 <= most) continue;
    return absl::InvalidArgumentError(absl::StrCat("token id ", ids[i], " at position ", i,
                                                   " is out of range: ids are 0 to ", most - 1,
                                                   ", or -1 for a dead position"));
  }
  return absl::InternalError("token ids changed while they were checked");
}

void NgramHasher::Hash(const TokenSpan& tokens, absl::Span<RowId> out) const {
  const Rep& rep = *rep_;
  if (rep.groups.empty()) return HashPlain(tokens, out);
  static_assert(sizeof(RowId) == sizeof(uint32_t));
  std::array<uint32_t, (kMaxNgramSize - 1) * kMaxHeads + kLanes> last;
  const size_t columns = rep.columns.size();
  const size_t positions = tokens.positions();
  const int32_t* at = tokens.ids.data() + tokens.lookback;
  auto* to = reinterpret_cast<uint32_t*>(out.data());
  int32_t seen = rep.Start(tokens);
  for (size_t i = 0; i < positions; ++i, ++at, to += columns) {
    if (*at == NgramHasher::kDeadPosition) {
      std::fill_n(to, columns, Raw(RowId::kDeadPosition));
    } else if (out.size() - i * columns >= rep.width) {
      rep.Position(at, seen, to);
    } else {
      rep.Position(at, seen, last.data());
      std::copy_n(last.begin(), columns, to);
    }
    seen = rep.Advance(seen, *at);
  }
}

void NgramHasher::HashPlain(const TokenSpan& tokens, absl::Span<RowId> out) const {
  auto to = out.begin();
  for (size_t position = tokens.lookback; position < tokens.ids.size(); ++position) {
    const bool dead = tokens.ids[position] == NgramHasher::kDeadPosition;
    const Rep::Window window = rep_->PlainWindow(tokens, position);
    uint64_t value = 0;
    int32_t order = 0;
    for (const Column& column : rep_->columns) {
      // The heads of an order share what is XORed.
      if (rep_->hash != HashKind::kXorMultiply || column.order != order) {
        value = rep_->PlainValue(window, column);
        order = column.order;
      }
      const uint64_t row = value % column.rows + column.offset;
      *to++ = dead ? RowId::kDeadPosition : RowId{static_cast<uint32_t>(row)};
    }
  }
}

}  // namespace engram
