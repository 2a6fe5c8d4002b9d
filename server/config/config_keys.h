// The one table of engramd's settings, and the texts made from it.
//
// To add a key: a member of Config with its default, and one entry in config_keys.cc. Then
// regenerate deploy/engramd.yaml and deploy/CONFIG.md (a test compares them with what is printed
// here).
#ifndef ENGRAM_SERVER_CONFIG_CONFIG_KEYS_H_
#define ENGRAM_SERVER_CONFIG_CONFIG_KEYS_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/config/config.h"

namespace engram {

enum class KeyType {
  kPath,
  kChoice,
  kAddress,
  kAddressList,
  kProfileList,
  kSize,
  kInteger,
  kBoolean
};

using KeyMember = std::variant<std::string Config::*, std::vector<std::string> Config::*,
                               uint64_t Config::*, int Config::*, bool Config::*>;

struct ConfigKey {
  const char* name;  // in YAML; the flag has `-` for `_`
  KeyType type;
  const char* unit;  // "threads", "s"; empty where the type says it
  uint64_t min;      // of kSize (bytes) and kInteger
  uint64_t max;
  bool needs_restart;
  KeyMember member;  // the default is that of a fresh Config
  const char* help;  // whole sentences
};

absl::Span<const ConfigKey> ConfigKeys();

// The table's key of that name, or nullptr.
const ConfigKey* FindConfigKey(absl::string_view name);

// Whether a value is a list, written with commas or as YAML's own.
constexpr bool IsList(KeyType type) {
  return type == KeyType::kAddressList || type == KeyType::kProfileList;
}

// "--data-dir" for "data_dir".
std::string FlagName(const ConfigKey& key);

// The member's value as one writes it, in YAML (a list as `[a, b]`) or in text ("off" for an
// address that is empty).
std::string YamlValue(const ConfigKey& key, const Config& config);

// Sets the key's member from texts: one, or any number for a list (each may hold several,
// separated by commas). InvalidArgument, without the key's name, when a value is of the wrong
// type, out of bounds or malformed; `config` is then unchanged.
absl::Status SetFromText(const ConfigKey& key, absl::Span<const std::string> values,
                         Config& config);

// The candidate nearest to a mistyped name; empty when none is near.
std::string NearestName(absl::string_view name, absl::Span<const std::string> candidates);

std::string HelpText();         // --help
std::string SampleConfig();     // deploy/engramd.yaml
std::string ConfigReference();  // deploy/CONFIG.md

}  // namespace engram

#endif  // ENGRAM_SERVER_CONFIG_CONFIG_KEYS_H_
