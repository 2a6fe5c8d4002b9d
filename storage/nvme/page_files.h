// PageFiles: where each page of one column family lies.
//
// The files that the loader writes hold runs of pages, one page a block, and no block before them,
// so page k of a file lies at k × block bytes. RocksDB stays owner and writer of the files; reading
// by offset needs no index and no look-up a page. Each file is asked, when it is opened here,
// whether it is of that make (its properties, and the keys that the manifest has) and whether it is
// the file that the manifest means (its unique id, which RocksDB compares); what is not, or cannot
// be opened, has no entry, and its pages are read through RocksDB. Every page read is checked all
// the same (page_block.h).
//
// Immutable; safe from any thread. Holds the files open: they can be read as long as this lives,
// whatever becomes of their names.
#ifndef ENGRAM_STORAGE_NVME_PAGE_FILES_H_
#define ENGRAM_STORAGE_NVME_PAGE_FILES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "storage/nvme/page.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class FSRandomAccessFile;
class FileSystem;
}  // namespace rocksdb

namespace engram {

struct PageFile {
  PageId first{};
  uint64_t pages = 0;
  std::string path;
  std::unique_ptr<rocksdb::FSRandomAccessFile> file;

  uint64_t Offset(PageId page, const PageGeometry& geometry) const {
    return (Raw(page) - Raw(first)) * geometry.block_bytes;
  }
};

class PageFiles {
 public:
  struct Source {
    rocksdb::DB* db = nullptr;
    rocksdb::ColumnFamilyHandle* family = nullptr;
    rocksdb::FileSystem* file_system = nullptr;
    bool direct_io = false;
  };
  // Opens the files of a family that holds `rows` rows in this geometry. Files that are not as they
  // should be are logged and left out.
  static std::shared_ptr<const PageFiles> Open(const Source& source, const PageGeometry& geometry,
                                               uint64_t rows);
  ~PageFiles();

  // The file that holds the page; null if it is not to be read by offset.
  const PageFile* Find(PageId page) const;

  const std::vector<PageFile>& files() const { return files_; }

 private:
  PageFiles() = default;

  std::vector<PageFile> files_;  // by first page, without overlap
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_PAGE_FILES_H_
