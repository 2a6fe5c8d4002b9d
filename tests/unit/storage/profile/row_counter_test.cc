// Counts of rows against a plain map: several families, few and many ranges, one and more threads.
#include "storage/profile/row_counter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/table/ngram_hasher.h"
#include "storage/table/token_map.h"
#include "tests/test_seed.h"
#include "tests/unit/storage/profile/profile_testing.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram {
namespace {

using Tokens = std::vector<int32_t>;

// Token files in a folder of their own.
class Files {
 public:
  explicit Files(const std::vector<Tokens>& contents) {
    folder_ = ::testing::TempDir() + "row_counter_XXXXXX";
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    for (const Tokens& tokens : contents) {
      paths_.push_back(absl::StrCat(folder_, "/", paths_.size(), ".tok"));
      std::ofstream(paths_.back(), std::ios::binary)
          .write(reinterpret_cast<const char*>(tokens.data()),
                 static_cast<std::streamsize>(tokens.size() * sizeof(int32_t)));
    }
  }
  ~Files() { std::filesystem::remove_all(folder_); }
  const std::vector<std::string>& paths() const { return paths_; }
  TokenFiles Open() const {
    auto files = TokenFiles::Open(paths_);
    EXPECT_TRUE(files.ok()) << files.status();
    return *std::move(files);
  }

 private:
  std::string folder_;
  std::vector<std::string> paths_;
};

TableSpec SpecOf(const testing::Model& model) {
  TableSpec spec;
  spec.name = model.name;
  spec.family = "f";
  spec.addressing = model.addressing;
  spec.layers = model.layers;
  return spec;
}

// Some tokens often, some seldom, some dead; `boundary` now and then.
Tokens RandomTokens(std::mt19937_64& random, size_t count, const TableSpec& spec) {
  Tokens tokens(count);
  const auto ids = static_cast<double>(spec.addressing.hashed_ids());
  std::exponential_distribution<double> skewed(12);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(std::min(ids - 1, ids * skewed(random)));
    if (random() % 50 == 0) token = -1;
    if (random() % 50 == 0 && spec.addressing.boundary_id >= 0) {
      token = static_cast<int32_t>(spec.addressing.boundary_id);
    }
  }
  return tokens;
}

// The plain way: every file hashed at once, every row in a map.
std::map<uint32_t, uint64_t> PlainCounts(const TableSpec& spec, const LayerSpec& layer,
                                         const std::vector<Tokens>& contents) {
  const auto hasher = NgramHasher::Create(spec.addressing, layer);
  EXPECT_TRUE(hasher.ok()) << hasher.status();
  std::map<uint32_t, uint64_t> counts;
  for (const Tokens& tokens : contents) {
    std::vector<RowId> ids(tokens.size() * hasher->columns());
    hasher->HashPlain({tokens}, absl::MakeSpan(ids));
    for (const RowId id : ids) {
      if (id != RowId::kDeadPosition) ++counts[Raw(id)];
    }
  }
  return counts;
}

// What the layer's profile must be, by the map.
LayerProfile PlainProfile(const LayerSpec& layer, const std::map<uint32_t, uint64_t>& counts,
                          uint64_t head_rows) {
  LayerProfile profile{.id = layer.id, .rows = layer.rows, .columns = {}, .orders = {}, .head = {}};
  std::map<int32_t, std::map<uint64_t, uint64_t, std::greater<>>> law;
  uint64_t begin = 0;
  for (const ColumnSpec& column : layer.columns) {
    profile.columns.push_back({column.order, column.rows});
    law[column.order];
    for (auto row = counts.lower_bound(static_cast<uint32_t>(begin));
         row != counts.end() && row->first < begin + column.rows; ++row) {
      ++law[column.order][row->second];
    }
    begin += column.rows;
  }
  for (const auto& [order, classes] : law) {
    OrderProfile& of = profile.orders.emplace_back();
    of.order = order;
    for (const auto& [count, rows] : classes) of.classes.push_back({count, rows});
  }
  for (const auto& [id, count] : counts) {
    profile.head.push_back({RowId{id}, static_cast<uint32_t>(count)});
  }
  std::stable_sort(profile.head.begin(), profile.head.end(),
                   [](const HotRow& a, const HotRow& b) { return a.count > b.count; });
  profile.head.resize(std::min<size_t>(profile.head.size(), head_rows));
  return profile;
}

testing::Model SmallQwen4Exp() {
  testing::Model model = testing::Qwen4Exp();
  model.addressing.base_size = 3000;
  model.layers[0].columns = PrimeColumns(model.addressing, 1).value()[0];
  testing::SetRows(model.layers[0]);
  return model;
}

