// Runs the real engramctl as a child process.
#ifndef ENGRAM_TESTS_UNIT_CLIENT_CLI_RUN_CTL_H_
#define ENGRAM_TESTS_UNIT_CLIENT_CLI_RUN_CTL_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace engram::testing {

struct CtlResult {
  int exit_status = -1;  // or −signal
  std::string out;
  std::string err;
};

class Ctl {
 public:
  // Starts it with ENGRAM_SERVER set to `server`, or unset if that is empty, and `input` on stdin.
  Ctl(const std::vector<std::string>& arguments, const std::string& server,
      const std::string& input = "");
  // Starts it with the file at `stdin_path` as stdin.
  struct Stdin {
    std::string path;
  };
  Ctl(const std::vector<std::string>& arguments, const std::string& server, const Stdin& in);
  ~Ctl();  // kills it if nobody waited for it
  Ctl(const Ctl&) = delete;
  Ctl& operator=(const Ctl&) = delete;

  void Signal(int signal);
  // Until the process catches this signal (or has ended), by what the kernel says of it.
  void WaitForSignalHandler(int signal);
  CtlResult Wait();
  // Until stdout has that many lines (read from the file that it goes to).
  void WaitForLines(int lines);

 private:
  void Start(const std::vector<std::string>& arguments, const std::string& server,
             const std::string& stdin_path);

  std::string directory_;
  pid_t pid_ = -1;
};

inline CtlResult RunCtl(const std::vector<std::string>& arguments, const std::string& server = "",
                        const std::string& input = "") {
  return Ctl(arguments, server, input).Wait();
}

// The same with a terminal as stdin, on which `typed` has been typed before it starts.
CtlResult CtlOnTerminal(const std::vector<std::string>& arguments, const std::string& server,
                        const std::string& typed);

}  // namespace engram::testing

#endif  // ENGRAM_TESTS_UNIT_CLIENT_CLI_RUN_CTL_H_
