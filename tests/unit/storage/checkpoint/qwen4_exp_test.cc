#include "storage/checkpoint/qwen4_exp.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/unit/storage/checkpoint/family_testing.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using testing_checkpoint::BadConfig;
using testing_checkpoint::ExpectBadConfigs;
using testing_checkpoint::ExpectError;
using testing_checkpoint::ExpectLayer;
using testing_checkpoint::HashAt;
using testing_checkpoint::Int64Tensor;
using testing_checkpoint::kInvalid;
using testing_checkpoint::ParseConfig;
using testing_checkpoint::PrimesFrom;
using testing_checkpoint::Replaced;
using testing_checkpoint::RowBytes;
using testing_checkpoint::Safetensors;
using testing_checkpoint::TempDir;
using testing_checkpoint::TestTensor;

constexpr char kReleasedQwen[] = R"({"model_type":"qwen4_exp_moe","text_config":{
  "model_type":"qwen4_exp_text","ngram_size":3,"heads_per_ngram":8,"ple_layer_ids":[2],
  "ple_embed_dim":2560,"ngram_vocab_size_base":20000000,
  "make_ngram_vocab_size_divisible_by":128,"split_ngram_parts":128,"vocab_size":248320,
  "eos_token_id":[248044,248046]}})";

TEST(Qwen4ExpSpec, DescribesTheReleasedModel) {
  const auto spec = Qwen4ExpSpec(ParseConfig(kReleasedQwen));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->family, "qwen4-exp");
  EXPECT_EQ(spec->row_format, "bf16[160]");
  ASSERT_EQ(spec->layers.size(), 1u);
  const LayerSpec& layer = spec->layers[0];
  EXPECT_EQ(layer.id, LayerId{2});
  EXPECT_EQ(layer.row_bytes, 320u);
  EXPECT_EQ(layer.rows, 320'001'536u);
  uint64_t sum = 0;
  for (const ColumnSpec& column : layer.columns) sum += column.rows;
  EXPECT_EQ(sum, 320'001'446u);
  EXPECT_EQ(layer.columns.size(), 16u);
  EXPECT_THAT(layer.multipliers, ElementsAre(23703573157769, 20109073645365, 8052911324071));
  EXPECT_EQ(spec->addressing,
            (AddressingSpec{HashKind::kXorMultiply, 3, 8, 20'000'000, 248044, 0, 248320, 248044}));
}

TEST(Qwen4ExpSpec, HashesAsTheModel) {
  const auto spec = Qwen4ExpSpec(ParseConfig(kReleasedQwen));
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::vector<size_t> columns = {0, 7, 8, 15};
  const std::vector<int32_t> plain = {5, 17, 1000, 42};
  const std::vector<int32_t> cut = {5, 7, 248044, 9, 11};
  EXPECT_THAT(HashAt(*spec, 2, plain, 0, columns),
              ElementsAre(15389869, 155458159, 179763390, 315720898));
  EXPECT_THAT(HashAt(*spec, 2, plain, 3, columns),
              ElementsAre(15394486, 145979698, 170474119, 302622549));
  EXPECT_THAT(HashAt(*spec, 2, cut, 1, columns),
              ElementsAre(12441580, 156012011, 169119442, 314484167));
  EXPECT_THAT(HashAt(*spec, 2, cut, 3, columns),
              ElementsAre(18043673, 144330141, 176817901, 307951937));
}

TEST(Qwen4ExpSpec, FindsKeysInTextConfigFirstAndThenAtTop) {
  const auto expected = Qwen4ExpSpec(ParseConfig(kReleasedQwen));
  ASSERT_TRUE(expected.ok());
  // All keys at top; some at top, and one that only text_config's own value makes right.
  const std::string flat = Replaced(Replaced(kReleasedQwen, "\"text_config\":{", ""), "}}", "}");
  const auto top =
      Qwen4ExpSpec(ParseConfig(Replaced(flat, "\"model_type\":\"qwen4_exp_text\"", "\"x\":0")));
  ASSERT_TRUE(top.ok()) << top.status();
  EXPECT_EQ(*top, *expected);
  const auto both = Qwen4ExpSpec(ParseConfig(
      Replaced(Replaced(kReleasedQwen, "\"ple_layer_ids\":[2],", ""),
               "\"text_config\":", "\"ple_layer_ids\":[2],\"vocab_size\":7,\"text_config\":")));
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ(*both, *expected);
}

