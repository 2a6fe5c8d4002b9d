#include "storage/checkpoint/family.h"

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/deepseek_v41.h"
#include "storage/checkpoint/engram_demo.h"
#include "storage/checkpoint/family_config.h"
#include "storage/checkpoint/generic.h"
#include "storage/checkpoint/longcat.h"
#include "storage/checkpoint/qwen4_exp.h"
#include "storage/checkpoint/tokenizer.h"

namespace engram {
namespace {

constexpr absl::string_view kAuto = "auto";
constexpr absl::string_view kWithoutTokenizer =
    "; without tokenizer.json beside config.json only compressed ids can be used";
constexpr absl::string_view kAsItIs = "; pass --allow-unverified to take it as it is";

constexpr std::array<Family, 5> kFamilies = {{
    {"deepseek-v4.1", MatchesDeepseekV41, DeepseekV41Spec, OpenDeepseekV41, nullptr,
     kDeepseekV41TokenMap},
    {"engram-demo", MatchesEngramDemo, EngramDemoSpec, OpenEngramDemo, nullptr,
     kEngramDemoTokenMap},
    {"qwen4-exp", MatchesQwen4Exp, Qwen4ExpSpec, OpenQwen4Exp, UnverifiedQwen4Exp, {}},
    {"longcat", MatchesLongcat, LongcatSpec, OpenLongcat, UnverifiedLongcat, {}},
    {"generic", nullptr, nullptr, OpenGeneric, nullptr, {}},
}};

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

// A family named by the operator that learns nothing from config.json does without it.
absl::StatusOr<ModelConfig> ReadConfig(const std::string& directory, absl::string_view model) {
  ENGRAM_RETURN_IF_ERROR(CheckModelName(model));
  const Family* const family = FindFamily(model);
  if (family != nullptr && family->spec == nullptr) return ModelConfig::ReadText(directory);
  return ModelConfig::Read(directory);
}

// Without a token map a raw pad has to do as a compressed id.
absl::Status CheckUnmappedPad(const ModelConfig& config, const AddressingSpec& addressing) {
  if (addressing.pad_id < addressing.compressed_vocab_size) return absl::OkStatus();
  return BadKey(
      config, "pad_id",
      absl::StrCat("is ", addressing.pad_id, ", past the ", addressing.compressed_vocab_size,
                   " compressed ids: it is a raw id, and needs the model's "
                   "tokenizer.json beside config.json"));
}

absl::Status AddTokenMap(const Family& family, const ModelConfig& config,
                         const std::string& directory, bool allow_unverified,
                         ModelAddressing& model) {
  absl::StatusOr<TokenMap> map = ReadTokenMap(directory);
  if (absl::IsNotFound(map.status())) {
    return family.token_map.raw_pad ? CheckUnmappedPad(config, model.spec.addressing)
                                    : absl::OkStatus();
  }
  if (!map.ok()) {
    return absl::Status(map.status().code(),
                        absl::StrCat(map.status().message(), kWithoutTokenizer));
  }
  ENGRAM_RETURN_IF_ERROR(ApplyTokenMap(family, *map, absl::StrCat(directory, "/tokenizer.json"),
                                       allow_unverified, model.spec));
  model.map = *std::move(map);
  return absl::OkStatus();
}

// Requires a family with a spec.
absl::StatusOr<ModelAddressing> Describe(const Family& family, const ModelConfig& config,
                                         const std::string& directory, bool allow_unverified,
                                         TokenIds ids) {
  ModelAddressing model;
  ENGRAM_ASSIGN_OR_RETURN(model.spec, family.spec(config));
  ENGRAM_RETURN_IF_ERROR(CheckVerified(family, config, allow_unverified));
  const bool compresses = model.spec.addressing.compressed_vocab_size > 0;
  if (compresses && (ids == TokenIds::kRaw || family.token_map.raw_pad)) {
    ENGRAM_RETURN_IF_ERROR(AddTokenMap(family, config, directory, allow_unverified, model));
  }
  // Once more, because the pad may be another now.
  ENGRAM_RETURN_IF_ERROR(FinishSpec(config, model.spec));
  return model;
}

absl::Status CheckTensorNames(const Family& family, const CheckpointOptions& options) {
  const bool wanted = family.spec == nullptr;
  if (options.tensors.empty() != wanted) return absl::OkStatus();
  if (wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("family ", family.name,
                     " takes the tensors that are named; name each layer's with --tensor"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("tensors can be named for family generic only; this is ", family.name));
}

}  // namespace

absl::Span<const Family> SupportedFamilies() { return kFamilies; }

absl::Status CheckModelName(absl::string_view model) {
  if (model.empty() || model == kAuto || FindFamily(model) != nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("unknown model family '",
                                                 absl::CHexEscape(model.substr(0, 100)),
                                                 "'; supported: ", SupportedNames()));
}

absl::StatusOr<const Family*> ChooseFamily(absl::string_view model, const ModelConfig& config) {
  ENGRAM_RETURN_IF_ERROR(CheckModelName(model));
  if (!model.empty() && model != kAuto) return FindFamily(model);
  for (const Family& family : kFamilies) {
    if (family.matches != nullptr && family.matches(config)) return &family;
  }
  const std::string type = config.model_type();
  return absl::InvalidArgumentError(absl::StrCat(
      config.file(), ": model_type ",
      type.empty() ? "is missing"
                   : absl::StrCat("'", absl::CHexEscape(absl::string_view(type).substr(0, 100)),
                                  "' belongs to no supported family"),
      "; supported: ", SupportedNames()));
}

absl::Status CheckVerified(const Family& family, const ModelConfig& config, bool allow_unverified) {
  if (allow_unverified || family.unverified == nullptr) return absl::OkStatus();
  const std::string reason = family.unverified(config);
  if (reason.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(config.file(), ": ", reason, kAsItIs));
}

absl::Status ApplyTokenMap(const Family& family, const TokenMap& map, absl::string_view file,
                           bool allow_unverified, TableSpec& spec) {
  const auto bad = [&](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", what..., kWithoutTokenizer));
  };
  AddressingSpec& addressing = spec.addressing;
  const int64_t compressed = addressing.compressed_vocab_size;
  if (static_cast<int64_t>(map.compressed_size()) != compressed) {
    return bad("its tokens compress to ", map.compressed_size(), " ids, but the config says ",
               compressed, "; it is not this model's tokenizer");
  }
  const int64_t pad = addressing.pad_id;
  if (static_cast<uint64_t>(pad) >= map.size()) {
    return bad("has ", map.size(), " tokens, so none is the pad id ", pad);
  }
  const int32_t mapped = map.compressed()[pad];
  const TokenMapRule& rule = family.token_map;
  if (!rule.raw_pad && mapped != pad) {
    return bad("compresses the pad id ", pad, " to ", mapped, ", but the model pads with ", pad);
  }
  if (!rule.digest.empty() && compressed == rule.compressed_vocab_size &&
      map.digest() != rule.digest && !allow_unverified) {
    return absl::FailedPreconditionError(absl::StrCat(file, ": its token map has the digest ",
                                                      map.digest(), ", but that of ", family.name,
                                                      " is ", rule.digest, kAsItIs));
  }
  addressing.pad_id = mapped;
  spec.token_map_size = map.size();
  spec.token_map_digest = map.digest();
  return absl::OkStatus();
}

absl::StatusOr<ModelAddressing> ReadModel(const std::string& directory, absl::string_view model,
                                          bool allow_unverified, TokenIds ids) {
  ENGRAM_ASSIGN_OR_RETURN(const ModelConfig config, ReadConfig(directory, model));
  ENGRAM_ASSIGN_OR_RETURN(const Family* const family, ChooseFamily(model, config));
  if (family->spec == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "family ", family->name, " has no addressing; its rows are asked for by their ids"));
  }
  return Describe(*family, config, directory, allow_unverified, ids);
}

