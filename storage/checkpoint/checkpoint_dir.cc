#include "storage/checkpoint/checkpoint_dir.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/strict_json.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

constexpr absl::string_view kIndexName = "model.safetensors.index.json";
constexpr absl::string_view kSingleName = "model.safetensors";
constexpr absl::string_view kSuffix = ".safetensors";
constexpr uint64_t kMaxIndexBytes = 256 * 1024 * 1024;

bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name != "." && name != ".." && !absl::StrContains(name, '/') &&
         !absl::StrContains(name, '\0') && name.size() <= 255;
}

std::string Escaped(absl::string_view name) { return absl::CHexEscape(name.substr(0, 200)); }

absl::string_view AsText(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

absl::Status WithTensor(const absl::Status& status, const std::string& tensor) {
  return {status.code(), absl::StrCat(status.message(), " (needed for tensor '", tensor, "')")};
}

// The files whose headers stand in for an index.
absl::StatusOr<std::vector<std::string>> FindShards(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  auto entry = std::filesystem::directory_iterator(directory, error);
  while (!error && entry != std::filesystem::directory_iterator()) {
    const std::string name = entry->path().filename().string();
    if (name == kSingleName) return std::vector<std::string>{name};
    if (absl::EndsWith(name, kSuffix) && name[0] != '.') names.push_back(name);
    entry.increment(error);
  }
  if (error == std::errc::no_such_file_or_directory) {
    return absl::NotFoundError(absl::StrCat("there is no directory ", directory));
  }
  if (error) {
    return absl::UnavailableError(absl::StrCat(directory, ": cannot be listed: ", error.message()));
  }
  if (names.empty()) {
    return absl::NotFoundError(
        absl::StrCat(directory, ": holds neither ", kIndexName, " nor a *.safetensors file"));
  }
  std::sort(names.begin(), names.end());
  return names;
}

void UpdateField(Digest& digest, absl::string_view field) {
  // With its length in front, so that bytes cannot move from one field to the next.
  digest.Update(absl::StrCat(field.size(), ":"));
  digest.Update(field);
}

}  // namespace

absl::StatusOr<WeightMap> ParseSafetensorsIndex(absl::string_view file, absl::string_view text) {
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(file, text));
  const auto weights = json.find("weight_map");
  if (weights == json.end() || !weights->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": weight_map is ", weights == json.end() ? "missing" : JsonTypeName(*weights),
        "; expected an object of tensor names and file names"));
  }
  WeightMap map;
  for (const auto& [tensor, shard] : weights->items()) {
    if (!shard.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": the shard of tensor '",
                                                     Escaped(tensor), "' is ", JsonTypeName(shard),
                                                     ", not a file name"));
    }
    const std::string& name = shard.get_ref<const std::string&>();
    if (!IsPlainFileName(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": the shard '", Escaped(name), "' of tensor '", Escaped(tensor),
                       "' is not a plain file name in the checkpoint's directory"));
    }
    map.emplace(tensor, name);
  }
  return map;
}

absl::StatusOr<std::unique_ptr<CheckpointDir>> CheckpointDir::Open(const std::string& directory) {
  std::unique_ptr<CheckpointDir> result(new CheckpointDir(directory));
  const std::string index = absl::StrCat(directory, "/", kIndexName);
  absl::StatusOr<std::string> text = ReadSmallFile(index, kMaxIndexBytes);
  if (absl::IsNotFound(text.status())) {
    ENGRAM_RETURN_IF_ERROR(result->Scan());
    return result;
  }
  ENGRAM_RETURN_IF_ERROR(text.status());
  ENGRAM_ASSIGN_OR_RETURN(result->weight_map_, ParseSafetensorsIndex(index, *text));
  result->source_ = index;
  return result;
}

