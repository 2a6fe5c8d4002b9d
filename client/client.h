// The C++ client of engramd: batches of rows into the caller's own memory.
//
//   auto client = engram::Client::Connect({.target = "unix:/run/engramd/engramd.sock"});
//   if (!client.ok()) return client.status();
//   // `rows` has room for ids.size() × 264 bytes.
//   engram::LayerRequest layer{.layer = 1, .row_ids = ids, .out = rows};
//   auto answer = (*client)->Lookup({.table = "deepseek", .layers = {layer}});
//   if (!answer.ok()) return answer.status();
//
// Client is thread-safe: one for a process is enough. No method allocates per row. Calls that find
// the daemon gone are repeated on a new connection until their deadline (look-ups change nothing,
// so that is safe). This header needs only the standard library and Abseil.
#ifndef ENGRAM_CLIENT_CLIENT_H_
#define ENGRAM_CLIENT_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace engram {

// A dead position in row_ids: its row comes back as zeros.
inline constexpr uint32_t kDeadPosition = 0xFFFFFFFFu;

struct ClientOptions {
  // "unix:/path" or "host:port".
  std::string target = "unix:/run/engramd/engramd.sock";
  std::chrono::milliseconds connect_timeout{5000};
  // For calls that state none.
  std::chrono::milliseconds default_deadline{10000};
  // Largest answer accepted; the daemon's own limit is 512 MiB by default.
  size_t max_answer_bytes = size_t{512} << 20;
};

struct ColumnInfo {
  int32_t order = 0;
  int32_t head = 0;
  uint64_t rows = 0;
};

struct LayerInfo {
  int32_t layer = 0;
  uint64_t rows = 0;
  uint32_t row_bytes = 0;
  std::vector<ColumnInfo> columns;
};

// What a table is; compare it with what your model expects before the first look-up.
struct TableDescription {
  std::string name;
  uint64_t version = 0;
  bool active = false;
  std::string state;  // "published" or "loading"
  std::string family;
  std::string row_format;
  std::string checkpoint_digest;
  std::string table_digest;
  uint64_t rows = 0;
  uint64_t bytes = 0;
  int32_t max_ngram_size = 0;
  int32_t heads = 0;
  uint64_t base_size = 0;
  int64_t pad_id = 0;
  int64_t compressed_vocab_size = 0;
  std::vector<LayerInfo> layers;
};

// One layer of a look-up. Ids and output are borrowed until the call is over.
struct LayerRequest {
  int32_t layer = 0;
  absl::Span<const uint32_t> row_ids = {};
  absl::Span<std::byte> out = {};  // row_ids.size() × row_bytes exactly; rows packed in id order
  absl::Span<uint8_t> tiers = {};  // empty, or row_ids.size(): 0 hbm, 1 dram, 2 nvme, 255 none
};

enum class RowErrorPolicy {
  kFail,  // a row that cannot be read fails the call
  kZero,  // it comes back as zeros and is named in LayerAnswer::failures
};

struct LookupRequest {
  std::string table = {};
  uint64_t version = 0;                   // 0: the active one
  std::vector<LayerRequest> layers = {};  // at most one a layer
  RowErrorPolicy on_row_error = RowErrorPolicy::kFail;
  // Not empty: the call fails with FailedPrecondition if the table's digest is another.
  std::string expect_table_digest = {};
  std::chrono::milliseconds deadline{0};  // 0: the client's default
};

struct FailedRow {
  uint32_t position = 0;  // index into row_ids
  absl::Status status;
};

struct LayerAnswer {
  int32_t layer = 0;
  uint32_t row_bytes = 0;
  uint64_t hbm_rows = 0;  // rows served by each tier
  uint64_t dram_rows = 0;
  uint64_t nvme_rows = 0;
  std::vector<FailedRow> failures;
};

struct LookupAnswer {
  uint64_t version = 0;
  std::vector<LayerAnswer> layers;  // ascending by layer
};

struct PrefetchRequest {
  struct Layer {
    int32_t layer = 0;
    absl::Span<const uint32_t> row_ids = {};  // borrowed until Prefetch returns
  };
  std::string table = {};
  uint64_t version = 0;
  std::vector<Layer> layers = {};
  std::chrono::milliseconds deadline{0};
};

struct PrefetchAnswer {
  uint64_t accepted = 0;
  uint64_t skipped = 0;
};

// A pipelined look-up: send the next steps before the last one is answered. One thread may send
// while another receives.
class LookupStream {
 public:
  virtual ~LookupStream() = default;  // cancels what is under way

  // Sends a request; its buffers stay borrowed until Receive has given its last answer.
  // Blocks only while the daemon's window is full. Unavailable once the stream is broken.
  virtual absl::Status Send(const LookupRequest& request) = 0;

  struct Event {
    uint64_t sequence = 0;  // of the Send, counted from 0
    bool last = false;      // nothing more comes for this request
    absl::Status status;    // of the request; the stream goes on
    uint64_t version = 0;
    LayerAnswer layer;  // rows are in the request's own buffer
  };
  // Blocks for the next layer's answer, in order of layers. OutOfRange when all requests are
  // answered and CloseSend was called; Unavailable when the stream broke.
  virtual absl::StatusOr<Event> Receive() = 0;

  virtual void CloseSend() = 0;
};

class Client {
 public:
  // Connects. Unavailable, naming the target, when nobody answers within connect_timeout.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(ClientOptions options);
  virtual ~Client() = default;

  // Errors of every call: NotFound (no such table, version or layer), InvalidArgument (an id out
  // of range, a buffer of the wrong size), FailedPrecondition (another table than expected),
  // ResourceExhausted (too large, or the daemon is overloaded), DeadlineExceeded, Unavailable,
  // DataLoss (a row failed its check).
  virtual absl::StatusOr<TableDescription> Describe(const std::string& table,
                                                    uint64_t version = 0) = 0;

  // Blocks. On error the output's contents are unspecified.
  virtual absl::StatusOr<LookupAnswer> Lookup(const LookupRequest& request) = 0;

  // Returns at once; `done` runs once, on a thread of the client's, which it must not block.
  virtual void LookupAsync(const LookupRequest& request,
                           std::function<void(absl::StatusOr<LookupAnswer>)> done) = 0;

  // Asks the daemon to make rows warm. Returns at once; `done`, if any, runs once, as above.
  virtual void Prefetch(const PrefetchRequest& request,
                        std::function<void(absl::StatusOr<PrefetchAnswer>)> done = nullptr) = 0;

  virtual absl::StatusOr<std::unique_ptr<LookupStream>> OpenStream() = 0;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLIENT_H_
