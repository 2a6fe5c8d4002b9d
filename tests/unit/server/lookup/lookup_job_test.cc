#include "server/lookup/lookup_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/test_seed.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LookupJobTest : public TableFixture {
 protected:
  struct Outcome {
    std::shared_ptr<Lookup> lookup;
    std::vector<size_t> parts;  // as they were reported
    absl::Status status;
  };

  std::shared_ptr<Lookup> Start(const LookupQuery& query) {
    auto lookup = Lookup::Start(*tables_, pool_, {}, query);
    EXPECT_TRUE(lookup.ok()) << lookup.status();
    return *std::move(lookup);
  }

  // Runs it to its end.
  Outcome Run(const LookupQuery& query, LookupJob::Caller caller = {}) {
    Outcome outcome{.lookup = Start(query), .parts = {}, .status = {}};
    std::promise<absl::Status> done;
    caller.on_part = [&outcome](size_t part) { outcome.parts.push_back(part); };
    caller.on_done = [&done](const absl::Status& status) { done.set_value(status); };
    {
      Dispatcher dispatcher({.threads = 3, .piece_units = 16});
      EXPECT_TRUE(LookupJob::Submit(dispatcher, outcome.lookup, false, std::move(caller)));
    }  // joins: nothing is running any more
    outcome.status = done.get_future().get();
    return outcome;
  }

  static std::vector<uint32_t> RandomIds(std::mt19937_64& random, size_t count, uint32_t rows) {
    std::vector<uint32_t> ids(count);
    for (uint32_t& id : ids) id = random() % 50 == 0 ? 0xFFFFFFFF : random() % rows;
    return ids;
  }
};

TEST_F(LookupJobTest, FindsWhatAWholeLookUpFinds) {
  OpenTables(uint64_t{64} << 20);
  Load("t", 1, 5000);
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 6; ++round) {  // colder at first
    const std::string one = Bytes(RandomIds(random, 3000, 5000));
    const std::string two = Bytes(RandomIds(random, random() % 2000, 5007));
    const LookupQuery query{
        .table = "t", .layers = {{LayerId{1}, one}, {LayerId{14}, two}}, .want_tiers = true};
    const Outcome outcome = Run(query);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_THAT(outcome.parts, ElementsAre(0, 1));
    ASSERT_TRUE(RowsAreRight(*outcome.lookup));
    for (const auto& part : outcome.lookup->parts()) {
      uint64_t dead = 0;
      std::array<uint64_t, kTierCount> of_tier{};
      for (size_t i = 0; i < part->ids.size(); ++i) {
        if (part->ids[i] == RowId::kDeadPosition) {
          ++dead;
          EXPECT_EQ(part->tiers[i], kNoTier);
        } else {
          ++of_tier[part->tiers[i]];
        }
      }
      EXPECT_TRUE(part->batch.missing().empty());
      for (const TierKind kind : kAllTiers) {
        EXPECT_EQ(part->batch.served(kind), of_tier[static_cast<size_t>(kind)]);
      }
    }
  }
  const TableSnapshot stats = tables_->Snapshot()[0];
  EXPECT_EQ(stats.lookups, 6u);
  EXPECT_GT(stats.layers[0].tiers[1].hits, 0u);  // what one has read the next finds in DRAM
}

TEST_F(LookupJobTest, OfTokensEachRowIsReadOnce) {
  OpenTables(0);
  LoadHashed("t", 1, nullptr);
  std::mt19937_64 random(TestSeed());
  std::vector<uint32_t> tokens(4000);
  for (uint32_t& token : tokens) token = random() % 50;
  const std::string bytes = Bytes(tokens);
  const LookupQuery query{.table = "t",
                          .tokens = TokenQuery{.token_ids = bytes, .compressed = true}};
  const std::shared_ptr<Lookup> whole = Start(query);
  EXPECT_FALSE(whole->ReadMemory());
  whole->ReadStorage();
  ASSERT_TRUE(whole->Finish().ok());
  const Outcome outcome = Run(query);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  ASSERT_TRUE(RowsAreRight(*outcome.lookup));
  for (size_t i = 0; i < whole->parts().size(); ++i) {
    EXPECT_EQ(outcome.lookup->parts()[i]->cold.size(), whole->parts()[i]->cold.size());
    EXPECT_LT(outcome.lookup->parts()[i]->cold.size(), outcome.lookup->parts()[i]->ids.size());
    EXPECT_EQ(outcome.lookup->parts()[i]->batch.served(TierKind::kNvme),
              whole->parts()[i]->batch.served(TierKind::kNvme));
  }
}

TEST_F(LookupJobTest, WarmRowsNeedNoDrive) {
  OpenTables(uint64_t{64} << 20);
  Load("t", 1, 5000);
  const std::string ids = Bytes({5, 6, 7});
  const LookupQuery query{.table = "t", .layers = {{LayerId{1}, ids}}};
  for (const TierKind expected : {TierKind::kNvme, TierKind::kDram}) {
    const Outcome outcome = Run(query);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_TRUE(RowsAreRight(*outcome.lookup));
    EXPECT_EQ(outcome.lookup->parts()[0]->batch.served(expected), 3u);
    EXPECT_THAT(outcome.parts, ElementsAre(0));
  }
}

