// `engramctl hash` and `engramctl lookup`: the published ids of every family from its config, a
// model with a tokenizer, and tables of a daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/unit/client/cli/run_ctl.h"
#include "tests/unit/client/fake_daemon.h"

namespace engram {
namespace {

using testing::CtlResult;
using testing::FakeDaemon;
using ::testing::HasSubstr;
using testing::RowBytes;
using testing::RunCtl;
using Json = nlohmann::json;

constexpr char kDeepseekV41[] = R"({"model_type": "deepseek_v41", "text_config": {
  "engram_layer_ids": [1, 14], "engram_num_embeddings": [384006168, 384016682],
  "engram_max_ngram_size": 4, "engram_vocab_size": 16000000, "engram_n_heads": 8,
  "engram_head_dim": 256, "engram_pad_token_id": 2, "engram_compressed_vocab_size": 99092}})";
constexpr char kEngramDemo[] = R"({"model_type": "engram_demo",
  "engram_vocab_size": [646400, 646400], "max_ngram_size": 3, "n_embed_per_ngram": 512,
  "n_head_per_ngram": 8, "layer_ids": [1, 15], "pad_id": 2, "seed": 0,
  "compressed_vocab_size": 98627})";
constexpr char kQwen4Exp[] = R"({"model_type": "qwen4_exp", "text_config": {"ngram_size": 3,
  "heads_per_ngram": 8, "ple_layer_ids": [2], "ple_embed_dim": 2560,
  "ngram_vocab_size_base": 20000000, "make_ngram_vocab_size_divisible_by": 128,
  "split_ngram_parts": 128, "vocab_size": 248320, "eos_token_id": [248044]}})";
constexpr char kLongCatLite[] = R"({"model_type": "longcat_flash_ngram", "vocab_size": 131072,
  "hidden_size": 3072, "ngram_vocab_size_ratio": 78, "emb_neighbor_num": 4, "emb_split_num": 4,
  "eos_token_id": 2})";
constexpr char kLongCat2[] = R"({"model_type": "longcat2", "vocab_size": 163840,
  "hidden_size": 8192, "oe_vocab_size_ratio": 100.567, "oe_neighbor_num": 5, "oe_split_num": 4,
  "eos_token_id": 2})";

