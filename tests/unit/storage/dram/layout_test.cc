#include "storage/dram/layout.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <utility>
#include <vector>

#include "storage/dram/fit_shape.h"
#include "storage/dram/reader.h"
#include "tests/test_seed.h"

namespace engram::dram {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

TEST(FitShape, StaysWithinItsBudgetAndUsesIt) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 20000; ++round) {
    const uint64_t budget = random() % 2 == 0 ? random() % (64 * kMiB) : random() % (2048 * kGiB);
    const auto row_bytes = static_cast<uint32_t>(1 + random() % 4096);
    const uint64_t rows = 1 + random() % (uint64_t{1} << (random() % 32));
    const uint64_t page = random() % 4 == 0 ? kHugePageBytes : kPageBytes;
    SCOPED_TRACE(testing::Message() << budget << " " << row_bytes << " " << rows << " " << page);
    const LayerShape shape = FitShape(budget, row_bytes, rows, page);
    ASSERT_LE(shape.TotalBytes() + (shape.segments > 0 ? shape.HeapBytes() : 0), budget);
    ASSERT_LE(shape.segments, kMaxSegments);
    uint64_t units = 0;
    for (uint32_t i = 0; i < shape.segments; ++i) {
      ASSERT_EQ(shape.SegmentBytes(i) % page, 0u);
      ASSERT_GT(shape.UnitsOf(i), 0u);
      units += shape.UnitsOf(i);
    }
    if (shape.mode == Mode::kResident) {
      ASSERT_EQ(units, rows);
    } else if (shape.segments == 0) {
      LayerShape least = shape;
      least.segments = least.per_segment = 1;
      ASSERT_LT(budget, least.SegmentBytes(0) + 4 * page);
    } else if (budget > 16 * page && budget > 16 * shape.SetBytes()) {
      // What is lost to whole segments, pages and sets: a sixteenth, in large budgets a thirtieth.
      ASSERT_GE(shape.TotalBytes() + shape.HeapBytes(), budget - budget / 8 - 2 * page);
    }
  }
}

TEST(FitShape, IsResidentAsSoonAsAllRowsFit) {
  const uint64_t rows = 1000000;
  const LayerShape whole = FitShape(kGiB, 264, rows);
  ASSERT_EQ(whole.mode, Mode::kResident);
  const uint64_t least = whole.TotalBytes() + whole.HeapBytes();
  EXPECT_LT(least, rows * 264 * 102 / 100);
  EXPECT_EQ(FitShape(least, 264, rows).mode, Mode::kResident);
  EXPECT_EQ(FitShape(least - 1, 264, rows).mode, Mode::kCache);
}

// TotalBytes() and HeapBytes() where no number runs over.
unsigned __int128 WideTotal(const LayerShape& shape) {
  if (shape.segments == 0) return 0;
  const uint64_t stride = (uint64_t{shape.row_bytes} + 7) / 8 * 8;
  const bool resident = shape.mode == Mode::kResident;
  unsigned __int128 total = shape.HeapBytes();
  for (const uint32_t segment : {uint32_t{0}, shape.segments - 1}) {
    unsigned __int128 bytes = shape.RowsOffset();
    bytes += static_cast<unsigned __int128>(shape.UnitsOf(segment)) *
             (resident ? stride : shape.SetBytes());
    bytes = (bytes + shape.page_bytes - 1) / shape.page_bytes * shape.page_bytes;
    total += bytes * (segment == 0 ? shape.segments - 1 : 1);
    if (shape.segments == 1) return total + bytes;
  }
  return total;
}

