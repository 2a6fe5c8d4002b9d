#include "storage/nvme/row_store.h"

#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/mutex.h"
#include "storage/nvme/rocks_status.h"

namespace engram {
namespace {

// RocksDB works a MultiGet off in groups of 32 keys, file after file; so do we, each group on some
// thread. A batch that gives less than that to each thread is cut finer, so that all of them read:
// its pages mostly lie in different files, which one thread would read one after the other.
constexpr size_t kGroupPages = 32;
constexpr size_t kFewestGroupPages = 8;

constexpr char kRepairIt[] = "repair it with `engramctl load NAME --checkpoint DIR --repair`";

// The missing rows of a batch, sorted, and cut into groups of at most kGroupPages pages.
struct Plan {
  struct Entry {
    uint32_t row;
    uint32_t position;
    bool operator<(const Entry& other) const {
      return row != other.row ? row < other.row : position < other.position;
    }
  };
  std::vector<Entry> entries;
  std::vector<size_t> group_begin;  // indexes into entries; one more at the end

  void Build(const RowBatch& batch, const PageGeometry& geometry, size_t threads);
};

void Plan::Build(const RowBatch& batch, const PageGeometry& geometry, size_t threads) {
  entries.clear();
  group_begin.clear();
  for (const uint32_t position : batch.missing()) {
    entries.push_back({Raw(batch.ids()[position]), position});
  }
  std::sort(entries.begin(), entries.end());
  const size_t limit =
      std::clamp((entries.size() + threads - 1) / threads, kFewestGroupPages, kGroupPages);
  size_t pages = limit;
  PageId last{};
  for (size_t i = 0; i < entries.size(); ++i) {
    const PageId page = geometry.PageOf(RowId{entries[i].row});
    if (i > 0 && page == last) continue;
    last = page;
    if (pages == limit) {
      group_begin.push_back(i);
      pages = 0;
    }
    ++pages;
  }
  group_begin.push_back(entries.size());
}

// A group's keys and what came back; one a thread, so that nothing is allocated for it.
struct PageReads {
  size_t count = 0;
  std::array<PageId, kGroupPages> pages;
  std::array<PageKey, kGroupPages> keys;
  std::array<rocksdb::Slice, kGroupPages> slices;
  std::array<rocksdb::PinnableSlice, kGroupPages> values;
  std::array<rocksdb::Status, kGroupPages> statuses;
};

class RocksLayerReader final : public LayerReader {
 public:
  RocksLayerReader(std::shared_ptr<ColumnFamily> family, const CatalogRecord& record,
                   LayerId layer);

  void Read(RowBatch& batch) override;
  TierUsage Usage() const override {
    TierUsage usage = usage_;
    usage.note = family_->core().Describe();  // damage that was repaired is gone from it
    return usage;
  }

 private:
  // Failures of one batch, noted by whichever thread met them.
  struct Failures {
    Mutex mutex;
    std::vector<RowFailure> rows ABSL_GUARDED_BY(mutex);
  };

  void ReadGroup(const RowBatch& batch, absl::Span<const Plan::Entry> group,
                 Failures& failures) const;
  void Fetch(PageReads& reads) const;
  absl::Status CheckPage(PageId page, const rocksdb::Status& status, size_t bytes) const;
  std::string Name(PageId page) const;

