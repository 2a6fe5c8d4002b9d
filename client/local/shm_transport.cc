#include "client/local/shm_transport.h"

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/local/shm_batch.h"
#include "client/local/shm_stream.h"
#include "client/local/shm_tables.h"
#include "client/row_hasher.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;
using LookupDone = std::function<void(absl::StatusOr<LookupAnswer>)>;

std::chrono::milliseconds Left(Clock::time_point start, std::chrono::milliseconds timeout) {
  const auto spent = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
  return std::max(timeout - spent, std::chrono::milliseconds(1));
}

// Runs callbacks of look-ups that were done at once: not on the caller's thread, which may hold
// what they need. The thread is made when it is first wanted.
class CallbackThread {
 public:
  ~CallbackThread() {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
    }
    wake_.NotifyAll();
    if (thread_.joinable()) thread_.join();
  }
  void Run(std::function<void()> callback) {
    MutexLock lock(mutex_);
    if (!thread_.joinable()) thread_ = std::thread([this] { Serve(); });
    queue_.push_back(std::move(callback));
    wake_.NotifyOne();
  }

 private:
  void Serve() {
    while (true) {
      std::function<void()> next;
      {
        MutexLock lock(mutex_);
        while (queue_.empty() && !stopping_) wake_.Wait(mutex_);
        if (queue_.empty()) return;
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      next();
    }
  }

  Mutex mutex_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // set under mutex_, joined by the destructor
};

class ShmTransport : public Transport {
 public:
  ShmTransport(std::shared_ptr<grpc::Channel> channel, const std::string& socket_path)
      : tables_(std::move(channel), socket_path) {}

  absl::Status Probe(std::chrono::milliseconds timeout) { return tables_.Probe(timeout); }
  void SetRest(std::unique_ptr<Transport> rest) { rest_ = std::move(rest); }

  absl::StatusOr<TableDescription> Describe(const std::string& table, uint64_t version,
                                            std::chrono::milliseconds timeout) override {
    return rest_->Describe(table, version, timeout);
  }
  absl::StatusOr<std::vector<int32_t>> FetchTokenMap(const std::string& table, uint64_t version,
                                                     std::chrono::milliseconds timeout) override {
    return rest_->FetchTokenMap(table, version, timeout);
  }
  void Prefetch(const PrefetchRequest& request, std::chrono::milliseconds timeout,
                std::function<void(absl::StatusOr<PrefetchAnswer>)> done) override {
    rest_->Prefetch(request, timeout, std::move(done));
  }
  absl::StatusOr<std::unique_ptr<LookupStream>> OpenStream(
      std::chrono::milliseconds default_timeout) override {
    return OpenShmStream(
        rest_.get(),
        [this](const LookupRequest& request, std::chrono::milliseconds timeout, ShmBatch& batch) {
          return Gather(request, timeout, batch);
        },
        default_timeout);
  }

  absl::StatusOr<LookupAnswer> Lookup(const LookupRequest& request,
                                      std::chrono::milliseconds timeout) override {
    const Clock::time_point start = Clock::now();
    ShmBatch batch;
    if (!Gather(request, timeout, batch)) return rest_->Lookup(request, Left(start, timeout));
    if (batch.complete()) return std::move(batch.answer());
    const absl::StatusOr<LookupAnswer> rest = rest_->Lookup(batch.rest(), Left(start, timeout));
    if (rest.ok() && batch.Add(*rest)) return std::move(batch.answer());
    if (rest.ok() || IsRefusal(rest.status())) return rest_->Lookup(request, Left(start, timeout));
    return rest.status();
  }

