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

#include "storage/table/digest.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two layers: the first with a head that is cut short, the second with a head of all.
RowProfile Example() {
  RowProfile profile;
  profile.family = "deepseek-v4.1";
  profile.fingerprint = std::string(32, 'a');
  profile.token_map_digest = std::string(64, 'b');
  profile.tokens = 12;
  profile.sequences = 2;
  LayerProfile first;
  first.id = LayerId{1};
  first.rows = 30;
  first.columns = {{2, 10}, {2, 5}, {3, 15}};
  first.orders = {{2, {{7, 1}, {2, 2}, {1, 3}}}, {3, {{2, 1}, {1, 9}}}};
  first.head = {{RowId{14}, 7}, {RowId{3}, 2}, {RowId{9}, 2}, {RowId{20}, 2}, {RowId{0}, 1}};
  LayerProfile second;
  second.id = LayerId{14};
  second.rows = 4;
  second.columns = {{2, 3}};
  second.orders = {{2, {{kMaxRowCount, 1}, {1, 1}}}};
  second.head = {{RowId{2}, static_cast<uint32_t>(kMaxRowCount)}, {RowId{0}, 1}};
  profile.layers = {first, second};
  return profile;
}

std::string Bytes(const RowProfile& profile) {
  auto bytes = profile.Serialize();
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or("");
}

// The bytes with the size and the digest that they should have.
std::string Sealed(std::string body) {
  const uint64_t size = body.size() + 32;
  if (body.size() >= 24) std::memcpy(body.data() + 16, &size, sizeof size);
  Digest digest;
  digest.Update(body);
  return body + digest.Hex();
}

std::string Body(const RowProfile& profile) {
  std::string bytes = Bytes(profile);
  return bytes.substr(0, bytes.size() - 32);
}

void ExpectStatus(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

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
  const RowProfile profile = Example();
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
  const std::string bytes = Bytes(Example());
  const auto u32 = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  };
  EXPECT_EQ(bytes.substr(0, 8), "engrmhot");
  EXPECT_EQ(u32(8), 1u);
  EXPECT_EQ(u32(12), 2u);
  EXPECT_EQ(u32(16), bytes.size());
  EXPECT_EQ(u32(24), 12u);
  EXPECT_EQ(u32(32), 2u);
  EXPECT_EQ(bytes.substr(40, 32), std::string(32, 'a'));
  EXPECT_EQ(bytes.substr(72, 64), std::string(64, 'b'));
  EXPECT_EQ(u32(136), 13u);
  EXPECT_EQ(bytes.substr(140, 13), "deepseek-v4.1");
  size_t at = 153;
  EXPECT_EQ(u32(at), 1u);        // layer
  EXPECT_EQ(u32(at + 4), 3u);    // columns
  EXPECT_EQ(u32(at + 8), 30u);   // rows
  EXPECT_EQ(u32(at + 16), 5u);   // head
  EXPECT_EQ(u32(at + 24), 2u);   // order of the first column
  EXPECT_EQ(u32(at + 28), 10u);  // and its rows
  at += 24 + 3 * 12;
  EXPECT_EQ(u32(at), 3u);       // classes of order 2
  EXPECT_EQ(u32(at + 4), 7u);   // the first one's count
  EXPECT_EQ(u32(at + 12), 1u);  // and rows
  at += 4 + 3 * 16 + 4 + 2 * 16;
  EXPECT_EQ(u32(at), 14u);       // the head's first row
  EXPECT_EQ(u32(at + 16), 0u);   // and its last
  EXPECT_EQ(u32(at + 20), 14u);  // the next layer
}

TEST(RowProfileTest, ClassesOfAllOrders) {
  const LayerProfile layer = Example().layers[0];
  EXPECT_THAT(layer.Classes(), ElementsAre(CountClass{7, 1}, CountClass{2, 3}, CountClass{1, 12}));
  EXPECT_EQ(Accesses(layer.Classes()), 25u);
  EXPECT_EQ(DistinctRows(layer.Classes()), 16u);
  EXPECT_EQ(Example().FindLayer(LayerId{14})->rows, 4u);
  EXPECT_EQ(Example().FindLayer(LayerId{2}), nullptr);
}

TEST(RowProfileTest, EveryTruncationAndEveryFlippedBitIsRefused) {
  const std::string bytes = Bytes(Example());
  for (size_t length = 0; length < bytes.size(); ++length) {
    const auto parsed = RowProfile::Parse(bytes.substr(0, length));
    EXPECT_TRUE(absl::IsDataLoss(parsed.status())) << length << parsed.status();
    // Also with the size and the digest put right.
    if (length < 24 || length + 32 == bytes.size()) continue;
    EXPECT_TRUE(absl::IsDataLoss(RowProfile::Parse(Sealed(bytes.substr(0, length))).status()))
        << length;
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(RowProfile::Parse(damaged).ok()) << bit;
  }
  ExpectStatus(RowProfile::Parse(bytes + "x").status(), absl::StatusCode::kDataLoss, "cut off");
  ExpectStatus(RowProfile::Parse(Sealed(Body(Example()) + "x")).status(),
               absl::StatusCode::kDataLoss, "do not add up");
}

