#include "storage/nvme/row_store.h"

#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/nvme/page_block.h"
#include "storage/nvme/page_files.h"
#include "storage/nvme/page_reads.h"
#include "storage/nvme/rocks_status.h"
#include "storage/nvme/shared_pages.h"

namespace engram {
namespace {

// One thread keeps the drive busy. Where reads cannot be under way together it takes many threads
// to do that, each with a few pages at a time.
constexpr size_t kPagesPerTurn = 8;

// A drive that is gone fails thousands of pages a second; the log says so once in a while.
constexpr std::chrono::seconds kLogInterval{1};

constexpr char kRepairIt[] = "repair it with `engramctl load NAME --checkpoint DIR --repair`";

class RocksLayerReader final : public LayerReader {
 public:
  RocksLayerReader(std::shared_ptr<ColumnFamily> family, const CatalogRecord& record, LayerId layer,
                   PageReadCounters* counters);

  void Read(RowBatch& batch) override {
    const Request request{this, &batch};
    ReadTogether(absl::MakeConstSpan(&request, 1), ReadPriority::kNormal);
  }
  void ReadTogether(absl::Span<const Request> requests, ReadPriority priority) override;
  TierUsage Usage() const override {
    TierUsage usage = usage_;
    usage.note = core().Describe();  // damage that was repaired is gone from it
    return usage;
  }

  StoreCore& core() const { return family_->core(); }
  const LayerSpec& layer() const { return layer_; }
  const PageGeometry& geometry() const { return geometry_; }
  const std::string& name() const { return name_; }
  std::shared_ptr<const PageFiles> Files() const { return family_->Files(geometry_, layer_.rows); }

  // Asks RocksDB for a page that could not be read by its offset, or came wrong from there: it
  // reads it once more, and has the last word. `file` may be null.
  absl::Status ReadThroughRocks(PageId page, const PageFile* file, std::string& value) const;
  // Counts, and says now and then, that a page is lost, or was found at the second attempt.
  void NoteFailure(const absl::Status& status) const;
  void NoteRetry(PageId page, const PageFile* file) const;
  void NoteShared() const { counters_->shared.fetch_add(1, std::memory_order_relaxed); }
  SharedPages& shared() const { return shared_; }

 private:
  std::string Name(PageId page, const PageFile* file) const;
  bool MayLog() const;

