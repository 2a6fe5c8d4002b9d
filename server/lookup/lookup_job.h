// LookupJob: a look-up that is too large, or too cold, for the thread that took it: the pieces in
// which the Dispatcher runs it, from gathering what memory holds to reading the rest.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_LOOKUP_LOOKUP_JOB_H_
#define ENGRAM_SERVER_LOOKUP_LOOKUP_JOB_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "server/lookup/dispatcher.h"
#include "server/lookup/lookup.h"
#include "storage/base/mutex.h"

namespace engram {

class LookupJob final : public Dispatcher::Job, public std::enable_shared_from_this<LookupJob> {
 public:
  struct Caller {
    ClientId client{};
    // None: judged by size. Up to kDecodeRows cold rows are decode work.
    std::optional<Urgency> urgency = {};
    Dispatcher::Deadline deadline = Dispatcher::kNoDeadline;
    // Whether the caller has gone away or given up. From any thread, and takes no time.
    std::function<bool()> is_gone = [] { return false; };
    // As soon as a layer's rows are there, in the order of layers, one call at a time; not after
    // one with a failed row if the look-up fails with it. May be empty.
    std::function<void(size_t part)> on_part = {};
    // Once, last. Cancelled or DeadlineExceeded: the caller is gone, and not all was read.
    std::function<void(absl::Status status)> on_done = {};
  };

  // Those of a few decoded tokens.
  static constexpr uint64_t kDecodeRows = 256;

  // `memory_read`: ReadMemory has been called. False, and the caller is told nothing, when the
  // dispatcher's queue is full; the look-up is counted as failed.
  static bool Submit(Dispatcher& dispatcher, std::shared_ptr<Lookup> lookup, bool memory_read,
                     Caller caller);

  void Run(uint64_t first, uint64_t units) override;
  bool IsGone() const override;
  void Done() override;

 private:
  enum class Stage { kAside, kGather, kRead };

  LookupJob(Dispatcher& dispatcher, std::shared_ptr<Lookup> lookup, Caller caller)
      : dispatcher_(dispatcher), lookup_(std::move(lookup)), caller_(std::move(caller)) {}
  Dispatcher::Order Begin(Stage stage);
  bool HasAll() const;
  void Finish();
  void ReportParts();

  Dispatcher& dispatcher_;
  const std::shared_ptr<Lookup> lookup_;
  const Caller caller_;
  // Between Begin and the pieces, and the pieces and Done, the dispatcher's lock orders these.
  Stage stage_ = Stage::kGather;
  uint64_t rows_ = 0;  // of the stage
  ReadPriority priority_ = ReadPriority::kNormal;
  std::atomic<bool> failed_{false};  // relaxed: a layer has failed, and so has the look-up
  Mutex mutex_;
  size_t reported_ ABSL_GUARDED_BY(mutex_) = 0;  // parts
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_LOOKUP_JOB_H_
