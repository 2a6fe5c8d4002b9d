#include "tests/unit/client/cli/run_ctl.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace engram::testing {
namespace {

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Ours, with ENGRAM_SERVER as asked for.
std::vector<std::string> Environment(const std::string& server) {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string variable = *entry;
    if (variable.rfind("ENGRAM_SERVER=", 0) != 0) variables.push_back(variable);
  }
  if (!server.empty()) variables.push_back("ENGRAM_SERVER=" + server);
  return variables;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::string MakeDirectory() {
  std::string directory = ::testing::TempDir() + "engramctl_XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) throw std::runtime_error("mkdtemp " + directory);
  return directory;
}

}  // namespace

Ctl::Ctl(const std::vector<std::string>& arguments, const std::string& server,
         const std::string& input)
    : directory_(MakeDirectory()) {
  std::ofstream(directory_ + "/in") << input;
  Start(arguments, server, directory_ + "/in");
}

Ctl::Ctl(const std::vector<std::string>& arguments, const std::string& server, const Stdin& in)
    : directory_(MakeDirectory()) {
  Start(arguments, server, in.path);
}

void Ctl::Start(const std::vector<std::string>& arguments, const std::string& server,
                const std::string& stdin_path) {
  std::vector<std::string> words = {ENGRAM_CTL};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = Environment(server);
  // Spawned, not forked: this process has gRPC's threads.
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  const int flags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&files, 0, stdin_path.c_str(), O_RDONLY | O_NOCTTY, 0);
  posix_spawn_file_actions_addopen(&files, 1, (directory_ + "/out").c_str(), flags, 0600);
  posix_spawn_file_actions_addopen(&files, 2, (directory_ + "/err").c_str(), flags, 0600);
  const int error = posix_spawn(&pid_, ENGRAM_CTL, &files, nullptr, Pointers(words).data(),
                                Pointers(variables).data());
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) throw std::runtime_error("cannot start " ENGRAM_CTL);
}

Ctl::~Ctl() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    Wait();
  }
  std::filesystem::remove_all(directory_);
}

void Ctl::Signal(int signal) { kill(pid_, signal); }

void Ctl::WaitForSignalHandler(int signal) {
  const std::string label = "SigCgt:";
  while (true) {
    const std::string status = ReadFile("/proc/" + std::to_string(pid_) + "/status");
    const size_t at = status.find(label);
    if (at == std::string::npos || status.find("State:\tZ") != std::string::npos) return;
    const unsigned long long caught = std::stoull(status.substr(at + label.size()), nullptr, 16);
    if ((caught >> (signal - 1) & 1) != 0) return;
    std::this_thread::yield();
  }
}

CtlResult Ctl::Wait() {
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  CtlResult result;
  result.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  result.out = ReadFile(directory_ + "/out");
  result.err = ReadFile(directory_ + "/err");
  return result;
}

void Ctl::WaitForLines(int lines) {
  while (true) {
    const std::string text = ReadFile(directory_ + "/out");
    if (std::count(text.begin(), text.end(), '\n') >= lines) return;
    std::this_thread::yield();
  }
}

CtlResult CtlOnTerminal(const std::vector<std::string>& arguments, const std::string& server,
                        const std::string& typed) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0 || ::grantpt(terminal) != 0 || ::unlockpt(terminal) != 0) {
    throw std::runtime_error("cannot make a terminal");
  }
  const char* const path = ::ptsname(terminal);
  // Open on our side until the end, so that what was typed is not lost before the child reads it.
  const int held = ::open(path, O_RDWR | O_NOCTTY);
  const bool written =
      ::write(terminal, typed.data(), typed.size()) == static_cast<ssize_t>(typed.size());
  if (held < 0 || !written) throw std::runtime_error("cannot type into the terminal");
  CtlResult result = Ctl(arguments, server, Ctl::Stdin{path}).Wait();
  ::close(held);
  ::close(terminal);
  return result;
}

}  // namespace engram::testing
