#include "storage/checkpoint/longcat.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "tests/unit/storage/checkpoint/family_testing.h"

namespace engram {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_checkpoint::BadConfig;
using testing_checkpoint::ExpectBadConfigs;
using testing_checkpoint::ExpectError;
using testing_checkpoint::ExpectLayer;
using testing_checkpoint::HashAt;
using testing_checkpoint::kInvalid;
using testing_checkpoint::ParseConfig;
using testing_checkpoint::Replaced;
using testing_checkpoint::RowBytes;
using testing_checkpoint::Safetensors;
using testing_checkpoint::TempDir;
using testing_checkpoint::TestTensor;

constexpr char kLite[] = R"({"model_type":"longcat_flash_ngram","vocab_size":131072,
  "ngram_vocab_size_ratio":78,"emb_neighbor_num":4,"emb_split_num":4,"hidden_size":3072,
  "eos_token_id":2})";
constexpr char kTwo[] = R"({"model_type":"longcat_2","vocab_size":163840,
  "oe_vocab_size_ratio":100.567,"oe_neighbor_num":5,"oe_split_num":4,"hidden_size":8192,
  "eos_token_id":[2]})";

TEST(LongcatSpec, DescribesLite) {
  const auto spec = LongcatSpec(ParseConfig(kLite));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->family, "longcat");
  EXPECT_EQ(spec->row_format, "bf16[256]");
  ASSERT_EQ(spec->layers.size(), 1u);
  const LayerSpec& layer = spec->layers[0];
  EXPECT_EQ(layer.id, LayerId{0});
  EXPECT_EQ(layer.row_bytes, 512u);
  ASSERT_EQ(layer.columns.size(), 12u);
  uint64_t rows = 0;
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(layer.columns[i].rows, 10'223'617 + 2 * i);
    EXPECT_EQ(layer.columns[i].order, static_cast<int32_t>(2 + i / 4));
    EXPECT_EQ(layer.columns[i].head, static_cast<int32_t>(i % 4));
    rows += layer.columns[i].rows;
  }
  EXPECT_EQ(layer.rows, rows);
  EXPECT_EQ(spec->addressing,
            (AddressingSpec{HashKind::kPolynomial, 4, 4, 10'223'617, 0, 0, 131072, 2}));
}

TEST(LongcatSpec, DescribesTwo) {
  const auto spec = LongcatSpec(ParseConfig(kTwo));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->row_format, "bf16[512]");
  ASSERT_EQ(spec->layers[0].columns.size(), 16u);
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(spec->layers[0].columns[i].rows, 16'476'898 + 2 * i);
  }
  EXPECT_EQ(spec->addressing.max_ngram_size, 5);
  EXPECT_EQ(spec->addressing.boundary_id, 2);
}

TEST(LongcatSpec, HashesAsTheModels) {
  const auto lite = LongcatSpec(ParseConfig(kLite));
  const auto two = LongcatSpec(ParseConfig(kTwo));
  ASSERT_TRUE(lite.ok() && two.ok());
  const std::vector<int32_t> plain = {5, 17, 1000, 42};
  const std::vector<int32_t> cut = {5, 2, 1000, 42};
  EXPECT_THAT(HashAt(*lite, 0, plain, 3, {0, 7, 8, 11}, true),
              ElementsAre(8388638, 7697821, 1790348, 8682297));
  EXPECT_THAT(HashAt(*lite, 0, cut, 3, {0, 7, 8, 11}, true),
              ElementsAre(8388638, 8388470, 8388446, 8388374));
  EXPECT_THAT(HashAt(*two, 0, plain, 3, {0, 7, 8, 15}, true),
              ElementsAre(15547960, 11268282, 7380954, 7307818));
  const std::vector<size_t> all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  EXPECT_THAT(HashAt(*lite, 0, plain, 0, all, true), Each(5));
  EXPECT_THAT(HashAt(*two, 0, plain, 0, all, true), Each(5));
  EXPECT_THAT(HashAt(*lite, 0, plain, 1, {0}), ElementsAre(655377));
  EXPECT_THAT(HashAt(*lite, 0, cut, 1, {0}), ElementsAre(655362));
  // Dense: the rows of the tables before are added.
  EXPECT_THAT(HashAt(*lite, 0, plain, 3, {1}),
              ElementsAre(HashAt(*lite, 0, plain, 3, {1}, true)[0] + 10'223'617));
}

