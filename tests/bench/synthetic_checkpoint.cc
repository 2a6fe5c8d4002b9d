#include "tests/bench/synthetic_checkpoint.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/addressing.h"
#include "tests/bench/append_file.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kMaxNgram = 4;
constexpr int32_t kHeads = 8;
constexpr uint64_t kColumns = kLayers.size() * (kMaxNgram - 1) * kHeads;

std::string ShardName(size_t index) {
  return absl::StrCat("model-0000", index + 1, "-of-0000", kLayers.size(), ".safetensors");
}
std::string Tensor(size_t index, const char* what) {
  return absl::StrCat("layers.", kLayers[index], ".engram.embed.", what);
}

absl::Status WriteShard(const CheckpointShape& shape, size_t index, const std::string& directory) {
  const uint64_t rows = shape.rows[index];
  const uint64_t values = rows * kHeadDim;
  const Json header = {
      {"__metadata__", {{"format", "pt"}}},
      {Tensor(index, "weight"),
       {{"dtype", "F8_E4M3"}, {"shape", {rows, kHeadDim}}, {"data_offsets", {0, values}}}},
      {Tensor(index, "scale"),
       {{"dtype", "F8_E8M0"},
        {"shape", {rows, kScaleBytes}},
        {"data_offsets", {values, values + rows * kScaleBytes}}}}};
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  AppendFile file;
  ENGRAM_RETURN_IF_ERROR(file.Open(absl::StrCat(directory, "/", ShardName(index))));
  ENGRAM_RETURN_IF_ERROR(file.Append(&length, sizeof(length)));
  ENGRAM_RETURN_IF_ERROR(file.Append(text.data(), text.size()));
  std::array<std::byte, kRowBytes> row;
  for (uint64_t id = 0; id < rows; ++id) {
    ExpectedRow(kLayers[index], static_cast<uint32_t>(id), absl::MakeSpan(row));
    ENGRAM_RETURN_IF_ERROR(file.Append(row.data(), kHeadDim));
  }
  for (uint64_t id = 0; id < rows; ++id) {
    ExpectedRow(kLayers[index], static_cast<uint32_t>(id), absl::MakeSpan(row));
    ENGRAM_RETURN_IF_ERROR(file.Append(row.data() + kHeadDim, kScaleBytes));
  }
  return file.Close();
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (out.good()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write ", path));
}

absl::Status WriteTexts(const CheckpointShape& shape, const std::string& directory) {
  const Json config = {{"architectures", {"DeepseekV41ForCausalLM"}},
                       {"model_type", "deepseek_v41"},
                       {"text_config",
                        {{"engram_layer_ids", kLayers},
                         {"engram_num_embeddings", shape.rows},
                         {"engram_max_ngram_size", kMaxNgram},
                         {"engram_vocab_size", shape.base_size},
                         {"engram_n_heads", kHeads},
                         {"engram_head_dim", kHeadDim},
                         {"engram_pad_token_id", 2},
                         {"engram_compressed_vocab_size", 99092}}}};
  ENGRAM_RETURN_IF_ERROR(WriteText(absl::StrCat(directory, "/config.json"), config.dump(1)));
  Json weights;
  for (size_t i = 0; i < kLayers.size(); ++i) {
    weights[Tensor(i, "weight")] = ShardName(i);
    weights[Tensor(i, "scale")] = ShardName(i);
  }
  const Json index = {{"metadata", {{"total_size", shape.Bytes()}}}, {"weight_map", weights}};
  return WriteText(absl::StrCat(directory, "/model.safetensors.index.json"), index.dump(1));
}

}  // namespace

absl::StatusOr<CheckpointShape> ShapeFor(uint64_t bytes) {
  const uint64_t per_base = kColumns * kRowBytes;
  const uint64_t base = std::max<uint64_t>(2, (bytes + per_base - 1) / per_base);
  AddressingSpec addressing{.max_ngram_size = kMaxNgram,
                            .heads = kHeads,
                            .base_size = base,
                            .pad_id = 2,
                            .compressed_vocab_size = 99092};
  ENGRAM_ASSIGN_OR_RETURN(const auto layers, PrimeColumns(addressing, kLayers.size()));
  CheckpointShape shape;
  shape.base_size = base;
  for (size_t i = 0; i < layers.size(); ++i) {
    for (const ColumnSpec& column : layers[i]) shape.rows[i] += column.rows;
    if (shape.rows[i] > kMaxLayerRows) {
      return absl::InvalidArgumentError(
          absl::StrCat("a table of ", bytes, " bytes has more rows a layer than ids"));
    }
  }
  return shape;
}

absl::Status WriteCheckpoint(const CheckpointShape& shape, const std::string& directory) {
  ENGRAM_RETURN_IF_ERROR(MakeFolder(directory));
  ENGRAM_RETURN_IF_ERROR(WriteTexts(shape, directory));
  std::array<absl::Status, kLayers.size()> statuses;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kLayers.size(); ++i) {
    threads.emplace_back([&, i] { statuses[i] = WriteShard(shape, i, directory); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) ENGRAM_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

}  // namespace engram::bench
