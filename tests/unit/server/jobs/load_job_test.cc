// Tables that an earlier release loaded, whose description does not say how tokens are hashed.
#include "server/jobs/load_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "server/jobs/verify_job.h"
#include "storage/checkpoint/row_source.h"
#include "tests/integration/test_checkpoint.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// A checkpoint on a drive that cannot read the last row of its first layer.
class UnreadableSource : public RowSource {
 public:
  explicit UnreadableSource(const RowSource& source) : source_(source) {}

  const TableSpec& spec() const override { return source_.spec(); }
  const TokenMap* token_map() const override { return source_.token_map(); }
  absl::Status ReadRows(LayerId layer, uint64_t first, uint64_t count,
                        absl::Span<std::byte> out) const override {
    const LayerSpec& damaged = spec().layers[0];
    if (layer == damaged.id && first + count == damaged.rows) {
      return absl::UnavailableError("shard: Input/output error");
    }
    return source_.ReadRows(layer, first, count, out);
  }

 private:
  const RowSource& source_;
};

class LoadJobTest : public TableFixture {
 protected:
  void SetUp() override {
    TableFixture::SetUp();
    OpenTables(0);
    checkpoint_ = directory_ + "/checkpoint";
    std::filesystem::create_directory(checkpoint_);
    testing::WriteCheckpoint(checkpoint_, 200, 5);
    auto source = OpenCheckpoint({.directory = checkpoint_, .tensors = {}});
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
  }

  // As the release before the hash described the same checkpoint.
  TableSpec OldSpec() const {
    TableSpec spec = source_->spec();
    spec.name = "t";
    spec.version = VersionId{1};
    spec.addressing.hash = HashKind::kNone;
    for (LayerSpec& layer : spec.layers) layer.multipliers.clear();
    return spec;
  }

  absl::StatusOr<LoadResult> Load(VersionId version = kActiveVersion) {
    const std::atomic<bool> cancelled{false};
    return RunLoad(*tables_,
                   {.table = "t", .checkpoint = checkpoint_, .tensors = {}, .version = version},
                   cancelled, [](const LoadStatus&) { return true; });
  }

  // Leaves a load behind of which one chunk is finished.
  void LoadOneChunk() {
    TableSpec spec = source_->spec();
    spec.name = "t";
    spec.version = VersionId{1};
    auto writer = store_->BeginLoad(spec, source_->token_map());
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_GT((*writer)->todo().size(), 1u);
    const std::atomic<bool> cancelled{false};
    std::atomic<uint64_t> written{0};
    const auto read = [&](LayerId layer, uint64_t first, uint64_t rows, absl::Span<std::byte> out) {
      return source_->ReadRows(layer, first, rows, out);
    };
    ASSERT_TRUE((*writer)->WriteChunk((*writer)->todo()[0], read, cancelled, written).ok());
  }

  // Inverts all rows of the checkpoint's files and leaves their headers; with the times as before,
  // if asked.
  void ChangeRows(bool keep_times) const {
    for (const auto& entry : std::filesystem::directory_iterator(checkpoint_)) {
      if (entry.path().extension() != ".safetensors") continue;
      const auto time = std::filesystem::last_write_time(entry.path());
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
      uint64_t header = 0;
      std::memcpy(&header, bytes.data(), sizeof header);
      for (size_t i = sizeof header + header; i < bytes.size(); ++i) bytes[i] = ~bytes[i];
      file.seekp(0);
      file << bytes;
      file.close();
      ASSERT_TRUE(file.good());
      std::filesystem::last_write_time(entry.path(),
                                       keep_times ? time : time + std::chrono::seconds(1));
    }
  }

  std::string checkpoint_;
  std::unique_ptr<RowSource> source_;
};

TEST_F(LoadJobTest, AnUnchangedCheckpointIsTakenUp) {
  LoadOneChunk();
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->record.spec.version, VersionId{1});
  EXPECT_GT(loaded->status.rows_resumed, 0u);
}

