#include "storage/checkpoint/engram_demo.h"

#include <numeric>

#include "absl/strings/ascii.h"
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
using testing_checkpoint::Replaced;
using testing_checkpoint::RowBytes;
using testing_checkpoint::Safetensors;
using testing_checkpoint::TempDir;
using testing_checkpoint::TestTensor;

const std::string kWeight = "multi_head_embedding.embedding.weight";

constexpr char kReleasedDemo[] = R"({"model_type":"engram_demo","engram_vocab_size":[646400,646400],
  "max_ngram_size":3,"n_embed_per_ngram":512,"n_head_per_ngram":8,"layer_ids":[1,15],"pad_id":2,
  "seed":0,"compressed_vocab_size":98627})";

TEST(EngramDemoSpec, DescribesTheDemo) {
  ASSERT_TRUE(MatchesEngramDemo(ParseConfig(kReleasedDemo)));
  const auto spec = EngramDemoSpec(ParseConfig(kReleasedDemo));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->family, "engram-demo");
  EXPECT_EQ(spec->row_format, "bf16[64]");
  ASSERT_EQ(spec->layers.size(), 2u);
  EXPECT_EQ(spec->layers[0].id, LayerId{1});
  EXPECT_EQ(spec->layers[0].rows, 10'344'164u);
  EXPECT_EQ(spec->layers[0].row_bytes, 128u);
  EXPECT_EQ(spec->layers[0].columns.size(), 16u);
  EXPECT_THAT(spec->layers[0].multipliers,
              ElementsAre(76993395940407, 4862694818241, 36129212583461));
  EXPECT_EQ(spec->layers[1].id, LayerId{15});
  EXPECT_EQ(spec->layers[1].rows, 10'348'242u);
  EXPECT_THAT(spec->layers[1].multipliers,
              ElementsAre(29055444938695, 56284491166079, 54183298291715));
  EXPECT_EQ(spec->addressing,
            (AddressingSpec{HashKind::kXorMultiply, 3, 8, 646400, 2, 98627, 0, -1}));
}

TEST(EngramDemoSpec, HashesAsTheDemo) {
  const auto spec = EngramDemoSpec(ParseConfig(kReleasedDemo));
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::vector<int32_t> ids = {5, 17, 1000, 42};
  const std::vector<size_t> columns = {0, 7, 8, 15};
  EXPECT_THAT(HashAt(*spec, 1, ids, 0, columns), ElementsAre(228148, 4540891, 5544240, 10316796));
  EXPECT_THAT(HashAt(*spec, 1, ids, 3, columns), ElementsAre(383941, 5017896, 5190681, 9920817));
  EXPECT_THAT(HashAt(*spec, 15, ids, 0, columns), ElementsAre(371359, 4803460, 5515722, 10131034));
  EXPECT_THAT(HashAt(*spec, 15, ids, 3, columns), ElementsAre(258250, 4899629, 5446557, 10007117));
}

TEST(EngramDemoSpec, AddsItsSeedToTheLayers) {
  // Layer 1 with seed 140098 = 14 × 10007 has the seed of layer 15 without.
  const auto spec =
      EngramDemoSpec(ParseConfig(Replaced(kReleasedDemo, "\"seed\":0", "\"seed\":140098")));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_THAT(spec->layers[0].multipliers,
              ElementsAre(29055444938695, 56284491166079, 54183298291715));
}

TEST(EngramDemoSpec, LeavesARawPadToTheTokenMap) {
  const auto spec =
      EngramDemoSpec(ParseConfig(Replaced(kReleasedDemo, "\"pad_id\":2", "\"pad_id\":128000")));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->addressing.pad_id, 128000);
}

