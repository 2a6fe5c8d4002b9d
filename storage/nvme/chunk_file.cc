#include "storage/nvme/chunk_file.h"

#include <rocksdb/file_system.h>
#include <rocksdb/iterator.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/sst_file_writer.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/directory.h"
#include "storage/nvme/rocks_status.h"
#include "storage/nvme/uring_writable_file.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

// Rows are taken in, digested and put into pages in pieces that stay in a core's cache meanwhile.
constexpr uint64_t kReadBlockBytes = uint64_t{256} << 10;
// Of an SST file beside its blocks: an index entry a page (21.5 bytes), properties and footer.
constexpr uint64_t kIndexBytesPerPage = 24;
constexpr uint64_t kFooterBytes = uint64_t{64} << 10;

rocksdb::EnvOptions WriteOptions(const StoreCore& core) {
  rocksdb::EnvOptions options(core.options());
  options.use_direct_writes = core.direct_io();
  // A UringWritableFile gathers by itself: with a buffer smaller than a page RocksDB passes the
  // page straight on, and only what lies between two pages takes the way through the buffer.
  if (core.direct_io() && core.ring_io()) options.writable_file_max_buffer_size = 512;
  return options;
}

absl::Status WriteRows(const StoreCore& core, absl::string_view name, const Chunk& chunk,
                       const PageGeometry& geometry, RowReader read,
                       const std::atomic<bool>& cancelled, std::atomic<uint64_t>& rows_written,
                       rocksdb::SstFileWriter& file, Digest& digest) {
  const uint64_t page_bytes = uint64_t{geometry.rows_per_page} * geometry.row_bytes;
  const uint64_t block_rows =
      std::max<uint64_t>(1, kReadBlockBytes / page_bytes) * geometry.rows_per_page;
  std::vector<std::byte> buffer(std::min(block_rows, chunk.rows) * geometry.row_bytes);
  for (uint64_t done = 0; done < chunk.rows;) {
    if (cancelled.load(std::memory_order_relaxed)) {
      return absl::CancelledError(absl::StrCat("load of ", name, " was cancelled"));
    }
    ENGRAM_RETURN_IF_ERROR(core.CheckRoom(absl::StrCat("writing ", name)));
    const uint64_t rows = std::min(block_rows, chunk.rows - done);
    const absl::Span<std::byte> block(buffer.data(), rows * geometry.row_bytes);
    ENGRAM_RETURN_IF_ERROR(read(chunk.layer, chunk.first + done, rows, block));
    digest.Update(block);
    for (uint64_t row = 0; row < rows; row += geometry.rows_per_page) {
      const uint64_t page_rows = std::min<uint64_t>(geometry.rows_per_page, rows - row);
      const PageKey key =
          EncodePageKey(PageId{(chunk.first + done + row) / geometry.rows_per_page});
      const rocksdb::Slice value(
          reinterpret_cast<const char*>(block.data() + row * geometry.row_bytes),
          page_rows * geometry.row_bytes);
      const rocksdb::Status status = file.Put(rocksdb::Slice(key.data(), key.size()), value);
      if (!status.ok()) return FromRocks(status, absl::StrCat("writing ", name));
    }
    done += rows;
    rows_written.fetch_add(rows, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> FinishFile(const StoreCore& core, absl::string_view name,
                                    const Chunk& chunk, const PageGeometry& geometry,
                                    rocksdb::SstFileWriter& file) {
  rocksdb::ExternalSstFileInfo info;
  const rocksdb::Status status = file.Finish(&info);  // syncs the file
  if (!status.ok()) return FromRocks(status, absl::StrCat("finishing ", name));
  const uint64_t pages = geometry.Pages(chunk.rows);
  const PageKey first = EncodePageKey(FirstPage(chunk, geometry));
  if (info.num_entries != pages || info.smallest_key != std::string(first.data(), first.size())) {
    return absl::DataLossError(absl::StrCat(name, ": ", info.file_path, " holds ", info.num_entries,
                                            " pages instead of ", pages, "; load it again"));
  }
  ENGRAM_RETURN_IF_ERROR(
      SyncDirectory(core.files(), fs::path(info.file_path).parent_path().string()));
  return info.file_size;
}

}  // namespace

FileGuard::~FileGuard() {
  if (path_.empty()) return;
  // What is left is overwritten by the next attempt.
  files_.DeleteFile(path_, rocksdb::IOOptions(), nullptr).PermitUncheckedError();
}

std::string ChunkFilePath(const StoreCore& core, absl::string_view version_label,
                          const Chunk& chunk) {
  return absl::StrFormat("%s/%d-%06d.sst", core.StagingDirectory(version_label), Raw(chunk.layer),
                         chunk.index);
}

std::string ChunkName(const VersionName& version, const Chunk& chunk) {
  return absl::StrCat("table ", version.name, " version ", Raw(version.version), " layer ",
                      Raw(chunk.layer), " chunk ", chunk.index);
}

PageId FirstPage(const Chunk& chunk, const PageGeometry& geometry) {
  return geometry.PageOf(RowId{static_cast<uint32_t>(chunk.first)});
}

PageId LastPage(const Chunk& chunk, const PageGeometry& geometry) {
  return geometry.PageOf(RowId{static_cast<uint32_t>(chunk.first + chunk.rows - 1)});
}

absl::StatusOr<WrittenChunk> WriteChunkFile(const StoreCore& core, const std::string& path,
                                            absl::string_view name, const Chunk& chunk,
                                            const PageGeometry& geometry, RowReader read,
                                            const std::atomic<bool>& cancelled,
                                            std::atomic<uint64_t>& rows_written) {
  rocksdb::SstFileWriter file(WriteOptions(core), core.options());
  {
    const ExpectedFileBytes expected(
        geometry.Pages(chunk.rows) * (geometry.block_bytes + kIndexBytesPerPage) + kFooterBytes);
    ENGRAM_RETURN_IF_ERROR(FromRocks(file.Open(path), "making " + path));
  }
  Digest digest;
  ENGRAM_RETURN_IF_ERROR(
      WriteRows(core, name, chunk, geometry, read, cancelled, rows_written, file, digest));
  WrittenChunk written;
  ENGRAM_ASSIGN_OR_RETURN(written.file_bytes, FinishFile(core, name, chunk, geometry, file));
  written.digest = digest.Hex();
  return written;
}

absl::Status CheckChunkFileEnds(const StoreCore& core, const std::string& path) {
  rocksdb::SstFileReader file(core.options());
  rocksdb::Status status = file.Open(path);
  bool empty = false;
  if (status.ok()) {
    const std::unique_ptr<rocksdb::Iterator> it(file.NewIterator(rocksdb::ReadOptions()));
    it->SeekToFirst();
    empty = !it->Valid();
    if (!empty) it->SeekToLast();
    empty = empty || !it->Valid();
    status = it->status();
  }
  if (status.ok() && !empty) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, " is damaged: ", status.ok() ? "no page can be read" : status.ToString()));
}

}  // namespace engram
