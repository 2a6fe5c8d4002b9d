#include "storage/base/log.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

// A sanitized build's GoogleTest has its own regular expressions: digits are spelt out.
constexpr char kStamp[] = "....-..-..T..:..:..\\....Z ";

TEST(Log, WritesOneStampedLine) {
  ::testing::internal::CaptureStderr();
  ENGRAM_LOG(kInfo) << "table "
                    << "x"
                    << " has " << 48 << " rows";
  ENGRAM_LOG(kWarning) << "w";
  ENGRAM_LOG(kError) << "e";
  const std::string text = ::testing::internal::GetCapturedStderr();
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_THAT(lines[0], ::testing::MatchesRegex(absl::StrCat(kStamp, "I table x has 48 rows")));
  EXPECT_THAT(lines[1], ::testing::MatchesRegex(absl::StrCat(kStamp, "W w")));
  EXPECT_THAT(lines[2], ::testing::MatchesRegex(absl::StrCat(kStamp, "E e")));
  EXPECT_EQ(lines[3], "");
}

TEST(Log, KeepsLinesOfManyThreadsWhole) {
  ::testing::internal::CaptureStderr();
  const std::string message(200, 'm');
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int line = 0; line < 50; ++line) ENGRAM_LOG(kInfo) << message;
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = ::testing::internal::GetCapturedStderr();
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  EXPECT_EQ(lines.size(), 200u);
  for (const std::string& line : lines) {
    EXPECT_EQ(line.size(), 27 + message.size());
    EXPECT_THAT(line, ::testing::EndsWith("Z I " + message));
  }
}

}  // namespace
}  // namespace engram
