#include "server/config/config.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/un.h>
#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/config/config_keys.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"

namespace engram {
namespace {

constexpr char kUsagePayload[] = "engram/usage";
constexpr size_t kMaxFileBytes = size_t{1} << 20;

// Where each key that is not at its default came from: "FILE:LINE: key 'x'" or "--x".
using Origins = std::map<std::string, std::string>;

absl::Status UsageError(absl::string_view text) {
  absl::Status status =
      absl::InvalidArgumentError(absl::StrCat(text, "; see engramd --help for the flags"));
  status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

// What no single key can see.
absl::Status CheckTogether(const Config& config, const Origins& origins) {
  const auto same = std::find(config.listen.begin(), config.listen.end(), config.http);
  if (same == config.listen.end() || absl::EndsWith(config.http, ":0")) return absl::OkStatus();
  const auto http = origins.find("http");
  const auto origin = http != origins.end() ? http : origins.find("listen");
  const std::string text = absl::StrCat("gRPC (listen) and HTTP (http) are both given '",
                                        config.http, "'; they need an address each");
  // One of the two is not at its default, for the defaults differ.
  if (absl::StartsWith(origin->second, "--")) {
    return UsageError(absl::StrCat(origin->second, ": ", text));
  }
  return absl::InvalidArgumentError(absl::StrCat(origin->second, ": ", text));
}

class YamlReader {
 public:
  YamlReader(absl::string_view file, Config& config, Origins& origins)
      : file_(file), config_(config), origins_(origins) {}

  absl::Status Read(absl::string_view text) {
    try {
      const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
      if (documents.empty() || documents[0].IsNull()) return absl::OkStatus();
      if (documents.size() > 1) {
        return absl::InvalidArgumentError(
            absl::StrCat(At(documents[1].Mark()), "a second document begins; write one"));
      }
      if (!documents[0].IsMap()) {
        return absl::InvalidArgumentError(
            absl::StrCat(At(documents[0].Mark()), "not a map: write lines of the form key: value"));
      }
      for (const auto& entry : documents[0]) {
        ENGRAM_RETURN_IF_ERROR(Entry(entry.first, entry.second));
      }
      return absl::OkStatus();
    } catch (const YAML::Exception& error) {
      return absl::InvalidArgumentError(absl::StrCat(At(error.mark), "not YAML: ", error.msg));
    }
  }

 private:
  std::string At(const YAML::Mark& mark) const {
    return absl::StrCat(file_, ":", std::max(mark.line, 0) + 1, ": ");
  }

  absl::Status Entry(const YAML::Node& name, const YAML::Node& value) {
    if (!name.IsScalar()) {
      return absl::InvalidArgumentError(absl::StrCat(At(name.Mark()), "a key is not a word"));
    }
    const std::string origin = absl::StrCat(At(name.Mark()), "key '", name.Scalar(), "'");
    const ConfigKey* key = FindConfigKey(name.Scalar());
    if (key == nullptr) {
      std::vector<std::string> names;
      for (const ConfigKey& known : ConfigKeys()) names.emplace_back(known.name);
      const std::string near = NearestName(name.Scalar(), names);
      return absl::InvalidArgumentError(
          absl::StrCat(origin, ": unknown key",
                       near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?")));
    }
    if (!origins_.emplace(key->name, origin).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin, ": given twice; first at ", origins_[key->name]));
    }
    std::vector<std::string> values;
    absl::Status status = Values(*key, value, values);
    if (status.ok()) status = SetFromText(*key, values, config_);
    if (status.ok()) return status;
    return absl::Status(status.code(), absl::StrCat(origin, ": ", status.message()));
  }

  static absl::Status Values(const ConfigKey& key, const YAML::Node& node,
                             std::vector<std::string>& values) {
    if (node.IsNull()) return absl::InvalidArgumentError("has no value");
    if (node.IsMap()) return absl::InvalidArgumentError("is a map; write a plain value");
    if (node.IsSequence()) {
      if (!IsList(key.type)) {
        return absl::InvalidArgumentError("is a list; write one value");
      }
      for (const YAML::Node& item : node) {
        if (!item.IsScalar()) return absl::InvalidArgumentError("an item of the list is no text");
        values.push_back(item.Scalar());
      }
      return absl::OkStatus();
    }
    // yaml-cpp tags a quoted scalar with "!".
    if (node.Tag() == "!" && (key.type == KeyType::kInteger || key.type == KeyType::kBoolean)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", node.Scalar(), "\" is text; write it without quotes"));
    }
    values.push_back(node.Scalar());
    return absl::OkStatus();
  }

