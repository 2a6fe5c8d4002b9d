// The real engramctl: its usage without a daemon, its output against a fake one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/unit/client/cli/run_ctl.h"
#include "tests/unit/client/fake_daemon.h"

namespace engram {
namespace {

using testing::Ctl;
using testing::CtlOnTerminal;
using testing::CtlResult;
using ::testing::EndsWith;
using testing::FakeDaemon;
using ::testing::HasSubstr;
using testing::RunCtl;
using ::testing::StartsWith;
using Json = nlohmann::json;

const std::vector<std::string> kCommands = {"load",   "list",  "describe", "activate", "drop",
                                            "verify", "rows",  "hash",     "lookup",   "stats",
                                            "budget", "bench", "profile",  "plan"};

void ExpectOneLine(const std::string& err) {
  EXPECT_THAT(err, StartsWith("engramctl: "));
  EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
}

TEST(UsageTest, EveryCommandHasHelpAndJson) {
  for (const std::string& command : kCommands) {
    const CtlResult help = RunCtl({command, "--help"});
    EXPECT_EQ(help.exit_status, 0) << command;
    EXPECT_THAT(help.out, HasSubstr("--json")) << command;
    EXPECT_THAT(help.out, HasSubstr("--server")) << command;
  }
  const CtlResult all = RunCtl({"--help"});
  EXPECT_EQ(all.exit_status, 0);
  for (const std::string& command : kCommands) EXPECT_THAT(all.out, HasSubstr(command));
  EXPECT_THAT(RunCtl({"--version"}).out, StartsWith("engramctl "));
}

TEST(UsageTest, WrongUsageIsExitStatus2AndOneLine) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"frobnicate"},
      {"list", "--frobnicate"},
      {"list", "extra"},
      {"load", "t"},
      {"load", "--checkpoint", "/tmp"},
      {"load", "t", "--checkpoint", "/tmp", "--model", "gpt"},
      {"load", "t", "--checkpoint", "/tmp", "--version", "0"},
      {"load", "t", "--checkpoint", "/tmp", "--version", "-1"},
      {"activate", "t"},
      {"activate", "t", "-1"},
      {"activate", "t", "x"},
      {"drop"},
      {"drop", "t"},
      {"drop", "--all"},
      {"drop", "t", "1", "--all"},
      {"drop", "t", "0"},
      {"verify", "t", "--model", "auto"},
      {"verify", "t", "--tensor", "a"},
      {"verify", "t", "--allow-unverified"},
      {"rows", "t", "--layer", "1"},
      {"rows", "t", "--ids", "1"},
      {"rows", "t", "--layer", "1", "--ids", "1,x"},
      {"rows", "t", "--layer", "1", "--ids", ""},
      {"rows", "t", "--layer", "1", "--ids", "1,,2"},
      {"rows", "t", "--layer", "1", "--ids=-2"},
      {"rows", "t", "--layer", "1", "--ids", "4294967295"},
      {"rows", "t", "--layer", "x", "--ids", "1"},
      {"stats", "--watch", "0"},
      {"stats", "--watch", "x"},
      {"bench", "t", "--seconds", "601"},
      {"bench", "t", "--threads", "0"},
      {"bench", "t", "--distribution", "normal"},
      {"bench", "t", "--layers", "1,x"},
      {"--server", "nonsense", "list"},
      {"list", "--server", "unix:relative"}};
  for (const auto& arguments : wrong) {
    const CtlResult result = RunCtl(arguments);
    EXPECT_EQ(result.exit_status, 2) << ::testing::PrintToString(arguments);
    EXPECT_EQ(result.out, "") << ::testing::PrintToString(arguments);
    ExpectOneLine(result.err);
  }
  EXPECT_THAT(RunCtl({"frobnicate"}).err, HasSubstr("frobnicate"));
  EXPECT_EQ(RunCtl({"list"}, "nonsense").exit_status, 2);
}

TEST(UsageTest, NobodyAtTheServerIsExitStatus1NamingIt) {
  const CtlResult result = RunCtl({"list"}, "unix:/nonexistent/from_environment");
  EXPECT_EQ(result.exit_status, 1);
  ExpectOneLine(result.err);
  EXPECT_THAT(result.err, HasSubstr("unix:/nonexistent/from_environment: is it running?"));
  // Flags go before the environment, on either side of the command.
  EXPECT_THAT(
      RunCtl({"--server", "unix:/nonexistent/a", "describe", "t"}, "unix:/nonexistent/b").err,
      HasSubstr("unix:/nonexistent/a"));
  EXPECT_THAT(
      RunCtl({"rows", "t", "--layer", "1", "--ids", "-1,5", "--server", "unix:/nonexistent/a"},
             "unix:/nonexistent/b")
          .err,
      HasSubstr("unix:/nonexistent/a"));
}