  const std::shared_ptr<ColumnFamily> family_;
  const LayerSpec layer_;
  const PageGeometry geometry_;
  const std::string name_;
  PageReadCounters own_counters_;
  PageReadCounters* const counters_;
  mutable std::atomic<int64_t> next_log_ns_{0};
  mutable SharedPages shared_;
  TierUsage usage_;
};

RocksLayerReader::RocksLayerReader(std::shared_ptr<ColumnFamily> family,
                                   const CatalogRecord& record, LayerId layer,
                                   PageReadCounters* counters)
    : family_(std::move(family)),
      layer_(*record.table.spec.FindLayer(layer)),
      geometry_(*record.FindGeometry(layer)),
      name_(absl::StrCat("table ", record.table.spec.name, " version ",
                         Raw(record.table.spec.version), " layer ", Raw(layer))),
      counters_(counters != nullptr ? counters : &own_counters_) {
  usage_.on = true;
  usage_.rows = layer_.rows;
  usage_.bytes = layer_.bytes();
  usage_.capacity_bytes = family_->DiskBytes();
  Files();  // now, and not when the first batch waits for it
}

std::string RocksLayerReader::Name(PageId page, const PageFile* file) const {
  std::string name = absl::StrCat(name_, " page ", Raw(page));
  if (file != nullptr) {
    absl::StrAppend(&name, " (", file->path, " at ", file->Offset(page, geometry_), ")");
  }
  return name;
}

absl::Status RocksLayerReader::ReadThroughRocks(PageId page, const PageFile* file,
                                                std::string& value) const {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = false;
  const PageKey key = EncodePageKey(page);
  const rocksdb::Slice slice(key.data(), key.size());
  rocksdb::Status status = core().db().Get(options, family_->handle(), slice, &value);
  if (status.IsNotFound()) {
    // A repair may be swapping its file just now.
    family_->AwaitSwap();
    status = core().db().Get(options, family_->handle(), slice, &value);
  }
  if (status.IsNotFound()) {
    return absl::DataLossError(absl::StrCat(Name(page, file), " is missing; ", kRepairIt));
  }
  if (!status.ok()) return FromRocks(status, Name(page, file));
  const uint64_t expected = geometry_.ValueBytes(page, layer_.rows);
  if (value.size() == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(Name(page, file), " has ", value.size(),
                                          " bytes instead of ", expected, "; ", kRepairIt));
}

bool RocksLayerReader::MayLog() const {
  const int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
  int64_t next = next_log_ns_.load(std::memory_order_relaxed);
  // Relaxed: whoever exchanges it logs; nothing else hangs on it.
  return now >= next &&
         next_log_ns_.compare_exchange_strong(
             next, now + std::chrono::nanoseconds(kLogInterval).count(), std::memory_order_relaxed);
}

void RocksLayerReader::NoteFailure(const absl::Status& status) const {
  counters_->failed.fetch_add(1, std::memory_order_relaxed);
  if (MayLog()) ENGRAM_LOG(kError) << "rows are lost: " << status.message();
}

void RocksLayerReader::NoteRetry(PageId page, const PageFile* file) const {
  counters_->retried.fetch_add(1, std::memory_order_relaxed);
  if (MayLog()) {
    ENGRAM_LOG(kWarning) << Name(page, file) << " came wrong at first, and right when read again";
  }
}

// One call's reads: the missing rows of all its batches by page, and what became of them.
class BatchReads final : private SharedPages::Waiter {
 public:
  BatchReads(absl::Span<const LayerReader::Request> requests, ReadPriority priority);

  ~BatchReads() { AwaitOthers(); }
  BatchReads(const BatchReads&) = delete;
  BatchReads& operator=(const BatchReads&) = delete;

  void Run();

 private:
  struct Layer {
    const RocksLayerReader* reader = nullptr;
    RowBatch* batch = nullptr;
    std::shared_ptr<const PageFiles> files;
  };
  struct Page {
    PageId page{};
    const PageFile* file = nullptr;  // null: only RocksDB knows where it lies
    uint32_t layer = 0;              // index into layers_
    uint32_t begin = 0;              // its rows are entries_[begin, end)
    uint32_t end = 0;
  };
  struct Failure {
    uint32_t layer = 0;
    RowFailure row;
  };
  // Pages that this batch reads; those that have not come when it is given up are finished without.
  struct Mine {
    ~Mine() {
      for (const Page* page : pages) {
        if (page != nullptr) reads->layers_[page->layer].reader->shared().Finish(page->page, {});
      }
    }
    BatchReads* reads = nullptr;
    std::vector<const Page*> pages;
  };

  void Plan(uint32_t layer);
  void ReadPlain(size_t begin, size_t end);
  bool Claim(size_t index);
  absl::Span<const std::byte> Finish(const Page& page, absl::Span<const std::byte> block);
  void PageCame(size_t index, absl::Span<const std::byte> value) override;
  void AwaitOthers();
  void ReadAgain(const Page& page);
  void CopyRows(const Page& page, const std::byte* value) const;
  void FailRow(uint32_t layer, uint32_t position, const absl::Status& status);
  void Report();

