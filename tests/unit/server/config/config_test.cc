#include "server/config/config.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config/config_keys.h"
#include "storage/nvme/store.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<CommandLine> Parse(std::vector<std::string> args) {
  std::vector<const char*> argv = {"engramd"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::string YamlError(const std::string& text) {
  const auto config = ParseConfig(text, "e.yaml");
  if (config.ok()) return "no error";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ExitCode(config.status()), 1);
  return Message(config.status());
}

std::string UsageError(const std::vector<std::string>& args) {
  const auto command = Parse(args);
  if (command.ok()) return "no error";
  EXPECT_EQ(command.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ExitCode(command.status()), 2) << command.status();
  return Message(command.status());
}

// Every key's value as text; what two equal configurations agree in.
std::map<std::string, std::string> Values(const Config& config) {
  std::map<std::string, std::string> values;
  for (const ConfigKey& key : ConfigKeys()) values[key.name] = YamlValue(key, config);
  return values;
}

std::string ReadSource(const std::string& path) {
  std::ifstream file(absl::StrCat(ENGRAM_SOURCE_DIR, "/", path));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class ConfigFile : public ::testing::Test {
 protected:
  ConfigFile() {
    std::string name = absl::StrCat(::testing::TempDir(), "engram_config_XXXXXX");
    directory_ = mkdtemp(name.data());
  }
  ~ConfigFile() override {
    unlink(path().c_str());
    rmdir(directory_.c_str());
  }
  std::string path() const { return absl::StrCat(directory_, "/engramd.yaml"); }
  void Write(const std::string& text) { std::ofstream(path()) << text; }

  std::string directory_;
};

TEST(ParseConfig, EmptyTextGivesTheDefaults) {
  for (const std::string text : {"", "\n", "# nothing\n", "---\n", "{}"}) {
    const auto config = ParseConfig(text, "e.yaml");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(Values(*config), Values(Config()));
  }
}

TEST(ParseConfig, ReadsEveryKey) {
  const auto config = ParseConfig(
      "data_dir: /srv/engram\n"
      "listen:\n  - unix:/run/e.sock\n  - 0.0.0.0:9500\n"
      "http: '[::1]:9405'\n"
      "dram: 1.5GiB\n"
      "shared_memory: false\n"
      "shm_dir: /dev/hugepages\n"
      "warm_restart: false\n"
      "admission: prefetch\n"
      "profiles:\n  - a=/hot/a\n  - b.c=/hot/b=c\n"
      "hbm: 8 GiB\n"
      "hbm_memory: host\n"
      "gpu: 3\n"
      "hbm_refresh_seconds: 5\n"
      "admin_tcp: true\n"
      "nvme_depth: 256\n"
      "read_threads: 64\n"
      "load_threads: 1\n"
      "io_threads: 256\n"
      "gather_threads: 0\n"
      "max_queued_batches: 7\n"
      "max_request: 1MiB\n"
      "max_answer: \"2MiB\"\n"
      "io_uring: false\n"
      "direct_io: false\n"
      "drain_seconds: 0\n",
      "e.yaml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->data_dir, "/srv/engram");
  EXPECT_THAT(config->listen, ElementsAre("unix:/run/e.sock", "0.0.0.0:9500"));
  EXPECT_EQ(config->http, "[::1]:9405");
  EXPECT_EQ(config->dram_bytes, uint64_t{3} << 29);
  EXPECT_FALSE(config->shared_memory);
  EXPECT_EQ(config->shm_dir, "/dev/hugepages");
  EXPECT_FALSE(config->warm_restart);
  EXPECT_EQ(config->admission, "prefetch");
  EXPECT_THAT(config->profiles, ElementsAre("a=/hot/a", "b.c=/hot/b=c"));
  EXPECT_EQ(config->hbm_bytes, uint64_t{8} << 30);
  EXPECT_EQ(config->hbm_memory, "host");
  EXPECT_EQ(config->gpu, 3);
  EXPECT_EQ(config->hbm_refresh_seconds, 5);
  EXPECT_TRUE(config->admin_tcp);
  EXPECT_EQ(config->nvme_depth, 256);
  EXPECT_EQ(config->read_threads, 64);
  EXPECT_EQ(config->load_threads, 1);
  EXPECT_EQ(config->io_threads, 256);
  EXPECT_EQ(config->gather_threads, 0);
  EXPECT_EQ(config->max_queued_batches, 7u);
  EXPECT_EQ(config->max_request, uint64_t{1} << 20);
  EXPECT_EQ(config->max_answer, uint64_t{2} << 20);
  EXPECT_FALSE(config->io_uring);
  EXPECT_FALSE(config->direct_io);
  EXPECT_EQ(config->drain_seconds, 0);
  for (const auto& [name, value] : Values(*config)) {
    EXPECT_NE(value, Values(Config())[name]) << name << " is not set by this test";
  }
}

TEST(ParseConfig, ListenTakesOneTextToo) {
  EXPECT_THAT(ParseConfig("listen: unix:/a, b:1", "e.yaml")->listen, ElementsAre("unix:/a", "b:1"));
}

TEST(ParseConfig, ProfilesAreNamesAndPaths) {
  EXPECT_THAT(ParseConfig("profiles: a=/x, b=/y", "e.yaml")->profiles, ElementsAre("a=/x", "b=/y"));
  EXPECT_TRUE(ParseConfig("profiles: []", "e.yaml")->profiles.empty());
  for (const std::string bad : {"a", "a=", "a=b", "=/x", "-a=/x", "a b=/x", "/x", "a=/x\\ny"}) {
    const auto config = ParseConfig("profiles: [\"" + bad + "\"]", "e.yaml");
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr("e.yaml:1: key 'profiles': "));
  }
  const auto twice = ParseConfig("profiles: [a=/x, a=/y]", "e.yaml");
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("table 'a' is given twice"));
}