class EngramctlTest : public ::testing::Test {
 protected:
  CtlResult Run(const std::vector<std::string>& arguments) {
    return RunCtl(arguments, daemon_.target());
  }

  std::string Good(const std::vector<std::string>& arguments) {
    const CtlResult result = Run(arguments);
    EXPECT_EQ(result.exit_status, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return result.out;
  }

  Json GoodJson(std::vector<std::string> arguments) {
    // Before and after the command is the same.
    arguments.push_back("--json");
    const std::string after = Good(arguments);
    arguments.pop_back();
    arguments.insert(arguments.begin(), "--json");
    const Json before = Json::parse(Good(arguments), nullptr, false);
    EXPECT_FALSE(before.is_discarded());
    return Json::parse(after, nullptr, false);
  }

  FakeDaemon daemon_;
};

TEST_F(EngramctlTest, Load) {
  const std::string here = std::filesystem::canonical(".").string();
  EXPECT_THAT(Good({"load", "t", "--checkpoint", "."}),
              StartsWith("loaded t version 3: 300 rows, 2.0 kB in "));
  EXPECT_EQ(daemon_.LastLoad().checkpoint(), here);
  EXPECT_EQ(daemon_.LastLoad().model(), "");
  Good({"load", "t", "--checkpoint", "no/../such", "--model", "generic", "--tensor", "a",
        "--tensor", "b", "--version", "7"});
  const v1::LoadRequest sent = daemon_.LastLoad();
  EXPECT_EQ(sent.checkpoint(), here + "/such");
  EXPECT_EQ(sent.model(), "generic");
  EXPECT_THAT(sent.tensors(), ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(sent.version(), 7u);
  EXPECT_FALSE(sent.allow_unverified());
  Good({"load", "t", "--checkpoint", ".", "--allow-unverified"});
  EXPECT_TRUE(daemon_.LastLoad().allow_unverified());

  const Json json = GoodJson({"load", "t", "--checkpoint", "."});
  EXPECT_EQ(json["table"], "t");
  EXPECT_EQ(json["version"], 3);
  EXPECT_EQ(json["rows"], 300);
  EXPECT_EQ(json["bytes"], 2000);
  EXPECT_EQ(json["already_loaded"], false);
  EXPECT_EQ(json["resumed_rows"], 30);
  EXPECT_EQ(json["active"], true);
  EXPECT_TRUE(json["seconds"].is_number());
}

TEST_F(EngramctlTest, LoadRepair) {
  EXPECT_FALSE(GoodJson({"load", "t", "--checkpoint", "."}).contains("repair"));
  EXPECT_FALSE(daemon_.LastLoad().repair());
  EXPECT_EQ(Good({"load", "t", "--checkpoint", ".", "--repair"}),
            "nothing to repair: t version 3, all 300 rows in 8 chunks are whole\n");
  EXPECT_TRUE(daemon_.LastLoad().repair());
  const std::string text = Good({"load", "damaged", "--checkpoint", ".", "--repair"});
  EXPECT_THAT(text, StartsWith("repaired damaged version 3 in "));
  EXPECT_THAT(text, HasSubstr("2 of 8 chunks were damaged, with 16 rows lost\n"));
  EXPECT_THAT(text, HasSubstr("2 chunks, 70 rows; all are whole now\n"));
  EXPECT_THAT(text, HasSubstr("  layer 1 row 5: a bad page\n"));
  EXPECT_EQ(GoodJson({"load", "damaged", "--checkpoint", ".", "--repair"})["repair"],
            Json::parse(R"({"chunks":8,"damaged_chunks":2,"damaged_rows":16,"rewritten_chunks":2,
                            "rewritten_rows":70,"problems":["layer 1 row 5: a bad page"]})"));
}

TEST_F(EngramctlTest, LoadAgainAndLoadRefused) {
  EXPECT_THAT(Good({"load", "again", "--checkpoint", "."}), HasSubstr("already loaded"));
  const CtlResult refused = Run({"load", "refused", "--checkpoint", "."});
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_EQ(refused.err, "engramctl: no such thing\n");
}

TEST_F(EngramctlTest, AnInterruptedLoadIsCancelledAndSaysHowToGoOn) {
  for (const int signal : {SIGINT, SIGTERM}) {
    FakeDaemon daemon;
    Ctl ctl({"load", "hang", "--checkpoint", "."}, daemon.target());
    daemon.WaitForHang();
    ctl.Signal(signal);
    const CtlResult result = ctl.Wait();
    EXPECT_EQ(result.exit_status, 1);
    EXPECT_EQ(result.err, "engramctl: interrupted; the same command resumes\n");
    daemon.WaitForCancelled();
  }
}

TEST_F(EngramctlTest, ListAndDescribe) {
  EXPECT_EQ(Good({"list"}),
            "NAME  VERSION  ACTIVE  STATE      FAMILY       LAYERS  ROWS    SIZE\n"
            "t           3  yes     published  engram-demo  1,14     300  2.0 kB\n"
            "\nNot served, for their load is under way or was interrupted (the same `engramctl "
            "load` takes it up, `engramctl drop` removes it):\n"
            "NAME  VERSION  ACTIVE  STATE    FAMILY       LAYERS  ROWS    SIZE\n"
            "t           4  no      loading  engram-demo  1,14     300  2.0 kB\n");
  const Json list = GoodJson({"list"});
  ASSERT_EQ(list["tables"].size(), 1u);
  EXPECT_EQ(list["tables"][0], GoodJson({"describe", "t"}));
  ASSERT_EQ(list["unfinished"].size(), 1u);
  EXPECT_EQ(list["unfinished"][0]["version"], 4);
  EXPECT_EQ(list["unfinished"][0]["state"], "loading");
  const Json& table = list["tables"][0];
  EXPECT_EQ(table["name"], "t");
  EXPECT_EQ(table["table_digest"], "d0");
  EXPECT_EQ(table["addressing"]["base_size"], 40);
  EXPECT_EQ(table["layers"][0]["columns"], Json::parse(R"([{"order":2,"head":1,"rows":100}])"));
  EXPECT_EQ(table["layers"][1]["row_bytes"], 6);
  EXPECT_EQ(table["layers"][0]["rows_per_page"], 480);
  EXPECT_EQ(table["layers"][0]["block_bytes"], 4096);
  EXPECT_EQ(table["layers"][0]["waste_percent"], 6.25);
  EXPECT_EQ(table["layers"][0]["disk_bytes"], 5000);
  EXPECT_EQ(table["layers"][1]["waste_percent"], 0);
  const std::string text = Good({"describe", "t"});
  for (const char* word :
       {"pages of 480 rows in 4,096 bytes, 6.2 % of them unused; 5.0 kB on disk\n", "3 (active)",
        "c0", "d0", "layer 14: 200 rows of 6 bytes", "base size 40"}) {
    EXPECT_THAT(text, HasSubstr(word));
  }
  EXPECT_EQ(Run({"describe", "u"}).err, "engramctl: no table \"u\"\n");
}

TEST_F(EngramctlTest, DescribeShowsTheHash) {
  const Json table = GoodJson({"describe", "h"});
  EXPECT_EQ(table["addressing"]["hash"], "xor-multiply");
  EXPECT_EQ(table["addressing"]["vocab_size"], 10);
  EXPECT_EQ(table["addressing"]["boundary_id"], -1);
  EXPECT_EQ(table["token_map_size"], 10);
  EXPECT_EQ(table["token_map_digest"], testing::HashedMap().digest());
  EXPECT_EQ(table["layers"][0]["multipliers"], testing::HashedSpec().layers[0].multipliers);
  EXPECT_EQ(table["layers"][0]["row_scale"], 0);
  EXPECT_EQ(table["layers"][1]["row_scale"], 0.25);
  const std::string text = Good({"describe", "h"});
  for (const std::string& word :
       {std::string("hash xor-multiply, compressed vocabulary 5, vocabulary 10\n"),
        "10 ids, sha256 " + testing::HashedMap().digest(),
        std::string("values are to be multiplied by 0.25"), std::string("  multipliers 7663")}) {
    EXPECT_THAT(text, HasSubstr(word));
  }
}

TEST_F(EngramctlTest, ActivateAndDrop) {
  EXPECT_EQ(Good({"activate", "t", "3"}), "t version 3 is active\n");
  EXPECT_EQ(GoodJson({"activate", "t", "3"})["version"], 3);
  const CtlResult gone = Run({"activate", "t", "4"});
  EXPECT_EQ(gone.exit_status, 1);
  EXPECT_EQ(gone.err, "engramctl: no version 4\n");
  EXPECT_EQ(Good({"drop", "t", "2"}), "dropped t version 2\n");
  EXPECT_EQ(daemon_.LastDropVersion().version(), 2u);
  EXPECT_EQ(GoodJson({"drop", "t", "2"}), Json::parse(R"({"table":"t","versions":[2]})"));
  EXPECT_EQ(daemon_.LastDropTable().table(), "");
  EXPECT_EQ(Good({"drop", "t", "--all"}), "dropped t versions 2, 3\n");
  EXPECT_EQ(daemon_.LastDropTable().table(), "t");
  EXPECT_EQ(GoodJson({"drop", "t", "--all"}), Json::parse(R"({"table":"t","versions":[2,3]})"));
}

TEST_F(EngramctlTest, DropOfATableAsksATerminalOnly) {
  EXPECT_EQ(Run({"drop", "t"}).exit_status, 2);
  for (const std::string answer : {"\n", "n\n", "yno\n", "Yes\n"}) {
    const CtlResult kept = CtlOnTerminal({"drop", "t"}, daemon_.target(), answer);
    EXPECT_EQ(kept.exit_status, 1) << answer;
    EXPECT_EQ(kept.out, "");
    EXPECT_THAT(kept.err, HasSubstr("drop every version of table \"t\"? [y/N] "));
    EXPECT_THAT(kept.err, HasSubstr("nothing is dropped"));
    EXPECT_EQ(daemon_.LastDropTable().table(), "");
  }
  const CtlResult gone = CtlOnTerminal({"drop", "t", "--json"}, daemon_.target(), "y\n");
  EXPECT_EQ(gone.exit_status, 0) << gone.err;
  EXPECT_EQ(Json::parse(gone.out, nullptr, false)["versions"], Json::parse("[2,3]"));
  EXPECT_EQ(daemon_.LastDropTable().table(), "t");
}

TEST_F(EngramctlTest, Verify) {
  EXPECT_THAT(Good({"verify", "t"}), HasSubstr("bad rows: 0"));
  EXPECT_EQ(GoodJson({"verify", "t"})["ok"], true);
  EXPECT_FALSE(daemon_.LastVerify().allow_unverified());
  Good({"verify", "t", "--checkpoint", ".", "--model", "generic", "--tensor", "a", "--tensor", "b",
        "--allow-unverified"});
  EXPECT_TRUE(daemon_.LastVerify().allow_unverified());
  EXPECT_THAT(daemon_.LastVerify().tensors(), ::testing::ElementsAre("a", "b"));
  const CtlResult bad = Run({"verify", "bad", "--json"});
  EXPECT_EQ(bad.exit_status, 1);
  ExpectOneLine(bad.err);
  const Json json = Json::parse(bad.out, nullptr, false);
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["bad_rows"], 2);
  EXPECT_EQ(json["problems"][0], "layer 1 row 5 differs");
}

TEST_F(EngramctlTest, VerifyAsJsonIsTheMessageAndWhatFollowsFromIt) {
  Json json = GoodJson({"verify", "t", "--version", "3"});
  EXPECT_GT(json["seconds"].get<double>(), 0);
  json.erase("seconds");
  EXPECT_EQ(json, Json::parse(R"({"rows_done":300,"rows_total":300,"bytes_done":2000,
                                  "bytes_total":0,"dram_rows":7,"hbm_rows":0,"bad_rows":0,
                                  "problems":[],"done":true,"table":"t","version":3,"ok":true,
                                  "rows":300,"bytes":2000})"));
}

TEST_F(EngramctlTest, Budget) {
  EXPECT_THAT(Good({"budget", "--dram", "64MiB"}),
              StartsWith("the DRAM budget is 64MiB (before 1TiB), of which 4KiB are taken"));
  EXPECT_EQ(GoodJson({"budget", "--dram", "1KiB"}),
            Json::parse(R"({"dram_budget_bytes":1024,"before_bytes":1099511627776,
                            "used_bytes":4096})"));
}

TEST_F(EngramctlTest, Rows) {
  const std::string want = "-1 0000000000000000\n2 2e2f303132333435\n";
  EXPECT_EQ(Good({"rows", "t", "--layer", "1", "--ids", "-1,2"}), want);
  EXPECT_EQ(Good({"rows", "t", "--layer", "1", "--ids=-1,2"}), want);
  EXPECT_EQ(GoodJson({"rows", "t", "--layer", "1", "--ids=-1,2"})["rows"],
            Json::parse(R"([{"id":-1,"hex":"0000000000000000","tier":"none"},
                            {"id":2,"hex":"2e2f303132333435","tier":"dram"}])"));
  const CtlResult gone = Run({"rows", "t", "--layer", "2", "--ids", "1"});
  EXPECT_EQ(gone.exit_status, 1);
  EXPECT_THAT(gone.err, HasSubstr("no layer 2; it has 1, 14"));
}

TEST_F(EngramctlTest, StatsPrintsTablesLayersAndTiers) {
  const Json table = GoodJson({"stats"})["tables"][0];
  EXPECT_EQ(table["name"], "t");
  EXPECT_EQ(table["lookups"], 5);
  EXPECT_DOUBLE_EQ(table["p50_us"].get<double>(), 125);
  EXPECT_EQ(table["tiers"]["dram"]["hits"], 60);
  EXPECT_EQ(table["tiers"]["dram"]["rows"], 8);
  EXPECT_DOUBLE_EQ(table["tiers"]["dram"]["hit_ratio"].get<double>(), 0.6);
  EXPECT_EQ(table["tiers"]["hbm"]["on"], false);
  EXPECT_EQ(table["prefetched_rows"], 40);
  EXPECT_EQ(table["prefetched_used_rows"], 21);
  EXPECT_EQ(table["prefetched_unused_rows"], 7);
  EXPECT_EQ(table["prefetched_late_rows"], 4);
  EXPECT_EQ(table["layers"][1]["layer"], 14);
  EXPECT_EQ(table["layers"][1]["tiers"]["nvme"]["hits"], 15);
  const std::string text = Good({"stats"});
  EXPECT_THAT(text, HasSubstr("no CUDA device"));
  EXPECT_THAT(text, HasSubstr("prefetched 40 (used 21, unused 7, late 4)"));
  EXPECT_THAT(text, HasSubstr("p50 125 µs"));
}

TEST_F(EngramctlTest, StatsWatchPrintsADocumentALineUntilInterrupted) {
  Ctl ctl({"stats", "--json", "--watch", "0.1"}, daemon_.target());
  ctl.WaitForLines(3);
  ctl.Signal(SIGINT);
  const CtlResult result = ctl.Wait();
  EXPECT_EQ(result.exit_status, 0) << result.err;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_EQ(Json::parse(line, nullptr, false)["daemon_version"], "9.9") << line;
  }
  Ctl plain({"stats", "--watch", "--json"}, daemon_.target());
  plain.WaitForLines(1);
  plain.Signal(SIGINT);
  EXPECT_EQ(plain.Wait().exit_status, 0);
}