TEST(FitShape, NoBudgetAndNoLayerOverflows) {
  constexpr uint64_t kMost = ~uint64_t{0};
  constexpr uint64_t kMostRows = 0xFFFFFFFFull;
  std::mt19937_64 random(TestSeed());
  const auto any = [&](uint64_t most) {
    return random() % 4 == 0 ? most : random() >> random() % 64;
  };
  for (int round = 0; round < 20000; ++round) {
    const uint64_t budget = any(kMost);
    const auto row_bytes = static_cast<uint32_t>(1 + any(kMostRows - 1) % kMostRows);
    const uint64_t rows = 1 + any(kMost - 1) % kMost;
    const uint64_t page = random() % 3 == 0   ? kGiB
                          : random() % 2 == 0 ? kHugePageBytes
                                              : kPageBytes;
    SCOPED_TRACE(testing::Message() << budget << " " << row_bytes << " " << rows << " " << page);
    const LayerShape shape = FitShape(budget, row_bytes, rows, page);
    ASSERT_EQ(shape.row_bytes, row_bytes);
    ASSERT_EQ(shape.layer_rows, rows);
    ASSERT_LE(shape.segments, kMaxSegments);
    ASSERT_TRUE(WideTotal(shape) <= budget);
    if (shape.segments == 0) continue;
    ASSERT_GT(shape.per_segment, 0u);
    if (shape.mode == Mode::kCache) continue;
    ASSERT_LE(rows, kMostRows);
    ASSERT_GE(uint64_t{shape.per_segment} * shape.segments, rows);
    ASSERT_LT(uint64_t{shape.per_segment} * (shape.segments - 1), rows);
  }
}

TEST(FitShape, AbsurdBudgetsAreUsed) {
  constexpr uint64_t kMost = ~uint64_t{0};
  // Every row id there is, of any size whose bytes are a number.
  EXPECT_EQ(FitShape(kMost, 264, 0xFFFFFFFF).mode, Mode::kResident);
  EXPECT_EQ(FitShape(kMost, 264, 0xFFFFFFFF).Slots(), 0xFFFFFFFFu);
  // More rows than ids: 2^61 × 8 bytes are 2^64, and none of that is a layout.
  const LayerShape shape = FitShape(kMost, 8, uint64_t{1} << 61);
  EXPECT_EQ(shape.mode, Mode::kCache);
  EXPECT_EQ(shape.per_segment, 0xFFFFFFFFu);
  // Small layers are resident in one segment.
  EXPECT_EQ(FitShape(kMost, 1, 1).TotalBytes(), FitShape(kMiB, 1, 1).TotalBytes());
  EXPECT_EQ(FitShape(kMost, 8, 7).segments, 1u);
  // Whole pages, however large they are.
  EXPECT_EQ(FitShape(3 * kGiB / 2, 264, 0xFFFFFFFF, kGiB).TotalBytes(), kGiB);
  EXPECT_EQ(FitShape(kGiB / 2, 264, 0xFFFFFFFF, kGiB).segments, 0u);
}

// Memory of zeros under a view, with one segment after the other.
struct Memory {
  explicit Memory(const LayerShape& shape) : bytes(shape.TotalBytes() + kPageBytes) {
    std::byte* at = bytes.data() + (-reinterpret_cast<uintptr_t>(bytes.data()) % kPageBytes);
    for (uint32_t i = 0; i < shape.segments; ++i) {
      segments.push_back(at);
      at += shape.SegmentBytes(i);
    }
  }
  std::vector<std::byte> bytes;
  std::vector<std::byte*> segments;
};

bool Inside(const LayerShape& shape, const std::vector<std::byte*>& segments, uint32_t segment,
            const std::byte* begin, uint64_t size) {
  return begin >= segments[segment] + kHeaderBytes &&
         begin + size <= segments[segment] + shape.SegmentBytes(segment);
}

TEST(View, EveryRowOfAResidentLayerHasAPlaceOfItsOwn) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 20; ++round) {
    const auto row_bytes = static_cast<uint32_t>(1 + random() % 600);
    const uint64_t rows = 1 + random() % 30000;
    const LayerShape shape = FitShape(64 * kMiB, row_bytes, rows);
    ASSERT_EQ(shape.mode, Mode::kResident);
    SCOPED_TRACE(testing::Message() << row_bytes << " × " << rows);
    const Memory memory(shape);
    const View view(shape, memory.segments, {});
    std::set<std::byte*> slots;
    std::set<std::pair<uint64_t*, uint64_t>> bits;
    for (uint32_t row = 0; row < rows; ++row) {
      const uint32_t segment = view.SegmentOf(row);
      ASSERT_EQ(segment, row / shape.per_segment);
      ASSERT_TRUE(Inside(shape, memory.segments, segment, view.SlotOf(row), shape.RowStride()));
      ASSERT_TRUE(slots.insert(view.SlotOf(row)).second);
      ASSERT_TRUE(bits.insert({&view.BitWord(row), view.BitOf(row)}).second);
      ASSERT_LE(reinterpret_cast<std::byte*>(&view.BitWord(row) + 1),
                memory.segments[segment] + shape.RowsOffset());
    }
    // No two rows share bytes: they lie a stride apart.
    EXPECT_EQ((*slots.rbegin() - memory.segments.back()) % 8, 0);
    EXPECT_EQ(view.Find(static_cast<uint32_t>(rows)).row, nullptr);
  }
}

