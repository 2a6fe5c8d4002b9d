// ReadAhead and ShardStream: rows that come through io_uring, and what happens when it is refused,
// breaks, or the drive answers badly.
#include "storage/checkpoint/row_stream.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/checkpoint/row_shards.h"
#include "tests/test_seed.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"
#include "tests/unit/storage/ring_testing.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing_checkpoint::RowBytes;
using testing_checkpoint::TempDir;

std::unique_ptr<FileReader> MustOpen(const std::string& path, FileReader::Options options = {}) {
  auto reader = FileReader::Open(path, std::move(options));
  EXPECT_TRUE(reader.ok()) << reader.status();
  return reader.ok() ? *std::move(reader) : nullptr;
}

// Rows of values and scales, in files of their own; enough for several blocks.
class Rows {
 public:
  static constexpr uint64_t kCount = 40'000;
  static constexpr uint64_t kBytes = 264;

  explicit Rows(FileReader::Options values = {}) {
    values_ = MustOpen(dir_.Write("v", "head" + RowBytes(3, 0, kCount, 0, 256)), std::move(values));
    scales_ = MustOpen(dir_.Write("s", RowBytes(3, 0, kCount, 256, kBytes) + "tail"));
    shards_ = std::make_unique<RowShards>(std::vector<RowShard>{
        {kFirst, {{values_.get(), 4, 256, "w"}, {scales_.get(), 0, 8, "s"}}},
        {kCount - kFirst,
         {{values_.get(), 4 + kFirst * 256, 256, "w"}, {scales_.get(), kFirst * 8, 8, "s"}}}});
  }

  // The rows from `first` to the end, taken by random amounts.
  absl::Status Take(uint64_t first, std::mt19937_64& random, std::string* out,
                    bool io_uring = true) const {
    const std::unique_ptr<RowStream> stream = shards_->Stream(first, kCount - first, io_uring);
    while (first < kCount) {
      const uint64_t rows = std::min<uint64_t>(kCount - first, 1 + random() % 5000);
      std::vector<std::byte> bytes(rows * kBytes);
      if (absl::Status status = stream->Read(first, rows, absl::MakeSpan(bytes)); !status.ok()) {
        return status;
      }
      out->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      first += rows;
    }
    return absl::OkStatus();
  }
  void ExpectAll(bool io_uring = true) const {
    std::mt19937_64 random(TestSeed());
    for (const uint64_t first : {uint64_t{0}, random() % kCount}) {
      std::string out;
      const absl::Status status = Take(first, random, &out, io_uring);
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_TRUE(out == RowBytes(3, first, kCount - first, 0, kBytes)) << "from row " << first;
    }
  }
  absl::Status Error() const {
    std::mt19937_64 random(TestSeed());
    std::string out;
    return Take(0, random, &out);
  }

  const FileReader& values() const { return *values_; }
  const RowShards& shards() const { return *shards_; }

 private:
  static constexpr uint64_t kFirst = 17'003;  // rows of the first shard

  TempDir dir_;
  std::unique_ptr<FileReader> values_;
  std::unique_ptr<FileReader> scales_;
  std::unique_ptr<RowShards> shards_;
};

using RingRead = decltype(FileReader::Options::ring_read);
FileReader::Options WithRing(RingRead ring_read) {
  FileReader::Options options;
  options.ring_read = std::move(ring_read);
  return options;
}

bool CanRing(const Rows& rows) { return ProbeIoUring().ok() && rows.values().ring_fd() >= 0; }

TEST(RowStream, GivesTheRowsOfAllShards) {
  const Rows rows;
  rows.ExpectAll();
  rows.ExpectAll(/*io_uring=*/false);
}

TEST(RowStream, ReadsThroughTheRing) {
  std::atomic<uint64_t> bytes{0};
  const Rows rows(WithRing([&](uint64_t, absl::Span<std::byte>, int32_t result) {
    if (result > 0) bytes += static_cast<uint64_t>(result);
    return result;
  }));
  if (!CanRing(rows)) GTEST_SKIP() << "no io_uring or no direct I/O here";
  EXPECT_EQ(rows.Error(), absl::OkStatus());
  EXPECT_GE(bytes, Rows::kCount * 256);
}

