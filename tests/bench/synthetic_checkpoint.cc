#include "tests/bench/synthetic_checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "storage/table/addressing.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kMaxNgram = 4;
constexpr int32_t kHeads = 8;
constexpr uint64_t kColumns = kLayers.size() * (kMaxNgram - 1) * kHeads;
constexpr size_t kBlockBytes = 4096;
constexpr size_t kBufferBytes = size_t{4} << 20;

// The finaliser of splitmix64 over a counter: cheap, and no two rows alike.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}
uint64_t RowSeed(int32_t layer, uint32_t row) {
  return Mix((static_cast<uint64_t>(layer) << 32) + row + kGolden);
}
void FillValues(uint64_t seed, std::byte* out) {
  for (size_t i = 0; i < kHeadDim / 8; ++i) {
    // One multiplication a word: the row's seed is well mixed already.
    uint64_t word = (seed + i * kGolden) * 0xD6E8FEB86659FD93ull;
    word ^= word >> 32;
    std::memcpy(out + i * 8, &word, 8);
  }
}
void FillScales(uint64_t seed, std::byte* out) {
  const uint64_t word = Mix(seed ^ kGolden);
  std::memcpy(out, &word, kScaleBytes);
}

std::string ShardName(size_t index) {
  return absl::StrCat("model-0000", index + 1, "-of-0000", kLayers.size(), ".safetensors");
}
std::string Tensor(size_t index, const char* what) {
  return absl::StrCat("layers.", kLayers[index], ".engram.embed.", what);
}

// Appends to a new file with direct writes where the file system takes them.
class AppendFile {
 public:
  absl::Status Open(const std::string& path) {
    path_ = path;
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    fd_ = UniqueFd(::open(path.c_str(), kFlags | O_DIRECT, 0600));
    if (!fd_.valid() && errno == EINVAL) fd_ = UniqueFd(::open(path.c_str(), kFlags, 0600));
    if (!fd_.valid()) return Failed("open");
    buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBufferBytes)));
    return buffer_ == nullptr ? absl::ResourceExhaustedError("no memory for a write buffer")
                              : absl::OkStatus();
  }

  absl::Status Append(const void* data, size_t bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    while (bytes > 0) {
      const size_t part = std::min(bytes, kBufferBytes - used_);
      std::memcpy(buffer_.get() + used_, from, part);
      used_ += part;
      from += part;
      bytes -= part;
      if (used_ == kBufferBytes) ENGRAM_RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status Close() {
    const uint64_t size = written_ + used_;
    // The last block is written whole, then cut to size.
    const size_t padded = (used_ + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    std::memset(buffer_.get() + used_, 0, padded - used_);
    used_ = padded;
    ENGRAM_RETURN_IF_ERROR(Flush());
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return Failed("ftruncate");
    return ::fsync(fd_.get()) == 0 ? absl::OkStatus() : Failed("fsync");
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  absl::Status Failed(const char* call) const {
    return absl::UnavailableError(absl::StrCat(call, " ", path_, ": ", std::strerror(errno)));
  }

  absl::Status Flush() {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    for (size_t done = 0; done < used_;) {
      const ssize_t count = ::pwrite(fd_.get(), buffer_.get() + done, used_ - done,
                                     static_cast<off_t>(written_ + done));
      if (count <= 0) return Failed("pwrite");
      done += static_cast<size_t>(count);
    }
    written_ += used_;
    used_ = 0;
    return absl::OkStatus();
  }

  std::string path_;
  UniqueFd fd_;
  std::unique_ptr<std::byte, Free> buffer_;
  size_t used_ = 0;
  uint64_t written_ = 0;
};

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
  std::array<std::byte, kHeadDim> row;
  for (uint64_t id = 0; id < rows; ++id) {
    FillValues(RowSeed(kLayers[index], static_cast<uint32_t>(id)), row.data());
    ENGRAM_RETURN_IF_ERROR(file.Append(row.data(), kHeadDim));
  }
  for (uint64_t id = 0; id < rows; ++id) {
    FillScales(RowSeed(kLayers[index], static_cast<uint32_t>(id)), row.data());
    ENGRAM_RETURN_IF_ERROR(file.Append(row.data(), kScaleBytes));
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

uint64_t CheckpointShape::TotalRows() const {
  uint64_t total = 0;
  for (const uint64_t layer : rows) total += layer;
  return total;
}

absl::StatusOr<CheckpointShape> ShapeFor(uint64_t bytes) {
  const uint64_t per_base = kColumns * kRowBytes;
  const uint64_t base = std::max<uint64_t>(2, (bytes + per_base - 1) / per_base);
  AddressingSpec addressing{.max_ngram_size = kMaxNgram,
                            .heads = kHeads,
                            .base_size = base,
                            .pad_id = 2,
                            .compressed_vocab_size = 99092};
  ENGRAM_ASSIGN_OR_RETURN(const auto layers, PrimeColumns(addressing, kLayers.size()));
  CheckpointShape shape{.base_size = base, .rows = {}};
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
  if (::mkdir(directory.c_str(), 0700) != 0) {
    return absl::UnavailableError(absl::StrCat("mkdir ", directory, ": ", std::strerror(errno)));
  }
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

void ExpectedRow(int32_t layer, uint32_t row, std::byte* out) {
  const uint64_t seed = RowSeed(layer, row);
  FillValues(seed, out);
  FillScales(seed, out + kHeadDim);
}

absl::Status CheckRows(int32_t layer, absl::Span<const uint32_t> ids,
                       absl::Span<const std::byte> rows) {
  if (rows.size() != ids.size() * kRowBytes) {
    return absl::InternalError(absl::StrCat(ids.size(), " rows in ", rows.size(), " bytes"));
  }
  std::array<std::byte, kRowBytes> expected;
  for (size_t i = 0; i < ids.size(); ++i) {
    ExpectedRow(layer, ids[i], expected.data());
    if (std::memcmp(expected.data(), rows.data() + i * kRowBytes, kRowBytes) != 0) {
      return absl::DataLossError(absl::StrCat("row ", ids[i], " of layer ", layer, " at position ",
                                              i, " is not what was loaded"));
    }
  }
  return absl::OkStatus();
}

}  // namespace engram::bench
