#include "tests/integration/test_checkpoint.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>

namespace engram::testing {
namespace {

constexpr int kOrders = 2;  // 2 and 3
constexpr int kHeads = 2;

std::byte WeightByte(uint64_t salt, int layer, uint64_t row, int i) {
  const uint64_t mixed = (row * 0x9E3779B97F4A7C15ull) ^ (salt * 0xBF58476D1CE4E5B9ull) ^
                         (static_cast<uint64_t>(layer) << 40);
  return static_cast<std::byte>((mixed >> (i % 7 * 8)) + static_cast<uint64_t>(i) * 31);
}

std::byte ScaleByte(uint64_t salt, int layer, uint64_t row, int i) {
  return static_cast<std::byte>(100 + (row + salt * 3 + layer * 5 + i * 7) % 50);
}

void WriteShard(const TestCheckpoint& checkpoint, int layer, uint64_t rows) {
  const uint64_t weight_bytes = rows * kHeadDim;
  const uint64_t scale_bytes = rows * (kHeadDim / 32);
  const std::string prefix = "layers." + std::to_string(layer) + ".engram.";
  // A tensor that is none of ours lies in front, and makes the offsets odd.
  const uint64_t other = 37;
  std::string header = "{\"" + prefix + "gate\":{\"dtype\":\"U8\",\"shape\":[37],";
  header += "\"data_offsets\":[0,37]},\"" + prefix + "embed.weight\":{\"dtype\":\"F8_E4M3\",";
  header += "\"shape\":[" + std::to_string(rows) + ",256],\"data_offsets\":[37,";
  header += std::to_string(other + weight_bytes) + "]},\"" + prefix + "embed.scale\":";
  header += "{\"dtype\":\"F8_E8M0\",\"shape\":[" + std::to_string(rows) + ",8],\"data_offsets\":[";
  header += std::to_string(other + weight_bytes) + ",";
  header += std::to_string(other + weight_bytes + scale_bytes) + "]}}";
  std::ofstream out(checkpoint.ShardPath(layer), std::ios::binary);
  const uint64_t length = header.size();
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << header << std::string(other, 'g');
  std::vector<std::byte> line(kHeadDim);
  for (uint64_t row = 0; row < rows; ++row) {
    for (int i = 0; i < kHeadDim; ++i) line[i] = WeightByte(checkpoint.salt, layer, row, i);
    out.write(reinterpret_cast<const char*>(line.data()), kHeadDim);
  }
  for (uint64_t row = 0; row < rows; ++row) {
    for (int i = 0; i < kHeadDim / 32; ++i) line[i] = ScaleByte(checkpoint.salt, layer, row, i);
    out.write(reinterpret_cast<const char*>(line.data()), kHeadDim / 32);
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + checkpoint.ShardPath(layer));
}

}  // namespace

std::vector<uint64_t> PrimesFrom(uint64_t base, size_t count) {
  std::vector<uint64_t> primes;
  for (uint64_t candidate = base; primes.size() < count; ++candidate) {
    bool prime = candidate > 1;
    for (uint64_t d = 2; prime && d * d <= candidate; ++d) prime = candidate % d != 0;
    if (prime) primes.push_back(candidate);
  }
  return primes;
}

std::vector<std::byte> TestCheckpoint::ExpectedRow(int layer, uint64_t row) const {
  std::vector<std::byte> bytes(kRowBytes);
  for (int i = 0; i < kHeadDim; ++i) bytes[i] = WeightByte(salt, layer, row, i);
  for (int i = 0; i < kHeadDim / 32; ++i) bytes[kHeadDim + i] = ScaleByte(salt, layer, row, i);
  return bytes;
}

uint64_t TestCheckpoint::RowsOf(int layer) const {
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i] == layer) return rows[i];
  }
  throw std::out_of_range("no such layer");
}

uint64_t TestCheckpoint::TotalRows() const {
  return std::accumulate(rows.begin(), rows.end(), uint64_t{0});
}

std::string TestCheckpoint::ShardPath(int layer) const {
  return directory + "/model-" + std::to_string(layer) + ".safetensors";
}

TestCheckpoint WriteCheckpoint(const std::string& directory, uint64_t base_size, uint64_t salt) {
  std::filesystem::create_directories(directory);
  TestCheckpoint checkpoint{directory, base_size, salt, {1, 14}, {}};
  const size_t columns = kOrders * kHeads;
  const std::vector<uint64_t> primes = PrimesFrom(base_size, columns * checkpoint.layers.size());
  std::string sizes;
  std::string map;
  for (size_t i = 0; i < checkpoint.layers.size(); ++i) {
    const auto first = primes.begin() + static_cast<std::ptrdiff_t>(i * columns);
    checkpoint.rows.push_back(std::accumulate(first, first + columns, uint64_t{0}));
    const std::string layer = std::to_string(checkpoint.layers[i]);
    sizes += (i == 0 ? "" : ",") + std::to_string(checkpoint.rows.back());
    for (const char* tensor : {"gate", "embed.weight", "embed.scale"}) {
      map += std::string(map.empty() ? "" : ",") + "\"layers." + layer + ".engram." + tensor +
             "\":\"model-" + layer + ".safetensors\"";
    }
    WriteShard(checkpoint, checkpoint.layers[i], checkpoint.rows.back());
    // A kernel's clock for files ticks every few milliseconds, and a digest covers no rows: two
    // checkpoints of one shape are told apart by their times alone.
    const std::string shard = checkpoint.ShardPath(checkpoint.layers[i]);
    std::filesystem::last_write_time(
        shard, std::filesystem::last_write_time(shard) + std::chrono::microseconds(salt % 1000));
  }
  std::ofstream(directory + "/config.json")
      << "{\"model_type\":\"deepseek_v41\",\"text_config\":{\"engram_layer_ids\":[1,14],"
      << "\"engram_num_embeddings\":[" << sizes << "],\"engram_max_ngram_size\":3,"
      << "\"engram_vocab_size\":" << base_size << ",\"engram_n_heads\":" << kHeads
      << ",\"engram_head_dim\":" << kHeadDim << ",\"engram_pad_token_id\":2,"
      << "\"engram_compressed_vocab_size\":99092}}";
  std::ofstream(directory + "/model.safetensors.index.json")
      << "{\"metadata\":{\"total_size\":0},\"weight_map\":{" << map << "}}";
  return checkpoint;
}

}  // namespace engram::testing
