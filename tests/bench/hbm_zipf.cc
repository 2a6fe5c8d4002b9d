// Which rows the daemon chooses for HBM after a trace by Zipf's law, against the static placement
// of as many rows by the true law. That placement is also what a perfect hash of the chosen rows
// could serve at best; what the best eight rows of each sector serve is what sets of eight cost.
#include "tests/bench/hbm_zipf.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gpu_cache/arena_layout.h"
#include "server/placement/hbm_admission.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"
#include "tests/bench/zipf_law.h"

namespace engram::bench {
namespace {

constexpr uint64_t kSeed = 20261129;
constexpr uint32_t kRows = 10'000'000;
constexpr uint32_t kRowBytes = 264;
// Told accesses a held row until the trace tells rows apart: as many as the DRAM tier gets in the
// rest of the suite. There every miss is told, here one access in several of all.
constexpr uint64_t kToldPerHeldRow = 300;
constexpr uint64_t kMeasured = 2'000'000;
constexpr uint64_t kInterruptPeriod = uint64_t{1} << 20;

// The share of accesses that the best `ways` rows of each sector serve.
double BestInSectors(const ZipfLaw& law, const RankedRows& ranked, uint32_t sectors) {
  std::vector<uint8_t> used(sectors);
  double served = 0;
  uint64_t held = 0;
  for (uint32_t rank = 1; rank <= ranked.size() && held < uint64_t{sectors} * gpu_cache::kWays;
       ++rank) {
    const uint32_t sector = gpu_cache::SectorOf(ranked[rank - 1], sectors, false);
    if (used[sector] == gpu_cache::kWays) continue;
    ++used[sector];
    ++held;
    served += std::pow(rank, -law.alpha());
  }
  return served * law.StaticHitRatio(1);  // in which the law's sum is
}

absl::Status Line(const BenchOptions& options, Reporter& reporter, const RankedRows& ranked,
                  double alpha, double share) {
  const std::string name = absl::StrCat("zipf/hbm/", alpha, "/", share * 100, "%");
  if (!absl::StartsWith(name, options.only)) return absl::OkStatus();
  const auto rows = static_cast<uint32_t>(ranked.size());
  const ZipfLaw law(rows, alpha);
  const auto wanted = static_cast<uint64_t>(rows * share);
  gpu_cache::RegionShape shape{.row_bytes = kRowBytes};
  shape.sectors = std::max<uint32_t>(1, static_cast<uint32_t>(wanted / gpu_cache::kWays));
  HbmAdmission choice(shape, rows);
  TraceRandom random(kSeed);
  // Of the accesses one in several is told, as workers do.
  const uint64_t pass = std::max<uint64_t>(
      rows, shape.Slots() * (options.quick ? 30 : kToldPerHeldRow) * dram::kSampleEvery);
  for (uint64_t i = 0; i < pass; ++i) {
    if (i % kInterruptPeriod == 0) ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    const uint32_t row = ranked[law.ranks()(random) - 1];
    if (i % dram::kSampleEvery == 0) choice.Access(row);
  }
  uint64_t hits = 0;
  for (uint64_t i = 0; i < kMeasured; ++i) {
    hits += choice.CountOf(ranked[law.ranks()(random) - 1]) > 0;
  }
  Result result{.name = name,
                .value = static_cast<double>(hits) / static_cast<double>(kMeasured),
                .unit = "of accesses",
                .baseline = law.StaticHitRatio(static_cast<uint32_t>(shape.Slots())),
                .details = {}};
  const double in_sectors = BestInSectors(law, ranked, shape.sectors);
  result.details = {
      {"baseline_is", std::string("static placement by the true law, fully associative")},
      {"static_in_sectors", in_sectors},
      {"static_in_sectors_of_baseline", in_sectors / result.baseline},
      {"rows", int64_t{rows}},
      {"held_rows", static_cast<int64_t>(shape.Slots())},
      {"accesses", static_cast<int64_t>(pass)},
      {"told_one_in", int64_t{dram::kSampleEvery}}};
  if (options.quick) result.details.emplace_back("quick", true);
  reporter.Print(result);
  return absl::OkStatus();
}

}  // namespace

absl::Status RunHbmZipf(const BenchOptions& options, Reporter& reporter) {
  const RankedRows ranked = ShuffleRows(options.quick ? 100'000 : kRows, kSeed);
  const std::vector<double> alphas =
      options.quick ? std::vector<double>{1.0} : std::vector<double>{0.8, 0.9, 1.0, 1.05};
  const std::vector<double> shares =
      options.quick ? std::vector<double>{0.01} : std::vector<double>{0.001, 0.01};
  for (const double share : shares) {
    for (const double alpha : alphas) {
      ENGRAM_RETURN_IF_ERROR(Line(options, reporter, ranked, alpha, share));
    }
  }
  return absl::OkStatus();
}

}  // namespace engram::bench