// A model's directory.
class ModelDirectory {
 public:
  explicit ModelDirectory(const std::string& config) {
    path_ = ::testing::TempDir() + "engram_model_XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp " + path_);
    Write("config.json", config);
  }
  ~ModelDirectory() { std::filesystem::remove_all(path_); }
  ModelDirectory(const ModelDirectory&) = delete;
  ModelDirectory& operator=(const ModelDirectory&) = delete;

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(path_ + "/" + name) << text;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::vector<std::string> HashOf(const ModelDirectory& model, int layer, const std::string& tokens,
                                const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {
      "hash", "--model-config", model.path(), "--layer", absl::StrCat(layer), "--tokens", tokens};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::string Good(const std::vector<std::string>& arguments, const std::string& server = "") {
  const CtlResult result = RunCtl(arguments, server);
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  return result.out;
}

Json GoodJson(std::vector<std::string> arguments, const std::string& server = "") {
  arguments.push_back("--json");
  return Json::parse(Good(arguments, server), nullptr, false);
}

// Exit status 1 with one line that says why.
void ExpectFails(const std::vector<std::string>& arguments, const std::string& why,
                 const std::string& server = "") {
  const CtlResult result = RunCtl(arguments, server);
  EXPECT_EQ(result.exit_status, 1) << why;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr(why));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

struct Vector {
  const char* config;
  int layer;
  std::string tokens;
  size_t position;
  std::vector<size_t> columns;
  std::vector<int64_t> ids;
};

// The ids that are published for each model (of LongCat local ones: each column from 0).
const Vector kVectors[] = {
    {kDeepseekV41,
     1,
     "5,17,99091,1000",
     0,
     {0, 7, 8, 23},
     {5412672, 127351390, 143494632, 372009279}},
    {kDeepseekV41,
     1,
     "5,17,99091,1000",
     3,
     {0, 7, 8, 23},
     {13061917, 127301887, 139654678, 376806098}},
    {kDeepseekV41,
     14,
     "5,17,99091,1000",
     0,
     {0, 7, 8, 23},
     {6939818, 119840903, 131576092, 382274687}},
    {kDeepseekV41,
     14,
     "5,17,99091,1000",
     3,
     {0, 7, 8, 23},
     {6342040, 117947476, 139998107, 382003511}},
    {kEngramDemo, 1, "5,17,1000,42", 0, {0, 7, 8, 15}, {228148, 4540891, 5544240, 10316796}},
    {kEngramDemo, 1, "5,17,1000,42", 3, {0, 7, 8, 15}, {383941, 5017896, 5190681, 9920817}},
    {kEngramDemo, 15, "5,17,1000,42", 0, {0, 7, 8, 15}, {371359, 4803460, 5515722, 10131034}},
    {kEngramDemo, 15, "5,17,1000,42", 3, {0, 7, 8, 15}, {258250, 4899629, 5446557, 10007117}},
    {kQwen4Exp, 2, "5,17,1000,42", 0, {0, 7, 8, 15}, {15389869, 155458159, 179763390, 315720898}},
    {kQwen4Exp, 2, "5,17,1000,42", 3, {0, 7, 8, 15}, {15394486, 145979698, 170474119, 302622549}},
    {kQwen4Exp,
     2,
     "5,7,248044,9,11",
     1,
     {0, 7, 8, 15},
     {12441580, 156012011, 169119442, 314484167}},
    {kQwen4Exp,
     2,
     "5,7,248044,9,11",
     3,
     {0, 7, 8, 15},
     {18043673, 144330141, 176817901, 307951937}},
    {kLongCatLite, 0, "5,17,1000,42", 3, {0, 7, 8, 11}, {8388638, 7697821, 1790348, 8682297}},
    {kLongCatLite, 0, "5,2,1000,42", 3, {0, 7, 8, 11}, {8388638, 8388470, 8388446, 8388374}},
    {kLongCat2, 0, "5,17,1000,42", 3, {0, 7, 8, 15}, {15547960, 11268282, 7380954, 7307818}}};

// Rows before a column in LongCat's layer, whose column i has `first` + 2i of them.
int64_t LongCatOffset(const Vector& vector, size_t column) {
  const int64_t first = vector.config == kLongCatLite ? 10223617
                        : vector.config == kLongCat2  ? 16476898
                                                      : 0;
  const auto n = static_cast<int64_t>(column);
  return first == 0 ? 0 : n * first + n * (n - 1);
}

TEST(HashTest, GivesThePublishedIdsOfEveryFamily) {
  for (const Vector& vector : kVectors) {
    const ModelDirectory model(vector.config);
    const Json json = GoodJson(
        HashOf(model, vector.layer, vector.tokens, {"--compressed", "--allow-unverified"}));
    EXPECT_EQ(json["layer"], vector.layer);
    ASSERT_EQ(json["rows"].size(), std::count(vector.tokens.begin(), vector.tokens.end(), ',') + 1);
    const Json& row = json["rows"][vector.position];
    for (size_t i = 0; i < vector.columns.size(); ++i) {
      const size_t column = vector.columns[i];
      EXPECT_EQ(row[column], vector.ids[i] + LongCatOffset(vector, column))
          << vector.config << vector.tokens << " column " << column;
    }
  }
}

TEST(HashTest, TextIsALineAToken) {
  const ModelDirectory model(kDeepseekV41);
  const Json rows = GoodJson(HashOf(model, 1, "-1,5,17", {"--compressed"}))["rows"];
  std::string want;
  for (const Json& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppend(&want, i == 0 ? "" : " ", row[i].get<int64_t>());
    }
    want += "\n";
  }
  EXPECT_EQ(Good(HashOf(model, 1, "-1,5,17", {"--compressed"})), want);
  EXPECT_EQ(rows[0], Json(std::vector<int>(24, -1)));
}

