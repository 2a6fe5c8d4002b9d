// Clients in processes of their own read DRAM while it changes under them: rows come and go, the
// table's version is switched, the budget changes, clients are killed, the daemon is killed or
// restarted with another budget. Every byte of every answer is compared.
//
//   fault_shm_stress                   30 s
//   fault_shm_stress --seconds=600     the long run; so does $ENGRAM_TEST_SECONDS
//
// The seed decides what is done in which order; when it meets whom, the scheduler does.
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t g_seconds = 30;

// Four columns of that many rows in each of two layers: 24 MiB.
constexpr uint64_t kBaseSize = 12000;
constexpr size_t kClients = 4;
constexpr char kTable[] = "t";
// What a client says at its end, through its exit status; anything else is a failure.
constexpr int kAllRight = 0;
constexpr int kWrongRow = 3;
constexpr int kWrongError = 4;

// ------------------------------------------------------------------------ the client's process

std::atomic<bool> g_stop{false};

// The rows of a version are derived from its number.
TestCheckpoint Version(uint64_t version, const std::vector<uint64_t>& rows) {
  TestCheckpoint checkpoint;
  checkpoint.base_size = kBaseSize;
  checkpoint.salt = version;
  checkpoint.layers = {1, 14};
  checkpoint.rows = rows;
  return checkpoint;
}

bool RowsAreRight(const TestCheckpoint& checkpoint, int layer, const std::vector<uint32_t>& ids,
                  const std::vector<std::byte>& rows) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::vector<std::byte> expected = ids[i] == kDeadPosition
                                                ? std::vector<std::byte>(kRowBytes)
                                                : checkpoint.ExpectedRow(layer, ids[i]);
    if (std::memcmp(expected.data(), &rows[i * kRowBytes], kRowBytes) == 0) continue;
    dprintf(STDERR_FILENO, "client: layer %d row %u of version %lu is wrong\n", layer, ids[i],
            checkpoint.salt);
    return false;
  }
  return true;
}

