// A profile that `engramctl profile` wrote, as hotness files of the data directory; and what its
// counts mean to the tiers.
//
// A profile counts accesses in some text, from one to billions; a row of DRAM has one byte of
// count. What is taken of a profile's count is its logarithm, its *level*: so it is known to 5 %,
// and what it is worth in the cache is settled when rows are placed, by the room that there is
// then.
//
// Free functions without state; they block on the drive.
#ifndef ENGRAM_SERVER_PLACEMENT_PROFILE_IMPORT_H_
#define ENGRAM_SERVER_PLACEMENT_PROFILE_IMPORT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "server/placement/hotness_files.h"
#include "storage/table/spec.h"

namespace engram {

// Eight levels double the count; level 1 is once.
inline constexpr double kLevelsPerDoubling = 8;
uint8_t LevelOf(uint32_t count);
// How many times as often rows of one level are asked for as those of another.
double LevelRatio(uint8_t level, uint8_t other);

// `visit` with each run's level for its count.
HotRunVisitor ByLevel(HotRunVisitor visit);

// Reads the whole file. Errors of ProfileFile::Open and RowProfile::CheckFor, naming the file.
absl::Status CheckProfileFile(const std::string& path, const TableSpec& spec);

// The same check, then one file (kProfile) for each of the profile's layers. Errors of both, and of
// HotnessFiles::Write.
absl::Status ImportProfile(const std::string& path, const TableSpec& spec,
                           const HotnessFiles& files);

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_PROFILE_IMPORT_H_
