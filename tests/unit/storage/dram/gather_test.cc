// A writer that changes a set between a reader's steps: find, copy, look again. It runs within the
// reader's own thread, so every interleaving here is certain.
#include "storage/dram/gather.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "storage/dram/layout.h"
#include "storage/dram/reader.h"
#include "tests/unit/storage/dram/derived_rows.h"

namespace engram::dram {
namespace {

using dram_test::DeriveRow;

constexpr uint32_t kRowBytes = 264;

std::vector<std::byte> Row(uint32_t id) {
  std::vector<std::byte> row(kRowBytes);
  DeriveRow(id, absl::MakeSpan(row));
  return row;
}

// A layer of one set, in which every row has the same place.
class OneSet {
 public:
  OneSet()
      : memory_(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, kShape.SegmentBytes(0)))),
        view_(kShape, {Zeroed()}, {}) {}

  const View& view() const { return view_; }
  // As a writer does it: the version is odd meanwhile, and two more than before at the end.
  void Write(int way, uint32_t id) {
    ++line().version;
    line().tags[way] = TagOf(id);
    std::memcpy(view_.SlotIn(set(), way), Row(id).data(), kRowBytes);
    ++line().version;
  }
  TagLine& line() { return View::line(set()); }

 private:
  static constexpr LayerShape kShape{.mode = Mode::kCache,
                                     .row_bytes = kRowBytes,
                                     .layer_rows = 1000000,
                                     .segments = 1,
                                     .per_segment = 1};
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::byte* Zeroed() {
    std::memset(memory_.get(), 0, kShape.SegmentBytes(0));
    return memory_.get();
  }
  std::byte* set() { return view_.SetAt(0, 0); }

  std::unique_ptr<std::byte, Free> memory_;
  View view_;
};

// Calls `between` after the row was found and before it is copied, each time.
struct InterleavedView {
  const View& view;
  std::function<void()> between;

  Found Find(uint32_t row_id) const { return view.Find(row_id); }
  void Copy(const Found& found, std::byte* out) const {
    between();
    view.Copy(found, out);
  }
  bool Unchanged(const Found& found) const { return view.Unchanged(found); }
};

TEST(ReadOneTest, ARowThatMovesMeanwhileIsFoundAgain) {
  OneSet set;
  set.Write(3, 100);
  int copies = 0;
  const InterleavedView view{set.view(), [&] {
                               if (++copies > 1) return;
                               set.Write(3, 200);
                               set.Write(7, 100);
                             }};
  std::vector<std::byte> out(kRowBytes);
  const Found found = ReadOne(view, 100, out.data());
  ASSERT_NE(found.row, nullptr);
  EXPECT_EQ(found.way, 7);
  EXPECT_EQ(out, Row(100));
  EXPECT_EQ(copies, 2);
}

TEST(ReadOneTest, ARowThatIsEvictedMeanwhileIsNotHeld) {
  OneSet set;
  set.Write(3, 100);
  const InterleavedView view{set.view(), [&] { set.Write(3, 200); }};
  std::vector<std::byte> out(kRowBytes);
  EXPECT_EQ(ReadOne(view, 100, out.data()).row, nullptr);
}

TEST(ReadOneTest, ARowWhoseSetChangesEachTimeIsGivenUp) {
  OneSet set;
  set.Write(3, 100);
  int copies = 0;
  const InterleavedView view{set.view(), [&] { set.Write(4, static_cast<uint32_t>(++copies)); }};
  std::vector<std::byte> out(kRowBytes);
  EXPECT_EQ(ReadOne(view, 100, out.data()).row, nullptr);
  EXPECT_EQ(copies, kReadAttempts);
}

TEST(ReadOneTest, ASetThatAWriterHasIsNotRead) {
  OneSet set;
  set.Write(3, 100);
  ++set.line().version;  // its writer has died
  std::vector<std::byte> out(kRowBytes, std::byte{0xEE});
  EXPECT_EQ(ReadOne(set.view(), 100, out.data()).row, nullptr);
  EXPECT_EQ(out, std::vector<std::byte>(kRowBytes, std::byte{0xEE}));
}

// Gather asks where a row goes after it has found it, and before it copies it.
struct InterleavedBatch {
  static constexpr bool kReadsState = false;

  std::vector<uint32_t> ids;
  std::function<void(uint32_t position)> before_copy;
  std::vector<std::byte> out = std::vector<std::byte>(ids.size() * kRowBytes);
  std::vector<uint32_t> hits = {};

  uint32_t position(size_t i) const { return static_cast<uint32_t>(i); }
  uint32_t id(uint32_t position) const { return ids[position]; }
  std::byte* row(uint32_t position) {
    before_copy(position);
    return &out[position * kRowBytes];
  }
  void HitInSet(uint32_t position, const Found& /*found*/) { hits.push_back(position); }
  void HitResident(uint32_t /*position*/) {}
  void DeadPosition() {}
};

TEST(GatherTest, RowsThatChangeMeanwhileAreFoundAgainOrMissing) {
  OneSet set;
  set.Write(1, 100);
  set.Write(2, 101);
  set.Write(3, 102);
  int copies = 0;
  InterleavedBatch batch{.ids = {100, 101, 102}, .before_copy = [&](uint32_t position) {
                           if (position == 0 && ++copies == 1) {
                             set.Write(1, 200);  // instead of row 100, which is held elsewhere now
                             set.Write(9, 100);
                             set.Write(2, 201);  // row 101 is evicted
                           }
                         }};
  std::vector<uint32_t> missing(3);
  missing.resize(Gather(set.view(), batch, 3, missing.data(), false));
  EXPECT_EQ(missing, std::vector<uint32_t>{1});
  EXPECT_EQ(batch.hits, (std::vector<uint32_t>{0, 2}));
  for (const uint32_t position : batch.hits) {
    const auto row = absl::MakeConstSpan(batch.out).subspan(position * kRowBytes, kRowBytes);
    EXPECT_EQ(row, Row(100 + position)) << position;
  }
}

}  // namespace
}  // namespace engram::dram
