#include "client/cli/output.h"

#include <gtest/gtest.h>

#include "client/cli/progress.h"

namespace engram {
namespace {

TEST(HumanTest, NumbersForPeople) {
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(771234), "771,234");
  EXPECT_EQ(HumanCount(18446744073709551615u), "18,446,744,073,709,551,615");
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(203605776), "203.6 MB");
  EXPECT_EQ(HumanBytes(999960), "1.0 MB");
  EXPECT_EQ(HumanRate(170e6), "0.17 GB/s");
  EXPECT_EQ(HumanSeconds(1.23), "1.2 s");
  EXPECT_EQ(HumanSeconds(59.96), "1 min 0 s");
  EXPECT_EQ(HumanSeconds(185), "3 min 5 s");
  EXPECT_EQ(HumanSeconds(7800), "2 h 10 min");
  EXPECT_EQ(HumanMicros(85.4), "85 µs");
  EXPECT_EQ(HumanMicros(1250), "1.25 ms");
  EXPECT_EQ(HumanMicros(2.5e6), "2.50 s");
  EXPECT_EQ(HumanShare(0.995), "99.5 %");
}

TEST(TextTableTest, AlignsByCharactersNotBytes) {
  TextTable table({"A", "B"}, {false, true});
  table.AddRow({"µs", "1"});
  table.AddRow({"long", "1000"});
  EXPECT_EQ(table.Format(), "A        B\nµs       1\nlong  1000\n");
}

TEST(FormatProgressTest, CountsOnlyWhatThisRunDid) {
  Progress::State state{.phase = "read",
                        .rows_done = 75,
                        .rows_total = 100,
                        .bytes_done = 3000000000,
                        .bytes_total = 4000000000,
                        .bytes_before = 1000000000};
  EXPECT_EQ(FormatProgress(state, 4, 0), "read  75.0 %  75 of 100 rows  0.50 GB/s  2.0 s left");
  EXPECT_EQ(FormatProgress(state, 4, 8),
            "read  [######--]  75.0 %  75 of 100 rows  0.50 GB/s  2.0 s left");
}

TEST(FormatProgressTest, OtherThanRowsAreCountedASecond) {
  const Progress::State state{.phase = "layer 1",
                              .unit = "tokens",
                              .rows_done = 5000,
                              .rows_total = 20000,
                              .bytes_done = 20000,
                              .bytes_total = 80000};
  EXPECT_EQ(FormatProgress(state, 4, 0),
            "layer 1  25.0 %  5,000 of 20,000 tokens  1,250 tokens/s  12.0 s left");
}

TEST(FormatProgressTest, SurvivesTheBeginningAndTheEnd) {
  EXPECT_EQ(FormatProgress({}, 0, 4), "  [----]  0.0 %  0 of 0 rows  0.00 GB/s");
  Progress::State more;
  more.bytes_done = 2;
  more.bytes_total = 1;
  EXPECT_EQ(FormatProgress(more, 1, 4), "  [####]  100.0 %  0 of 0 rows  0.00 GB/s");
}

}  // namespace
}  // namespace engram
