#include "storage/checkpoint/safetensors.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using testing_checkpoint::RawSafetensors;
using testing_checkpoint::Safetensors;

// The whole of a file, as OpenShard goes through it.
absl::StatusOr<TensorMap> Parse(const std::string& file) {
  const absl::StatusOr<uint64_t> length =
      ParseSafetensorsPrefix("a.safetensors", absl::string_view(file).substr(0, 8), file.size());
  if (!length.ok()) return length.status();
  return ParseSafetensorsHeader("a.safetensors", absl::string_view(file).substr(8, *length),
                                file.size());
}

absl::StatusOr<TensorMap> ParseHeader(const std::string& header, size_t data_bytes = 16) {
  return Parse(RawSafetensors(header, std::string(data_bytes, 'x')));
}

void ExpectDamaged(const absl::StatusOr<TensorMap>& result, const std::vector<std::string>& texts) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << result.status();
  EXPECT_THAT(result.status().message(), HasSubstr("a.safetensors"));
  for (const std::string& text : texts) EXPECT_THAT(result.status().message(), HasSubstr(text));
}

TEST(Safetensors, ReadsWhatTheFormatSays) {
  const std::string file = Safetensors({{"w", "F8_E4M3", {2, 3}, "abcdef"},
                                        {"empty", "F32", {0, 7}, ""},
                                        {"scalar", "I64", {}, "12345678"}});
  const auto tensors = Parse(file);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  const TensorInfo& w = tensors->at("w");
  EXPECT_EQ(w.dtype, "F8_E4M3");
  EXPECT_EQ(w.shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(file.substr(w.begin, w.bytes()), "abcdef");
  const TensorInfo& scalar = tensors->at("scalar");
  EXPECT_EQ(file.substr(scalar.begin, scalar.bytes()), "12345678");
  EXPECT_EQ(tensors->at("empty").bytes(), 0u);
}

TEST(Safetensors, AcceptsAnEmptyHeaderAndGapsAndUnknownFields) {
  EXPECT_TRUE(ParseHeader("{}").ok());
  const auto tensors = ParseHeader(
      R"({"__metadata__":{"a":{"b":[1,{"c":null}]}},)"
      R"("t":{"note":[{"x":-1.5}],"more":-1,"dtype":"U8","shape":[2],"data_offsets":[3,5]}} )");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->at("t").bytes(), 2u);
}

TEST(Safetensors, ChecksSubByteTypesByTheirBits) {
  EXPECT_TRUE(ParseHeader(R"({"t":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})").ok());
  ExpectDamaged(ParseHeader(R"({"t":{"dtype":"F4","shape":[5],"data_offsets":[0,2]}})"), {"'t'"});
}

TEST(Safetensors, LetsUnknownDtypesPassUntilSomebodyAsks) {
  const auto tensors = ParseHeader(R"({"t":{"dtype":"Q3_K","shape":[5],"data_offsets":[0,2]}})");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->at("t").dtype, "Q3_K");
  EXPECT_EQ(DtypeBits("Q3_K"), 0u);
  EXPECT_EQ(DtypeBits("BF16"), 16u);
}

TEST(Safetensors, RefusesImpossibleLengths) {
  ExpectDamaged(Parse(""), {"0 bytes"});
  ExpectDamaged(Parse("1234567"), {"7 bytes"});
  ExpectDamaged(Parse(std::string("\x03\0\0\0\0\0\0\0{}", 10)), {"length is 3", "10 bytes"});
  ExpectDamaged(Parse(std::string(8, '\xff')), {"18446744073709551615"});
  // 100,000,001: one above the bound, in a file that is long enough.
  const auto length = ParseSafetensorsPrefix(
      "a.safetensors", absl::string_view("\x01\xe1\xf5\x05\0\0\0\0", 8), 1'000'000'000);
  EXPECT_EQ(length.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(length.status().message(), HasSubstr("100000001"));
  const auto most = ParseSafetensorsPrefix(
      "a.safetensors", absl::string_view("\x00\xe1\xf5\x05\0\0\0\0", 8), 1'000'000'000);
  ASSERT_TRUE(most.ok()) << most.status();
  EXPECT_EQ(*most, kMaxSafetensorsHeaderBytes);
  ExpectDamaged(ParseSafetensorsHeader("a.safetensors", "{}", 9), {"does not fit"});
}

TEST(Safetensors, RefusesWhatIsNotAJsonObject) {
  ExpectDamaged(Parse(RawSafetensors("", "")), {"'{'"});
  ExpectDamaged(ParseHeader("[]"), {"'{'"});
  ExpectDamaged(ParseHeader(" {}"), {"'{'"});
  ExpectDamaged(ParseHeader("{"), {"not JSON"});
  ExpectDamaged(ParseHeader("{}{}"), {"not JSON"});
  ExpectDamaged(ParseHeader(std::string("{}\0rest", 7)), {"NUL"});
  ExpectDamaged(ParseHeader("{\"\xff\":1}"), {"not JSON"});
  std::string deep = R"({"__metadata__":)";
  for (int i = 0; i < 100'000; ++i) deep += '[';
  ExpectDamaged(ParseHeader(deep), {"__metadata__"});
  ExpectDamaged(ParseHeader(R"({"a":{"shape":)" + deep.substr(deep.find('['))), {"'a'"});
}

TEST(Safetensors, RefusesIncompleteEntries) {
  ExpectDamaged(ParseHeader(R"({"t":{"shape":[2],"data_offsets":[0,2]}})"), {"'t'", "no dtype"});
  ExpectDamaged(ParseHeader(R"({"t":{"dtype":"U8","data_offsets":[0,2]}})"), {"'t'", "no shape"});
  ExpectDamaged(ParseHeader(R"({"t":{"dtype":"U8","shape":[2]}})"), {"'t'", "no data_offsets"});
  ExpectDamaged(ParseHeader(R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0]}})"),
                {"'t'", "1 numbers"});
  ExpectDamaged(ParseHeader(R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,1,2]}})"),
                {"'t'", "3 numbers"});
}

