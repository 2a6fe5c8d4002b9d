// Store: one data directory, the complete copy of every table, in RocksDB.
//
// It is catalog (which tables, versions and layers exist, which version is active), loader (rows
// in, published at once when all of them are durable) and the NVMe tier (rows out). One column
// family holds one layer of one version; see FORMAT.md for keys, pages and records.
//
// One process at a time may have a directory open. All methods are thread-safe and block on the
// drive. RocksDB's own types stay inside the .cc files.
//
// Errors: NotFound (no such table, version or layer), FailedPrecondition (it is not in the state
// that the call needs), InvalidArgument (a name or spec), DataLoss (corruption), ResourceExhausted
// (no space left), Unavailable (any other I/O error). Texts name table, file and offset.
#ifndef ENGRAM_STORAGE_NVME_STORE_H_
#define ENGRAM_STORAGE_NVME_STORE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/nvme/page_read_counters.h"
#include "storage/table/ids.h"
#include "storage/table/spec.h"
#include "storage/table/tier.h"
#include "storage/table/token_map.h"

namespace engram {

inline constexpr int kMaxReadDepth = 1024;

struct StoreOptions {
  std::string directory;     // made if it is not there
  int read_threads = 4;      // threads that help with large batches, shared by all tables
  int read_depth = 128;      // page reads under way at the drive, of all batches together
  bool use_io_uring = true;  // probed at open; falls back to pread and says so in Describe()
  bool use_direct_io = true;
};

// A run of consecutive rows of one layer: what one SST file holds, and the unit of loading,
// resuming and checking.
struct Chunk {
  LayerId layer{};
  uint32_t index = 0;  // counted from 0 within the layer
  uint64_t first = 0;  // first row
  uint64_t rows = 0;
  std::string digest;  // Digest of the rows' bytes in order; empty until it is written
};

enum class TableState { kLoading, kPublished };

struct TableRecord {
  TableSpec spec;
  TableState state = TableState::kLoading;
  bool active = false;
  bool has_writer = false;  // as of the call: a load or a repair is at work on it, so Drop refuses
  std::vector<Chunk> chunks;  // all chunks, by layer then index; kLoading: some without digest
  std::string table_digest;   // over spec and chunk digests; empty while loading
};

// How one layer lies on the drive.
struct LayerLayout {
  LayerId layer{};
  uint32_t rows_per_page = 0;
  uint32_t block_bytes = 0;  // of a page
  uint64_t disk_bytes = 0;   // of its files; 0 while it is being loaded
};

// Delivers rows first … first + rows − 1 of a layer, packed, into `out`.
using RowReader = absl::FunctionRef<absl::Status(LayerId layer, uint64_t first, uint64_t rows,
                                                 absl::Span<std::byte> out)>;

// One load in progress. WriteChunk may be called from several threads for different chunks.
class BulkWriter {
 public:
  virtual ~BulkWriter() = default;

  // The chunks still to be written; those of an interrupted load that are whole are not among
  // them.
  virtual const std::vector<Chunk>& todo() const = 0;
  virtual uint64_t rows_done() const = 0;  // rows of chunks that an earlier attempt finished

  // Compares a few pages of each chunk that an earlier attempt finished with what `read` gives, so
  // that a checkpoint that was changed meanwhile is not mixed with what it was, even if its digest,
  // taken over headers, sizes and times, is the same. FailedPrecondition: it was changed.
  // DataLoss: a finished chunk is damaged. Nothing to do after a load that only was not published.
  virtual absl::Status CheckResumed(RowReader read) const = 0;

  // Reads the chunk's rows through `read`, writes its file, syncs it and records its digest.
  // `rows_written` grows as it goes (relaxed; for progress only). When `cancelled` becomes true
  // it returns Cancelled soon, and the chunk stays to do.
  virtual absl::Status WriteChunk(const Chunk& chunk, RowReader read,
                                  const std::atomic<bool>& cancelled,
                                  std::atomic<uint64_t>& rows_written) = 0;