TEST(EngramDemoSpec, NamesTheKeyThatIsWrong) {
  std::vector<BadConfig> cases = {
      {"[646400,646400]", "[646400]", {"engram_vocab_size", "1 entries", "2 orders"}},
      {"[646400,646400]", "646400", {"engram_vocab_size", "a number"}},
      {"[646400,646400]", "[646400,1]", {"engram_vocab_size[1]", "is 1"}},
      {"[646400,646400]", "[4000000000,4000000000]", {"row count"}},
      {"512", "500", {"n_embed_per_ngram", "500", "8 heads"}},
      {"512", "262152", {"n_embed_per_ngram", "262152"}},
      {"[1,15]", "[1,1]", {"layer_ids", "1 twice"}},
      {"[1,15]", "[]", {"layer_ids", "0 layers"}},
      {"\"pad_id\":2", "\"pad_id\":-1", {"pad_id", "-1"}},
      {"\"seed\":0", "\"seed\":-1", {"seed", "-1"}},
      {"98627", "0", {"compressed_vocab_size", "is 0"}},
      {"\"n_head_per_ngram\":8", "\"n_head_per_ngram\":257", {"n_head_per_ngram", "257"}},
  };
  for (const char* key :
       {"engram_vocab_size", "max_ngram_size", "n_embed_per_ngram", "n_head_per_ngram", "layer_ids",
        "pad_id", "seed", "compressed_vocab_size"}) {
    cases.push_back({absl::StrCat("\"", key, "\""), "\"x\"", {key, "missing"}});
  }
  ExpectBadConfigs(EngramDemoSpec, kReleasedDemo, cases);
}

TEST(EngramDemoSpec, BoundsItsColumns) {
  std::string ids = "0";
  for (int i = 1; i < 300; ++i) ids += absl::StrCat(",", i);
  const auto spec = EngramDemoSpec(ParseConfig(Replaced(kReleasedDemo, "1,15", ids)));
  ExpectError(spec.status(), kInvalid, {"layer_ids", "4800 columns", "at most 4096"});
}

