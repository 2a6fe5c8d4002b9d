// Ways in which a drive or an operator damages the file of a chunk, and how to find that file.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_NVME_DAMAGED_FILES_H_
#define ENGRAM_TESTS_UNIT_STORAGE_NVME_DAMAGED_FILES_H_

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {

enum class Damage { kMissing, kTruncated, kZeroedFooter, kFlippedData, kFlippedIndex };

inline constexpr Damage kEveryDamage[] = {Damage::kMissing, Damage::kTruncated,
                                          Damage::kZeroedFooter, Damage::kFlippedData,
                                          Damage::kFlippedIndex};

inline const char* DamageName(Damage damage) {
  switch (damage) {
    case Damage::kMissing:
      return "Missing";
    case Damage::kTruncated:
      return "Truncated";
    case Damage::kZeroedFooter:
      return "ZeroedFooter";
    case Damage::kFlippedData:
      return "FlippedData";
    case Damage::kFlippedIndex:
      return "FlippedIndex";
  }
  return "?";
}

inline void FlipByteOf(const std::filesystem::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
  ASSERT_TRUE(file.good()) << path;
}

// `pages` of 4 KiB lie at the file's beginning, its index block right behind them. A flip in the
// data hits `page`.
inline void ApplyDamage(const std::filesystem::path& path, Damage damage, uint64_t pages,
                        uint64_t page) {
  const uint64_t size = std::filesystem::file_size(path);
  switch (damage) {
    case Damage::kMissing:
      std::filesystem::remove(path);
      break;
    case Damage::kTruncated:
      std::filesystem::resize_file(path, size / 2);
      break;
    case Damage::kZeroedFooter: {
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      file.seekp(static_cast<std::streamoff>(size - 53));
      file << std::string(53, '\0');
      break;
    }
    case Damage::kFlippedData:
      FlipByteOf(path, page * 4096 + 100);
      break;
    case Damage::kFlippedIndex:
      FlipByteOf(path, pages * 4096 + 20);
      break;
  }
}

// The live file of a chunk: the one that begins with its first row.
inline std::filesystem::path FileOf(const std::string& directory, const TableSpec& spec,
                                    const Chunk& chunk) {
  const uint32_t row_bytes = spec.FindLayer(chunk.layer)->row_bytes;
  std::string row(row_bytes, '\0');
  FillRow(SaltOf(spec), chunk.layer, chunk.first, row_bytes,
          reinterpret_cast<std::byte*>(row.data()));
  for (const std::filesystem::path& path : SstFiles(directory)) {
    std::string head(4096, '\0');
    std::ifstream(path, std::ios::binary).read(head.data(), 4096);
    if (head.find(row) != std::string::npos) return path;
  }
  ADD_FAILURE() << "no file holds row " << chunk.first << " of layer " << Raw(chunk.layer);
  return {};
}

// Name, inode and time of change of every SST file.
inline std::map<std::string, std::string> FileIdentities(const std::string& directory) {
  std::map<std::string, std::string> result;
  for (const std::filesystem::path& path : SstFiles(directory)) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) continue;
    result[path.filename().string()] =
        std::to_string(info.st_ino) + " " + std::to_string(info.st_mtim.tv_sec) + "." +
        std::to_string(info.st_mtim.tv_nsec) + " " + std::to_string(info.st_size);
  }
  return result;
}

}  // namespace engram

#endif  // ENGRAM_TESTS_UNIT_STORAGE_NVME_DAMAGED_FILES_H_
