// What tests may change inside a Store. Not for anybody else.
#ifndef ENGRAM_STORAGE_NVME_STORE_INTERNAL_H_
#define ENGRAM_STORAGE_NVME_STORE_INTERNAL_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "storage/nvme/store.h"

namespace rocksdb {
class FileSystem;
}

namespace engram {

struct StoreInternals {
  // Puts a file system of the test's own over the one that the Store would use.
  std::function<std::shared_ptr<rocksdb::FileSystem>(std::shared_ptr<rocksdb::FileSystem>)> wrap;

  // About an eighth of a layer goes into one chunk, within these bounds.
  uint64_t min_chunk_bytes = uint64_t{16} << 20;
  uint64_t max_chunk_bytes = uint64_t{512} << 20;

  // Nothing that needs room is begun with less than this left; half of it is kept in a file of its
  // own, so that something can be dropped even then.
  uint64_t headroom_bytes = uint64_t{64} << 20;

  // Called between the steps of a publication or a drop, with a word for the step just done; on
  // the calling thread. Copying the data directory there gives what a crash would leave.
  std::function<void(const char* step)> on_step;
  void Step(const char* step) const {
    if (on_step) on_step(step);
  }
};

absl::StatusOr<std::unique_ptr<Store>> OpenStore(const StoreOptions& options,
                                                 const StoreInternals& internals);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_STORE_INTERNAL_H_
