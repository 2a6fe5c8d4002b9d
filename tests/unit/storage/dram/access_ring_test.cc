#include "storage/dram/access_ring.h"
#include "tests/test_seed.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace engram::dram {
namespace {

struct Heard {
  std::map<uint64_t, uint64_t> rows;
  std::map<uint64_t, uint64_t> calls;
  std::map<uint64_t, uint64_t> hbm_rows;
  std::map<uint64_t, std::vector<uint32_t>> samples;

  void Read(RingReader& reader) {
    reader.Read(
        [&](uint64_t stack, const RingReader::Counts& more) {
          rows[stack] += more.rows;
          calls[stack] += more.calls;
          hbm_rows[stack] += more.hbm_rows;
        },
        [&](uint64_t stack, uint32_t row) { samples[stack].push_back(row); });
  }
};

void Push(AccessRing& ring, uint32_t cell, uint32_t row) {
  PutSample(ring, TakePlaces(ring, 1), cell, row);
}

TEST(AccessRing, SaysWhatWasPutOnce) {
  const auto ring = std::make_unique<AccessRing>();
  RingReader reader(ring.get());
  ring->cells[0].stack_id = 5;
  ring->cells[63].stack_id = 9;
  CountRows(ring->cells[0], 100, 1);
  CountRows(ring->cells[63], 7, 0);
  CountHbmRows(ring->cells[63], 12);
  for (const uint32_t row : {0u, 17u, 0xFFFFFFFEu}) Push(*ring, 0, row);
  Push(*ring, 63, 3);
  Heard heard;
  heard.Read(reader);
  EXPECT_EQ(heard.rows, (std::map<uint64_t, uint64_t>{{5, 100}, {9, 7}}));
  EXPECT_EQ(heard.calls[5], 1u);
  EXPECT_EQ(heard.hbm_rows[9], 12u);
  EXPECT_EQ(heard.samples[5], (std::vector<uint32_t>{0, 17, 0xFFFFFFFEu}));
  EXPECT_EQ(heard.samples[9], std::vector<uint32_t>{3});
  Heard again;
  again.Read(reader);
  EXPECT_TRUE(again.rows.empty());
  EXPECT_TRUE(again.samples.empty());
}

TEST(AccessRing, IsFullUntilItIsRead) {
  const auto ring = std::make_unique<AccessRing>();
  RingReader reader(ring.get());
  for (int round = 0; round < 3; ++round) {
    for (uint32_t i = 0; i < kRingSlots; ++i) {
      ASSERT_FALSE(IsFull(*ring)) << i;
      Push(*ring, 0, i);
    }
    EXPECT_TRUE(IsFull(*ring));
    Heard heard;
    heard.Read(reader);
    EXPECT_EQ(heard.samples[0].size(), kRingSlots);
  }
  EXPECT_FALSE(IsFull(*ring));
}

TEST(AccessRing, TheNewestStayWhenNobodyReads) {
  const auto ring = std::make_unique<AccessRing>();
  RingReader reader(ring.get());
  ring->cells[1].stack_id = 2;
  const uint32_t count = 10 * kRingSlots + 3;
  for (uint32_t i = 0; i < count; ++i) Push(*ring, 1, i);
  Heard heard;
  heard.Read(reader);
  ASSERT_EQ(heard.samples[2].size(), kRingSlots);
  EXPECT_EQ(heard.samples[2].front(), count - kRingSlots);
  EXPECT_EQ(heard.samples[2].back(), count - 1);
}

TEST(AccessRing, ASampleOfNoCellIsLeftOut) {
  const auto ring = std::make_unique<AccessRing>();
  RingReader reader(ring.get());
  ring->cells[kRingCells - 1].stack_id = 9;
  Push(*ring, kRingCells - 1, 1);
  Push(*ring, kRingCells, 2);  // the first that there is not
  Push(*ring, 0xFFFFFFFFu, 3);
  Heard heard;
  heard.Read(reader);
  EXPECT_EQ(heard.samples, (std::map<uint64_t, std::vector<uint32_t>>{{9, {1}}}));
}

// Whatever a client writes, a look at it ends, and nothing outside is touched.
TEST(AccessRing, SurvivesGarbage) {
  std::mt19937_64 random(TestSeed());
  const auto ring = std::make_unique<AccessRing>();
  RingReader reader(ring.get());
  auto* const words = reinterpret_cast<uint64_t*>(ring.get());
  for (int round = 0; round < 500; ++round) {
    for (size_t i = 0; i < sizeof(AccessRing) / 8; ++i) words[i] = random() >> (random() % 64);
    uint64_t samples = 0;
    reader.Read(
        [](uint64_t, const RingReader::Counts& counts) {
          EXPECT_LE(counts.rows, uint64_t{1} << 32);
          EXPECT_LE(counts.hbm_rows, uint64_t{1} << 32);
        },
        [&](uint64_t, uint32_t) { ++samples; });
    EXPECT_LE(samples, kRingSlots);
  }
}

TEST(AccessRing, ManyWritersAndAReader) {
  const auto ring = std::make_unique<AccessRing>();
  RingReader reader(ring.get());
  ring->cells[0].stack_id = 1;
  constexpr uint64_t kRows = 200000;
  std::vector<std::thread> writers;
  std::atomic<int> left{3};
  for (int t = 0; t < 3; ++t) {
    writers.emplace_back([&] {
      for (uint64_t i = 0; i < kRows; ++i) {
        CountRows(ring->cells[0], 1, 1);
        if (i % 16 == 0) Push(*ring, 0, 77);
      }
      --left;
    });
  }
  Heard heard;
  while (left > 0) heard.Read(reader);
  for (std::thread& writer : writers) writer.join();
  heard.Read(reader);
  EXPECT_EQ(heard.rows[1], 3 * kRows);
  EXPECT_EQ(heard.calls[1], 3 * kRows);
  for (const uint32_t row : heard.samples[1]) ASSERT_EQ(row, 77u);
}

}  // namespace
}  // namespace engram::dram
