// The one place where RocksDB's statuses become ours.
//
// Corruption is DataLoss, no space left ResourceExhausted, a lock FailedPrecondition, NotFound
// NotFound, any other I/O error Unavailable, the rest Internal. RocksDB's text, which names file
// and offset, is kept; `what` says what was being done to which table.
#ifndef ENGRAM_STORAGE_NVME_ROCKS_STATUS_H_
#define ENGRAM_STORAGE_NVME_ROCKS_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace rocksdb {
class Status;
}

namespace engram {

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what);

// The same for a failed system call: ENOSPC and EDQUOT are ResourceExhausted, ENOENT NotFound, the
// rest Unavailable.
absl::Status FromErrno(int error, absl::string_view what);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_ROCKS_STATUS_H_
