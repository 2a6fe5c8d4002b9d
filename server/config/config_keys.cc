#include "server/config/config_keys.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/table/spec.h"

namespace engram {
namespace {

constexpr uint64_t kKiB = uint64_t{1} << 10;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kTiB = uint64_t{1} << 40;
// gRPC counts a message's bytes in an int.
constexpr uint64_t kMaxMessage = 2047 * kMiB;
// The store's kMaxReadDepth.
constexpr uint64_t kMaxNvmeDepth = 1024;

const std::array<ConfigKey, 25> kKeys = {{
    {"data_dir", KeyType::kPath, "", 0, 0, true, &Config::data_dir,
     "The directory of the tables: the NVMe tier. It is made if it is not there. One engramd at a "
     "time may use it; put it on the fastest local drive."},
    {"listen", KeyType::kAddressList, "", 0, 0, true, &Config::listen,
     "Where gRPC is served: one or more of `unix:/absolute/path` and `host:port` (as a flag: "
     "separated by commas). Port 0 takes a free one. TCP is neither encrypted nor authenticated: "
     "keep it to networks that you trust."},
    {"http", KeyType::kAddress, "", 0, 0, true, &Config::http,
     "Where /metrics, /healthz, /readyz and the status page are served, as `host:port`; `off` "
     "turns them off."},
    {"dram", KeyType::kSize, "", 0, 64 * kTiB, true, &Config::dram_bytes,
     "The budget of the DRAM tier at start, index included, shared by the active tables; 0 turns "
     "the tier off. Where less memory is available, on the host or in engramd's cgroup, the tier "
     "gets that and the log says so. `engramctl budget --dram SIZE` changes the budget while "
     "engramd runs; the next start uses this key again. One part in 256 (more of small budgets) "
     "holds the telemetry of clients that read the tier themselves, 36 KiB each."},
    {"shared_memory", KeyType::kBoolean, "", 0, 0, true, &Config::shared_memory,
     "Whether clients on this host may map the DRAM tier read-only and read rows there themselves. "
     "They find it through the Unix sockets of `listen`; whoever may connect to those may read."},
    {"shm_dir", KeyType::kPath, "", 0, 0, true, &Config::shm_dir,
     "A directory in memory for the shared DRAM tier, of a tmpfs or (for huge pages reserved by "
     "the administrator) a hugetlbfs. It needs room for all of `dram`."},
    {"warm_restart", KeyType::kBoolean, "", 0, 0, true, &Config::warm_restart,
     "Whether the shared DRAM tier stays in `shm_dir` when engramd ends, so that the next one "
     "begins with it, and whether which rows it held is saved in `data_dir`, so that they are read "
     "again after a reboot. When `false`, SIGTERM gives its memory back, and nothing is saved but "
     "what a switch of versions needs."},
    {"admission", KeyType::kChoice, "adaptive|frequency|all|prefetch", 0, 0, true,
     &Config::admission,
     "Which rows the DRAM tier keeps when it cannot hold them all: `frequency` those that are "
     "asked for most often, so that rows that come once and long prefills push nothing out; `all` "
     "whatever was read last (second chance), which serves more where documents repeat themselves, "
     "as text does; `adaptive` the one of these two that misses less, as a few sets "
     "of the cache under either show all the time; `prefetch` only what prefetches bring, for "
     "loads that gain nothing from keeping rows."},
    {"profiles", KeyType::kProfileList, "", 0, 0, true, &Config::profiles,
     "Files of `engramctl profile`, as `NAME=PATH` (a table's name and an absolute path without "
     "commas): the most frequent rows of table NAME are read into DRAM when it begins empty. Each "
     "is read at start, and replaces what `engramctl load --profile` has left. A file that does "
     "not fit its table is told in the log and in `engramctl stats`, and done without."},
    {"hbm", KeyType::kSize, "", 0, 64 * kTiB, true, &Config::hbm_bytes,
     "The budget of the HBM tier (GPU memory); 0 turns the tier off. Where it is not to be had, it "
     "is off all the same: the log, `engramctl stats` and the status page say why."},
    {"hbm_memory", KeyType::kChoice, "gpu|gpu-writable|host", 0, 0, true, &Config::hbm_memory,
     "Where the HBM tier lies: `gpu` in memory of a GPU that workers map read-only (CUDA VMM); "
     "`gpu-writable` the same, but where that is not to be had in memory that workers could also "
     "write (CUDA IPC), and workers whose GPU cannot read host memory that they may not write get "
     "the DRAM tier writable: one worker's mistake could then change what another reads; `host` in "
     "this machine's memory, for trying the tier out without a GPU."},
    {"gpu", KeyType::kInteger, "", 0, 63, true, &Config::gpu,
     "Which GPU has the HBM tier, counted as CUDA counts those that engramd may use."},
    {"hbm_refresh_seconds", KeyType::kInteger, "s", 1, 86400, true, &Config::hbm_refresh_seconds,
     "Time between two exchanges of rows in the HBM tier for others that are asked for more "
     "often."},
    {"admin_tcp", KeyType::kBoolean, "", 0, 0, true, &Config::admin_tcp,
     "Whether load, activate, drop, verify and stats are served on TCP addresses too. Unix "
     "sockets always serve them."},
    {"nvme_depth", KeyType::kInteger, "reads", 1, kMaxNvmeDepth, true, &Config::nvme_depth,
     "Page reads that are kept under way at the drive, over all tables and calls: enough to keep "
     "it busy, few enough that a small call does not wait behind a large one."},
    {"read_threads", KeyType::kInteger, "threads", 1, 64, true, &Config::read_threads,
     "Threads that help to read a batch of pages from NVMe where io_uring is not to be had: then "
     "each of them has one read under way."},
    {"load_threads", KeyType::kInteger, "threads", 1, 64, true, &Config::load_threads,
     "Threads that one load has: each reads ahead, checks and writes rows. Each takes some 20 MiB, "
     "whatever the size of the table; two keep an NVMe drive busy."},
    {"io_threads", KeyType::kInteger, "threads", 1, 256, true, &Config::io_threads,
     "Threads that run batches which need NVMe, and large ones, in pieces; one more is for those "
     "of "
     "up to 256 cold rows alone, as a decoded token needs."},
    {"gather_threads", KeyType::kInteger, "threads", 0, 64, true, &Config::gather_threads,
     "Threads that help to gather large batches from DRAM, shared by all tables; a batch of up to "
     "512 rows is gathered by the thread that took it."},
    {"max_queued_batches", KeyType::kInteger, "batches", 1, 1000000, true,
     &Config::max_queued_batches,
     "Batches that may wait for an io thread, half of them of one client; one more is refused with "
     "RESOURCE_EXHAUSTED. As many prefetches may wait; one more is passed over."},
    {"max_request", KeyType::kSize, "", kKiB, kMaxMessage, true, &Config::max_request,
     "The largest request that is taken; a larger one is refused with RESOURCE_EXHAUSTED."},
    {"max_answer", KeyType::kSize, "", kKiB, kMaxMessage, true, &Config::max_answer,
     "The largest answer that is given; a request for more rows is refused with "
     "RESOURCE_EXHAUSTED. Clients set their own limit to match."},
    {"io_uring", KeyType::kBoolean, "", 0, 0, true, &Config::io_uring,
     "Whether NVMe is read, and tables are loaded, through io_uring. Where the system refuses it, "
     "engramd says so once and reads and writes one request after the other, slower."},
    {"direct_io", KeyType::kBoolean, "", 0, 0, true, &Config::direct_io,
     "Whether tables are read past the page cache (O_DIRECT). Where the file system refuses it, "
     "engramd says so once and reads through the page cache."},
    {"drain_seconds", KeyType::kInteger, "s", 0, 3600, true, &Config::drain_seconds,
     "How long calls in flight may take to finish after SIGTERM."},
}};

// FormatSize rounds; bounds and values that are read back must not.
std::string ExactSize(uint64_t bytes) {
  if (bytes == 0) return "0";
  for (const uint64_t unit : {kTiB, kTiB >> 10, kMiB, kKiB}) {
    if (bytes % unit == 0) return FormatSize(unit).replace(0, 1, absl::StrCat(bytes / unit));
  }
  return absl::StrCat(bytes, "B");
}

absl::Status Bad(absl::string_view text) { return absl::InvalidArgumentError(text); }

absl::StatusOr<bool> ParseBoolean(absl::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return Bad(absl::StrCat("'", text, "' is not true or false"));
}

absl::StatusOr<uint64_t> ParseNumber(const ConfigKey& key, absl::string_view text) {
  uint64_t value = 0;
  const bool size = key.type == KeyType::kSize;
  if (size) {
    ENGRAM_ASSIGN_OR_RETURN(value, ParseSize(text));
  } else if (text.empty() || !std::all_of(text.begin(), text.end(), absl::ascii_isdigit) ||
             !absl::SimpleAtoi(text, &value)) {
    return Bad(absl::StrCat("'", text, "' is not a whole number"));
  }
  if (value < key.min || value > key.max) {
    const auto show = [&](uint64_t n) { return size ? ExactSize(n) : absl::StrCat(n); };
    return Bad(absl::StrCat(show(value), " is out of bounds: give ", show(key.min), " to ",
                            show(key.max)));
  }
  return value;
}

absl::StatusOr<std::string> ParseString(const ConfigKey& key, const std::string& text) {
  if (key.type == KeyType::kAddress) {
    if (text.empty() || text == "off") return std::string();
    ENGRAM_ASSIGN_OR_RETURN(const Address address, ParseAddress(text));
    if (!address.unix_path.empty()) {
      return Bad(absl::StrCat("'", text, "' is a Unix socket; HTTP is served on host:port only"));
    }
    return text;
  }
  if (key.type == KeyType::kChoice) {
    const std::vector<std::string> choices = absl::StrSplit(key.unit, '|');
    if (std::find(choices.begin(), choices.end(), text) != choices.end()) return text;
    return Bad(absl::StrCat("'", text, "' is none of ", absl::StrJoin(choices, ", ")));
  }
  if (text.empty()) return Bad("the path is empty");
  if (std::any_of(text.begin(), text.end(), absl::ascii_iscntrl)) {
    return Bad("the path holds a control character");
  }
  return text;
}

absl::StatusOr<std::vector<std::string>> ParseAddresses(absl::Span<const std::string> values) {
  std::vector<std::string> addresses;
  for (const std::string& value : values) {
    for (absl::string_view item : absl::StrSplit(value, ',')) {
      item = absl::StripAsciiWhitespace(item);
      ENGRAM_RETURN_IF_ERROR(ParseAddress(item).status());
      if (std::find(addresses.begin(), addresses.end(), item) != addresses.end()) {
        return Bad(absl::StrCat("'", item, "' is given twice"));
      }
      addresses.emplace_back(item);
    }
  }
  if (addresses.empty()) return Bad("give at least one address");
  return addresses;
}

// An empty text is an empty list.
absl::StatusOr<std::vector<std::string>> ParseProfiles(absl::Span<const std::string> values) {
  std::vector<std::string> profiles;
  std::vector<std::string> names;
  for (const std::string& value : values) {
    for (absl::string_view item : absl::StrSplit(value, ',', absl::SkipWhitespace())) {
      item = absl::StripAsciiWhitespace(item);
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(item, absl::MaxSplits('=', 1));
      const auto& [name, path] = parts;
      if (!CheckTableName(name).ok() || !absl::StartsWith(path, "/") ||
          std::any_of(path.begin(), path.end(), absl::ascii_iscntrl)) {
        return Bad(absl::StrCat("'", item,
                                "' is not NAME=PATH with a table's name and an absolute ", "path"));
      }
      if (std::find(names.begin(), names.end(), name) != names.end()) {
        return Bad(absl::StrCat("table '", name, "' is given twice"));
      }
      names.push_back(name);
      profiles.emplace_back(item);
    }
  }
  return profiles;
}

struct Setter {
  const ConfigKey& key;
  absl::Span<const std::string> values;
  Config& config;

