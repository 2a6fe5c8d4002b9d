#include "storage/base/io_ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "storage/base/unique_fd.h"

namespace engram {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kBlocks = 200;

class IoRingTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status status = ProbeIoUring(); !status.ok()) GTEST_SKIP() << status;
    char name[] = "/tmp/io_ring_test.XXXXXX";
    fd_ = UniqueFd(::mkstemp(name));
    ASSERT_TRUE(fd_.valid());
    ::unlink(name);
    std::mt19937_64 random(42);
    content_.resize(kBlocks * kBlock);
    for (char& byte : content_) byte = static_cast<char>(random());
    ASSERT_EQ(::pwrite(fd_.get(), content_.data(), content_.size(), 0),
              static_cast<ssize_t>(content_.size()));
  }

  UniqueFd fd_;
  std::string content_;
};

TEST_F(IoRingTest, KeepsReadsInFlightAndAnswersEachOnce) {
  IoRing ring(8);
  ASSERT_TRUE(ring.status().ok()) << ring.status();
  std::string read(content_.size(), '\0');
  size_t next = 0;
  std::map<uint64_t, int> answers;
  unsigned deepest = 0;
  const auto fill = [&] {
    for (; next < kBlocks && ring.in_flight() < ring.depth(); ++next) {
      ring.Read(fd_.get(), &read[next * kBlock], kBlock, next * kBlock, next);
    }
    deepest = std::max(deepest, ring.in_flight());
  };
  fill();
  while (ring.in_flight() > 0) {
    // Half of the time the next reads are queued from within the answer.
    ASSERT_TRUE(ring.Wait(1,
                          [&](uint64_t tag, int32_t result) {
                            EXPECT_EQ(result, static_cast<int32_t>(kBlock));
                            ++answers[tag];
                            if (tag % 2 == 0) fill();
                          })
                    .ok());
    fill();
  }
  EXPECT_EQ(read, content_);
  EXPECT_EQ(answers.size(), kBlocks);
  for (const auto& [tag, count] : answers) EXPECT_EQ(count, 1) << tag;
  EXPECT_EQ(deepest, 8u);
}

TEST_F(IoRingTest, WritesWhatIsReadBack) {
  IoRing ring(4);
  const std::string text(kBlock, 'x');
  ring.Write(fd_.get(), text.data(), kBlock, 3 * kBlock, 7);
  ASSERT_TRUE(ring.Wait(1,
                        [](uint64_t tag, int32_t result) {
                          EXPECT_EQ(tag, 7u);
                          EXPECT_EQ(result, static_cast<int32_t>(kBlock));
                        })
                  .ok());
  std::string read(kBlock, '\0');
  ASSERT_EQ(::pread(fd_.get(), read.data(), kBlock, 3 * kBlock), static_cast<ssize_t>(kBlock));
  EXPECT_EQ(read, text);
}

TEST_F(IoRingTest, TellsEndsAndErrorsByTheirRequest) {
  IoRing ring(4);
  std::vector<char> memory(4 * kBlock);
  ring.Read(fd_.get(), &memory[0], kBlock, content_.size() - 100, 1);
  ring.Read(fd_.get(), &memory[kBlock], kBlock, content_.size() + 100, 2);
  ring.Read(-1, &memory[2 * kBlock], kBlock, 0, 3);
  ring.Read(fd_.get(), &memory[3 * kBlock], kBlock, 0, 4);
  std::map<uint64_t, int32_t> results;
  // More are asked for than there are: all come.
  ASSERT_TRUE(ring.Wait(100, [&](uint64_t tag, int32_t result) { results[tag] = result; }).ok());
  EXPECT_EQ(results, (std::map<uint64_t, int32_t>{
                         {1, 100}, {2, 0}, {3, -EBADF}, {4, static_cast<int32_t>(kBlock)}}));
  EXPECT_EQ(ring.in_flight(), 0u);
}

TEST_F(IoRingTest, WaitsForReadsThatNobodyAskedAfter) {
  std::vector<char> memory(kBlock);
  {
    IoRing ring(2);
    ring.Read(fd_.get(), memory.data(), kBlock, 0, 1);
  }
  EXPECT_EQ(std::string(memory.begin(), memory.end()), content_.substr(0, kBlock));
}

// The descriptors of this process's rings.
std::map<int, std::string> RingDescriptors() {
  std::map<int, std::string> rings;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    const std::string target = std::filesystem::read_symlink(entry.path(), ignored).string();
    if (target.find("io_uring") == std::string::npos) continue;
    rings[std::stoi(entry.path().filename().string())] = target;
  }
  return rings;
}

TEST_F(IoRingTest, ABrokenRingAnswersWhatItCannotDo) {
  IoRing ring(4);
  const std::map<int, std::string> rings = RingDescriptors();
  ASSERT_EQ(rings.size(), 1u);
  ::close(rings.begin()->first);
  std::vector<char> memory(2 * kBlock);
  ring.Read(fd_.get(), &memory[0], kBlock, 0, 1);
  ring.Read(fd_.get(), &memory[kBlock], kBlock, 0, 2);
  std::map<uint64_t, int32_t> results;
  const absl::Status status =
      ring.Wait(1, [&](uint64_t tag, int32_t result) { results[tag] = result; });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(results, (std::map<uint64_t, int32_t>{{1, -EBADF}, {2, -EBADF}}));
  EXPECT_EQ(ring.in_flight(), 0u);
  EXPECT_FALSE(ring.status().ok());
}

}  // namespace
}  // namespace engram
