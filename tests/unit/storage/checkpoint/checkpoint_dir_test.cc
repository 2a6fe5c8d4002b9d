#include "storage/checkpoint/checkpoint_dir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing_checkpoint::IndexJson;
using testing_checkpoint::Safetensors;
using testing_checkpoint::TempDir;

constexpr char kIndex[] = "model.safetensors.index.json";

std::string OneTensor(const std::string& name, const std::string& bytes = "abcd") {
  return Safetensors({{name, "U8", {bytes.size()}, bytes}});
}

void ExpectStatus(const absl::Status& status, absl::StatusCode code,
                  const std::vector<std::string>& texts) {
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& text : texts) EXPECT_THAT(status.message(), HasSubstr(text));
}

class CheckpointDirTest : public ::testing::Test {
 protected:
  std::unique_ptr<CheckpointDir> MustOpen() const {
    auto opened = CheckpointDir::Open(dir_.path());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  absl::Status OpenError() const { return CheckpointDir::Open(dir_.path()).status(); }

  TempDir dir_;
};

TEST_F(CheckpointDirTest, FollowsTheIndex) {
  dir_.Write("one.safetensors", OneTensor("a", "1111"));
  dir_.Write("two.safetensors", OneTensor("b", "22222"));
  dir_.Write(kIndex, IndexJson({{"a", "one.safetensors"}, {"b", "two.safetensors"}}));
  const auto directory = MustOpen();
  EXPECT_TRUE(directory->shards().empty());
  const auto b = directory->Find("b");
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(b->shard->name, "two.safetensors");
  EXPECT_EQ(b->info->bytes(), 5u);
  AlignedBuffer buffer;
  const auto bytes = b->shard->file->Read(b->info->begin, b->info->bytes(), buffer);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(absl::string_view(reinterpret_cast<const char*>(bytes->data()), bytes->size()),
            "22222");
  EXPECT_EQ(directory->shards().size(), 1u);
  EXPECT_TRUE(directory->Find("a").ok());
  EXPECT_EQ(directory->shards().size(), 2u);
  EXPECT_EQ(directory->Find("b")->shard, b->shard);
}

TEST_F(CheckpointDirTest, NeedsOnlyTheShardsAskedFor) {
  dir_.Write("one.safetensors", OneTensor("a"));
  dir_.Write(kIndex, IndexJson({{"a", "one.safetensors"}, {"b", "gone.safetensors"}}));
  const auto directory = MustOpen();
  EXPECT_TRUE(directory->Find("a").ok());
  for (int i = 0; i < 2; ++i) {
    ExpectStatus(directory->Find("b").status(), absl::StatusCode::kNotFound,
                 {dir_.File("gone.safetensors"), "'b'"});
  }
  EXPECT_EQ(directory->shards().size(), 1u);
  // Once it is there, it is found.
  dir_.Write("gone.safetensors", OneTensor("b"));
  EXPECT_TRUE(directory->Find("b").ok());
}

TEST_F(CheckpointDirTest, NoticesAnIndexThatDisagreesWithItsShards) {
  dir_.Write("one.safetensors", OneTensor("a"));
  dir_.Write(kIndex, IndexJson({{"a", "one.safetensors"}, {"b", "one.safetensors"}}));
  const auto directory = MustOpen();
  ExpectStatus(directory->Find("b").status(), absl::StatusCode::kDataLoss,
               {dir_.File("one.safetensors"), "'b'", kIndex});
  ExpectStatus(directory->Find("c").status(), absl::StatusCode::kInvalidArgument,
               {"no tensor 'c'", kIndex});
}

TEST_F(CheckpointDirTest, NamesADamagedShardAndTheTensorThatNeedsIt) {
  dir_.Write("one.safetensors", "short");
  dir_.Write(kIndex, IndexJson({{"a", "one.safetensors"}}));
  ExpectStatus(MustOpen()->Find("a").status(), absl::StatusCode::kDataLoss,
               {dir_.File("one.safetensors"), "5 bytes", "'a'"});
  const std::string whole = OneTensor("a");
  dir_.Write("one.safetensors", whole.substr(0, whole.size() - 1));
  ExpectStatus(MustOpen()->Find("a").status(), absl::StatusCode::kDataLoss,
               {dir_.File("one.safetensors"), "'a'", "past the file's 3 bytes"});
  ASSERT_EQ(::unlink(dir_.File("one.safetensors").c_str()), 0);
  ASSERT_EQ(::mkdir(dir_.File("one.safetensors").c_str(), 0700), 0);
  ExpectStatus(MustOpen()->Find("a").status(), absl::StatusCode::kInvalidArgument,
               {dir_.File("one.safetensors"), "'a'"});
}

TEST_F(CheckpointDirTest, ScansWithoutAnIndex) {
  dir_.Write("x-1.safetensors", OneTensor("a"));
  dir_.Write("x-2.safetensors", OneTensor("b"));
  dir_.Write("notes.txt", "not a shard");
  const auto directory = MustOpen();
  EXPECT_EQ(directory->Find("a")->shard->name, "x-1.safetensors");
  EXPECT_EQ(directory->Find("b")->shard->name, "x-2.safetensors");
  ExpectStatus(directory->Find("c").status(), absl::StatusCode::kInvalidArgument,
               {"no tensor 'c'", dir_.path()});
  dir_.Write("x-3.safetensors", OneTensor("a"));
  ExpectStatus(OpenError(), absl::StatusCode::kInvalidArgument,
               {"'a'", "x-1.safetensors", "x-3.safetensors"});
  dir_.Write("x-3.safetensors", "damaged");
  ExpectStatus(OpenError(), absl::StatusCode::kDataLoss, {dir_.File("x-3.safetensors")});
}

TEST_F(CheckpointDirTest, PrefersTheSingleFileToOthers) {
  dir_.Write("model.safetensors", OneTensor("a"));
  dir_.Write("consolidated.safetensors", OneTensor("a", "other"));
  EXPECT_EQ(MustOpen()->Find("a")->shard->name, "model.safetensors");
}

TEST_F(CheckpointDirTest, SaysWhatIsMissing) {
  ExpectStatus(OpenError(), absl::StatusCode::kNotFound, {dir_.path(), kIndex, "*.safetensors"});
  ExpectStatus(CheckpointDir::Open(dir_.File("gone")).status(), absl::StatusCode::kNotFound,
               {dir_.File("gone")});
}

TEST_F(CheckpointDirTest, RefusesABadIndex) {
  const std::vector<std::pair<std::string, absl::StatusCode>> cases = {
      {"{", absl::StatusCode::kDataLoss},
      {"{}", absl::StatusCode::kInvalidArgument},
      {R"({"weight_map":[]})", absl::StatusCode::kInvalidArgument},
      {R"({"weight_map":{"tensor":5}})", absl::StatusCode::kInvalidArgument},
      {R"({"weight_map":{"tensor":"a","tensor":"b"}})", absl::StatusCode::kDataLoss},
  };
  for (const auto& [text, code] : cases) {
    dir_.Write(kIndex, text);
    ExpectStatus(OpenError(), code, {dir_.File(kIndex)});
  }
}

TEST_F(CheckpointDirTest, NeverLeavesItsDirectory) {
  for (const char* name : {"../x.safetensors", "..", ".", "", "/etc/passwd", "a/b.safetensors",
                           "x\\u0000y.safetensors"}) {
    dir_.Write(kIndex, IndexJson({{"tensor", name}}));
    ExpectStatus(OpenError(), absl::StatusCode::kInvalidArgument,
                 {dir_.File(kIndex), "'tensor'", "plain file name"});
  }
}

TEST_F(CheckpointDirTest, ResolvesPrefixesOnlyWhereThereIsNoDoubt) {
  dir_.Write(kIndex, IndexJson({{"model.layers.1.w", "s"},
                                {"model.layers.11.w", "s"},
                                {"a.layers.2.w", "s"},
                                {"b.layers.2.w", "s"},
                                {"layers.3.w", "s"},
                                {"a.layers.3.w", "s"}}));
  const auto directory = MustOpen();
  EXPECT_EQ(*directory->Resolve("layers.1.w"), "model.layers.1.w");
  EXPECT_EQ(*directory->Resolve("layers.3.w"), "layers.3.w");
  ExpectStatus(directory->Resolve("layers.2.w").status(), absl::StatusCode::kInvalidArgument,
               {"'layers.2.w'", "'a.layers.2.w'", "'b.layers.2.w'"});
  ExpectStatus(directory->Resolve("layers.4.w").status(), absl::StatusCode::kInvalidArgument,
               {"no tensor 'layers.4.w'", kIndex});
}

class CheckpointDigestTest : public CheckpointDirTest {
 protected:
  void SetUp() override {
    dir_.Write("config.json", "{}");
    dir_.Write("one.safetensors", OneTensor("a"));
    dir_.Write("two.safetensors", OneTensor("b"));
    dir_.Write(kIndex, IndexJson({{"a", "one.safetensors"}, {"b", "two.safetensors"}}));
    SetTime("one.safetensors", 1000);
    SetTime("two.safetensors", 1000);
  }
  void SetTime(const std::string& name, time_t seconds, long nanoseconds = 5) {
    const timespec times[2] = {{seconds, nanoseconds}, {seconds, nanoseconds}};
    ASSERT_EQ(::utimensat(AT_FDCWD, dir_.File(name).c_str(), times, 0), 0);
  }
  std::string Digest(const std::vector<std::string>& tensors = {"a"}) {
    const auto directory = MustOpen();
    for (const std::string& tensor : tensors) EXPECT_TRUE(directory->Find(tensor).ok());
    return CheckpointDigest(*ModelConfig::Read(dir_.path()), *directory);
  }
};

TEST_F(CheckpointDigestTest, StaysTheSame) {
  const std::string digest = Digest();
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_EQ(Digest(), digest);
  EXPECT_EQ(Digest({"b", "a"}), Digest({"a", "b"}));
  // A shard that holds none of the rows does not count.
  SetTime("two.safetensors", 2000);
  EXPECT_EQ(Digest(), digest);
}

TEST_F(CheckpointDigestTest, CoversWhatElseMakesTheRows) {
  const auto directory = MustOpen();
  ASSERT_TRUE(directory->Find("a").ok());
  const ModelConfig config = *ModelConfig::Read(dir_.path());
  const auto digest = [&](const std::vector<std::string>& also) {
    return CheckpointDigest(config, *directory, also);
  };
  EXPECT_EQ(digest({}), Digest());
  std::vector<std::string> seen = {digest({}), digest({"ab"}), digest({"a", "b"}),
                                   digest({"b", "a"}), digest({""})};
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
}

TEST_F(CheckpointDigestTest, NoticesConfigShardsTimesAndHeaders) {
  std::vector<std::string> seen = {Digest()};
  const auto expect_new = [&](const char* what, const std::string& digest) {
    EXPECT_THAT(seen, ::testing::Not(::testing::Contains(digest))) << what;
    seen.push_back(digest);
  };
  expect_new("another set of shards", Digest({"a", "b"}));
  SetTime("one.safetensors", 1000, 6);
  expect_new("a nanosecond", Digest());
  SetTime("one.safetensors", 1000, 5);
  EXPECT_EQ(Digest(), seen[0]);
  dir_.Write("config.json", "{ }");
  expect_new("the config", Digest());
  dir_.Write("config.json", "{}");
  dir_.Write("one.safetensors", Safetensors({{"a", "I8", {4}, "abcd"}}));
  SetTime("one.safetensors", 1000);
  expect_new("the header", Digest());
  dir_.Write("one.safetensors", OneTensor("a") + "x");
  SetTime("one.safetensors", 1000);
  expect_new("the size", Digest());
  dir_.Write("one.safetensors", OneTensor("a"));
  SetTime("one.safetensors", 1000);
  EXPECT_EQ(Digest(), seen[0]);
  ASSERT_EQ(::rename(dir_.File("one.safetensors").c_str(), dir_.File("1.safetensors").c_str()), 0);
  dir_.Write(kIndex, IndexJson({{"a", "1.safetensors"}}));
  expect_new("the name", Digest());
}

}  // namespace
}  // namespace engram
