#include "server/lookup/lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "server/lookup/prefetcher.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

class LookupTest : public TableFixture {
 protected:
  absl::StatusOr<std::unique_ptr<Lookup>> Start(const std::vector<uint32_t>& first,
                                                const std::vector<uint32_t>& second,
                                                LookupLimits limits = {}) {
    const std::string one = Bytes(first);
    const std::string two = Bytes(second);
    return Lookup::Start(*tables_, pool_, limits,
                         {.table = "t",
                          .layers = {{LayerId{14}, two}, {LayerId{1}, one}},
                          .want_tiers = true,
                          .expect_table_digest = {}});
  }
  absl::Status Error(const LookupQuery& query, LookupLimits limits = {}) {
    return Lookup::Start(*tables_, pool_, limits, query).status();
  }
};

TEST_F(LookupTest, ReadsAllLayersInOrderFromNvmeThenFromDram) {
  OpenTables(uint64_t{64} << 20);
  Load("t", 1, 5000);
  for (const TierKind expected : {TierKind::kNvme, TierKind::kDram}) {
    auto lookup = Start({0, 4999, 17, 17, 0xFFFFFFFF}, {5006, 3});
    ASSERT_TRUE(lookup.ok()) << lookup.status();
    EXPECT_EQ((*lookup)->ReadMemory(), expected == TierKind::kDram);
    (*lookup)->ReadStorage();
    ASSERT_TRUE((*lookup)->Finish().ok());
    ASSERT_EQ((*lookup)->parts().size(), 2u);
    EXPECT_EQ((*lookup)->parts()[0]->stack->spec().id, LayerId{1});
    EXPECT_EQ((*lookup)->parts()[1]->stack->spec().id, LayerId{14});
    EXPECT_TRUE(RowsAreRight(**lookup));
    EXPECT_EQ((*lookup)->parts()[0]->batch.served(expected), 4u);
    EXPECT_EQ((*lookup)->parts()[1]->batch.served(expected), 2u);
    const uint8_t tier = static_cast<uint8_t>(expected);
    EXPECT_THAT((*lookup)->parts()[0]->tiers,
                ::testing::ElementsAre(tier, tier, tier, tier, kNoTier));
    (*lookup)->Warm();
  }
  const std::vector<TableSnapshot> stats = tables_->Snapshot();
  ASSERT_EQ(stats.size(), 1u);
  EXPECT_EQ(stats[0].lookups, 2u);
  EXPECT_EQ(stats[0].layers[0].tiers[1].hits, 4u);
  EXPECT_EQ(stats[0].layers[0].tiers[2].hits, 4u);
  EXPECT_EQ(stats[0].layers[0].zero_rows, 2u);
  EXPECT_EQ(stats[0].layers[0].tiers[1].usage.rows, 3u);
}

// As a stream does when its first layer fails.
TEST_F(LookupTest, APartThatWasNotReadWarmsNothing) {
  OpenTables(uint64_t{64} << 20);
  Load("t", 1, 5000);
  const std::vector<uint32_t> ids = {4, 9, 4999, 9};
  {
    auto lookup = Start({1, 2}, ids);
    ASSERT_TRUE(lookup.ok()) << lookup.status();
    EXPECT_FALSE((*lookup)->ReadMemory());
    EXPECT_EQ((*lookup)->BeginRead(), 6u);
    (*lookup)->ReadPiece(0, 3, ReadPriority::kNormal, /*offer=*/false);
    EXPECT_TRUE((*lookup)->IsWhole(0));
    EXPECT_FALSE((*lookup)->IsWhole(1));
    (*lookup)->EndRead();
    ASSERT_TRUE((*lookup)->Finish().ok());
    (*lookup)->Warm();
  }
  auto lookup = Start({1, 2}, ids);
  ASSERT_TRUE(lookup.ok()) << lookup.status();
  EXPECT_FALSE((*lookup)->ReadMemory());
  (*lookup)->ReadStorage();
  ASSERT_TRUE((*lookup)->Finish().ok());
  EXPECT_TRUE(RowsAreRight(**lookup));
  EXPECT_EQ((*lookup)->parts()[0]->batch.served(TierKind::kDram), 2u);
  EXPECT_EQ((*lookup)->parts()[1]->batch.served(TierKind::kNvme), 4u);
}

