#include "tests/bench/bench_env.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"

namespace engram::bench {
namespace {

// Only raised, never lowered; whoever sees it late does a little more work. Relaxed is enough.
std::atomic<bool> interrupted{false};

}  // namespace

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  if (values.size() % 2 == 1) return values[middle];
  return (values[middle - 1] + values[middle]) / 2;
}

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double index = share * static_cast<double>(values.size());
  return values[std::min(values.size() - 1, static_cast<size_t>(index))];
}

AlignedBuffer MakeAlignedBuffer(size_t bytes) {
  return AlignedBuffer(static_cast<std::byte*>(std::aligned_alloc(kDirectBlock, bytes)));
}

void CatchInterrupts() {
  static sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([] {
    int signal = 0;
    while (sigwait(&signals, &signal) == 0) {
      if (!interrupted.exchange(true, std::memory_order_relaxed)) {
        std::cerr << "engram_bench: interrupted; stopping what was started and cleaning up\n";
      }
    }
  }).detach();
}

bool Interrupted() { return interrupted.load(std::memory_order_relaxed); }

absl::Status CheckInterrupt() {
  return Interrupted() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

absl::StatusOr<ScratchDirectory> ScratchDirectory::Create(const std::string& parent) {
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(parent, error).string();
  std::string path = absl::StrCat(absolute, "/engram_bench.XXXXXX");
  if (error || ::mkdtemp(path.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot make a directory in ", parent, ": ",
                                               std::strerror(errno), "; name another with --dir"));
  }
  return ScratchDirectory(path);
}

ScratchDirectory::ScratchDirectory(ScratchDirectory&& other) noexcept
    : path_(std::exchange(other.path_, "")), socket_dir_(std::exchange(other.socket_dir_, "")) {}

ScratchDirectory::~ScratchDirectory() {
  for (const std::string& path : {path_, socket_dir_, path_.empty() ? "" : ShmDir()}) {
    if (path.empty()) continue;
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error)
      std::cerr << "engram_bench: cannot remove " << path << ": " << error.message() << "\n";
  }
}

std::string ScratchDirectory::ShmDir() const {
  return "/dev/shm/" + std::filesystem::path(path_).filename().string();
}

absl::StatusOr<std::string> ScratchDirectory::SocketAddress(const std::string& name) const {
  const std::string here = File(name + ".sock");
  // Beside it lies the socket for shared memory, with a longer name.
  if (here.size() + 4 < sizeof(sockaddr_un::sun_path)) return "unix:" + here;
  if (socket_dir_.empty()) {
    std::string path = "/tmp/engram_bench.XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("cannot make a directory for sockets in /tmp: ", std::strerror(errno)));
    }
    socket_dir_ = path;
  }
  return absl::StrCat("unix:", socket_dir_, "/", name, ".sock");
}

absl::StatusOr<uint64_t> ScratchDirectory::FreeBytes() const {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(path_, error);
  if (!error) return space.available;
  return absl::UnavailableError(absl::StrCat("statvfs ", path_, ": ", error.message()));
}

absl::Status ScratchDirectory::CheckSpace(uint64_t bytes) const {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t available, FreeBytes());
  if (available >= bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      path_, " has ", FormatSize(available), " free; this suite needs ", FormatSize(bytes),
      ": name another place with --dir or a smaller --table-bytes, --rows or --parameters"));
}

absl::Status ScratchDirectory::CheckOnDrive() const {
  struct statfs info {};
  if (::statfs(path_.c_str(), &info) != 0) {
    return absl::UnavailableError(absl::StrCat("statfs ", path_, ": ", std::strerror(errno)));
  }
  if (info.f_type != TMPFS_MAGIC && info.f_type != RAMFS_MAGIC) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      path_, " lies in memory (tmpfs); this suite measures a drive: name one with --dir"));
}

absl::Status MakeFolder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("mkdir ", path, ": ", std::strerror(errno)));
}

absl::Status RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot remove ", path, ": ", error.message()));
  }
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const UniqueFd fd(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::syncfs(fd.get()) != 0) {
    return absl::UnavailableError(absl::StrCat("syncfs ", parent, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SiblingProgram(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string path = (self.parent_path() / name).string();
  if (!error && ::access(path.c_str(), X_OK) == 0) return path;
  return absl::NotFoundError(
      absl::StrCat(path, " is not there: build or install it beside engram_bench"));
}

}  // namespace engram::bench
