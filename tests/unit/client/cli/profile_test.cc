// `engramctl profile` and `engramctl plan`: a model's config and tables of a daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "storage/profile/row_profile.h"
#include "storage/table/ngram_hasher.h"
#include "tests/unit/client/cli/run_ctl.h"
#include "tests/unit/client/fake_daemon.h"

namespace engram {
namespace {

using testing::Ctl;
using testing::CtlResult;
using testing::FakeDaemon;
using ::testing::HasSubstr;
using testing::RunCtl;
using Json = nlohmann::json;

constexpr char kQwen4Exp[] = R"({"model_type": "qwen4_exp", "text_config": {"ngram_size": 3,
  "heads_per_ngram": 8, "ple_layer_ids": [2], "ple_embed_dim": 2560,
  "ngram_vocab_size_base": 20000000, "make_ngram_vocab_size_divisible_by": 128,
  "split_ngram_parts": 128, "vocab_size": 248320, "eos_token_id": [248044]}})";
constexpr char kDeepseekV41[] = R"({"model_type": "deepseek_v41", "text_config": {
  "engram_layer_ids": [1, 14], "engram_num_embeddings": [384006168, 384016682],
  "engram_max_ngram_size": 4, "engram_vocab_size": 16000000, "engram_n_heads": 8,
  "engram_head_dim": 256, "engram_pad_token_id": 2, "engram_compressed_vocab_size": 99092}})";

std::string Good(std::vector<std::string> arguments, const std::string& server = "") {
  const CtlResult result = RunCtl(arguments, server);
  EXPECT_EQ(result.exit_status, 0) << result.err;
  return result.out;
}

Json GoodJson(std::vector<std::string> arguments, const std::string& server = "") {
  arguments.push_back("--json");
  return Json::parse(Good(std::move(arguments), server), nullptr, false);
}

class ProfileTest : public ::testing::Test {
 protected:
  ProfileTest() {
    folder_ = ::testing::TempDir() + "engram_profile_XXXXXX";
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
  }
  ~ProfileTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Tokens(const std::string& name, const std::vector<int32_t>& tokens) const {
    std::ofstream(Path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(tokens.data()),
               static_cast<std::streamsize>(tokens.size() * sizeof(int32_t)));
    return Path(name);
  }
  std::string Model(const std::string& config) const {
    std::filesystem::create_directory(Path("model"));
    std::ofstream(Path("model/config.json")) << config;
    return Path("model");
  }
  RowProfile Read(const std::string& name) const {
    auto profile = RowProfile::Read(Path(name));
    EXPECT_TRUE(profile.ok()) << profile.status();
    return profile.ok() ? *std::move(profile) : RowProfile();
  }
  // Exit status 1, one error, behind progress if it took long, and no file.
  void Fails(const std::vector<std::string>& arguments, const std::string& why,
             const std::string& server = "") const {
    const CtlResult result = RunCtl(arguments, server);
    EXPECT_EQ(result.exit_status, 1) << why;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(why));
    const size_t error = result.err.find("engramctl: ");
    ASSERT_NE(error, std::string::npos) << result.err;
    EXPECT_EQ(result.err.find('\n', error), result.err.size() - 1) << result.err;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      EXPECT_EQ(entry.path().filename().string().find("no.hot"), std::string::npos) << entry;
    }
  }

  std::string folder_;
  FakeDaemon daemon_;
};

