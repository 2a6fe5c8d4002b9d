#include "tests/fault/fault_plan.h"

#include <algorithm>
#include <filesystem>
#include <random>

namespace engram {

FaultKind FaultPlan::Choose(uint64_t mixed) const {
  double part = static_cast<double>(mixed >> 11) / static_cast<double>(uint64_t{1} << 53);
  if ((part -= rates_.error) < 0) return FaultKind::kError;
  if ((part -= rates_.short_read) < 0) return FaultKind::kShortRead;
  if ((part -= rates_.bit_flip) < 0) return FaultKind::kBitFlip;
  return FaultKind::kNone;
}

void FaultPlan::Spoil(const std::string& file, rocksdb::FSReadRequest& read) {
  const std::filesystem::path path(file);
  if (path.extension() != ".sst" || !read.status.ok() || read.result.empty()) return;
  const std::string name = path.filename().string();
  FaultKind kind = FaultKind::kNone;
  uint64_t times = 0;
  {
    MutexLock lock(mutex_);
    times = reads_[{name, read.offset}]++;
  }
  std::string key = name + " " + std::to_string(read.offset) + " " + std::to_string(times);
  std::seed_seq seeds(key.begin(), key.end());
  std::array<uint32_t, 2> mixed{};
  seeds.generate(mixed.begin(), mixed.end());
  std::mt19937_64 random(seed_ ^ (uint64_t{mixed[0]} << 32 | mixed[1]));
  kind = Choose(random());
  {
    MutexLock lock(mutex_);
    ++done_[static_cast<size_t>(kind)];
  }
  switch (kind) {
    case FaultKind::kNone:
      break;
    case FaultKind::kError:
      read.result = rocksdb::Slice();
      read.status = rocksdb::IOStatus::IOError(
          "at offset " + std::to_string(read.offset) + " of " + file, "Input/output error");
      break;
    case FaultKind::kShortRead:
      read.result = rocksdb::Slice(read.result.data(), random() % read.result.size());
      break;
    case FaultKind::kBitFlip:
      const_cast<char*>(read.result.data())[random() % read.result.size()] ^=
          static_cast<char>(1 << random() % 8);
      break;
  }
}

uint64_t FaultPlan::done(FaultKind kind) const {
  MutexLock lock(mutex_);
  return done_[static_cast<size_t>(kind)];
}

}  // namespace engram
