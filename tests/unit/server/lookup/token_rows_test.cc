#include "server/lookup/token_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

#include "server/lookup/prefetcher.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

constexpr uint64_t kNoLimit = uint64_t{1} << 40;

class TokenRowsTest : public TableFixture {
 protected:
  void SetUp() override {
    TableFixture::SetUp();
    OpenTables(uint64_t{64} << 20);
    const TokenMap map = HalvingMap();
    LoadHashed("t", 1, &map);
  }

  static std::string TokenBytes(const Ids& ids) {
    return std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t));
  }

  // The rows of layer `index` by the formulas, for one sequence of compressed ids.
  static std::vector<RowId> Plain(size_t index, const Ids& compressed, size_t lookback = 0) {
    const TableSpec spec = HashedSpec("t", 1);
    const NgramHasher hasher = NgramHasher::Create(spec.addressing, spec.layers[index]).value();
    const TokenSpan tokens{compressed, lookback};
    std::vector<RowId> rows(tokens.positions() * hasher.columns());
    hasher.HashPlain(tokens, absl::MakeSpan(rows));
    return rows;
  }

  absl::StatusOr<std::vector<LayerRowIds>> Rows(const TokenQuery& query,
                                                uint64_t limit = kNoLimit) {
    const auto table = tables_->Find("t", kActiveVersion);
    if (!table.ok()) return table.status();
    return RowsOfTokens(**table, query, limit);
  }
  std::string Error(const TokenQuery& query, absl::StatusCode code, uint64_t limit = kNoLimit) {
    const absl::Status status = Rows(query, limit).status();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  }
};

TEST_F(TokenRowsTest, RawIdsAreCompressedAndHashedForEveryLayer) {
  const std::string tokens = TokenBytes({10, 11, 99, -1, 7});
  const auto rows = Rows({.token_ids = tokens});
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ((*rows)[i].ids, Plain(i, {5, 5, 49, -1, 3}));
  EXPECT_EQ((*rows)[0].stack->spec().id, LayerId{1});
  EXPECT_EQ((*rows)[1].stack->spec().id, LayerId{14});
  const std::string compressed = TokenBytes({5, 5, 49, -1, 3});
  const auto same = Rows({.token_ids = compressed, .layers = {14}, .compressed = true});
  ASSERT_TRUE(same.ok()) << same.status();
  ASSERT_EQ(same->size(), 1u);
  EXPECT_EQ((*same)[0].ids, (*rows)[1].ids);
}

TEST_F(TokenRowsTest, SequencesDoNotSeeEachOther) {
  const std::string tokens = TokenBytes({1, 2, 3, 4, 5, 6, 7});
  const auto rows = Rows({.token_ids = tokens,
                          .lengths = {3, 0, 4},
                          .lookbacks = {0, 0, 2},
                          .layers = {1},
                          .compressed = true});
  ASSERT_TRUE(rows.ok()) << rows.status();
  std::vector<RowId> expected = Plain(0, {1, 2, 3});
  const std::vector<RowId> second = Plain(0, {4, 5, 6, 7}, 2);
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_EQ((*rows)[0].ids, expected);
}

