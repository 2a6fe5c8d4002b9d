#include "server/jobs/load_job.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/placement/profile_import.h"
#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/row_source.h"

namespace engram {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{100};
// Of each layer, where the table is loaded already.
constexpr uint64_t kComparedRows = 256;

struct Plan {
  VersionId version{};
  bool already_loaded = false;
  TableRecord record;  // when already loaded
};

// Whether a version is, or becomes, what this load would make: of the same checkpoint, described
// alike. An earlier release described the same rows without their hash.
bool SameTable(const TableSpec& stored, TableSpec wanted) {
  wanted.name = stored.name;
  wanted.version = stored.version;
  return stored == wanted;
}

// Which version a load writes: the asked one; else one of this checkpoint, whole or half; else the
// next free number.
absl::StatusOr<Plan> PlanVersion(const Store& store, const LoadParameters& parameters,
                                 const TableSpec& wanted) {
  const std::string& digest = wanted.checkpoint_digest;
  Plan plan{.version = VersionId{1}, .already_loaded = false, .record = {}};
  for (const TableRecord& record : store.List()) {
    if (record.spec.name != parameters.table) continue;
    const bool same = SameTable(record.spec, wanted);
    const bool asked = parameters.version == record.spec.version;
    if (record.state == TableState::kPublished && same &&
        (asked || parameters.version == kActiveVersion)) {
      return Plan{record.spec.version, true, record};
    }
    if (asked && record.state == TableState::kPublished) {
      return absl::AlreadyExistsError(absl::StrCat(
          "table '", parameters.table, "' version ", Raw(record.spec.version),
          record.spec.checkpoint_digest == digest
              ? " holds this checkpoint, described in another way"
              : absl::StrCat(" holds another checkpoint (digest ", record.spec.checkpoint_digest,
                             ", this one has ", digest, ")"),
          ": drop it or load as another version"));
    }
    if (record.state == TableState::kLoading && parameters.version == kActiveVersion) {
      if (same) return Plan{record.spec.version, false, {}};
      if (record.spec.checkpoint_digest != digest) {
        ENGRAM_LOG(kWarning)
            << "table '" << parameters.table << "' version " << Raw(record.spec.version)
            << " is half loaded from another checkpoint, or from this one before it "
               "was changed (digest "
            << record.spec.checkpoint_digest << ", now " << digest
            << "); it is left as it is, drop it to free its space";
      }
    }
    plan.version = VersionId{std::max(Raw(plan.version), Raw(record.spec.version) + 1)};
  }
  if (parameters.version != kActiveVersion) plan.version = parameters.version;
  return plan;
}

// The checkpoint's digest does not cover its rows, so files that were replaced under the same
// names, sizes and times, as images and some copying tools do, would pass for those that were
// loaded. They differ nearly everywhere, and a few rows tell. Rows that cannot be read here are
// `verify`'s.
absl::Status CompareWithLoaded(const RowSource& source, const OpenTable& table) {
  for (const std::unique_ptr<TierStack>& stack : table.layers) {
    const LayerSpec& layer = stack->spec();
    std::vector<RowId> ids;
    const uint64_t count = std::min(kComparedRows, layer.rows);
    for (uint64_t i = 0; i < count; ++i) ids.push_back(RowId(i * layer.rows / count));
    std::vector<std::byte> loaded(count * layer.row_bytes);
    RowBatch batch(ids, layer.row_bytes, absl::MakeSpan(loaded));
    stack->ReadStorage(batch);
    std::vector<bool> unread(count);
    for (const RowFailure& failure : batch.failures()) unread[failure.position] = true;
    std::vector<std::byte> row(layer.row_bytes);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (unread[i]) continue;
      ENGRAM_RETURN_IF_ERROR(source.ReadRows(layer.id, Raw(ids[i]), 1, absl::MakeSpan(row)));
      if (std::equal(row.begin(), row.end(), batch.row(static_cast<uint32_t>(i)))) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "table '", table.spec().name, "' version ", Raw(table.spec().version),
          " was loaded from files of these names, sizes and times, but row ", Raw(ids[i]),
          " of layer ", Raw(layer.id),
          " is another one there: the checkpoint was replaced; touch its files to load it as a new "
          "version"));
    }
  }
  return absl::OkStatus();
}

