// What HotWriter writes HotReader reads back, of both kinds, and nothing else is taken for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/profile/hot_reader.h"
#include "storage/profile/hot_writer.h"
#include "tests/test_seed.h"
#include "tests/unit/storage/profile/profile_testing.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

using HotRows = std::vector<HotRow>;

constexpr uint64_t kRows = uint64_t{1} << 31;
constexpr size_t kBlock = kHotBlockRows;
// As TheFileIsAsDescribed has it, with the table "t" and no family.
constexpr size_t kHeaderBytes = 136 + 5 + 32;
constexpr size_t kOutlineBytes = 16 + 32;
constexpr size_t kRowsAt = kHeaderBytes + kOutlineBytes;
constexpr size_t kEndBytes = 4 + 32 + 32;

HotIdentity Identity() { return {HotKind::kLive, "t", std::string(32, 'a'), LayerId{14}, kRows}; }

HotIdentity ProfileIdentity() {
  HotIdentity identity = Identity();
  identity.kind = HotKind::kProfile;
  return identity;
}

HotRows SomeRows(size_t count) {
  std::mt19937_64 random(TestSeed());
  HotRows rows;
  for (size_t i = 0; i < count; ++i) {
    rows.push_back({RowId{static_cast<uint32_t>(random() % kRows)},
                    static_cast<uint32_t>(1 + random() % kMaxLiveCount)});
  }
  return rows;
}

// Each block's by descending count, else in the order in which they came.
HotRows InBlocks(HotRows rows) {
  for (size_t first = 0; first < rows.size(); first += kBlock) {
    std::stable_sort(rows.begin() + static_cast<ptrdiff_t>(first),
                     rows.begin() + static_cast<ptrdiff_t>(std::min(rows.size(), first + kBlock)),
                     [](const HotRow& a, const HotRow& b) { return a.count > b.count; });
  }
  return rows;
}

LayerProfile OutlineOf(const HotIdentity& identity, const HotRows& rows) {
  LayerProfile outline;
  outline.id = identity.layer;
  outline.rows = identity.rows;
  if (identity.kind == HotKind::kLive) return outline;
  outline.columns = {{2, identity.rows}};
  std::vector<CountClass>& classes = outline.orders.emplace_back().classes;
  outline.orders[0].order = 2;
  for (const HotRow& row : rows) {
    if (classes.empty() || classes.back().count != row.count) classes.push_back({row.count, 0});
    ++classes.back().rows;
  }
  return outline;
}

// A file of these layers, each with the same rows.
std::string SaveLayers(const HotIdentity& identity, const std::vector<LayerProfile>& outlines,
                       const HotRows& rows) {
  std::string file;
  HotWriter writer({.kind = identity.kind,
                    .layers = static_cast<uint32_t>(outlines.size()),
                    .fingerprint = identity.fingerprint,
                    .token_map_digest = {},
                    .family = {},
                    .table = identity.table},
                   [&](absl::string_view bytes) {
                     absl::StrAppend(&file, bytes);
                     return absl::OkStatus();
                   });
  for (const LayerProfile& outline : outlines) {
    EXPECT_TRUE(writer.BeginLayer(outline).ok());
    for (const HotRow& row : rows) EXPECT_TRUE(writer.Add(row.id, row.count).ok());
  }
  EXPECT_TRUE(writer.Finish().ok());
  return file;
}
std::string Save(const HotRows& rows, const HotIdentity& identity = Identity()) {
  return SaveLayers(identity, {OutlineOf(identity, rows)}, rows);
}

absl::Status Read(const std::string& file, HotRows* rows = nullptr,
                  const HotIdentity& identity = Identity(), size_t* most_asked = nullptr) {
  return ReadHotLayer(identity, SourceOf(file, most_asked), [&](const HotRun& run) {
    for (const RowId id : run.ids) {
      if (rows != nullptr) rows->push_back({id, run.count});
    }
    return absl::OkStatus();
  });
}