  const std::shared_ptr<ColumnFamily> family_;
  const LayerSpec layer_;
  const PageGeometry geometry_;
  const std::string name_;
  TierUsage usage_;
};

RocksLayerReader::RocksLayerReader(std::shared_ptr<ColumnFamily> family,
                                   const CatalogRecord& record, LayerId layer)
    : family_(std::move(family)),
      layer_(*record.table.spec.FindLayer(layer)),
      geometry_(*record.FindGeometry(layer)),
      name_(absl::StrCat("table ", record.table.spec.name, " version ",
                         Raw(record.table.spec.version), " layer ", Raw(layer))) {
  usage_.on = true;
  usage_.rows = layer_.rows;
  usage_.bytes = layer_.bytes();
  usage_.capacity_bytes = family_->DiskBytes();
}

std::string RocksLayerReader::Name(PageId page) const {
  return absl::StrCat(name_, " page ", Raw(page));
}

void RocksLayerReader::Read(RowBatch& batch) {
  if (batch.missing().empty()) return;
  static thread_local Plan thread_plan;
  Plan& plan = thread_plan;  // captured below: the pool's threads must see this thread's
  // The calling thread reads too.
  plan.Build(batch, geometry_, static_cast<size_t>(family_->core().pool().threads()) + 1);
  Failures failures;
  const auto read_group = [&](size_t group) {
    const size_t begin = plan.group_begin[group];
    ReadGroup(batch,
              absl::MakeConstSpan(plan.entries).subspan(begin, plan.group_begin[group + 1] - begin),
              failures);
  };
  family_->core().pool().Run(plan.group_begin.size() - 1, read_group);
  batch.missing().clear();
  MutexLock lock(failures.mutex);
  std::sort(failures.rows.begin(), failures.rows.end(),
            [](const RowFailure& a, const RowFailure& b) { return a.position < b.position; });
  for (const RowFailure& failure : failures.rows) batch.Fail(failure.position, failure.status);
}

void RocksLayerReader::Fetch(PageReads& reads) const {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = false;
  rocksdb::DB& db = family_->core().db();
  db.MultiGet(options, family_->handle(), reads.count, reads.slices.data(), reads.values.data(),
              reads.statuses.data(), /*sorted_input=*/true);
  // One bad page can spoil others of its group: direct reads of touching pages are merged into
  // one, and a file that cannot be opened ends the whole group. Asked for alone, each page answers
  // for itself.
  for (size_t i = 0; i < reads.count; ++i) {
    rocksdb::Status& status = reads.statuses[i];
    if (status.ok()) continue;
    reads.values[i].Reset();
    status = db.Get(options, family_->handle(), reads.slices[i], &reads.values[i]);
    if (!status.IsNotFound()) continue;
    // A repair may be swapping its file just now.
    family_->AwaitSwap();
    reads.values[i].Reset();
    status = db.Get(options, family_->handle(), reads.slices[i], &reads.values[i]);
  }
}

absl::Status RocksLayerReader::CheckPage(PageId page, const rocksdb::Status& status,
                                         size_t bytes) const {
  const uint64_t expected = geometry_.ValueBytes(page, layer_.rows);
  if (status.IsNotFound()) {
    return absl::DataLossError(absl::StrCat(Name(page), " is missing; ", kRepairIt));
  }
  if (!status.ok()) return FromRocks(status, Name(page));
  if (bytes == expected) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(Name(page), " has ", bytes, " bytes instead of ", expected, "; ", kRepairIt));
}

void RocksLayerReader::ReadGroup(const RowBatch& batch, absl::Span<const Plan::Entry> group,
                                 Failures& failures) const {
  static thread_local PageReads reads;
  reads.count = 0;
  for (const Plan::Entry& entry : group) {
    const PageId page = geometry_.PageOf(RowId{entry.row});
    if (reads.count > 0 && reads.pages[reads.count - 1] == page) continue;
    const size_t i = reads.count++;
    reads.pages[i] = page;
    reads.keys[i] = EncodePageKey(page);
    reads.slices[i] = rocksdb::Slice(reads.keys[i].data(), reads.keys[i].size());
    reads.values[i].Reset();
  }
  Fetch(reads);

  size_t i = 0;
  absl::Status status = CheckPage(reads.pages[0], reads.statuses[0], reads.values[0].size());
  for (const Plan::Entry& entry : group) {
    if (reads.pages[i] != geometry_.PageOf(RowId{entry.row})) {
      ++i;
      status = CheckPage(reads.pages[i], reads.statuses[i], reads.values[i].size());
    }
    if (status.ok() && entry.row < layer_.rows) {
      const size_t offset = size_t{entry.row % geometry_.rows_per_page} * layer_.row_bytes;
      std::memcpy(batch.row(entry.position), reads.values[i].data() + offset, layer_.row_bytes);
      continue;
    }
    MutexLock lock(failures.mutex);
    failures.rows.push_back({entry.position, entry.row < layer_.rows
                                                 ? status
                                                 : absl::InvalidArgumentError(absl::StrCat(
                                                       name_, " has ", layer_.rows,
                                                       " rows; there is no row ", entry.row))});
  }
  for (size_t page = 0; page < reads.count; ++page) reads.values[page].Reset();
}

}  // namespace

std::unique_ptr<LayerReader> NewLayerReader(std::shared_ptr<ColumnFamily> family,
                                            const CatalogRecord& record, LayerId layer) {
  return std::make_unique<RocksLayerReader>(std::move(family), record, layer);
}

}  // namespace engram
