#include "tests/integration/test_daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

extern char** environ;

namespace engram::testing {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

pid_t Spawn(const std::string& program, const std::vector<std::string>& arguments,
            const std::string& out_path, const std::string& err_path) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out_path.c_str(), kFlags, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err_path.c_str(), kFlags, 0600);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::runtime_error("cannot start " + program);
  return pid;
}

// Polls `done` every 5 ms until it is true or the patience is over.
template <typename Done>
bool WaitUntil(int patience_s, Done done) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(patience_s);
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

int Decode(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

}  // namespace

TempDir::TempDir() {
  const char* base = ::getenv("TMPDIR");
  path_ = std::string(base != nullptr ? base : "/tmp") + "/engram_it_XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp " + path_);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
  std::filesystem::remove_all(ShmDirOf(path_), ignored);
}

// In memory, of one name with the directory, so that a daemon's successor finds what it left.
std::string ShmDirOf(const std::string& directory) {
  return "/dev/shm/" + std::filesystem::path(directory).filename().string();
}

// $ENGRAM_BIN_DIR, for tests that were moved elsewhere with the programs.
std::string ToolPath(const std::string& name) {
  const char* const moved = std::getenv("ENGRAM_BIN_DIR");
  return std::string(moved == nullptr ? ENGRAM_BIN_DIR : moved) + "/" + name;
}

TestDaemon::TestDaemon(const std::string& directory, std::vector<std::string> flags)
    : directory_(directory), target_("unix:" + directory + "/s") {
  std::vector<std::string> arguments = {"--data-dir", directory + "/data", "--listen"};
  std::string listen = target_;
  std::vector<std::string> rest;
  const std::string shm_dir = ShmDirOf(directory);
  std::error_code ignored;
  std::filesystem::create_directory(shm_dir, ignored);
  for (const auto& [flag, value] : {std::pair<std::string, std::string>{"--http", ""},
                                    {"--dram", "64MiB"},
                                    {"--shm-dir", shm_dir}}) {
    if (std::find(flags.begin(), flags.end(), flag) != flags.end()) continue;
    flags.insert(flags.end(), {flag, value});
  }
  for (size_t i = 0; i < flags.size(); ++i) {
    if (flags[i] == "--also-listen") {
      listen += "," + flags[++i];
    } else {
      rest.push_back(flags[i]);
    }
  }
  arguments.push_back(listen);
  arguments.insert(arguments.end(), rest.begin(), rest.end());
  const std::string out = directory_ + "/engramd.out";
  pid_ = Spawn(ToolPath("engramd"), arguments, out, directory_ + "/engramd.log");
  const bool ready = WaitUntil(
      60, [&] { return ReadFile(out).find("engramd: ready") != std::string::npos || !Alive(); });
  if (!ready || !Alive()) {
    Kill();
    throw std::runtime_error("engramd did not become ready:\n" + Log());
  }
}

TestDaemon::~TestDaemon() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGTERM);
  if (WaitForExit(30) == -9999) Kill();
}

bool TestDaemon::Alive() const {
  siginfo_t info{};
  return pid_ > 0 && ::waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

std::string TestDaemon::Log() const { return ReadFile(directory_ + "/engramd.log"); }

int TestDaemon::PortFromLog(const std::string& what) const {
  const std::string log = Log();
  const size_t at = log.find(what);
  if (at == std::string::npos) throw std::runtime_error("no '" + what + "' in the log:\n" + log);
  return std::stoi(log.substr(at + what.size()));
}

int TestDaemon::WaitForExit(int patience_s) {
  int status = 0;
  const bool gone =
      WaitUntil(patience_s, [&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; });
  if (!gone) return -9999;
  pid_ = -1;
  return Decode(status);
}

int TestDaemon::Terminate() {
  ::kill(pid_, SIGTERM);
  return WaitForExit(60);
}

void TestDaemon::Kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  WaitForExit(60);
}

CommandResult RunTool(const std::string& name, const std::vector<std::string>& arguments) {
  const TempDir directory;
  const std::string out = directory.path() + "/out";
  const std::string err = directory.path() + "/err";
  const pid_t pid = Spawn(ToolPath(name), arguments, out, err);
  int status = 0;
  if (!WaitUntil(120, [&] { return ::waitpid(pid, &status, WNOHANG) == pid; })) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
  }
  return {Decode(status), ReadFile(out), ReadFile(err)};
}

}  // namespace engram::testing