TEST(HashTest, LookbackIsContextOnly) {
  const ModelDirectory model(kDeepseekV41);
  const Json whole = GoodJson(HashOf(model, 1, "5,17,9,8,7", {"--compressed"}))["rows"];
  const Json chunk =
      GoodJson(HashOf(model, 1, "17,9,8,7", {"--compressed", "--lookback", "3"}))["rows"];
  EXPECT_EQ(chunk, Json::array({whole[4]}));
  EXPECT_EQ(GoodJson(HashOf(model, 1, "5", {"--compressed", "--lookback", "1"}))["rows"],
            Json::array());
}

TEST(HashTest, TakesManyTokens) {
  const ModelDirectory model(kQwen4Exp);
  std::string tokens = "0";
  for (int i = 1; i < 4096; ++i) absl::StrAppend(&tokens, ",", 248319 - i);
  EXPECT_EQ(GoodJson(HashOf(model, 2, tokens))["rows"].size(), 4096u);
}

TEST(HashTest, ReadsTokensFromStdin) {
  const ModelDirectory model(kQwen4Exp);
  const std::string want = Good(HashOf(model, 2, "-1,5,17,248044"));
  for (const std::string input :
       {"-1,5,17,248044", "-1 5 17 248044\n", "\n-1\t5 ,\r\n17,\n\n248044,\n"}) {
    const CtlResult result = RunCtl(HashOf(model, 2, "-"), "", input);
    EXPECT_EQ(result.exit_status, 0) << result.err;
    EXPECT_EQ(result.out, want);
  }
  // More than an argument may hold.
  std::string many;
  for (int i = 0; i < 40'000; ++i) absl::StrAppend(&many, 248319 - i, i % 2 ? "\n" : " ");
  const CtlResult result = RunCtl(HashOf(model, 2, "-", {"--lookback", "39999"}), "", many);
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.out,
            Good(HashOf(model, 2,
                        absl::StrCat(248319 - 39'997, ",", 248319 - 39'998, ",", 248319 - 39'999),
                        {"--lookback", "2"})));
}

TEST(HashTest, NamesWhatIsNoTokenOnStdin) {
  const ModelDirectory model(kQwen4Exp);
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"", "no token id on stdin"},
      {" ,\n", "no token id on stdin"},
      {"-", "\"-\" on stdin is no token id"},
      {"1 x 2", "\"x\" is not a token id"},
      {"1 - 2", "\"-\" is not a token id"},
      {"1 2\f3", "\"2\\x0c\\x33\" is not a token id"},
      {std::string(500, 'y'), absl::StrCat("\"", std::string(100, 'y'), "\"")}};
  for (const auto& [input, why] : wrong) {
    const CtlResult result = RunCtl(HashOf(model, 2, "-"), "", input);
    EXPECT_EQ(result.exit_status, 2) << input;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(why));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  const CtlResult lookback = RunCtl(HashOf(model, 2, "-", {"--lookback", "3"}), "", "1 2");
  EXPECT_EQ(lookback.exit_status, 2);
  EXPECT_THAT(lookback.err, HasSubstr("3 is more than there are tokens (2)"));
}

TEST(HashTest, AsksNoServerForAModelsDirectory) {
  const ModelDirectory model(kQwen4Exp);
  const std::string want = Good(HashOf(model, 2, "5"));
  EXPECT_EQ(Good(HashOf(model, 2, "5"), "nonsense"), want);
  EXPECT_EQ(Good(HashOf(model, 2, "5", {"--server", "unix:relative"})), want);
  const std::vector<std::string> served = {"hash", "t", "--layer", "1", "--tokens", "5"};
  EXPECT_EQ(RunCtl(served, "nonsense").exit_status, 2);
  EXPECT_EQ(RunCtl({"lookup", "t", "--layer", "1", "--tokens", "5"}, "nonsense").exit_status, 2);
}

TEST(HashTest, CompressedIdsNeedNoTokenizer) {
  ModelDirectory model(kDeepseekV41);
  const std::string want = Good(HashOf(model, 1, "5,17", {"--compressed"}));
  model.Write("tokenizer.json", "{");
  EXPECT_EQ(Good(HashOf(model, 1, "5,17", {"--compressed"})), want);
  ExpectFails(HashOf(model, 1, "5,17"),
              "without tokenizer.json beside config.json only compressed ids can be used");
}

