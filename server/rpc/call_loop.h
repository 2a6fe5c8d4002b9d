// CallLoop: gRPC's calls on threads of our own.
//
// It offers what gRPC's callback API does, without that API's threads: gRPC 1.51 has at least two
// of them, and the one that has polled the sockets wakes the other to poll before it answers. On
// two cores that, and falling asleep between two calls, made the difference between 0.88 and 1.03
// of the baseline's rate at 512 rows a call (tests/bench/RESULTS.md). Here half as many threads as
// there are cores share one queue, and one of them stays awake for a moment after an event, unless
// that was useless the last time.
//
// Messages are raw buffers. Thread-safe, unless it says otherwise.
#ifndef ENGRAM_SERVER_RPC_CALL_LOOP_H_
#define ENGRAM_SERVER_RPC_CALL_LOOP_H_

#include <grpcpp/completion_queue.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>
#include <grpcpp/support/async_unary_call.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "storage/base/mutex.h"

namespace engram {

class CallLoop;

// Something that gRPC was asked to do. Its address is the tag.
class CallEvent {
 public:
  // On one of the loop's threads.
  virtual void Done(bool ok) = 0;

 protected:
  ~CallEvent() = default;
};

// One request, one answer. It deletes itself once the answer has left and gRPC has reported its
// end: answered, cancelled or cut off.
class UnaryCall final {
 public:
  // As the generated Request functions of asynchronous services.
  using Request = std::function<void(grpc::ServerContext* context, grpc::ByteBuffer* request,
                                     grpc::ServerAsyncResponseWriter<grpc::ByteBuffer>* writer,
                                     grpc::CompletionQueue* queue,
                                     grpc::ServerCompletionQueue* calls, void* tag)>;
  // Calls Finish, or has it called later.
  using Handler = std::function<void(UnaryCall& call)>;

  const grpc::ByteBuffer& request() const { return request_; }
  grpc::ByteBuffer& response() { return response_; }
  // What gRPC calls the caller: see Clients.
  std::string peer() const { return context_.peer(); }
  std::chrono::system_clock::time_point deadline() const { return context_.deadline(); }
  // Whether the caller has gone away or given up. From any thread, until Finish.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Once, from any thread. The call may be gone when it returns.
  void Finish(const grpc::Status& status);

 private:
  friend class CallLoop;
  struct Method {
    CallLoop* loop;
    Request request;
    Handler handler;
  };
  struct Event final : CallEvent {
    explicit Event(UnaryCall* call_in, void (UnaryCall::*done_in)(bool))
        : call(call_in), done(done_in) {}
    void Done(bool ok) override { (call->*done)(ok); }
    UnaryCall* const call;
    void (UnaryCall::*const done)(bool);
  };
  explicit UnaryCall(const Method& method) : method_(method), writer_(&context_) {}
  ~UnaryCall() = default;
  static void Expect(const Method& method);
  void OnAccepted(bool ok);
  void OnEnded(bool ok);
  void OnAnswered(bool /*ok*/) { Unref(); }
  void Unref();

  const Method& method_;
  Event accepted_{this, &UnaryCall::OnAccepted};
  Event ended_{this, &UnaryCall::OnEnded};
  Event answered_{this, &UnaryCall::OnAnswered};
  std::atomic<bool> cancelled_{false};  // relaxed: nothing is handed over with it
  // The end and the answer. Acquire and release: who drops the last one sees what the others did.
  std::atomic<int> refs_{2};
  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> writer_;
};

// Messages both ways; of a method that streams one way, one of the ways has a single one.
//
// A call arrives, its handler runs, operations are begun and done, it is finished. Meanwhile or
// later gRPC reports that it has ended: answered, cancelled or cut off. It deletes itself once it
// has been finished, its end has been reported, and every operation is done, whichever is last.
class BidiCall final {
 public:
  using Stream = grpc::ServerAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;
  using Request =
      std::function<void(grpc::ServerContext* context, Stream* stream, grpc::CompletionQueue* queue,
                         grpc::ServerCompletionQueue* calls, void* tag)>;
  // Notified of what has been done. Several methods may be called at the same time.
  class Reactor {
   public:
    virtual void OnReadDone(bool ok) = 0;
    virtual void OnWriteDone(bool ok) = 0;
    // The caller has gone away or given up, perhaps after Finish. Finish must be called all the
    // same.
    virtual void OnCancel() = 0;
    // After Finish, and after everything that was begun is done: the last call. The BidiCall is
    // gone when it returns.
    virtual void OnDone() = 0;

