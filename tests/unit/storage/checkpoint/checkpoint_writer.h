// Writes small checkpoints for tests, from nothing but the format's description: none of the code
// under test is used, so that a shared mistake cannot hide.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_CHECKPOINT_CHECKPOINT_WRITER_H_
#define ENGRAM_TESTS_UNIT_STORAGE_CHECKPOINT_CHECKPOINT_WRITER_H_

#include <stdlib.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace engram::testing_checkpoint {

// A directory of its own, gone with the object.
class TempDir {
 public:
  TempDir() : path_(::testing::TempDir() + "engram_checkpoint_XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << path_;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  // Returns the path.
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream file(File(name), std::ios::binary | std::ios::trunc);
    file << bytes;
    file.close();
    EXPECT_TRUE(file.good()) << File(name);
    return File(name);
  }

 private:
  std::string path_;
};

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Length, header, data: a safetensors file whatever the header says.
inline std::string RawSafetensors(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) {
    bytes.push_back(static_cast<char>(static_cast<uint64_t>(header.size()) >> shift & 0xFF));
  }
  return bytes + header + data;
}

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::string bytes;
};

// `padding` spaces end the header, which moves the data's alignment.
inline std::string Safetensors(const std::vector<TestTensor>& tensors, size_t padding = 0) {
  std::ostringstream header;
  std::string data;
  header << R"({"__metadata__":{"format":"pt"})";
  for (const TestTensor& tensor : tensors) {
    header << ",\"" << tensor.name << R"(":{"dtype":")" << tensor.dtype << R"(","shape":[)";
    for (size_t i = 0; i < tensor.shape.size(); ++i) header << (i ? "," : "") << tensor.shape[i];
    header << R"(],"data_offsets":[)" << data.size() << ",";
    data += tensor.bytes;
    header << data.size() << "]}";
  }
  header << "}" << std::string(padding, ' ');
  return RawSafetensors(header.str(), data);
}

inline std::string IndexJson(const std::vector<std::pair<std::string, std::string>>& weights) {
  std::string text = R"({"metadata":{"total_size":1},"weight_map":{)";
  for (size_t i = 0; i < weights.size(); ++i) {
    text += (i ? ",\"" : "\"") + weights[i].first + "\":\"" + weights[i].second + "\"";
  }
  return text + "}}";
}

// The byte at `column` of row `row` of a layer, values and scales counted through: any two places
// differ with probability 255/256.
inline char RowByte(int32_t layer, uint64_t row, uint64_t column) {
  uint64_t x = (static_cast<uint64_t>(layer) << 48) ^ (row << 16) ^ column;
  x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
  return static_cast<char>(x >> 56);
}

// Bytes [from, to) of each of `rows` rows, one row behind the other.
inline std::string RowBytes(int32_t layer, uint64_t first, uint64_t rows, uint64_t from,
                            uint64_t to) {
  std::string bytes;
  bytes.reserve(rows * (to - from));
  for (uint64_t row = first; row < first + rows; ++row) {
    for (uint64_t column = from; column < to; ++column) {
      bytes.push_back(RowByte(layer, row, column));
    }
  }
  return bytes;
}

// Values and scales of one layer, as DeepSeek-V4.1 names them.
inline std::vector<TestTensor> EngramTensors(int32_t layer, uint64_t rows, uint64_t head_dim,
                                             const std::string& prefix = "") {
  const std::string base = prefix + "layers." + std::to_string(layer) + ".engram.embed.";
  const uint64_t end = head_dim + head_dim / 32;
  return {
      {base + "weight", "F8_E4M3", {rows, head_dim}, RowBytes(layer, 0, rows, 0, head_dim)},
      {base + "scale", "F8_E8M0", {rows, head_dim / 32}, RowBytes(layer, 0, rows, head_dim, end)}};
}

// The primes from `base` up, by trial division.
inline std::vector<uint64_t> PrimesFrom(uint64_t base, size_t count) {
  std::vector<uint64_t> primes;
  for (uint64_t n = base; primes.size() < count; ++n) {
    bool prime = n >= 2;
    for (uint64_t d = 2; prime && d * d <= n; ++d) prime = n % d != 0;
    if (prime) primes.push_back(n);
  }
  return primes;
}

}  // namespace engram::testing_checkpoint

#endif  // ENGRAM_TESTS_UNIT_STORAGE_CHECKPOINT_CHECKPOINT_WRITER_H_
