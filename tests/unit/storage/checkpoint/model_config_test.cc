#include "storage/checkpoint/model_config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_checkpoint::TempDir;

ModelConfig MustParse(const std::string& text) {
  auto config = ModelConfig::Parse("config.json", text);
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

TEST(ModelConfig, FindsKeysByPath) {
  const ModelConfig config =
      MustParse(R"({"model_type":"m","a":{"b":{"n":7,"list":[1,2,3],"none":null}},"top":0})");
  EXPECT_EQ(config.model_type(), "m");
  EXPECT_EQ(*config.Unsigned("a.b.n", 0, 10), 7u);
  EXPECT_EQ(*config.Unsigned("top", 0, 0), 0u);
  EXPECT_THAT(*config.UnsignedList("a.b.list", 1, 3), ElementsAre(1, 2, 3));
  EXPECT_TRUE(config.Has("a.b"));
  EXPECT_FALSE(config.Has("a.b.none"));
  EXPECT_FALSE(config.Has("a.b.n.deeper"));
  EXPECT_FALSE(config.Has("a.c"));
}

TEST(ModelConfig, ListsKeysAndTellsWhatIsSet) {
  const ModelConfig config = MustParse(
      R"({"z":0,"y":null,"x":{"in":[]},"w":[],"v":"","u":{},"t":false,"s":true,"r":[0],"q":"a"})");
  EXPECT_THAT(config.Keys(), ElementsAre("q", "r", "s", "t", "u", "v", "w", "x", "z"));
  for (const char* key : {"z", "x", "s", "r", "q"}) EXPECT_TRUE(config.IsSet(key)) << key;
  for (const char* key : {"gone", "y", "x.in", "w", "v", "u", "t"}) {
    EXPECT_FALSE(config.IsSet(key)) << key;
  }
}

TEST(ModelConfig, NamesFileAndKeyInErrors) {
  const ModelConfig config = MustParse(
      R"({"a":{"f":1.0,"t":true,"s":"5","neg":-1,"big":18446744073709551616,"l":[1,"x"],"z":null,)"
      R"("max":18446744073709551615}})");
  const auto expect = [&](const absl::Status& status, const std::string& key,
                          const std::string& text) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("config.json: " + key), HasSubstr(text)));
  };
  expect(config.Unsigned("a.gone", 0, 9).status(), "a.gone", "missing");
  expect(config.Unsigned("a.z", 0, 9).status(), "a.z", "missing");
  expect(config.Unsigned("a.f", 0, 9).status(), "a.f", "not 1.0");
  expect(config.Unsigned("a.t", 0, 9).status(), "a.t", "a boolean");
  expect(config.Unsigned("a.s", 0, 9).status(), "a.s", "a string");
  expect(config.Unsigned("a.l", 0, 9).status(), "a.l", "an array");
  expect(config.Unsigned("a", 0, 9).status(), "a", "an object");
  expect(config.Unsigned("a.neg", 0, 9).status(), "a.neg", "is -1, not between 0 and 9");
  expect(config.Unsigned("a.max", 0, 9).status(), "a.max", "is 18446744073709551615");
  expect(config.Unsigned("a.big", 0, 9).status(), "a.big", "whole number");
  expect(config.UnsignedList("a.gone", 0, 9).status(), "a.gone", "missing");
  expect(config.UnsignedList("a.s", 0, 9).status(), "a.s", "a string");
  expect(config.UnsignedList("a.l", 0, 9).status(), "a.l[1]", "a string");
  expect(config.UnsignedList("a.l", 2, 9).status(), "a.l[0]", "not between 2 and 9");
  EXPECT_EQ(*config.Unsigned("a.max", 0, ~0ull), ~0ull);
}