// Two orders of two heads from 97 and 200; two layers.
class EngramDemoTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kDim = 6;

  void SetUp() override { WriteConfig("1,15", 2); }
  void WriteConfig(const std::string& layers, int pad) {
    dir_.Write("config.json",
               absl::StrCat(R"({"model_type":"engram_demo","engram_vocab_size":[97,200],)",
                            R"("max_ngram_size":3,"n_embed_per_ngram":12,"n_head_per_ngram":2,)",
                            R"("layer_ids":[)", layers, R"(],"pad_id":)", pad,
                            R"(,"seed":0,"compressed_vocab_size":3})"));
  }
  // Each (layer, order) takes the next two primes from its size that are not yet taken.
  static std::vector<int64_t> Sizes(int32_t layer) {
    return layer == 1 ? std::vector<int64_t>{97, 101, 211, 223}
                      : std::vector<int64_t>{103, 107, 227, 229};
  }
  static uint64_t Rows(int32_t layer) {
    const std::vector<int64_t> sizes = Sizes(layer);
    return std::accumulate(sizes.begin(), sizes.end(), uint64_t{0});
  }
  static TestTensor Weight(int32_t layer, const std::string& prefix,
                           const std::string& dtype = "BF16", uint64_t bytes = 2) {
    return {prefix + kWeight,
            dtype,
            {Rows(layer), kDim},
            RowBytes(layer, 0, Rows(layer), 0, kDim * bytes)};
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

TEST_F(EngramDemoTest, ServesEveryRowOfEveryDtype) {
  const std::vector<std::pair<std::string, uint64_t>> dtypes = {
      {"BF16", 2}, {"F16", 2}, {"F32", 4}};
  for (const auto& [dtype, bytes] : dtypes) {
    const auto source = Open({Weight(15, "layers.15.", dtype, bytes),
                              Weight(1, "model.layers.1.engram.x.", dtype, bytes)});
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ((*source)->spec().row_format, absl::AsciiStrToLower(dtype) + "[6]");
    EXPECT_EQ((*source)->spec().layers[0].row_bytes, kDim * bytes);
    for (const int32_t layer : {1, 15}) {
      ExpectLayer(**source, layer, RowBytes(layer, 0, Rows(layer), 0, kDim * bytes));
    }
  }
}

TEST_F(EngramDemoTest, TellsLayersApartByWholeComponents) {
  const TestTensor first = Weight(1, "layers.1.engram.");
  const TestTensor second = Weight(15, "layers.15.engram.");
  ExpectOpenError({first, Weight(15, "")}, {"layers.15.….multi_head_embedding", "no tensor"});
  ExpectOpenError({first, Weight(15, "layers.150.engram.")}, {"layers.15.…"});
  ExpectOpenError({first, Weight(15, "sublayers.15.engram.")}, {"layers.15.…"});
  ExpectOpenError({first, second, Weight(15, "draft.layers.15.engram.")},
                  {"'layers.15.engram.", "'draft.layers.15.engram."});
  TestTensor other = second;
  other.name = "layers.15.engram.other_" + kWeight;
  ExpectOpenError({first, other}, {"layers.15.…"});
  EXPECT_TRUE(Open({first, second}).ok());
}

TEST_F(EngramDemoTest, TakesABareNameForAnOnlyLayer) {
  WriteConfig("1", 2);
  for (const std::string prefix : {"", "engram.", "layers.1."}) {
    const auto source = Open({Weight(1, prefix)});
    ASSERT_TRUE(source.ok()) << source.status();
    ExpectLayer(**source, 1, RowBytes(1, 0, Rows(1), 0, kDim * 2));
  }
  // A layer's own name is better than a bare one, and another layer's is not ours.
  TestTensor wrong = Weight(1, "");
  wrong.dtype = "I16";
  EXPECT_TRUE(Open({Weight(1, "layers.1."), wrong}).ok());
  ExpectOpenError({Weight(1, "layers.2.")}, {"layers.1.…", "only layer"});
  ExpectOpenError({Weight(1, "a."), Weight(1, "b.")}, {"'a.multi", "'b.multi"});
}

TEST_F(EngramDemoTest, NamesTensorsThatAreNotWhatTheConfigSays) {
  const TestTensor first = Weight(1, "layers.1.");
  ExpectOpenError({first, Weight(15, "layers.15.", "I16")}, {"layers.15.", "I16", "BF16"});
  ExpectOpenError({Weight(1, "layers.1.", "F64", 8), Weight(15, "layers.15.")},
                  {"layers.1.", "F64", "asks for BF16 or F16 or F32 ["});
  // No scale to go with it is known.
  ExpectOpenError({Weight(1, "layers.1.", "F8_E4M3", 1), Weight(15, "layers.15.", "F8_E4M3", 1)},
                  {"layers.1.", "F8_E4M3", "asks for BF16 or F16 or F32 ["});
  ExpectOpenError({first, Weight(15, "layers.15.", "F16")}, {"layers.15.", "F16", "BF16"});
  TestTensor swapped = Weight(1, "layers.15.");
  ExpectOpenError({first, swapped}, {"layers.15.", absl::StrCat("[", Rows(15), ", 6]")});
}

TEST_F(EngramDemoTest, ChecksStoredOffsets) {
  std::vector<TestTensor> tensors = {Weight(1, "layers.1.e."), Weight(15, "layers.15.e.")};
  const std::string name = "layers.15.e.multi_head_embedding.offsets";
  tensors.push_back(Int64Tensor(name, {0, 103, 210, 437}));
  EXPECT_TRUE(Open(tensors).ok()) << Open(tensors).status();
  tensors.back() = Int64Tensor(name, {0, 103, 211, 437});
  ExpectOpenError(tensors, {name, "index 2", "211", "210"});
  tensors.back() = Int64Tensor(name, {0, 103, 210});
  ExpectOpenError(tensors, {name, "I64 [3]", "I64 [4]"});
  tensors.back().dtype = "U64";
  ExpectOpenError(tensors, {name, "U64"});
}

TEST_F(EngramDemoTest, MapsTheRawPad) {
  // Without a map the pad is taken as it is, so it has to be a compressed id.
  const std::vector<TestTensor> tensors = {Weight(1, "layers.1."), Weight(15, "layers.15.")};
  WriteConfig("1,15", 3);
  ExpectOpenError(tensors, {dir_.File("config.json"),
                            "pad_id is 3, past the 3 compressed ids: it is a raw id, and needs the "
                            "model's tokenizer.json beside config.json"});
  dir_.Write("tokenizer.json",
             R"({"model":{"type":"BPE","vocab":{"a":0,"A":1,"b":2,"c":3},"merges":[]},)"
             R"("added_tokens":[],"decoder":{"type":"ByteLevel"}})");
  const auto source = Open(tensors);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->spec().addressing.pad_id, 2);
  EXPECT_EQ((*source)->spec().token_map_size, 4u);
  ASSERT_NE((*source)->token_map(), nullptr);
  EXPECT_THAT((*source)->token_map()->compressed(), ElementsAre(0, 0, 1, 2));
  EXPECT_EQ((*source)->spec().token_map_digest, (*source)->token_map()->digest());
  // Compressed ids, too, need the map to know the pad.
  const auto model = ReadModel(dir_.path(), "auto", false, TokenIds::kCompressed);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->spec.addressing.pad_id, 2);
}

}  // namespace
}  // namespace engram
