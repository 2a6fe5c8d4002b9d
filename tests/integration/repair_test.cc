// Damaged files under the real daemon: the rows in them fail and all others are served, `engramctl
// verify` finds it, `engramctl load --repair` heals it, and nothing else is touched.
#include <gmock/gmock.h>
#include <httplib.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kRowsPerPage = 15;
constexpr uint64_t kPageBytes = 4096;

enum class Damage { kMissing, kTruncated, kZeroedFooter, kFlippedData, kFlippedIndex };

void Overwrite(const std::string& path, uint64_t offset, const std::string& bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file << bytes;
  ASSERT_TRUE(file.good()) << path;
}

void FlipByte(const std::string& path, uint64_t offset) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  Overwrite(path, offset, std::string(1, static_cast<char>(file.get() ^ 0x40)));
}

class RepairTest : public DaemonFixture {
 protected:
  // The rows that one file of the store holds.
  struct Held {
    int layer = 0;
    uint64_t first = 0;
    uint64_t end = 0;
    uint64_t rows() const { return end - first; }
    uint64_t pages() const { return (rows() + kRowsPerPage - 1) / kRowsPerPage; }
  };

  void LoadAndMap() {
    checkpoint_ = MakeCheckpoint("ckpt", 36000, 1);  // 76 MB, three files a layer
    StartDaemon({"--dram", "0"});
    ASSERT_TRUE(Load("t", checkpoint_.directory).ok());
    MapFiles();
    ASSERT_GE(files_.size(), 6u);
  }

  // Finds which rows each file begins with, by the bytes of its first page.
  void MapFiles() {
    std::map<std::string, Held> starts;
    for (const int layer : checkpoint_.layers) {
      for (uint64_t row = 0; row < checkpoint_.RowsOf(layer); row += kRowsPerPage) {
        const std::vector<std::byte> bytes = checkpoint_.ExpectedRow(layer, row);
        starts[std::string(reinterpret_cast<const char*>(bytes.data()), 32)] = {layer, row, 0};
      }
    }
    files_.clear();
    for (const auto& entry : fs::directory_iterator(dir_.path() + "/data/db")) {
      std::string head(kPageBytes, '\0');
      std::ifstream(entry.path(), std::ios::binary).read(head.data(), kPageBytes);
      for (size_t offset = 10; offset < 30; ++offset) {
        const auto found = starts.find(head.substr(offset, 32));
        if (found != starts.end()) files_[entry.path().filename()] = found->second;
      }
    }
    for (auto& [name, held] : files_) {
      held.end = checkpoint_.RowsOf(held.layer);
      for (const auto& [other, theirs] : files_) {
        if (theirs.layer == held.layer && theirs.first > held.first) {
          held.end = std::min(held.end, theirs.first);
        }
      }
    }
  }

  std::string PathOf(const std::string& file) const { return dir_.path() + "/data/db/" + file; }

  // The file that holds this row of a layer.
  std::string FileWith(int layer, uint64_t row) const {
    for (const auto& [name, held] : files_) {
      if (held.layer == layer && held.first <= row && row < held.end) return name;
    }
    return "";
  }

  // A flip in the data hits the third page.
  void Apply(Damage damage, const std::string& file) {
    const std::string path = PathOf(file);
    switch (damage) {
      case Damage::kMissing:
        fs::remove(path);
        break;
      case Damage::kTruncated:
        fs::resize_file(path, fs::file_size(path) / 2);
        break;
      case Damage::kZeroedFooter:
        Overwrite(path, fs::file_size(path) - 53, std::string(53, '\0'));
        break;
      case Damage::kFlippedData:
        FlipByte(path, 2 * kPageBytes + 1000);
        break;
      case Damage::kFlippedIndex:
        FlipByte(path, files_[file].pages() * kPageBytes + 100);
        break;
    }
  }

  // Looks every row of both layers up. Rows for which `may_fail` holds may fail with a status;
  // all others, and all that do not fail, must be right. Returns how many failed.
  template <typename MayFail>
  uint64_t LookupEverything(Client& client, MayFail may_fail) {
    uint64_t failed = 0;
    for (const int layer : checkpoint_.layers) {
      const uint64_t rows = checkpoint_.RowsOf(layer);
      for (uint64_t first = 0; first < rows; first += 20000) {
        std::vector<uint32_t> ids;
        for (uint64_t row = first; row < std::min(rows, first + 20000); ++row) {
          ids.push_back(static_cast<uint32_t>(row));
        }
        failed += LookupSome(client, layer, ids, may_fail);
      }
    }
    return failed;
  }