TEST_F(TokenRowsTest, EverySplitIntoStepsGivesTheSameRows) {
  const char* given = std::getenv("ENGRAM_TEST_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "ENGRAM_TEST_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  Ids whole(40);
  for (int32_t& id : whole) id = static_cast<int32_t>(random() % 51) - 1;
  const std::vector<RowId> expected = Plain(0, whole);
  for (size_t split = 0; split <= whole.size(); ++split) {
    const size_t lookback = std::min<size_t>(split, 2);
    // Both chunks as sequences of one request.
    Ids ids(whole.begin(), whole.begin() + split);
    ids.insert(ids.end(), whole.begin() + split - lookback, whole.end());
    const std::string tokens = TokenBytes(ids);
    const auto rows = Rows({.token_ids = tokens,
                            .lengths = {static_cast<uint32_t>(split),
                                        static_cast<uint32_t>(whole.size() - split + lookback)},
                            .lookbacks = {0, static_cast<uint32_t>(lookback)},
                            .layers = {1},
                            .compressed = true});
    ASSERT_TRUE(rows.ok()) << rows.status();
    ASSERT_EQ((*rows)[0].ids, expected)
        << "split at " << split << " of " << ::testing::PrintToString(whole);
  }
}

TEST_F(TokenRowsTest, NoTokensAskForNoRows) {
  const auto rows = Rows({});
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_TRUE((*rows)[0].ids.empty());
  const std::string context = TokenBytes({1, 2});
  const auto only_context = Rows({.token_ids = context, .lookbacks = {2}});
  ASSERT_TRUE(only_context.ok()) << only_context.status();
  EXPECT_TRUE((*only_context)[1].ids.empty());
}

TEST_F(TokenRowsTest, NamesWhatIsWrongWithTheTokens) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const std::string tokens = TokenBytes({1, 2, 3});
  EXPECT_THAT(Error({.token_ids = "abcde"}, kInvalid), HasSubstr("5 bytes"));
  const std::string high = TokenBytes({1, 100});
  EXPECT_THAT(Error({.token_ids = high}, kInvalid), HasSubstr("100"));
  const std::string low = TokenBytes({1, 2, -2});
  EXPECT_THAT(Error({.token_ids = low}, kInvalid), HasSubstr("-2"));
  EXPECT_THAT(Error({.token_ids = low, .compressed = true}, kInvalid), HasSubstr("position 2"));
  const std::string raw = TokenBytes({50});
  EXPECT_THAT(Error({.token_ids = raw, .compressed = true}, kInvalid), HasSubstr("0 to 49"));
  EXPECT_THAT(Error({.token_ids = tokens, .lengths = {2}}, kInvalid),
              HasSubstr("add up to 2, but there are 3"));
  EXPECT_THAT(Error({.token_ids = tokens, .lengths = {2, 4294967295u, 4294967295u}}, kInvalid),
              HasSubstr("add up to 8589934592, but there are 3"));
  EXPECT_THAT(Error({.token_ids = tokens, .lookbacks = {4}}, kInvalid),
              HasSubstr("sequence 0 has a lookback of 4 in 3 ids"));
  EXPECT_THAT(Error({.token_ids = tokens, .lengths = {1, 2}, .lookbacks = {1}}, kInvalid),
              HasSubstr("1 lookbacks for 2 sequences"));
  EXPECT_THAT(Error({.token_ids = tokens, .layers = {1, 1}}, kInvalid),
              HasSubstr("layer 1 is named twice"));
  const std::vector<uint32_t> empty(1100);
  EXPECT_THAT(Error({.token_ids = tokens, .lengths = empty}, kInvalid),
              HasSubstr("1100 sequences of 3 ids"));
  const std::vector<int32_t> many(1025, 1);
  EXPECT_THAT(Error({.token_ids = tokens, .layers = many}, kInvalid),
              HasSubstr("more than 1024 layers"));
  EXPECT_THAT(Error({.token_ids = tokens, .layers = {2}}, absl::StatusCode::kNotFound),
              HasSubstr("no layer 2"));
  // 3 tokens × 4 columns × 2 layers × 264 bytes.
  EXPECT_THAT(Error({.token_ids = tokens}, absl::StatusCode::kResourceExhausted, 6335),
              HasSubstr("3 tokens ask for 8 rows each, 2112 bytes"));
  EXPECT_TRUE(Rows({.token_ids = tokens}, 6336).ok());
  // 2^21 tokens × 8 rows are as many as one request may have.
  const std::string most(4u << 21, '\0');
  EXPECT_TRUE(Rows({.token_ids = most}).ok());
  const std::string more = most + tokens;
  EXPECT_THAT(Error({.token_ids = more}, absl::StatusCode::kResourceExhausted),
              HasSubstr("16777216 rows in all"));
}