TEST_F(LoadJobTest, ACheckpointThatWasWrittenToIsAnotherOne) {
  LoadOneChunk();
  ChangeRows(/*keep_times=*/false);
  const absl::Status asked = Load(VersionId{1}).status();
  EXPECT_EQ(asked.code(), absl::StatusCode::kFailedPrecondition) << asked;
  EXPECT_THAT(std::string(asked.message()), HasSubstr("another checkpoint"));
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->record.spec.version, VersionId{2});
  EXPECT_EQ(loaded->status.rows_resumed, 0u);
}

TEST_F(LoadJobTest, ACheckpointChangedUnderTheSameDigestIsRefused) {
  LoadOneChunk();
  ChangeRows(/*keep_times=*/true);
  const auto changed = OpenCheckpoint({.directory = checkpoint_, .tensors = {}});
  ASSERT_TRUE(changed.ok()) << changed.status();
  ASSERT_EQ((*changed)->spec().checkpoint_digest, source_->spec().checkpoint_digest);
  for (const VersionId version : {kActiveVersion, VersionId{1}}) {
    const absl::Status status = Load(version).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the checkpoint was changed; drop"));
  }
  // As it was, it is taken up as before.
  ChangeRows(/*keep_times=*/true);
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->record.spec.version, VersionId{1});
}

TEST_F(LoadJobTest, ADamagedChunkOfAnEarlierAttemptIsNamed) {
  LoadOneChunk();
  std::string chunk;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_)) {
    if (entry.path().extension() == ".sst" &&
        entry.path().string().find("/load/") != std::string::npos) {
      chunk = entry.path();
    }
  }
  ASSERT_FALSE(chunk.empty());
  {
    std::fstream file(chunk, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file.put('#');
    file.put('?');
  }
  const absl::Status status = Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(chunk));
  std::filesystem::remove(chunk);
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->status.rows_resumed, 0u);
}

TEST_F(LoadJobTest, ACheckpointWrittenToWhileItIsLoadedIsNotPublished) {
  const auto source = OpenCheckpoint({.directory = checkpoint_, .tensors = {}});
  ASSERT_TRUE(source.ok()) << source.status();
  ChangeRows(/*keep_times=*/false);
  const std::atomic<bool> cancelled{false};
  const absl::Status status =
      RunLoadFrom(**source, *tables_, {.table = "t", .checkpoint = checkpoint_, .tensors = {}},
                  cancelled, [](const LoadStatus&) { return true; })
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("has been written to"));
  for (const TableRecord& record : store_->List()) {
    EXPECT_NE(record.state, TableState::kPublished);
  }
}

// What was read meanwhile must not be taken for rows of the checkpoint as it was, once it is so
// again.
TEST_F(LoadJobTest, RowsOfACheckpointThatWasWrittenToAreNotKept) {
  const auto source = OpenCheckpoint({.directory = checkpoint_, .tensors = {}});
  ASSERT_TRUE(source.ok()) << source.status();
  const auto before = directory_ + "/before";
  std::filesystem::copy(checkpoint_, before);
  std::map<std::string, std::filesystem::file_time_type> times;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint_)) {
    times[entry.path().filename().string()] = std::filesystem::last_write_time(entry.path());
  }
  ChangeRows(/*keep_times=*/false);
  const std::atomic<bool> cancelled{false};
  EXPECT_FALSE(RunLoadFrom(**source, *tables_,
                           {.table = "t", .checkpoint = checkpoint_, .tensors = {}}, cancelled,
                           [](const LoadStatus&) { return true; })
                   .ok());
  std::filesystem::copy(before, checkpoint_, std::filesystem::copy_options::overwrite_existing);
  for (const auto& [name, time] : times) {
    std::filesystem::last_write_time(checkpoint_ + "/" + name, time);
  }
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->record.spec.version, VersionId{1});
  EXPECT_EQ(loaded->status.rows_resumed, 0u);
}