TEST(ParseConfig, HttpCanBeOff) {
  for (const std::string text : {"http: off", "http: ''", "http: \"\""}) {
    const auto config = ParseConfig(text, "e.yaml");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->http, "");
  }
}

TEST(ParseConfig, ZeroTurnsATierOff) {
  EXPECT_EQ(ParseConfig("dram: 0", "e.yaml")->dram_bytes, 0u);
}

TEST(ParseConfig, NamesFileLineAndKey) {
  EXPECT_EQ(YamlError("dram: 1GiB\n\nhbmm: 0\n"),
            "e.yaml:3: key 'hbmm': unknown key; did you mean 'hbm'?");
  EXPECT_EQ(YamlError("surprise_me: 0"), "e.yaml:1: key 'surprise_me': unknown key");
  EXPECT_EQ(YamlError("dram: 0\nhbm: 0\ndram: 1GiB\n"),
            "e.yaml:3: key 'dram': given twice; first at e.yaml:1: key 'dram'");
  EXPECT_EQ(YamlError("# threads\nread_threads: 65\n"),
            "e.yaml:2: key 'read_threads': 65 is out of bounds: give 1 to 64");
  EXPECT_EQ(YamlError("max_answer: 3GiB"),
            "e.yaml:1: key 'max_answer': 3GiB is out of bounds: give 1KiB to 2047MiB");
}

TEST(ParseConfig, RefusesWrongTypes) {
  EXPECT_THAT(YamlError("dram: 4"), HasSubstr("key 'dram': '4' is not a size"));
  EXPECT_THAT(YamlError("dram: -1GiB"), HasSubstr("is not a size"));
  EXPECT_THAT(YamlError("dram: [1GiB]"), HasSubstr("is a list; write one value"));
  EXPECT_THAT(YamlError("dram: {a: 1}"), HasSubstr("is a map"));
  EXPECT_THAT(YamlError("dram:"), HasSubstr("has no value"));
  EXPECT_THAT(YamlError("dram: ~"), HasSubstr("has no value"));
  EXPECT_THAT(YamlError("read_threads: four"), HasSubstr("'four' is not a whole number"));
  EXPECT_THAT(YamlError("read_threads: 4.0"), HasSubstr("is not a whole number"));
  EXPECT_THAT(YamlError("read_threads: -4"), HasSubstr("is not a whole number"));
  EXPECT_THAT(YamlError("read_threads: 99999999999999999999"), HasSubstr("not a whole number"));
  EXPECT_THAT(YamlError("read_threads: '4'"), HasSubstr("write it without quotes"));
  EXPECT_THAT(YamlError("admin_tcp: 1"), HasSubstr("'1' is not true or false"));
  EXPECT_THAT(YamlError("admin_tcp: yes"), HasSubstr("'yes' is not true or false"));
  EXPECT_THAT(YamlError("data_dir: ''"), HasSubstr("the path is empty"));
  EXPECT_THAT(YamlError("data_dir: \"/a\\0b\""), HasSubstr("control character"));
  EXPECT_THAT(YamlError("listen: []"), HasSubstr("at least one address"));
  EXPECT_THAT(YamlError("listen: [[a]]"), HasSubstr("is no text"));
  EXPECT_THAT(YamlError("listen: [unix:/a, unix:/a]"), HasSubstr("'unix:/a' is given twice"));
  EXPECT_THAT(YamlError("http: unix:/a"), HasSubstr("host:port only"));
}