  template <typename MayFail>
  uint64_t LookupSome(Client& client, int layer, const std::vector<uint32_t>& ids,
                      MayFail may_fail) {
    std::vector<std::byte> out(ids.size() * kRowBytes);
    const auto answer = client.Lookup({.table = "t",
                                       .layers = {{layer, ids, absl::MakeSpan(out), {}}},
                                       .on_row_error = RowErrorPolicy::kZero});
    if (!answer.ok()) {
      ADD_FAILURE() << answer.status();
      return 0;
    }
    std::set<uint32_t> failed;
    for (const FailedRow& failure : answer->layers[0].failures) {
      failed.insert(failure.position);
      EXPECT_FALSE(failure.status.ok());
      EXPECT_TRUE(may_fail(layer, ids[failure.position])) << failure.status;
    }
    for (uint32_t i = 0; i < ids.size(); ++i) {
      const std::vector<std::byte> expected = failed.contains(i)
                                                  ? std::vector<std::byte>(kRowBytes)
                                                  : checkpoint_.ExpectedRow(layer, ids[i]);
      if (std::memcmp(expected.data(), &out[i * kRowBytes], kRowBytes) == 0) continue;
      ADD_FAILURE() << "layer " << layer << " row " << ids[i] << " is wrong";
      break;
    }
    return failed.size();
  }

  static bool Nothing(int, uint32_t) { return false; }

  // What the daemon's /metrics says, of all tables and layers together.
  uint64_t Metric(const std::string& name) {
    httplib::Client http("127.0.0.1", daemon_->PortFromLog("http on port "));
    const auto answer = http.Get("/metrics");
    EXPECT_TRUE(answer && answer->status == 200);
    if (!answer) return 0;
    uint64_t sum = 0;
    size_t samples = 0;
    std::istringstream lines(answer->body);
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind(name + "{", 0) != 0) continue;
      sum += std::stoull(line.substr(line.rfind(' ') + 1));
      ++samples;
    }
    EXPECT_GT(samples, 0u) << "no " << name << " in " << answer->body;
    return sum;
  }

  // What an operator's alert goes by, and where it sends the operator. Of layer 1 the log, which
  // takes one line a second from a layer, may name the one file or the other.
  void ExpectReported(const std::string& file_of_layer_14) {
    EXPECT_GT(Metric("engram_nvme_pages_failed_total"), 0u);
    EXPECT_EQ(Metric("engram_nvme_pages_retried_total"), 0u);
    EXPECT_THAT(daemon_->Log(), ContainsRegex("rows are lost: [^\n]*" + file_of_layer_14 + " at " +
                                              std::to_string(2 * kPageBytes) + "[^0-9]"));
  }

  CommandResult Ctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--server", daemon_->target()});
    return RunTool("engramctl", arguments);
  }
  CommandResult RepairTable(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"load", "t", "--checkpoint", checkpoint_.directory,
                                          "--repair"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Ctl(arguments);
  }

  std::map<std::string, std::string> Identities() const {
    std::map<std::string, std::string> result;
    for (const auto& [name, held] : files_) {
      struct stat info {};
      if (::stat(PathOf(name).c_str(), &info) != 0) continue;
      result[name] = std::to_string(info.st_ino) + " " + std::to_string(info.st_mtim.tv_nsec);
    }
    return result;
  }

  // Verify finds it, naming each file; a repair heals it and leaves all other files alone.
  void ExpectFoundAndHealed(const std::set<std::string>& damaged) {
    const auto before = Identities();
    const CommandResult found = Ctl({"verify", "t"});
    EXPECT_EQ(found.exit_code, 1) << found.output;
    EXPECT_THAT(found.errors, HasSubstr("--repair"));
    for (const std::string& file : damaged) {
      EXPECT_THAT(found.output, HasSubstr(fs::path(file).stem().string()));
    }
    uint64_t rewritten = 0;
    for (const std::string& file : damaged) rewritten += files_.at(file).rows();

    const CommandResult repaired = RepairTable({"--json"});
    ASSERT_EQ(repaired.exit_code, 0) << repaired.errors << daemon_->Log();
    EXPECT_THAT(repaired.output,
                AllOf(HasSubstr("\"damaged_chunks\": " + std::to_string(damaged.size()) + ","),
                      HasSubstr("\"rewritten_chunks\": " + std::to_string(damaged.size()) + ","),
                      HasSubstr("\"rewritten_rows\": " + std::to_string(rewritten) + ",")));
    for (const auto& [name, identity] : Identities()) {
      EXPECT_FALSE(damaged.contains(name)) << name << " is still there";
      EXPECT_EQ(identity, before.at(name));
    }
    EXPECT_EQ(Identities().size() + damaged.size(), files_.size());

    const CommandResult again = RepairTable();
    EXPECT_EQ(again.exit_code, 0);
    EXPECT_THAT(again.output, HasSubstr("nothing to repair: t version 1"));
    const CommandResult verified = Ctl({"verify", "t", "--checkpoint", checkpoint_.directory});
    EXPECT_EQ(verified.exit_code, 0) << verified.output;
    EXPECT_THAT(verified.output, HasSubstr("bad rows: 0"));
    EXPECT_THAT(Ctl({"stats"}).output, Not(HasSubstr("damaged")));
    // A client from before the repair too.
    EXPECT_EQ(LookupEverything(*client_, Nothing), 0u);
  }

  TestCheckpoint checkpoint_;
  std::map<std::string, Held> files_;
};

