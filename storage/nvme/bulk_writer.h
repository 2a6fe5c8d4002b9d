// The loader: rows in, SST files in a staging folder, one ingestion of all of them, one catalog
// write. FORMAT.md has the state machine and what each crash leaves behind.
#ifndef ENGRAM_STORAGE_NVME_BULK_WRITER_H_
#define ENGRAM_STORAGE_NVME_BULK_WRITER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/base/mutex.h"
#include "storage/nvme/catalog.h"
#include "storage/nvme/page.h"
#include "storage/nvme/store.h"
#include "storage/nvme/store_core.h"

namespace engram {

// The column families of all versions, by FamilyName.
class Families {
 public:
  explicit Families(FamilyMap families) : families_(std::move(families)) {}

  std::vector<std::string> Names() const;
  std::shared_ptr<ColumnFamily> Find(const std::string& name) const;  // null if there is none
  void Add(const std::string& name, std::shared_ptr<ColumnFamily> family);
  // Drops it and lets go of it; fine if there is none.
  absl::Status Drop(const std::string& name);
  // Every family of a version.
  absl::Status DropAll(const VersionName& version);

 private:
  mutable Mutex mutex_;
  FamilyMap families_ ABSL_GUARDED_BY(mutex_);
};

struct StoreParts {
  std::shared_ptr<StoreCore> core;
  std::shared_ptr<Catalog> catalog;
  std::shared_ptr<Families> families;
};

// The chunks of a version: per layer runs of whole pages, about an eighth of the layer each,
// within [min_bytes, max_bytes].
std::vector<Chunk> PlanChunks(const TableSpec& spec, const std::vector<PageGeometry>& geometry,
                              uint64_t min_bytes, uint64_t max_bytes);

// Store::BeginLoad.
absl::StatusOr<std::unique_ptr<BulkWriter>> BeginBulkLoad(const StoreParts& parts,
                                                          const TableSpec& spec,
                                                          const TokenMap* token_map);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_BULK_WRITER_H_
