// The real engramd, as a child process on a directory and a socket of its own.
#ifndef ENGRAM_TESTS_INTEGRATION_TEST_DAEMON_H_
#define ENGRAM_TESTS_INTEGRATION_TEST_DAEMON_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace engram::testing {

// A directory under the test's temporary one, removed with the object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Where a TestDaemon on `directory` keeps its shared DRAM tier; removed with the TempDir.
std::string ShmDirOf(const std::string& directory);

class TestDaemon {
 public:
  // Starts engramd on `directory`/data and `directory`/s, with `flags` more, and waits for its
  // "engramd: ready" (a minute at most; throws std::runtime_error with its log otherwise).
  TestDaemon(const std::string& directory, std::vector<std::string> flags = {});
  // SIGTERM, then SIGKILL if it does not end within 30 s.
  ~TestDaemon();
  TestDaemon(const TestDaemon&) = delete;
  TestDaemon& operator=(const TestDaemon&) = delete;

  const std::string& target() const { return target_; }  // "unix:…"
  pid_t pid() const { return pid_; }
  bool Alive() const;
  std::string Log() const;
  // The port that the log names behind `what` ("grpc on 127.0.0.1:", "http on port ").
  int PortFromLog(const std::string& what) const;

  // SIGTERM and wait; the exit status, or −signal. For when the status matters.
  int Terminate();
  void Kill();  // SIGKILL and wait

 private:
  int WaitForExit(int patience_s);

  const std::string directory_;
  const std::string target_;
  pid_t pid_ = -1;
};

struct CommandResult {
  int exit_code = -1;
  std::string output;  // stdout
  std::string errors;  // stderr
};

// Runs a program of the build's bin/ to its end (two minutes at most).
CommandResult RunTool(const std::string& name, const std::vector<std::string>& arguments);
std::string ToolPath(const std::string& name);

}  // namespace engram::testing

#endif  // ENGRAM_TESTS_INTEGRATION_TEST_DAEMON_H_