   protected:
    ~Reactor() = default;
  };
  // Sets the call's reactor, and then calls Finish or has it called later.
  using Handler = std::function<void(BidiCall& call)>;

  std::string peer() const { return context_.peer(); }
  std::chrono::system_clock::time_point deadline() const { return context_.deadline(); }

  // Before anything is begun. The reactor lives until OnDone.
  void SetReactor(Reactor* reactor) { reactor_ = reactor; }
  // One read and one write at a time, none after Finish. What they point to lives until they are
  // done.
  void StartRead(grpc::ByteBuffer* message);
  void StartWrite(const grpc::ByteBuffer* message);
  void Finish(const grpc::Status& status);

 private:
  friend class CallLoop;
  struct Method {
    CallLoop* loop;
    Request request;
    Handler handler;
  };
  struct Event final : CallEvent {
    explicit Event(BidiCall* call_in, void (BidiCall::*done_in)(bool))
        : call(call_in), done(done_in) {}
    void Done(bool ok) override { (call->*done)(ok); }
    BidiCall* const call;
    void (BidiCall::*const done)(bool);
  };
  explicit BidiCall(const Method& method) : method_(method), stream_(&context_) {}
  ~BidiCall() = default;
  static void Expect(const Method& method);
  // The end is reported when the call has ended and its handler has returned: gRPC may report it
  // before. kOpen: neither. kHandled: the handler has returned. kEnded: the call has ended during
  // its handler. The second of the two finds the state of the first, and reports.
  enum class State { kOpen, kHandled, kEnded };

  void OnAccepted(bool ok);
  void OnEnded(bool ok);
  bool SetFirst(State state);
  void ReadDone(bool ok);
  void WriteDone(bool ok);
  void FinishDone(bool ok);
  void ReportEnd();
  void Unref();

  const Method& method_;
  Reactor* reactor_ = nullptr;
  Event accepted_{this, &BidiCall::OnAccepted};
  Event ended_{this, &BidiCall::OnEnded};
  Event read_{this, &BidiCall::ReadDone};
  Event written_{this, &BidiCall::WriteDone};
  Event finished_{this, &BidiCall::FinishDone};
  std::atomic<State> state_{State::kOpen};
  // References: the end, the finish, and each operation under way. Acquire and release: the
  // thread that drops the last one sees what all others did.
  std::atomic<int> refs_{2};
  grpc::ServerContext context_;
  Stream stream_;
};

class CallLoop {
 public:
  // Requires threads ≥ 1.
  CallLoop(std::unique_ptr<grpc::ServerCompletionQueue> queue, int threads);
  // After Stop, or if it was never started and the queue's server is gone.
  ~CallLoop();
  CallLoop(const CallLoop&) = delete;
  CallLoop& operator=(const CallLoop&) = delete;

  // How many threads suit a machine of so many cores.
  static int ThreadsFor(unsigned cores);

  // Calls of this method are answered by `handler` from now on. Before Start, after the server is
  // built.
  void AcceptUnary(UnaryCall::Request request, UnaryCall::Handler handler);
  void AcceptStreams(BidiCall::Request request, BidiCall::Handler handler);
  void Start();

  int threads() const { return count_; }
  // Calls that have arrived and are not done.
  int64_t calls() const { return calls_.load(std::memory_order_relaxed); }

  // After the server has been shut down: waits until every call is done, ends the threads.
  void Stop();

 private:
  friend class UnaryCall;
  friend class BidiCall;
  void Ref() { calls_.fetch_add(1, std::memory_order_relaxed); }
  void Unref();
  void Run();
  bool Next(int& sleeps, void** tag, bool* ok);

  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  const int count_;
  std::vector<std::unique_ptr<UnaryCall::Method>> unary_;
  std::vector<std::unique_ptr<BidiCall::Method>> bidi_;
  std::vector<std::thread> threads_;
  std::atomic<bool> awake_{false};  // relaxed: whether one of the threads stays awake
  std::atomic<int64_t> calls_{0};   // release and acquire where it falls to 0
  Mutex mutex_;
  CondVar idle_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_CALL_LOOP_H_