  const std::string file_;
  Config& config_;
  Origins& origins_;
};

absl::StatusOr<std::string> ReadConfigFile(const std::string& file) {
  const auto failed = [&] {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("cannot read the configuration ", file));
  };
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return failed();
  std::string text;
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = ::read(fd.get(), chunk.data(), chunk.size());
    if (got == 0) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed();
    text.append(chunk.data(), static_cast<size_t>(got));
    if (text.size() > kMaxFileBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ":1: larger than 1 MiB, which no configuration of engramd is"));
    }
  }
}

struct Flags {
  std::string config_file;
  bool help = false;
  bool version = false;
  bool check = false;
  bool sample = false;
  bool reference = false;
  std::vector<std::pair<const ConfigKey*, std::vector<std::string>>> values;
};

// CLI11 drops the empty value of `--http=` and would take the next argument instead.
std::vector<std::string> SplitEmptyValues(int argc, const char* const* argv) {
  std::vector<std::string> args;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view arg = argv[i];
    if (absl::StartsWith(arg, "--") && absl::EndsWith(arg, "=")) {
      args.emplace_back(arg.substr(0, arg.size() - 1));
      args.emplace_back();
    } else {
      args.emplace_back(arg);
    }
  }
  return args;
}

void DeclareFlags(CLI::App& app, Flags& flags) {
  app.set_help_flag();  // --help is the table's
  app.allow_extras();   // reported below, with the nearest name
  app.add_option("--config", flags.config_file);
  app.add_flag("--help,-h", flags.help);
  app.add_flag("--version", flags.version);
  app.add_flag("--check-config", flags.check);
  app.add_flag("--print-sample-config", flags.sample);
  app.add_flag("--print-config-reference", flags.reference);
  for (const ConfigKey& key : ConfigKeys()) {
    if (IsList(key.type)) {
      app.add_option_function<std::vector<std::string>>(
             FlagName(key),
             [&](const std::vector<std::string>& values) {
               flags.values.emplace_back(&key, values);
             })
          ->allow_extra_args(false);
      continue;
    }
    CLI::Option* option =
        app.add_option_function<std::string>(FlagName(key), [&](const std::string& value) {
          const bool bare = key.type == KeyType::kBoolean && value.empty();
          flags.values.emplace_back(&key, std::vector<std::string>{bare ? "true" : value});
        });
    if (key.type == KeyType::kBoolean) option->expected(0, 1);
  }
}