class RepairKindTest : public RepairTest, public ::testing::WithParamInterface<Damage> {};

TEST_P(RepairKindTest, FoundAtAStartAndHealed) {
  LoadAndMap();
  StopDaemon();
  // Two neighbours of one layer, and the last file of the other.
  const std::string last = FileWith(14, checkpoint_.RowsOf(14) - 1);
  const std::set<std::string> damaged = {FileWith(1, 0), FileWith(1, files_[FileWith(1, 0)].end),
                                         last};
  ASSERT_EQ(damaged.size(), 3u);
  for (const std::string& file : damaged) Apply(GetParam(), file);

  StartDaemon({"--dram", "0", "--http", "127.0.0.1:0"});
  const bool in_data = GetParam() == Damage::kFlippedData;
  // Pages are read by their offsets, without the index: no row hangs on it.
  const bool in_index = GetParam() == Damage::kFlippedIndex;
  const auto is_damaged = [&](int layer, uint32_t row) {
    const std::string file = FileWith(layer, row);
    if (in_index || !damaged.contains(file)) return false;
    return !in_data || (row - files_[file].first) / kRowsPerPage == 2;
  };
  const uint64_t failed = LookupEverything(*client_, is_damaged);
  if (in_data) {
    EXPECT_EQ(failed, damaged.size() * kRowsPerPage);
    ExpectReported(last);
  }
  EXPECT_EQ(failed > 0, !in_index);
  ExpectFoundAndHealed(damaged);

  StopDaemon();
  StartDaemon({"--dram", "0"});
  EXPECT_THAT(daemon_->Log(), Not(HasSubstr("is damaged")));
  EXPECT_EQ(LookupEverything(*client_, Nothing), 0u);
}

std::string KindName(const ::testing::TestParamInfo<Damage>& info) {
  const char* const names[] = {"Missing", "Truncated", "ZeroedFooter", "FlippedData",
                               "FlippedIndex"};
  return names[static_cast<int>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Kinds, RepairKindTest,
                         ::testing::Values(Damage::kMissing, Damage::kTruncated,
                                           Damage::kZeroedFooter, Damage::kFlippedData,
                                           Damage::kFlippedIndex),
                         KindName);

// While the daemon serves: look-ups go on from the damage to the repair, and only rows of the
// flipped page ever fail.
TEST_F(RepairTest, DamageAndRepairWhileServing) {
  LoadAndMap();
  const std::string flipped = FileWith(1, 100000);
  const std::string lost = FileWith(14, 0);
  const std::string index = FileWith(14, files_[lost].end);
  ASSERT_FALSE(index.empty());
  Apply(Damage::kFlippedData, flipped);
  Apply(Damage::kMissing, lost);
  Apply(Damage::kFlippedIndex, index);

  const uint64_t bad_page = files_[flipped].first / kRowsPerPage + 2;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> calls{0};
  std::thread worker([&, seed = TestSeed()] {
    std::mt19937_64 random(seed);
    const std::unique_ptr<Client> client = NewClient();
    while (!stop) {
      const int layer = checkpoint_.layers[random() % 2];
      const std::string& file = layer == 1 ? flipped : lost;
      std::vector<uint32_t> ids;
      for (int i = 0; i < 200; ++i) {
        const uint64_t row = i % 2 == 0 ? random() % checkpoint_.RowsOf(layer)
                                        : files_[file].first + random() % files_[file].rows();
        ids.push_back(static_cast<uint32_t>(row));
      }
      LookupSome(*client, layer, ids,
                 [&](int of, uint32_t row) { return of == 1 && row / kRowsPerPage == bad_page; });
      ++calls;
    }
  });
  ExpectFoundAndHealed({flipped, lost, index});
  stop = true;
  worker.join();
  EXPECT_GT(calls, 0u);
}

// The layer behind the one that failed was never read; DRAM must not take its memory for rows.
TEST_F(RepairTest, AStreamsFailedRowLeavesTheOtherLayersRight) {
  checkpoint_ = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon({"--dram", "0"});
  ASSERT_TRUE(Load("t", checkpoint_.directory).ok());
  MapFiles();
  StopDaemon();
  const std::string file = FileWith(1, 0);
  ASSERT_FALSE(file.empty());
  Apply(Damage::kFlippedData, file);
  StartDaemon({"--dram", "64MiB"});

  const std::vector<uint32_t> bad = {2 * kRowsPerPage};
  const std::vector<uint32_t> good = {0};
  std::vector<uint32_t> behind(200);
  for (uint32_t i = 0; i < behind.size(); ++i) behind[i] = 7 * i;
  std::vector<std::byte> row(kRowBytes);
  std::vector<std::byte> rows(behind.size() * kRowBytes);
  auto stream = client_->OpenStream();
  ASSERT_TRUE(stream.ok()) << stream.status();
  ASSERT_TRUE((*stream)
                  ->Send({.table = "t",
                          .layers = {{1, bad, absl::MakeSpan(row), {}},
                                     {14, behind, absl::MakeSpan(rows), {}}}})
                  .ok());
  auto event = (*stream)->Receive();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->status.code(), absl::StatusCode::kDataLoss) << event->status;
  EXPECT_TRUE(event->last);
  // A stream's requests are worked on one after the other: once the second is answered, all that
  // the first leaves behind is in DRAM.
  ASSERT_TRUE((*stream)->Send({.table = "t", .layers = {{1, good, absl::MakeSpan(row), {}}}}).ok());
  event = (*stream)->Receive();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_TRUE(event->status.ok()) << event->status;
  ExpectRows(checkpoint_, 1, good, row);

  EXPECT_EQ(LookupSome(*client_, 14, behind, Nothing), 0u);
}

