#include "storage/profile/row_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/unit/storage/profile/profile_testing.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram {
namespace {

using ::testing::ElementsAre;

// The first layer's outline: three columns, two orders of three and two classes.
constexpr size_t kFirstOutlineBytes = 16 + 3 * 12 + 4 + 3 * 16 + 4 + 2 * 16 + 32;

class Folder {
 public:
  Folder() {
    path_ = ::testing::TempDir() + "row_profile_XXXXXX";
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  std::string path_;
};

TEST(RowProfileTest, SurvivesItsFile) {
  const RowProfile profile = ExampleProfile();
  const auto parsed = RowProfile::Parse(Bytes(profile));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, profile);
  RowProfile bare = profile;
  bare.token_map_digest.clear();
  bare.family.clear();
  bare.layers.pop_back();
  bare.layers[0].head.clear();
  const auto again = RowProfile::Parse(Bytes(bare));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, bare);
}

// Byte by byte what FORMAT.md says, so that a change of the format cannot go unseen.
TEST(RowProfileTest, TheFileIsAsDescribed) {
  const std::string bytes = Bytes(ExampleProfile());
  const auto u32 = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  };
  EXPECT_EQ(bytes.substr(0, 8), "engrmhot");
  EXPECT_EQ(u32(8), 2u);
  EXPECT_EQ(u32(12), 1u);  // kind
  EXPECT_EQ(u32(16), 2u);  // layers
  EXPECT_EQ(u32(20), 12u);
  EXPECT_EQ(u32(28), 2u);
  EXPECT_EQ(bytes.substr(36, 32), std::string(32, 'a'));
  EXPECT_EQ(bytes.substr(68, 64), std::string(64, 'b'));
  EXPECT_EQ(u32(132), 13u);
  EXPECT_EQ(bytes.substr(136, 13), "deepseek-v4.1");
  EXPECT_EQ(u32(149), 0u);  // table
  size_t at = kLayersAt;
  EXPECT_EQ(u32(at), 1u);        // layer
  EXPECT_EQ(u32(at + 4), 3u);    // columns
  EXPECT_EQ(u32(at + 8), 30u);   // rows
  EXPECT_EQ(u32(at + 16), 2u);   // order of the first column
  EXPECT_EQ(u32(at + 20), 10u);  // and its rows
  at += 16 + 3 * 12;
  EXPECT_EQ(u32(at), 3u);       // classes of order 2
  EXPECT_EQ(u32(at + 4), 7u);   // the first one's count
  EXPECT_EQ(u32(at + 12), 1u);  // and rows
  at = kLayersAt + kFirstOutlineBytes;
  const std::vector<uint32_t> block = {3, 7, 1, 2, 3, 1, 1, 14, 3, 9, 20, 0};
  for (size_t i = 0; i < block.size(); ++i) EXPECT_EQ(u32(at + 4 * i), block[i]) << i;
  at += 4 * block.size() + 32;
  EXPECT_EQ(u32(at), 0u);            // the layer's end
  EXPECT_EQ(u32(at + 4 + 32), 14u);  // the next layer
  EXPECT_EQ(HotSealer::Seal(bytes), bytes) << "digests";
}

TEST(RowProfileTest, ClassesOfAllOrders) {
  const LayerProfile layer = ExampleProfile().layers[0];
  EXPECT_THAT(layer.Classes(), ElementsAre(CountClass{7, 1}, CountClass{2, 3}, CountClass{1, 12}));
  EXPECT_EQ(Accesses(layer.Classes()), 25u);
  EXPECT_EQ(DistinctRows(layer.Classes()), 16u);
  EXPECT_EQ(ExampleProfile().FindLayer(LayerId{14})->rows, 4u);
  EXPECT_EQ(ExampleProfile().FindLayer(LayerId{2}), nullptr);
}

