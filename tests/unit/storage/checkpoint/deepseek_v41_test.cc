#include "storage/checkpoint/deepseek_v41.h"

#include <unistd.h>

#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/family_testing.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_checkpoint::EngramTensors;
using testing_checkpoint::HashAt;
using testing_checkpoint::IndexJson;
using testing_checkpoint::PrimesFrom;
using testing_checkpoint::RowBytes;
using testing_checkpoint::Safetensors;
using testing_checkpoint::TempDir;
using testing_checkpoint::TestTensor;

// The released config, cut down to what counts.
constexpr char kReleasedV41[] = R"({"model_type":"deepseek_v41","text_config":{
  "engram_layer_ids":[1,14],"engram_num_embeddings":[384006168,384016682],
  "engram_max_ngram_size":4,"engram_vocab_size":16000000,"engram_n_heads":8,
  "engram_head_dim":256,"engram_pad_token_id":2,"engram_compressed_vocab_size":99092}})";

absl::StatusOr<TableSpec> SpecOf(const std::string& text) {
  auto config = ModelConfig::Parse("config.json", text);
  EXPECT_TRUE(config.ok()) << config.status();
  return DeepseekV41Spec(*config);
}

std::string Edited(const std::string& from, const std::string& to) {
  const std::string text = absl::StrReplaceAll(kReleasedV41, {{from, to}});
  EXPECT_NE(text, kReleasedV41) << from;
  return text;
}

TEST(DeepseekV41Spec, DescribesTheReleasedModel) {
  const auto spec = SpecOf(kReleasedV41);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->family, "deepseek-v4.1");
  EXPECT_EQ(spec->row_format, "f8_e4m3[256] f8_e8m0[8]");
  EXPECT_EQ(spec->bytes(), 202'758'032'400u);
  ASSERT_EQ(spec->layers.size(), 2u);
  const LayerSpec& first = spec->layers[0];
  const LayerSpec& second = spec->layers[1];
  EXPECT_EQ(first.id, LayerId{1});
  EXPECT_EQ(first.rows, 384006168u);
  EXPECT_EQ(first.row_bytes, 264u);
  ASSERT_EQ(first.columns.size(), 24u);
  EXPECT_EQ(first.columns.front(), (ColumnSpec{2, 0, 16000057}));
  EXPECT_EQ(first.columns.back(), (ColumnSpec{4, 7, 16000463}));
  EXPECT_EQ(second.id, LayerId{14});
  EXPECT_EQ(second.rows, 384016682u);
  EXPECT_EQ(second.columns.front(), (ColumnSpec{2, 0, 16000477}));
  EXPECT_EQ(second.columns.back(), (ColumnSpec{4, 7, 16000889}));
  EXPECT_EQ(spec->addressing,
            (AddressingSpec{HashKind::kXorMultiply, 4, 8, 16000000, 2, 99092, 0, -1}));
  EXPECT_THAT(first.multipliers,
              ElementsAre(76632096046245, 4839876093313, 35959672319349, 73987337458391));
  EXPECT_THAT(second.multipliers,
              ElementsAre(67716810739261, 51510806800915, 30921347202721, 82619226485591));
}

TEST(DeepseekV41Spec, HashesAsTheReleasedModel) {
  const auto spec = SpecOf(kReleasedV41);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::vector<int32_t> one = {5, 17, 99091, 1000};
  const std::vector<size_t> four = {0, 7, 8, 23};
  EXPECT_THAT(HashAt(*spec, 1, one, 0, four),
              ElementsAre(5412672, 127351390, 143494632, 372009279));
  EXPECT_THAT(HashAt(*spec, 1, one, 3, four),
              ElementsAre(13061917, 127301887, 139654678, 376806098));
  EXPECT_THAT(HashAt(*spec, 14, one, 0, four),
              ElementsAre(6939818, 119840903, 131576092, 382274687));
  EXPECT_THAT(HashAt(*spec, 14, one, 3, four),
              ElementsAre(6342040, 117947476, 139998107, 382003511));
  const std::vector<int32_t> two = {5, 17, 1000, 42};
  const std::vector<size_t> six = {0, 7, 8, 15, 16, 23};
  EXPECT_THAT(HashAt(*spec, 1, two, 3, six),
              ElementsAre(9001831, 118826057, 129539295, 246200002, 263608213, 374240704));
  EXPECT_THAT(HashAt(*spec, 14, two, 3, six),
              ElementsAre(11222432, 122131417, 129857349, 251727779, 268447127, 375436744));
}