TEST(RowProfileTest, AnotherReleasesFormatIsNamed) {
  std::string bytes = Bytes(Example());
  bytes[8] = 2;
  ExpectStatus(RowProfile::Parse(bytes).status(), absl::StatusCode::kFailedPrecondition,
               "format 2, where this release knows 1");
}

// Numbers that promise far more than there is: none of them may be believed.
TEST(RowProfileTest, HugeNumbersAllocateNothing) {
  const std::string body = Body(Example());
  const size_t layer = 153;
  for (const size_t at : {size_t{12}, size_t{136}, layer + 4, layer + 16, layer + 60}) {
    for (const uint32_t value : {0x7FFFFFFFu, 0xFFFFFFFFu}) {
      std::string hostile = body;
      std::memcpy(hostile.data() + at, &value, sizeof value);
      EXPECT_TRUE(absl::IsDataLoss(RowProfile::Parse(Sealed(hostile)).status())) << at;
    }
  }
  std::string rows = body;
  std::memset(rows.data() + layer + 16, 0xFF, 8);  // the head: 2^64 − 1
  EXPECT_TRUE(absl::IsDataLoss(RowProfile::Parse(Sealed(rows)).status()));
  std::string size = Bytes(Example());
  size[23] = 0x7F;  // the file's own size
  ExpectStatus(RowProfile::Parse(size).status(), absl::StatusCode::kDataLoss, "cut off");
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
    RowProfile profile = Example();
    change(profile);
    ExpectStatus(profile.Serialize().status(), absl::StatusCode::kInvalidArgument, why);
  }
  // What a file can say of that: a row id out of range, a head out of order, a count of 0.
  const std::string body = Body(Example());
  for (const size_t at : {153 + 24 + 36 + 52 + 36, 153 + 24 + 36 + 4}) {
    std::string changed = body;
    std::memset(changed.data() + at, at == 153 + 24 + 36 + 4 ? 0 : 0x7F, 4);
    ExpectStatus(RowProfile::Parse(Sealed(changed)).status(), absl::StatusCode::kDataLoss,
                 "impossible profile: ");
  }
}

TEST(RowProfileTest, FilesAreMadeAndReplacedWhole) {
  const Folder folder;
  const std::string path = folder / "a.hot";
  ASSERT_TRUE(Example().Write(path).ok());
  RowProfile other = Example();
  other.tokens = 99;
  ASSERT_TRUE(other.Write(path).ok());
  const auto read = RowProfile::Read(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, other);
  EXPECT_THAT(folder.Names(), ElementsAre("a.hot"));
  // One that cannot be written leaves the old one alone.
  RowProfile bad = Example();
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
  ExpectStatus(Example().Write(folder / "no/such/folder"), absl::StatusCode::kNotFound,
               "no/such/folder");
  // A folder in the file's place: nothing is left behind.
  std::filesystem::create_directory(folder / "taken");
  ExpectStatus(Example().Write(folder / "taken"), absl::StatusCode::kUnavailable, "taken");
  std::ofstream(folder / "text") << "what is this";
  ExpectStatus(RowProfile::Read(folder / "text").status(), absl::StatusCode::kDataLoss,
               (folder / "text") + ": no profile of row frequencies");
  // A file of 1 TiB, all of it a hole: nothing of it is read.
  ASSERT_TRUE(Example().Write(folder / "huge").ok());
  ASSERT_EQ(::truncate((folder / "huge").c_str(), off_t{1} << 40), 0);
  ExpectStatus(RowProfile::Read(folder / "huge").status(), absl::StatusCode::kDataLoss,
               "of which there are 1099511627776");
  EXPECT_EQ(folder.Names().size(), 4u);
}

TableSpec SpecOf(const testing::Model& model) {
  TableSpec spec;
  spec.family = "f";
  spec.addressing = model.addressing;
  spec.layers = model.layers;
  spec.token_map_digest = std::string(64, 'b');
  return spec;
}

RowProfile ProfileOf(const TableSpec& spec) {
  RowProfile profile;
  profile.family = spec.family;
  profile.fingerprint = AddressingFingerprint(spec);
  profile.token_map_digest = spec.token_map_digest;
  for (const LayerSpec& layer : spec.layers) {
    LayerProfile& of = profile.layers.emplace_back();
    of.id = layer.id;
    of.rows = layer.rows;
    for (const ColumnSpec& column : layer.columns)
      of.columns.push_back({column.order, column.rows});
  }
  return profile;
}

TEST(RowProfileTest, FitsEveryVersionOfItsTable) {
  TableSpec spec = SpecOf(testing::DeepseekV41(300, 2));
  const RowProfile profile = ProfileOf(spec);
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
    TableSpec spec = SpecOf(testing::DeepseekV41(300, 2));
    const RowProfile profile = ProfileOf(spec);
    change(spec);
    ExpectStatus(profile.CheckFor(spec), absl::StatusCode::kFailedPrecondition, why);
  }
}

// The fingerprint is stored, so it may never change for the same addressing.
TEST(RowProfileTest, TheFingerprintStaysWhatItIs) {
  EXPECT_EQ(AddressingFingerprint(SpecOf(testing::DeepseekV41())),
            "d62a64b1e039a67577204049815705ab");
}

}  // namespace
}  // namespace engram
