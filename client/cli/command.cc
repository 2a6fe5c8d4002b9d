#include "client/cli/command.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/grpc/channel.h"
#include "client/grpc/describe.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

constexpr std::chrono::milliseconds kConnectTimeout{2000};
constexpr std::chrono::seconds kCallTimeout{60};
constexpr size_t kMaxDescriptionBytes = size_t{64} << 20;

}  // namespace

CLI::App* AddCommand(CommandLine& line, const std::string& name, const std::string& help,
                     std::function<absl::Status()> run) {
  CLI::App* command = line.app->add_subcommand(name, help);
  command->add_option("--server", line.server,
                      "the daemon: unix:/path or host:port (default: $ENGRAM_SERVER, then "
                      "unix:/run/engramd/engramd.sock)");
  command->add_flag("--json", line.json, "one JSON document on stdout");
  command->callback([&line, run = std::move(run)] { line.run = run; });
  return command;
}

absl::StatusOr<std::unique_ptr<AdminClient>> ConnectAdmin(const CommandLine& line) {
  return AdminClient::Connect(line.server, kConnectTimeout);
}

absl::StatusOr<std::unique_ptr<Client>> ConnectClient(const CommandLine& line,
                                                      TransportKind transport) {
  ClientOptions options;
  options.target = line.server;
  options.connect_timeout = kConnectTimeout;
  options.default_deadline = kCallTimeout;
  options.transport = transport;
  return Client::Connect(options);
}

absl::StatusOr<v1::TableInfo> DescribeTable(const CommandLine& line, const std::string& name,
                                            uint64_t version) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                          OpenChannel(line.server, kMaxDescriptionBytes, kConnectTimeout));
  v1::DescribeRequest request;
  request.set_table(name);
  request.set_version(version);
  UnaryCaller caller(std::move(channel));
  ENGRAM_ASSIGN_OR_RETURN(v1::DescribeResponse response,
                          CallDescribe(caller, request, kCallTimeout));
  return std::move(*response.mutable_table());
}

std::string CheckVersion(const std::string& text) {
  uint64_t version = 0;
  const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
  if (digits && absl::SimpleAtoi(text, &version) && version > 0) return "";
  return absl::StrCat("\"", text, "\" is not a version: give a whole number, 1 or more");
}

CLI::Option* AddSizeFlag(CLI::App& command, const std::string& name, uint64_t& bytes,
                         const std::string& help) {
  return command
      .add_option_function<std::string>(
          name, [&bytes](const std::string& text) { bytes = ParseSize(text).value_or(0); }, help)
      ->check([](const std::string& text) {
        const auto size = ParseSize(text);
        return size.ok() ? std::string() : std::string(size.status().message());
      })
      ->type_name("SIZE");
}

std::vector<std::string> ModelNames() {
  return {"auto", "deepseek-v4.1", "engram-demo", "qwen4-exp", "longcat", "generic"};
}

std::string AbsoluteDirectory(const std::string& directory) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(directory, error);
  if (!error) return real.string();
  const std::filesystem::path absolute = std::filesystem::absolute(directory, error);
  return error ? directory : absolute.lexically_normal().string();
}

}  // namespace engram
