// Folders and files of the data directory, changed through the file system under RocksDB: so
// whatever a test puts there sees, fails or undoes these steps as it does RocksDB's own.
//
// Free functions without state. All block on the drive. Errors: ResourceExhausted (no space left),
// FailedPrecondition where it is said, Unavailable (any other I/O error).
#ifndef ENGRAM_STORAGE_NVME_DIRECTORY_H_
#define ENGRAM_STORAGE_NVME_DIRECTORY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace rocksdb {
class FileSystem;
}

namespace engram {

// Makes `path` and its parents, each for its owner and group only, and what is new durable.
// FailedPrecondition: there is something of that name that is no directory.
absl::Status MakeDirectory(rocksdb::FileSystem& files, const std::string& path);

// Makes what has been made, renamed and removed in `path` durable.
absl::Status SyncDirectory(rocksdb::FileSystem& files, const std::string& path);

// Removes a directory with all that is in it; fine if there is none. Not durable yet: its parent
// has to be synced.
absl::Status RemoveDirectory(rocksdb::FileSystem& files, const std::string& path);

// Makes a file of `bytes` bytes that take up room. Whatever fails, no file is left.
absl::Status Reserve(rocksdb::FileSystem& files, const std::string& name, uint64_t bytes);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_DIRECTORY_H_