TEST(RowProfileTest, EveryTruncationAndEveryFlippedBitIsRefused) {
  const std::string bytes = Bytes(ExampleProfile());
  for (size_t length = 0; length < bytes.size(); ++length) {
    const auto parsed = RowProfile::Parse(bytes.substr(0, length));
    EXPECT_TRUE(absl::IsDataLoss(parsed.status())) << length << parsed.status();
    // Also with the digests put right.
    EXPECT_TRUE(
        absl::IsDataLoss(RowProfile::Parse(HotSealer::Seal(bytes.substr(0, length))).status()))
        << length;
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(RowProfile::Parse(damaged).ok()) << bit;
  }
  ExpectStatus(RowProfile::Parse(bytes + "x").status(), absl::StatusCode::kDataLoss,
               "bytes follow the end");
}

TEST(RowProfileTest, AnotherReleasesFormatIsNamed) {
  std::string bytes = Bytes(ExampleProfile());
  for (const char format : {1, 3}) {
    bytes[8] = format;
    ExpectStatus(RowProfile::Parse(bytes).status(), absl::StatusCode::kFailedPrecondition,
                 absl::StrCat("format ", int{format},
                              ", where this release knows 2; make it anew with engramctl profile"));
  }
}

// Numbers that promise far more than there is: none of them may be believed.
TEST(RowProfileTest, HugeNumbersAllocateNothing) {
  const std::string bytes = Bytes(ExampleProfile());
  const size_t block = kLayersAt + kFirstOutlineBytes;
  // Layers, the lengths of family and table, columns, classes, a block's runs and a run's rows.
  for (const size_t at :
       {size_t{16}, size_t{132}, size_t{149}, kLayersAt + 4, kLayersAt + 52, block, block + 8}) {
    for (const uint32_t value : {0x7FFFFFFFu, 0xFFFFFFFFu}) {
      std::string hostile = bytes;
      hostile.replace(at, 4, Number(value));
      EXPECT_TRUE(absl::IsDataLoss(RowProfile::Parse(hostile).status())) << at;
      EXPECT_TRUE(absl::IsDataLoss(RowProfile::Parse(HotSealer::Seal(hostile)).status())) << at;
      size_t most_asked = 0;
      HotReader reader(SourceOf(hostile, &most_asked));
      if (reader.ReadHeader().ok() && reader.ReadOutline().ok()) {
        EXPECT_FALSE(reader.ReadRows([](const HotRun&) { return absl::OkStatus(); }).ok());
      }
      EXPECT_LE(most_asked, size_t{8} * kHotBlockRows) << at;
    }
  }
}

