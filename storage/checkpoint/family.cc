#include "storage/checkpoint/family.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/deepseek_v41.h"

namespace engram {
namespace {

constexpr absl::string_view kAuto = "auto";

constexpr std::array<Family, 1> kFamilies = {{
    {"deepseek-v4.1", MatchesDeepseekV41, OpenDeepseekV41},
}};

// What `--model` may be in some version of the project.
constexpr std::array<absl::string_view, 6> kKnown = {"auto",      "deepseek-v4.1", "engram-demo",
                                                     "qwen4-exp", "longcat",       "generic"};

std::string SupportedNames() {
  std::string names(kAuto);
  for (const Family& family : kFamilies) absl::StrAppend(&names, ", ", family.name);
  return names;
}

const Family* FindFamily(absl::string_view name) {
  for (const Family& family : kFamilies) {
    if (name == family.name) return &family;
  }
  return nullptr;
}

}  // namespace

absl::Span<const Family> SupportedFamilies() { return kFamilies; }

absl::Status CheckModelName(absl::string_view model) {
  if (model.empty() || model == kAuto || FindFamily(model) != nullptr) return absl::OkStatus();
  if (std::find(kKnown.begin(), kKnown.end(), model) != kKnown.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "family ", model, " is not supported by this version; supported: ", SupportedNames()));
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown model family '",
                                                 absl::CHexEscape(model.substr(0, 100)),
                                                 "'; known: ", absl::StrJoin(kKnown, ", ")));
}

absl::StatusOr<const Family*> ChooseFamily(absl::string_view model, const ModelConfig& config) {
  ENGRAM_RETURN_IF_ERROR(CheckModelName(model));
  if (!model.empty() && model != kAuto) return FindFamily(model);
  for (const Family& family : kFamilies) {
    if (family.matches(config)) return &family;
  }
  const std::string type = config.model_type();
  return absl::InvalidArgumentError(absl::StrCat(
      config.file(), ": model_type ",
      type.empty() ? "is missing"
                   : absl::StrCat("'", absl::CHexEscape(absl::string_view(type).substr(0, 100)),
                                  "' belongs to no supported family"),
      "; supported: ", SupportedNames()));
}

absl::StatusOr<std::unique_ptr<RowSource>> OpenCheckpoint(const CheckpointOptions& options) {
  ENGRAM_RETURN_IF_ERROR(CheckModelName(options.model));
  ENGRAM_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Read(options.directory));
  ENGRAM_ASSIGN_OR_RETURN(const Family* const family, ChooseFamily(options.model, config));
  if (!options.tensors.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensors can be named for family generic only; this is ", family->name));
  }
  return family->open(config, options);
}

}  // namespace engram