  const ReadPriority priority_;
  std::vector<Layer> layers_;
  std::vector<uint64_t> entries_;  // row << 32 | position, sorted within a layer
  std::vector<Page> pages_;        // in the order in which they are read
  Mutex mutex_;
  CondVar came_;
  size_t awaited_ ABSL_GUARDED_BY(mutex_) = 0;  // pages that others are reading
  std::vector<Page> again_ ABSL_GUARDED_BY(mutex_);
  std::vector<Failure> failures_ ABSL_GUARDED_BY(mutex_);
};

BatchReads::BatchReads(absl::Span<const LayerReader::Request> requests, ReadPriority priority)
    : priority_(priority) {
  for (const LayerReader::Request& request : requests) {
    if (request.batch->missing().empty()) continue;
    const auto& reader = static_cast<const RocksLayerReader&>(*request.reader);
    layers_.push_back({&reader, request.batch, reader.Files()});
    Plan(static_cast<uint32_t>(layers_.size() - 1));
  }
}

void BatchReads::Plan(uint32_t layer) {
  const RocksLayerReader& reader = *layers_[layer].reader;
  RowBatch& batch = *layers_[layer].batch;
  const size_t begin = entries_.size();
  for (const uint32_t position : batch.missing()) {
    const uint64_t row = Raw(batch.ids()[position]);
    if (row < reader.layer().rows) {
      entries_.push_back(row << 32 | position);
    } else {
      FailRow(layer, position,
              absl::InvalidArgumentError(absl::StrCat(reader.name(), " has ", reader.layer().rows,
                                                      " rows; there is no row ", row)));
    }
  }
  std::sort(entries_.begin() + static_cast<ptrdiff_t>(begin), entries_.end());
  const size_t first_page = pages_.size();
  for (size_t i = begin; i < entries_.size(); ++i) {
    const PageId page = reader.geometry().PageOf(RowId{static_cast<uint32_t>(entries_[i] >> 32)});
    if (pages_.size() == first_page || pages_.back().page != page) {
      pages_.push_back({.page = page,
                        .file = layers_[layer].files->Find(page),
                        .layer = layer,
                        .begin = static_cast<uint32_t>(i)});
    }
    pages_.back().end = static_cast<uint32_t>(i + 1);
  }
}

void BatchReads::Run() {
  if (!pages_.empty()) {
    StoreCore& core = layers_.front().reader->core();
    if (core.ring_io()) {
      ReadPlain(0, pages_.size());
    } else {
      const size_t turns = (pages_.size() + kPagesPerTurn - 1) / kPagesPerTurn;
      core.pool().Run(turns, [&](size_t turn) {
        const size_t begin = turn * kPagesPerTurn;
        ReadPlain(begin, std::min(begin + kPagesPerTurn, pages_.size()));
      });
    }
    AwaitOthers();  // when all of ours have come: so nobody waits for somebody who waits
    std::vector<Page> again;
    {
      MutexLock lock(mutex_);
      again.swap(again_);
    }
    core.pool().Run(again.size(), [&](size_t i) { ReadAgain(again[i]); });
  }
  Report();
}

// Pages [begin, end) by their offsets, but for those that others are reading just now.
void BatchReads::ReadPlain(size_t begin, size_t end) {
  StoreCore& core = layers_.front().reader->core();
  Mine mine;
  mine.reads = this;
  mine.pages.reserve(end - begin);
  uint32_t max_bytes = 0;
  for (size_t i = begin; i < end; ++i) {
    const RocksLayerReader& reader = *layers_[pages_[i].layer].reader;
    if (pages_[i].file == nullptr) {
      // Cannot be read by its offset: RocksDB is asked for it afterwards.
      MutexLock lock(mutex_);
      again_.push_back(pages_[i]);
    } else if (Claim(i)) {
      mine.pages.push_back(&pages_[i]);
      max_bytes = std::max(max_bytes, reader.geometry().block_bytes);
    }
  }
  ReadBlocks(
      core.files(), core.read_budget(), priority_, mine.pages.size(), max_bytes,
      [&](size_t i) {
        const Page& page = *mine.pages[i];
        const PageGeometry& geometry = layers_[page.layer].reader->geometry();
        return BlockRead{page.file->file.get(), page.file->Offset(page.page, geometry),
                         geometry.block_bytes};
      },
      [&](size_t i, const absl::Status&, absl::Span<const std::byte> block) {
        const Page* const page = std::exchange(mine.pages[i], nullptr);
        layers_[page->layer].reader->shared().Finish(page->page, Finish(*page, block));
      });
}

// Whether this batch reads the page; if not, another one does.
bool BatchReads::Claim(size_t index) {
  {
    MutexLock lock(mutex_);
    ++awaited_;  // before anybody can say that it has come
  }
  const Page& page = pages_[index];
  const RocksLayerReader& reader = *layers_[page.layer].reader;
  if (!reader.shared().Begin(page.page, this, index)) {
    reader.NoteShared();
    return false;
  }
  MutexLock lock(mutex_);
  --awaited_;
  return true;
}

void BatchReads::PageCame(size_t index, absl::Span<const std::byte> value) {
  const Page& page = pages_[index];
  if (!value.empty()) CopyRows(page, value.data());
  MutexLock lock(mutex_);
  if (value.empty()) again_.push_back(page);
  // Under the lock: the batch may be gone as soon as it is given back.
  if (--awaited_ == 0) came_.NotifyAll();
}

void BatchReads::AwaitOthers() {
  MutexLock lock(mutex_);
  while (awaited_ > 0) came_.Wait(mutex_);
}

// The page's value; empty if it could not be read (`block` is empty then, too), or came wrong. Then
// RocksDB's attempt says why.
absl::Span<const std::byte> BatchReads::Finish(const Page& page,
                                               absl::Span<const std::byte> block) {
  const RocksLayerReader& reader = *layers_[page.layer].reader;
  const auto value_bytes =
      static_cast<uint32_t>(reader.geometry().ValueBytes(page.page, reader.layer().rows));
  const PageBlock found = ReadPageBlock(page.page, value_bytes, block);
  if (found.state == PageBlockState::kGood) {
    CopyRows(page, found.value.data());
    return found.value;
  }
  MutexLock lock(mutex_);
  again_.push_back(page);
  return {};
}

void BatchReads::ReadAgain(const Page& page) {
  const RocksLayerReader& reader = *layers_[page.layer].reader;
  std::string value;
  const absl::Status status = reader.ReadThroughRocks(page.page, page.file, value);
  if (status.ok()) {
    if (page.file != nullptr) reader.NoteRetry(page.page, page.file);
    CopyRows(page, reinterpret_cast<const std::byte*>(value.data()));
    return;
  }
  reader.NoteFailure(status);
  for (uint32_t i = page.begin; i < page.end; ++i) {
    FailRow(page.layer, static_cast<uint32_t>(entries_[i]), status);
  }
}

void BatchReads::CopyRows(const Page& page, const std::byte* value) const {
  const PageGeometry& geometry = layers_[page.layer].reader->geometry();
  const RowBatch& batch = *layers_[page.layer].batch;
  for (uint32_t i = page.begin; i < page.end; ++i) {
    const auto row = static_cast<uint32_t>(entries_[i] >> 32);
    const size_t offset = size_t{row % geometry.rows_per_page} * geometry.row_bytes;
    std::memcpy(batch.row(static_cast<uint32_t>(entries_[i])), value + offset, geometry.row_bytes);
  }
}

void BatchReads::FailRow(uint32_t layer, uint32_t position, const absl::Status& status) {
  MutexLock lock(mutex_);
  failures_.push_back({layer, {position, status}});
}

void BatchReads::Report() {
  for (const Layer& layer : layers_) layer.batch->missing().clear();
  MutexLock lock(mutex_);
  std::sort(failures_.begin(), failures_.end(), [](const Failure& a, const Failure& b) {
    return a.layer != b.layer ? a.layer < b.layer : a.row.position < b.row.position;
  });
  for (const Failure& failure : failures_) {
    layers_[failure.layer].batch->Fail(failure.row.position, failure.row.status);
  }
}

void RocksLayerReader::ReadTogether(absl::Span<const Request> requests, ReadPriority priority) {
  BatchReads(requests, priority).Run();
}

}  // namespace

std::unique_ptr<LayerReader> NewLayerReader(std::shared_ptr<ColumnFamily> family,
                                            const CatalogRecord& record, LayerId layer,
                                            PageReadCounters* counters) {
  return std::make_unique<RocksLayerReader>(std::move(family), record, layer, counters);
}

}  // namespace engram