TEST(RowProfileTest, WhatCannotBeIsNeitherWrittenNorRead) {
  using Change = std::function<void(RowProfile&)>;
  const std::vector<std::pair<std::string, Change>> wrong = {
      {"family has 129 bytes", [](RowProfile& p) { p.family = std::string(129, 'x'); }},
      {"fingerprint is \"xyz\"", [](RowProfile& p) { p.fingerprint = "xyz"; }},
      {"token map digest is \"c0\"", [](RowProfile& p) { p.token_map_digest = "c0"; }},
      {"has 0 layers", [](RowProfile& p) { p.layers.clear(); }},
      {"layer 1 of the profile: it follows layer 1",
       [](RowProfile& p) { p.layers[1].id = LayerId{1}; }},
      {"impossible number of rows 0", [](RowProfile& p) { p.layers[1].rows = 0; }},
      {"impossible number of rows 4294967296",
       [](RowProfile& p) { p.layers[1].rows = uint64_t{1} << 32; }},
      {"impossible number of columns 0", [](RowProfile& p) { p.layers[1].columns.clear(); }},
      {"impossible order -1", [](RowProfile& p) { p.layers[1].columns[0].order = -1; }},
      {"columns of more rows than 2", [](RowProfile& p) { p.layers[1].rows = 2; }},
      {"another number of orders than 0", [](RowProfile& p) { p.layers[1].orders.clear(); }},
      {"at its place, the order 3", [](RowProfile& p) { p.layers[1].orders[0].order = 3; }},
      {"counts do not descend", [](RowProfile& p) { p.layers[0].orders[0].classes[1].count = 7; }},
      {"to 1 at 0", [](RowProfile& p) { p.layers[0].orders[0].classes[2].count = 0; }},
      {"to 1 at 4294967296",
       [](RowProfile& p) { p.layers[1].orders[0].classes[0].count = kMaxRowCount + 1; }},
      {"than there are: 16", [](RowProfile& p) { p.layers[0].orders[1].classes[1].rows = 16; }},
      {"than there are: 0", [](RowProfile& p) { p.layers[0].orders[1].classes[1].rows = 0; }},
      {"the head has more rows than were asked for: 3",
       [](RowProfile& p) {
         p.layers[1].head.push_back({RowId{1}, 1});
       }},
      {"it has no row 4", [](RowProfile& p) { p.layers[1].head[1].id = RowId{4}; }},
      {"count is not the class's: 6", [](RowProfile& p) { p.layers[0].head[0].count = 6; }},
      {"do not ascend at row 2", [](RowProfile& p) { p.layers[0].head[2].id = RowId{2}; }},
      {"stands twice", [](RowProfile& p) { p.layers[0].head[4].id = RowId{14}; }},
      // In a layer so large that its rows are not marked one by one.
      {"stands twice",
       [](RowProfile& p) {
         p.layers[0].rows = 4'000'000'000;
         p.layers[0].head[4].id = RowId{20};
       }},
  };
  for (const auto& [why, change] : wrong) {
    RowProfile profile = ExampleProfile();
    change(profile);
    ExpectStatus(profile.Serialize().status(), absl::StatusCode::kInvalidArgument, why);
  }
  // What a file can say of that: a class's count of 0, a count that is not the class's, a row id
  // out of range.
  const std::string bytes = Bytes(ExampleProfile());
  const size_t block = kLayersAt + kFirstOutlineBytes;
  for (const auto& [at, value] :
       {std::pair(kLayersAt + 56, 0u), {block + 12, 3u}, {block + 44, 0x7F7F7F7Fu}}) {
    std::string changed = bytes;
    changed.replace(at, 4, Number(value));
    ExpectStatus(RowProfile::Parse(HotSealer::Seal(changed)).status(), absl::StatusCode::kDataLoss,
                 "impossible profile: ");
  }
}

TEST(RowProfileTest, FilesAreMadeAndReplacedWhole) {
  const Folder folder;
  const std::string path = folder / "a.hot";
  ASSERT_TRUE(ExampleProfile().Write(path).ok());
  RowProfile other = ExampleProfile();
  other.tokens = 99;
  ASSERT_TRUE(other.Write(path).ok());
  const auto read = RowProfile::Read(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, other);
  EXPECT_THAT(folder.Names(), ElementsAre("a.hot"));
  // One that cannot be written leaves the old one alone.
  RowProfile bad = ExampleProfile();
  bad.layers.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(bad.Write(path)));
  EXPECT_EQ(*RowProfile::Read(path), other);
}

TEST(RowProfileTest, ErrorsOfFilesNameThem) {
  const Folder folder;
  ExpectStatus(RowProfile::Read(folder / "none").status(), absl::StatusCode::kNotFound,
               folder / "none");
  ExpectStatus(RowProfile::Read(folder / "").status(), absl::StatusCode::kInvalidArgument,
               "is no regular file");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  ExpectStatus(RowProfile::Read(folder / "fifo").status(), absl::StatusCode::kInvalidArgument,
               "is no regular file");
  ExpectStatus(ExampleProfile().Write(folder / "no/such/folder"), absl::StatusCode::kNotFound,
               "no/such/folder");
  // A folder in the file's place: nothing is left behind.
  std::filesystem::create_directory(folder / "taken");
  ExpectStatus(ExampleProfile().Write(folder / "taken"), absl::StatusCode::kUnavailable, "taken");
  std::ofstream(folder / "text") << "what is this";
  ExpectStatus(RowProfile::Read(folder / "text").status(), absl::StatusCode::kDataLoss,
               (folder / "text") + ": no profile of row frequencies");
  // A file of 1 TiB, all of it a hole: little of it is read.
  ASSERT_TRUE(ExampleProfile().Write(folder / "huge").ok());
  ASSERT_EQ(::truncate((folder / "huge").c_str(), off_t{1} << 40), 0);
  ExpectStatus(RowProfile::Read(folder / "huge").status(), absl::StatusCode::kDataLoss,
               "bytes follow the end");
  EXPECT_EQ(folder.Names().size(), 4u);
}