// Table "h": raw ids 0 … 9, of which 2k and 2k + 1 are k compressed.
TEST_F(ProfileTest, CountsForATableOfTheDaemon) {
  const std::vector<int32_t> first = {0, 1, 9, 9, -1, 4, 3, 0, 1, 9}, second = {9, 9, 9};
  const std::string a = Tokens("a", first), b = Tokens("b", second);
  const Json json =
      GoodJson({"profile", "h", "--tokens", a, b, "--out", Path("h.hot")}, daemon_.target());
  EXPECT_EQ(json["tokens"], 12);
  EXPECT_EQ(json["files"], 2);
  const RowProfile profile = Read("h.hot");
  EXPECT_TRUE(profile.CheckFor(testing::HashedSpec()).ok());
  EXPECT_EQ(profile.token_map_digest, testing::HashedMap().digest());
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    const LayerSpec& layer = testing::HashedSpec().layers[i];
    const auto hasher = NgramHasher::Create(testing::HashedSpec().addressing, layer);
    std::map<uint32_t, uint32_t> counts;
    for (std::vector<int32_t> tokens : {first, second}) {
      for (int32_t& token : tokens) token = token < 0 ? -1 : token / 2;
      std::vector<RowId> ids(tokens.size() * hasher->columns());
      hasher->HashPlain({tokens}, absl::MakeSpan(ids));
      for (const RowId id : ids) counts[Raw(id)] += id != RowId::kDeadPosition;
    }
    counts.erase(Raw(RowId::kDeadPosition));
    ASSERT_EQ(profile.layers[i].head.size(), counts.size());
    for (const HotRow& row : profile.layers[i].head) EXPECT_EQ(row.count, counts[Raw(row.id)]);
    EXPECT_EQ(json["layers"][i]["lookups"], 12 * 6);
    EXPECT_EQ(json["layers"][i]["distinct_rows"], counts.size());
    EXPECT_EQ(json["layers"][i]["orders"][2]["order"], 4);
    EXPECT_EQ(json["layers"][i]["orders"][2]["lookups"], 24);
  }
  EXPECT_EQ(daemon_.lookups, 0);
  // The same text in compressed ids; table "m" has no map for raw ones.
  const std::string c = Tokens("c", {0, 0, 4, 4, -1, 2, 1, 0, 0, 4}), d = Tokens("d", {4, 4, 4});
  Good({"profile", "m", "--compressed", "--tokens", c, "--tokens", d, "--out", Path("m.hot")},
       daemon_.target());
  EXPECT_EQ(Read("m.hot").layers, profile.layers);
  Fails({"profile", "m", "--tokens", a, "--out", Path("no.hot")}, "--compressed", daemon_.target());
  Fails({"profile", "t", "--tokens", a, "--out", Path("no.hot")}, "addressed by row id only",
        daemon_.target());
  Fails({"profile", "u", "--tokens", a, "--out", Path("no.hot")}, "no table \"u\"",
        daemon_.target());
}

TEST_F(ProfileTest, LittleMemoryAndManyThreadsChangeNothing) {
  const std::string model = Model(kQwen4Exp);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 30'000; ++i) tokens.push_back(i * i % 1009);
  const std::string file = Tokens("a", tokens);
  const std::vector<std::string> base = {"profile", "--model-config", model,    "--tokens",
                                         file,      "--head",         "100000", "--out"};
  const auto bytes = [&](const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> arguments = base;
    arguments.push_back(Path(name));
    arguments.insert(arguments.end(), more.begin(), more.end());
    const std::string text = Good(arguments, "nonsense");  // no server is asked
    EXPECT_THAT(text, HasSubstr("30,000 tokens of 1 files"));
    return *Read(name).Serialize();
  };
  const std::string want = bytes("a.hot", {});
  EXPECT_EQ(bytes("b.hot", {"--memory", "100MiB", "--threads", "3"}), want);
  EXPECT_EQ(bytes("a.hot", {"--memory", "1GiB", "--threads", "1"}), want);
}

TEST_F(ProfileTest, ErrorsNameFileOffsetAndValue) {
  const std::string model = Model(kQwen4Exp);
  const std::string bad = Tokens("bad", {1, 2, 248320});
  const std::vector<std::string> base = {"profile", "--model-config", model,
                                         "--out",   Path("no.hot"),   "--tokens"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = base;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  Fails(with({bad}), bad + ": token id 248320 at byte 8 (token 2)");
  Fails(with({Path("none")}), Path("none") + ": No such file");
  std::ofstream(Path("odd")) << "12345";
  Fails(with({Path("odd")}), "odd has 5 bytes");
  const std::string good = Tokens("good", {1, 2});
  Fails(with({good, "--memory", "1KiB"}), "1KiB of memory are too little");
  Fails({"profile", "--model-config", model, "--tokens", good, "--out", Path("no/no.hot")},
        "no/no.hot");
  Fails(
      {"profile", "--model-config", Model(kDeepseekV41), "--tokens", good, "--out", Path("no.hot")},
      "give ids that are compressed already with --compressed");
}

TEST_F(ProfileTest, InterruptedItLeavesNoFile) {
  const std::string model = Model(kQwen4Exp);
  const std::string file = Tokens("a", std::vector<int32_t>(8'000'000, 3));
  Ctl ctl({"profile", "--model-config", model, "--tokens", file, "--out", Path("no.hot"),
           "--memory", "11MiB", "--head", "0", "--threads", "1"},
          "");
  // It has so little memory that it reads the file some 60 times.
  ctl.WaitForSignalHandler(SIGINT);
  ctl.Signal(SIGINT);
  const CtlResult result = ctl.Wait();
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, HasSubstr("interrupted; nothing was written"));
  EXPECT_FALSE(std::filesystem::exists(Path("no.hot")));
}

