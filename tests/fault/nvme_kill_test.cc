// kill -9 in the middle of loads and drops: whatever the moment, no half table is visible, the
// load can be finished, and every row is right.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/fault/nvme_load_child.h"

namespace engram {
namespace {

// How many things a run does to the file system when nobody kills it.
uint64_t CountEvents(const std::string& verb) {
  const TestDirectory directory;
  const ChildResult result = RunChild(directory / "data", 0, verb);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_GT(result.events, 50u);
  return result.events;
}

// Published means whole; otherwise nothing is to be seen, and the load can be finished.
void ExpectWholeOrNothing(const std::string& directory, const TableSpec& spec) {
  std::unique_ptr<Store> store = OpenOrDie(directory);
  ASSERT_NE(store, nullptr);
  const absl::StatusOr<TableRecord> found = store->Find(spec.name, spec.version);
  if (found.ok() && found->state == TableState::kPublished) {
    EXPECT_TRUE(found->active);
    ExpectWholeTable(*store, spec);
    return;
  }
  for (const LayerSpec& layer : spec.layers) {
    EXPECT_FALSE(store->OpenLayer(spec.name, spec.version, layer.id).ok());
  }
  const absl::StatusOr<TableRecord> record = Load(*store, spec);
  ASSERT_TRUE(record.ok()) << record.status();
  ExpectWholeTable(*store, spec);
}

TEST(NvmeKillTest, LoadKilledAtRandomPoints) {
  std::mt19937_64 random(TestSeed());
  const uint64_t events = CountEvents("load");
  for (int round = 0; round < 16; ++round) {
    const TestDirectory directory;
    const std::string data = directory / "data";
    const uint64_t first = 1 + random() % events;
    SCOPED_TRACE("killed at " + std::to_string(first));
    const ChildResult killed = RunChild(data, first, "load");
    ASSERT_TRUE(killed.killed || killed.exit_code == 0);
    // Often once more, while it takes up what it had.
    if (round % 2 == 0) {
      const ChildResult again = RunChild(data, 1 + random() % events, "load");
      ASSERT_TRUE(again.killed || again.exit_code == 0);
    }
    ExpectWholeOrNothing(data, KillSpec());
  }
}

TEST(NvmeKillTest, EndOfALoadKilledAtEveryOtherPoint) {
  // The publication is in the last third: every other of its moments, odd or even by the seed.
  const uint64_t events = CountEvents("load");
  for (uint64_t at = events - events / 3 + TestSeed() % 2; at <= events; at += 2) {
    const TestDirectory directory;
    SCOPED_TRACE("killed at " + std::to_string(at));
    const ChildResult killed = RunChild(directory / "data", at, "load");
    ASSERT_TRUE(killed.killed || killed.exit_code == 0);
    ExpectWholeOrNothing(directory / "data", KillSpec());
  }
}

TEST(NvmeKillTest, DropKilledAtRandomPoints) {
  std::mt19937_64 random(TestSeed());
  const uint64_t load = CountEvents("load");
  const uint64_t events = CountEvents("drop");
  for (int round = 0; round < 8; ++round) {
    const TestDirectory directory;
    const uint64_t at = load - 20 + random() % (events + 20 - load);
    SCOPED_TRACE("killed at " + std::to_string(at));
    const ChildResult killed = RunChild(directory / "data", at, "drop");
    ASSERT_TRUE(killed.killed || killed.exit_code == 0);
    ExpectWholeOrNothing(directory / "data", KillSpec());
  }
}

}  // namespace
}  // namespace engram