TEST(ParseConfig, RefusesWhatIsNoMapOfKeys) {
  EXPECT_THAT(YamlError("just text"), StartsWith("e.yaml:1: not a map"));
  EXPECT_THAT(YamlError("- a\n- b"), StartsWith("e.yaml:1: not a map"));
  EXPECT_THAT(YamlError("dram: 0\nhbm: [\n"), HasSubstr(": not YAML: "));
  EXPECT_THAT(YamlError("dram: 0\n\thbm: 0"), StartsWith("e.yaml:2: not YAML: "));
  EXPECT_THAT(YamlError("dram: 0\n---\nhbm: 0\n"), HasSubstr("a second document"));
  EXPECT_THAT(YamlError("? [a]\n: b\n"), HasSubstr("a key is not a word"));
}

TEST(ParseConfig, RefusesOneAddressForBoth) {
  EXPECT_THAT(YamlError("dram: 0\nlisten: 127.0.0.1:9404"),
              StartsWith("e.yaml:2: key 'listen': gRPC (listen) and HTTP (http) are both given"));
  EXPECT_TRUE(ParseConfig("listen: a:0\nhttp: a:0", "e.yaml").ok());
}

TEST(ParseAddress, Accepts) {
  EXPECT_EQ(ParseAddress("unix:/run/e.sock")->unix_path, "/run/e.sock");
  EXPECT_EQ(ParseAddress("localhost:1")->host, "localhost");
  EXPECT_EQ(ParseAddress("10.0.0.1:65535")->port, 65535);
  EXPECT_EQ(ParseAddress("[fe80::1]:0")->host, "fe80::1");
  EXPECT_TRUE(ParseAddress(absl::StrCat("unix:/", std::string(106, 'a'))).ok());
}

TEST(ParseAddress, RefusesNamingTheText) {
  for (const std::string text :
       {"", "unix:", "unix:relative", "unix:/dir/", "localhost", ":80", "host:", "host:x",
        "host:65536", "host:-1", "host:+1", "host: 1", "::1:80", "[::1]", "[nonsense]:80",
        "[::1:80", "ho st:1", "dns:///a:1", "host:99999999999999999999"}) {
    const auto address = ParseAddress(text);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(address.status()), HasSubstr(absl::StrCat("'", text, "'")));
  }
  EXPECT_THAT(Message(ParseAddress(absl::StrCat("unix:/", std::string(107, 'a'))).status()),
              HasSubstr("the path has 108 bytes, Unix sockets take 107"));
}

TEST(ParseCommandLine, NoFlagsGiveTheDefaults) {
  const auto command = Parse({});
  ASSERT_TRUE(command.ok());
  EXPECT_EQ(command->action, CommandLine::Action::kRun);
  EXPECT_EQ(Values(command->config), Values(Config()));
}

TEST(ParseCommandLine, TheContractsFlags) {
  const auto command = Parse({"--data-dir", "d", "--listen", "unix:/a,[::1]:5", "--http",
                              "127.0.0.1:0", "--dram", "2GiB", "--hbm=0"});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->config.data_dir, "d");
  EXPECT_THAT(command->config.listen, ElementsAre("unix:/a", "[::1]:5"));
  EXPECT_EQ(command->config.http, "127.0.0.1:0");
  EXPECT_EQ(command->config.dram_bytes, uint64_t{2} << 30);
  EXPECT_EQ(command->config.hbm_bytes, 0u);
}

TEST(ParseCommandLine, ListenMayBeRepeated) {
  EXPECT_THAT(Parse({"--listen", "a:1", "--listen=b:2"})->config.listen, ElementsAre("a:1", "b:2"));
}

