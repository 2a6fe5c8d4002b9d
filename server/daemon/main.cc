// engramd: reads its config, opens the data directory, serves until SIGTERM.

#include <iostream>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/config.h"
#include "server/daemon/daemon.h"
#include "server/daemon/notify.h"
#include "server/daemon/process.h"
#include "storage/base/log.h"

namespace engram {
namespace {

int Serve(Config config) {
  const sigset_t signals = BlockStopSignals();
  PrepareProcess();
  const int drain_seconds = config.drain_seconds;
  Daemon daemon(std::move(config));
  if (const absl::Status status = daemon.Start(); !status.ok()) {
    std::cerr << "engramd: " << status.message() << "\n";
    return 1;
  }
  std::cout << "engramd: ready" << std::endl;
  NotifyReady("serving");
  int signal = 0;
  sigwait(&signals, &signal);
  ENGRAM_LOG(kInfo) << "signal " << signal << ": finishing what is under way, for " << drain_seconds
                    << " s at most";
  NotifyStopping("finishing what is under way");
  daemon.Stop();
  ENGRAM_LOG(kInfo) << "stopped";
  return 0;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  absl::StatusOr<engram::CommandLine> command = engram::ParseCommandLine(argc, argv);
  if (!command.ok()) {
    std::cerr << "engramd: " << command.status().message() << "\n";
    return engram::ExitCode(command.status());
  }
  if (command->action == engram::CommandLine::Action::kPrint) {
    std::cout << command->text;
    return 0;
  }
  return engram::Serve(std::move(command->config));
}