TEST_F(TokenRowsTest, SaysWhatATableCannotDo) {
  const std::string tokens = TokenBytes({1});
  LoadHashed("mapless", 1, nullptr);
  Load("by_id", 1, 100);
  const auto mapless = tables_->Find("mapless", kActiveVersion).value();
  const auto by_id = tables_->Find("by_id", kActiveVersion).value();
  const absl::Status no_map = RowsOfTokens(*mapless, {.token_ids = tokens}, kNoLimit).status();
  EXPECT_EQ(no_map.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(no_map.message()), HasSubstr("tokenizer.json"));
  EXPECT_TRUE(RowsOfTokens(*mapless, {.token_ids = tokens, .compressed = true}, kNoLimit).ok());
  const absl::Status no_hash = RowsOfTokens(*by_id, {.token_ids = tokens}, kNoLimit).status();
  EXPECT_EQ(no_hash.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(no_hash.message()), HasSubstr("by id"));
}

TEST_F(TokenRowsTest, TheMapOutlivesARestart) {
  Reopen(0);
  const auto table = tables_->Find("t", kActiveVersion).value();
  ASSERT_TRUE(table->token_map.has_value());
  EXPECT_EQ(table->token_map->digest(), HalvingMap().digest());
}

TEST_F(TokenRowsTest, APrefetchMakesTheSameTokensWarm) {
  const std::string tokens = TokenBytes({10, 11, 10, 11, 10, -1, 11});
  const LookupQuery query{.table = "t", .tokens = TokenQuery{.token_ids = tokens}};
  {
    Dispatcher dispatcher({.threads = 2});
    Prefetcher prefetcher(tables_.get(), &dispatcher, 16);
    const auto result = prefetcher.Prefetch(query);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->accepted, 2u * 4 * 7);
  }  // runs what is queued
  LookupQuery wanted = query;
  wanted.want_tiers = true;
  const auto lookup = Lookup::Start(*tables_, pool_, {}, wanted);
  ASSERT_TRUE(lookup.ok()) << lookup.status();
  EXPECT_TRUE((*lookup)->ReadMemory());
  ASSERT_TRUE((*lookup)->Finish().ok());
  EXPECT_TRUE(RowsAreRight(**lookup));
  for (const auto& part : (*lookup)->parts()) {
    EXPECT_EQ(part->batch.served(TierKind::kDram), 4u * 6);
    EXPECT_EQ(std::count(part->tiers.begin(), part->tiers.end(), 1), 4 * 6);
  }
  const TableSnapshot stats = tables_->Snapshot()[0];
  EXPECT_GT(stats.prefetched_rows, 0u);
  EXPECT_LT(stats.prefetched_rows, 2u * 4 * 6);  // each once
  EXPECT_EQ(stats.prefetched_used_rows, stats.prefetched_rows);
  EXPECT_EQ(stats.prefetched_unused_rows, 0u);
  EXPECT_EQ(stats.prefetched_late_rows, 0u);
}

TEST_F(TokenRowsTest, ARepeatedNgramIsReadOnce) {
  Reopen(0);
  const std::string tokens = TokenBytes(Ids(200, 8));
  const auto lookup =
      Lookup::Start(*tables_, pool_, {}, {.table = "t", .tokens = TokenQuery{.token_ids = tokens}});
  ASSERT_TRUE(lookup.ok()) << lookup.status();
  EXPECT_FALSE((*lookup)->ReadMemory());
  // Positions 0, 1 and 2 see different beginnings, all later ones the same.
  for (const auto& part : (*lookup)->parts()) EXPECT_LE(part->cold.size(), 4u * 3);
  (*lookup)->ReadStorage();
  ASSERT_TRUE((*lookup)->Finish().ok());
  EXPECT_TRUE(RowsAreRight(**lookup));
  EXPECT_EQ((*lookup)->parts()[0]->batch.served(TierKind::kNvme), 4u * 200);
}

TEST_F(TokenRowsTest, ALookUpTakesIdsOrTokens) {
  const std::string tokens = TokenBytes({1});
  const std::string ids = Bytes({1});
  const absl::Status both =
      Lookup::Start(
          *tables_, pool_, {},
          {.table = "t", .layers = {{LayerId{1}, ids}}, .tokens = TokenQuery{.token_ids = tokens}})
          .status();
  EXPECT_EQ(both.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(both.message()), HasSubstr("both row ids and tokens"));
  const absl::Status other = Lookup::Start(*tables_, pool_, {},
                                           {.table = "t",
                                            .tokens = TokenQuery{.token_ids = tokens},
                                            .expect_table_digest = "another"})
                                 .status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace engram