// A live file of these blocks, which have no digests yet, and of an end.
std::string Forge(const std::vector<std::string>& blocks) {
  std::string file = Save({}).substr(0, kRowsAt);
  for (const std::string& block : blocks) file += block + std::string(32, '?');
  return HotSealer::Seal(file + Number(0) + std::string(64, '?'));
}

TEST(HotFileTest, WhatIsSavedIsReadBack) {
  for (const size_t count :
       {size_t{0}, size_t{1}, kBlock - 1, kBlock, kBlock + 1, 3 * kBlock + 7}) {
    const HotRows rows = SomeRows(count);
    HotRows read;
    const std::string file = Save(rows);
    const absl::Status status = Read(file, &read);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(read, InBlocks(rows));
    EXPECT_EQ(HotSealer::Seal(file), file) << "the digests are not those of FORMAT.md";
  }
}

// Counts with millions of rows and with one, on both sides of the end of a block.
TEST(HotFileTest, CountedRowsAreReadBackAcrossBlocks) {
  const HotIdentity identity = ProfileIdentity();
  for (const size_t first : {kBlock - 1, kBlock, kBlock + 1, 2 * kBlock}) {
    HotRows rows;
    for (uint32_t i = 0; i < first; ++i) rows.push_back({RowId{i}, UINT32_MAX});
    for (uint32_t i = 0; i < kBlock; ++i) rows.push_back({RowId{i * 2 + 1000000}, 70000 - i});
    for (uint32_t i = 0; i < kBlock + 3; ++i) rows.push_back({RowId{i + 5000000}, 2});
    HotRows read;
    const absl::Status status = Read(Save(rows, identity), &read, identity);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(read, rows);
  }
}

TEST(HotFileTest, ARowTakesFourBytesWhereManyHaveItsCount) {
  HotRows rows;
  for (uint32_t i = 0; i < 4 * kBlock; ++i) rows.push_back({RowId{i}, 1 + i % kMaxLiveCount});
  const size_t runs_and_digests = 4 * (4 + 8 * size_t{kMaxLiveCount} + 32);
  EXPECT_EQ(Save(rows).size(), kRowsAt + 4 * rows.size() + runs_and_digests + kEndBytes);
}

TEST(HotFileTest, AForgedFileOfGoodRowsIsRead) {  // else the tests below would prove nothing
  HotRows read;
  const absl::Status status = Read(Forge({Number(2) + Number(9) + Number(1) + Number(3) +
                                          Number(2) + Number(5) + Number(7) + Number(6)}),
                                   &read);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(read, (HotRows{{RowId{5}, 9}, {RowId{7}, 3}, {RowId{6}, 3}}));
}

TEST(HotFileTest, AnyDamagedByteIsFound) {
  const HotRows rows = SomeRows(20);
  const std::string file = Save(rows);
  for (size_t at = 0; at < file.size(); ++at) {
    for (const int bit : {0, 7}) {
      std::string damaged = file;
      damaged[at] = static_cast<char>(damaged[at] ^ 1 << bit);
      HotRows read;
      const absl::Status status = Read(damaged, &read);
      EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsFailedPrecondition(status))
          << at << ": " << status;
      // Its one block is reported whole or not at all.
      if (!read.empty()) {
        EXPECT_EQ(read, InBlocks(rows)) << at;
      }
    }
  }
}

TEST(HotFileTest, ATornFileIsRefused) {
  const std::string file = Save(SomeRows(20));
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    EXPECT_TRUE(absl::IsDataLoss(Read(file.substr(0, bytes)))) << bytes;
  }
  EXPECT_TRUE(absl::IsDataLoss(Read(file + "x")));
}

