#include "storage/table/spec.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

TableSpec Example() {
  TableSpec spec;
  spec.name = "flash";
  spec.version = VersionId{3};
  spec.family = "deepseek-v4.1";
  spec.row_format = "f8_e4m3[256] f8_e8m0[8]";
  spec.layers = {{LayerId{1}, 10, 264, {{2, 0, 3}, {2, 1, 7}}, {76632096046245, 4839876093313}, 0},
                 {LayerId{14}, 4294967295, 264, {{2, 0, 9}, {2, 1, 8}}, {1, 5}, 0.0078125}};
  AddressingSpec& addressing = spec.addressing;
  addressing.hash = HashKind::kXorMultiply;
  addressing.max_ngram_size = 2;
  addressing.heads = 2;
  addressing.base_size = 3;
  addressing.pad_id = 2;
  addressing.compressed_vocab_size = 99092;
  addressing.vocab_size = 129280;
  spec.token_map_size = 129280;
  spec.token_map_digest = std::string(64, 'c');
  spec.checkpoint_digest = "00ff";
  return spec;
}

TEST(TableSpec, SurvivesItsTextForm) {
  const TableSpec spec = Example();
  const auto parsed = ParseTableSpec(TableSpecToJson(spec));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, spec);
  TableSpec other = spec;
  other.layers[0].columns[1].rows = 6;
  EXPECT_FALSE(other == spec);
}

TEST(TableSpec, ATableOfAnEarlierReleaseIsAddressedById) {
  const std::string old = R"({"addressing":{"base_size":16000000,"compressed_vocab_size":99092,
      "heads":8,"max_ngram_size":4,"pad_id":2},"checkpoint_digest":"00ff","family":"deepseek-v4.1",
      "layers":[{"columns":[{"head":0,"order":2,"rows":3}],"layer":1,"row_bytes":264,"rows":3}],
      "name":"flash","row_format":"","version":3})";
  const auto parsed = ParseTableSpec(old);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->addressing.hash, HashKind::kNone);
  EXPECT_EQ(parsed->addressing.heads, 8);
  EXPECT_EQ(parsed->layers[0].columns.size(), 1);
  EXPECT_TRUE(parsed->layers[0].multipliers.empty());
  EXPECT_EQ(parsed->token_map_digest, "");
}

TEST(TableSpec, AddsUp) {
  const TableSpec spec = Example();
  EXPECT_EQ(spec.rows(), uint64_t{10} + 4294967295u);
  EXPECT_EQ(spec.bytes(), (uint64_t{10} + 4294967295u) * 264u);
  EXPECT_EQ(spec.FindLayer(LayerId{14}), &spec.layers[1]);
  EXPECT_EQ(spec.FindLayer(LayerId{2}), nullptr);
}

TEST(ParseTableSpec, RefusesBadText) {
  const std::string good = TableSpecToJson(Example());
  const auto edited = [&](const std::string& from, const std::string& to) {
    const std::string text = absl::StrReplaceAll(good, {{from, to}});
    EXPECT_NE(text, good) << from;
    return text;
  };
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{}"), std::string("null"), good + "x",
        good.substr(0, good.size() - 1), edited("\"name\"", "\"nam\""), edited("\"flash\"", "5"),
        edited("\"layers\":[", "\"layers\":5,\"l\":["),
        edited("\"row_bytes\":264", "\"row_bytes\":\"264\""), edited("\"addressing\"", "\"a\""),
        edited("\"columns\"", "\"cols\""), edited("\"order\"", "\"o\""),
        edited("\"checkpoint_digest\"", "\"d\""), edited("xor-multiply", "xor"),
        edited("\"pad_id\":2", "\"pad_id\":2.5"), edited("4839876093313", "1e300"),
        edited("\"row_scale\":0.0078125", "\"row_scale\":\"1\""),
        edited("\"version\":3", "\"version\":null")}) {
    const absl::Status status = ParseTableSpec(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status << " for " << text;
  }
  // Readable, but no table.
  for (const std::string& text :
       {edited("\"row_bytes\":264", "\"row_bytes\":0"), edited("\"layer\":14", "\"layer\":1"),
        edited("\"layer\":14", "\"layer\":0")}) {
    const absl::Status status = ParseTableSpec(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(), HasSubstr("impossible"));
  }
}

TEST(CheckTableSpec, KnowsItsBounds) {
  EXPECT_TRUE(CheckTableSpec(Example()).ok());
  const auto expect_bad = [](const char* text, auto&& edit) {
    TableSpec spec = Example();
    edit(spec);
    const absl::Status status = CheckTableSpec(spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(text));
  };
  expect_bad("0", [](TableSpec& s) { s.layers.clear(); });
  expect_bad("1025", [](TableSpec& s) { s.layers.resize(1025); });
  expect_bad("layer 1: row count 0", [](TableSpec& s) { s.layers[0].rows = 0; });
  expect_bad("layer 14: row count 4294967296", [](TableSpec& s) { ++s.layers[1].rows; });
  expect_bad("row size 0", [](TableSpec& s) { s.layers[0].row_bytes = 0; });
  expect_bad("row size 65537", [](TableSpec& s) { s.layers[0].row_bytes = kMaxRowBytes + 1; });
  expect_bad("layer 1 follows layer 14", [](TableSpec& s) { std::swap(s.layers[0], s.layers[1]); });
  expect_bad("layer 1 follows layer 1", [](TableSpec& s) { s.layers[1].id = LayerId{1}; });
  expect_bad("sum of column sizes 11", [](TableSpec& s) { s.layers[0].columns[0].rows = 4; });
  expect_bad("row scale -1", [](TableSpec& s) { s.layers[0].row_scale = -1; });
  expect_bad("row scale inf", [](TableSpec& s) { s.layers[0].row_scale = INFINITY; });
  expect_bad("1 multipliers", [](TableSpec& s) { s.layers[0].multipliers.pop_back(); });
  expect_bad("pad id", [](TableSpec& s) { s.addressing.pad_id = -5; });
  expect_bad("token map of 0 ids", [](TableSpec& s) { s.token_map_size = 0; });
  expect_bad("digest 'abc'", [](TableSpec& s) { s.token_map_digest = "abc"; });
  TableSpec widest = Example();
  widest.layers[0].row_bytes = kMaxRowBytes;
  EXPECT_TRUE(CheckTableSpec(widest).ok());
}

TEST(CheckTableName, TakesPlainNamesOnly) {
  for (const char* name : {"a", "flash-4.1_x", "_x", "9", "A.b"}) {
    EXPECT_TRUE(CheckTableName(name).ok()) << name;
  }
  EXPECT_TRUE(CheckTableName(std::string(kMaxNameLength, 'n')).ok());
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string(".a"), std::string("-a"),
        std::string("a/b"), std::string("a b"), std::string("a\n"), std::string("ü"),
        std::string("a\0b", 3), std::string(kMaxNameLength + 1, 'n')}) {
    const absl::Status status = CheckTableName(name);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_LT(status.message().size(), 400u);
  }
}

}  // namespace
}  // namespace engram
