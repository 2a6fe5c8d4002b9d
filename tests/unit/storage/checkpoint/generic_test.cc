#include "storage/checkpoint/generic.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/unit/storage/checkpoint/family_testing.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using testing_checkpoint::ExpectError;
using testing_checkpoint::ExpectLayer;
using testing_checkpoint::kInvalid;
using testing_checkpoint::RowBytes;
using testing_checkpoint::Safetensors;
using testing_checkpoint::TempDir;
using testing_checkpoint::TestTensor;

class GenericTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Write({{"a", "BF16", {10, 6}, RowBytes(0, 0, 10, 0, 12)},
           {"b", "BF16", {7, 6}, RowBytes(1, 0, 7, 0, 12)},
           {"nibbles", "F4", {5, 6}, RowBytes(2, 0, 5, 0, 3)},
           {"vector", "F32", {4}, std::string(16, 'v')}});
  }
  void Write(const std::vector<TestTensor>& tensors) {
    dir_.Write("model.safetensors", Safetensors(tensors));
  }
  absl::StatusOr<std::unique_ptr<RowSource>> Open(const std::vector<std::string>& tensors) {
    return OpenCheckpoint({dir_.path(), "generic", tensors});
  }
  std::string Digest(const std::vector<std::string>& tensors) {
    const auto source = Open(tensors);
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? (*source)->spec().checkpoint_digest : "";
  }
  // Of a lone tensor "t" with these dimensions, zeros all through.
  void ExpectBadTensor(const std::string& dtype, const std::vector<uint64_t>& shape, size_t bytes,
                       const std::vector<std::string>& texts) {
    Write({{"t", dtype, shape, std::string(bytes, '\0')}});
    ExpectError(Open({"t"}).status(), kInvalid, {dir_.File("model.safetensors"), "'t'"});
    ExpectError(Open({"t"}).status(), kInvalid, texts);
  }

  TempDir dir_;
};

TEST_F(GenericTest, ServesTheTensorsInTheOrderNamed) {
  const auto source = Open({"b", "nibbles", "a"});
  ASSERT_TRUE(source.ok()) << source.status();
  const TableSpec& spec = (*source)->spec();
  EXPECT_EQ(spec.family, "generic");
  EXPECT_EQ(spec.row_format, "bf16[6], f4[6], bf16[6]");
  EXPECT_EQ(spec.addressing, AddressingSpec{});
  EXPECT_TRUE(spec.layers[0].columns.empty());
  EXPECT_EQ((*source)->token_map(), nullptr);
  ExpectLayer(**source, 0, RowBytes(1, 0, 7, 0, 12));
  ExpectLayer(**source, 1, RowBytes(2, 0, 5, 0, 3));
  ExpectLayer(**source, 2, RowBytes(0, 0, 10, 0, 12));
  const auto same = Open({"a", "b"});
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ((*same)->spec().row_format, "bf16[6]");
}

TEST_F(GenericTest, NeedsNoConfigButCountsIt) {
  const std::string without = Digest({"a"});
  EXPECT_EQ(Digest({"a"}), without);
  dir_.Write("config.json", R"({"model_type":"gemma4"})");
  const std::string with = Digest({"a"});
  EXPECT_NE(with, without);
  // Nothing is read of it, so it need not even be JSON.
  dir_.Write("config.json", "{");
  EXPECT_NE(Digest({"a"}), with);
  EXPECT_NE(Digest({"a"}), without);
}

TEST_F(GenericTest, IsAnotherCheckpointWithOtherTensors) {
  const std::vector<std::string> digests = {Digest({"a"}), Digest({"b"}), Digest({"a", "b"}),
                                            Digest({"b", "a"})};
  for (size_t i = 0; i < digests.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(digests[i], digests[j]) << i << " " << j;
  }
}

TEST_F(GenericTest, WantsEachTensorNamedOnce) {
  ExpectError(Open({}).status(), kInvalid, {"generic", "--tensor"});
  ExpectError(Open({"a", "b", "a"}).status(), kInvalid, {"'a' twice"});
  ExpectError(Open({"c"}).status(), kInvalid, {dir_.path(), "no tensor 'c'"});
  std::vector<std::string> many;
  for (size_t i = 0; i <= kMaxLayers; ++i) many.push_back(absl::StrCat(i));
  ExpectError(Open(many).status(), kInvalid, {"1025 tensors"});
}

TEST_F(GenericTest, NamesTensorsThatAreNoTable) {
  ExpectError(Open({"vector"}).status(), kInvalid, {"'vector'", "F32 [4]", "two dimensions"});
  ExpectBadTensor("F32", {2, 2, 2}, 32, {"[2, 2, 2]", "two dimensions"});
  ExpectBadTensor("STRANGE", {2, 2}, 4, {"STRANGE", "not known"});
  ExpectBadTensor("F4", {2, 3}, 3, {"F4 [2, 3]", "no whole bytes"});
  ExpectBadTensor("U8", {0, 4}, 0, {"0 rows"});
  ExpectBadTensor("U8", {4, 0}, 0, {"not 1 to 65536 bytes"});
  ExpectBadTensor("BF16", {1, 32769}, 65538, {"[1, 32769]", "not 1 to 65536 bytes"});
  ExpectBadTensor("U8", {0, uint64_t{1} << 62}, 0, {"not 1 to 65536 bytes"});
  Write({{"t", "BF16", {1, 32768}, RowBytes(0, 0, 1, 0, 65536)}});
  const auto longest = Open({"t"});
  ASSERT_TRUE(longest.ok()) << longest.status();
  ExpectLayer(**longest, 0, RowBytes(0, 0, 1, 0, 65536));
}

TEST_F(GenericTest, IsNeverAutomaticAndHasNoAddressing) {
  ExpectError(OpenCheckpoint({dir_.path(), "auto", {"a"}}).status(), absl::StatusCode::kNotFound,
              {"config.json"});
  dir_.Write("config.json", R"({"model_type":"generic"})");
  ExpectError(OpenCheckpoint({dir_.path(), "auto", {"a"}}).status(), kInvalid, {"'generic'"});
  ExpectError(ReadModel(dir_.path(), "generic", true).status(), kInvalid, {"no addressing"});
  EXPECT_EQ(OpenCheckpoint({dir_.File("gone"), "generic", {"a"}}).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace engram