  absl::Status operator()(std::string Config::*member) const {
    ENGRAM_ASSIGN_OR_RETURN(config.*member, ParseString(key, values.front()));
    return absl::OkStatus();
  }
  absl::Status operator()(std::vector<std::string> Config::*member) const {
    const bool addresses = key.type == KeyType::kAddressList;
    ENGRAM_ASSIGN_OR_RETURN(config.*member,
                            addresses ? ParseAddresses(values) : ParseProfiles(values));
    return absl::OkStatus();
  }
  absl::Status operator()(uint64_t Config::*member) const {
    ENGRAM_ASSIGN_OR_RETURN(config.*member, ParseNumber(key, values.front()));
    return absl::OkStatus();
  }
  absl::Status operator()(int Config::*member) const {
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t value, ParseNumber(key, values.front()));
    config.*member = static_cast<int>(value);  // the bounds of the table fit an int
    return absl::OkStatus();
  }
  absl::Status operator()(bool Config::*member) const {
    ENGRAM_ASSIGN_OR_RETURN(config.*member, ParseBoolean(values.front()));
    return absl::OkStatus();
  }
};

struct Writer {
  const ConfigKey& key;
  const Config& config;

  std::string operator()(std::string Config::*member) const {
    const std::string& value = config.*member;
    return value.empty() ? "off" : value;
  }
  std::string operator()(std::vector<std::string> Config::*member) const {
    if ((config.*member).empty()) return "[]";
    return absl::StrCat("[\"", absl::StrJoin(config.*member, "\", \""), "\"]");
  }
  std::string operator()(uint64_t Config::*member) const {
    const uint64_t value = config.*member;
    if (key.type != KeyType::kSize) return absl::StrCat(value);
    return ExactSize(value);
  }
  std::string operator()(int Config::*member) const { return absl::StrCat(config.*member); }
  std::string operator()(bool Config::*member) const { return config.*member ? "true" : "false"; }
};

const char* TypeName(KeyType type) {
  switch (type) {
    case KeyType::kPath:
      return "path";
    case KeyType::kChoice:
      return "one of several words";
    case KeyType::kAddress:
      return "address";
    case KeyType::kAddressList:
      return "list of addresses";
    case KeyType::kProfileList:
      return "list of NAME=PATH";
    case KeyType::kSize:
      return "size";
    case KeyType::kInteger:
      return "whole number";
    case KeyType::kBoolean:
      return "true or false";
  }
  return "";
}

const char* FlagValue(KeyType type) {
  switch (type) {
    case KeyType::kPath:
      return " DIR";
    case KeyType::kChoice:
      return " WORD";
    case KeyType::kAddress:
      return " ADDR";
    case KeyType::kAddressList:
      return " ADDR[,ADDR]";
    case KeyType::kProfileList:
      return " NAME=PATH[,NAME=PATH]";
    case KeyType::kSize:
      return " SIZE";
    case KeyType::kInteger:
      return " N";
    case KeyType::kBoolean:
      return "[=BOOL]";
  }
  return "";
}

std::string Bounds(const ConfigKey& key) {
  if (key.type == KeyType::kSize) {
    return absl::StrCat(ExactSize(key.min), " to ", ExactSize(key.max));
  }
  if (key.type == KeyType::kChoice) return absl::StrReplaceAll(key.unit, {{"|", ", "}});
  if (key.type != KeyType::kInteger) return "";
  return absl::StrCat(key.min, " to ", key.max, *key.unit == '\0' ? "" : " ", key.unit);
}

// Words of `text` in lines of at most `width` characters, each behind `indent`.
std::string Wrap(absl::string_view text, absl::string_view indent, size_t width) {
  std::string out;
  std::string line;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && indent.size() + line.size() + 1 + word.size() > width) {
      absl::StrAppend(&out, indent, line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  absl::StrAppend(&out, indent, line, "\n");
  return out;
}

// Type, bounds and restart in words.
std::string Facts(const ConfigKey& key) {
  const std::string bounds = Bounds(key);
  return absl::StrCat(TypeName(key.type), bounds.empty() ? "" : ", ", bounds,
                      key.needs_restart ? "; a change needs a restart" : "");
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

absl::Span<const ConfigKey> ConfigKeys() { return kKeys; }

const ConfigKey* FindConfigKey(absl::string_view name) {
  for (const ConfigKey& key : kKeys) {
    if (name == key.name) return &key;
  }
  return nullptr;
}

std::string FlagName(const ConfigKey& key) {
  return absl::StrCat("--", absl::StrReplaceAll(key.name, {{"_", "-"}}));
}

std::string YamlValue(const ConfigKey& key, const Config& config) {
  return std::visit(Writer{key, config}, key.member);
}

absl::Status SetFromText(const ConfigKey& key, absl::Span<const std::string> values,
                         Config& config) {
  if (values.empty() && key.type == KeyType::kAddressList) return Bad("give at least one address");
  if (values.size() != 1 && !IsList(key.type)) return Bad("give exactly one value");
  return std::visit(Setter{key, values, config}, key.member);
}

std::string NearestName(absl::string_view name, absl::Span<const std::string> candidates) {
  // Bounded, for the name may be any text; no candidate is anywhere near as long.
  if (name.size() > 64) return "";
  std::string nearest;
  size_t best = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string HelpText() {
  std::string out =
      "engramd: serves the rows of n-gram tables from GPU memory, DRAM and NVMe\n\n"
      "Usage: engramd [--config FILE] [FLAG…]\n\n"
      "  --config FILE\n"
      "      Read settings from this YAML file; flags override it. Keys are the flags' names\n"
      "      with _ for -.\n"
      "  --check-config\n"
      "      Check file and flags, then exit: 0 if they are good.\n"
      "  --print-sample-config, --print-config-reference\n"
      "      Print a commented configuration file, or the reference of all keys.\n"
      "  --version, --help\n\n"
      "ADDR is unix:/path or host:port. SIZE takes B KiB MiB GiB TiB. BOOL is true or false.\n\n";
  const Config defaults;
  for (const ConfigKey& key : kKeys) {
    const std::string bounds = Bounds(key);
    absl::StrAppend(
        &out, "  ", FlagName(key), FlagValue(key.type), "\n",
        Wrap(absl::StrReplaceAll(key.help, {{"`", ""}}), "      ", 96),
        Wrap(absl::StrCat("Default: ",
                          absl::StrReplaceAll(YamlValue(key, defaults),
                                              {{"[\"", ""}, {"\"]", ""}, {"\", \"", ","}}),
                          bounds.empty() ? "" : absl::StrCat(" (", bounds, ")"), "."),
             "      ", 96));
  }
  return absl::StrCat(out, "\nExit status: 0 after SIGTERM or a good check, 1 for an error, 2 for ",
                      "wrong usage.\n");
}

std::string SampleConfig() {
  std::string out =
      "# Configuration of engramd. Every key is here with its default; take the # away from those\n"
      "# that you change. Check with: engramd --config FILE --check-config\n"
      "#\n"
      "# Sizes take B, KiB, MiB, GiB and TiB. Flags of the same name override this file.\n";
  const Config defaults;
  for (const ConfigKey& key : kKeys) {
    absl::StrAppend(&out, "\n", Wrap(absl::StrReplaceAll(key.help, {{"`", ""}}), "# ", 100),
                    Wrap(absl::StrCat("(", Facts(key), ")"), "# ", 100), "#", key.name, ": ",
                    YamlValue(key, defaults), "\n");
  }
  return out;
}

std::string ConfigReference() {
  std::string out =
      "# Configuration\n\n"
      "Made by `engramd --print-config-reference`. Each key may be given in the file that\n"
      "`--config` names or as a flag; flags override the file.\n\n"
      "Sizes take `B`, `KiB`, `MiB`, `GiB` and `TiB`; `0` needs no unit. Addresses are\n"
      "`unix:/absolute/path` (at most 107 bytes), `host:port` or `[ipv6]:port`. Booleans are\n"
      "`true` and `false`; as a flag, the name alone means `true`.\n\n"
      "An unknown key, a wrong type, a key given twice or a value out of bounds is an error of\n"
      "the form `FILE:LINE: key 'x': …`; engramd then exits with 1 (2 when a flag is wrong).\n";
  const Config defaults;
  for (const ConfigKey& key : kKeys) {
    const std::string bounds = Bounds(key);
    absl::StrAppend(&out, "\n## `", key.name, "`\n\n", Wrap(key.help, "", 100), "\n",
                    "| flag | type | default | bounds | a change needs |\n|---|---|---|---|---|\n",
                    "| `", FlagName(key), "` | ", TypeName(key.type), " | `",
                    YamlValue(key, defaults), "` | ", bounds.empty() ? "–" : bounds, " | ",
                    key.needs_restart ? "a restart" : "nothing", " |\n");
  }
  return out;
}

}  // namespace engram
