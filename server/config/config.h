// Config: the settings of engramd, made from flags and a YAML file.
//
// Every key is declared once, in the table of config_keys.cc; flags, YAML reading, --help, the
// sample (deploy/engramd.yaml) and the reference (deploy/CONFIG.md) all come from it. Flags
// override the file, the file overrides the defaults below. Nothing here touches the network or
// the data directory; a Config that comes out is well formed, not proven possible on this host.
//
// All functions are thread-safe and keep no state.
#ifndef ENGRAM_SERVER_CONFIG_CONFIG_H_
#define ENGRAM_SERVER_CONFIG_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram {

struct Config {
  std::string data_dir = "/var/lib/engramd";
  std::vector<std::string> listen = {"unix:/run/engramd/engramd.sock"};
  std::string http = "127.0.0.1:9404";  // empty: off
  uint64_t dram_bytes = uint64_t{4} << 30;
  bool shared_memory = true;
  std::string shm_dir = "/dev/shm";
  bool warm_restart = true;
  std::string admission = "adaptive";
  std::vector<std::string> profiles;  // NAME=PATH, each name once
  uint64_t hbm_bytes = 0;
  std::string hbm_memory = "gpu";
  int gpu = 0;
  int hbm_refresh_seconds = 30;
  bool admin_tcp = false;
  int nvme_depth = 128;
  int read_threads = 4;
  int load_threads = 2;
  int io_threads = 4;
  int gather_threads = 1;
  uint64_t max_queued_batches = 1024;
  uint64_t max_request = uint64_t{64} << 20;  // bytes
  uint64_t max_answer = uint64_t{512} << 20;  // bytes
  bool io_uring = true;
  bool direct_io = true;
  int drain_seconds = 10;
};

struct CommandLine {
  enum class Action {
    kRun,    // serve with `config`
    kPrint,  // write `text` to stdout and exit 0 (help, version, sample, reference, check passed)
  };
  Action action = Action::kRun;
  std::string text;
  Config config;
};

// Reads the flags and the file that --config names.
//
// InvalidArgument for wrong usage (an unknown flag, a bad value of a flag) and for a bad file, as
// `FILE:LINE: key 'x': …`; NotFound or PermissionDenied, naming the file, when it cannot be read.
// ExitCode distinguishes usage from file.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// What engramd exits with after an error of ParseCommandLine: 2 for wrong usage, else 1.
int ExitCode(const absl::Status& status);

// The defaults overridden by the YAML in `text`; `file` is only named in errors. An empty text
// gives the defaults. InvalidArgument as above.
absl::StatusOr<Config> ParseConfig(absl::string_view text, absl::string_view file);

// An address as `listen` and `http` take it.
struct Address {
  std::string unix_path;  // absolute, at most 107 bytes; empty for TCP
  std::string host;       // without the brackets of an IPv6 address
  int port = 0;           // 0: the system chooses a free one
};

// `unix:/absolute/path`, `host:port` or `[ipv6]:port`. InvalidArgument naming `text`.
absl::StatusOr<Address> ParseAddress(absl::string_view text);

// "0.1.0": the project's version.
absl::string_view EngramVersion();

}  // namespace engram

#endif  // ENGRAM_SERVER_CONFIG_CONFIG_H_
