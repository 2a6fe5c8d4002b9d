// The C++ client of engramd: batches of rows into the caller's own memory.
//
//   auto client = engram::Client::Connect({.target = "unix:/run/engramd/engramd.sock"});
//   if (!client.ok()) return client.status();
//   // The handshake. Later look-ups carry the digest: no other table answers them, also after an
//   // operator has switched versions.
//   engram::TableExpectation model{.family = "deepseek-v4.1"};  // and all else that it knows
//   auto table = (*client)->OpenTable("deepseek", model);
//   if (!table.ok()) return table.status();
//   // Rows by tokens: `rows` has room for tokens × 24 columns × 264 bytes.
//   engram::LayerRequest layer{.layer = 1, .out = rows};
//   auto answer = (*client)->Lookup({.table = "deepseek",
//                                    .layers = {layer},
//                                    .tokens = engram::TokenBatch{.token_ids = tokens},
//                                    .expect_table_digest = table->table_digest});
//   if (!answer.ok()) return answer.status();
//
// To look up rows by id, leave out `tokens` and set LayerRequest::row_ids; row_hasher.h computes
// the row ids of tokens.
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
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace engram {

// A dead position in row_ids: its row comes back as zeros.
inline constexpr uint32_t kDeadPosition = 0xFFFFFFFFu;

// How rows are transferred. kShm copies rows in DRAM straight out of the daemon's memory, on the
// same host and through its Unix socket; all other rows still come over gRPC, also those of
// streams.
enum class TransportKind {
  kAuto,  // what $ENGRAM_TRANSPORT says (auto, grpc, shm); auto: kShm where it is available
  kGrpc,
  kShm,  // Connect fails, saying why, where it is unavailable
};

struct ClientOptions {
  // "unix:/path" or "host:port".
  std::string target = "unix:/run/engramd/engramd.sock";
  std::chrono::milliseconds connect_timeout{5000};
  // For calls without a deadline of their own.
  std::chrono::milliseconds default_deadline{10000};
  TransportKind transport = TransportKind::kAuto;
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
  std::vector<ColumnInfo> columns = {};  // in table order; none if rows are addressed by id only
  // Of the hash "xor-multiply": one for each of the tokens, the last one first.
  std::vector<int64_t> multipliers = {};
  // One factor for all values of the layer's rows, where the model has one; 0: none. Rows are
  // served without it.
  double row_scale = 0;
  // How the layer lies on the daemon's drive: rows to a page, bytes of the block that a page is,
  // and bytes of all its files. 0: unknown, or still being loaded.
  uint32_t rows_per_page = 0;
  uint32_t block_bytes = 0;
  uint64_t disk_bytes = 0;
};

// What a table is. Client::OpenTable compares it with what your model expects.
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
  // Ids that are hashed are compressed by a token map first, to 0 … this − 1; 0: they are not.
  int64_t compressed_vocab_size = 0;
  std::string hash;               // "xor-multiply", "polynomial"; "none" or empty: rows by id only
  int64_t vocab_size = 0;         // raw token ids are below it; 0: unknown
  int64_t boundary_id = -1;       // n-grams do not look behind this token; −1: there is none
  std::vector<LayerInfo> layers;  // ascending
  uint64_t token_map_size = 0;    // raw token ids that the table's token map has; 0: it has none
  std::string token_map_digest;   // sha256 of the map in hex; empty: it has none
};

// What a model expects of one layer. Unset or empty fields are not compared.
struct LayerExpectation {
  int32_t layer = 0;  // the model config's own number
  std::optional<uint64_t> rows = {};
  std::optional<uint32_t> row_bytes = {};
  std::vector<uint64_t> column_rows = {};  // of every column, in table order
  std::vector<int64_t> multipliers = {};
  std::optional<double> row_scale = {};
};

// What a model expects of its table: set all that is known. Unset or empty fields are not compared.
struct TableExpectation {
  std::optional<std::string> family = {};
  std::optional<std::string> row_format = {};
  std::optional<std::string> hash = {};
  std::optional<int32_t> max_ngram_size = {};
  std::optional<int32_t> heads = {};
  std::optional<int64_t> pad_id = {};
  std::optional<int64_t> compressed_vocab_size = {};
  std::optional<int64_t> vocab_size = {};
  std::optional<int64_t> boundary_id = {};
  std::vector<LayerExpectation> layers = {};  // all that the table has, ascending
  std::optional<std::string> token_map_digest = {};
  std::optional<std::string> table_digest = {};
};

// The handshake's comparison: FailedPrecondition naming the first difference, in the order of the
// fields above, with what was expected and what was found. A pure function.
absl::Status CheckTable(const TableDescription& table, const TableExpectation& expected);

// One layer of a look-up. Ids and output are borrowed until the call is over.
struct LayerRequest {
  int32_t layer = 0;
  absl::Span<const uint32_t> row_ids = {};  // none when rows are asked for by tokens
  // Exactly one row for each id, packed in id order; by tokens one for each column of each
  // position.
  absl::Span<std::byte> out = {};
  // Empty, or one for each row: 0 hbm, 1 dram, 2 nvme, 255 none.
  absl::Span<uint8_t> tiers = {};
};