TEST_F(LookupJobTest, AFailedRowEndsItAfterTheLayersBefore) {
  OpenTables(0);
  Load("t", 1, 5000);
  store_.reset();
  tables_.reset();
  ASSERT_EQ(DamageSecondPages(), 2);
  OpenStore();
  OpenTables(0);
  std::vector<uint32_t> ids(2000);
  for (uint32_t i = 0; i < ids.size(); ++i) ids[i] = 1999 - i;
  const std::string good = Bytes({1, 2, 3});
  const std::string bad = Bytes(ids);  // 15 to 29 are lost
  LookupQuery query{.table = "t", .layers = {{LayerId{1}, good}, {LayerId{14}, bad}}};
  Outcome outcome = Run(query);
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDataLoss) << outcome.status;
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("of layer 14"));
  EXPECT_THAT(outcome.parts, ElementsAre(0));

  query.fail_on_row_error = false;
  outcome = Run(query);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.parts, ElementsAre(0, 1));
  const std::vector<RowFailure>& failures = outcome.lookup->parts()[1]->batch.failures();
  ASSERT_EQ(failures.size(), 15u);
  for (size_t i = 0; i < failures.size(); ++i) EXPECT_EQ(failures[i].position, 1999 - 29 + i);
}

TEST_F(LookupJobTest, ACallerWhoIsGoneIsNotReadFor) {
  OpenTables(0);
  Load("t", 1, 5000);
  const std::string ids = Bytes({5, 6, 7});
  const LookupQuery query{.table = "t", .layers = {{LayerId{1}, ids}}};
  Outcome outcome = Run(query, {.is_gone = [] { return true; }});
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kCancelled) << outcome.status;
  outcome = Run(query, {.deadline = std::chrono::steady_clock::now()});
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDeadlineExceeded) << outcome.status;
  EXPECT_TRUE(outcome.parts.empty());
  const TableSnapshot stats = tables_->Snapshot()[0];
  EXPECT_EQ(stats.failed_lookups, 2u);
  EXPECT_EQ(stats.layers[0].tiers[2].hits, 0u);
}

// Which class the drive saw it in.
TEST_F(LookupJobTest, IsWhatItsCallerSaysOrItsSize) {
  OpenTables(0);
  Load("t", 1, 5000);
  std::vector<uint32_t> many(2000);
  for (uint32_t i = 0; i < many.size(); ++i) many[i] = i;
  const std::string small = Bytes({1, 2, 3});
  const std::string large = Bytes(many);
  const auto class_of = [&](const std::string& ids, std::optional<Urgency> urgency) {
    Dispatcher dispatcher({.threads = 1});
    const std::shared_ptr<Lookup> lookup = Start({.table = "t", .layers = {{LayerId{1}, ids}}});
    EXPECT_FALSE(lookup->ReadMemory());
    std::promise<absl::Status> done;
    EXPECT_TRUE(LookupJob::Submit(
        dispatcher, lookup, true,
        {.urgency = urgency,
         .on_done = [&done](const absl::Status& status) { done.set_value(status); }}));
    EXPECT_TRUE(done.get_future().get().ok());
    const auto queue = dispatcher.Snapshot();
    for (size_t i = 0; i < kUrgencies; ++i) {
      if (queue[i].wait_seconds.count > 0) return static_cast<Urgency>(i);
    }
    return Urgency::kBackground;
  };
  EXPECT_EQ(class_of(small, {}), Urgency::kDecode);
  EXPECT_EQ(class_of(large, {}), Urgency::kPrefill);
  EXPECT_EQ(class_of(small, Urgency::kPrefill), Urgency::kPrefill);
  EXPECT_EQ(class_of(large, Urgency::kPrefetch), Urgency::kPrefetch);
  EXPECT_EQ(class_of(large, Urgency::kDecode), Urgency::kPrefill) << "too large for decode work";
}

TEST_F(LookupJobTest, AFullQueueRefusesIt) {
  OpenTables(0);
  Load("t", 1, 5000);
  std::promise<void> release;
  std::promise<void> started;
  Dispatcher dispatcher({.threads = 1, .max_queued = 1});
  ASSERT_TRUE(dispatcher.Submit({}, [&] {
    started.set_value();
    release.get_future().wait();
  }));
  started.get_future().wait();
  ASSERT_TRUE(dispatcher.Submit({}, [] {}));
  const std::string ids = Bytes({5});
  const bool taken =
      LookupJob::Submit(dispatcher, Start({.table = "t", .layers = {{LayerId{1}, ids}}}), false,
                        {.on_done = [](const absl::Status&) { FAIL() << "it was refused"; }});
  EXPECT_FALSE(taken);
  EXPECT_EQ(tables_->Snapshot()[0].failed_lookups, 1u) << "an alert looks at it";
  release.set_value();
}

}  // namespace
}  // namespace engram
