#include "tests/bench/trace_files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/tokenizer.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram::bench {
namespace {

constexpr size_t kBlockIds = 4096;

absl::StatusOr<std::vector<int32_t>> ReadIds(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::vector<int32_t> ids(static_cast<size_t>(file.tellg()) / sizeof(int32_t));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(ids.data()),
            static_cast<std::streamsize>(ids.size() * sizeof(int32_t)));
  if (!file || ids.empty()) {
    return absl::NotFoundError(absl::StrCat("cannot read ids from ", path));
  }
  return ids;
}

}  // namespace

absl::StatusOr<TokenRows> DeepseekTokenRows(const std::string& directory) {
  const testing::Model model = testing::DeepseekV41();
  ENGRAM_ASSIGN_OR_RETURN(TokenMap map, ReadTokenMap(directory));
  if (map.compressed_size() != static_cast<size_t>(model.addressing.compressed_vocab_size)) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, "/tokenizer.json compresses to ", map.compressed_size(),
                     " ids; DeepSeek-V4.1's has ", model.addressing.compressed_vocab_size));
  }
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(model.addressing, model.layers[0]));
  return TokenRows{
      .map = std::move(map), .hasher = std::move(hasher), .rows = model.layers[0].rows};
}

absl::StatusOr<TraceFiles> TraceFiles::Open(const std::vector<std::string>& paths,
                                            const TokenRows* tokens) {
  TraceFiles trace;
  trace.block_ids_ = kBlockIds;
  trace.tokens_ = tokens;
  size_t longest = 0;
  for (const std::string& path : paths) {
    ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadIds(path));
    if (tokens != nullptr) {
      ENGRAM_RETURN_IF_ERROR(tokens->map.Compress(ids, absl::MakeSpan(ids)));
      trace.ids_ = tokens->rows;
    } else {
      for (const int32_t id : ids) {
        const auto row = static_cast<uint32_t>(id);
        if (row != Raw(RowId::kDeadPosition)) trace.ids_ = std::max(trace.ids_, uint64_t{row} + 1);
      }
    }
    longest = std::max(longest, ids.size());
    trace.files_.push_back(std::move(ids));
  }
  for (size_t first = 0; first < longest; first += kBlockIds) {
    for (size_t file = 0; file < trace.files_.size(); ++file) {
      const size_t size = trace.files_[file].size();
      if (first < size) trace.blocks_.push_back({file, first, std::min(kBlockIds, size - first)});
    }
  }
  return trace;
}

void TraceFiles::Interleave(size_t sequences, size_t turn) {
  std::vector<Block> documents;
  for (size_t file = 0; file < files_.size(); ++file) {
    const std::vector<int32_t>& ids = files_[file];
    for (auto begin = ids.begin(); begin != ids.end();) {
      const auto end = std::find(begin, ids.end(), static_cast<int32_t>(Raw(RowId::kDeadPosition)));
      if (end != begin) {
        documents.push_back({.file = file,
                             .first = static_cast<size_t>(begin - ids.begin()),
                             .count = static_cast<size_t>(end - begin)});
      }
      begin = end == ids.end() ? end : end + 1;
    }
  }
  blocks_.clear();
  block_ids_ = turn;
  std::vector<Block> running;
  size_t next = 0;
  while (true) {
    while (running.size() < sequences && next < documents.size()) {
      running.push_back(documents[next++]);
    }
    if (running.empty()) return;
    for (Block& rest : running) {
      const size_t count = std::min(turn, rest.count);
      blocks_.push_back({.file = rest.file, .first = rest.first, .count = count});
      rest.first += count;
      rest.count -= count;
    }
    std::erase_if(running, [](const Block& rest) { return rest.count == 0; });
  }
}

uint64_t TraceFiles::RowsPerBlock() const {
  return block_ids_ * (tokens_ != nullptr ? tokens_->hasher.columns() : 1);
}

absl::Span<const uint32_t> TraceFiles::Rows(size_t block) {
  const auto& [file, first, count] = blocks_[block];
  const absl::Span<const int32_t> all = files_[file];
  rows_.clear();
  if (tokens_ == nullptr) {
    for (const int32_t id : all.subspan(first, count)) {
      if (static_cast<uint32_t>(id) != Raw(RowId::kDeadPosition))
        rows_.push_back(static_cast<uint32_t>(id));
    }
    return rows_;
  }
  const NgramHasher& hasher = tokens_->hasher;
  const size_t context = std::min(first, hasher.lookback());
  hashed_.resize(count * hasher.columns());
  hasher.Hash({all.subspan(first - context, count + context), context}, absl::MakeSpan(hashed_));
  for (const RowId id : hashed_) {
    if (id != RowId::kDeadPosition) rows_.push_back(Raw(id));
  }
  return rows_;
}

}  // namespace engram::bench