TEST(Safetensors, RefusesWrongTypes) {
  for (const char* entry : {"1", "null", "\"x\"", "[]", "true", "1.5", "-1"}) {
    ExpectDamaged(ParseHeader(std::string(R"({"t":)") + entry + "}"), {"'t'", "JSON object"});
  }
  for (const char* dtype : {"1", "null", "{}", "[]"}) {
    ExpectDamaged(ParseHeader(std::string(R"({"t":{"dtype":)") + dtype +
                              R"(,"shape":[2],"data_offsets":[0,2]}})"),
                  {"'t'", "dtype", "wrong type"});
  }
  for (const char* shape : {"2", "\"2\"", "{}", "[[2]]", "[{}]", "[\"2\"]", "[null]", "[true]"}) {
    ExpectDamaged(ParseHeader(std::string(R"({"t":{"dtype":"U8","shape":)") + shape +
                              R"(,"data_offsets":[0,2]}})"),
                  {"'t'", "shape", "wrong type"});
  }
}

TEST(Safetensors, RefusesImpossibleNumbers) {
  const auto with = [](const std::string& shape, const std::string& offsets) {
    return ParseHeader(R"({"t":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":)" + offsets +
                       "}}");
  };
  ExpectDamaged(with("[-2]", "[0,2]"), {"'t'", "shape", "-2"});
  ExpectDamaged(with("[2]", "[-1,1]"), {"'t'", "data_offsets", "-1"});
  ExpectDamaged(with("[2.0]", "[0,2]"), {"'t'", "shape", "2.0"});
  ExpectDamaged(with("[18446744073709551616]", "[0,2]"), {"18446744073709551616"});
  ExpectDamaged(with("[2]", "[4,2]"), {"'t'", "ends at 2, before 4"});
  ExpectDamaged(with("[2]", "[15,17]"), {"'t'", "ends at 17", "16 bytes of data"});
  ExpectDamaged(with("[3]", "[0,2]"), {"'t'", "holds 2 bytes", "takes 3"});
  ExpectDamaged(with("[1]", "[0,2]"), {"'t'", "holds 2 bytes", "takes 1"});
  ExpectDamaged(with("[4294967296,4294967296,4294967296]", "[0,2]"), {"'t'", "overflows"});
  // 2^61 elements of 64 bits are 0 bytes modulo 2^64.
  ExpectDamaged(ParseHeader(R"({"t":{"dtype":"F64","shape":[2305843009213693952],)"
                            R"("data_offsets":[0,0]}})"),
                {"'t'", "overflows"});
}

TEST(Safetensors, RefusesATruncatedFile) {
  const std::string whole = Safetensors({{"w", "U8", {6}, "abcdef"}});
  ASSERT_TRUE(Parse(whole).ok());
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(Parse(whole.substr(0, length)).ok()) << length;
  }
  ExpectDamaged(Parse(whole.substr(0, whole.size() - 1)), {"'w'", "5 bytes of data"});
}

TEST(Safetensors, RefusesOverlapsAndRepeats) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string b = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]})";
  const std::string behind = R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]})";
  const std::string inside = R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]})";
  ExpectDamaged(ParseHeader("{" + a + "," + b + "}"), {"'a'", "'b'", "overlap"});
  ExpectDamaged(ParseHeader("{" + b + "," + a + "}"), {"'a'", "'b'", "overlap"});
  EXPECT_TRUE(ParseHeader("{" + a + "," + behind + "}").ok());
  EXPECT_TRUE(ParseHeader("{" + a + "," + inside + "}").ok());
  ExpectDamaged(ParseHeader("{" + a + "," + a + "}"), {"'a'", "twice"});
  ExpectDamaged(ParseHeader(R"({"__metadata__":{},"__metadata__":{}})"), {"twice"});
  ExpectDamaged(ParseHeader(R"({"t":{"dtype":"U8","dtype":"U8","shape":[4],)"
                            R"("data_offsets":[0,4]}})"),
                {"'t'", "dtype", "twice"});
}

TEST(Safetensors, KeepsMessagesShortAndPrintable) {
  const auto result = ParseHeader("{\"" + std::string(5000, 'n') + "\\n\":1}");
  ExpectDamaged(result, {"nnn"});
  EXPECT_LT(result.status().message().size(), 600u);
  ExpectDamaged(ParseHeader(R"({"a\nb":1})"), {"a\\nb"});
}

TEST(Safetensors, FormatsShapes) {
  EXPECT_EQ(FormatShape({}), "[]");
  EXPECT_EQ(FormatShape({384006168, 256}), "[384006168, 256]");
  EXPECT_EQ(FormatShape(std::vector<uint64_t>(9, 1)), "[1, 1, 1, 1, 1, 1, 1, 1, …]");
}

}  // namespace
}  // namespace engram
