// How far the catalog had come when it was last settled: the sequence number of RocksDB up to which
// everything has left its log.
//
// A MANIFEST whose record has a damaged length looks to RocksDB like one that ends there, and a
// CURRENT from an older copy like the latest: it would open what was there once, and delete every
// file that came later. This number, in a file of its own, tells that something is missing before
// anything is opened for writing.
//
// Free functions without state; they block on the drive.
#ifndef ENGRAM_STORAGE_NVME_SETTLED_H_
#define ENGRAM_STORAGE_NVME_SETTLED_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace rocksdb {
class FileSystem;
}

namespace engram {

// Durable when it returns; the former number stays until then. Unavailable, ResourceExhausted.
absl::Status WriteSettled(rocksdb::FileSystem& files, const std::string& path, uint64_t sequence);

// Nothing: there is no such file (a directory of an earlier release), or it is damaged, which is
// logged.
std::optional<uint64_t> ReadSettled(const std::string& path);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_SETTLED_H_
