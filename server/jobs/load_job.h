// Loading a checkpoint into the store: rows out of a RowSource, chunks into a BulkWriter, several
// at once, then publication.
//
// RunLoad blocks until the load is done, fails or is cancelled. A load that stops half way leaves
// its finished chunks, and the same call takes it up again.
#ifndef ENGRAM_SERVER_JOBS_LOAD_JOB_H_
#define ENGRAM_SERVER_JOBS_LOAD_JOB_H_

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tables/tables.h"
#include "storage/checkpoint/row_source.h"
#include "storage/nvme/store.h"

namespace engram {

struct LoadParameters {
  std::string table;
  std::string checkpoint;  // absolute directory
  std::string model = "auto";
  std::vector<std::string> tensors;
  std::string profile = {};  // absolute path, or empty; it is only checked here
  VersionId version{0};      // 0: the unfinished one of this checkpoint, or the next free one
  bool allow_unverified = false;
  int threads = 2;
  bool io_uring = true;  // read ahead through it, where it is not refused
};

// What a load, or a repair, is doing.
enum class LoadPhase {
  kRead,     // rows out of the checkpoint, into chunks
  kPublish,  // syncs, checks, and the catalog write that makes the version visible
  kVerify,   // a repair reads chunks back
  kRepair,   // and rewrites damaged ones
};

struct LoadStatus {
  uint64_t rows_done = 0;
  uint64_t rows_total = 0;
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t rows_resumed = 0;
  LoadPhase phase = LoadPhase::kRead;
};

struct LoadResult {
  TableRecord record;
  LoadStatus status;
  bool already_loaded = false;
};

// A checkpoint that is loaded already is compared in a few rows of each layer: FailedPrecondition
// if they differ. A profile is checked before anything is loaded: errors of CheckProfileFile.
//
// `progress` is called now and then from this thread; returning false cancels the load, as does
// `cancelled`. Errors: those of OpenCheckpoint, Store::BeginLoad and BulkWriter; Cancelled.
absl::StatusOr<LoadResult> RunLoad(Tables& tables, const LoadParameters& parameters,
                                   const std::atomic<bool>& cancelled,
                                   const std::function<bool(const LoadStatus&)>& progress);

// The same from a source that is open already, whatever stands behind it; `parameters` says the
// name, the version and the threads.
absl::StatusOr<LoadResult> RunLoadFrom(const RowSource& source, Tables& tables,
                                       const LoadParameters& parameters,
                                       const std::atomic<bool>& cancelled,
                                       const std::function<bool(const LoadStatus&)>& progress);

}  // namespace engram

#endif  // ENGRAM_SERVER_JOBS_LOAD_JOB_H_