// A version that cannot be opened is not compared; `list` and the log say what is wrong with it.
absl::Status CompareIfOpen(const RowSource& source, const Tables& tables,
                           const TableRecord& record) {
  const auto loaded = tables.Find(record.spec.name, record.spec.version);
  return loaded.ok() ? CompareWithLoaded(source, **loaded) : absl::OkStatus();
}

// Layers' rows differ in size: bytes are reported in proportion.
void SetRowsDone(LoadStatus& status, uint64_t rows) {
  const double row_bytes =
      static_cast<double>(status.bytes_total) / static_cast<double>(status.rows_total);
  status.rows_done = rows;
  status.bytes_done = rows == status.rows_total
                          ? status.bytes_total
                          : static_cast<uint64_t>(row_bytes * static_cast<double>(rows));
}

// The chunks of one load, worked off by several threads; the first error stops all of them.
class ChunkWork {
 public:
  ChunkWork(const RowSource& source, BulkWriter& writer, bool io_uring)
      : source_(source), writer_(writer), io_uring_(io_uring), todo_(writer.todo()) {}

  void Run() {
    while (true) {
      Chunk chunk;
      {
        MutexLock lock(mutex_);
        if (next_ == todo_.size() || stop_.load()) break;
        chunk = todo_[next_++];
      }
      const absl::Status status = Write(chunk);
      if (status.ok()) continue;
      MutexLock lock(mutex_);
      if (status_.ok()) status_ = status;
      stop_ = true;
    }
    MutexLock lock(mutex_);
    ++finished_;
    done_.NotifyAll();
  }

  void Stop() { stop_ = true; }
  // False while threads are at work; waits a little for them.
  bool Finished(size_t threads) {
    MutexLock lock(mutex_);
    if (finished_ < threads) done_.WaitFor(mutex_, kProgressInterval);
    return finished_ == threads;
  }
  absl::Status status() {
    MutexLock lock(mutex_);
    return status_;
  }
  uint64_t rows_written() const { return rows_written_.load(std::memory_order_relaxed); }

 private:
  absl::Status Write(const Chunk& chunk) {
    ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<RowStream> stream,
                            source_.Stream(chunk.layer, chunk.first, chunk.rows, io_uring_));
    return writer_.WriteChunk(
        chunk,
        [&](LayerId, uint64_t first, uint64_t rows, absl::Span<std::byte> out) {
          ENGRAM_RETURN_IF_ERROR(stream->Read(first, rows, out));
          // Asked before the chunk is recorded as whole: a later attempt would not read it again,
          // even if the checkpoint is put back by then as it was.
          const bool last = first + rows == chunk.first + chunk.rows;
          return last ? source_.CheckUnchanged() : absl::OkStatus();
        },
        stop_, rows_written_);
  }

  const RowSource& source_;
  BulkWriter& writer_;
  const bool io_uring_;
  const std::vector<Chunk> todo_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> rows_written_{0};
  Mutex mutex_;
  CondVar done_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

absl::Status WriteChunks(const RowSource& source, BulkWriter& writer,
                         const LoadParameters& parameters, const std::atomic<bool>& cancelled,
                         const std::function<bool(uint64_t rows_written)>& progress) {
  ChunkWork work(source, writer, parameters.io_uring);
  const size_t wanted = std::max<size_t>(1, parameters.threads);
  std::vector<std::thread> workers;
  workers.reserve(wanted);
  // As many as the system allows.
  try {
    while (workers.size() < wanted) workers.emplace_back([&work] { work.Run(); });
  } catch (const std::system_error& error) {
    if (workers.empty()) {
      return absl::ResourceExhaustedError(absl::StrCat("no thread can be made: ", error.what()));
    }
  }
  const size_t threads = workers.size();
  bool stopped = false;
  while (!work.Finished(threads)) {
    if (!progress(work.rows_written()) || cancelled.load()) {
      stopped = true;
      work.Stop();
    }
  }
  for (std::thread& worker : workers) worker.join();
  progress(work.rows_written());
  if (stopped) {
    return absl::CancelledError("the load was stopped; the same command takes it up again");
  }
  return work.status();
}

}  // namespace

