// ChildProcess and Daemon of bench_env.h.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "storage/base/status_macros.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {
namespace {

constexpr std::chrono::milliseconds kLookAround{100};  // between looks at the interrupt flag
constexpr std::chrono::seconds kStopPatience{20};      // the daemon drains for 10 s
constexpr std::chrono::seconds kStartPatience{120};
constexpr std::chrono::seconds kDropPatience{30};
constexpr uintmax_t kLeastTableFile = 64 << 10;  // the catalog's own files are smaller
constexpr size_t kLogTailBytes = 2000;

absl::Status Errno(const std::string& what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// The child's side of fork: only calls that are safe there.
[[noreturn]] void Exec(char* const* argv, int output, int log, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // A Ctrl-C at the terminal is for us alone; we stop our children in order.
  ::setpgid(0, 0);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null < 0 || ::dup2(null, 0) < 0 || ::dup2(output, 1) < 0 || ::dup2(log, 2) < 0) ::_exit(127);
  ::execv(argv[0], argv);
  ::_exit(127);
}

// True when `fd` can be read (or has ended) within the time.
bool WaitReadable(int fd, std::chrono::milliseconds timeout) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, static_cast<int>(timeout.count())) > 0;
}

// The value, in bytes, of a line such as "VmRSS:   1234 kB".
absl::StatusOr<int64_t> KibField(const std::string& path, const std::string& field) {
  std::ifstream file(path);
  for (std::string name; file >> name;) {
    int64_t kib = 0;
    if (name == field && file >> kib) return kib * 1024;
    std::getline(file, name);
  }
  return absl::UnavailableError(absl::StrCat("there is no ", field, " in ", path));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::vector<std::string>& argv, const std::string& log_path) {
  std::vector<char*> pointers;
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  const UniqueFd log(::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.valid()) return Errno(absl::StrCat("open ", log_path));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Errno("pipe2");
  UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return Errno("fork");
  if (pid == 0) Exec(pointers.data(), write_end.get(), log.get(), parent);
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const bool watched = process.valid();
  std::unique_ptr<ChildProcess> child(
      new ChildProcess(pid, std::move(process), std::move(read_end), argv[0], log_path));
  if (!watched) return absl::UnavailableError("pidfd_open is refused: a Linux of 5.3 or newer");
  return child;
}

ChildProcess::ChildProcess(pid_t pid, UniqueFd process, UniqueFd output, const std::string& name,
                           std::string log_path)
    : pid_(pid),
      process_(std::move(process)),
      output_(std::move(output)),
      name_(std::filesystem::path(name).filename().string()),
      log_path_(std::move(log_path)) {}

ChildProcess::~ChildProcess() { (void)Stop(); }

absl::Status ChildProcess::Failed(const std::string& what) const {
  std::ifstream file(log_path_);
  std::stringstream text;
  text << file.rdbuf();
  std::string tail = text.str();
  if (tail.size() > kLogTailBytes) tail.erase(0, tail.size() - kLogTailBytes);
  return absl::UnavailableError(absl::StrCat(name_, " ", what, "; its log ends:\n", tail));
}

absl::Status ChildProcess::WaitForLine(const std::string& line, std::chrono::seconds timeout) {
  const Clock::time_point end = Clock::now() + timeout;
  while (Clock::now() < end) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    for (size_t stop; (stop = pending_.find('\n')) != std::string::npos;) {
      const std::string found = pending_.substr(0, stop);
      pending_.erase(0, stop + 1);
      if (found == line) return absl::OkStatus();
    }
    if (!WaitReadable(output_.get(), kLookAround)) continue;
    char buffer[4096];
    const ssize_t count = ::read(output_.get(), buffer, sizeof(buffer));
    if (count <= 0) return Failed(absl::StrCat("ended without saying '", line, "'"));
    pending_.append(buffer, static_cast<size_t>(count));
  }
  return Failed(absl::StrCat("did not say '", line, "' within ", timeout.count(), " s"));
}

absl::Status ChildProcess::WaitForSuccess() {
  char buffer[4096];
  while (WaitReadable(output_.get(), kLookAround) ? ::read(output_.get(), buffer, 4096) > 0
                                                  : true) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
  }
  while (!Reap(kLookAround)) ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
  if (WIFEXITED(wait_status_) && WEXITSTATUS(wait_status_) == 0) return absl::OkStatus();
  return Failed(absl::StrCat("failed (wait status ", wait_status_, ")"));
}

bool ChildProcess::Reap(std::chrono::milliseconds timeout) {
  if (!running_) return true;
  if (process_.valid() && !WaitReadable(process_.get(), timeout)) return false;
  if (::waitpid(pid_, &wait_status_, 0) == pid_) running_ = false;
  return !running_;
}

absl::Status ChildProcess::Stop() {
  if (!running_) return absl::OkStatus();
  // Not reaped yet, so the number is still its own.
  ::kill(pid_, SIGTERM);
  if (!Reap(kStopPatience)) {
    ::kill(pid_, SIGKILL);
    (void)Reap(kStopPatience);
    return absl::InternalError(absl::StrCat(name_, " did not stop on SIGTERM and was killed"));
  }
  if (WIFEXITED(wait_status_) && WEXITSTATUS(wait_status_) == 0) return absl::OkStatus();
  return absl::InternalError(
      Failed(absl::StrCat("did not stop cleanly (wait status ", wait_status_, ")")).message());
}