TEST(LongcatSpec, NamesTheKeyThatIsWrong) {
  std::vector<BadConfig> cases = {
      {"78", "\"78\"", {"ngram_vocab_size_ratio", "a number, not a string"}},
      {"78", "-1", {"ngram_vocab_size_ratio", "-1"}},
      {"78", "1e10", {"ngram_vocab_size_ratio", "not between"}},
      {"78", "40000", {"ngram_vocab_size_ratio", "a ratio of 40000"}},
      {"78", "0.9e4", {"row count"}},
      {"3072", "3073", {"hidden_size", "3073", "12 tables"}},
      {"3072", "393228", {"hidden_size", "393228"}},
      {"131072", "2", {"eos_token_id", "is 2"}},
      {"\"eos_token_id\":2", "\"eos_token_id\":[2,3]", {"eos_token_id", "2 ids"}},
      {"\"eos_token_id\":2", "\"eos_token_id\":[]", {"eos_token_id", "0 ids"}},
      {"\"emb_neighbor_num\":4", "\"emb_neighbor_num\":1", {"emb_neighbor_num", "is 1"}},
      {"\"emb_split_num\":4", "\"emb_split_num\":0", {"emb_split_num", "is 0"}},
  };
  for (const char* key : {"vocab_size", "ngram_vocab_size_ratio", "emb_neighbor_num",
                          "emb_split_num", "hidden_size", "eos_token_id"}) {
    cases.push_back({absl::StrCat("\"", key, "\""), "\"x\"", {key, "missing"}});
  }
  ExpectBadConfigs(LongcatSpec, kLite, cases);
  ExpectBadConfigs(LongcatSpec, kTwo,
                   {{"oe_neighbor_num", "x", {"oe_neighbor_num", "missing"}},
                    {"oe_split_num", "x", {"oe_split_num", "missing"}}});
}

TEST(LongcatSpec, RefusesAnAddressingThatIsNotKnown) {
  const auto with = [](const std::string& value) {
    return LongcatSpec(ParseConfig(
        Replaced(kLite, "\"hidden", "\"ngram_exclude_sp_token\":" + value + ",\"hidden")));
  };
  EXPECT_TRUE(with("false").ok());
  EXPECT_TRUE(with("null").ok());
  ExpectError(with("true").status(), kInvalid, {"config.json: ngram_exclude_sp_token is true"});
  ExpectError(with("1").status(), kInvalid, {"ngram_exclude_sp_token", "true or false"});
}

// kLite with one more key.
ModelConfig LiteWith(const std::string& key_and_value) {
  return ParseConfig(Replaced(kLite, "\"hidden", key_and_value + ",\"hidden"));
}

TEST(LongcatSpec, RefusesSpecialTokens) {
  for (const char* key : {"special_tokens_list", "ngram_special_tokens_list",
                          "oe_special_token_list", "special_token_scope"}) {
    const std::string quoted = absl::StrCat("\"", key, "\":");
    for (const char* empty : {"null", "[]", "\"\"", "{}"}) {
      EXPECT_TRUE(LongcatSpec(LiteWith(quoted + empty)).ok()) << key << empty;
    }
    for (const char* full : {"[3]", "\"all\"", "{\"a\":1}"}) {
      ExpectError(LongcatSpec(LiteWith(quoted + full)).status(), kInvalid,
                  {absl::StrCat("config.json: ", key, " is not empty")});
    }
  }
}

TEST(LongcatSpec, RefusesASecondVocabulary) {
  for (const char* key : {"text_vocab_size", "vocab_size_text"}) {
    const std::string quoted = absl::StrCat("\"", key, "\":");
    EXPECT_TRUE(LongcatSpec(LiteWith(quoted + "131072")).ok());
    ExpectError(LongcatSpec(LiteWith(quoted + "131071")).status(), kInvalid,
                {absl::StrCat("config.json: ", key, " is 131071 and vocab_size 131072")});
    ExpectError(LongcatSpec(LiteWith(quoted + "\"x\"")).status(), kInvalid, {key, "a string"});
  }
  // LongCat-Next, as its ports describe it.
  const std::string next = Replaced(Replaced(kLite, "longcat_flash_ngram", "longcat_next"),
                                    "131072", "282624,\"text_vocab_size\":131072");
  EXPECT_TRUE(MatchesLongcat(ParseConfig(next)));
  ExpectError(LongcatSpec(ParseConfig(next)).status(), kInvalid, {"text_vocab_size is 131072"});
}