// Two blocks of one run each, which may not change places or be left out, nor come from another
// file that begins alike.
TEST(HotFileTest, BlocksStayWhereTheyAre) {
  HotRows rows, others;
  for (uint32_t i = 0; i < 2 * kBlock; ++i) rows.push_back({RowId{i}, 7});
  for (uint32_t i = 0; i < 2 * kBlock; ++i) others.push_back({RowId{i + 5}, 7});
  const std::string file = Save(rows), other = Save(others);
  const size_t block = 4 + 8 + 4 * kBlock + 32;
  ASSERT_EQ(file.size(), kRowsAt + 2 * block + kEndBytes);
  const std::string begin = file.substr(0, kRowsAt), end = file.substr(kRowsAt + 2 * block);
  const std::string first = file.substr(kRowsAt, block),
                    second = file.substr(kRowsAt + block, block);
  ASSERT_TRUE(Read(begin + first + second + end).ok());
  EXPECT_TRUE(absl::IsDataLoss(Read(begin + second + first + end)));
  EXPECT_TRUE(absl::IsDataLoss(Read(begin + first + end)));
  EXPECT_TRUE(absl::IsDataLoss(Read(begin + second + end)));
  ASSERT_EQ(other.substr(0, kRowsAt), begin);
  HotRows read;
  EXPECT_TRUE(absl::IsDataLoss(Read(begin + first + other.substr(kRowsAt + block), &read)));
  EXPECT_EQ(read, HotRows(rows.begin(), rows.begin() + kBlock)) << "the block before was good";
  EXPECT_TRUE(absl::IsDataLoss(Read(begin + first + other.substr(kRowsAt + block, block) + end)));
  EXPECT_TRUE(absl::IsDataLoss(Read(begin + first + second + other.substr(kRowsAt + 2 * block))));
}

TEST(HotFileTest, AnotherLayersFileIsRefusedByName) {
  std::vector<HotIdentity> others(4, Identity());
  others[0].table = "qwen";
  others[1].fingerprint = std::string(32, 'c');
  others[2].layer = LayerId{2};
  others[3].rows = kRows - 1;
  for (const HotIdentity& other : others) {
    HotRows read;
    const absl::Status status = Read(Save(SomeRows(3)), &read, other);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("live rows of table 't'"));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("not the live rows of table '", other.table,
                                       "', addressing ", other.fingerprint, ", layer ",
                                       Raw(other.layer), " of ", other.rows)));
    EXPECT_EQ(read, HotRows());
  }
}

TEST(HotFileTest, AFileOfMoreLayersIsRefused) {
  std::vector<LayerProfile> outlines(2, OutlineOf(Identity(), {}));
  outlines[1].id = LayerId{15};
  HotRows read;
  const absl::Status status = Read(SaveLayers(Identity(), outlines, SomeRows(3)), &read);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("the first of 2 layers"));
  EXPECT_EQ(read, HotRows());
}

TEST(HotFileTest, KindsAreNotMixedUp) {
  const HotIdentity profile = ProfileIdentity();
  const HotRows rows = {{RowId{3}, 9}, {RowId{1}, 2}};
  ASSERT_TRUE(Read(Save(rows, profile), nullptr, profile).ok());
  for (const auto& [saved, wanted] : {std::pair(profile, Identity()), {Identity(), profile}}) {
    HotRows read;
    const absl::Status status = Read(Save(rows, saved), &read, wanted);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("these are ", HotKindName(saved.kind), " rows")));
    EXPECT_EQ(read, HotRows());
  }
  // A kind that its rows do not fit, or that there is not.
  std::string file = Save(rows, profile);
  file[12] = 2;
  EXPECT_TRUE(absl::IsDataLoss(Read(HotSealer::Seal(file))));
  file[12] = 3;
  EXPECT_TRUE(absl::IsDataLoss(Read(HotSealer::Seal(file))));
  file = Save(rows);
  file[12] = 1;
  EXPECT_TRUE(absl::IsDataLoss(Read(HotSealer::Seal(file), nullptr, profile)));
}

TEST(HotFileTest, AnotherVersionIsRefusedByNumber) {
  std::string file = Save({});
  file[8] = 3;
  const absl::Status status = Read(file);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("format 3, where this release knows 2"));
  // What an earlier daemon has left.
  const absl::Status old = Read("engrhot1" + Number(1) + std::string(100, 'x'));
  EXPECT_TRUE(absl::IsFailedPrecondition(old)) << old;
  EXPECT_THAT(std::string(old.message()), HasSubstr("format 1, where this release knows 2"));
}