absl::Status UnknownArgument(const std::string& argument) {
  if (!absl::StartsWith(argument, "-")) {
    return UsageError(absl::StrCat("unexpected argument '", argument, "'"));
  }
  std::vector<std::string> names = {
      "--config",  "--check-config",        "--help",
      "--version", "--print-sample-config", "--print-config-reference"};
  for (const ConfigKey& key : ConfigKeys()) names.push_back(FlagName(key));
  const std::string name = argument.substr(0, argument.find('='));
  const std::string near = NearestName(name, names);
  return UsageError(absl::StrCat("unknown flag '", name, "'",
                                 near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?")));
}

absl::StatusOr<Flags> ParseFlags(int argc, const char* const* argv) {
  Flags flags;
  CLI::App app("engramd");
  DeclareFlags(app, flags);
  std::vector<std::string> args = SplitEmptyValues(argc, argv);
  std::reverse(args.begin(), args.end());  // as CLI11 wants a vector of arguments
  try {
    app.parse(std::move(args));
    const std::vector<std::string> rest = app.remaining();
    if (!rest.empty()) return UnknownArgument(rest.front());
    if (app.count("--config") > 0 && flags.config_file.empty()) {
      return UsageError("--config: the file's name is empty");
    }
  } catch (const CLI::Error& error) {
    return UsageError(error.what());
  }
  return flags;
}

}  // namespace

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not an address: ", why));
  };
  Address address;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    constexpr size_t kMaxPath = sizeof(sockaddr_un{}.sun_path) - 1;
    if (!absl::StartsWith(rest, "/") || absl::EndsWith(rest, "/")) {
      return bad("write unix: and the absolute path of a socket");
    }
    if (rest.size() > kMaxPath) {
      return bad(
          absl::StrCat("the path has ", rest.size(), " bytes, Unix sockets take ", kMaxPath));
    }
    if (std::any_of(rest.begin(), rest.end(), absl::ascii_iscntrl)) {
      return bad("the path holds a control character");
    }
    address.unix_path = std::string(rest);
    return address;
  }
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos) return bad("write unix:/path or host:port");
  const absl::string_view port = rest.substr(colon + 1);
  absl::string_view host = rest.substr(0, colon);
  if (port.empty() || !std::all_of(port.begin(), port.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(port, &address.port) || address.port > 65535) {
    return bad("the port is a number from 1 to 65535, or 0 for a free one");
  }
  if (absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]")) {
    in6_addr ignored;
    address.host = std::string(host);
    if (inet_pton(AF_INET6, address.host.c_str(), &ignored) != 1) {
      return bad("what stands in brackets is not an IPv6 address");
    }
    return address;
  }
  if (host.empty()) return bad("the host is missing; 0.0.0.0 stands for every interface");
  for (const char c : host) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') {
      return bad("the host is a name, an IPv4 address, or an IPv6 address in brackets");
    }
  }
  address.host = std::string(host);
  return address;
}

absl::StatusOr<Config> ParseConfig(absl::string_view text, absl::string_view file) {
  Config config;
  Origins origins;
  ENGRAM_RETURN_IF_ERROR(YamlReader(file, config, origins).Read(text));
  ENGRAM_RETURN_IF_ERROR(CheckTogether(config, origins));
  return config;
}

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  ENGRAM_ASSIGN_OR_RETURN(const Flags flags, ParseFlags(argc, argv));
  CommandLine command;
  command.action = CommandLine::Action::kPrint;
  if (flags.help) command.text = HelpText();
  if (flags.version) command.text = absl::StrCat("engramd ", EngramVersion(), "\n");
  if (flags.sample) command.text = SampleConfig();
  if (flags.reference) command.text = ConfigReference();
  if (!command.text.empty()) return command;

  Origins origins;
  if (!flags.config_file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadConfigFile(flags.config_file));
    ENGRAM_RETURN_IF_ERROR(YamlReader(flags.config_file, command.config, origins).Read(text));
  }
  for (const auto& [key, values] : flags.values) {
    const absl::Status status = SetFromText(*key, values, command.config);
    if (!status.ok()) return UsageError(absl::StrCat(FlagName(*key), ": ", status.message()));
    origins[key->name] = FlagName(*key);
  }
  ENGRAM_RETURN_IF_ERROR(CheckTogether(command.config, origins));
  if (flags.check) {
    command.text = "engramd: the configuration is good\n";
  } else {
    command.action = CommandLine::Action::kRun;
  }
  return command;
}

int ExitCode(const absl::Status& status) {
  return status.GetPayload(kUsagePayload).has_value() ? 2 : 1;
}

absl::string_view EngramVersion() { return ENGRAM_VERSION; }

}  // namespace engram
