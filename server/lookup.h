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
#ifndef ENGRAM_SERVER_LOOKUP_H_
#define ENGRAM_SERVER_LOOKUP_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/buffer_pool.h"
#include "server/tables.h"
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
    Part(TierStack* stack, std::vector<RowId> ids, std::shared_ptr<std::byte> rows,
         bool want_tiers);

    size_t rows_bytes() const { return ids.size() * stack->spec().row_bytes; }

    TierStack* const stack;
    const std::vector<RowId> ids;
    const std::shared_ptr<std::byte> rows;  // ids.size() × row_bytes
    std::vector<uint8_t> tiers;             // empty unless wanted
    RowBatch batch;
    std::vector<uint32_t> cold;  // positions that DRAM did not have
  };

  // Checks everything before memory is allocated. NotFound: no such table, version or layer.
  // InvalidArgument: an id out of range (its value and position named), a layer named twice, a
  // length that is no multiple of 4, no layers. FailedPrecondition: another table than expected.
  // ResourceExhausted: an answer over the limit, or no memory for it.
  static absl::StatusOr<std::unique_ptr<Lookup>> Start(const Tables& tables, BufferPool& pool,
                                                       const LookupLimits& limits,
                                                       const LookupQuery& query);

  // The tiers in memory, layer by layer; never waits for the drive. True when nothing is missing.
  bool ReadMemory();
  // What is still missing, from the drive or with the prefetch that is fetching it, in the order
  // of layers.
  void ReadStorage();
  // The same for one part, for answers that leave layer by layer.
  void ReadPart(size_t index);

  // Counts the look-up. Under the policy "fail" the first failed row's status, naming its layer
  // and id; else OK.
  absl::Status Finish();

  // Offers rows that came from NVMe to DRAM. Call it after the answer is on its way.
  void Warm();

  // Whether a failed row fails the whole look-up.
  bool fails() const { return fail_on_row_error_; }
  VersionId version() const { return table_->spec().version; }
  const std::vector<std::unique_ptr<Part>>& parts() const { return parts_; }  // ascending by layer
  size_t row_count() const;

 private:
  explicit Lookup(std::shared_ptr<const OpenTable> table, bool fail_on_row_error);

  const std::shared_ptr<const OpenTable> table_;
  const bool fail_on_row_error_;
  const std::chrono::steady_clock::time_point start_;
  std::vector<std::unique_ptr<Part>> parts_;
};

// Parses and checks row ids as above; shared with Prefetch. `ids` may hold kZeroRow.
absl::StatusOr<std::vector<RowId>> ParseRowIds(absl::string_view bytes, const LayerSpec& layer);

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_H_