TEST_F(RepairTest, OtherCheckpointsAreRefused) {
  LoadAndMap();
  const std::string file = FileWith(1, 0);
  Apply(Damage::kFlippedData, file);
  const auto before = Identities();
  const TestCheckpoint other = MakeCheckpoint("other", 500, 2);
  CommandResult refused = Ctl({"load", "t", "--checkpoint", other.directory, "--repair"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, AllOf(HasSubstr("no version of table 't' holds this checkpoint"),
                                    HasSubstr("version 1 holds "), HasSubstr("--version")));
  refused = Ctl({"load", "u", "--checkpoint", checkpoint_.directory, "--repair"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, HasSubstr("there is no table 'u' to repair"));
  refused = RepairTable({"--version", "7"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, HasSubstr("there is no table 't' version 7 to repair"));

  refused = Ctl({"load", "t", "--checkpoint", other.directory, "--repair", "--version", "1"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, HasSubstr("cannot be compared"));

  // Headers as they were, other bytes in the rows of the damaged chunk; and other file times, so
  // that the version has to be named.
  const std::string shard = checkpoint_.ShardPath(1);
  FlipByte(shard, 5000);
  refused = RepairTable({"--version", "1"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.errors, HasSubstr("holds other rows than"));
  EXPECT_EQ(Identities(), before);
  FlipByte(shard, 5000);
  EXPECT_EQ(RepairTable().exit_code, 1);
  EXPECT_EQ(Identities(), before);
  const CommandResult repaired = RepairTable({"--version", "1"});
  EXPECT_EQ(repaired.exit_code, 0) << repaired.errors;
  EXPECT_THAT(repaired.output, HasSubstr("1 of "));
  EXPECT_THAT(repaired.output, HasSubstr(fs::path(file).stem().string()));
  EXPECT_EQ(LookupEverything(*client_, Nothing), 0u);
}

TEST_F(RepairTest, DescribeShowsThePages) {
  LoadAndMap();
  const CommandResult text = Ctl({"describe", "t"});
  EXPECT_THAT(text.output, HasSubstr("pages of 15 rows in 4,096 bytes, 3.3 % of them unused"));
  EXPECT_THAT(text.output, HasSubstr(" on disk"));
  uint64_t bytes = 0;
  for (const auto& [name, held] : files_) {
    if (held.layer == 14) bytes += fs::file_size(PathOf(name));
  }
  const CommandResult json = Ctl({"describe", "t", "--json"});
  EXPECT_THAT(json.output,
              AllOf(HasSubstr("\"rows_per_page\": 15"), HasSubstr("\"block_bytes\": 4096"),
                    HasSubstr("\"waste_percent\": 3.3"),
                    HasSubstr("\"disk_bytes\": " + std::to_string(bytes))));
}

}  // namespace
}  // namespace engram::testing
