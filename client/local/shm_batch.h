// One look-up over shared memory: what DRAM holds is copied at once, the rest becomes a request
// for the daemon, whose answer is then laid where it belongs.
//
//   ShmBatch batch;
//   if (!batch.Gather(*table, request, hasher, phase)) … all of it over gRPC
//   if (batch.complete()) return batch.answer();
//   … ask for batch.rest(), then batch.Add(answer); return batch.answer();
//
// One thread at a time owns a batch. It borrows the caller's buffers, as the request does.
#ifndef ENGRAM_CLIENT_LOCAL_SHM_BATCH_H_
#define ENGRAM_CLIENT_LOCAL_SHM_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "client/client.h"
#include "client/local/shm_tables.h"
#include "client/row_hasher.h"

namespace engram {

// Whether the daemon refused what was asked of it: then the whole request has to be put to it, for
// the reason to fit, or because the version has gone.
bool IsRefusal(const absl::Status& status);

class ShmBatch {
 public:
  // False when the request is not a plain one for these layers (whatever is wrong with it, the
  // daemon says it better), or when the memory changed meanwhile. `hasher` is the table's, for a
  // request by tokens.
  bool Gather(const ShmTable& table, const LookupRequest& request, const RowHasher* hasher,
              uint32_t phase);

  // Whether nothing is missing, or nothing was found: then all of it may as well be asked for.
  bool complete() const { return missing_rows_ == 0; }
  bool empty() const { return hits_ == 0; }
  // The missing rows, by ids, into memory of the batch. Borrows from it.
  const LookupRequest& rest() const { return rest_; }
  // Takes what rest() was answered with. False when it does not fit.
  bool Add(const LookupAnswer& answer);
  LookupAnswer& answer() { return answer_; }

  // The same layer by layer, by their places in answer(): whether anything is missing of it, and
  // what the daemon says of the rest.
  bool layer_complete(size_t index) const { return layers_[index].positions.empty(); }
  // Whether that is so of all layers after it.
  bool complete_behind(size_t index) const;
  bool AddLayer(size_t index, const LayerAnswer& rest);
  // Takes a whole answer to the request instead.
  void Replace(LookupAnswer answer);

 private:
  struct Layer {
    const AttachedLayer* memory = nullptr;  // the table's; only while it gathers
    size_t row_bytes = 0;
    LayerRequest request;
    absl::Span<const uint32_t> ids;
    std::vector<uint32_t> hashed;     // ids' memory, for a request by tokens
    std::vector<uint32_t> positions;  // missing
    std::vector<uint32_t> missing_ids;
    std::vector<std::byte> rows;  // of the missing ones, once they are there
    std::vector<uint8_t> tiers;
  };

  bool Plan(const ShmTable& table, const LookupRequest& request, const RowHasher* hasher);
  void SetTiers(Layer& layer);
  void AskForRest(const ShmTable& table, const LookupRequest& request);

  std::vector<Layer> layers_;  // ascending
  uint64_t hits_ = 0;
  size_t missing_rows_ = 0;
  LookupRequest rest_;
  LookupAnswer answer_;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_LOCAL_SHM_BATCH_H_