TEST_F(ProfileTest, PlanPredictsFromAProfile) {
  std::vector<int32_t> first, second;
  for (int i = 0; i < 2000; ++i) {
    first.push_back(i * i / 7 % 10);
    second.push_back(i * i / 11 % 10);
  }
  const std::string a = Tokens("a", first), b = Tokens("b", second);
  Good({"profile", "h", "--tokens", a, "--out", Path("a.hot")}, daemon_.target());
  Good({"profile", "h", "--tokens", b, "--out", Path("b.hot")}, daemon_.target());
  const std::vector<std::string> plan = {"plan",  "h", "--profile", Path("a.hot"),
                                         "--hbm", "0", "--dram"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = plan;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const Json all = GoodJson(with({"64MiB", "--test", Path("b.hot")}), daemon_.target());
  EXPECT_EQ(all["table"], "h");
  EXPECT_NEAR(all["tiers"]["dram"]["hit_ratio"].get<double>(), 1, 1e-12);
  EXPECT_DOUBLE_EQ(all["tiers"]["dram"]["test_hit_ratio"].get<double>(), 1);
  EXPECT_NEAR(all["tiers"]["nvme"]["hit_ratio"].get<double>(), 0, 1e-12);
  EXPECT_DOUBLE_EQ(all["tiers"]["hbm"]["hit_ratio"].get<double>(), 0);
  const Json some = GoodJson(with({"24KiB"}), daemon_.target());
  EXPECT_GT(some["tiers"]["dram"]["hit_ratio"], 0.2);
  EXPECT_LT(some["tiers"]["dram"]["rows"], all["tiers"]["dram"]["rows"]);
  EXPECT_LT(some["tiers"]["dram"]["hit_ratio"], 1);
  EXPECT_EQ(some["layers"][1]["layer"], 14);
  EXPECT_EQ(some["splits"].size(), 3u);
  EXPECT_FALSE(some["tiers"]["dram"].contains("test_hit_ratio"));
  const std::string text = Good(with({"24KiB"}), daemon_.target());
  EXPECT_THAT(text, HasSubstr("Good-Turing"));
  EXPECT_THAT(text, HasSubstr("by frequency"));
  // Another table's profile, and none at all.
  const CtlResult other = RunCtl({"plan", "--model-config", Model(kQwen4Exp), "--profile",
                                  Path("a.hot"), "--hbm", "0", "--dram", "1GiB"});
  EXPECT_EQ(other.exit_status, 1);
  EXPECT_THAT(other.err, HasSubstr("the profile is of another table: the model family"));
  // One of an earlier format.
  std::fstream(Path("b.hot"), std::ios::in | std::ios::out | std::ios::binary).seekp(8).put(1);
  const CtlResult old = RunCtl(
      {"plan", "h", "--profile", Path("b.hot"), "--hbm", "0", "--dram", "0"}, daemon_.target());
  EXPECT_EQ(old.exit_status, 1);
  EXPECT_THAT(old.err,
              HasSubstr(Path("b.hot") + ": a profile of format 1, where this release knows "
                                        "2; make it anew with engramctl profile"));
  EXPECT_EQ(
      RunCtl({"plan", "--model-config", Path("model"), "--profile", a, "--hbm", "0", "--dram", "0"})
          .exit_status,
      1);
}

TEST_F(ProfileTest, WrongUsageIsExitStatus2) {
  const std::string model = Model(kQwen4Exp);
  const std::string file = Tokens("a", {1});
  const std::string out = Path("no.hot");
  const std::vector<std::vector<std::string>> wrong = {
      {"profile", "--tokens", file, "--out", out},
      {"profile", "t", "--model-config", model, "--tokens", file, "--out", out},
      {"profile", "t", "--out", out},
      {"profile", "t", "--tokens", file},
      {"profile", "t", "--tokens", file, "--out", out, "--memory", "5"},
      {"profile", "t", "--tokens", file, "--out", out, "--head", "-1"},
      {"profile", "t", "--tokens", file, "--out", out, "--threads", "0"},
      {"plan", "t", "--hbm", "0", "--dram", "0"},
      {"plan", "--profile", out, "--hbm", "0", "--dram", "0"},
      {"plan", "t", "--profile", out, "--hbm", "0"},
      {"plan", "t", "--profile", out, "--dram", "0"},
      {"plan", "t", "--profile", out, "--hbm", "x", "--dram", "0"},
      {"plan", "t", "--profile", out, "--hbm", "0", "--dram", "16GB"},
      {"plan", "t", "--profile", out, "--hbm", "0", "--dram", "-1"}};
  for (const auto& arguments : wrong) {
    const CtlResult result = RunCtl(arguments);
    EXPECT_EQ(result.exit_status, 2) << ::testing::PrintToString(arguments) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace engram
