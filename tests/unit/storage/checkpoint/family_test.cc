#include "storage/checkpoint/family.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using testing_checkpoint::TempDir;

ModelConfig Config(const std::string& text) { return *ModelConfig::Parse("config.json", text); }

void ExpectInvalid(const absl::Status& status, const std::vector<std::string>& texts) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  for (const std::string& text : texts) EXPECT_THAT(status.message(), HasSubstr(text));
}

TEST(Family, DetectsByModelType) {
  const ModelConfig config = Config(R"({"model_type":"deepseek_v41"})");
  for (const char* model : {"auto", "", "deepseek-v4.1"}) {
    const auto family = ChooseFamily(model, config);
    ASSERT_TRUE(family.ok()) << family.status();
    EXPECT_STREQ((*family)->name, "deepseek-v4.1");
  }
  EXPECT_EQ(SupportedFamilies().size(), 1u);
}

TEST(Family, TakesANamedFamilyAtItsWord) {
  EXPECT_TRUE(ChooseFamily("deepseek-v4.1", Config("{}")).ok());
}

TEST(Family, SaysWhyAutoFails) {
  ExpectInvalid(ChooseFamily("auto", Config(R"({"model_type":"llama"})")).status(),
                {"config.json", "'llama'", "supported: auto, deepseek-v4.1"});
  ExpectInvalid(ChooseFamily("auto", Config("{}")).status(), {"config.json", "missing"});
}

TEST(Family, TellsUnknownFromUnsupported) {
  for (const std::string model : {"engram-demo", "qwen4-exp", "longcat", "generic"}) {
    const absl::Status status = CheckModelName(model);
    ExpectInvalid(status, {});
    EXPECT_EQ(status.message(), "family " + model +
                                    " is not supported by this version; supported: auto, "
                                    "deepseek-v4.1");
  }
  ExpectInvalid(CheckModelName("deepseek"),
                {"'deepseek'", "auto, deepseek-v4.1, engram-demo, qwen4-exp, longcat, generic"});
}

TEST(OpenCheckpoint, ChecksBeforeItReads) {
  TempDir dir;
  ExpectInvalid(OpenCheckpoint({dir.File("gone"), "nonsense", {}}).status(), {"'nonsense'"});
  EXPECT_EQ(OpenCheckpoint({dir.File("gone"), "auto", {}}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenCheckpoint({dir.path(), "auto", {}}).status().code(), absl::StatusCode::kNotFound);
  dir.Write("config.json", R"({"model_type":"deepseek_v41"})");
  ExpectInvalid(OpenCheckpoint({dir.path(), "auto", {"t"}}).status(), {"generic"});
  ExpectInvalid(OpenCheckpoint({dir.path(), "auto", {}}).status(), {"text_config.engram_"});
  dir.Write("config.json", "{");
  EXPECT_EQ(OpenCheckpoint({dir.path(), "auto", {}}).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace engram