// What may be said while daemons come and go.
bool IsExpected(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

// Looks rows up until it is told to stop; prints how many rows came from DRAM.
int RunClient(const std::string& target, uint64_t seed, const std::vector<uint64_t>& row_counts) {
  signal(SIGTERM, [](int) { g_stop = true; });
  std::mt19937_64 random(seed);
  uint64_t dram_rows = 0;
  std::unique_ptr<Client> client;
  while (!g_stop) {
    if (client == nullptr || random() % 2000 == 0) {
      auto connected = Client::Connect({.target = target});
      if (!connected.ok()) {
        if (!IsExpected(connected.status())) return kWrongError;
        continue;
      }
      client = *std::move(connected);
    }
    std::array<std::vector<uint32_t>, 2> ids;
    std::array<std::vector<std::byte>, 2> rows;
    for (size_t i = 0; i < 2; ++i) {
      ids[i].resize(1 + random() % 200);
      for (uint32_t& id : ids[i]) {
        id = static_cast<uint32_t>(random() % row_counts[i]);
        // Mostly of more than 1 MiB holds, so that they take turns, or of what 12 MiB do not hold.
        id %= std::array<uint32_t, 4>{3000, 3000, 20000, 0xFFFFFFFFu}[random() % 4];
        if (random() % 100 == 0) id = kDeadPosition;
      }
      rows[i].assign(ids[i].size() * kRowBytes, std::byte{0xEE});
    }
    const uint64_t version = random() % 3;  // 0: the active one
    const auto answer = client->Lookup({.table = kTable,
                                        .version = version,
                                        .layers = {{1, ids[0], absl::MakeSpan(rows[0]), {}},
                                                   {14, ids[1], absl::MakeSpan(rows[1]), {}}},
                                        .deadline = std::chrono::seconds(5)});
    if (!answer.ok()) {
      if (IsExpected(answer.status())) continue;
      std::cerr << "client: " << answer.status() << std::endl;
      return kWrongError;
    }
    const bool known = answer->version == 1 || answer->version == 2;
    if (!known || (version != 0 && answer->version != version)) return kWrongRow;
    const TestCheckpoint checkpoint = Version(answer->version, row_counts);
    if (!RowsAreRight(checkpoint, 1, ids[0], rows[0]) ||
        !RowsAreRight(checkpoint, 14, ids[1], rows[1])) {
      return kWrongRow;
    }
    if (client->transport() == TransportKind::kShm) {
      dram_rows += answer->layers[0].dram_rows + answer->layers[1].dram_rows;
    }
  }
  std::cout << dram_rows << std::endl;
  return kAllRight;
}

// ------------------------------------------------------------------------------- the test itself

class ShmStressTest : public DaemonFixture {
 protected:
  struct ClientProcess {
    pid_t pid = -1;
    int output = -1;
  };

  void StartClient(ClientProcess& client, uint64_t seed) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const std::vector<std::string> arguments = {"/proc/self/exe",         "--client",
                                                daemon_->target(),        std::to_string(seed),
                                                std::to_string(rows_[0]), std::to_string(rows_[1])};
    client.pid = ::fork();
    if (client.pid == 0) {
      ::dup2(pipe[1], STDOUT_FILENO);
      ::close(pipe[0]);
      ::close(pipe[1]);
      std::vector<char*> argv;
      for (const std::string& one : arguments) argv.push_back(const_cast<char*>(one.c_str()));
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      _exit(127);
    }
    ::close(pipe[1]);
    client.output = pipe[0];
  }

  // Ends it; what it has read from DRAM. Killed ones say nothing.
  uint64_t EndClient(ClientProcess& client, int with) {
    ::kill(client.pid, with);
    std::string said;
    std::array<char, 64> some{};
    for (ssize_t size = 0; (size = ::read(client.output, some.data(), some.size())) > 0;) {
      said.append(some.data(), static_cast<size_t>(size));
    }
    ::close(client.output);
    int status = 0;
    EXPECT_EQ(::waitpid(client.pid, &status, 0), client.pid);
    // One may have ended by itself before it was killed: with a finding.
    const bool ended = WIFEXITED(status);
    EXPECT_EQ(ended ? WEXITSTATUS(status) : 0, kAllRight);
    // SIGTERM ends one that has hardly begun.
    EXPECT_EQ(ended ? with : WTERMSIG(status), with);
    return said.empty() ? 0 : std::stoull(said);
  }

  void RestartDaemon(bool kill, std::mt19937_64& random) {
    // From too little for most rows to enough for all; some need other segments.
    const std::vector<std::string> budgets = {"512KiB", "1MiB", "1MiB", "12MiB", "64MiB"};
    if (kill) daemon_->Kill();
    StopDaemon();
    // Where all are admitted, rows are replaced all the time.
    StartDaemon({"--dram", budgets[random() % budgets.size()], "--admission",
                 random() % 4 == 0 ? "frequency" : "all"});
  }

  // Mostly so that segments come or go, at times so that the layout changes.
  void SetBudget(std::mt19937_64& random) {
    v1::SetDramBudgetRequest request;
    request.set_bytes(random() % 3 == 0 ? random() % (64 << 20) : (9 << 20) + random() % (9 << 20));
    const auto answer = admin_->SetDramBudget(request);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_LE(answer->used_bytes(), request.bytes());
  }

  // Descriptors of the daemon's process.
  size_t OpenFiles() const {
    size_t count = 0;
    DIR* const directory = ::opendir(("/proc/" + std::to_string(daemon_->pid()) + "/fd").c_str());
    if (directory == nullptr) return 0;
    while (::readdir(directory) != nullptr) ++count;
    ::closedir(directory);
    return count;
  }

  void Activate(uint64_t version) {
    v1::ActivateRequest request;
    request.set_table(kTable);
    request.set_version(version);
    const absl::Status status = admin_->Activate(request);
    ASSERT_TRUE(status.ok()) << status;
  }

  // One thing that happens to clients and daemon, drawn by `random`.
  void Happen(std::mt19937_64& random) {
    const size_t what = std::min<uint64_t>(random() % 13, 5);
    ++done_[what];
    ClientProcess& client = clients_[random() % kClients];
    switch (what) {
      case 0:
        EndClient(client, SIGKILL);
        StartClient(client, random());
        break;
      case 1:
        dram_rows_ += EndClient(client, SIGTERM);
        StartClient(client, random());
        break;
      case 2:
        RestartDaemon(/*kill=*/true, random);
        break;
      case 3:
        RestartDaemon(/*kill=*/false, random);
        break;
      case 4:
        Activate(1 + random() % 2);
        break;
      default:
        SetBudget(random);
    }
  }

  // Dead clients have left nothing with the daemon. No client is running.
  void ExpectNothingLeftBehind(uint64_t seed) {
    client_.reset();
    admin_.reset();
    size_t open = OpenFiles();
    for (int i = 0; i < 200; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const size_t now = OpenFiles();
      if (now >= open && i > 20) break;
      open = now;
    }
    const size_t before = open;
    StartClient(clients_[0], seed);
    EndClient(clients_[0], SIGKILL);
    for (int i = 0; i < 200 && OpenFiles() > before; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    EXPECT_LE(OpenFiles(), before);
  }

  std::vector<uint64_t> rows_;
  std::array<ClientProcess, kClients> clients_;
  std::array<int, 6> done_{};
  uint64_t dram_rows_ = 0;
};

TEST_F(ShmStressTest, NoClientEverSeesAWrongRow) {
  std::mt19937_64 random(TestSeed());
  StartDaemon({"--dram", "1MiB", "--admission", "all"});
  for (const uint64_t version : {1, 2}) {
    const TestCheckpoint checkpoint =
        MakeCheckpoint("v" + std::to_string(version), kBaseSize, version);
    rows_ = checkpoint.rows;
    ASSERT_TRUE(Load(kTable, checkpoint.directory, version).ok());
  }
  for (ClientProcess& client : clients_) StartClient(client, random());
  const Clock::time_point end = Clock::now() + std::chrono::seconds(g_seconds);
  while (Clock::now() < end && !HasFailure()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + random() % 300));
    Happen(random);
  }
  for (ClientProcess& client : clients_) dram_rows_ += EndClient(client, SIGTERM);
  std::cout << "clients killed " << done_[0] << ", restarted " << done_[1] << "; daemon killed "
            << done_[2] << ", restarted " << done_[3] << "; switches " << done_[4] << ", budgets "
            << done_[5] << "; " << dram_rows_
            << " rows from DRAM by clients that ended by themselves" << std::endl;
  EXPECT_GT(dram_rows_, 0u);
  ExpectNothingLeftBehind(random());
}

}  // namespace
}  // namespace engram::testing

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "--client") {
    return engram::testing::RunClient(
        argv[2], std::strtoull(argv[3], nullptr, 10),
        {std::strtoull(argv[4], nullptr, 10), std::strtoull(argv[5], nullptr, 10)});
  }
  ::testing::InitGoogleTest(&argc, argv);
  if (const char* seconds = std::getenv("ENGRAM_TEST_SECONDS"); seconds != nullptr) {
    engram::testing::g_seconds = std::strtoull(seconds, nullptr, 10);
  }
  const std::string flag = "--seconds=";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.compare(0, flag.size(), flag) != 0) {
      std::cerr << "unknown argument " << argument << "; --seconds=N is known\n";
      return 2;
    }
    engram::testing::g_seconds = std::strtoull(argument.c_str() + flag.size(), nullptr, 10);
  }
  return RUN_ALL_TESTS();
}