TEST(HotFileTest, RowsThatCannotBeAreRefused) {
  HotIdentity small = Identity();
  small.rows = 100;
  const HotRows last = {{RowId{99}, 9}}, behind = {{RowId{100}, 9}};
  EXPECT_TRUE(Read(Save(last, small), nullptr, small).ok());
  EXPECT_TRUE(absl::IsDataLoss(Read(Save(behind, small), nullptr, small)));
  const auto refused = [](const std::string& block) {
    return absl::IsDataLoss(Read(Forge({block})));
  };
  const auto run = [](uint32_t count, uint32_t rows) { return Number(count) + Number(rows); };
  EXPECT_FALSE(refused(Number(1) + run(255, 1) + Number(5)));
  EXPECT_TRUE(refused(Number(1) + run(0, 1) + Number(5)));
  EXPECT_TRUE(refused(Number(1) + run(256, 1) + Number(5)));
  // Runs that no writer makes.
  EXPECT_FALSE(refused(Number(2) + run(9, 1) + run(8, 1) + Number(5) + Number(6)));
  EXPECT_TRUE(refused(Number(2) + run(9, 1) + run(9, 1) + Number(5) + Number(6)));
  EXPECT_TRUE(refused(Number(2) + run(8, 1) + run(9, 1) + Number(5) + Number(6)));
  EXPECT_TRUE(refused(Number(2) + run(9, 0) + run(8, 1) + Number(5)));
  // Nor blocks.
  const std::string one = Number(1) + run(9, 1) + Number(5);
  EXPECT_TRUE(absl::IsDataLoss(Read(Forge({one, one}))));
  EXPECT_TRUE(absl::IsDataLoss(Read(Forge({Number(0)}))));
}

TEST(HotFileTest, RowsThatTheClassesDoNotHaveAreRefused) {
  const auto refused = [](const std::vector<CountClass>& classes, const HotRows& rows) {
    LayerProfile outline = OutlineOf(ProfileIdentity(), {});
    outline.orders[0].classes = classes;
    return absl::IsDataLoss(
        Read(SaveLayers(ProfileIdentity(), {outline}, rows), nullptr, ProfileIdentity()));
  };
  const HotRow five{RowId{5}, 2}, six{RowId{6}, 2};
  EXPECT_FALSE(refused({{2, 2}}, {five, six}));
  EXPECT_TRUE(refused({{2, 2}}, {six, five}));
  EXPECT_TRUE(refused({{2, 2}}, {five, five}));
  EXPECT_TRUE(refused({{2, 1}}, {five, six}));
  EXPECT_TRUE(refused({{3, 2}}, {five, six}));
  EXPECT_TRUE(refused({{3, 1}, {2, 2}}, {five, six})) << "its rows of the class before are missing";
  EXPECT_TRUE(refused({}, {five}));
  // The same where a class goes on in the next block.
  HotRows rows;
  for (uint32_t i = 0; i < kBlock + 2; ++i) rows.push_back({RowId{i}, 7});
  EXPECT_FALSE(refused({{7, kBlock + 2}}, rows));
  EXPECT_FALSE(refused({{7, kBlock + 3}, {6, 1}}, rows)) << "the head ends within a class";
  EXPECT_TRUE(refused({{7, kBlock + 1}, {6, 1}}, rows));
  EXPECT_TRUE(refused({{7, kBlock}, {6, 1}}, rows));
  rows[kBlock].id = RowId{kBlock - 1};
  EXPECT_TRUE(refused({{7, kBlock + 2}}, rows));
}