TEST(ParseCommandLine, Booleans) {
  EXPECT_TRUE(Parse({"--admin-tcp"})->config.admin_tcp);
  EXPECT_TRUE(Parse({"--admin-tcp", "--dram", "0"})->config.admin_tcp);
  EXPECT_TRUE(Parse({"--admin-tcp=true"})->config.admin_tcp);
  EXPECT_FALSE(Parse({"--io-uring=false"})->config.io_uring);
  EXPECT_FALSE(Parse({"--io-uring", "false"})->config.io_uring);
  EXPECT_THAT(UsageError({"--io-uring=no"}), StartsWith("--io-uring: 'no' is not true or false"));
}

TEST(ParseCommandLine, EmptyAndOffTurnHttpOff) {
  EXPECT_EQ(Parse({"--http", ""})->config.http, "");
  EXPECT_EQ(Parse({"--http=", "--dram", "0"})->config.http, "");
  EXPECT_EQ(Parse({"--http", "off"})->config.http, "");
}

TEST(ParseCommandLine, WrongUsage) {
  EXPECT_THAT(UsageError({"--drm", "4GiB"}),
              StartsWith("unknown flag '--drm'; did you mean '--dram'?"));
  EXPECT_THAT(UsageError({"--data_dir=/x"}), HasSubstr("did you mean '--data-dir'?"));
  EXPECT_THAT(UsageError({"--completely-unlike"}), StartsWith("unknown flag"));
  EXPECT_THAT(UsageError({"serve"}), StartsWith("unexpected argument 'serve'"));
  EXPECT_THAT(UsageError({"--dram"}), HasSubstr("--dram"));
  EXPECT_THAT(UsageError({"--dram", "-1GiB"}), StartsWith("--dram: '-1GiB' is not a size"));
  EXPECT_THAT(UsageError({"--dram", "1GiB", "--dram", "2GiB"}), HasSubstr("--dram"));
  EXPECT_THAT(UsageError({"--io-threads", "0"}), StartsWith("--io-threads: 0 is out of bounds"));
  EXPECT_THAT(UsageError({"--listen", "a:1,a:1"}), HasSubstr("given twice"));
  EXPECT_THAT(UsageError({"--listen", ""}), StartsWith("--listen: '' is not an address"));
  EXPECT_THAT(UsageError({"--config="}), StartsWith("--config"));
  EXPECT_THAT(UsageError({"--listen", "a:1", "--http", "a:1"}), StartsWith("--http: gRPC"));
}

TEST(ParseCommandLine, PrintsAndExits) {
  for (const auto& [flag, text] : std::map<std::string, std::string>{
           {"--help", HelpText()},
           {"-h", HelpText()},
           {"--version", absl::StrCat("engramd ", EngramVersion(), "\n")},
           {"--print-sample-config", SampleConfig()},
           {"--print-config-reference", ConfigReference()}}) {
    const auto command = Parse({flag});
    ASSERT_TRUE(command.ok()) << command.status();
    EXPECT_EQ(command->action, CommandLine::Action::kPrint);
    EXPECT_EQ(command->text, text);
  }
}

TEST_F(ConfigFile, FlagsOverrideTheFile) {
  Write("dram: 1GiB\nhbm: 2GiB\n");
  const auto command = Parse({"--dram", "3GiB", "--config", path()});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->action, CommandLine::Action::kRun);
  EXPECT_EQ(command->config.dram_bytes, uint64_t{3} << 30);
  EXPECT_EQ(command->config.hbm_bytes, uint64_t{2} << 30);
}

TEST_F(ConfigFile, CheckOnlyChecks) {
  Write("dram: 1GiB\n");
  const auto command = Parse({"--check-config", "--config", path()});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->action, CommandLine::Action::kPrint);
  Write("dram: 1GB\n");
  const absl::Status status = Parse({"--check-config", "--config", path()}).status();
  EXPECT_EQ(ExitCode(status), 1);
  EXPECT_THAT(Message(status), StartsWith(absl::StrCat(path(), ":1: key 'dram': '1GB'")));
}

