// One chunk of rows as one SST file: what a load ingests and what a repair swaps in.
//
// Blocks on the drive; may be called from several threads for different files.
#ifndef ENGRAM_STORAGE_NVME_CHUNK_FILE_H_
#define ENGRAM_STORAGE_NVME_CHUNK_FILE_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/nvme/catalog_record.h"
#include "storage/nvme/page.h"
#include "storage/nvme/store.h"
#include "storage/nvme/store_core.h"

namespace engram {

// Removes a half-written file unless it gets whole.
class FileGuard {
 public:
  FileGuard(rocksdb::FileSystem& files, std::string path) : files_(files), path_(std::move(path)) {}
  ~FileGuard();
  FileGuard(const FileGuard&) = delete;
  FileGuard& operator=(const FileGuard&) = delete;
  void Keep() { path_.clear(); }

 private:
  rocksdb::FileSystem& files_;
  std::string path_;
};

// Where a version's staging folder has the file of a chunk.
std::string ChunkFilePath(const StoreCore& core, absl::string_view version_label,
                          const Chunk& chunk);
// "table NAME version V layer L chunk I", for messages.
std::string ChunkName(const VersionName& version, const Chunk& chunk);
PageId FirstPage(const Chunk& chunk, const PageGeometry& geometry);
PageId LastPage(const Chunk& chunk, const PageGeometry& geometry);

struct WrittenChunk {
  std::string digest;
  uint64_t file_bytes = 0;
};

// Reads the chunk's rows through `read` and writes them to `path`, synced with its folder; `name`
// is for messages. A file that is there is overwritten; one that fails half way is left for the
// caller's FileGuard. `rows_written` and `cancelled` as for BulkWriter::WriteChunk.
absl::StatusOr<WrittenChunk> WriteChunkFile(const StoreCore& core, const std::string& path,
                                            absl::string_view name, const Chunk& chunk,
                                            const PageGeometry& geometry, RowReader read,
                                            const std::atomic<bool>& cancelled,
                                            std::atomic<uint64_t>& rows_written);

// Reads both ends of a chunk's file, which RocksDB takes for granted when it ingests it: it answers
// damage there by abort(). DataLoss, naming the file.
absl::Status CheckChunkFileEnds(const StoreCore& core, const std::string& path);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_CHUNK_FILE_H_
