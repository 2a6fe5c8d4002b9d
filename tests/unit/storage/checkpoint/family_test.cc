#include "storage/checkpoint/family.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/unit/storage/checkpoint/family_testing.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using testing_checkpoint::EngramTensors;
using testing_checkpoint::ExpectError;
using testing_checkpoint::kInvalid;
using testing_checkpoint::ParseConfig;
using testing_checkpoint::PrimesFrom;
using testing_checkpoint::Safetensors;
using testing_checkpoint::TempDir;

constexpr char kAll[] = "auto, deepseek-v4.1, engram-demo, qwen4-exp, longcat, generic";

TEST(Family, DetectsByModelType) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"model_type":"deepseek_v41"})", "deepseek-v4.1"},
      {R"({"model_type":"engram_demo"})", "engram-demo"},
      {R"({"model_type":"qwen4_exp"})", "qwen4-exp"},
      {R"({"text_config":{"model_type":"qwen4_exp_text"}})", "qwen4-exp"},
      {R"({"model_type":"longcat_flash_ngram"})", "longcat"},
  };
  for (const auto& [text, name] : cases) {
    for (const std::string& model : {std::string("auto"), std::string(), name}) {
      const auto family = ChooseFamily(model, ParseConfig(text));
      ASSERT_TRUE(family.ok()) << family.status();
      EXPECT_EQ((*family)->name, name);
    }
  }
  EXPECT_EQ(SupportedFamilies().size(), 5u);
}

TEST(Family, TakesANamedFamilyAtItsWord) {
  for (const Family& family : SupportedFamilies()) {
    const auto found = ChooseFamily(family.name, ParseConfig("{}"));
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, &family);
  }
}

TEST(Family, SaysWhyAutoFails) {
  ExpectError(ChooseFamily("auto", ParseConfig(R"({"model_type":"llama"})")).status(), kInvalid,
              {"config.json", "'llama'", absl::StrCat("supported: ", kAll)});
  ExpectError(ChooseFamily("auto", ParseConfig("{}")).status(), kInvalid,
              {"config.json", "missing"});
}

TEST(Family, RefusesUnknownNames) {
  EXPECT_TRUE(CheckModelName("").ok());
  ExpectError(CheckModelName("deepseek"), kInvalid, {"'deepseek'", kAll});
}

