// engram_bench runs, and prints what it promises: behaviour, not speed.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram::bench {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A directory on the drive that the build lies on: /tmp may be memory.
class Scratch {
 public:
  Scratch() {
    std::string path = (std::filesystem::current_path() / "bench_smoke.XXXXXX").string();
    if (::mkdtemp(path.data()) != nullptr) path_ = path;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::vector<std::string> Left() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  std::string path_;
};

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::vector<Json> lines;  // of stdout, those that are JSON objects
};

std::string Program() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "engram_bench").string();
}

Outcome RunBench(const std::string& arguments) {
  Outcome outcome;
  FILE* pipe = ::popen(("'" + Program() + "' " + arguments).c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer;
  while (std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr) {
    outcome.out += buffer.data();
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  for (size_t begin = 0; begin < outcome.out.size();) {
    const size_t end = std::min(outcome.out.find('\n', begin), outcome.out.size());
    const Json line = Json::parse(outcome.out.substr(begin, end - begin), nullptr, false);
    EXPECT_TRUE(line.is_object()) << outcome.out.substr(begin, end - begin);
    if (line.is_object()) outcome.lines.push_back(line);
    begin = end + 1;
  }
  return outcome;
}

void ExpectPositive(const Json& line, const std::string& key) {
  ASSERT_TRUE(line.contains(key)) << key << " in " << line;
  ASSERT_TRUE(line[key].is_number()) << line;
  EXPECT_TRUE(std::isfinite(line[key].get<double>())) << line;
  EXPECT_GT(line[key].get<double>(), 0) << key << " in " << line;
}

// Runs a suite at toy size; returns its results by name, after checks that hold for all.
std::map<std::string, Json> RunSuite(const std::string& suite) {
  const Scratch scratch;
  const Outcome outcome = RunBench(suite + " --quick --json --dir '" + scratch.path() + "'");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(scratch.Left(), IsEmpty());
  std::map<std::string, Json> results;
  for (const Json& line : outcome.lines) {
    for (const char* key : {"value", "baseline", "ratio"}) ExpectPositive(line, key);
    EXPECT_TRUE(line["unit"].is_string()) << line;
    if (suite != "hash" && suite != "zipf") {  // these have no table on the drive
      ExpectPositive(line, "table_bytes");
      EXPECT_EQ(line["small"], true) << line;
    }
    EXPECT_EQ(line["quick"], true) << line;
    ExpectPositive(line["machine"], "cores");
    EXPECT_NEAR(line["ratio"].get<double>() * line["baseline"].get<double>(),
                line["value"].get<double>(), line["value"].get<double>() * 1e-9);
    results[line["name"].get<std::string>()] = line;
  }
  EXPECT_EQ(results.size(), outcome.lines.size()) << "a name is printed twice";
  return results;
}

TEST(BenchSmokeTest, Grpc) {
  std::map<std::string, Json> results = RunSuite("grpc");
  EXPECT_EQ(results.size(), 6u);
  for (const std::string rows : {"512", "8192"}) {
    for (const std::string what : {"lookup", "tuned_service", "raw_constant"}) {
      Json& line = results["grpc/" + what + "/" + rows];
      EXPECT_EQ(line["unit"], "rows/s") << line;
      EXPECT_EQ(line["rows_per_call"], std::stoi(rows)) << line;
    }
  }
}

TEST(BenchSmokeTest, Shm) {
  std::map<std::string, Json> results = RunSuite("shm");
  for (const std::string mode : {"resident", "cache"}) {
    Json& line = results["shm/" + mode + "/threads_1"];
    EXPECT_EQ(line["unit"], "rows/s") << line;
    EXPECT_EQ(line["threads"], 1) << line;
    EXPECT_THAT(line["array_pages"].get<std::string>(), HasSubstr("in huge pages"));
  }
}

TEST(BenchSmokeTest, Latency) {
  std::map<std::string, Json> results = RunSuite("latency");
  EXPECT_EQ(results.size(), 4u);
  for (const std::string mode : {"resident", "cache"}) {
    for (const std::string transport : {"shm", "grpc"}) {
      Json& line = results["latency/" + transport + "/" + mode];
      EXPECT_EQ(line["unit"], "us") << line;
      ExpectPositive(line, "p99_us");
      ExpectPositive(line, "baseline_p99_us");
    }
  }
}

TEST(BenchSmokeTest, Restart) {
  std::map<std::string, Json> results = RunSuite("restart");
  EXPECT_EQ(results.size(), 2u);
  for (const std::string how : {"sigterm", "kill"}) {
    Json& line = results["restart/" + how];
    EXPECT_EQ(line["unit"], "s") << line;
    ExpectPositive(line, "until_ready_s");
    ExpectPositive(line, "slowest_s");
  }
}

TEST(BenchSmokeTest, Fair) {
  std::map<std::string, Json> results = RunSuite("fair");
  EXPECT_EQ(results.size(), 5u);
  for (const std::string name : {"cold_48", "cold_48/p99", "warm_48"}) {
    Json& line = results["fair/" + name];
    EXPECT_EQ(line["unit"], "us") << line;
    EXPECT_EQ(line["better"], "lower") << line;
  }
  ExpectPositive(results["fair/cold_48"], "ratio_to_alone");
  for (const std::string name : {"rate", "rate/beside"}) {
    EXPECT_EQ(results["fair/" + name]["unit"], "rows/s") << results["fair/" + name];
  }
}

TEST(BenchSmokeTest, Nvme) {
  std::map<std::string, Json> results = RunSuite("nvme");
  EXPECT_EQ(results.size(), 8u);
  for (const std::string name : {"depth_32", "depth_128", "depth_128/two_calls",
                                 "depth_32/calls_of_32", "depth_128/calls_of_32"}) {
    Json& line = results["nvme/" + name];
    EXPECT_EQ(line["unit"], "rows/s") << line;
    EXPECT_EQ(line["depth"], name.find("32") == 6 ? 32 : 128) << line;
    EXPECT_EQ(line["rows_per_call"], name.find("calls_of_32") == std::string::npos ? 8192 : 32);
    EXPECT_THAT(line["nvme_io"].get<std::string>(), HasSubstr("direct I/O"));
    ExpectPositive(line, "threads");
    EXPECT_TRUE(line["cpu_us_per_row"].is_number()) << line;
    EXPECT_TRUE(line["baseline_cpu_us"].is_number()) << line;
  }
  EXPECT_EQ(results["nvme/flat_file"]["unit"], "rows/s");
  for (const std::string name : {"latency_48", "health"}) {
    Json& line = results["nvme/" + name];
    EXPECT_EQ(line["unit"], "us") << line;
    EXPECT_EQ(line["better"], "lower") << line;
  }
  ExpectPositive(results["nvme/latency_48"], "p99_us");
  ExpectPositive(results["nvme/latency_48"], "baseline_p99_us");
  for (const std::string key : {"p50_us", "max_us", "baseline_p50_us", "checks"}) {
    ExpectPositive(results["nvme/health"], key);
  }
  EXPECT_GT(results["nvme/health"]["queued_rows"], 10000);
}

TEST(BenchSmokeTest, Load) {
  std::map<std::string, Json> results = RunSuite("load");
  EXPECT_EQ(results.size(), 1u);
  Json& line = results["load/safetensors"];
  EXPECT_EQ(line["unit"], "B/s") << line;
  ExpectPositive(line, "seconds");
  ExpectPositive(line, "baseline_seconds");
  ExpectPositive(line, "daemon_peak_rss_bytes");
  EXPECT_TRUE(line["page_cache_growth_bytes"].is_number_integer()) << line;
}

TEST(BenchSmokeTest, Scale) {
  std::map<std::string, Json> results = RunSuite("scale");
  EXPECT_EQ(results.size(), 4u);
  for (const std::string rows : {"20000", "60000", "100000"}) {
    Json& line = results["scale/rows_" + rows];
    EXPECT_EQ(line["unit"], "ns") << line;
    EXPECT_EQ(line["rows"], std::stoi(rows)) << line;
    EXPECT_EQ(line["row_bytes"], 264) << line;
  }
  EXPECT_EQ(results["scale/row_bytes_160"]["row_bytes"], 160);
  for (const auto& [name, line] : results) {
    EXPECT_GE(line["disk_bytes_per_row_byte"], 1.0) << line;
    EXPECT_LT(line["disk_bytes_per_row_byte"], 3.0) << line;  // with what a database has anyway
    for (const std::string key :
         {"start_seconds", "load_seconds", "load_bytes_per_s", "load_peak_rss_bytes",
          "rss_bytes_at_start", "rss_bytes_after_lookups", "empty_daemon_rss_bytes_at_start"}) {
      ExpectPositive(line, key);
    }
    EXPECT_TRUE(line["memory_bytes_per_row_at_start"].is_number()) << line;
    EXPECT_TRUE(line["memory_bytes_per_row_after_lookups"].is_number()) << line;
  }
}

TEST(BenchSmokeTest, ScaleOfOtherSizes) {
  const Scratch scratch;
  const Outcome outcome =
      RunBench("scale --rows 2000,3000 --quick --json --dir '" + scratch.path() + "'");
  EXPECT_EQ(outcome.exit_code, 0);
  std::vector<std::string> names;
  for (const Json& line : outcome.lines) names.push_back(line["name"].get<std::string>());
  EXPECT_THAT(names, ElementsAre("scale/rows_2000", "scale/rows_3000", "scale/row_bytes_160"));
  EXPECT_THAT(scratch.Left(), IsEmpty());
}

TEST(BenchSmokeTest, Params) {
  std::map<std::string, Json> results = RunSuite("params");
  EXPECT_EQ(results.size(), 1u);
  Json& line = results["params/lookup"];
  EXPECT_EQ(line["unit"], "rows/s") << line;
  EXPECT_EQ(line["parameters"], 256 * line["rows"].get<int64_t>()) << line;
  EXPECT_EQ(line["row_bytes"], 132) << line;
  EXPECT_EQ(line["checked_rows"], 20000) << line;
  EXPECT_THAT(line["command"].get<std::string>(), HasSubstr("params --quick"));
  for (const std::string key : {"load_seconds", "load_bytes_per_s", "disk_bytes", "start_seconds",
                                "peak_rss_bytes", "cold_rows"}) {
    ExpectPositive(line, key);
  }
}

TEST(BenchSmokeTest, OneLine) {
  const Scratch scratch;
  const Outcome outcome =
      RunBench("nvme --only nvme/latency --quick --json --dir '" + scratch.path() + "'");
  EXPECT_EQ(outcome.exit_code, 0);
  ASSERT_EQ(outcome.lines.size(), 1u);
  EXPECT_EQ(outcome.lines[0]["name"], "nvme/latency_48");
  EXPECT_EQ(RunBench("nvme --only latency --quick --json --dir '" + scratch.path() + "'").exit_code,
            2);
}

TEST(BenchSmokeTest, Hash) {
  std::map<std::string, Json> results = RunSuite("hash");
  EXPECT_EQ(results.size(), 4u);
  for (const char* family : {"deepseek-v4.1", "engram-demo", "qwen4-exp", "longcat"}) {
    Json& line = results[std::string("hash/") + family];
    EXPECT_EQ(line["unit"], "rows/s") << line;
    ExpectPositive(line, "chunk_ms");
  }
}

TEST(BenchSmokeTest, Zipf) {
  std::map<std::string, Json> results = RunSuite("zipf");
  EXPECT_EQ(results.size(), 6u);
  Json& hbm = results["zipf/hbm/1/1%"];
  EXPECT_EQ(hbm["unit"], "of accesses") << hbm;
  EXPECT_GT(hbm["ratio"], 0.9) << hbm;
  EXPECT_LT(hbm["static_in_sectors"], hbm["baseline"]) << hbm;
  EXPECT_LT(hbm["value"], hbm["static_in_sectors"]) << hbm;
  Json& steady = results["zipf/dram/1/1%"];
  EXPECT_EQ(steady["unit"], "of accesses") << steady;
  EXPECT_EQ(steady["table_rows"], 100000) << steady;
  for (const std::string key : {"static_in_sets", "perfect_counts", "all_hits_counted", "lru",
                                "lru_in_sets", "clock", "seed"}) {
    ExpectPositive(steady, key);
  }
  // Traces follow from the seed, so this is no matter of luck.
  EXPECT_GT(steady["ratio"], 0.97) << steady;
  EXPECT_GT(steady["value"], steady["lru"]) << steady;
  EXPECT_LT(steady["static_in_sets"], steady["baseline"]) << steady;
  for (const std::string what : {"all", "half"}) {
    Json& drift = results["zipf/drift/1/1%/" + what];
    EXPECT_EQ(drift["better"], "lower") << drift;
    ExpectPositive(drift, "perfect_counts_after_4");
  }
  EXPECT_GT(results["zipf/scan/1/1%"]["ratio"], 0.97) << results["zipf/scan/1/1%"];
  ExpectPositive(results["zipf/orders/1.05+0.8/1%"], "even_split");
}

TEST(BenchSmokeTest, Trace) {
  const Scratch scratch;
  // The row of rank k is asked for in proportion to 1 / k, near enough.
  const auto write = [&](const std::string& name, uint64_t seed, size_t count) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<double> exponent(0, 1);
    std::vector<uint32_t> ids(count);
    for (uint32_t& id : ids) id = static_cast<uint32_t>(std::pow(50000, exponent(random))) - 1;
    ids[count / 2] = 0xFFFFFFFF;
    std::ofstream(scratch.path() + "/" + name, std::ios::binary)
        .write(reinterpret_cast<const char*>(ids.data()),
               static_cast<std::streamsize>(ids.size() * sizeof(uint32_t)));
    return scratch.path() + "/" + name;
  };
  const std::string warm = write("a", 1, 700'000) + "," + write("b", 2, 300'000);
  const std::string command = "trace --quick --json --rows 1500 --trace " + warm +
                              " --test-trace " + write("c", 3, 200'000);
  const Outcome outcome = RunBench(command);
  EXPECT_EQ(outcome.exit_code, 0);
  ASSERT_EQ(outcome.lines.size(), 1u);
  const Json& line = outcome.lines[0];
  EXPECT_EQ(line["name"], "trace/dram/1500");
  EXPECT_EQ(line["warm_accesses"], 999'998) << line;
  EXPECT_EQ(line["accesses"], 199'999) << line;
  EXPECT_LE(line["cached_rows"], 1500) << line;
  // The law itself says log 1500 / log 50000.
  EXPECT_NEAR(line["baseline"].get<double>(), 0.676, 0.01) << line;
  EXPECT_GT(line["ratio"], 0.97) << line;
  EXPECT_LE(line["baseline"], line["static_by_its_own_counts"]) << line;
  EXPECT_GT(line["value"], line["clock"]) << line;
  EXPECT_GE(line["clock"], line["lru"]) << line;

  // In turns, of odd lengths: the same rows, so the same static placement, and as good a law.
  const Outcome in_turns = RunBench(command + " --sequences 3 --turn 77");
  EXPECT_EQ(in_turns.exit_code, 0);
  ASSERT_EQ(in_turns.lines.size(), 1u);
  const Json& other = in_turns.lines[0];
  EXPECT_EQ(other["sequences"], 3) << other;
  for (const char* same : {"warm_accesses", "warm_distinct_rows", "accesses", "distinct_rows",
                           "baseline", "static_by_its_own_counts"}) {
    EXPECT_EQ(other[same], line[same]) << other;
  }
  EXPECT_GT(other["ratio"], 0.97) << other;
  EXPECT_NE(other["lru"], line["lru"]) << "the order is the same";
}

TEST(BenchSmokeTest, WrongUsage) {
  EXPECT_EQ(RunBench("2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("no_such_suite 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("grpc --table-bytes 0 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("grpc --table-bytes much 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("scale --rows 5 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("params --parameters 3 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("params --dram much 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("nvme --rounds 0 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("trace >/dev/null 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("trace --trace /nowhere 2>/dev/null").exit_code, 2);
  EXPECT_EQ(RunBench("trace --sequences 0 2>/dev/null").exit_code, 2);
}

TEST(BenchSmokeTest, TooLittleSpace) {
  const Scratch scratch;
  const std::string log = scratch.path() + "/log";
  const Outcome outcome =
      RunBench("load --table-bytes 1TiB --json --dir '" + scratch.path() + "' 2>'" + log + "'");
  EXPECT_EQ(outcome.exit_code, 1);
  std::ifstream file(log);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_THAT(text, HasSubstr("free; this suite needs 2.1"));
  EXPECT_THAT(scratch.Left(), ElementsAre("log"));
}

TEST(BenchSmokeTest, InterruptCleansUp) {
  const Scratch scratch;
  // A second is long before the end of a table of this size.
  const Outcome outcome = RunBench("nvme --table-bytes 2GiB --dir '" + scratch.path() +
                                   "' 2>/dev/null >/dev/null & pid=$!; "
                                   "until [ -n \"$(ls -A '" +
                                   scratch.path() +
                                   "'/*/checkpoint 2>/dev/null)\" ]; "
                                   "do sleep 0.01; done; kill -INT $pid; wait $pid");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(scratch.Left(), IsEmpty());
}

}  // namespace
}  // namespace engram::bench