absl::StatusOr<std::unique_ptr<RowSource>> OpenCheckpoint(const CheckpointOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const ModelConfig config, ReadConfig(options.directory, options.model));
  ENGRAM_ASSIGN_OR_RETURN(const Family* const family, ChooseFamily(options.model, config));
  ENGRAM_RETURN_IF_ERROR(CheckTensorNames(*family, options));
  ModelAddressing model;
  if (family->spec != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(model, Describe(*family, config, options.directory,
                                            options.allow_unverified, TokenIds::kRaw));
  }
  ENGRAM_ASSIGN_OR_RETURN(auto directory, CheckpointDir::Open(options.directory));
  ENGRAM_ASSIGN_OR_RETURN(LayerRows layers, family->open(config, options, *directory, model.spec));
  ENGRAM_RETURN_IF_ERROR(FinishSpec(config, model.spec));
  for (const auto& [name, shard] : directory->shards()) {
    if (shard->file->direct()) continue;
    ENGRAM_LOG(kWarning) << shard->file->path()
                         << ": direct I/O is refused; reading through the page cache";
  }
  // The same files with other tensors chosen, or another tokenizer, are another checkpoint.
  std::vector<std::string> also;
  if (model.map) also = {"token map", model.map->digest()};
  for (const std::string& tensor : options.tensors) also.push_back(tensor);
  model.spec.checkpoint_digest = CheckpointDigest(config, *directory, also);
  return std::make_unique<TableSource>(std::move(model.spec), std::move(directory),
                                       std::move(layers), std::move(model.map));
}

}  // namespace engram
