#include "storage/nvme/page_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "storage/nvme/page.h"
#include "storage/nvme/store_core.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

struct ReadCounts {
  std::atomic<uint64_t> by_offset{0};
  std::atomic<uint64_t> by_rocksdb{0};
};

// Tells the reads of the NVMe tier from those of RocksDB.
class CountingFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  CountingFile(std::unique_ptr<FSRandomAccessFile> base, ReadCounts& counts)
      : FSRandomAccessFileOwnerWrapper(std::move(base)), counts_(counts) {}

  rocksdb::IOStatus Read(uint64_t offset, size_t bytes, const rocksdb::IOOptions& options,
                         rocksdb::Slice* result, char* scratch,
                         rocksdb::IODebugContext* debug) const override {
    ++counts_.by_rocksdb;
    return FSRandomAccessFileOwnerWrapper::Read(offset, bytes, options, result, scratch, debug);
  }
  rocksdb::IOStatus ReadAsync(rocksdb::FSReadRequest& request, const rocksdb::IOOptions& options,
                              std::function<void(const rocksdb::FSReadRequest&, void*)> callback,
                              void* argument, void** handle, rocksdb::IOHandleDeleter* deleter,
                              rocksdb::IODebugContext* debug) override {
    ++counts_.by_offset;
    return FSRandomAccessFileOwnerWrapper::ReadAsync(request, options, std::move(callback),
                                                     argument, handle, deleter, debug);
  }

 private:
  ReadCounts& counts_;
};

class CountingFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  CountingFileSystem(std::shared_ptr<FileSystem> base, ReadCounts& counts)
      : FileSystemWrapper(std::move(base)), counts_(counts) {}
  static const char* kClassName() { return "EngramCountingFileSystem"; }
  const char* Name() const override { return kClassName(); }

  rocksdb::IOStatus NewRandomAccessFile(const std::string& name,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                                        rocksdb::IODebugContext* debug) override {
    std::unique_ptr<rocksdb::FSRandomAccessFile> base;
    rocksdb::IOStatus status = target()->NewRandomAccessFile(name, options, &base, debug);
    if (status.ok()) *result = std::make_unique<CountingFile>(std::move(base), counts_);
    return status;
  }

 private:
  ReadCounts& counts_;
};

StoreInternals Counting(ReadCounts& counts) {
  StoreInternals internals = SmallChunks();
  internals.wrap = [&counts](std::shared_ptr<rocksdb::FileSystem> base) {
    return std::make_shared<CountingFileSystem>(std::move(base), counts);
  };
  return internals;
}

class PageFilesTest : public testing::TestWithParam<uint32_t> {};

TEST_P(PageFilesTest, EveryRowIsReadByItsOffset) {
  const TestDirectory directory;
  // Several files a layer, and a last page that is not full.
  const uint64_t rows = 300'000 / GetParam() + 7 * 31 + 1;
  const TableSpec spec = MakeSpec("m", 1, {{1, rows, GetParam()}});
  ReadCounts counts;
  std::unique_ptr<Store> store = OpenOrDie(directory.path(), Counting(counts));
  ASSERT_TRUE(Load(*store, spec).ok());
  PageReadCounters errors;
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1}, &errors);
  ASSERT_TRUE(reader.ok()) << reader.status();
  counts.by_offset = 0;
  counts.by_rocksdb = 0;
  std::vector<RowId> ids;
  for (uint64_t row = 0; row < rows; ++row) ids.push_back(RowId{static_cast<uint32_t>(row)});
  std::mt19937_64 random(TestSeed());
  std::shuffle(ids.begin(), ids.end(), random);
  ExpectRows(**reader, spec, LayerId{1}, ids);
  // Each page once, however many of its rows are asked for.
  EXPECT_EQ(counts.by_offset.load(), ChoosePageGeometry(GetParam()).Pages(rows));
  EXPECT_EQ(counts.by_rocksdb.load(), 0u);
  EXPECT_EQ(errors.failed.load() + errors.retried.load(), 0u);
}

INSTANTIATE_TEST_SUITE_P(RowBytes, PageFilesTest,
                         testing::Values(1u, 132u, 160u, 264u, 320u, 512u, 1024u, 2040u, 4096u,
                                         5000u, 16351u, 65536u));

