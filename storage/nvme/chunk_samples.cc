#include "storage/nvme/chunk_samples.h"

#include <rocksdb/iterator.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/rocks_status.h"

namespace engram {
namespace {

absl::Status Damaged(const std::string& file, const std::string& how) {
  return absl::DataLossError(
      absl::StrCat(file, ", which an earlier attempt wrote, ", how,
                   "; remove that file and repeat the load, which then writes it again"));
}

absl::Status ComparePage(rocksdb::Iterator& pages, const std::string& file, const Chunk& chunk,
                         uint64_t first, uint64_t rows, const PageGeometry& geometry,
                         RowReader read) {
  const PageKey key = EncodePageKey(geometry.PageOf(RowId{static_cast<uint32_t>(first)}));
  pages.Seek(rocksdb::Slice(key.data(), key.size()));
  const rocksdb::Status status = pages.status();
  if (!status.ok()) return Damaged(file, absl::StrCat("cannot be read: ", status.ToString()));
  if (!pages.Valid() || pages.key() != rocksdb::Slice(key.data(), key.size()) ||
      pages.value().size() != rows * geometry.row_bytes) {
    return Damaged(file, absl::StrCat("lacks the page of row ", first));
  }
  std::vector<std::byte> expected(rows * geometry.row_bytes);
  ENGRAM_RETURN_IF_ERROR(read(chunk.layer, first, rows, absl::MakeSpan(expected)));
  if (std::memcmp(pages.value().data(), expected.data(), expected.size()) == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("layer ", Raw(chunk.layer), " rows ", first, " to ", first + rows - 1,
                   " of the checkpoint are not those that an earlier attempt loaded, although its "
                   "files have the same sizes and times: the checkpoint was changed; drop this "
                   "version and load it again"));
}

}  // namespace

absl::Status CompareSamples(const rocksdb::Options& options, const std::string& file,
                            const Chunk& chunk, const PageGeometry& geometry, RowReader read) {
  rocksdb::SstFileReader reader(options);
  if (const rocksdb::Status status = reader.Open(file); !status.ok()) {
    if (status.IsCorruption()) return Damaged(file, absl::StrCat("is: ", status.ToString()));
    return FromRocks(status, "reading " + file);
  }
  const std::unique_ptr<rocksdb::Iterator> pages(reader.NewIterator(rocksdb::ReadOptions()));
  const uint64_t count = geometry.Pages(chunk.rows);
  const uint64_t samples = std::min(count, kSampledPages);
  for (uint64_t i = 0; i < samples; ++i) {
    const uint64_t page = samples == 1 ? 0 : i * (count - 1) / (samples - 1);
    const uint64_t row = page * geometry.rows_per_page;
    const uint64_t rows = std::min<uint64_t>(geometry.rows_per_page, chunk.rows - row);
    ENGRAM_RETURN_IF_ERROR(
        ComparePage(*pages, file, chunk, chunk.first + row, rows, geometry, read));
  }
  return absl::OkStatus();
}

}  // namespace engram
