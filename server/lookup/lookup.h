// Lookup: one request for rows of any number of layers, from its ids to its packed rows. Knows
// nothing of the wire.
//
// One thread at a time owns a Lookup; it moves from the thread that parsed it to one that may
// block, if it has to. It allocates per layer, never per row.
//
//   ENGRAM_ASSIGN_OR_RETURN(auto lookup, Lookup::Start(tables, pool, limits, query));
//   if (!lookup->ReadMemory()) lookup->ReadStorage();   // the second blocks on the drive
//   ENGRAM_RETURN_IF_ERROR(lookup->Finish());
//   … answer with lookup->parts() …
//   lookup->Warm();                                     // offers what came from NVMe to DRAM
//
// A large one is done in pieces instead, several of which may run at the same time (LookupJob):
// BeginGather, GatherPiece …, EndGather; BeginRead, ReadPiece …, EndRead; Finish.
#ifndef ENGRAM_SERVER_LOOKUP_LOOKUP_H_
#define ENGRAM_SERVER_LOOKUP_LOOKUP_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/lookup/buffer_pool.h"
#include "server/lookup/token_rows.h"
#include "server/tables/tables.h"
#include "storage/base/mutex.h"
#include "storage/nvme/store.h"
#include "storage/table/row_batch.h"

namespace engram {

struct LayerQuery {
  LayerId layer{};
  absl::string_view row_ids;  // 4 bytes each, little-endian; borrowed during Start only
};

struct LookupQuery {
  absl::string_view table = {};  // borrowed during Start only
  VersionId version = kActiveVersion;
  std::vector<LayerQuery> layers = {};
  std::optional<TokenQuery> tokens = {};  // instead of layers
  bool fail_on_row_error = true;
  bool want_tiers = false;
  absl::string_view expect_table_digest = {};
};

struct LookupLimits {
  uint64_t max_answer_bytes = uint64_t{512} << 20;
};

class Lookup {
 public:
  struct Part {
    Part(LayerRowIds rows_asked, std::shared_ptr<std::byte> rows, bool want_tiers);

    size_t rows_bytes() const { return ids.size() * stack->spec().row_bytes; }

    TierStack* const stack;
    const std::vector<RowId> ids;
    const std::shared_ptr<std::byte> rows;  // ids.size() × row_bytes
    std::vector<uint8_t> tiers;             // empty unless wanted
    RowBatch batch;
    std::vector<uint32_t> cold;  // that DRAM did not have; by tokens each row once
  };

  // Checks everything before memory is allocated. NotFound: no such table, version or layer.
  // InvalidArgument: an id out of range (its value and position named), a layer named twice, a
  // length that is no multiple of 4, no layers, both layers and tokens. FailedPrecondition: another
  // table than expected. ResourceExhausted: an answer over the limit, or no memory for it. With
  // tokens also as RowsOfTokens.
  static absl::StatusOr<std::unique_ptr<Lookup>> Start(const Tables& tables, BufferPool& pool,
                                                       const LookupLimits& limits,
                                                       const LookupQuery& query);

  // The tiers in memory, layer by layer; never waits for the drive. True when nothing is missing.
  bool ReadMemory();
  // Rows that ReadMemory has left for the drive.
  size_t cold_rows() const;
  // What is still missing, from the drive or with the prefetch that is fetching it, all layers at
  // once.
  void ReadStorage(ReadPriority priority = ReadPriority::kUrgent);

  // ReadMemory in pieces. Of a request by tokens, call SetRepeatsAside first. BeginGather returns
  // the number of rows, of which the pieces are ranges; EndGather, after all of them, whether
  // nothing is missing.
  bool NeedsRepeatsAside() const { return by_tokens_; }
  void SetRepeatsAside();
  uint64_t BeginGather();
  void GatherPiece(uint64_t first, uint64_t rows);
  bool EndGather();

  // ReadStorage in pieces: ranges of the cold rows, in the order of layers, and within a layer as
  // they lie on the drive. `offer`: to DRAM, at once. A part is whole once it has nothing missing.
  uint64_t BeginRead();
  void ReadPiece(uint64_t first, uint64_t rows, ReadPriority priority, bool offer);
  bool IsWhole(size_t part) const;
  // After the last piece, whether all were read or not.
  void EndRead();

  // Counts a look-up that ends without an answer, instead of Finish.
  void Abandon();
  // Counts the look-up. Under the policy "fail" the first failed row's status, naming its layer
  // and id; else OK.
  absl::Status Finish();

  // Offers rows that came from NVMe to DRAM; of a part that was not read to its end, none. Call it
  // after the answer is on its way.
  void Warm();
  // Whether Warm has anything to do.
  bool CanWarm() const;

  // Whether a failed row fails the whole look-up.
  bool fails() const { return fail_on_row_error_; }
  VersionId version() const { return table_->spec().version; }
  const std::vector<std::unique_ptr<Part>>& parts() const { return parts_; }  // ascending by layer
  size_t row_count() const;

 private:
  // Positions of one part, which pieces are ranges of.
  struct Plan {
    std::vector<uint32_t> positions;
    uint64_t first = 0;                               // of these, counted over all parts
    uint64_t left = 0;                                // not read yet
    std::vector<std::pair<uint32_t, uint32_t>> read;  // ranges [begin, end) of positions
  };

  Lookup(std::shared_ptr<const OpenTable> table, const LookupQuery& query);
  uint64_t NumberPlans() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The part of a piece in each layer.
  struct Slice {
    size_t part = 0;
    uint32_t begin = 0;
    uint32_t end = 0;
    RowBatch batch;
  };
  std::vector<Slice> SlicesOf(uint64_t first, uint64_t rows);
  // That have been read.
  static bool HasColdRows(const Part& part);

  const std::shared_ptr<const OpenTable> table_;
  const bool fail_on_row_error_;
  const bool by_tokens_;
  const std::chrono::steady_clock::time_point start_;
  std::vector<std::unique_ptr<Part>> parts_;
  mutable Mutex mutex_;                              // of what the pieces write together
  std::vector<Plan> plans_ ABSL_GUARDED_BY(mutex_);  // of each part; positions: see SlicesOf
};

// What a request's rows are for. A prefetch has no answer: it may name any number of ids, a layer
// several times, or nothing at all.
enum class RowsFor { kAnswer, kPrefetch };

// Which rows of which layers a request asks for, checked; ascending by layer. What Lookup::Start
// and a prefetch have in common; errors as Lookup::Start. `table` is the one that the query names.
absl::StatusOr<std::vector<LayerRowIds>> PlanRows(const OpenTable& table,
                                                  const LookupLimits& limits,
                                                  const LookupQuery& query, RowsFor purpose);

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_LOOKUP_H_