TEST(RowStream, ManyAtOnce) {
  const Rows rows;
  const uint64_t seed = TestSeed();
  const std::string expected = RowBytes(3, 0, Rows::kCount, 0, Rows::kBytes);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937_64 random(seed + i);
      std::string out;
      EXPECT_EQ(rows.Take(0, random, &out), absl::OkStatus());
      EXPECT_TRUE(out == expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(RowStream, MayBeGivenUpWhileReadsAreUnderWay) {
  const Rows rows;
  std::vector<std::byte> one(Rows::kBytes);
  for (uint64_t i = 0; i < 20; ++i) {
    const auto stream = rows.shards().Stream(i, Rows::kCount - i, true);
    EXPECT_TRUE(i % 2 == 0 || stream->Read(i, 1, absl::MakeSpan(one)).ok());
  }
}

TEST(RowStream, TakesRowsOnlyInOrderAndOnlyThoseThereAre) {
  const Rows rows;
  std::vector<std::byte> bytes(2 * Rows::kBytes);
  const auto stream = rows.shards().Stream(10, 3, true);
  EXPECT_EQ(stream->Read(11, 2, absl::MakeSpan(bytes)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(stream->Read(10, 1, absl::MakeSpan(bytes)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(stream->Read(10, 2, absl::MakeSpan(bytes)).ok());
  EXPECT_EQ(stream->Read(12, 2, absl::MakeSpan(bytes)).code(), absl::StatusCode::kInvalidArgument);
}

TEST(RowStream, GoesOnAfterShortReadsAndInterrupts) {
  std::atomic<int> calls{0};
  std::atomic<int> odd{0};
  const Rows rows(WithRing([&](uint64_t, absl::Span<std::byte> data, int32_t result) {
    const int call = calls++;
    if (result <= 0) return result;
    // What did not come must be fetched again, so nothing of it may stand there.
    const auto keep = [&](int32_t bytes) {
      std::fill(data.begin() + bytes, data.end(), std::byte{0xEE});
      return bytes;
    };
    if (call % 5 == 1) return keep(0) - EINTR;
    if (call % 5 == 2) return keep(0) - EAGAIN;
    if (call % 5 == 3) return keep(std::min<int32_t>(result, 8192));
    if (call % 50 == 4) {
      ++odd;  // ends in the middle of a block, in the middle of the file
      return keep(std::min<int32_t>(result, 5000));
    }
    return result;
  }));
  if (!CanRing(rows)) GTEST_SKIP() << "no io_uring or no direct I/O here";
  rows.ExpectAll();
  EXPECT_GT(odd, 0);
}

TEST(RowStream, ReadsWithPreadWhatTheRingMayNotRead) {
  const Rows rows(WithRing([](uint64_t, absl::Span<std::byte> data, int32_t) {
    std::fill(data.begin(), data.end(), std::byte{0xEE});
    return -EINVAL;
  }));
  rows.ExpectAll();
}

TEST(RowStream, ReportsAnErrorOfOnePiece) {
  constexpr uint64_t kBad = 5 * ReadAhead::kPieceBytes + 8192;
  const Rows rows(WithRing([](uint64_t offset, absl::Span<std::byte> data, int32_t result) {
    return offset <= kBad && kBad < offset + data.size() ? -EIO : result;
  }));
  if (!CanRing(rows)) GTEST_SKIP() << "no io_uring or no direct I/O here";
  const absl::Status status = rows.Error();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr(rows.values().path() + ": reading at byte "),
                                      HasSubstr("Input/output error"), HasSubstr("of tensor 'w'")));
}

TEST(RowStream, ReportsAFileCutShort) {
  for (const bool io_uring : {true, false}) {
    const Rows rows;
    ASSERT_EQ(::truncate(rows.values().path().c_str(), Rows::kCount * 256 - 300'000), 0);
    std::mt19937_64 random(TestSeed());
    std::string out;
    const absl::Status status = rows.Take(0, random, &out, io_uring);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("cut short"), HasSubstr("of tensor 'w'")));
  }
}

TEST(RowStream, WithoutARingReadsGoOn) {
  const Rows rows;
  testing_ring::WithoutRings([&rows] {
    EXPECT_FALSE(ProbeIoUring().ok());
    rows.ExpectAll();
  });
}

TEST(RowStream, ARingThatBreaksIsReplacedByPlainReads) {
  const Rows rows;
  if (!CanRing(rows)) GTEST_SKIP() << "no io_uring or no direct I/O here";
  const auto stream = rows.shards().Stream(0, Rows::kCount, true);
  std::vector<std::byte> bytes(Rows::kCount * Rows::kBytes);
  constexpr uint64_t kFew = 9000;  // more than a block
  ASSERT_TRUE(stream->Read(0, kFew, absl::MakeSpan(bytes).first(kFew * Rows::kBytes)).ok());
  testing_ring::BreakTheRing();
  ASSERT_EQ(stream->Read(kFew, Rows::kCount - kFew, absl::MakeSpan(bytes).subspan(kFew * 264)),
            absl::OkStatus());
  EXPECT_TRUE(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) ==
              RowBytes(3, 0, Rows::kCount, 0, Rows::kBytes));
}

TEST(FileReader, NoticesThatItsFileWasWrittenTo) {
  TempDir dir;
  const auto reader = MustOpen(dir.Write("f", std::string(5000, 'a')));
  EXPECT_EQ(reader->CheckUnchanged(), absl::OkStatus());
  const int fd = ::open(reader->path().c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::pwrite(fd, "b", 1, 100), 1);
  // A clock's tick may be coarser than this test: the time is set so that it surely differs.
  const timespec times[2] = {{0, UTIME_OMIT}, {1, 1}};
  ASSERT_EQ(::futimens(fd, times), 0);
  ::close(fd);
  const absl::Status status = reader->CheckUnchanged();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr(reader->path()), HasSubstr("written to")));
}

}  // namespace
}  // namespace engram