TEST(DeepseekV41Spec, GivesOutPrimesInTheConfigsOrderAndSortsLayers) {
  const auto spec = SpecOf(absl::StrReplaceAll(
      kReleasedV41,
      {{"[1,14]", "[14,1]"}, {"16000000", "1000"}, {"\"engram_num_embeddings\"", "\"_\""}}));
  ASSERT_TRUE(spec.ok()) << spec.status();
  const std::vector<uint64_t> primes = PrimesFrom(1000, 48);
  ASSERT_EQ(spec->layers[0].id, LayerId{1});
  ASSERT_EQ(spec->layers[1].id, LayerId{14});
  for (size_t i = 0; i < 24; ++i) {
    EXPECT_EQ(spec->layers[1].columns[i].rows, primes[i]);
    EXPECT_EQ(spec->layers[0].columns[i].rows, primes[24 + i]);
  }
}

TEST(DeepseekV41Spec, DoesWithoutNumEmbeddings) {
  EXPECT_TRUE(SpecOf(Edited("[384006168,384016682]", "null")).ok());
}

TEST(DeepseekV41Spec, NamesTheKeyThatIsWrong) {
  struct Case {
    std::string from, to;
    std::vector<std::string> texts;
  };
  const std::vector<Case> cases = {
      {"text_config", "other", {"text_config.engram_max_ngram_size", "missing"}},
      {"engram_layer_ids", "x", {"text_config.engram_layer_ids", "missing"}},
      {"engram_max_ngram_size", "x", {"text_config.engram_max_ngram_size", "missing"}},
      {"engram_vocab_size", "x", {"text_config.engram_vocab_size", "missing"}},
      {"engram_n_heads", "x", {"text_config.engram_n_heads", "missing"}},
      {"engram_head_dim", "x", {"text_config.engram_head_dim", "missing"}},
      {"engram_pad_token_id", "x", {"text_config.engram_pad_token_id", "missing"}},
      {"engram_compressed_vocab_size", "x", {"engram_compressed_vocab_size", "missing"}},
      {"[1,14]", "1", {"engram_layer_ids", "a number"}},
      {"[1,14]", "[]", {"engram_layer_ids", "0 layers"}},
      {"[1,14]", "[1,1]", {"engram_layer_ids", "1 twice"}},
      {"[1,14]", "[1,-14]", {"engram_layer_ids[1]", "-14"}},
      {"[1,14]", "[1]", {"engram_num_embeddings", "2 entries for 1 layers"}},
      {"384016682", "384016683", {"engram_num_embeddings", "384016683", "384016682", "layer 14"}},
      {"16000000", "\"16M\"", {"engram_vocab_size", "a string"}},
      {"16000000", "16000000.0", {"engram_vocab_size", "16000000.0"}},
      {"16000000", "1", {"engram_vocab_size", "is 1"}},
      {"\"engram_n_heads\":8", "\"engram_n_heads\":0", {"engram_n_heads", "is 0"}},
      {"\"engram_max_ngram_size\":4", "\"engram_max_ngram_size\":1", {"max_ngram_size", "is 1"}},
      {"256", "250", {"engram_head_dim", "250", "multiple of 32"}},
      {"256", "65536", {"engram_head_dim", "65536"}},
      {"99092", "2", {"pad id 2"}},
      {"99092", "4294967296", {"engram_compressed_vocab_size", "4294967296"}},
  };
  for (const Case& item : cases) {
    const absl::Status status = SpecOf(Edited(item.from, item.to)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << item.from << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr("config.json"));
    for (const std::string& text : item.texts) EXPECT_THAT(status.message(), HasSubstr(text));
  }
}

TEST(DeepseekV41Spec, RefusesTablesThatNoRowIdReaches) {
  const absl::Status rows =
      SpecOf(absl::StrReplaceAll(kReleasedV41,
                                 {{"16000000", "400000000"}, {"[384006168,384016682]", "null"}}))
          .status();
  EXPECT_EQ(rows.code(), absl::StatusCode::kInvalidArgument) << rows;
  EXPECT_THAT(rows.message(), AllOf(HasSubstr("config.json"), HasSubstr("row count")));
  const absl::Status columns =
      SpecOf(absl::StrReplaceAll(kReleasedV41,
                                 {{"\"engram_n_heads\":8", "\"engram_n_heads\":256"},
                                  {"\"engram_max_ngram_size\":4", "\"engram_max_ngram_size\":16"}}))
          .status();
  EXPECT_EQ(columns.code(), absl::StatusCode::kInvalidArgument) << columns;
  EXPECT_THAT(columns.message(), HasSubstr("7680 columns"));
}

// A checkpoint of two layers, orders 2 and 3, two heads: 4 columns a layer.
class DeepseekV41Test : public ::testing::Test {
 protected:
  static constexpr int32_t kFirst = 1;
  static constexpr int32_t kSecond = 14;

  void SetUp() override { WriteConfig(97, 64); }