absl::Status CheckpointDir::Scan() {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> names, FindShards(directory_));
  for (const std::string& name : names) {
    // Closed again at once: a checkpoint may have more shards than we may have descriptors.
    ENGRAM_ASSIGN_OR_RETURN(const auto shard, OpenShard(name));
    for (const auto& [tensor, info] : shard->tensors) {
      const auto [entry, added] = weight_map_.emplace(tensor, name);
      if (!added) {
        return absl::InvalidArgumentError(absl::StrCat(directory_, ": tensor '", Escaped(tensor),
                                                       "' lies in both ", entry->second, " and ",
                                                       name, ", and there is no ", kIndexName));
      }
    }
  }
  source_ = absl::StrCat(directory_, "/", names.size() == 1 ? names[0] : "*.safetensors");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Shard>> CheckpointDir::OpenShard(
    const std::string& name) const {
  auto shard = std::make_unique<Shard>();
  shard->name = name;
  const std::string path = absl::StrCat(directory_, "/", name);
  ENGRAM_ASSIGN_OR_RETURN(shard->file, FileReader::Open(path));
  const FileReader& file = *shard->file;
  AlignedBuffer buffer;
  ENGRAM_ASSIGN_OR_RETURN(
      const auto prefix,
      file.Read(0, std::min<uint64_t>(kSafetensorsPrefixBytes, file.bytes()), buffer));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t length,
                          ParseSafetensorsPrefix(path, AsText(prefix), file.bytes()));
  ENGRAM_ASSIGN_OR_RETURN(const auto header, file.Read(kSafetensorsPrefixBytes, length, buffer));
  ENGRAM_ASSIGN_OR_RETURN(shard->tensors,
                          ParseSafetensorsHeader(path, AsText(header), file.bytes()));
  Digest digest;
  digest.Update(header);
  shard->header_digest = digest.Hex();
  return shard;
}

absl::StatusOr<std::string> CheckpointDir::Resolve(const std::string& name) const {
  if (weight_map_.count(name) != 0) return name;
  const std::string suffix = absl::StrCat(".", name);
  std::vector<std::string> found;
  for (const auto& entry : weight_map_) {
    if (absl::EndsWith(entry.first, suffix)) found.push_back(entry.first);
  }
  if (found.size() == 1) return found[0];
  if (found.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source_, ": there is no tensor '", name, "'"));
  }
  if (found.size() > 4) found.resize(4);
  return absl::InvalidArgumentError(absl::StrCat(source_, ": tensor '", name, "' could be any of '",
                                                 absl::StrJoin(found, "', '"), "'"));
}

absl::StatusOr<TensorRef> CheckpointDir::Find(const std::string& name) {
  const auto place = weight_map_.find(name);
  if (place == weight_map_.end()) {
    return absl::InvalidArgumentError(absl::StrCat(source_, ": there is no tensor '", name, "'"));
  }
  std::unique_ptr<const Shard>& shard = shards_[place->second];
  if (shard == nullptr) {
    absl::StatusOr<std::unique_ptr<const Shard>> opened = OpenShard(place->second);
    if (!opened.ok()) {
      shards_.erase(place->second);
      return WithTensor(opened.status(), name);
    }
    shard = *std::move(opened);
  }
  const auto tensor = shard->tensors.find(name);
  if (tensor == shard->tensors.end()) {
    return absl::DataLossError(absl::StrCat(shard->file->path(), ": does not hold tensor '", name,
                                            "', which ", source_, " places there"));
  }
  return TensorRef{name, shard.get(), &tensor->second};
}

std::string CheckpointDigest(const ModelConfig& config, const CheckpointDir& directory,
                             absl::Span<const std::string> also) {
  Digest digest;
  UpdateField(digest, config.text());
  for (const auto& [name, shard] : directory.shards()) {
    UpdateField(digest, name);
    UpdateField(digest, absl::StrCat(shard->file->bytes()));
    UpdateField(digest, absl::StrCat(shard->file->mtime_ns()));
    UpdateField(digest, shard->header_digest);
  }
  for (const std::string& field : also) UpdateField(digest, field);
  return digest.Hex();
}

}  // namespace engram