TEST(View, QuotientsAreExactForEveryId) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 2000; ++round) {
    LayerShape shape{.mode = Mode::kResident, .row_bytes = 8, .layer_rows = 0xFFFFFFFFull};
    shape.per_segment = static_cast<uint32_t>(1 + random() % (uint64_t{1} << (1 + random() % 31)));
    const View view(shape, {}, {});
    for (int i = 0; i < 100; ++i) {
      auto id = static_cast<uint32_t>(random());
      // The hard ones lie beside multiples.
      if (i % 2 == 0) id = id / shape.per_segment * shape.per_segment - (i % 4 == 0);
      ASSERT_EQ(view.SegmentOf(id), id / shape.per_segment) << id << " / " << shape.per_segment;
    }
  }
}

TEST(View, SetsAndTheirRowsLieInTheirSegment) {
  for (const uint32_t row_bytes : {1u, 8u, 160u, 256u, 264u, 320u, 512u, 4096u}) {
    const LayerShape shape = FitShape(9 * kMiB, row_bytes, 100000000);
    ASSERT_EQ(shape.mode, Mode::kCache);
    ASSERT_GT(shape.segments, 1u);
    const Memory memory(shape);
    std::vector<uint16_t> buckets(kBuckets);
    for (uint32_t i = 0; i < kBuckets; ++i) buckets[i] = static_cast<uint16_t>(i % shape.segments);
    const View view(shape, memory.segments, buckets);
    std::vector<uint64_t> hits(shape.segments);
    for (uint32_t row = 0; row < 200000; ++row) {
      std::byte* const set = view.SetOf(row);
      const uint32_t segment = buckets[BucketOf(HashRowId(row))];
      ++hits[segment];
      ASSERT_TRUE(Inside(shape, memory.segments, segment, set, shape.SetBytes()));
      ASSERT_EQ(reinterpret_cast<uintptr_t>(set) % kLineBytes, 0u);
      ASSERT_LE(view.HotLineOf(row) + kLineBytes, memory.segments[segment] + shape.RowsOffset());
      ASSERT_GE(view.HotLineOf(row), memory.segments[segment] + kHeaderBytes);
      // The same place among the counts as among the sets.
      ASSERT_EQ((view.HotLineOf(row) - memory.segments[segment] - kHeaderBytes) / kLineBytes,
                static_cast<uint64_t>(set - memory.segments[segment] - shape.RowsOffset()) /
                    shape.SetBytes());
      std::byte* const last = view.SlotIn(set, kWays - 1);
      ASSERT_LE(last + shape.RowStride(), set + shape.SetBytes());
      ASSERT_GE(view.SlotIn(set, 0), reinterpret_cast<std::byte*>(&View::state(set) + 1));
      if (row_bytes % kLineBytes == 0) {
        ASSERT_EQ(reinterpret_cast<uintptr_t>(last) % kLineBytes, 0u);
      }
    }
    for (const uint64_t one : hits) {
      EXPECT_NEAR(static_cast<double>(one), 200000.0 / shape.segments,
                  200000.0 / shape.segments / 8);
    }
  }
}

TEST(SegmentHeader, ChecksumCoversWhatNeverChanges) {
  SegmentHeader header{};
  header.magic = kSegmentMagic;
  const uint64_t before = HeaderChecksum(header);
  header.complete = 1;
  header.buckets[3] = 7;
  EXPECT_EQ(HeaderChecksum(header), before);
  auto* const bytes = reinterpret_cast<unsigned char*>(&header);
  for (size_t i = 0; i < offsetof(SegmentHeader, checksum); ++i) {
    bytes[i] ^= 1;
    EXPECT_NE(HeaderChecksum(header), before) << i;
    bytes[i] ^= 1;
  }
}

}  // namespace
}  // namespace engram::dram