  void WriteConfig(uint64_t base, uint64_t head_dim) {
    const std::vector<uint64_t> primes = PrimesFrom(base, 8);
    head_dim_ = head_dim;
    row_bytes_ = head_dim + head_dim / 32;
    first_rows_ = std::accumulate(primes.begin(), primes.begin() + 4, uint64_t{0});
    second_rows_ = std::accumulate(primes.begin() + 4, primes.end(), uint64_t{0});
    dir_.Write(
        "config.json",
        absl::StrCat(R"({"model_type":"deepseek_v41","text_config":{"engram_layer_ids":[)", kFirst,
                     ",", kSecond, R"(],"engram_num_embeddings":[)", first_rows_, ",", second_rows_,
                     R"(],"engram_max_ngram_size":3,)", R"("engram_vocab_size":)", base,
                     R"(,"engram_n_heads":2,"engram_head_dim":)", head_dim,
                     R"(,"engram_pad_token_id":2,"engram_compressed_vocab_size":100}})"));
  }

  std::vector<TestTensor> Tensors(const std::string& prefix = "") const {
    std::vector<TestTensor> tensors = EngramTensors(kFirst, first_rows_, head_dim_, prefix);
    for (TestTensor& tensor : EngramTensors(kSecond, second_rows_, head_dim_, prefix)) {
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }

  absl::StatusOr<std::unique_ptr<RowSource>> Open() const {
    return OpenCheckpoint({dir_.path(), "auto", {}});
  }
  std::unique_ptr<RowSource> MustOpen() const {
    auto source = Open();
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *std::move(source) : nullptr;
  }
  void ExpectOpenError(absl::StatusCode code, const std::vector<std::string>& texts) const {
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& text : texts) EXPECT_THAT(status.message(), HasSubstr(text));
  }

  std::string Read(const RowSource& source, int32_t layer, uint64_t first, uint64_t count) const {
    std::string out(count * row_bytes_, '!');
    const absl::Status status = source.ReadRows(
        LayerId{layer}, first, count, {reinterpret_cast<std::byte*>(out.data()), out.size()});
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }
  void ExpectAllRows(const RowSource& source) const {
    EXPECT_TRUE(Read(source, kFirst, 0, first_rows_) ==
                RowBytes(kFirst, 0, first_rows_, 0, row_bytes_));
    EXPECT_TRUE(Read(source, kSecond, 0, second_rows_) ==
                RowBytes(kSecond, 0, second_rows_, 0, row_bytes_));
  }

  TempDir dir_;
  uint64_t head_dim_ = 0;
  uint64_t row_bytes_ = 0;
  uint64_t first_rows_ = 0;
  uint64_t second_rows_ = 0;
};

TEST_F(DeepseekV41Test, ServesEveryRowAtEveryAlignment) {
  for (const size_t padding : {0, 1, 7, 512, 4095}) {
    dir_.Write("model.safetensors", Safetensors(Tensors(), padding));
    ExpectAllRows(*MustOpen());
  }
}

TEST_F(DeepseekV41Test, LoadsTheReleasedRowSizeWithSmallColumns) {
  for (const uint64_t base : {1000, 16000}) {
    WriteConfig(base, 256);
    dir_.Write("model.safetensors", Safetensors(Tensors()));
    const auto source = MustOpen();
    EXPECT_EQ(source->spec().layers[0].row_bytes, 264u);
    EXPECT_EQ(source->spec().row_format, "f8_e4m3[256] f8_e8m0[8]");
    EXPECT_EQ(source->spec().checkpoint_digest.size(), 32u);
    EXPECT_TRUE(source->spec().name.empty());
    EXPECT_EQ(source->spec().version, VersionId{0});
    ExpectAllRows(*source);
  }
}

TEST_F(DeepseekV41Test, FollowsAnIndexOverSeveralShards) {
  const std::vector<TestTensor> all = Tensors();
  std::vector<std::pair<std::string, std::string>> weights = {{"lm_head.weight", "absent"}};
  for (size_t i = 0; i < all.size(); ++i) {
    const std::string name = absl::StrCat("part-", i, ".safetensors");
    dir_.Write(name, Safetensors({all[i]}));
    weights.emplace_back(all[i].name, name);
  }
  dir_.Write("model.safetensors.index.json", IndexJson(weights));
  ExpectAllRows(*MustOpen());
  ASSERT_EQ(::unlink(dir_.File("part-3.safetensors").c_str()), 0);
  ExpectOpenError(absl::StatusCode::kNotFound,
                  {dir_.File("part-3.safetensors"), "'layers.14.engram.embed.scale'"});
}