TEST(LongcatSpec, RefusesBothRatios) {
  ExpectError(LongcatSpec(LiteWith("\"oe_vocab_size_ratio\":78")).status(), kInvalid,
              {"config.json: oe_vocab_size_ratio stands beside ngram_vocab_size_ratio"});
}

TEST(LongcatSpec, DoesWithoutAHiddenSizeWhereItIsUnverified) {
  const auto two = LongcatSpec(ParseConfig(Replaced(kTwo, "\"hidden_size\":8192,", "")));
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(two->row_format, "bf16[512]");
  const std::string next = Replaced(kLite, "longcat_flash_ngram", "longcat_next");
  const auto other = LongcatSpec(ParseConfig(Replaced(next, "\"hidden_size\":3072,", "")));
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->row_format, "bf16[256]");
}

TEST(LongcatFamily, IsFoundByTypeAndKeys) {
  EXPECT_TRUE(MatchesLongcat(ParseConfig(kLite)));
  EXPECT_TRUE(MatchesLongcat(ParseConfig(kTwo)));
  EXPECT_FALSE(MatchesLongcat(ParseConfig(R"({"model_type":"longcat_flash"})")));
  EXPECT_FALSE(MatchesLongcat(ParseConfig(R"({"model_type":"cat","oe_vocab_size_ratio":2})")));
}

TEST(LongcatFamily, IsVerifiedByTypeAndKeys) {
  EXPECT_EQ(UnverifiedLongcat(ParseConfig(kLite)), "");
  EXPECT_THAT(UnverifiedLongcat(ParseConfig(kTwo)), HasSubstr("LongCat-2.0's addressing"));
  EXPECT_THAT(UnverifiedLongcat(ParseConfig(Replaced(kTwo, "longcat_2", "longcat_flash_ngram"))),
              HasSubstr("LongCat-2.0's addressing"));
  for (const char* type : {"longcat_next", "longcat_flash_ngram_2", "longcat"}) {
    EXPECT_THAT(UnverifiedLongcat(ParseConfig(Replaced(kLite, "longcat_flash_ngram", type))),
                HasSubstr(absl::StrCat("model_type '", type, "' with these keys is not verified")));
  }
  EXPECT_NE(UnverifiedLongcat(LiteWith("\"oe_neighbor_num\":4")), "");
  EXPECT_EQ(UnverifiedLongcat(LiteWith("\"oe_neighbor_num\":null")), "");
  for (const char* key : {"ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num"}) {
    EXPECT_NE(UnverifiedLongcat(ParseConfig(Replaced(kLite, key, "x"))), "") << key;
  }
}

// Vocabulary 50, ratio 2.5: tables of 126, 128, 130 and 132 rows.
class LongcatTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kRows = 126 + 128 + 130 + 132;

  void WriteConfig(const std::string& ratio, const std::string& orders, const std::string& splits,
                   const std::string& more = "") {
    dir_.Write("config.json",
               absl::StrCat(R"({"model_type":"longcat_flash_ngram","vocab_size":50,")", ratio,
                            R"(":2.5,")", orders, R"(":3,")", splits, R"(":2,"eos_token_id":2)",
                            more, "}"));
  }
  void WriteLite(const std::string& more = "") {
    WriteConfig("ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num",
                R"(,"hidden_size":32)" + more);
  }
  void WriteTwo(const std::string& more = R"(,"hidden_size":32)") {
    WriteConfig("oe_vocab_size_ratio", "oe_neighbor_num", "oe_split_num", more);
  }

  // The rows of all tables are one sequence, with `padding` other rows behind each table's.
  static std::vector<TestTensor> Tables(const std::string& before,
                                        const std::string& dtype = "BF16", uint64_t row_bytes = 16,
                                        uint64_t padding = 0, uint64_t count = 4) {
    std::vector<TestTensor> tables;
    uint64_t first = 0;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t rows = 126 + 2 * i;
      tables.push_back(
          {absl::StrCat(before, i, ".weight"),
           dtype,
           {rows + padding, 8},
           RowBytes(0, first, rows, 0, row_bytes) + std::string(padding * row_bytes, '#')});
      first += rows;
    }
    return tables;
  }
  absl::StatusOr<std::unique_ptr<RowSource>> Open(const std::vector<TestTensor>& tensors,
                                                  bool allow_unverified = false) {
    dir_.Write("model.safetensors", Safetensors(tensors));
    CheckpointOptions options;
    options.directory = dir_.path();
    options.allow_unverified = allow_unverified;
    return OpenCheckpoint(options);
  }

  TempDir dir_;
  const std::string lite_ = "model.ngram_embeddings.embedders.";
  const std::string two_ = "model.oe_embed_tokens";
};