TEST_F(EngramctlTest, BenchOverSharedMemoryNeedsADaemonThatSharesIt) {
  const CtlResult result = RunCtl({"bench", "t", "--transport", "shm"}, daemon_.target());
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("the transport shm is not to be had"));
}

TEST_F(EngramctlTest, BenchCountsWhatItAskedFor) {
  for (const char* distribution : {"uniform", "zipf"}) {
    const Json json = GoodJson({"bench", "t", "--seconds", "0.1", "--threads", "2", "--batch", "9",
                                "--distribution", distribution});
    EXPECT_EQ(json["transport"], "grpc");
    EXPECT_GT(json["calls"], 0);
    EXPECT_EQ(json["rows"].get<uint64_t>(), json["calls"].get<uint64_t>() * 9);
    // 5 rows of 8 bytes, 4 of 6.
    EXPECT_EQ(json["bytes"].get<uint64_t>(), json["calls"].get<uint64_t>() * 64);
    EXPECT_EQ(json["tiers"]["dram"]["rows"], json["rows"]);
    EXPECT_DOUBLE_EQ(json["tiers"]["dram"]["share"].get<double>(), 1);
    EXPECT_LE(json["latency_us"]["p50"], json["latency_us"]["max"]);
  }
  EXPECT_THAT(Good({"bench", "t", "--seconds", "0.1", "--layers", "14"}), HasSubstr("rows/s"));
  EXPECT_THAT(Run({"bench", "t", "--layers", "2"}).err, HasSubstr("no layer 2"));
}

}  // namespace
}  // namespace engram