TEST(Qwen4ExpSpec, TakesASeedAndALoneBoundary) {
  const auto spec = Qwen4ExpSpec(ParseConfig(Replaced(kReleasedQwen, "[248044,248046]", "248044")));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->addressing.boundary_id, 248044);
  const auto seeded = [&](const std::string& seed) {
    return Qwen4ExpSpec(ParseConfig(
        Replaced(kReleasedQwen, "\"ngram_size\"", "\"seed\":" + seed + ",\"ngram_size\"")));
  };
  ASSERT_TRUE(seeded("1234").ok() && seeded("1235").ok());
  EXPECT_EQ(seeded("1234")->layers, spec->layers);
  EXPECT_NE(seeded("1235")->layers[0].multipliers, spec->layers[0].multipliers);
  EXPECT_EQ(seeded("1.5").status().code(), kInvalid);
}

TEST(Qwen4ExpFamily, IsFoundByEitherModelType) {
  EXPECT_TRUE(MatchesQwen4Exp(ParseConfig(R"({"model_type":"qwen4_exp"})")));
  EXPECT_TRUE(MatchesQwen4Exp(
      ParseConfig(R"({"model_type":"vl","text_config":{"model_type":"qwen4_exp_text"}})")));
  EXPECT_FALSE(MatchesQwen4Exp(ParseConfig(R"({"model_type":"qwen4"})")));
}

TEST(Qwen4ExpFamily, IsVerifiedByItsExactTypes) {
  for (const char* text :
       {R"({"model_type":"qwen4_exp"})",
        R"({"model_type":"qwen4_exp","text_config":{"ngram_size":3}})",
        R"({"model_type":"vl","text_config":{"model_type":"qwen4_exp"}})",
        R"({"model_type":"vl","text_config":{"model_type":"qwen4_exp_text"}})"}) {
    EXPECT_EQ(UnverifiedQwen4Exp(ParseConfig(text)), "") << text;
  }
  const std::vector<std::pair<std::string, std::string>> others = {
      {R"({"model_type":"qwen4_exp_moe"})", "model_type 'qwen4_exp_moe' is not verified"},
      {R"({"model_type":"qwen4_exp_text"})", "model_type 'qwen4_exp_text' is not verified"},
      {R"({"model_type":"qwen4_exp","text_config":{"model_type":"qwen4_exp_v2"}})",
       "text_config.model_type 'qwen4_exp_v2' is not verified"},
      {"{}", "model_type '' is not verified"}};
  for (const auto& [text, why] : others) {
    EXPECT_THAT(UnverifiedQwen4Exp(ParseConfig(text)), ::testing::StartsWith(why)) << text;
  }
}