TEST_F(DeepseekV41Test, AcceptsAPrefixBeforeTheNames) {
  dir_.Write("model.safetensors", Safetensors(Tensors("model.language_model.")));
  ExpectAllRows(*MustOpen());
  std::vector<TestTensor> twice = Tensors("model.");
  for (TestTensor& tensor : Tensors("draft.")) twice.push_back(std::move(tensor));
  dir_.Write("model.safetensors", Safetensors(twice));
  ExpectOpenError(absl::StatusCode::kInvalidArgument,
                  {"'model.layers.1.engram.embed.weight'", "'draft.layers.1.engram.embed.weight'"});
  // The exact names win, and scales come from where their values do.
  for (TestTensor& tensor : Tensors()) twice.push_back(std::move(tensor));
  dir_.Write("model.safetensors", Safetensors(twice));
  ExpectAllRows(*MustOpen());
}

TEST_F(DeepseekV41Test, NamesTensorsThatAreNotWhatTheConfigSays) {
  const auto with = [&](size_t index, const auto& edit) {
    std::vector<TestTensor> tensors = Tensors();
    edit(tensors[index]);
    dir_.Write("model.safetensors", Safetensors(tensors));
  };
  const std::string file = dir_.File("model.safetensors");
  with(0, [](TestTensor& t) { t.dtype = "F8_E5M2"; });
  ExpectOpenError(absl::StatusCode::kInvalidArgument,
                  {file, "'layers.1.engram.embed.weight'", "F8_E5M2", "F8_E4M3"});
  with(1, [](TestTensor& t) { t.dtype = "STRANGE"; });
  ExpectOpenError(absl::StatusCode::kInvalidArgument,
                  {file, "'layers.1.engram.embed.scale'", "STRANGE", "F8_E8M0"});
  with(2, [](TestTensor& t) {
    --t.shape[0];
    t.bytes.resize(t.shape[0] * t.shape[1]);
  });
  ExpectOpenError(
      absl::StatusCode::kInvalidArgument,
      {file, "'layers.14.engram.embed.weight'", absl::StrCat("[", second_rows_, ", 64]"),
       absl::StrCat("[", second_rows_ - 1, ", 64]")});
  with(3, [](TestTensor& t) { t.shape = {t.shape[0] * t.shape[1]}; });
  ExpectOpenError(absl::StatusCode::kInvalidArgument, {file, "'layers.14.engram.embed.scale'"});
  with(3, [](TestTensor& t) { t.name = "gone"; });
  ExpectOpenError(absl::StatusCode::kInvalidArgument,
                  {file, "no tensor 'layers.14.engram.embed.scale'"});
}

TEST_F(DeepseekV41Test, ReportsADamagedFile) {
  const std::string whole = Safetensors(Tensors());
  dir_.Write("model.safetensors", whole.substr(0, whole.size() - 1));
  ExpectOpenError(absl::StatusCode::kDataLoss,
                  {dir_.File("model.safetensors"), "layers.14.engram.embed.scale"});
}

TEST_F(DeepseekV41Test, RefusesBadReads) {
  dir_.Write("model.safetensors", Safetensors(Tensors()));
  const auto source = MustOpen();
  std::vector<std::byte> out(row_bytes_ * 2);
  const auto read = [&](int32_t layer, uint64_t first, uint64_t count) {
    return source->ReadRows(LayerId{layer}, first, count, absl::MakeSpan(out));
  };
  EXPECT_TRUE(read(kFirst, first_rows_ - 2, 2).ok());
  EXPECT_EQ(read(2, 0, 2).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(read(kFirst, first_rows_ - 1, 2).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(read(kFirst, ~0ull, 2).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(read(kFirst, 2, ~0ull).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(read(kFirst, 0, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(read(kFirst, 0, 3).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(source->ReadRows(LayerId{kFirst}, first_rows_, 0, {}).ok());
}

TEST_F(DeepseekV41Test, ReportsAFileCutShortAfterOpening) {
  dir_.Write("model.safetensors", Safetensors(Tensors()));
  const auto source = MustOpen();
  ASSERT_EQ(::truncate(dir_.File("model.safetensors").c_str(), 5000), 0);
  std::vector<std::byte> out(row_bytes_ * second_rows_);
  const absl::Status status =
      source->ReadRows(LayerId{kSecond}, 0, second_rows_, absl::MakeSpan(out));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr(dir_.File("model.safetensors")),
                                      HasSubstr("'layers.14.engram.embed.weight'")));
}

TEST_F(DeepseekV41Test, ServesManyThreads) {
  WriteConfig(1000, 256);
  dir_.Write("model.safetensors", Safetensors(Tensors(), 3));
  const auto source = MustOpen();
  const std::string expected = RowBytes(kSecond, 0, second_rows_, 0, row_bytes_);
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t first = thread; first + 500 < second_rows_; first += 501) {
        EXPECT_TRUE(Read(*source, kSecond, first, 500) ==
                    expected.substr(first * row_bytes_, 500 * row_bytes_));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace engram
