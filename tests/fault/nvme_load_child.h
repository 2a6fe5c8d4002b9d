// The table that nvme_load_child works on, and how the kill tests run it.
#ifndef ENGRAM_TESTS_FAULT_NVME_LOAD_CHILD_H_
#define ENGRAM_TESTS_FAULT_NVME_LOAD_CHILD_H_

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {

inline TableSpec KillSpec() { return MakeSpec("m", 1, {{1, 3000, 264}, {14, 1200, 160}}); }

struct ChildResult {
  bool killed = false;
  int exit_code = -1;
  uint64_t events = 0;
};

// Runs the child to its end or death. Its output goes to a file beside `directory`.
inline ChildResult RunChild(const std::string& directory, uint64_t kill_at,
                            const std::string& verb) {
  const std::string out = directory + ".out";
  const std::string binary =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "nvme_load_child";
  const std::string number = std::to_string(kill_at);
  const pid_t child = ::fork();
  if (child == 0) {
    if (std::freopen(out.c_str(), "w", stdout) == nullptr) ::_exit(3);
    ::execl(binary.c_str(), binary.c_str(), directory.c_str(), number.c_str(), verb.c_str(),
            static_cast<char*>(nullptr));
    ::_exit(4);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  ChildResult result;
  result.killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  std::ifstream(out) >> result.events;
  return result;
}

}  // namespace engram

#endif  // ENGRAM_TESTS_FAULT_NVME_LOAD_CHILD_H_
