// A daemon of the wire contract in the test's own process: rows by a formula, answers as scripted.
//
// One table, "t" version 3: layer 1 with 100 rows of 8 bytes, layer 14 with 200 rows of 6 bytes.
#ifndef ENGRAM_TESTS_UNIT_CLIENT_FAKE_DAEMON_H_
#define ENGRAM_TESTS_UNIT_CLIENT_FAKE_DAEMON_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "engram/v1/admin.grpc.pb.h"
#include "engram/v1/store.grpc.pb.h"
#include "storage/base/mutex.h"

namespace engram::testing {

// Byte `index` of a row; zero rows are zeros.
uint8_t RowByte(int32_t layer, uint32_t id, size_t index);
std::string RowBytes(int32_t layer, uint32_t id);  // empty for an unknown layer

v1::TableInfo FakeTable();

// What the daemon would answer.
grpc::Status AnswerLookup(const v1::LookupRequest& request, v1::LookupResponse* response);

class FakeStore : public v1::EngramStore::Service {
 public:
  // Replaces AnswerLookup. Set before the first call.
  std::function<grpc::Status(grpc::ServerContext*, const v1::LookupRequest&, v1::LookupResponse*)>
      on_lookup;
  // Sees (and may change) each message of a stream before it is sent.
  std::function<void(v1::StreamLookupResponse*)> on_stream_answer;
  std::atomic<int> lookups{0};

  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeRequest*,
                        v1::DescribeResponse*) override;
  grpc::Status Lookup(grpc::ServerContext*, const v1::LookupRequest*,
                      v1::LookupResponse*) override;
  grpc::Status StreamLookup(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::StreamLookupResponse, v1::LookupRequest>*) override;
  grpc::Status Prefetch(grpc::ServerContext*, const v1::PrefetchRequest*,
                        v1::PrefetchResponse*) override;
};

// load of table "hang" and verify of table "hang" last until they are cancelled; load of "again" is
// already loaded; load of "refused" fails. verify of "bad" finds two bad rows.
class FakeAdmin : public v1::EngramAdmin::Service {
 public:
  void WaitForHang();         // until a call hangs
  void WaitForCancelled();    // until it has ended
  v1::LoadRequest LastLoad();
  v1::DropRequest LastDrop();

  grpc::Status Load(grpc::ServerContext*, const v1::LoadRequest*,
                    grpc::ServerWriter<v1::LoadProgress>*) override;
  grpc::Status List(grpc::ServerContext*, const v1::ListRequest*, v1::ListResponse*) override;
  grpc::Status Activate(grpc::ServerContext*, const v1::ActivateRequest*,
                        v1::ActivateResponse*) override;
  grpc::Status Drop(grpc::ServerContext*, const v1::DropRequest*, v1::DropResponse*) override;
  grpc::Status Verify(grpc::ServerContext*, const v1::VerifyRequest*,
                      grpc::ServerWriter<v1::VerifyProgress>*) override;
  grpc::Status Stats(grpc::ServerContext*, const v1::StatsRequest*, v1::StatsResponse*) override;

 private:
  grpc::Status Hang(grpc::ServerContext* context);

  Mutex mutex_;
  CondVar changed_;
  bool hanging_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  v1::LoadRequest last_load_ ABSL_GUARDED_BY(mutex_);
  v1::DropRequest last_drop_ ABSL_GUARDED_BY(mutex_);
};

class FakeDaemon {
 public:
  FakeDaemon();  // makes a directory for its socket
  ~FakeDaemon();
  FakeDaemon(const FakeDaemon&) = delete;
  FakeDaemon& operator=(const FakeDaemon&) = delete;

  void Start();
  void Stop();  // calls under way fail
  const std::string& target() const { return target_; }

  FakeStore store;
  FakeAdmin admin;

 private:
  std::string directory_;
  std::string target_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace engram::testing

#endif  // ENGRAM_TESTS_UNIT_CLIENT_FAKE_DAEMON_H_