absl::Status ChildProcess::Kill() {
  if (!running_) return absl::OkStatus();
  ::kill(pid_, SIGKILL);
  if (Reap(kStopPatience)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(name_, " did not end on SIGKILL"));
}

absl::StatusOr<double> ChildProcess::CpuSeconds() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/stat"));
  std::string line;
  std::getline(file, line);
  // proc(5): fields count from 1; the second, in brackets, may hold spaces. 14 and 15 are utime and
  // stime in ticks; the third is the first behind the bracket.
  const size_t bracket = line.rfind(") ");
  if (bracket == std::string::npos) {
    return absl::UnavailableError(absl::StrCat("cannot read /proc/", pid_, "/stat"));
  }
  const std::vector<std::string> fields = absl::StrSplit(line.substr(bracket + 2), ' ');
  uint64_t user = 0;
  uint64_t system = 0;
  if (fields.size() < 13 || !absl::SimpleAtoi(fields[11], &user) ||
      !absl::SimpleAtoi(fields[12], &system)) {
    return absl::UnavailableError(absl::StrCat("/proc/", pid_, "/stat is not as expected"));
  }
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

absl::StatusOr<MemoryUse> ReadMemoryUse(pid_t pid) {
  const std::string path = absl::StrCat("/proc/", pid, "/status");
  MemoryUse use;
  ENGRAM_ASSIGN_OR_RETURN(use.now, KibField(path, "VmRSS:"));
  ENGRAM_ASSIGN_OR_RETURN(use.peak, KibField(path, "VmHWM:"));
  return use;
}

absl::Status ResetPeakMemory() {
  // proc(5), clear_refs: 5 resets the peak resident set size.
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file ? absl::OkStatus() : absl::UnavailableError("cannot write /proc/self/clear_refs");
}

double OwnCpuSeconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

absl::StatusOr<int64_t> PageCacheBytes() { return KibField("/proc/meminfo", "Cached:"); }

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const ScratchDirectory& scratch,
                                                      uint64_t dram_bytes,
                                                      const std::vector<std::string>& more_flags,
                                                      const std::string& data) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string program, SiblingProgram("engramd"));
  std::unique_ptr<Daemon> daemon(new Daemon);
  daemon->data_dir_ = scratch.File(data);
  daemon->log_dir_ = scratch.path();
  ENGRAM_ASSIGN_OR_RETURN(daemon->target_, scratch.SocketAddress(absl::StrCat("engramd-", data)));
  std::vector<std::string> argv = {program,
                                   "--data-dir",
                                   daemon->data_dir_,
                                   "--listen",
                                   daemon->target_,
                                   "--http",
                                   "off",
                                   "--hbm",
                                   "0",
                                   "--dram",
                                   absl::StrCat(dram_bytes, "B"),
                                   "--shm-dir",
                                   scratch.ShmDir()};
  std::error_code there_already;
  std::filesystem::create_directory(scratch.ShmDir(), there_already);
  argv.insert(argv.end(), more_flags.begin(), more_flags.end());
  const Clock::time_point start = Clock::now();
  ENGRAM_ASSIGN_OR_RETURN(daemon->process_, ChildProcess::Start(argv, scratch.File("engramd.log")));
  ENGRAM_RETURN_IF_ERROR(daemon->process_->WaitForLine("engramd: ready", kStartPatience));
  daemon->start_seconds_ = SecondsSince(start);
  return daemon;
}

absl::StatusOr<double> Daemon::Control(const std::vector<std::string>& arguments) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string program, SiblingProgram("engramctl"));
  std::vector<std::string> argv = {program, "--server", target_};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  const Clock::time_point start = Clock::now();
  ENGRAM_ASSIGN_OR_RETURN(const auto child,
                          ChildProcess::Start(argv, absl::StrCat(log_dir_, "/engramctl.log")));
  ENGRAM_RETURN_IF_ERROR(child->WaitForSuccess());
  return SecondsSince(start);
}

absl::StatusOr<double> Daemon::Load(const std::string& table, const std::string& checkpoint) {
  return Control({"load", table, "--checkpoint", checkpoint});
}

absl::Status Daemon::Drop(const std::string& table) {
  ENGRAM_RETURN_IF_ERROR(Control({"drop", table, "--all"}).status());
  const Clock::time_point end = Clock::now() + kDropPatience;
  while (Clock::now() < end) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> files, DataFiles());
    if (files.empty()) return absl::OkStatus();
    ::usleep(static_cast<useconds_t>(kLookAround.count() * 1000));
  }
  return absl::UnavailableError(absl::StrCat("files of table ", table, " still lie in ", data_dir_,
                                             " ", kDropPatience.count(),
                                             " s after it was dropped"));
}

absl::StatusOr<std::vector<std::string>> Daemon::DataFiles() const {
  std::vector<std::string> files;
  std::error_code error;
  auto entry = std::filesystem::recursive_directory_iterator(data_dir_, error);
  for (; !error && entry != std::filesystem::recursive_directory_iterator();
       entry.increment(error)) {
    std::error_code gone;  // a file may be deleted while we look
    if (entry->path().extension() == ".sst" && entry->file_size(gone) >= kLeastTableFile && !gone) {
      files.push_back(entry->path().string());
    }
  }
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot list ", data_dir_, ": ", error.message()));
  }
  return files;
}

}  // namespace engram::bench