TEST(HashTest, RawIdsNeedATokenMapWhereTheyAreCompressed) {
  const ModelDirectory model(kDeepseekV41);
  ExpectFails(HashOf(model, 1, "5"), "give ids that are compressed already with --compressed");
  ExpectFails(HashOf(model, 1, "5"), "tokenizer.json");
  // Others have raw ids, and nothing to compress.
  const ModelDirectory raw(kQwen4Exp);
  EXPECT_EQ(Good(HashOf(raw, 2, "5,17")), Good(HashOf(raw, 2, "5,17", {"--compressed"})));
}

TEST(HashTest, ATokenizerCompressesRawIds) {
  // Raw 0 and 2 are one word in two cases; so are 1 and 3.
  ModelDirectory model(R"({"model_type": "engram_demo", "engram_vocab_size": [100, 100],
    "max_ngram_size": 3, "n_embed_per_ngram": 16, "n_head_per_ngram": 2, "layer_ids": [1],
    "pad_id": 0, "seed": 0, "compressed_vocab_size": 3})");
  model.Write("tokenizer.json", R"({"added_tokens": [], "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "A": 2, "B": 3, "c": 4}, "merges": []}})");
  EXPECT_EQ(Good(HashOf(model, 1, "2,3,4,-1,0")),
            Good(HashOf(model, 1, "0,1,2,-1,0", {"--compressed"})));
  ExpectFails(HashOf(model, 1, "1,5"), "5");
}

TEST(HashTest, NamesWhatItCannotHash) {
  const ModelDirectory model(kDeepseekV41);
  ExpectFails(HashOf(model, 2, "5", {"--compressed"}), "no hashed layer 2; it has 1, 14");
  ExpectFails(HashOf(model, 1, "5,99092", {"--compressed"}), "99092 at position 1");
  ExpectFails(HashOf(model, 1, "5,-2", {"--compressed"}), "-2 at position 1");
  ExpectFails(HashOf(model, 1, "4294967295", {"--compressed"}), "4294967295 at position 0");
  const ModelDirectory unverified(kLongCat2);
  ExpectFails(HashOf(unverified, 0, "5"), "--allow-unverified");
  const ModelDirectory other(R"({"model_type": "gpt"})");
  ExpectFails(HashOf(other, 0, "5"), "gpt");
  ExpectFails({"hash", "--model-config", "/nonexistent", "--layer", "1", "--tokens", "5"},
              "/nonexistent");
}