TEST(Qwen4ExpSpec, NamesTheKeyThatIsWrong) {
  std::vector<BadConfig> cases = {
      {"[2]", "[0]", {"text_config.ple_layer_ids[0]", "is 0"}},
      {"[2]", "[2,2]", {"text_config.ple_layer_ids", "2 twice"}},
      {"2560", "2561", {"text_config.ple_embed_dim", "2561", "16 columns"}},
      {"2560", "524304", {"text_config.ple_embed_dim", "524304"}},
      {"[248044,248046]", "[]", {"text_config.eos_token_id", "empty"}},
      {"[248044,248046]", "248320", {"text_config.eos_token_id", "248320"}},
      {"\"split_ngram_parts\":128",
       "\"split_ngram_parts\":127",
       {"text_config.split_ngram_parts", "127", "320001536"}},
      {"\"split_ngram_parts\":128", "\"split_ngram_parts\":0", {"split_ngram_parts", "is 0"}},
      {"20000000", "300000000", {"row count"}},
  };
  for (const char* key :
       {"ngram_size", "heads_per_ngram", "ple_layer_ids", "ple_embed_dim", "ngram_vocab_size_base",
        "make_ngram_vocab_size_divisible_by", "split_ngram_parts", "vocab_size", "eos_token_id"}) {
    cases.push_back(
        {absl::StrCat("\"", key, "\""), "\"x\"", {absl::StrCat("text_config.", key), "missing"}});
  }
  ExpectBadConfigs(Qwen4ExpSpec, kReleasedQwen, cases);
  const auto nothing = Qwen4ExpSpec(ParseConfig("{}"));
  ExpectError(nothing.status(), kInvalid, {"config.json: ngram_size is missing"});
}

// Orders 2 and 3, two heads from 97: the layer's columns add up to 408 rows, padded to 416, in 16
// shards of 26 (so that shard 10 comes before shard 2 in the order of names).
class Qwen4ExpTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kRows = 416;
  static constexpr uint64_t kParts = 16;
  static constexpr uint64_t kDim = 8;

  void SetUp() override { WriteConfig("[2]"); }
  void WriteConfig(const std::string& layers) {
    dir_.Write("config.json",
               absl::StrCat(R"({"model_type":"qwen4_exp","ngram_size":3,"heads_per_ngram":2,)",
                            R"("ple_layer_ids":)", layers, R"(,"ple_embed_dim":32,)",
                            R"("ngram_vocab_size_base":97,)",
                            R"("make_ngram_vocab_size_divisible_by":16,"split_ngram_parts":16,)",
                            R"("vocab_size":1000,"eos_token_id":7})"));
  }
  static std::string Module(int32_t layer) {
    return absl::StrCat("model.language_model.layers.", layer - 1, ".ple.ple_embedding.");
  }
  static std::vector<TestTensor> Shards(int32_t layer, const std::string& dtype = "BF16",
                                        uint64_t row_bytes = 2 * kDim, uint64_t rows = kRows) {
    std::vector<TestTensor> tensors;
    const uint64_t here = rows / kParts;
    for (uint64_t part = 0; part < kParts; ++part) {
      tensors.push_back({absl::StrCat(Module(layer), "ngram_embedding.shard_", part, ".weight"),
                         dtype,
                         {here, kDim},
                         RowBytes(layer, part * here, here, 0, row_bytes)});
    }
    return tensors;
  }
  // A BF16 is the upper half of a float's bytes.
  static TestTensor Scale(const std::string& dtype, float value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return {Module(2) + "ngram_embedding.weight_scale",
            dtype,
            {1},
            dtype == "BF16" ? bytes.substr(2) : bytes};
  }
  static std::vector<TestTensor> Scaled(const TestTensor& scale) {
    std::vector<TestTensor> tensors = Shards(2, "F8_E4M3", kDim);
    tensors.push_back(scale);
    return tensors;
  }
  absl::StatusOr<std::unique_ptr<RowSource>> Open(const std::vector<TestTensor>& tensors) {
    dir_.Write("model.safetensors", Safetensors(tensors));
    return OpenCheckpoint({dir_.path(), "auto", {}});
  }
  void ExpectOpenError(const std::vector<TestTensor>& tensors,
                       const std::vector<std::string>& texts) {
    ExpectError(Open(tensors).status(), kInvalid, texts);
  }

  TempDir dir_;
};