TEST(ModelConfig, ReadsListsNumbersFlagsAndTexts) {
  const ModelConfig config = MustParse(
      R"({"one":5,"list":[5,6],"half":0.5,"yes":true,"no":false,"none":null,"text":"t"})");
  EXPECT_THAT(*config.UnsignedOrList("one", 5, 5), ElementsAre(5));
  EXPECT_THAT(*config.UnsignedOrList("list", 5, 6), ElementsAre(5, 6));
  EXPECT_EQ(*config.Number("half", 0, 1), 0.5);
  EXPECT_EQ(*config.Number("one", 5, 5), 5);
  EXPECT_TRUE(*config.Flag("yes"));
  EXPECT_FALSE(*config.Flag("no"));
  EXPECT_FALSE(*config.Flag("none"));
  EXPECT_FALSE(*config.Flag("gone"));
  EXPECT_EQ(config.Text("text"), "t");
  EXPECT_EQ(config.Text("one"), "");
  EXPECT_EQ(config.Text("gone"), "");
  const auto expect = [&](const absl::Status& status, const std::string& key,
                          const std::string& text) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("config.json: " + key), HasSubstr(text)));
  };
  expect(config.UnsignedOrList("gone", 0, 9).status(), "gone", "missing");
  expect(config.UnsignedOrList("text", 0, 9).status(), "text", "a string");
  expect(config.UnsignedOrList("one", 6, 9).status(), "one", "is 5");
  expect(config.UnsignedOrList("list", 0, 5).status(), "list[1]", "is 6");
  expect(config.Number("gone", 0, 9).status(), "gone", "missing");
  expect(config.Number("text", 0, 9).status(), "text", "a number, not a string");
  expect(config.Number("half", 1, 9).status(), "half", "is 0.5, not between 1 and 9");
  expect(config.Number("one", 1, 4).status(), "one", "is 5, not between 1 and 4");
  expect(config.Flag("one").status(), "one", "true or false, not a number");
}

TEST(ModelConfig, ToleratesAStrangeModelType) {
  EXPECT_EQ(MustParse("{}").model_type(), "");
  EXPECT_EQ(MustParse(R"({"model_type":5})").model_type(), "");
}

TEST(ModelConfig, RefusesWhatIsNotOneJsonObject) {
  const std::string deep = R"({"a":)" + std::string(100'000, '[');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not JSON"},
      {"[]", "not a JSON object"},
      {"7", "not a JSON object"},
      {R"({"a":1)", "not JSON at byte"},
      {R"({"a":1}})", "not JSON at byte"},
      {"{\"a\":\"\xff\"}", "not JSON at byte"},
      {R"({"a":1,"b":{"c":1,"c":2}})", "key 'c' twice"},
      {R"({"a":1,"a":1})", "key 'a' twice"},
      {std::string("{}\0", 3), "NUL"},
      {deep, "nested too deeply"},
      {R"({"a":1e999})", "not JSON"},
  };
  for (const auto& [text, message] : cases) {
    const absl::Status status = ModelConfig::Parse("config.json", text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss)
        << status << " for " << text.substr(0, 40);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("config.json"), HasSubstr(message)));
  }
  // The same key in two objects is no repetition.
  EXPECT_TRUE(ModelConfig::Parse("c", R"({"a":{"x":1},"b":[{"x":1},{"x":2}]})").ok());
}

TEST(ModelConfig, ReadsADirectory) {
  TempDir dir;
  const std::string gone = dir.File("gone");
  const absl::Status missing = ModelConfig::Read(gone).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr(gone));
  const absl::Status no_config = ModelConfig::Read(dir.path()).status();
  EXPECT_EQ(no_config.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(no_config.message(), HasSubstr(dir.File("config.json")));
  const std::string path = dir.Write("config.json", R"({"model_type":"m"})");
  EXPECT_EQ(ModelConfig::Read(path).status().code(), absl::StatusCode::kInvalidArgument);
  const auto config = ModelConfig::Read(dir.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->file(), path);
  EXPECT_EQ(config->text(), R"({"model_type":"m"})");
}

TEST(ModelConfig, TakesAFileAsTextIfItIsThere) {
  TempDir dir;
  const auto empty = ModelConfig::ReadText(dir.path());
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->file(), dir.File("config.json"));
  EXPECT_EQ(empty->text(), "");
  EXPECT_FALSE(empty->Has("model_type"));
  EXPECT_EQ(ModelConfig::ReadText(dir.File("gone")).status().code(), absl::StatusCode::kNotFound);
  const std::string path = dir.Write("config.json", R"({"model_type":"m"})");
  EXPECT_EQ(ModelConfig::ReadText(path).status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* text : {R"({"model_type":"m"})", "{"}) {
    dir.Write("config.json", text);
    const auto config = ModelConfig::ReadText(dir.path());
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->text(), text);
    EXPECT_EQ(config->model_type(), "");
  }
}

}  // namespace
}  // namespace engram
