// Takes io_uring away from the code under test, as a host does: refused by a seccomp filter, or
// broken in the middle.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_RING_TESTING_H_
#define ENGRAM_TESTS_UNIT_STORAGE_RING_TESTING_H_

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace engram::testing_ring {

// Runs `body` on a thread of its own, on which io_uring_setup fails with EPERM.
inline void WithoutRings(const std::function<void()>& body) {
  std::thread([&body] {
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{sizeof filter / sizeof filter[0], filter};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    body();
  }).join();
}

// Descriptors of this process that are rings.
inline std::vector<int> RingDescriptors() {
  std::vector<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const auto target = std::filesystem::read_symlink(entry.path(), error);
    if (!error && target.string().find("[io_uring]") != std::string::npos) {
      found.push_back(std::stoi(entry.path().filename().string()));
    }
  }
  return found;
}

// From now on every call on the descriptor of the process's only ring, but for those of `others`,
// fails.
inline void BreakTheRing(const std::vector<int>& others = {}) {
  std::vector<int> rings = RingDescriptors();
  for (const int other : others) std::erase(rings, other);
  ASSERT_EQ(rings.size(), 1u);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  EXPECT_EQ(::dup2(null, rings[0]), rings[0]);
  ::close(null);
}

}  // namespace engram::testing_ring

#endif  // ENGRAM_TESTS_UNIT_STORAGE_RING_TESTING_H_