TEST_F(Qwen4ExpTest, ServesEveryRowThroughAllShards) {
  const auto source = Open(Shards(2));
  ASSERT_TRUE(source.ok()) << source.status();
  const LayerSpec& layer = (*source)->spec().layers[0];
  EXPECT_EQ(layer.rows, kRows);
  EXPECT_EQ(layer.row_scale, 0);
  EXPECT_EQ((*source)->spec().row_format, "bf16[8]");
  ExpectLayer(**source, 2, RowBytes(2, 0, kRows, 0, 2 * kDim));
  EXPECT_TRUE(testing_checkpoint::ReadLayer(**source, 2, 25, 54) ==
              RowBytes(2, 25, 54, 0, 2 * kDim));
  EXPECT_EQ((*source)->token_map(), nullptr);
}

TEST_F(Qwen4ExpTest, ServesScaledRowsAndTheirScale) {
  for (const std::string dtype : {"BF16", "F32"}) {
    const auto source = Open(Scaled(Scale(dtype, 0.0078125f)));
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ((*source)->spec().layers[0].row_scale, 0.0078125);
    EXPECT_EQ((*source)->spec().row_format, "f8_e4m3[8]");
    ExpectLayer(**source, 2, RowBytes(2, 0, kRows, 0, kDim));
  }
}

TEST_F(Qwen4ExpTest, ServesSeveralLayers) {
  WriteConfig("[5,2]");
  // Layer 5 comes first in the config, so layer 2 has the primes after it: 109 + 113 + 127 + 131.
  std::vector<TestTensor> tensors = Shards(5);
  for (TestTensor& tensor : Shards(2, "BF16", 2 * kDim, 480)) tensors.push_back(std::move(tensor));
  const auto source = Open(tensors);
  ASSERT_TRUE(source.ok()) << source.status();
  const std::vector<uint64_t> primes = PrimesFrom(97, 8);
  EXPECT_EQ((*source)->spec().layers[0].columns[0].rows, primes[4]);
  EXPECT_EQ((*source)->spec().layers[1].columns[0].rows, primes[0]);
  ExpectLayer(**source, 5, RowBytes(5, 0, kRows, 0, 2 * kDim));
  ExpectLayer(**source, 2, RowBytes(2, 0, 480, 0, 2 * kDim));
  tensors = Shards(5, "F8_E4M3", kDim);
  tensors.push_back(Scale("BF16", 1));
  tensors.back().name = Module(5) + "ngram_embedding.weight_scale";
  for (TestTensor& tensor : Shards(2, "BF16", 2 * kDim, 480)) tensors.push_back(std::move(tensor));
  ExpectOpenError(tensors, {"f8_e4m3[8]", "earlier layer", "bf16[8]"});
}

TEST_F(Qwen4ExpTest, WantsAScaleThatMakesSense) {
  const std::string name = Module(2) + "ngram_embedding.weight_scale";
  ExpectOpenError(Shards(2, "F8_E4M3", kDim), {"shard_0.weight", "F8_E4M3", "no tensor '" + name});
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {0.0f, -0.0f, -1.0f, infinity, std::nanf("")}) {
    for (const std::string dtype : {"BF16", "F32"}) {
      ExpectOpenError(Scaled(Scale(dtype, value)), {name, "scale"});
    }
  }
  TestTensor scale = Scale("F32", 1);
  scale.dtype = "I32";
  ExpectOpenError(Scaled(scale), {name, "I32", "BF16 or F32"});
  scale = Scale("BF16", 1);
  scale.shape = {2};
  scale.bytes += scale.bytes;
  ExpectOpenError(Scaled(scale), {name, "[2]", "[1]"});
  std::vector<TestTensor> tensors = Shards(2);
  tensors.push_back(Scale("BF16", 1));
  ExpectOpenError(tensors, {"BF16", name, "cannot be told"});
}