TEST(OpenCheckpoint, ChecksBeforeItReads) {
  TempDir dir;
  ExpectError(OpenCheckpoint({dir.File("gone"), "nonsense", {}}).status(), kInvalid,
              {"'nonsense'"});
  EXPECT_EQ(OpenCheckpoint({dir.File("gone"), "auto", {}}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenCheckpoint({dir.path(), "auto", {}}).status().code(), absl::StatusCode::kNotFound);
  dir.Write("config.json", R"({"model_type":"deepseek_v41"})");
  ExpectError(OpenCheckpoint({dir.path(), "auto", {"t"}}).status(), kInvalid, {"generic"});
  ExpectError(OpenCheckpoint({dir.path(), "auto", {}}).status(), kInvalid, {"text_config.engram_"});
  dir.Write("config.json", "{");
  EXPECT_EQ(OpenCheckpoint({dir.path(), "auto", {}}).status().code(), absl::StatusCode::kDataLoss);
}

const Family& FamilyNamed(const std::string& name) {
  return **ChooseFamily(name, ParseConfig("{}"));
}

TableSpec SpecWith(int64_t compressed, int64_t pad) {
  TableSpec spec;
  spec.addressing.compressed_vocab_size = compressed;
  spec.addressing.pad_id = pad;
  return spec;
}

TEST(ApplyTokenMap, TellsTheSpecOfTheMap) {
  const TokenMap map = *TokenMap::Create({0, 1, 2, 1, 3});
  TableSpec spec = SpecWith(4, 2);
  ASSERT_TRUE(ApplyTokenMap(FamilyNamed("deepseek-v4.1"), map, "t.json", false, spec).ok());
  EXPECT_EQ(spec.token_map_size, 5u);
  EXPECT_EQ(spec.token_map_digest, map.digest());
  EXPECT_EQ(spec.addressing.pad_id, 2);
}

TEST(ApplyTokenMap, RefusesAMapOfAnotherSize) {
  const TokenMap map = *TokenMap::Create({0, 1, 2, 1, 3});
  for (const char* name : {"deepseek-v4.1", "engram-demo"}) {
    TableSpec spec = SpecWith(5, 2);
    ExpectError(ApplyTokenMap(FamilyNamed(name), map, "d/tokenizer.json", true, spec), kInvalid,
                {"d/tokenizer.json", "4 ids", "says 5",
                 "; without tokenizer.json beside config.json only compressed ids can be used"});
    EXPECT_EQ(spec.token_map_size, 0u);
  }
}

TEST(ApplyTokenMap, ChecksOrMapsThePad) {
  const TokenMap map = *TokenMap::Create({0, 1, 0, 2});
  TableSpec spec = SpecWith(3, 2);
  ExpectError(ApplyTokenMap(FamilyNamed("deepseek-v4.1"), map, "t.json", true, spec), kInvalid,
              {"t.json", "pad id 2 to 0"});
  ASSERT_TRUE(ApplyTokenMap(FamilyNamed("engram-demo"), map, "t.json", false, spec).ok());
  EXPECT_EQ(spec.addressing.pad_id, 0);
  for (const char* name : {"deepseek-v4.1", "engram-demo"}) {
    spec = SpecWith(3, 4);
    ExpectError(ApplyTokenMap(FamilyNamed(name), map, "t.json", true, spec), kInvalid,
                {"t.json", "4 tokens", "pad id 4"});
  }
}

TEST(ApplyTokenMap, KnowsTheReleasedTokenizer) {
  std::vector<int32_t> compressed(129'280, 0);
  std::iota(compressed.begin(), compressed.begin() + 99'092, 0);
  const TokenMap map = *TokenMap::Create(compressed);
  const Family& family = FamilyNamed("deepseek-v4.1");
  TableSpec spec = SpecWith(99'092, 2);
  ExpectError(ApplyTokenMap(family, map, "t.json", false, spec),
              absl::StatusCode::kFailedPrecondition,
              {"t.json", map.digest(), std::string(family.token_map.digest), "--allow-unverified"});
  EXPECT_TRUE(ApplyTokenMap(family, map, "t.json", true, spec).ok());
  // A map that compresses another number of tokens to as many ids is no better.
  compressed.pop_back();
  const TokenMap shorter = *TokenMap::Create(compressed);
  spec = SpecWith(99'092, 2);
  ExpectError(ApplyTokenMap(family, shorter, "t.json", false, spec),
              absl::StatusCode::kFailedPrecondition,
              {shorter.digest(), "; pass --allow-unverified to take it as it is"});
  EXPECT_EQ(spec.token_map_size, 0u);
  EXPECT_TRUE(ApplyTokenMap(family, shorter, "t.json", true, spec).ok());
}

// A DeepSeek-V4.1 of one layer, two columns and four compressed ids.
class TokenizerBesideTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::vector<uint64_t> primes = PrimesFrom(97, 2);
    dir_.Write("config.json",
               R"({"model_type":"deepseek_v41","text_config":{"engram_layer_ids":[1],)"
               R"("engram_max_ngram_size":2,"engram_vocab_size":97,"engram_n_heads":2,)"
               R"("engram_head_dim":32,"engram_pad_token_id":2,)"
               R"("engram_compressed_vocab_size":4}})");
    dir_.Write("model.safetensors", Safetensors(EngramTensors(1, primes[0] + primes[1], 32)));
  }
  void WriteTokenizer(const std::string& vocabulary) {
    dir_.Write("tokenizer.json",
               absl::StrCat(R"({"model":{"type":"BPE","vocab":{)", vocabulary,
                            R"(},"merges":[]},"added_tokens":[],"decoder":{"type":"ByteLevel"}})"));
  }
  TableSpec MustOpen() {
    const auto source = OpenCheckpoint({dir_.path(), "auto", {}});
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? (*source)->spec() : TableSpec();
  }

  TempDir dir_;
};

TEST_F(TokenizerBesideTest, IsPartOfTheCheckpoint) {
  const TableSpec without = MustOpen();
  EXPECT_EQ(without.token_map_size, 0u);
  EXPECT_EQ((*OpenCheckpoint({dir_.path(), "auto", {}}))->token_map(), nullptr);
  WriteTokenizer(R"("a":0,"b":1,"c":2,"d":3,"A":4)");
  const TableSpec with = MustOpen();
  EXPECT_EQ(with.token_map_size, 5u);
  EXPECT_THAT((*OpenCheckpoint({dir_.path(), "auto", {}}))->token_map()->compressed(),
              ElementsAre(0, 1, 2, 3, 0));
  EXPECT_NE(with.checkpoint_digest, without.checkpoint_digest);
  WriteTokenizer(R"("a":0,"b":1,"c":2,"d":3,"B":4)");
  EXPECT_NE(MustOpen().checkpoint_digest, with.checkpoint_digest);
  EXPECT_NE(MustOpen().checkpoint_digest, without.checkpoint_digest);
}

TEST_F(TokenizerBesideTest, NeedsNoWeightsForAddressing) {
  ASSERT_TRUE(std::filesystem::remove(dir_.File("model.safetensors")));
  const auto without = ReadModel(dir_.path(), "auto", false);
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_FALSE(without->map.has_value());
  WriteTokenizer(R"("a":0,"b":1,"c":2,"d":3,"A":4)");
  const auto with = ReadModel(dir_.path(), "auto", false);
  ASSERT_TRUE(with.ok()) << with.status();
  ASSERT_TRUE(with->map.has_value());
  EXPECT_EQ(with->spec.token_map_digest, with->map->digest());
  EXPECT_EQ(with->spec.addressing, without->spec.addressing);
  EXPECT_THAT(testing_checkpoint::HashAt(with->spec, 1, {0, 1}, 1, {0}),
              ElementsAre(testing_checkpoint::HashAt(without->spec, 1, {0, 1}, 1, {0})[0]));
  EXPECT_EQ(ReadModel(dir_.File("gone"), "auto", false).status().code(),
            absl::StatusCode::kNotFound);
  ExpectError(ReadModel(dir_.path(), "no", false).status(), kInvalid, {"'no'"});
}

TEST_F(TokenizerBesideTest, IsNotReadForCompressedIds) {
  const auto without = ReadModel(dir_.path(), "auto", false);
  ASSERT_TRUE(without.ok()) << without.status();
  for (const char* vocabulary : {R"("a":0,"b":1,"c":2,"d":3,"A":4)", R"("a":0)", "{"}) {
    WriteTokenizer(vocabulary);
    const auto model = ReadModel(dir_.path(), "auto", false, TokenIds::kCompressed);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_FALSE(model->map.has_value());
    EXPECT_EQ(model->spec, without->spec);
  }
}

TEST_F(TokenizerBesideTest, IsRefusedIfItDoesNotFit) {
  WriteTokenizer(R"("a":0,"b":1,"c":2)");
  for (const absl::Status& status : {OpenCheckpoint({dir_.path(), "auto", {}}).status(),
                                     ReadModel(dir_.path(), "auto", true).status()}) {
    ExpectError(status, kInvalid,
                {dir_.File("tokenizer.json"), "3 ids", "says 4", "without tokenizer.json"});
  }
  WriteTokenizer(R"("a":0,"b":1,"A":2,"c":3,"d":4)");
  ExpectError(OpenCheckpoint({dir_.path(), "auto", {}}).status(), kInvalid, {"pad id 2 to 0"});
  dir_.Write("tokenizer.json", "{");
  ExpectError(OpenCheckpoint({dir_.path(), "auto", {}}).status(), absl::StatusCode::kDataLoss,
              {dir_.File("tokenizer.json"), "without tokenizer.json"});
}

}  // namespace
}  // namespace engram