TEST_F(LongcatTest, ServesEveryRowOfEveryTable) {
  WriteLite();
  const std::vector<std::pair<std::string, uint64_t>> dtypes = {
      {"BF16", 2}, {"F16", 2}, {"F32", 4}};
  for (const auto& [dtype, bytes] : dtypes) {
    for (const std::string prefix : {"model.", ""}) {
      const auto source = Open(Tables(prefix + "ngram_embeddings.embedders.", dtype, 8 * bytes));
      ASSERT_TRUE(source.ok()) << source.status();
      EXPECT_EQ((*source)->spec().row_format, absl::AsciiStrToLower(dtype) + "[8]");
      ExpectLayer(**source, 0, RowBytes(0, 0, kRows, 0, 8 * bytes));
      EXPECT_TRUE(testing_checkpoint::ReadLayer(**source, 0, 100, 300) ==
                  RowBytes(0, 100, 300, 0, 8 * bytes));
    }
  }
}

// Twelve tables, so that table 10 comes before table 2 in the order of names.
TEST_F(LongcatTest, ServesTwelveTables) {
  dir_.Write("config.json",
             R"({"model_type":"longcat_flash_ngram","vocab_size":50,"ngram_vocab_size_ratio":2.5,)"
             R"("emb_neighbor_num":4,"emb_split_num":4,"hidden_size":96,"eos_token_id":2})");
  const auto source = Open(Tables(lite_, "BF16", 16, 0, 12));
  ASSERT_TRUE(source.ok()) << source.status();
  const LayerSpec& layer = (*source)->spec().layers[0];
  ASSERT_EQ(layer.columns.size(), 12u);
  EXPECT_EQ(layer.columns[10].rows, 146u);
  EXPECT_EQ(layer.columns[11].rows, 148u);
  EXPECT_EQ(layer.rows, 12u * 126 + 2 * 66);
  ExpectLayer(**source, 0, RowBytes(0, 0, layer.rows, 0, 16));
  // The last row of table 9, all of table 10 and 11: rows are those of their tables.
  const uint64_t tenth = layer.rows - 148 - 146;
  EXPECT_TRUE(testing_checkpoint::ReadLayer(**source, 0, tenth - 1, 1 + 146 + 148) ==
              RowBytes(0, tenth - 1, 1 + 146 + 148, 0, 16));
}

TEST_F(LongcatTest, ChecksTheRowLengthAgainstTheHiddenSize) {
  const auto longer = [](std::vector<TestTensor> tables) {
    for (TestTensor& table : tables) table.shape[1] = 16;
    return tables;
  };
  WriteLite();
  ExpectError(Open(longer(Tables(lite_, "BF16", 32))).status(), kInvalid,
              {lite_ + "0.weight", "rows of 16 values", "hidden_size", "4 tables, gives 8"});
  const std::vector<TestTensor> tables = longer(Tables(two_, "BF16", 32));
  WriteTwo();
  ExpectError(Open(tables, true).status(), kInvalid, {two_ + "0.weight", "rows of 16 values"});
  WriteTwo("");
  const auto source = Open(tables, true);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->spec().row_format, "bf16[16]");
  ExpectLayer(**source, 0, RowBytes(0, 0, kRows, 0, 32));
}

