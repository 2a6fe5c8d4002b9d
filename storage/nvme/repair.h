// Repair: rewrites one damaged chunk of a published version and swaps it in, while readers go on.
//
// A chunk is one SST file. The new file is written beside the database, synced, and its rows'
// digest compared with the recorded one; only then the damaged file is taken out of the live column
// family and the new one put in. RocksDB has no call for both at once; a crash between the two
// leaves pages that are missing, never wrong ones, and the next open puts the new file in.
#ifndef ENGRAM_STORAGE_NVME_REPAIR_H_
#define ENGRAM_STORAGE_NVME_REPAIR_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "storage/nvme/bulk_writer.h"
#include "storage/nvme/catalog_record.h"
#include "storage/nvme/store.h"

namespace engram {

// Store::RepairChunk.
absl::Status RepairOneChunk(const StoreParts& parts, const VersionName& version, const Chunk& chunk,
                            RowReader read, const std::atomic<bool>& cancelled,
                            std::atomic<uint64_t>& rows_written);

// Store::CheckChunkFile.
absl::Status CheckOneChunkFile(const StoreParts& parts, const VersionName& version,
                               const Chunk& chunk);

// Finishes what a crash left of a repair of this published version: a whole file in its staging
// folder whose chunk has no live file. What cannot be finished is logged; those rows fail until
// they are repaired. False: such a file is the only copy of its rows, and still needed.
bool FinishRepairs(const StoreParts& parts, const CatalogRecord& record);

// Takes the note of a damaged opening back once every file of the database opens.
void ForgetDamageIfWhole(const StoreParts& parts);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_REPAIR_H_