TEST_F(ConfigFile, UnreadableFilesAreNamed) {
  absl::Status status = Parse({"--config", path()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ExitCode(status), 1);
  EXPECT_THAT(Message(status), HasSubstr(path()));
  status = Parse({"--config", directory_}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), HasSubstr(directory_));
  if (geteuid() == 0) return;  // root may read anything
  Write("");
  ASSERT_EQ(chmod(path().c_str(), 0), 0);
  EXPECT_EQ(Parse({"--config", path()}).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(ConfigFile, HugeFilesAreRefused) {
  Write(std::string((1 << 20) + 1, '#'));
  EXPECT_THAT(Message(Parse({"--config", path()}).status()), HasSubstr("larger than 1 MiB"));
}

TEST(ConfigKeys, EveryKeyIsWellFormed) {
  std::set<std::string> names;
  for (const ConfigKey& key : ConfigKeys()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    EXPECT_EQ(FindConfigKey(key.name), &key);
    EXPECT_THAT(std::string(key.help), ::testing::EndsWith(".")) << key.name;
    EXPECT_THAT(HelpText(), HasSubstr(absl::StrCat("\n  ", FlagName(key)))) << key.name;
  }
  EXPECT_EQ(FindConfigKey("no_such_key"), nullptr);
}

TEST(ConfigKeys, BoundsHoldAtBothEnds) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.type != KeyType::kInteger && key.type != KeyType::kSize) continue;
    const auto set = [&key](uint64_t value) {
      Config config;
      const std::string unit = key.type == KeyType::kSize ? "B" : "";
      return SetFromText(key, {absl::StrCat(value, unit)}, config).ok();
    };
    EXPECT_TRUE(set(key.min)) << key.name;
    EXPECT_TRUE(set(key.max)) << key.name;
    EXPECT_FALSE(set(key.max + 1)) << key.name;
    if (key.min == 0) continue;
    EXPECT_FALSE(set(key.min - 1)) << key.name;
  }
}

TEST(ConfigKeys, SizesAreWrittenExactly) {
  const ConfigKey& dram = *FindConfigKey("dram");
  for (const auto& [bytes, text] : std::map<uint64_t, std::string>{{0, "0"},
                                                                   {1, "1B"},
                                                                   {1500, "1500B"},
                                                                   {uint64_t{3} << 29, "1536MiB"},
                                                                   {uint64_t{1} << 40, "1TiB"}}) {
    Config config;
    config.dram_bytes = bytes;
    EXPECT_EQ(YamlValue(dram, config), text);
    config.dram_bytes = 7;
    ASSERT_TRUE(SetFromText(dram, {text}, config).ok());
    EXPECT_EQ(config.dram_bytes, bytes);
  }
}

TEST(ConfigKeys, ABadValueChangesNothing) {
  Config config;
  EXPECT_FALSE(SetFromText(*FindConfigKey("listen"), {"a:1", "bad"}, config).ok());
  EXPECT_FALSE(SetFromText(*FindConfigKey("dram"), {"0", "0"}, config).ok());
  EXPECT_FALSE(SetFromText(*FindConfigKey("dram"), {}, config).ok());
  EXPECT_EQ(Values(config), Values(Config()));
}

TEST(ConfigKeys, TheDepthOfReadsIsBoundedAsTheStoreBoundsIt) {
  EXPECT_EQ(FindConfigKey("nvme_depth")->max, uint64_t{kMaxReadDepth});
}

TEST(SampleConfig, IsTheFileInDeploy) {
  EXPECT_EQ(ReadSource("deploy/engramd.yaml"), SampleConfig())
      << "write it anew: engramd --print-sample-config > deploy/engramd.yaml";
}

TEST(SampleConfig, GivesTheDefaultsAsItStandsAndUncommented) {
  const std::string sample = SampleConfig();
  EXPECT_EQ(Values(*ParseConfig(sample, "sample")), Values(Config()));
  std::string uncommented;
  size_t keys = 0;
  for (const auto line : absl::StrSplit(sample, '\n')) {
    if (!absl::StartsWith(line, "#") || line.size() < 2 || line[1] == ' ') continue;
    absl::StrAppend(&uncommented, line.substr(1), "\n");
    ++keys;
  }
  EXPECT_EQ(keys, ConfigKeys().size());
  const auto config = ParseConfig(uncommented, "sample");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(Values(*config), Values(Config()));
}

TEST(ConfigReference, IsTheFileInDeploy) {
  EXPECT_EQ(ReadSource("deploy/CONFIG.md"), ConfigReference())
      << "write it anew: engramd --print-config-reference > deploy/CONFIG.md";
}

TEST(NearestName, OnlyWhatIsNear) {
  EXPECT_EQ(NearestName("dran", {"dram", "hbm"}), "dram");
  EXPECT_EQ(NearestName("readthreads", {"read_threads", "load_threads"}), "read_threads");
  EXPECT_EQ(NearestName("elephant", {"dram", "hbm"}), "");
  EXPECT_EQ(NearestName(std::string(100000, 'd'), {"dram"}), "");
}

}  // namespace
}  // namespace engram