TEST(HashTest, WrongUsageIsExitStatus2) {
  const ModelDirectory model(kDeepseekV41);
  const std::vector<std::vector<std::string>> wrong = {
      {"hash", "--layer", "1", "--tokens", "5"},
      {"hash", "t", "--model-config", model.path(), "--layer", "1", "--tokens", "5"},
      {"hash", "t", "--layer", "1"},
      {"hash", "t", "--tokens", "5"},
      {"hash", "t", "--layer", "1", "--tokens", ""},
      {"hash", "t", "--layer", "1", "--tokens", "5,,6"},
      {"hash", "t", "--layer", "1", "--tokens", "5,x"},
      {"hash", "t", "--layer", "1", "--tokens", "5", "--lookback", "2"},
      {"hash", "t", "--layer", "1", "--tokens", "5", "--lookback", "-1"},
      {"hash", "t", "--layer", "1", "--tokens", "5", "--model", "auto"},
      {"hash", "t", "--layer", "1", "--tokens", "5", "--allow-unverified"},
      HashOf(model, 1, "5", {"--version", "3"}),
      HashOf(model, 1, "5", {"--model", "gpt"}),
      {"lookup", "--layer", "1", "--tokens", "5"},
      {"lookup", "t", "--layer", "1"},
      {"lookup", "t", "--layer", "1", "--tokens", "5", "--lookback", "2"},
      {"lookup", "t", "--layer", "1", "--tokens", "5", "--version", "0"}};
  for (const auto& arguments : wrong) {
    const CtlResult result = RunCtl(arguments);
    EXPECT_EQ(result.exit_status, 2) << ::testing::PrintToString(arguments) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

class ServedTest : public ::testing::Test {
 protected:
  Json Rows(std::vector<std::string> arguments) {
    return GoodJson(std::move(arguments), daemon_.target())["rows"];
  }
  void Fails(const std::vector<std::string>& arguments, const std::string& why) {
    ExpectFails(arguments, why, daemon_.target());
  }

  FakeDaemon daemon_;
};

TEST_F(ServedTest, HashOfATableIsMadeHere) {
  const Json raw = Rows({"hash", "h", "--layer", "14", "--tokens", "-1,9,2,7"});
  EXPECT_EQ(raw.size(), 4u);
  EXPECT_EQ(raw, Rows({"hash", "h", "--layer", "14", "--tokens", "-1,4,1,3", "--compressed"}));
  EXPECT_EQ(raw, Rows({"hash", "m", "--layer", "14", "--tokens", "-1,4,1,3", "--compressed"}));
  EXPECT_EQ(daemon_.lookups, 0);
  Fails({"hash", "m", "--layer", "14", "--tokens", "4"}, "load it as a new version");
  Fails({"hash", "h", "--layer", "2", "--tokens", "4"}, "no hashed layer 2; it has 1, 14");
  Fails({"hash", "h", "--layer", "1", "--tokens", "4,10"}, "10");
  Fails({"hash", "t", "--layer", "1", "--tokens", "4"}, "addressed by row id only");
  Fails({"hash", "u", "--layer", "1", "--tokens", "4"}, "no table \"u\"");
}

// Token by token, in column order, duplicates kept: what `hash` gives, each with its row.
TEST_F(ServedTest, LookupPrintsTheRowsOfEveryToken) {
  for (const int layer : {1, 14}) {
    const std::string number = absl::StrCat(layer);
    const Json hashed = Rows({"hash", "h", "--layer", number, "--tokens", "-1,9,9,9,9,9"});
    std::string want;
    Json want_json = Json::array();
    for (const Json& position : hashed) {
      for (const Json& id : position) {
        const std::string hex =
            absl::BytesToHexString(RowBytes(layer, static_cast<uint32_t>(id.get<int64_t>())));
        absl::StrAppend(&want, id.get<int64_t>(), " ", hex, "\n");
        want_json.push_back({{"id", id}, {"hex", hex}, {"tier", id == -1 ? "none" : "dram"}});
      }
    }
    const std::vector<std::string> lookup = {"lookup", "h",        "--layer",
                                             number,   "--tokens", "-1,9,9,9,9,9"};
    EXPECT_EQ(Good(lookup, daemon_.target()), want);
    EXPECT_EQ(Rows(lookup), want_json);
  }
}

TEST_F(ServedTest, LookupReadsTokensFromStdin) {
  const CtlResult result =
      RunCtl({"lookup", "h", "--layer", "1", "--tokens", "-"}, daemon_.target(), "-1 9\n2");
  EXPECT_EQ(result.exit_status, 0) << result.err;
  EXPECT_EQ(result.out,
            Good({"lookup", "h", "--layer", "1", "--tokens", "-1,9,2"}, daemon_.target()));
}

TEST_F(ServedTest, LookupOfAChunk) {
  const std::vector<std::string> whole = {"lookup", "h", "--layer", "1", "--tokens", "1,2,3,4,5"};
  const std::vector<std::string> chunk = {"lookup",   "h",       "--layer",    "1",
                                          "--tokens", "2,3,4,5", "--lookback", "3"};
  const Json rows = Rows(whole);
  EXPECT_EQ(Rows(chunk), Json(std::vector<Json>(rows.end() - 6, rows.end())));
}

TEST_F(ServedTest, LookupSaysWhatItCannotDo) {
  Fails({"lookup", "m", "--layer", "1", "--tokens", "4"}, "--compressed");
  Fails({"lookup", "h", "--layer", "2", "--tokens", "4"}, "no hashed layer 2; it has 1, 14");
  Fails({"lookup", "h", "--layer", "1", "--tokens", "10"}, "10");
  Fails({"lookup", "t", "--layer", "1", "--tokens", "4"}, "addressed by row id only");
  EXPECT_EQ(daemon_.lookups, 0);
}

}  // namespace
}  // namespace engram