TEST(PageFilesOpenTest, AFileOfAnotherMakeIsLeftToRocksDb) {
  const TestDirectory directory;
  const uint64_t rows = 12007;
  const TableSpec spec = MakeSpec("m", 1, {{1, rows, 264}});
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, spec).ok());
  const size_t chunks = store->Find("m", VersionId{1})->chunks.size();
  store.reset();
  StoreOptions options;
  options.directory = directory.path();
  FamilyMap families;
  auto core = StoreCore::Open(options, SmallChunks(), &families);
  ASSERT_TRUE(core.ok()) << core.status();
  ASSERT_EQ(families.size(), 1u);
  const PageFiles::Source source{.db = &(*core)->db(),
                                 .family = families.begin()->second->handle(),
                                 .file_system = &(*core)->files(),
                                 .direct_io = (*core)->direct_io()};
  const PageGeometry geometry = ChoosePageGeometry(264);
  const auto files = PageFiles::Open(source, geometry, rows);
  EXPECT_EQ(files->files().size(), chunks);
  for (uint64_t page = 0; page < geometry.Pages(rows); ++page) {
    const PageFile* const file = files->Find(PageId{page});
    ASSERT_NE(file, nullptr) << page;
    EXPECT_LE(Raw(file->first), page);
    EXPECT_LT(page, Raw(file->first) + file->pages);
  }
  EXPECT_EQ(files->Find(PageId{geometry.Pages(rows)}), nullptr);

  // Were its blocks larger, or the layer shorter than its files, no offset could be trusted.
  PageGeometry larger = geometry;
  larger.block_bytes = 8192;
  EXPECT_TRUE(PageFiles::Open(source, larger, rows)->files().empty());
  const auto shorter = PageFiles::Open(source, geometry, rows - 15 * 3);
  EXPECT_EQ(shorter->files().size(), chunks - 1);
  EXPECT_EQ(shorter->Find(PageId{geometry.Pages(rows) - 1}), nullptr);
  EXPECT_NE(shorter->Find(PageId{0}), nullptr);
}

TEST(ReadTogetherTest, LayersOfDifferentRowSizesAreReadAsOne) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{1, 3000, 264}, {14, 900, 1024}});
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, spec).ok());
  std::vector<std::unique_ptr<LayerReader>> readers;
  std::vector<std::vector<RowId>> ids(2);
  std::vector<std::vector<std::byte>> rows(2);
  std::vector<RowBatch> batches;
  std::vector<LayerReader::Request> requests;
  std::mt19937_64 random(TestSeed());
  for (size_t i = 0; i < 2; ++i) {
    const LayerSpec& layer = spec.layers[i];
    readers.push_back(*store->OpenLayer("m", VersionId{1}, layer.id));
    for (int n = 0; n < 500; ++n) {
      ids[i].push_back(RowId{static_cast<uint32_t>(random() % layer.rows)});
    }
    rows[i].resize(ids[i].size() * layer.row_bytes);
  }
  // One row of the second layer does not exist: its caller's mistake, and nobody else's.
  ids[1][77] = RowId{900};
  for (size_t i = 0; i < 2; ++i) {
    batches.emplace_back(ids[i], spec.layers[i].row_bytes, absl::MakeSpan(rows[i]));
  }
  for (size_t i = 0; i < 2; ++i) requests.push_back({readers[i].get(), &batches[i]});
  readers[0]->ReadTogether(requests, ReadPriority::kNormal);
  EXPECT_TRUE(batches[0].failures().empty());
  ASSERT_EQ(batches[1].failures().size(), 1u);
  EXPECT_EQ(batches[1].failures()[0].position, 77u);
  EXPECT_EQ(batches[1].failures()[0].status.code(), absl::StatusCode::kInvalidArgument);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(batches[i].missing().empty());
    const uint32_t row_bytes = spec.layers[i].row_bytes;
    std::vector<std::byte> expected(row_bytes);
    for (size_t n = 0; n < ids[i].size(); ++n) {
      if (i == 1 && n == 77) continue;
      FillRow(SaltOf(spec), spec.layers[i].id, Raw(ids[i][n]), row_bytes, expected.data());
      ASSERT_EQ(std::memcmp(expected.data(), &rows[i][n * row_bytes], row_bytes), 0) << i << n;
    }
  }
}

}  // namespace
}  // namespace engram
