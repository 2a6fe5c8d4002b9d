#include "server/placement/hotness_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = HotnessFiles::Kind;

class HotnessFilesTest : public ::testing::Test {
 protected:
  HotnessFilesTest() {
    path_ = ::testing::TempDir() + "hotness_files_XXXXXX";
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
    files_ = std::make_unique<HotnessFiles>(path_ + "/hotness");
  }
  ~HotnessFilesTest() override { std::filesystem::remove_all(path_); }

  static HotnessFiles::Key Key(const std::string& table, char fingerprint = 'a', int layer = 1) {
    return {table, std::string(32, fingerprint), LayerId{layer}};
  }
  // Of a layer of 1,000 rows, five of which were asked for one to five times.
  static LayerProfile Outline(Kind kind) {
    LayerProfile layer;
    layer.rows = 1000;
    if (kind == Kind::kProfile) {
      layer.columns = {{2, 1000}};
      layer.orders = {{2, {{5, 1}, {4, 1}, {3, 1}, {2, 1}, {1, 1}}}};
    }
    return layer;
  }
  absl::Status Write(const HotnessFiles::Key& key, Kind kind, uint32_t first, uint64_t bytes = 0) {
    return files_->Write(key, kind, Outline(kind), bytes, [&](HotWriter& writer) {
      absl::Status status;
      for (uint32_t i = 5; i > 0 && status.ok(); --i) status = writer.Add(RowId{first + i - 1}, i);
      return status;
    });
  }
  using Rows = std::map<uint32_t, uint32_t>;
  absl::StatusOr<Rows> Read(const HotnessFiles::Key& key, Kind kind) {
    Rows rows;
    const absl::Status status = files_->Read(key, kind, 1000, stop_, [&](const HotRun& run) {
      for (const RowId id : run.ids) rows[Raw(id)] = run.count;
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return rows;
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_ + "/hotness")) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  static std::string Name(const std::string& table, char fingerprint, const std::string& rest) {
    return absl::StrCat(table, ".", std::string(32, fingerprint), rest);
  }

  std::string path_;
  std::unique_ptr<HotnessFiles> files_;
  std::atomic<bool> stop_{false};
};

TEST_F(HotnessFilesTest, KindsLayersAndAddressingsAreApart) {
  ASSERT_TRUE(Write(Key("t"), Kind::kLive, 10).ok());
  ASSERT_TRUE(Write(Key("t"), Kind::kProfile, 20).ok());
  ASSERT_TRUE(Write(Key("t", 'b'), Kind::kLive, 30).ok());
  ASSERT_TRUE(Write(Key("t", 'a', -3), Kind::kLive, 40).ok());
  EXPECT_EQ(Read(Key("t"), Kind::kLive).value(),
            (Rows{{10, 1}, {11, 2}, {12, 3}, {13, 4}, {14, 5}}));
  EXPECT_EQ(Read(Key("t"), Kind::kProfile)->begin()->first, 20u);
  EXPECT_EQ(Read(Key("t", 'b'), Kind::kLive)->begin()->first, 30u);
  EXPECT_EQ(Read(Key("t", 'a', -3), Kind::kLive)->begin()->first, 40u);
  EXPECT_EQ(Read(Key("u"), Kind::kLive).status().code(), absl::StatusCode::kNotFound);
  // Replaced whole.
  ASSERT_TRUE(Write(Key("t"), Kind::kLive, 50).ok());
  EXPECT_EQ(Read(Key("t"), Kind::kLive)->begin()->first, 50u);
}

TEST_F(HotnessFilesTest, AFailedWriteLeavesTheOldFile) {
  ASSERT_TRUE(Write(Key("t"), Kind::kLive, 10).ok());
  const absl::Status status =
      files_->Write(Key("t"), Kind::kLive, Outline(Kind::kLive), 0, [](HotWriter& writer) {
        EXPECT_TRUE(writer.Add(RowId{1}, 1).ok());
        return absl::CancelledError("no more");
      });
  EXPECT_EQ(status, absl::CancelledError("no more"));
  EXPECT_EQ(Read(Key("t"), Kind::kLive)->begin()->first, 10u);
  EXPECT_THAT(Names(), ElementsAre(Name("t", 'a', ".1.live")));
}

TEST_F(HotnessFilesTest, NothingIsBegunThatWouldFillTheDrive) {
  ASSERT_TRUE(Write(Key("t"), Kind::kLive, 10).ok());
  const absl::Status status = Write(Key("t"), Kind::kLive, 20, uint64_t{1} << 60);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(Read(Key("t"), Kind::kLive)->begin()->first, 10u);
}

TEST_F(HotnessFilesTest, DamageIsToldWithTheFile) {
  ASSERT_TRUE(Write(Key("t"), Kind::kLive, 10).ok());
  const std::string path = files_->PathOf(Key("t"), Kind::kLive);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  const absl::Status torn = Read(Key("t"), Kind::kLive).status();
  EXPECT_EQ(torn.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(torn.message()), HasSubstr(path));
  // Another one's file under this name.
  ASSERT_TRUE(Write(Key("u"), Kind::kLive, 10).ok());
  std::filesystem::copy_file(files_->PathOf(Key("u"), Kind::kLive), path,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(Read(Key("t"), Kind::kLive).status().code(), absl::StatusCode::kFailedPrecondition);
  // The other kind's.
  ASSERT_TRUE(Write(Key("t"), Kind::kProfile, 10).ok());
  std::filesystem::copy_file(files_->PathOf(Key("t"), Kind::kProfile), path,
                             std::filesystem::copy_options::overwrite_existing);
  const absl::Status mixed = Read(Key("t"), Kind::kLive).status();
  EXPECT_EQ(mixed.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(mixed.message()), HasSubstr("these are profile rows of table 't'"));
  EXPECT_THAT(std::string(mixed.message()), HasSubstr("learned anew"));
}

// What daemons before format 2 wrote.
TEST_F(HotnessFilesTest, FilesOfAnotherFormatAreNamed) {
  ASSERT_TRUE(Write(Key("t"), Kind::kProfile, 10).ok());
  const std::string path = files_->PathOf(Key("t"), Kind::kProfile);
  const auto expect = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    const absl::Status status = Read(Key("t"), Kind::kProfile).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
    EXPECT_THAT(std::string(status.message()), HasSubstr("format 1, where this release knows 2"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("until the profile is loaded again"));
  };
  const std::string one("\1\0\0\0", 4), more(100, 'x');
  expect("engrhot1" + one + more);
  expect("engrmhot" + one + more);
}

TEST_F(HotnessFilesTest, ReadingEndsWhenTold) {
  ASSERT_TRUE(Write(Key("t"), Kind::kLive, 10).ok());
  stop_ = true;
  EXPECT_EQ(Read(Key("t"), Kind::kLive).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(HotnessFilesTest, CleanUpTakesWhatIsUnfinishedAndOnRequestLive) {
  files_->CleanUp(true);  // there is no directory yet
  ASSERT_TRUE(Write(Key("t"), Kind::kLive, 10).ok());
  ASSERT_TRUE(Write(Key("t"), Kind::kProfile, 10).ok());
  std::ofstream(files_->PathOf(Key("t"), Kind::kLive) + ".new") << "half";
  std::ofstream(path_ + "/hotness/README") << "somebody's";
  files_->CleanUp(true);
  EXPECT_THAT(Names(),
              ElementsAre("README", Name("t", 'a', ".1.live"), Name("t", 'a', ".1.profile")));
  files_->CleanUp(false);
  EXPECT_THAT(Names(), ElementsAre("README", Name("t", 'a', ".1.profile")));
}

TEST_F(HotnessFilesTest, KeepOnlyTakesNoOtherTablesFiles) {
  const std::string tricky = absl::StrCat("t.", std::string(32, 'a'), ".1.live");
  for (const std::string& table :
       {std::string("t"), std::string("t.u"), std::string("tt"), tricky}) {
    ASSERT_TRUE(Write(Key(table, 'a'), Kind::kLive, 10).ok());
    ASSERT_TRUE(Write(Key(table, 'b', 7), Kind::kProfile, 10).ok());
  }
  files_->KeepOnly("t", {std::string(32, 'b')});
  EXPECT_TRUE(absl::IsNotFound(Read(Key("t", 'a'), Kind::kLive).status()));
  EXPECT_TRUE(Read(Key("t", 'b', 7), Kind::kProfile).ok());
  files_->KeepOnly("t", {});
  EXPECT_TRUE(absl::IsNotFound(Read(Key("t", 'b', 7), Kind::kProfile).status()));
  for (const std::string& table : {std::string("t.u"), std::string("tt"), tricky}) {
    EXPECT_TRUE(Read(Key(table, 'a'), Kind::kLive).ok()) << table;
    EXPECT_TRUE(Read(Key(table, 'b', 7), Kind::kProfile).ok()) << table;
  }
}

}  // namespace
}  // namespace engram
