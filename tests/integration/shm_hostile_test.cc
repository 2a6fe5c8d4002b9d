// A client of another user that means harm: it is handed read-only descriptors of the daemon's
// memory and a ring, and tries what the system lets it try. Then rows are compared once more, by a
// client of the first user, over memory that the other one would have changed.
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "storage/dram/access_ring.h"
#include "storage/dram/control.h"
#include "storage/dram/handover.h"
#include "storage/dram/layout.h"
#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

using dram::HandoverReply;
using dram::HandoverRequest;

constexpr uid_t kNobody = 65534;

// In the hostile process: says what went wrong, and ends it.
void Require(bool good, const char* what) {
  if (good) return;
  dprintf(STDERR_FILENO, "hostile client: %s (errno %d: %s)\n", what, errno, std::strerror(errno));
  _exit(1);
}
void Refused(long result, const char* what) { Require(result < 0, what); }

int Connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return -1;
  timeval patience{.tv_sec = 10, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  return fd;
}

// The descriptors that come with the next answer; none when the daemon has hung up.
std::vector<int> Receive(int fd) {
  HandoverReply reply;
  iovec part{&reply, sizeof(reply)};
  alignas(cmsghdr) std::array<char, 1024> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  std::vector<int> files;
  if (::recvmsg(fd, &message, 0) <= 0) return files;
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header == nullptr) return files;
  files.resize((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  std::memcpy(files.data(), CMSG_DATA(header), files.size() * sizeof(int));
  return files;
}

std::vector<int> Ask(int fd, const HandoverRequest& request) {
  if (::send(fd, &request, sizeof(request), MSG_NOSIGNAL) < 0) return {};
  return Receive(fd);
}
std::vector<int> Hello(int fd) { return Ask(fd, {.layout_version = dram::kLayoutVersion}); }
std::vector<int> AskForSegment(int fd, uint64_t id) {
  HandoverRequest request{.kind = dram::HandoverKind::kSegments, .count = 1};
  request.ids[0] = id;
  return Ask(fd, request);
}

// Every way to change memory that is shared read-only.
void TryToWrite(int file, off_t size) {
  const auto bytes = static_cast<size_t>(size);
  Refused(::write(file, "x", 1), "wrote into a segment");
  Refused(::ftruncate(file, 0), "cut a segment short");
  Refused(::ftruncate(file, size * 2), "made a segment longer");
  Refused(::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size),
          "punched a hole into a segment");
  Refused(::fchmod(file, 0666), "changed a segment's mode");
  Refused(::fchown(file, kNobody, kNobody), "took a segment over");
  Refused(::fcntl(file, F_ADD_SEALS, F_SEAL_WRITE), "sealed a segment");
  Require(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) == MAP_FAILED,
          "mapped a segment for writing");
  void* const memory = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
  Require(memory != MAP_FAILED, "cannot map a segment for reading");
  Refused(::mprotect(memory, bytes, PROT_READ | PROT_WRITE), "made a mapping writable");
  Refused(::madvise(memory, bytes, MADV_REMOVE), "removed a segment's pages");
  const std::string name = "/proc/self/fd/" + std::to_string(file);
  for (const int flags : {O_RDWR, O_WRONLY, O_RDWR | O_TRUNC}) {
    Refused(::open(name.c_str(), flags), "opened a segment anew for writing");
  }
  Refused(::truncate(name.c_str(), 0), "cut a segment short by its name");
}

void TryRing(int ring) {
  Refused(::ftruncate(ring, 0), "cut the ring short");
  Refused(::ftruncate(ring, 1 << 20), "made the ring longer");
  Refused(::fcntl(ring, F_ADD_SEALS, F_SEAL_WRITE), "sealed the ring");
  auto* const memory = static_cast<unsigned char*>(
      ::mmap(nullptr, dram::kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0));
  Require(memory != MAP_FAILED, "cannot map the ring");
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    for (size_t i = 0; i < dram::kRingBytes; ++i) {
      memory[i] = static_cast<unsigned char>(random() >> (round % 56));
    }
    // A hole, while the daemon may be reading.
    (void)::fallocate(ring, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, dram::kRingBytes);
    ::usleep(500);
  }
}