TEST_F(Qwen4ExpTest, ChecksTheStoredAddressing) {
  const auto spec = Qwen4ExpSpec(*ModelConfig::Read(dir_.path()));
  ASSERT_TRUE(spec.ok()) << spec.status();
  std::vector<TestTensor> tensors = Shards(2);
  const size_t at = tensors.size();
  tensors.push_back(Int64Tensor(Module(2) + "layer_multipliers", spec->layers[0].multipliers));
  tensors.push_back(Int64Tensor(Module(2) + "ngram_heads_vocab_sizes", {97, 101, 103, 107}));
  tensors.push_back(Int64Tensor(Module(2) + "ngram_heads_offsets", {0, 97, 198, 301}));
  EXPECT_TRUE(Open(tensors).ok()) << Open(tensors).status();
  const std::vector<std::string> found = {absl::StrCat(spec->layers[0].multipliers[1] ^ 2), "103",
                                          "199"};
  const std::vector<std::vector<int64_t>> wrong = {
      {spec->layers[0].multipliers[0], spec->layers[0].multipliers[1] ^ 2,
       spec->layers[0].multipliers[2]},
      {97, 103, 101, 107},
      {0, 97, 199, 301}};
  const std::vector<std::vector<std::string>> texts = {
      {"index 1", absl::StrCat(spec->layers[0].multipliers[1])},
      {"index 1", "101"},
      {"index 2", "198"}};
  for (size_t i = 0; i < 3; ++i) {
    std::vector<TestTensor> edited = tensors;
    edited[at + i] = Int64Tensor(tensors[at + i].name, wrong[i]);
    ExpectOpenError(edited, {tensors[at + i].name, found[i], texts[i][0], texts[i][1]});
    edited[at + i] = Int64Tensor(tensors[at + i].name, {1, 2});
    ExpectOpenError(edited, {tensors[at + i].name, "I64 [2]"});
  }
}

TEST_F(Qwen4ExpTest, TakesOtherTypesOnlyUnverified) {
  dir_.Write("config.json", Replaced(testing_checkpoint::ReadFile(dir_.File("config.json")),
                                     "qwen4_exp", "qwen4_exp_moe"));
  ExpectError(Open(Shards(2)).status(), absl::StatusCode::kFailedPrecondition,
              {"'qwen4_exp_moe'", "; pass --allow-unverified to take it as it is"});
  const auto source = OpenCheckpoint({dir_.path(), "auto", {}, true});
  ASSERT_TRUE(source.ok()) << source.status();
  ExpectLayer(**source, 2, RowBytes(2, 0, kRows, 0, 2 * kDim));
}

TEST_F(Qwen4ExpTest, RefusesAShardTooMany) {
  std::vector<TestTensor> tensors = Shards(2);
  tensors.push_back(tensors.back());
  tensors.back().name = Module(2) + "ngram_embedding.shard_16.weight";
  ExpectOpenError(tensors, {"'" + tensors.back().name + "'", "there are 16, numbered from 0"});
  tensors.back().name = Module(2) + "ngram_embedding.shard_16.bias";
  EXPECT_TRUE(Open(tensors).ok()) << Open(tensors).status();
}

TEST_F(Qwen4ExpTest, NamesTensorsThatAreNotWhatTheConfigSays) {
  const auto expect = [&](size_t index, const auto& edit, const std::vector<std::string>& texts) {
    std::vector<TestTensor> tensors = Shards(2);
    edit(tensors[index]);
    ExpectOpenError(tensors, texts);
  };
  const std::string stem = Module(2) + "ngram_embedding.shard_";
  expect(0, [](TestTensor& t) { t.name = "gone"; },
         {"no tensor 'layers.1.ple.ple_embedding.ngram_embedding.shard_0.weight'"});
  expect(15, [](TestTensor& t) { t.name = "gone"; }, {"no tensor '" + stem + "15.weight'"});
  expect(0, [](TestTensor& t) { t.dtype = "F16"; }, {stem + "0.weight", "F16", "BF16 or F8_E4M3"});
  expect(10, [](TestTensor& t) { t.dtype = "F16"; }, {stem + "10.weight", "F16", "BF16 [26, 8]"});
  expect(10, [](TestTensor& t) { t.shape = {8, 26}; }, {stem + "10.weight", "[8, 26]", "[26, 8]"});
}

}  // namespace
}  // namespace engram