TableSpec SpecOfAnyTable(const testing::Model& model) {
  TableSpec spec;
  spec.family = "f";
  spec.addressing = model.addressing;
  spec.layers = model.layers;
  spec.token_map_digest = std::string(64, 'b');
  return spec;
}

TEST(RowProfileTest, FitsEveryVersionOfItsTable) {
  TableSpec spec = SpecOfAnyTable(testing::DeepseekV41(300, 2));
  const RowProfile profile = ProfileOf(spec, {});
  EXPECT_TRUE(profile.CheckFor(spec).ok()) << profile.CheckFor(spec);
  spec.name = "t";
  spec.version = VersionId{7};
  spec.checkpoint_digest = "d";
  spec.row_format = "x";
  spec.layers[0].row_bytes = 999;
  spec.layers[0].row_scale = 3;
  spec.token_map_digest.clear();
  EXPECT_TRUE(profile.CheckFor(spec).ok()) << profile.CheckFor(spec);
  // A layer that no n-gram asks for is in no profile.
  spec.layers.push_back({.id = LayerId{99}, .rows = 5, .row_bytes = 8, .columns = {}});
  EXPECT_TRUE(absl::IsFailedPrecondition(profile.CheckFor(spec)));
  RowProfile with = profile;
  with.fingerprint = AddressingFingerprint(spec);
  EXPECT_TRUE(with.CheckFor(spec).ok());
}

TEST(RowProfileTest, IsRefusedForAnotherTable) {
  using Change = std::function<void(TableSpec&)>;
  const std::vector<std::pair<std::string, Change>> others = {
      {"the model family is f in the profile, g in the table",
       [](TableSpec& s) { s.family = "g"; }},
      {"the list of layers is 1, 14 in the profile, 1 in",
       [](TableSpec& s) { s.layers.pop_back(); }},
      {"layer 1's number of rows", [](TableSpec& s) { ++s.layers[0].rows; }},
      {"layer 1's list of columns",
       [](TableSpec& s) { std::swap(s.layers[0].columns[0], s.layers[0].columns[5]); }},
      {"fingerprint", [](TableSpec& s) { s.layers[0].multipliers[0] += 2; }},
      {"fingerprint", [](TableSpec& s) { s.addressing.pad_id = 3; }},
      {"fingerprint", [](TableSpec& s) { s.addressing.boundary_id = 3; }},
      {"fingerprint", [](TableSpec& s) { s.addressing.hash = HashKind::kPolynomial; }},
      {"fingerprint", [](TableSpec& s) { --s.addressing.compressed_vocab_size; }},
      {"fingerprint", [](TableSpec& s) { s.addressing.vocab_size = 7; }},
      {"token map's sha256", [](TableSpec& s) { s.token_map_digest = std::string(64, 'c'); }}};
  for (const auto& [why, change] : others) {
    TableSpec spec = SpecOfAnyTable(testing::DeepseekV41(300, 2));
    const RowProfile profile = ProfileOf(spec, {});
    change(spec);
    ExpectStatus(profile.CheckFor(spec), absl::StatusCode::kFailedPrecondition, why);
  }
}

// The fingerprint is stored, so it may never change for the same addressing.
TEST(RowProfileTest, TheFingerprintStaysWhatItIs) {
  EXPECT_EQ(AddressingFingerprint(SpecOfAnyTable(testing::DeepseekV41())),
            "d62a64b1e039a67577204049815705ab");
}

}  // namespace
}  // namespace engram
