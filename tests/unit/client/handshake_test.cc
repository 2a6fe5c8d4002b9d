// CheckTable: every field of an expectation, one by one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "client/client.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

TableDescription Table() {
  TableDescription table;
  table.name = "deepseek";
  table.version = 4;
  table.family = "deepseek-v4.1";
  table.row_format = "f8_e4m3[256] f8_e8m0[8]";
  table.hash = "xor-multiply";
  table.max_ngram_size = 4;
  table.heads = 8;
  table.pad_id = 2;
  table.compressed_vocab_size = 99092;
  table.vocab_size = 129280;
  table.boundary_id = -1;
  table.token_map_digest = "m0";
  table.table_digest = "d0";
  table.layers = {{.layer = 1,
                   .rows = 12,
                   .row_bytes = 264,
                   .columns = {{2, 0, 5}, {2, 1, 7}},
                   .multipliers = {3, 5},
                   .row_scale = 0.5},
                  {.layer = 14, .rows = 9, .row_bytes = 264}};
  return table;
}

// All that Table() says.
TableExpectation Expected() {
  return {.family = "deepseek-v4.1",
          .row_format = "f8_e4m3[256] f8_e8m0[8]",
          .hash = "xor-multiply",
          .max_ngram_size = 4,
          .heads = 8,
          .pad_id = 2,
          .compressed_vocab_size = 99092,
          .vocab_size = 129280,
          .boundary_id = -1,
          .layers = {{.layer = 1,
                      .rows = 12,
                      .row_bytes = 264,
                      .column_rows = {5, 7},
                      .multipliers = {3, 5},
                      .row_scale = 0.5},
                     {.layer = 14, .rows = 9, .row_bytes = 264}},
          .token_map_digest = "m0",
          .table_digest = "d0"};
}

TEST(CheckTableTest, AcceptsWhatIsExpectedAndComparesNothingElse) {
  EXPECT_EQ(CheckTable(Table(), Expected()), absl::OkStatus());
  EXPECT_EQ(CheckTable(Table(), {}), absl::OkStatus());
  EXPECT_EQ(CheckTable(Table(), {.layers = {{.layer = 1}, {.layer = 14}}}), absl::OkStatus());
}

struct Change {
  std::string want;  // of the error
  std::function<void(TableDescription&)> table;
};

const std::vector<Change>& Changes() {
  static const auto* changes = new std::vector<Change>{
      {R"(family: expected "deepseek-v4.1", found "longcat")",
       [](auto& table) { table.family = "longcat"; }},
      {R"(row_format: expected "f8_e4m3[256] f8_e8m0[8]", found "")",
       [](auto& table) { table.row_format = ""; }},
      {R"(hash: expected "xor-multiply", found "polynomial")",
       [](auto& table) { table.hash = "polynomial"; }},
      {"max_ngram_size: expected 4, found 3", [](auto& table) { table.max_ngram_size = 3; }},
      {"heads: expected 8, found 4", [](auto& table) { table.heads = 4; }},
      {"pad_id: expected 2, found 0", [](auto& table) { table.pad_id = 0; }},
      {"compressed_vocab_size: expected 99092, found 99093",
       [](auto& table) { table.compressed_vocab_size = 99093; }},
      {": vocab_size: expected 129280, found 0", [](auto& table) { table.vocab_size = 0; }},
      {"boundary_id: expected -1, found 2", [](auto& table) { table.boundary_id = 2; }},
      {"layers: expected 1, 14, found 1", [](auto& table) { table.layers.pop_back(); }},
      {"layers: expected 1, 14, found none", [](auto& table) { table.layers.clear(); }},
      {"layers: expected 1, 14, found 1, 15", [](auto& table) { table.layers[1].layer = 15; }},
      {"layers: expected 1, 14, found 1, 14, 20",
       [](auto& table) { table.layers.push_back({.layer = 20}); }},
      {"layer 1 row_bytes: expected 264, found 256",
       [](auto& table) { table.layers[0].row_bytes = 256; }},
      {"layer 1 column 1: expected 7, found 6",
       [](auto& table) { table.layers[0].columns[1].rows = 6; }},
      {"layer 1 column count: expected 2, found 1",
       [](auto& table) { table.layers[0].columns.pop_back(); }},
      {"layer 1 multiplier 0: expected 3, found 1",
       [](auto& table) { table.layers[0].multipliers[0] = 1; }},
      {"layer 1 multiplier count: expected 2, found 3",
       [](auto& table) { table.layers[0].multipliers.push_back(7); }},
      {"layer 1 row_scale: expected 0.5, found 0.50000000000000011",
       [](auto& table) { table.layers[0].row_scale = std::nextafter(0.5, 1.0); }},
      {"layer 14 rows: expected 9, found 8", [](auto& table) { table.layers[1].rows = 8; }},
      {R"(token_map_digest: expected "m0", found "")",
       [](auto& table) { table.token_map_digest = ""; }},
      {R"(table_digest: expected "d0", found "d1")",
       [](auto& table) { table.table_digest = "d1"; }}};
  return *changes;
}

TEST(CheckTableTest, NamesEveryDifference) {
  for (const Change& change : Changes()) {
    TableDescription table = Table();
    change.table(table);
    const absl::Status status = CheckTable(table, Expected());
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << change.want << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(change.want));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("table \"deepseek\" version 4 is not the one expected: "));
    EXPECT_EQ(CheckTable(table, {}), absl::OkStatus()) << change.want;
  }
}

TEST(CheckTableTest, NamesTheFirstOfTwoDifferences) {
  TableDescription table = Table();
  for (auto change = Changes().rbegin(); change != Changes().rend(); ++change) {
    if (change->want.find("layers:") != std::string::npos) continue;
    if (change->want.find("count") != std::string::npos) continue;
    change->table(table);
    EXPECT_THAT(std::string(CheckTable(table, Expected()).message()), HasSubstr(change->want));
  }
}

TEST(CheckTableTest, ANumberThatIsNoneIsNeverAsExpected) {
  TableDescription table = Table();
  table.layers[0].row_scale = std::nan("");
  TableExpectation expected = Expected();
  expected.layers[0].row_scale = std::nan("");
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckTable(table, expected)));
}

}  // namespace
}  // namespace engram