  void LookupAsync(const LookupRequest& request, std::chrono::milliseconds timeout,
                   LookupDone done) override {
    const Clock::time_point start = Clock::now();
    auto batch = std::make_shared<ShmBatch>();
    if (!Gather(request, timeout, *batch)) {
      return rest_->LookupAsync(request, Left(start, timeout), std::move(done));
    }
    if (batch->complete()) {
      return callbacks_.Run([batch, done = std::move(done)] { done(std::move(batch->answer())); });
    }
    rest_->LookupAsync(batch->rest(), Left(start, timeout),
                       [this, batch, request, start, timeout,
                        done = std::move(done)](const absl::StatusOr<LookupAnswer>& rest) {
                         if (rest.ok() && batch->Add(*rest))
                           return done(std::move(batch->answer()));
                         if (rest.ok() || IsRefusal(rest.status())) {
                           return rest_->LookupAsync(request, Left(start, timeout), done);
                         }
                         done(rest.status());
                       });
  }

 private:
  bool Gather(const LookupRequest& request, std::chrono::milliseconds timeout, ShmBatch& batch) {
    const std::shared_ptr<const ShmTable> table = tables_.Get(request.table, request.version);
    if (table == nullptr) return false;
    std::shared_ptr<const RowHasher> hasher;
    if (request.tokens.has_value()) {
      hasher = HasherFor(request, *table, timeout);
      if (hasher == nullptr) return false;
    }
    // Relaxed: only so that samples are taken from all positions in turn.
    const uint32_t phase = phase_.fetch_add(1, std::memory_order_relaxed);
    return batch.Gather(*table, request, hasher.get(), phase) && !batch.empty();
  }

  // The table's, made at the first look-up by tokens. Null when it cannot be made, or while another
  // thread makes it.
  std::shared_ptr<const RowHasher> HasherFor(const LookupRequest& request, const ShmTable& table,
                                             std::chrono::milliseconds timeout) {
    {
      MutexLock lock(mutex_);
      const auto found = hashers_.find(table.table_digest);
      if (found != hashers_.end()) return found->second;
      // Until it is there.
      if (hashers_.size() >= kMaxHashers) hashers_.clear();
      hashers_[table.table_digest] = nullptr;
    }
    absl::StatusOr<std::shared_ptr<const RowHasher>> made =
        MakeHasher(request.table, table, timeout);
    MutexLock lock(mutex_);
    if (!made.ok()) {
      // A table without a hash stays one; a daemon that is away comes back.
      if (!absl::IsFailedPrecondition(made.status())) hashers_.erase(table.table_digest);
      return nullptr;
    }
    return hashers_[table.table_digest] = *std::move(made);
  }

  absl::StatusOr<std::shared_ptr<const RowHasher>> MakeHasher(const std::string& name,
                                                              const ShmTable& table,
                                                              std::chrono::milliseconds timeout) {
    ENGRAM_ASSIGN_OR_RETURN(const TableDescription description,
                            rest_->Describe(name, table.version, timeout));
    if (description.table_digest != table.table_digest) {
      return absl::UnavailableError("the table has changed meanwhile");
    }
    std::vector<int32_t> map;
    if (description.token_map_size > 0) {
      ENGRAM_ASSIGN_OR_RETURN(map, rest_->FetchTokenMap(name, table.version, timeout));
    }
    ENGRAM_ASSIGN_OR_RETURN(RowHasher hasher, RowHasher::Create(description, std::move(map)));
    return std::make_shared<const RowHasher>(std::move(hasher));
  }

  static constexpr size_t kMaxHashers = 64;

  ShmTables tables_;
  std::atomic<uint32_t> phase_{0};
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<const RowHasher>> hashers_ ABSL_GUARDED_BY(mutex_);
  CallbackThread callbacks_;
  // Last, so that it goes first: its callbacks use all of the above.
  std::unique_ptr<Transport> rest_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> AttachShm(std::unique_ptr<Transport>& rest,
                                                     std::shared_ptr<grpc::Channel> channel,
                                                     const std::string& socket_path,
                                                     std::chrono::milliseconds timeout) {
  auto transport = std::make_unique<ShmTransport>(std::move(channel), socket_path);
  ENGRAM_RETURN_IF_ERROR(transport->Probe(timeout));
  transport->SetRest(std::move(rest));
  return transport;
}

}  // namespace engram
