// A daemon of the wire contract in the test's own process: rows by a formula, answers as scripted.
//
// Table "t" version 3, of rows by id only: layer 1 with 100 rows of 8 bytes, layer 14 with 200 rows
// of 6 bytes. Table "h" version 5 has the same layers and rows by tokens too: DeepSeek-V4.1's hash
// with 2 heads and columns of at least 300 rows, whose raw token ids 0 … 9 a map compresses to
// 0 … 4. Table "m" is "h" without the map.
#ifndef ENGRAM_TESTS_UNIT_CLIENT_FAKE_DAEMON_H_
#define ENGRAM_TESTS_UNIT_CLIENT_FAKE_DAEMON_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engram/v1/admin.pb.h"
#include "engram/v1/store.pb.h"
#include "storage/table/spec.h"
#include "storage/table/token_map.h"

namespace engram::testing {

std::string RowBytes(int32_t layer, uint32_t id);  // empty for an unknown layer

// The addressing and the token map of table "h".
const TableSpec& HashedSpec();
const TokenMap& HashedMap();

// What the daemon answers if nothing else is scripted.
absl::Status AnswerLookup(const v1::LookupRequest& request, v1::LookupResponse* response);

class FakeDaemon {
 public:
  enum class Admin { kServed, kNotServed };

  // Starts, at a socket in a directory of its own.
  explicit FakeDaemon(Admin admin = Admin::kServed);
  ~FakeDaemon();
  FakeDaemon(const FakeDaemon&) = delete;
  FakeDaemon& operator=(const FakeDaemon&) = delete;

  void Start();
  void Stop();  // calls under way fail
  const std::string& target() const;

  // Replaces AnswerLookup for Lookup. Set before the first call. `cancelled` says whether the
  // caller has given up.
  using Cancelled = std::function<bool()>;
  std::function<absl::Status(const Cancelled&, const v1::LookupRequest&, v1::LookupResponse*)>
      on_lookup;
  // Sees (and may change) each message of a stream before it is sent.
  std::function<void(v1::StreamLookupResponse*)> on_stream_answer;
  std::atomic<int> lookups{0};
  // Sees (and may change) the answer to each Describe. Set before the first call.
  std::function<void(v1::DescribeResponse*)> on_describe;
  v1::PrefetchRequest LastPrefetch();

  // Load of table "hang" and verify of table "hang" last until they are cancelled; load of "again"
  // is already loaded, of "undone" ends too early, of "refused" fails; repair of "damaged" finds
  // two damaged chunks; verify of "bad" finds two bad rows. Version 3 can be activated.
  void WaitForHang();       // until a call hangs
  void WaitForCancelled();  // until it has ended
  v1::LoadRequest LastLoad();
  v1::VerifyRequest LastVerify();
  v1::DropTableRequest LastDropTable();
  v1::DropVersionRequest LastDropVersion();

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace engram::testing

#endif  // ENGRAM_TESTS_UNIT_CLIENT_FAKE_DAEMON_H_