// A profile is read up to its largest size and no further, here as if so much had been read
// already.
TEST(HotFileTest, AProfileHasALargestSize) {
  const HotRows rows = {{RowId{5}, 2}, {RowId{6}, 2}};
  for (const HotIdentity& identity : {ProfileIdentity(), Identity()}) {
    const std::string file = Save(rows, identity);
    HotReader whole(SourceOf(file));
    ASSERT_TRUE(whole.ReadHeader().ok());
    const auto outline = whole.ReadOutline();
    ASSERT_TRUE(outline.ok()) << outline.status();
    HotReader::Place place = whole.place();
    const std::string behind = file.substr(place.offset, file.size() - place.offset - 32);
    for (const uint64_t more : {0, 1}) {
      place.offset = kMaxProfileBytes - behind.size() + more;
      HotReader reader(SourceOf(behind));
      reader.Resume(identity.kind, *outline, place);
      const absl::Status status = reader.ReadRows([](const HotRun&) { return absl::OkStatus(); });
      EXPECT_EQ(status.ok(), more == 0 || identity.kind == HotKind::kLive) << status;
    }
  }
}

TEST(HotFileTest, HostileLengthsTakeNoMemory) {
  const auto refused = [](const std::string& file) {
    size_t most_asked = 0;
    const absl::Status status = Read(file, nullptr, Identity(), &most_asked);
    EXPECT_LE(most_asked, 8 * kBlock) << status;
    return absl::IsDataLoss(status);
  };
  const std::string empty = Save({});
  for (const size_t at : {size_t{132}, size_t{136}, kHeaderBytes + 4}) {  // family, table, columns
    std::string file = empty;
    file.replace(at, 4, Number(UINT32_MAX));
    EXPECT_TRUE(refused(file)) << at;
    EXPECT_TRUE(refused(HotSealer::Seal(file))) << at;
  }
  const std::string ids(4 * (kBlock + 1), '\0');
  EXPECT_TRUE(refused(Forge({Number(UINT32_MAX)})));
  EXPECT_TRUE(refused(Forge({Number(kBlock + 1)})));
  EXPECT_FALSE(refused(Forge({Number(1) + Number(9) + Number(kBlock) + ids.substr(4)})));
  EXPECT_TRUE(refused(Forge({Number(1) + Number(9) + Number(kBlock + 1) + ids})));
  EXPECT_TRUE(refused(Forge({Number(1) + Number(9) + Number(UINT32_MAX) + ids})));
  // Together too many, each by itself not.
  EXPECT_TRUE(
      refused(Forge({Number(2) + Number(9) + Number(kBlock) + Number(8) + Number(1) + ids})));
  EXPECT_TRUE(refused(
      Forge({Number(2) + Number(9) + Number(UINT32_MAX) + Number(8) + Number(2) + ids.substr(4)})));
}

TEST(HotFileTest, ErrorsOfTheFileArePassedOn) {
  bool full = false;
  HotWriter writer({.kind = HotKind::kLive,
                    .layers = 1,
                    .fingerprint = Identity().fingerprint,
                    .token_map_digest = {},
                    .family = {},
                    .table = "t"},
                   [&full](absl::string_view) {
                     return full ? absl::ResourceExhaustedError("drive full") : absl::OkStatus();
                   });
  LayerProfile outline;
  outline.rows = kRows;
  EXPECT_TRUE(writer.BeginLayer(outline).ok());
  full = true;
  EXPECT_TRUE(writer.Add(RowId{1}, 1).ok());  // still in memory
  EXPECT_TRUE(absl::IsResourceExhausted(writer.Finish()));
  const HotReader::Source broken = [](absl::Span<char>) -> absl::StatusOr<size_t> {
    return absl::UnavailableError("read error");
  };
  EXPECT_TRUE(absl::IsUnavailable(
      ReadHotLayer(Identity(), broken, [](const HotRun&) { return absl::OkStatus(); })));
  const std::string file = Save(SomeRows(3));
  EXPECT_TRUE(absl::IsCancelled(ReadHotLayer(
      Identity(), SourceOf(file), [](const HotRun&) { return absl::CancelledError("enough"); })));
}

}  // namespace
}  // namespace engram
