// A real Store in a temporary directory, with tables whose rows are derived from their ids, so
// that every row that comes back can be checked against its source.
#ifndef ENGRAM_TESTS_UNIT_SERVER_TABLE_FIXTURE_H_
#define ENGRAM_TESTS_UNIT_SERVER_TABLE_FIXTURE_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "server/lookup/buffer_pool.h"
#include "server/lookup/lookup.h"
#include "server/tables/tables.h"
#include "storage/nvme/store.h"
#include "storage/table/addressing.h"
#include "storage/table/ngram_hasher.h"

namespace engram {

// The bytes of row `id` of `layer` in the version with this salt.
inline void DeriveRow(int32_t layer, uint64_t id, uint64_t salt, absl::Span<std::byte> out) {
  uint64_t state = salt * 0x9E3779B97F4A7C15ull + id * 0xBF58476D1CE4E5B9ull +
                   static_cast<uint64_t>(layer) * 0x94D049BB133111EBull;
  for (std::byte& byte : out) {
    state ^= state >> 27;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    byte = static_cast<std::byte>(state >> 56);
  }
}

class TableFixture : public ::testing::Test {
 protected:
  static constexpr uint32_t kRowBytes = 264;

  void SetUp() override {
    std::string path = ::testing::TempDir() + "engram_server_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    directory_ = path;
    OpenStore();
  }

  void TearDown() override {
    tables_.reset();
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  void OpenStore() {
    auto store = Store::Open({.directory = directory_ + "/data"});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  void OpenTables(uint64_t dram_budget_bytes, DramObserver* dram = nullptr,
                  HbmObserver* hbm = nullptr) {
    auto tables = Tables::Open(store_.get(),
                               {.dram_budget_bytes = dram_budget_bytes, .dram = dram, .hbm = hbm});
    ASSERT_TRUE(tables.ok()) << tables.status();
    tables_ = *std::move(tables);
  }

  // A wrong byte in the second page of each layer's file of 100 kB and more: with rows of kRowBytes
  // those of 15 to 29 cannot be read any more. Returns how many files. While no store is open.
  int DamageSecondPages() const {
    int damaged = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_ + "/data")) {
      if (entry.path().extension() != ".sst" || entry.file_size() < 100000) continue;
      std::fstream file(entry.path(), std::ios::binary | std::ios::in | std::ios::out);
      file.seekp(4096 + 50);
      file.put('\x55');
      ++damaged;
    }
    return damaged;
  }

  void Reopen(uint64_t dram_budget_bytes) {
    tables_.reset();
    store_.reset();
    OpenStore();
    OpenTables(dram_budget_bytes);
  }

  static TableSpec Spec(const std::string& name, uint64_t version, uint64_t rows) {
    TableSpec spec;
    spec.name = name;
    spec.version = VersionId{version};
    spec.family = "test";
    spec.row_format = "bytes";
    spec.layers = {{LayerId{1}, rows, kRowBytes, {}}, {LayerId{14}, rows + 7, kRowBytes, {}}};
    spec.checkpoint_digest = "derived";
    return spec;
  }

  // A table of two layers with an n-gram hash: orders 2 and 3, two heads, 50 compressed ids.
  static TableSpec HashedSpec(const std::string& name, uint64_t version) {
    TableSpec spec = Spec(name, version, 1);
    spec.layers.clear();
    AddressingSpec& a = spec.addressing;
    a.hash = HashKind::kXorMultiply;
    a.max_ngram_size = 3;
    a.heads = 2;
    a.base_size = 1009;
    a.pad_id = 2;
    a.compressed_vocab_size = 50;
    const auto columns = PrimeColumns(a, 2).value();
    for (const int id : {1, 14}) {
      LayerSpec& layer = spec.layers.emplace_back();
      layer.id = LayerId{id};
      layer.row_bytes = kRowBytes;
      layer.columns = columns[spec.layers.size() - 1];
      layer.multipliers = NumpyMultipliers(10007 * id, a.compressed_vocab_size, 3).value();
      for (const ColumnSpec& column : layer.columns) layer.rows += column.rows;
    }
    return spec;
  }

  // 100 raw ids, of which each two share a compressed one.
  static TokenMap HalvingMap() {
    std::vector<int32_t> compressed;
    for (int32_t raw = 0; raw < 100; ++raw) compressed.push_back(raw / 2);
    return TokenMap::Create(std::move(compressed)).value();
  }

  void LoadHashed(const std::string& name, uint64_t version, const TokenMap* map) {
    TableSpec spec = HashedSpec(name, version);
    if (map != nullptr) {
      spec.token_map_size = map->size();
      spec.token_map_digest = map->digest();
    }
    LoadSpec(spec, map);
  }

  // Writes and publishes a version; its rows carry the version as salt.
  void Load(const std::string& name, uint64_t version, uint64_t rows) {
    LoadSpec(Spec(name, version, rows), nullptr);
  }
  void LoadSpec(const TableSpec& spec, const TokenMap* map) {
    const uint64_t version = Raw(spec.version);
    auto writer = store_->BeginLoad(spec, map);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::atomic<bool> cancelled{false};
    std::atomic<uint64_t> written{0};
    for (const Chunk& chunk : (*writer)->todo()) {
      const absl::Status status = (*writer)->WriteChunk(
          chunk,
          [&](LayerId layer, uint64_t first, uint64_t count, absl::Span<std::byte> out) {
            for (uint64_t i = 0; i < count; ++i) {
              DeriveRow(Raw(layer), first + i, version, out.subspan(i * kRowBytes, kRowBytes));
            }
            return absl::OkStatus();
          },
          cancelled, written);
      ASSERT_TRUE(status.ok()) << status;
    }
    auto record = (*writer)->Publish();
    ASSERT_TRUE(record.ok()) << record.status();
    writer->reset();
    if (tables_ != nullptr) {
      ASSERT_TRUE(tables_->Add(*record).ok());
    }
  }

  static std::string Bytes(const std::vector<uint32_t>& ids) {
    return std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(uint32_t));
  }

  // One whole look-up of one layer, checked byte by byte; false (and a failure) if a row differs.
  static bool RowsAreRight(const Lookup& lookup) {
    for (const std::unique_ptr<Lookup::Part>& part : lookup.parts()) {
      std::vector<std::byte> expected(kRowBytes);
      for (uint32_t i = 0; i < part->ids.size(); ++i) {
        if (part->ids[i] == RowId::kDeadPosition) {
          expected.assign(kRowBytes, std::byte{0});
        } else {
          DeriveRow(Raw(part->stack->spec().id), Raw(part->ids[i]), Raw(lookup.version()),
                    absl::MakeSpan(expected));
        }
        if (std::memcmp(expected.data(), part->batch.row(i), kRowBytes) != 0) {
          ADD_FAILURE() << "layer " << Raw(part->stack->spec().id) << " row " << Raw(part->ids[i])
                        << " is wrong";
          return false;
        }
      }
    }
    return true;
  }

  std::string directory_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Tables> tables_;
  BufferPool pool_{size_t{8} << 20};
};

}  // namespace engram

#endif  // ENGRAM_TESTS_UNIT_SERVER_TABLE_FIXTURE_H_
