#include "storage/nvme/page_files.h"

#include <rocksdb/db.h>
#include <rocksdb/file_system.h>
#include <rocksdb/metadata.h>
#include <rocksdb/options.h>
#include <rocksdb/table_properties.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/rocks_status.h"

namespace engram {
namespace {

absl::StatusOr<PageId> PageOfKey(const std::string& key) {
  PageKey page;
  if (key.size() != page.size()) {
    return absl::DataLossError(absl::StrCat("a key of ", key.size(), " bytes"));
  }
  std::memcpy(page.data(), key.data(), page.size());
  return DecodePageKey(page);
}

// What RocksDB knows of one file: from its own last block, checked there.
absl::StatusOr<std::shared_ptr<const rocksdb::TableProperties>> Properties(
    const PageFiles::Source& source, const rocksdb::SstFileMetaData& file) {
  const rocksdb::Slice first(file.smallestkey);
  const std::string behind = file.largestkey + '\0';
  const rocksdb::Range range(first, behind);
  rocksdb::TablePropertiesCollection found;
  ENGRAM_RETURN_IF_ERROR(FromRocks(
      source.db->GetPropertiesOfTablesInRange(source.family, &range, 1, &found), "its properties"));
  for (auto& [path, properties] : found) {
    if (absl::string_view(path).substr(path.rfind('/')) == file.name) return properties;
  }
  return absl::NotFoundError("RocksDB has no properties of it");
}

// RocksDB refuses a file whose unique id is not the manifest's, such as another version's under
// this one's name, which no look at its blocks tells apart. It compares the two when it opens the
// file for a look-up, and not for its properties. Only this refusal counts here: the pages of a
// file whose index is damaged are good.
absl::Status CheckIdentity(const PageFiles::Source& source, const rocksdb::SstFileMetaData& file) {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = false;
  rocksdb::PinnableSlice value;
  const rocksdb::Status status = source.db->Get(options, source.family, file.smallestkey, &value);
  if (status.IsCorruption() && absl::StrContains(status.ToString(), "unique ID")) {
    return FromRocks(status, "it is another file");
  }
  return absl::OkStatus();
}

// Whether the file's pages lie at multiples of the block size, from its beginning on: it has one
// entry for each page of its key range, each in a block of its own, and all its blocks together
// take what that many blocks take that are no larger than they must be.
absl::Status CheckMake(const rocksdb::TableProperties& properties, const PageFile& file,
                       const PageGeometry& geometry, uint64_t rows) {
  const uint64_t last_value = geometry.ValueBytes(PageId{Raw(file.first) + file.pages - 1}, rows);
  if (last_value == 0) return absl::DataLossError("it holds pages behind the layer's last");
  const uint64_t last_block = BlockBytes(static_cast<uint32_t>(last_value));
  const uint64_t expected = (file.pages - 1) * geometry.block_bytes + last_block;
  if (properties.num_entries == file.pages && properties.num_data_blocks == file.pages &&
      properties.data_size == expected) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      properties.num_entries, " entries in ", properties.num_data_blocks, " blocks of ",
      properties.data_size, " bytes together, instead of ", file.pages, " and ", expected));
}

absl::StatusOr<PageFile> OpenFile(const PageFiles::Source& source,
                                  const rocksdb::SstFileMetaData& metadata,
                                  const PageGeometry& geometry, uint64_t rows) {
  PageFile file;
  file.path = metadata.db_path + metadata.name;
  ENGRAM_ASSIGN_OR_RETURN(file.first, PageOfKey(metadata.smallestkey));
  ENGRAM_ASSIGN_OR_RETURN(const PageId last, PageOfKey(metadata.largestkey));
  if (last < file.first) return absl::DataLossError("its last page comes before its first");
  file.pages = Raw(last) - Raw(file.first) + 1;
  ENGRAM_ASSIGN_OR_RETURN(const auto properties, Properties(source, metadata));
  ENGRAM_RETURN_IF_ERROR(CheckMake(*properties, file, geometry, rows));
  ENGRAM_RETURN_IF_ERROR(CheckIdentity(source, metadata));
  rocksdb::FileOptions options;
  options.use_direct_reads = source.direct_io;
  ENGRAM_RETURN_IF_ERROR(FromRocks(
      source.file_system->NewRandomAccessFile(file.path, options, &file.file, nullptr), "opening"));
  return file;
}

}  // namespace

PageFiles::~PageFiles() = default;

std::shared_ptr<const PageFiles> PageFiles::Open(const Source& source, const PageGeometry& geometry,
                                                 uint64_t rows) {
  std::shared_ptr<PageFiles> result(new PageFiles);
  rocksdb::ColumnFamilyMetaData metadata;
  source.db->GetColumnFamilyMetaData(source.family, &metadata);
  for (const rocksdb::LevelMetaData& level : metadata.levels) {
    for (const rocksdb::SstFileMetaData& one : level.files) {
      absl::StatusOr<PageFile> file = OpenFile(source, one, geometry, rows);
      if (file.ok()) {
        result->files_.push_back(*std::move(file));
        continue;
      }
      ENGRAM_LOG(kWarning) << one.db_path << one.name
                           << " is not read by offset: " << file.status().message()
                           << "; its pages are asked of RocksDB one by one";
    }
  }
  std::vector<PageFile>& files = result->files_;
  std::sort(files.begin(), files.end(),
            [](const PageFile& a, const PageFile& b) { return a.first < b.first; });
  // Ingested files never overlap. Should some, RocksDB knows which one counts.
  for (size_t i = 1; i < files.size(); ++i) {
    if (Raw(files[i - 1].first) + files[i - 1].pages <= Raw(files[i].first)) continue;
    ENGRAM_LOG(kError) << files[i - 1].path << " and " << files[i].path
                       << " hold the same pages; they are asked of RocksDB";
    files.clear();
  }
  return result;
}

const PageFile* PageFiles::Find(PageId page) const {
  const auto after =
      std::upper_bound(files_.begin(), files_.end(), page,
                       [](PageId value, const PageFile& file) { return value < file.first; });
  if (after == files_.begin()) return nullptr;
  const PageFile& file = *std::prev(after);
  return Raw(page) - Raw(file.first) < file.pages ? &file : nullptr;
}

}  // namespace engram