TEST_F(LongcatTest, RefusesATableTooMany) {
  WriteLite();
  ExpectError(Open(Tables(lite_, "BF16", 16, 0, 5)).status(), kInvalid,
              {"'" + lite_ + "4.weight'", "there are 4, numbered from 0"});
  WriteTwo();
  ExpectError(Open(Tables(two_, "BF16", 16, 0, 5), true).status(), kInvalid,
              {"'" + two_ + "4.weight'"});
  std::vector<TestTensor> tables = Tables(two_, "BF16", 16, 0, 5);
  tables[4].name = two_ + "123456789012345678901234567890.weight";
  ExpectError(Open(tables, true).status(), kInvalid, {"'" + tables[4].name + "'"});
  for (const char* other : {".weight", "4.bias", "x.weight"}) {
    tables[4].name = two_ + other;
    EXPECT_TRUE(Open(tables, true).ok()) << other << Open(tables, true).status();
  }
}

TEST_F(LongcatTest, TakesTwoOnlyUnverified) {
  WriteTwo();
  const std::vector<TestTensor> tables = Tables(two_, "BF16", 16, 5);
  ExpectError(Open(tables).status(), absl::StatusCode::kFailedPrecondition,
              {"config.json", "LongCat-2.0's addressing is not verified by any test vector",
               "; pass --allow-unverified to take it as it is"});
  const auto source = Open(tables, true);
  ASSERT_TRUE(source.ok()) << source.status();
  ExpectLayer(**source, 0, RowBytes(0, 0, kRows, 0, 16));
  EXPECT_TRUE(Open(Tables(two_), true).ok());
  ExpectError(ReadModel(dir_.path(), "auto", false).status(), absl::StatusCode::kFailedPrecondition,
              {"--allow-unverified"});
  EXPECT_TRUE(ReadModel(dir_.path(), "auto", true).ok());
}

TEST_F(LongcatTest, RefusesUnknownHashesWhateverTheFlags) {
  const std::vector<std::pair<std::string, std::string>> more = {
      {"ngram_exclude_sp_token", "true"},
      {"oe_vocab_size_ratio", "2.5"},
      {"text_vocab_size", "49"},
      {"oe_special_tokens_list", "[3]"},
      {"special_token_scope", "\"all\""}};
  for (const auto& [key, value] : more) {
    WriteLite(absl::StrCat(",\"", key, "\":", value));
    for (const bool allow : {false, true}) {
      ExpectError(Open(Tables(lite_), allow).status(), kInvalid, {key});
      ExpectError(ReadModel(dir_.path(), "longcat", allow).status(), kInvalid, {key});
    }
  }
}

TEST_F(LongcatTest, NamesTensorsThatAreNotWhatTheConfigSays) {
  WriteLite();
  const auto expect = [&](size_t index, const auto& edit, const std::vector<std::string>& texts) {
    std::vector<TestTensor> tables = Tables(lite_);
    edit(tables[index]);
    ExpectError(Open(tables).status(), kInvalid, texts);
  };
  const std::string last = lite_ + "3.weight";
  expect(3, [](TestTensor& t) { t.name = "gone"; }, {"no tensor '" + last + "'"});
  expect(0, [](TestTensor& t) { t.name = "gone"; }, {"ngram_embeddings.embedders.0.weight"});
  expect(3, [](TestTensor& t) { t.dtype = "F16"; }, {last, "F16", "asks for BF16 [132, 8]"});
  expect(3, [](TestTensor& t) { t.shape = {264, 4}; }, {last, "[264, 4]", "[132, 8]"});
  expect(3, [](TestTensor& t) { t.shape = {132, 2, 4}; }, {last, "two dimensions"});
  // Rows behind the column's are padding in 2.0 only.
  expect(3,
         [](TestTensor& t) {
           t.shape[0] = 133;
           t.bytes += std::string(16, '#');
         },
         {last, "[133, 8]", "[132, 8]"});
  ExpectError(Open(Tables(lite_, "F8_E4M3", 8)).status(), kInvalid,
              {lite_ + "0.weight", "F8_E4M3", "BF16 or F16 or F32"});
  WriteTwo();
  std::vector<TestTensor> tables = Tables(two_);
  tables[1].shape[0] = 127;
  tables[1].bytes.resize(127 * 16);
  ExpectError(Open(tables, true).status(), kInvalid, {two_ + "1.weight", "[127, 8]", "[128, 8]"});
}

}  // namespace
}  // namespace engram