// Rows named by the tokens that ask for them: every column of every position, in layers that have
// an n-gram hash. A layer's rows lie sequence by sequence, position by position, in column order;
// lookback gets none. Everything is borrowed as LayerRequest's buffers are.
struct TokenBatch {
  // All sequences, one after the other. −1: a dead position, such as an image's; its rows are
  // zeros. Any other id that the model does not have fails the call with InvalidArgument.
  absl::Span<const int32_t> token_ids = {};
  // Ids of each sequence, its lookback included. None: token_ids is one sequence.
  absl::Span<const uint32_t> lengths = {};
  // Of each sequence, how many of its first ids are only context: the last ids before a chunk or a
  // decode step. With fewer than max_ngram_size − 1 of them the sequence begins at its first id.
  // None: 0 for every sequence.
  absl::Span<const uint32_t> lookbacks = {};
  // The ids are compressed already. Without it a model that hashes compressed ids needs the table's
  // token map (FailedPrecondition if it has none); others ignore it.
  bool compressed = false;
};

enum class RowErrorPolicy {
  kFail,  // a row that cannot be read fails the call
  kZero,  // it comes back as zeros and is named in LayerAnswer::failures
};

// What rows are for: whose reads of the drive go first when several callers wait.
enum class CallUrgency {
  kUnsaid,      // judged by size: up to 256 rows that memory does not hold are kDecode
  kDecode,      // a decode step waits for them
  kPrefill,     // a prompt does
  kPrefetch,    // somebody will soon
  kBackground,  // nobody does
};

struct LookupRequest {
  std::string table = {};
  uint64_t version = 0;                   // 0: the active one
  std::vector<LayerRequest> layers = {};  // at most one a layer
  // Rows by tokens: each of `layers` (at least one) says where a layer's rows go, without row_ids.
  // Send expect_table_digest with them: of the answer only columns × row_bytes can be checked by
  // the size of `out`, so another table with the same product would go unnoticed.
  std::optional<TokenBatch> tokens = {};
  RowErrorPolicy on_row_error = RowErrorPolicy::kFail;
  // Not empty: the call fails with FailedPrecondition if the table's digest is another.
  std::string expect_table_digest = {};
  std::chrono::milliseconds deadline{0};  // 0: the client's default
  CallUrgency urgency = CallUrgency::kUnsaid;
};

struct FailedRow {
  uint32_t position = 0;  // of the row in LayerRequest::out
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
  // Rows by tokens, borrowed likewise: `layers` name layers only; without any, all are meant.
  std::optional<TokenBatch> tokens = {};
  std::string expect_table_digest = {};  // as in LookupRequest
  std::chrono::milliseconds deadline{0};
  CallUrgency urgency = CallUrgency::kUnsaid;  // kPrefetch
};

struct PrefetchAnswer {
  uint64_t accepted = 0;
  uint64_t skipped = 0;
};

// A pipelined look-up: send the next steps before the last one is answered. One thread may send
// while another receives.
class LookupStream {
 public:
  virtual ~LookupStream() = default;  // cancels what is in flight

  // Sends a request; its buffers stay borrowed until Receive has returned its last answer.
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

// Debian builds Abseil so that each lock of gRPC is checked against the order of all others. A
// program that counts microseconds turns that off: absl::SetMutexDeadlockDetectionMode(kIgnore).
class Client {
 public:
  // Connects. Unavailable, naming the target, when no daemon answers within connect_timeout;
  // InvalidArgument for a malformed target or $ENGRAM_TRANSPORT; FailedPrecondition when kShm is
  // asked for and the daemon shares no memory.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(ClientOptions options);
  virtual ~Client() = default;

  // Errors of every call: NotFound (no such table, version or layer), InvalidArgument (an id out
  // of range, a buffer of the wrong size), FailedPrecondition (another table than expected, raw
  // token ids without a token map, tokens for a table without a hash),
  // ResourceExhausted (too large, or the daemon is overloaded), DeadlineExceeded, Unavailable,
  // DataLoss (a row failed its check).
  virtual absl::StatusOr<TableDescription> Describe(const std::string& table,
                                                    uint64_t version = 0) = 0;

  // The handshake: Describe, then CheckTable. Fails closed: FailedPrecondition, too, if the daemon
  // gives no table digest that later requests could carry.
  virtual absl::StatusOr<TableDescription> OpenTable(const std::string& table,
                                                     const TableExpectation& expected,
                                                     uint64_t version = 0) = 0;

  // The compressed id of every raw token id, checked against the table's token_map_digest
  // (DataLoss if it is another). NotFound if the table has no token map. Up to 64 MiB.
  virtual absl::StatusOr<std::vector<int32_t>> FetchTokenMap(const std::string& table,
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

  // kGrpc or kShm: what Connect has chosen.
  virtual TransportKind transport() const = 0;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLIENT_H_