void SendNonsense(const std::string& path) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 100; ++round) {
    const int fd = Connect(path);
    Require(fd >= 0, "cannot connect");
    std::vector<char> bytes(random() % 2000);
    for (char& byte : bytes) byte = static_cast<char>(random());
    HandoverRequest request{
        .magic = static_cast<uint32_t>(random() % 2 == 0 ? random() : dram::kHandoverMagic),
        .kind = static_cast<dram::HandoverKind>(random() % 4),
        .layout_version = dram::kLayoutVersion,
        .count = static_cast<uint32_t>(random() % 200)};
    if (round % 2 == 0) {
      (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    } else {
      // Many questions, no answer read: it must be cut off, not served without end.
      for (int i = 0; i < 50; ++i) {
        (void)::send(fd, &request, sizeof(request), MSG_NOSIGNAL | MSG_DONTWAIT);
      }
    }
    ::close(fd);
  }
}

// Returns when no more of this user are taken. The connections stay open.
void TakeAllPlaces(const std::string& path) {
  for (int i = 0; i < 2000; ++i) {
    const int fd = Connect(path);
    if (fd < 0 || Hello(fd).empty()) return;
  }
  Require(false, "2,000 connections were taken");
}

// All that the other user does; ends the process.
[[noreturn]] void BeHostile(const std::string& socket, const std::string& shm_dir, int places_taken,
                            int may_end) {
  Require(::setgroups(0, nullptr) == 0 && ::setgid(kNobody) == 0 && ::setuid(kNobody) == 0,
          "cannot become another user");
  const int fd = Connect(socket);
  Require(fd >= 0, "cannot connect");
  const std::vector<int> hello = Hello(fd);
  Require(hello.size() == 2, "no control page and ring");
  TryToWrite(hello[0], dram::kControlBytes);
  int segments = 0;
  for (uint64_t id = 0; id < 100; ++id) {
    for (const int file : AskForSegment(fd, id)) {
      struct stat found {};
      Require(::fstat(file, &found) == 0, "fstat");
      TryToWrite(file, found.st_size);
      ++segments;
    }
  }
  Require(segments >= 2, "no segments came");
  Refused(::access(shm_dir.c_str(), R_OK), "may read the directory of segments");
  TryRing(hello[1]);
  SendNonsense(socket);
  TakeAllPlaces(socket);
  (void)!::write(places_taken, "x", 1);
  char byte = 0;
  (void)!::read(may_end, &byte, 1);
  _exit(0);
}

class ShmHostileTest : public DaemonFixture {};

TEST_F(ShmHostileTest, AnotherUserCanChangeNothingAndStopNobody) {
  if (::geteuid() != 0) GTEST_SKIP() << "to become another user takes root";
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 3000, 1);
  StartDaemon({"--dram", "5MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 2000);
  ASSERT_TRUE(LookupAndCompare(*client_, "t", checkpoint, ids).ok());
  // Let the other user as far as an administrator might.
  const std::string socket = dir_.path() + "/s" + dram::kHandoverSuffix;
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(socket.c_str(), 0666), 0);
  std::string segments_dir;
  for (const auto& entry : std::filesystem::directory_iterator(ShmDirOf(dir_.path()))) {
    segments_dir = entry.path().string();
  }
  std::array<int, 2> places_taken{};
  std::array<int, 2> may_end{};
  ASSERT_EQ(::pipe2(places_taken.data(), O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(may_end.data(), O_CLOEXEC), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close(places_taken[0]);
    ::close(may_end[1]);
    BeHostile(socket, segments_dir, places_taken[1], may_end[0]);
  }
  ::close(places_taken[1]);
  ::close(may_end[0]);
  // Meanwhile others are served right; when it has all the places of its user, they still get one.
  char byte = 0;
  ASSERT_TRUE(LookupAndCompare(*client_, "t", checkpoint, ids).ok());
  const ssize_t heard = ::read(places_taken[0], &byte, 1);
  if (heard == 1) {
    auto client = Client::Connect({.target = daemon_->target(), .transport = TransportKind::kShm});
    EXPECT_TRUE(client.ok()) << client.status();
    if (client.ok()) {
      EXPECT_TRUE(LookupAndCompare(**client, "t", checkpoint, ids).ok());
    }
  }
  ::close(may_end[1]);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0) << "the hostile client could do something, or failed: see above";
  EXPECT_EQ(heard, 1);
  ASSERT_TRUE(daemon_->Alive());
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(LookupAndCompare(*client_, "t", checkpoint, ids).ok());
  }
}

}  // namespace
}  // namespace engram::testing