TEST_F(LookupTest, NamesWhatIsWrongWithARequest) {
  OpenTables(0);
  Load("t", 1, 5000);
  const std::string good = Bytes({1});
  absl::Status status = Error({.table = "nobody", .layers = {{LayerId{1}, good}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nobody"));

  status = Error({.table = "t", .version = VersionId{9}, .layers = {{LayerId{1}, good}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 9"));

  status = Error({.table = "t", .layers = {{LayerId{2}, good}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 2"));

  status = Error({.table = "t", .layers = {{LayerId{1}, Bytes({7, 5000})}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("row id 5000 at position 1"));

  status = Error({.table = "t", .layers = {{LayerId{1}, good}, {LayerId{1}, good}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("twice"));

  status = Error({.table = "t", .layers = {{LayerId{1}, "abcde"}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("5 bytes"));

  status = Error({.table = "t"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);

  status = Error({.table = "t", .layers = {{LayerId{1}, good}}, .expect_table_digest = "other"});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);

  status = Error({.table = "t", .layers = {{LayerId{1}, Bytes({1, 2, 3, 4})}}},
                 {.max_answer_bytes = 4 * kRowBytes - 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1056 bytes"));
  EXPECT_TRUE(Error({.table = "t", .layers = {{LayerId{1}, Bytes({1, 2, 3, 4})}}},
                    {.max_answer_bytes = 4 * kRowBytes})
                  .ok());
}

TEST_F(LookupTest, PrefetchedRowsAreServedFromDram) {
  OpenTables(uint64_t{64} << 20);
  Load("t", 1, 5000);
  const std::string ids = Bytes({5, 6, 7, 5, 0xFFFFFFFF});
  {
    Dispatcher dispatcher({.threads = 2});
    Prefetcher prefetcher(tables_.get(), &dispatcher, 16);
    const auto result = prefetcher.Prefetch({.table = "t", .layers = {{LayerId{1}, ids}}});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->accepted, 5u);
    EXPECT_EQ(result->skipped, 0u);
    EXPECT_EQ(prefetcher.Prefetch({.table = "t", .layers = {{LayerId{1}, Bytes({5000})}}})
                  .status()
                  .code(),
              absl::StatusCode::kInvalidArgument);
  }  // runs what is queued
  auto lookup = Start({7, 6, 5}, {});
  ASSERT_TRUE(lookup.ok()) << lookup.status();
  EXPECT_TRUE((*lookup)->ReadMemory());
  ASSERT_TRUE((*lookup)->Finish().ok());
  EXPECT_TRUE(RowsAreRight(**lookup));
  EXPECT_EQ(tables_->Snapshot()[0].prefetched_rows, 3u);
}

// Of many rows the cold ones are looked for in the background.
TEST_F(LookupTest, ALargePrefetchReadsWhatIsColdOnce) {
  OpenTables(uint64_t{64} << 20);
  Load("t", 1, 5000);
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 20000; ++i) ids.push_back(i * 7 % 5000);
  const std::string bytes = Bytes(ids);
  for (const uint64_t prefetched : {5000u, 5000u}) {
    {
      Dispatcher dispatcher({.threads = 2});
      Prefetcher prefetcher(tables_.get(), &dispatcher, 16);
      const auto result = prefetcher.Prefetch({.table = "t", .layers = {{LayerId{1}, bytes}}});
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->accepted, 20000u);
    }  // runs what is queued
    EXPECT_EQ(tables_->Snapshot()[0].prefetched_rows, prefetched);
    EXPECT_EQ(tables_->Snapshot()[0].prefetched_late_rows, 0u);
  }
  auto lookup = Start(ids, {});
  ASSERT_TRUE(lookup.ok()) << lookup.status();
  EXPECT_TRUE((*lookup)->ReadMemory());
  ASSERT_TRUE((*lookup)->Finish().ok());
  EXPECT_TRUE(RowsAreRight(**lookup));
  EXPECT_EQ(tables_->Snapshot()[0].prefetched_used_rows, 5000u);
}

TEST_F(LookupTest, APrefetchMayNameALayerTwiceOrNothing) {
  OpenTables(uint64_t{64} << 20);
  Load("t", 1, 5000);
  const std::string first = Bytes({1, 2});
  const std::string second = Bytes({2, 3});
  {
    // Of rows past the limit of an answer, too.
    Dispatcher dispatcher({.threads = 1});
    Prefetcher prefetcher(tables_.get(), &dispatcher, 16, {.max_answer_bytes = 1});
    const auto result =
        prefetcher.Prefetch({.table = "t", .layers = {{LayerId{1}, first}, {LayerId{1}, second}}});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->accepted, 4u);
    EXPECT_TRUE(prefetcher.Prefetch({.table = "t"}).ok());
  }
  EXPECT_EQ(tables_->Snapshot()[0].prefetched_rows, 3u);
}

TEST_F(LookupTest, PrefetchWithoutDramSaysThatItSkips) {
  OpenTables(0);
  Load("t", 1, 5000);
  Dispatcher dispatcher({.threads = 1});
  Prefetcher prefetcher(tables_.get(), &dispatcher, 16);
  const auto result = prefetcher.Prefetch({.table = "t", .layers = {{LayerId{1}, Bytes({5, 6})}}});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->accepted, 0u);
  EXPECT_EQ(result->skipped, 2u);
}

}  // namespace
}  // namespace engram
