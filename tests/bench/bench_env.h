// What every suite stands on: a scratch directory, child processes, the interrupt flag.
//
// Everything a benchmark makes lies in one directory of its own and is removed with it; every
// process it starts is stopped by its own process id. SIGINT and SIGTERM only raise a flag that all
// loops look at, so that the way out is always the same: unwind, stop children, remove files.
//
// One thread at a time owns each object. Interrupted() may be called from any thread.
#ifndef ENGRAM_TESTS_BENCH_BENCH_ENV_H_
#define ENGRAM_TESTS_BENCH_BENCH_ENV_H_

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/base/unique_fd.h"

namespace engram::bench {

struct BenchOptions {
  std::string dir;                           // where scratch directories are made
  bool json = false;                         // one JSON object a line on stdout, nothing else there
  bool quick = false;                        // tiny tables, short rounds: only to see that it works
  uint64_t table_bytes = 0;                  // row bytes of the table; 0: the suite's default
  int rounds = 0;                            // of each line; 0: the suite's default
  std::string only;                          // `nvme`: lines whose names begin so; empty: all
  std::vector<uint64_t> rows;                // `scale`: of its tables; empty: its default
  uint64_t parameters = 0;                   // `params`: of its table; 0: its default
  uint64_t dram_bytes = uint64_t{16} << 30;  // `params`: the daemon's DRAM tier
  std::vector<std::string> trace;            // `trace`: files that warm the cache
  uint64_t sequences = 0;  // `trace`: documents at once; 0: one after the other, file by file
  uint64_t turn = 1;       // `trace`: ids of each in its turn
  std::vector<std::string> test_trace;  // `trace`: files that are measured
  std::string tokenizer;                // `trace`: where tokenizer.json lies; empty: row ids
  std::string command;                  // as this program was called

  int Rounds(int suite_rounds) const { return rounds > 0 ? rounds : quick ? 1 : suite_rounds; }
};

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start);
double Median(std::vector<double> values);  // requires at least one
// The value below which `share` of them lie; requires at least one.
double Percentile(std::vector<double> values, double share);

// Memory for direct I/O, aligned to kDirectBlock; null if there is none. `bytes` is a multiple.
inline constexpr size_t kDirectBlock = 4096;
struct FreeAligned {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using AlignedBuffer = std::unique_ptr<std::byte, FreeAligned>;
AlignedBuffer MakeAlignedBuffer(size_t bytes);

// Blocks SIGINT and SIGTERM in this thread and all made later, and starts the thread that takes
// them. To be called once, before any other thread exists.
void CatchInterrupts();
bool Interrupted();
// Cancelled once an interrupt has come.
absl::Status CheckInterrupt();

// DIR/engram_bench.XXXXXX, removed with all that is in it.
class ScratchDirectory {
 public:
  // Unavailable, naming `parent`, when it cannot be made there.
  static absl::StatusOr<ScratchDirectory> Create(const std::string& parent);
  ScratchDirectory(ScratchDirectory&& other) noexcept;
  ScratchDirectory& operator=(ScratchDirectory&&) = delete;
  ~ScratchDirectory();

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  // The address of a Unix socket in here; in a second directory, in /tmp, when the path would be
  // too long for one.
  absl::StatusOr<std::string> SocketAddress(const std::string& name) const;

  // A directory in memory, for a daemon's shared DRAM tier: its user creates it.
  std::string ShmDir() const;

  // ResourceExhausted, naming both sizes, when fewer than `bytes` are free.
  absl::Status CheckSpace(uint64_t bytes) const;
  absl::StatusOr<uint64_t> FreeBytes() const;
  // FailedPrecondition when files here lie in memory: direct I/O would measure nothing.
  absl::Status CheckOnDrive() const;

 private:
  explicit ScratchDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
  mutable std::string socket_dir_;  // made when first needed
};

// A new directory. Unavailable when it cannot be made.
absl::Status MakeFolder(const std::string& path);

// Deletes a directory with all that is in it and waits until the file system has settled, so that
// the next measurement does not pay for it.
absl::Status RemoveTree(const std::string& path);

// Resident memory of a process, in bytes.
struct MemoryUse {
  int64_t now = 0;   // VmRSS
  int64_t peak = 0;  // VmHWM
};
absl::StatusOr<MemoryUse> ReadMemoryUse(pid_t pid);
// Resets this process' peak to what it holds now.
absl::Status ResetPeakMemory();
// User and system time of this process so far, all threads.
double OwnCpuSeconds();
// Bytes of files that the kernel caches, of the whole machine.
absl::StatusOr<int64_t> PageCacheBytes();

// A program started by this one, stopped at the latest when the object goes (and by the kernel, if
// this program is killed). Its stderr goes to a log file.
class ChildProcess {
 public:
  // `argv[0]` is the program's path. Unavailable when it cannot be run.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const std::vector<std::string>& argv,
                                                             const std::string& log_path);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Reads stdout until `line` comes. Unavailable, with the end of the log, when it does not.
  absl::Status WaitForLine(const std::string& line, std::chrono::seconds timeout);
  // Waits until the program has ended by itself, draining its stdout. Unavailable, with the end of
  // the log, when it ends with anything but 0; Cancelled by an interrupt.
  absl::Status WaitForSuccess();
  // SIGTERM; SIGKILL if that does not help within 20 s. Internal when it did not exit with 0.
  absl::Status Stop();
  // SIGKILL, and waits until it has ended.
  absl::Status Kill();
  // User and system time so far, all threads, to 10 ms.
  absl::StatusOr<double> CpuSeconds() const;
  // Its resident memory: now, and the most that it ever was.
  absl::StatusOr<MemoryUse> Memory() const { return ReadMemoryUse(pid_); }

 private:
  ChildProcess(pid_t pid, UniqueFd process, UniqueFd output, const std::string& name,
               std::string log_path);
  absl::Status Failed(const std::string& what) const;
  bool Reap(std::chrono::milliseconds timeout);  // false when it still runs

  const pid_t pid_;
  UniqueFd process_;  // a pidfd: readable when the program has ended
  UniqueFd output_;
  const std::string name_;
  const std::string log_path_;
  std::string pending_;  // stdout after the last whole line
  bool running_ = true;
  int wait_status_ = 0;
};

// The path of a program that lies beside this one. NotFound, naming it, if there is none.
absl::StatusOr<std::string> SiblingProgram(const std::string& name);

// A real engramd on a Unix socket, all else by default.
class Daemon {
 public:
  // On the scratch's directory `data`, which outlives it: a second one finds the tables of the
  // first.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(
      const ScratchDirectory& scratch, uint64_t dram_bytes,
      const std::vector<std::string>& more_flags = {}, const std::string& data = "data");
  const std::string& target() const { return target_; }
  ChildProcess& process() { return *process_; }
  double start_seconds() const { return start_seconds_; }  // until it said that it is ready

  // `engramctl load`, with default settings; gives the seconds from its start to its end.
  absl::StatusOr<double> Load(const std::string& table, const std::string& checkpoint);
  // `engramctl drop`, then waits until the files are gone.
  absl::Status Drop(const std::string& table);
  // Paths of the tables' data files, in no order.
  absl::StatusOr<std::vector<std::string>> DataFiles() const;

 private:
  Daemon() = default;
  absl::StatusOr<double> Control(const std::vector<std::string>& arguments);

  std::string target_;
  std::string data_dir_;
  std::string log_dir_;
  double start_seconds_ = 0;
  std::unique_ptr<ChildProcess> process_;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_BENCH_ENV_H_
