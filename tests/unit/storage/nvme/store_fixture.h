// What the tests of the store share: a directory of their own, rows that anybody can recompute
// from (table, layer, id), and a check that compares every row that comes back with its source.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_NVME_STORE_FIXTURE_H_
#define ENGRAM_TESTS_UNIT_STORAGE_NVME_STORE_FIXTURE_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "storage/nvme/store.h"
#include "storage/nvme/store_internal.h"
#include "tests/test_seed.h"

namespace engram {

class TestDirectory {
 public:
  TestDirectory() {
    std::string path = testing::TempDir() + "/engram-nvme-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
  }
  ~TestDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// The bytes of one row; `salt` tells checkpoints apart.
inline void FillRow(uint64_t salt, LayerId layer, uint64_t row, uint32_t row_bytes,
                    std::byte* out) {
  uint64_t state = Mix(salt) ^ Mix(static_cast<uint64_t>(Raw(layer)) << 40 | row);
  for (uint32_t i = 0; i < row_bytes; i += 8) {
    state = Mix(state);
    std::memcpy(out + i, &state, std::min<size_t>(8, row_bytes - i));
  }
}

struct TestLayer {
  int32_t id;
  uint64_t rows;
  uint32_t row_bytes;
};

// The checkpoint digest carries the salt of its rows.
inline TableSpec MakeSpec(const std::string& name, uint64_t version,
                          const std::vector<TestLayer>& layers, uint64_t salt = 1) {
  TableSpec spec;
  spec.name = name;
  spec.version = VersionId{version};
  spec.family = "generic";
  spec.row_format = "u8";
  spec.checkpoint_digest = std::to_string(salt);
  for (const TestLayer& layer : layers) {
    spec.layers.push_back({LayerId{layer.id}, layer.rows, layer.row_bytes, {}});
  }
  return spec;
}

inline uint64_t SaltOf(const TableSpec& spec) { return std::stoull(spec.checkpoint_digest); }

// Reads the rows of a spec as its checkpoint would.
struct RowGenerator {
  const TableSpec& spec;
  absl::Status operator()(LayerId layer, uint64_t first, uint64_t rows,
                          absl::Span<std::byte> out) const {
    const LayerSpec& of = *spec.FindLayer(layer);
    if (out.size() != rows * of.row_bytes || first + rows > of.rows) {
      return absl::InternalError("the writer asked for rows that there are not");
    }
    for (uint64_t i = 0; i < rows; ++i) {
      FillRow(SaltOf(spec), layer, first + i, of.row_bytes, out.data() + i * of.row_bytes);
    }
    return absl::OkStatus();
  }
};

// Small chunks, so that small tables have several files a layer.
inline StoreInternals SmallChunks() {
  StoreInternals internals;
  internals.min_chunk_bytes = 64 << 10;
  internals.max_chunk_bytes = 1 << 20;
  return internals;
}

inline std::unique_ptr<Store> OpenOrDie(const std::string& directory,
                                        const StoreInternals& internals = SmallChunks()) {
  StoreOptions options;
  options.directory = directory;
  absl::StatusOr<std::unique_ptr<Store>> store = OpenStore(options, internals);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

inline absl::Status WriteChunks(BulkWriter& writer, const TableSpec& spec, size_t limit) {
  const std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> rows{0};
  const RowGenerator generator{spec};
  for (const Chunk& chunk : writer.todo()) {
    if (limit-- == 0) break;
    const absl::Status status = writer.WriteChunk(chunk, generator, cancelled, rows);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

inline absl::StatusOr<TableRecord> Load(Store& store, const TableSpec& spec) {
  absl::StatusOr<std::unique_ptr<BulkWriter>> writer = store.BeginLoad(spec);
  if (!writer.ok()) return writer.status();
  const absl::Status status = WriteChunks(**writer, spec, SIZE_MAX);
  if (!status.ok()) return status;
  return (*writer)->Publish();
}

// Every chunk, from the last one on, as `load --repair` does it.
inline absl::Status RepairAll(Store& store, const TableSpec& spec) {
  const absl::StatusOr<TableRecord> record = store.Find(spec.name, spec.version);
  if (!record.ok()) return record.status();
  const std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> rows{0};
  for (auto chunk = record->chunks.rbegin(); chunk != record->chunks.rend(); ++chunk) {
    const absl::Status status =
        store.RepairChunk(spec.name, spec.version, *chunk, RowGenerator{spec}, cancelled, rows);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// One batch through one reader.
struct ReadResult {
  std::vector<std::byte> rows;
  std::vector<RowFailure> failures;
  size_t missing = 0;
};

inline ReadResult ReadRows(LayerReader& reader, const LayerSpec& layer,
                           const std::vector<RowId>& ids) {
  ReadResult result;
  result.rows.resize(ids.size() * layer.row_bytes, std::byte{0xEE});
  RowBatch batch(ids, layer.row_bytes, absl::MakeSpan(result.rows));
  reader.Read(batch);
  result.failures = batch.failures();
  result.missing = batch.missing().size();
  return result;
}

// Reads `ids` and compares each row with its source; returns how many were failed, each of which
// must be zeroed and for which `may_fail` must hold.
template <typename MayFail>
size_t ReadAndCompare(LayerReader& reader, const TableSpec& spec, LayerId layer,
                      const std::vector<RowId>& ids, MayFail may_fail) {
  const LayerSpec& of = *spec.FindLayer(layer);
  const ReadResult result = ReadRows(reader, of, ids);
  EXPECT_EQ(result.missing, 0u);
  std::vector<bool> failed(ids.size(), false);
  for (const RowFailure& failure : result.failures) {
    EXPECT_FALSE(failed[failure.position]) << "failed twice: " << failure.position;
    failed[failure.position] = true;
    EXPECT_TRUE(may_fail(ids[failure.position], failure.status))
        << "row " << Raw(ids[failure.position]) << ": " << failure.status;
  }
  std::vector<std::byte> expected(of.row_bytes);
  size_t wrong = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    std::fill(expected.begin(), expected.end(), std::byte{0});
    if (!failed[i] && ids[i] != RowId::kDeadPosition) {
      FillRow(SaltOf(spec), layer, Raw(ids[i]), of.row_bytes, expected.data());
    }
    if (std::memcmp(expected.data(), result.rows.data() + i * of.row_bytes, of.row_bytes) != 0 &&
        ++wrong <= 3) {
      ADD_FAILURE() << spec.name << " layer " << Raw(layer) << " row " << Raw(ids[i])
                    << " at position " << i << " is not what was loaded";
    }
  }
  EXPECT_EQ(wrong, 0u);
  return result.failures.size();
}

inline void ExpectRows(LayerReader& reader, const TableSpec& spec, LayerId layer,
                       const std::vector<RowId>& ids) {
  EXPECT_EQ(
      ReadAndCompare(reader, spec, layer, ids, [](RowId, const absl::Status&) { return false; }),
      0u);
}

// Every row of a layer, in random order, some of them twice, in batches of random size.
inline std::vector<std::vector<RowId>> ShuffledBatches(const LayerSpec& layer,
                                                       std::mt19937_64& random) {
  std::vector<RowId> ids;
  for (uint64_t row = 0; row < layer.rows; ++row) {
    ids.push_back(RowId{static_cast<uint32_t>(row)});
    if (random() % 8 == 0) ids.push_back(ids.back());
    if (random() % 64 == 0) ids.push_back(RowId::kDeadPosition);
  }
  std::shuffle(ids.begin(), ids.end(), random);
  std::vector<std::vector<RowId>> batches;
  for (size_t at = 0; at < ids.size();) {
    const size_t size = std::min<size_t>(ids.size() - at, 1 + random() % 3000);
    batches.emplace_back(ids.begin() + at, ids.begin() + at + size);
    at += size;
  }
  return batches;
}

// Every row of every layer of a published version, compared.
inline void ExpectWholeTable(Store& store, const TableSpec& spec) {
  std::mt19937_64 random(TestSeed());
  for (const LayerSpec& layer : spec.layers) {
    absl::StatusOr<std::unique_ptr<LayerReader>> reader =
        store.OpenLayer(spec.name, spec.version, layer.id);
    ASSERT_TRUE(reader.ok()) << reader.status();
    for (const std::vector<RowId>& ids : ShuffledBatches(layer, random)) {
      ExpectRows(**reader, spec, layer.id, ids);
    }
  }
}

// The SST files of the database, largest first.
inline std::vector<std::filesystem::path> SstFiles(const std::string& directory) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory + "/db")) {
    if (entry.path().extension() == ".sst") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return std::filesystem::file_size(a) > std::filesystem::file_size(b);
  });
  return files;
}

}  // namespace engram

#endif  // ENGRAM_TESTS_UNIT_STORAGE_NVME_STORE_FIXTURE_H_