  // Makes the version visible, all layers at once, by one durable catalog write; the first
  // version of a table becomes active. FailedPrecondition unless every chunk is written.
  virtual absl::StatusOr<TableRecord> Publish() = 0;
};

// Who waits for a read. While kUrgent ones are under way, and for a while after, the others leave
// most of the drive's queue to them (ReadBudget).
enum class ReadPriority : uint8_t { kUrgent, kNormal };

// The NVMe tier of one layer. Keeps its column family alive: a version dropped meanwhile serves on
// until its last reader goes.
class LayerReader : public Tier {
 public:
  TierKind kind() const final { return TierKind::kNvme; }

  struct Request {
    LayerReader* reader = nullptr;
    RowBatch* batch = nullptr;
  };
  // The same as reader->Read(*batch) for each, in this order; but the layers of one call need not
  // wait for each other: a reader may have the reads of all of them under way together. Called on
  // any of the readers, all of which are of one Store.
  virtual void ReadTogether(absl::Span<const Request> requests, ReadPriority /*priority*/) {
    for (const Request& request : requests) request.reader->Read(*request.batch);
  }
};

class Store {
 public:
  virtual ~Store() = default;

  // Opens or makes the directory; drops what an interrupted drop or publication left behind.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const StoreOptions& options);

  // How I/O came out, for logs and stats: "io_uring, direct I/O" or what it fell back to and why.
  virtual std::string Describe() const = 0;

  // Every version of every table, loading ones included, by name then version.
  virtual std::vector<TableRecord> List() const = 0;
  virtual absl::StatusOr<TableRecord> Find(absl::string_view name, VersionId version) const = 0;

  // One entry a layer, as in its spec. Does not read the drive.
  virtual absl::StatusOr<std::vector<LayerLayout>> Layout(absl::string_view name,
                                                          VersionId version) const = 0;

  // Starts a load of spec.name at spec.version, or takes up the interrupted one that has an equal
  // spec. AlreadyExists: the version is published. FailedPrecondition: the version is being loaded
  // from another checkpoint, or right now by another writer. The token map, if the spec has one, is
  // stored with it; InvalidArgument if it is not the one that the spec names.
  virtual absl::StatusOr<std::unique_ptr<BulkWriter>> BeginLoad(
      const TableSpec& spec, const TokenMap* token_map = nullptr) = 0;

  // The token map that a version was loaded with; none if its spec has none. DataLoss: it is gone
  // or damaged.
  virtual absl::StatusOr<std::optional<TokenMap>> ReadTokenMap(absl::string_view name,
                                                               VersionId version) const = 0;

  // Looks at the file of one chunk of a published version on the drive itself, past what is open:
  // that it is there, as long as it should be, and that footer and index are whole. Rows are not
  // read. DataLoss or Unavailable, naming the file.
  virtual absl::Status CheckChunkFile(absl::string_view name, VersionId version,
                                      const Chunk& chunk) const = 0;

  // Rewrites one chunk of a published version and swaps it in, durably; readers go on meanwhile,
  // also those opened before. `cancelled` and `rows_written` as for BulkWriter::WriteChunk. Of
  // several damaged chunks of a layer the last must be repaired first. FailedPrecondition: `read`
  // gives other rows than were loaded, the chunk behind is damaged too, or the version has a
  // writer, or is not published; nothing is changed. Any other error: the chunk is as it was, or
  // its rows fail until it is repaired.
  virtual absl::Status RepairChunk(absl::string_view name, VersionId version, const Chunk& chunk,
                                   RowReader read, const std::atomic<bool>& cancelled,
                                   std::atomic<uint64_t>& rows_written) = 0;

  // Durable when it returns. FailedPrecondition: the version is not published.
  virtual absl::Status Activate(absl::string_view name, VersionId version) = 0;

  // Removes one version from the catalog at once, then its files once the last LayerReader of it
  // is gone. FailedPrecondition: a writer is at work on it. Dropping the active version leaves the
  // table without an active one.
  virtual absl::Status Drop(absl::string_view name, VersionId version) = 0;

  // `counters`, if given, must outlive the reader.
  virtual absl::StatusOr<std::unique_ptr<LayerReader>> OpenLayer(
      absl::string_view name, VersionId version, LayerId layer,
      PageReadCounters* counters = nullptr) = 0;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_STORE_H_
