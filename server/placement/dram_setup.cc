#include "server/placement/dram_setup.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();
// Left to the rest of the daemon, which takes this much beside its tiers at most.
constexpr uint64_t kHeadroomBytes = uint64_t{256} << 20;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A number alone in its file; kUnknown if there is none ("max", no such file).
uint64_t ReadNumber(const std::string& path) {
  uint64_t value = 0;
  return absl::SimpleAtoi(ReadFile(path), &value) ? value : kUnknown;
}

uint64_t MemAvailable(const std::string& proc) {
  for (const absl::string_view line : absl::StrSplit(ReadFile(proc + "/meminfo"), '\n')) {
    if (!absl::StartsWith(line, "MemAvailable:")) continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t kib = 0;
    if (words.size() >= 2 && absl::SimpleAtoi(words[1], &kib)) return kib << 10;
  }
  return kUnknown;
}

// Of the lines "name number" of a memory.stat.
uint64_t Stat(const std::string& path, absl::string_view name) {
  for (const absl::string_view line : absl::StrSplit(ReadFile(path), '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    uint64_t value = 0;
    if (words.size() == 2 && words[0] == name && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return 0;
}

struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* inactive_files;  // in memory.stat: pages of files, which the kernel can drop
  const char* active_files;
};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                  "total_inactive_file", "total_active_file"};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", "inactive_file", "active_file"};

// What this group and those above it leave.
uint64_t LeftInGroups(const std::filesystem::path& root, const std::string& group,
                      const GroupFiles& files) {
  uint64_t left = kUnknown;
  std::filesystem::path at = root;
  std::vector<std::filesystem::path> groups = {root};
  for (const auto& part : std::filesystem::path(group).relative_path()) {
    groups.push_back(at /= part);
  }
  for (const std::filesystem::path& one : groups) {
    const uint64_t limit = ReadNumber(one / files.limit);
    const uint64_t usage = ReadNumber(one / files.usage);
    if (limit == kUnknown || usage == kUnknown) continue;
    const std::string stat = (one / "memory.stat").string();
    const uint64_t droppable = Stat(stat, files.inactive_files) + Stat(stat, files.active_files);
    const uint64_t taken = usage > droppable ? usage - droppable : 0;
    left = std::min(left, limit > taken ? limit - taken : 0);
  }
  return left;
}

std::string StoreName(const std::string& data_dir) {
  std::error_code error;
  const std::string path = std::filesystem::weakly_canonical(data_dir, error).string();
  uint64_t hash = 0xCBF29CE484222325ull;  // FNV-1a, 64 bits
  for (const char c : error ? data_dir : path) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  }
  return absl::StrCat("engramd-", absl::Hex(hash, absl::kZeroPad16));
}

absl::Status NoRoom(const SegmentStore& segments, uint64_t bytes, uint64_t room_bytes) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "a dram budget of ", FormatSize(bytes), " does not fit into shm_dir ", segments.parent(),
      ", which has room for ", FormatSize(room_bytes),
      ": mount a larger one (`mount -o remount,size=… ", segments.parent(),
      "`; Docker: --shm-size), set shm_dir, lower dram, or set shared_memory to false"));
}

// What the tier may take, by the memory that there is, when it has `held_bytes` of it already.
uint64_t MostMemory(const SegmentStore& segments, uint64_t held_bytes) {
  // Reserved huge pages are taken from the available memory already.
  if (segments.page_bytes() > dram::kPageBytes) return kUnknown;
  const uint64_t available = AvailableMemory();
  if (available == kUnknown) return kUnknown;
  const uint64_t all = available + held_bytes;
  return all > kHeadroomBytes ? all - kHeadroomBytes : 0;
}

}  // namespace

uint64_t AvailableMemory(const std::string& proc, const std::string& cgroups) {
  uint64_t available = MemAvailable(proc);
  for (const absl::string_view line : absl::StrSplit(ReadFile(proc + "/self/cgroup"), '\n')) {
    // hierarchy:controllers:path; version 2 has "0::path".
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[1].empty()) {
      available = std::min(available, LeftInGroups(cgroups, parts[2], kVersion2));
    } else if (parts[1] == "memory") {
      available = std::min(available, LeftInGroups(cgroups + "/memory", parts[2], kVersion1));
    }
  }
  return available;
}

absl::Status CheckRoomForDram(const SegmentStore& segments, uint64_t bytes, uint64_t held_bytes) {
  if (const uint64_t free = segments.FreeBytes(); free != kUnknown && free + held_bytes < bytes) {
    return NoRoom(segments, bytes, free + held_bytes);
  }
  const uint64_t most = MostMemory(segments, held_bytes);
  if (most >= bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "a dram budget of ", FormatSize(bytes), " cannot be had: ", FormatSize(most),
      " could be, by what memory is available on this host and in engramd's cgroup; ask for less, "
      "or free memory first"));
}

absl::StatusOr<DramSetup> SetUpDram(const Config& config) {
  DramSetup setup;
  std::string not_shared;
  if (!config.shared_memory) {
    not_shared = "shared_memory is false";
  } else {
    absl::StatusOr<std::unique_ptr<SegmentStore>> opened =
        SegmentStore::Open(config.shm_dir, StoreName(config.data_dir));
    if (opened.ok()) {
      setup.segments = *std::move(opened);
    } else if (config.shm_dir != Config().shm_dir) {
      return opened.status();
    } else {
      not_shared = std::string(opened.status().message());
      ENGRAM_LOG(kWarning) << "the DRAM tier is not shared with clients: " << not_shared;
    }
  }
  if (setup.segments == nullptr) setup.segments = SegmentStore::Anonymous();
  setup.note = setup.segments->description();
  if (!not_shared.empty()) absl::StrAppend(&setup.note, ", not shared: ", not_shared);
  setup.budget_bytes = config.dram_bytes;
  // What is left of an earlier tier is taken already, and will be this one's or given back.
  const uint64_t left_over = setup.segments->leftover_bytes();
  if (const uint64_t free = setup.segments->FreeBytes();
      free != kUnknown && free + left_over < config.dram_bytes) {
    return NoRoom(*setup.segments, config.dram_bytes, free + left_over);
  }
  const uint64_t most = MostMemory(*setup.segments, left_over);
  if (most < config.dram_bytes) {
    setup.budget_bytes = most;
    absl::StrAppend(&setup.note, ", ", FormatSize(most), " instead of ",
                    FormatSize(config.dram_bytes), ": no more memory is available here");
    ENGRAM_LOG(kWarning) << "the DRAM tier gets " << FormatSize(most) << " instead of "
                         << FormatSize(config.dram_bytes)
                         << ": no more memory is available on this host, or in this cgroup";
  }
  return setup;
}

}  // namespace engram