TEST_F(LoadJobTest, RowsThatCannotBeReadEndTheLoadAndAreReadAgain) {
  const std::atomic<bool> cancelled{false};
  const auto progress = [](const auto&) { return true; };
  const absl::Status status =
      RunLoadFrom(UnreadableSource(*source_), *tables_,
                  {.table = "t", .checkpoint = checkpoint_, .tensors = {}}, cancelled, progress)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Input/output error"));
  for (const TableRecord& record : store_->List()) {
    EXPECT_NE(record.state, TableState::kPublished);
  }
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->record.spec.version, VersionId{1});
  const auto verified =
      RunVerify(*tables_, {.table = "t", .checkpoint = checkpoint_}, cancelled, progress);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->bad_rows, 0u);
}

TEST_F(LoadJobTest, ACheckpointReplacedUnderItsTimesDoesNotPassForTheLoadedOne) {
  ASSERT_TRUE(Load().ok());
  const auto again = Load();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->already_loaded);
  ChangeRows(/*keep_times=*/true);
  const absl::Status replaced = Load().status();
  EXPECT_EQ(replaced.code(), absl::StatusCode::kFailedPrecondition) << replaced;
  EXPECT_THAT(std::string(replaced.message()), HasSubstr("version 1 was loaded from files of"));
  EXPECT_EQ(Load(VersionId{1}).status(), replaced);
  ChangeRows(/*keep_times=*/true);  // back again
  EXPECT_TRUE(Load().ok());
  ChangeRows(/*keep_times=*/false);
  const auto newer = Load();
  ASSERT_TRUE(newer.ok()) << newer.status();
  EXPECT_EQ(newer->record.spec.version, VersionId{2});
}

TEST_F(LoadJobTest, ATableWithoutItsHashIsVerifiedAndLoadedAgain) {
  const TableSpec old = OldSpec();
  {
    auto writer = store_->BeginLoad(old);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::atomic<bool> cancelled{false};
    std::atomic<uint64_t> written{0};
    for (const Chunk& chunk : (*writer)->todo()) {
      const auto read = [&](LayerId layer, uint64_t first, uint64_t rows,
                            absl::Span<std::byte> out) {
        return source_->ReadRows(layer, first, rows, out);
      };
      ASSERT_TRUE((*writer)->WriteChunk(chunk, read, cancelled, written).ok());
    }
    const auto record = (*writer)->Publish();
    ASSERT_TRUE(record.ok()) << record.status();
    ASSERT_TRUE(tables_->Add(*record).ok());
  }
  const std::atomic<bool> cancelled{false};
  const auto verified = RunVerify(*tables_, {.table = "t", .checkpoint = checkpoint_}, cancelled,
                                  [](const VerifyStatus&) { return true; });
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->bad_rows, 0u);
  // The same checkpoint, and more is known of it now: a version of its own.
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_FALSE(loaded->already_loaded);
  EXPECT_EQ(loaded->record.spec.version, VersionId{2});
  EXPECT_EQ(loaded->record.spec.addressing.hash, HashKind::kXorMultiply);
  const auto again = Load();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->already_loaded);
  EXPECT_THAT(std::string(Load(VersionId{1}).status().message()),
              HasSubstr("version 1 holds this checkpoint, described in another way"));
}

TEST_F(LoadJobTest, AnUnfinishedLoadOfAnEarlierReleaseIsLeftAlone) {
  ASSERT_TRUE(store_->BeginLoad(OldSpec()).ok());
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->record.spec.version, VersionId{2});
  const absl::Status asked = Load(VersionId{1}).status();
  EXPECT_EQ(asked.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(asked.message()), HasSubstr("was begun from this checkpoint"));
}

TEST_F(LoadJobTest, VerifyNamesWhatCannotBeCompared) {
  ASSERT_TRUE(Load().ok());
  const std::string other = directory_ + "/other";
  std::filesystem::create_directory(other);
  testing::WriteCheckpoint(other, 300, 5);
  const std::atomic<bool> cancelled{false};
  const absl::Status status =
      RunVerify(*tables_, {.table = "t", .checkpoint = other}, cancelled, [](const VerifyStatus&) {
        return true;
      }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be compared: it has layer "));
}

}  // namespace
}  // namespace engram