absl::StatusOr<LoadResult> RunLoad(Tables& tables, const LoadParameters& parameters,
                                   const std::atomic<bool>& cancelled,
                                   const std::function<bool(const LoadStatus&)>& progress) {
  ENGRAM_RETURN_IF_ERROR(CheckTableName(parameters.table));
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<RowSource> source,
                          OpenCheckpoint({.directory = parameters.checkpoint,
                                          .model = parameters.model,
                                          .tensors = parameters.tensors,
                                          .allow_unverified = parameters.allow_unverified}));
  return RunLoadFrom(*source, tables, parameters, cancelled, progress);
}

absl::StatusOr<LoadResult> RunLoadFrom(const RowSource& source, Tables& tables,
                                       const LoadParameters& parameters,
                                       const std::atomic<bool>& cancelled,
                                       const std::function<bool(const LoadStatus&)>& progress) {
  ENGRAM_RETURN_IF_ERROR(CheckTableName(parameters.table));
  TableSpec spec = source.spec();
  spec.name = parameters.table;
  if (!parameters.profile.empty()) {
    ENGRAM_RETURN_IF_ERROR(CheckProfileFile(parameters.profile, spec));
  }
  LoadResult result;
  LoadStatus& status = result.status;
  status.rows_total = spec.rows();
  status.bytes_total = spec.bytes();

  Store& store = *tables.store();
  ENGRAM_ASSIGN_OR_RETURN(Plan plan, PlanVersion(store, parameters, spec));
  if (plan.already_loaded) {
    ENGRAM_RETURN_IF_ERROR(CompareIfOpen(source, tables, plan.record));
    result.already_loaded = true;
    result.record = std::move(plan.record);
    status.rows_done = status.rows_total;
    status.bytes_done = status.bytes_total;
    return result;
  }
  spec.version = plan.version;
  // Two loads that chose the same version meet here: the second is refused.
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<BulkWriter> writer,
                          store.BeginLoad(spec, source.token_map()));
  status.rows_resumed = writer->rows_done();
  ENGRAM_LOG(kInfo) << "loading table '" << spec.name << "' version " << Raw(spec.version)
                    << " from " << parameters.checkpoint << ": " << status.rows_total << " rows, "
                    << status.rows_resumed << " of them already here; checkpoint read by "
                    << source.HowRead(parameters.io_uring);
  ENGRAM_RETURN_IF_ERROR(writer->CheckResumed(
      [&source](LayerId layer, uint64_t first, uint64_t rows, absl::Span<std::byte> out) {
        return source.ReadRows(layer, first, rows, out);
      }));
  ENGRAM_RETURN_IF_ERROR(
      WriteChunks(source, *writer, parameters, cancelled, [&](uint64_t rows_written) {
        SetRowsDone(status, status.rows_resumed + rows_written);
        return progress(status);
      }));
  // A file that was written to meanwhile has been read partly old, partly new.
  ENGRAM_RETURN_IF_ERROR(source.CheckUnchanged());
  status.phase = LoadPhase::kPublish;
  progress(status);
  ENGRAM_ASSIGN_OR_RETURN(result.record, writer->Publish());
  writer.reset();
  ENGRAM_RETURN_IF_ERROR(tables.Add(result.record));
  ENGRAM_LOG(kInfo) << "table '" << spec.name << "' version " << Raw(spec.version)
                    << " is published" << (result.record.active ? " and active" : "");
  return result;
}

}  // namespace engram