std::vector<testing::Model> Models() {
  return {testing::DeepseekV41(40'000, 2), testing::DeepseekV41(300, 2),
          testing::LongCat("LongCat", 5000, 9, 4, 2), SmallQwen4Exp()};
}

TEST(RowCounterTest, CountsAsAMapDoesInAnyMemoryOnAnyThreads) {
  std::mt19937_64 random(TestSeed());
  for (const testing::Model& model : Models()) {
    SCOPED_TRACE(model.name);
    const TableSpec spec = SpecOf(model);
    std::vector<Tokens> contents;
    // About the sizes of a block and of a hasher's call, too.
    for (const size_t count : {1, 512, 513, 4096, 4099, 5000}) {
      contents.push_back(RandomTokens(random, count, spec));
    }
    const Files files(contents);
    const TokenFiles opened = files.Open();
    uint64_t live = 0;
    for (const Tokens& tokens : contents) {
      live += tokens.size() - static_cast<uint64_t>(std::count(tokens.begin(), tokens.end(),
                                                               NgramHasher::kDeadPosition));
    }
    for (const uint64_t head : {uint64_t{0}, uint64_t{1000}, uint64_t{1} << 24}) {
      std::vector<LayerProfile> plain;
      for (const LayerSpec& layer : spec.layers) {
        plain.push_back(PlainProfile(layer, PlainCounts(spec, layer, contents), head));
      }
      // The least memory that is allowed is in the error for less.
      CountOptions options{.memory_bytes = 1, .head_rows = head, .threads = 1};
      const auto refused = CountRows(spec, {}, opened, options);
      ASSERT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
      const std::string why(refused.status().message());
      const uint64_t least = std::stoull(why.substr(why.find("counters need ") + 14));
      for (const uint64_t memory : {least, least + least / 9, uint64_t{4} << 30}) {
        for (const size_t threads : {1, 3}) {
          options.memory_bytes = memory;
          options.threads = threads;
          const auto counted = CountRows(spec, {}, opened, options);
          ASSERT_TRUE(counted.ok()) << counted.status();
          EXPECT_EQ(counted->profile.layers, plain) << head << " " << memory << " " << threads;
          EXPECT_EQ(counted->profile.tokens, live);
          EXPECT_EQ(counted->profile.sequences, contents.size());
          EXPECT_LE(counted->ranges, memory > uint64_t{1} << 30 ? 1u : 64u);
          EXPECT_GE(counted->ranges, memory == least ? 32u : 1u);
          EXPECT_TRUE(counted->profile.CheckFor(spec).ok());
          EXPECT_TRUE(counted->profile.Serialize().ok());
        }
      }
    }
  }
}

// A counter has two bytes, a row may be asked for more often.
TEST(RowCounterTest, CountersRunOverIntoTheirCarries) {
  const TableSpec spec = SpecOf(testing::DeepseekV41(300, 2));
  const std::vector<Tokens> contents = {Tokens(65'536 * 3 + 5, 7), Tokens(65'536, 7),
                                        Tokens(70'000, 9)};
  const Files files(contents);
  const auto counted = CountRows(spec, {}, files.Open(), {.head_rows = 1000, .threads = 2});
  ASSERT_TRUE(counted.ok()) << counted.status();
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto plain = PlainCounts(spec, spec.layers[i], contents);
    EXPECT_EQ(counted->profile.layers[i], PlainProfile(spec.layers[i], plain, 1000));
    EXPECT_GT(counted->profile.layers[i].head[0].count, 4 * 65'536u);
  }
}

TEST(RowCounterTest, RawIdsGoThroughTheMap) {
  TableSpec spec = SpecOf(testing::DeepseekV41(300, 2));
  spec.addressing.compressed_vocab_size = 3;
  spec.addressing.pad_id = 0;
  const std::vector<int32_t> map = {0, 1, 0, 2, 1};
  spec.token_map_size = map.size();
  spec.token_map_digest = TokenMap::Create(map)->digest();
  const Files raw({{0, 1, 2, 3, 4, -1, 2, 2}}), compressed({{0, 1, 0, 2, 1, -1, 0, 0}});
  const CountOptions options{.head_rows = 1000};
  const auto of_raw = CountRows(spec, map, raw.Open(), options);
  const auto of_compressed = CountRows(spec, {}, compressed.Open(), options);
  ASSERT_TRUE(of_raw.ok()) << of_raw.status();
  ASSERT_TRUE(of_compressed.ok()) << of_compressed.status();
  EXPECT_EQ(of_raw->profile.layers, of_compressed->profile.layers);
  EXPECT_EQ(of_raw->profile.token_map_digest, spec.token_map_digest);
  EXPECT_EQ(of_compressed->profile.token_map_digest, "");
  // 4 is a raw id, but no compressed one.
  ExpectStatus(CountRows(spec, {}, raw.Open(), options).status(),
               absl::StatusCode::kInvalidArgument, "token id 3 at byte 12 (token 3)");
  ExpectStatus(CountRows(spec, {0, 1}, raw.Open(), options).status(),
               absl::StatusCode::kFailedPrecondition, "token map");
}

TEST(RowCounterTest, WrongTokensAreNamedOnAnyThread) {
  const TableSpec spec = SpecOf(SmallQwen4Exp());
  Tokens tokens(10'000, 5);
  tokens[9'001] = 248'320;
  const Files files({{1, 2}, tokens});
  for (const size_t threads : {1, 4}) {
    ExpectStatus(CountRows(spec, {}, files.Open(), {.threads = threads}).status(),
                 absl::StatusCode::kInvalidArgument,
                 files.paths()[1] +
                     ": token id 248320 at byte 36004 (token 9001) is not one of this "
                     "model's: 0 to 248319, or 4294967295");
  }
}

TEST(RowCounterTest, EndsWhenItIsCancelled) {
  const TableSpec spec = SpecOf(testing::DeepseekV41(300, 2));
  const Files files({Tokens(50'000, 3)});
  std::atomic<bool> cancelled{false};
  uint64_t reports = 0;
  CountOptions options{.threads = 2, .cancelled = &cancelled};
  options.on_progress = [&](const CountProgress& progress) {
    EXPECT_EQ(progress.ids_total, 100'000u);
    if (++reports == 3) cancelled = true;
  };
  ExpectStatus(CountRows(spec, {}, files.Open(), options).status(), absl::StatusCode::kCancelled,
               "nothing was written");
  EXPECT_EQ(reports, 3u);
}

TEST(TokenFilesTest, WhatIsNoTokenFileIsNamed) {
  const Files files({{1, 2}, {}});
  ExpectStatus(TokenFiles::Open(files.paths()).status(), absl::StatusCode::kInvalidArgument,
               "1.tok has 0 bytes");
  std::ofstream(files.paths()[1]) << "12345";
  ExpectStatus(TokenFiles::Open(files.paths()).status(), absl::StatusCode::kInvalidArgument,
               "1.tok has 5 bytes; a token file has 4 for each of its token ids, so it is cut off");
  ExpectStatus(TokenFiles::Open({files.paths()[0] + ".none"}).status(), absl::StatusCode::kNotFound,
               "0.tok.none");
  ExpectStatus(TokenFiles::Open({::testing::TempDir()}).status(),
               absl::StatusCode::kInvalidArgument, "is no regular file");
}

TEST(TokenFilesTest, BlocksOverlapByTheLookback) {
  Tokens tokens(3 * TokenFiles::kBlockIds + 17);
  std::iota(tokens.begin(), tokens.end(), 0);
  const Files files({tokens, {5, -1}});
  Tokens read;
  std::vector<size_t> contexts;
  const TokenFiles opened = files.Open();
  EXPECT_EQ(opened.ids(), tokens.size() + 2);
  const absl::Status status =
      opened.Read({.limit = 100'000}, 3, [&](absl::Span<const int32_t> ids, size_t context) {
        contexts.push_back(context);
        EXPECT_LE(context, read.size());
        EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + context, read.end() - context));
        read.insert(read.end(), ids.begin() + context, ids.end());
        return absl::OkStatus();
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(contexts, (std::vector<size_t>{0, 3, 3, 3, 0}));
  tokens.insert(tokens.end(), {5, -1});
  EXPECT_EQ(read, tokens);
}

TEST(TokenFilesTest, FilesThatChangeAreNoticed) {
  const Files files({Tokens(10'000, 1)});
  const std::string& path = files.paths()[0];
  const auto read_while = [&](const std::function<void()>& change) {
    const TokenFiles opened = files.Open();
    return opened.Read({.limit = 10}, 3, [&](absl::Span<const int32_t>, size_t context) {
      if (context == 0) change();
      return absl::OkStatus();
    });
  };
  EXPECT_TRUE(read_while([] {}).ok());
  ExpectStatus(read_while([&] { std::filesystem::resize_file(path, 20'000); }),
               absl::StatusCode::kDataLoss, path + " was changed while it was read");
  ExpectStatus(read_while([&] {
                 std::filesystem::last_write_time(
                     path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
               }),
               absl::StatusCode::kDataLoss, "was changed");
}

}  // namespace
}  // namespace engram
