// Row ids a second of the addressing, one thread, against the same formulas written plainly: one
// division a row.
#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/ngram_hasher.h"
#include "tests/bench/suites.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram::bench {
namespace {

// One prefill chunk, of all layers of the model: what a worker hashes before its forward pass.
constexpr size_t kChunkTokens = 8192;

class HashSuite {
 public:
  HashSuite(const BenchOptions& options, Reporter& reporter)
      : reporter_(reporter),
        quick_(options.quick),
        rounds_(options.quick ? 3 : 15),
        repeats_(options.quick ? 2 : 100) {}

  absl::Status Run(const char* name, const testing::Model& model) {
    ENGRAM_RETURN_IF_ERROR(Prepare(model));
    std::vector<double> fast;
    std::vector<double> plain;
    for (int round = 0; round < rounds_; ++round) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      for (const bool fast_first : {round % 2 == 0, round % 2 != 0}) {
        (fast_first ? fast : plain).push_back(Measure(fast_first));
      }
      ENGRAM_RETURN_IF_ERROR(Compare());
    }
    const double ids = static_cast<double>(rows_.size() * repeats_);
    Result result{.name = absl::StrCat("hash/", name),
                  .value = ids / Median(fast),
                  .unit = "rows/s",
                  .baseline = ids / Median(plain),
                  .details = {}};
    result.details = {{"baseline_is", std::string("the same formulas, one 64-bit division a row")},
                      {"tokens", static_cast<int64_t>(kChunkTokens)},
                      {"layers", static_cast<int64_t>(hashers_.size())},
                      {"chunk_ms", Median(fast) / repeats_ * 1e3},
                      {"baseline_chunk_ms", Median(plain) / repeats_ * 1e3},
                      {"rounds", int64_t{rounds_}}};
    if (quick_) result.details.emplace_back("quick", true);
    reporter_.Print(result);
    return absl::OkStatus();
  }

 private:
  absl::Status Prepare(const testing::Model& model) {
    hashers_.clear();
    size_t rows = 0;
    for (const LayerSpec& layer : model.layers) {
      ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher, NgramHasher::Create(model.addressing, layer));
      rows += kChunkTokens * hasher.columns();
      hashers_.push_back(std::move(hasher));
    }
    std::mt19937_64 random(1);
    ids_.resize(kChunkTokens);
    for (int32_t& id : ids_) {
      id = static_cast<int32_t>(random() % static_cast<uint64_t>(model.addressing.hashed_ids()));
    }
    rows_.assign(rows, RowId::kDeadPosition);
    plain_rows_.assign(rows, RowId::kDeadPosition);
    return absl::OkStatus();
  }

  // Seconds for all layers of the chunk, repeated.
  double Measure(bool fast) {
    const Clock::time_point start = Clock::now();
    for (int repeat = 0; repeat < repeats_; ++repeat) {
      size_t done = 0;
      for (const NgramHasher& hasher : hashers_) {
        const size_t count = ids_.size() * hasher.columns();
        auto out = absl::MakeSpan(fast ? rows_ : plain_rows_).subspan(done, count);
        if (fast) {
          hasher.Hash({ids_, 0}, out);
        } else {
          hasher.HashPlain({ids_, 0}, out);
        }
        done += count;
      }
    }
    return SecondsSince(start);
  }

  absl::Status Compare() const {
    if (rows_ == plain_rows_) return absl::OkStatus();
    return absl::DataLossError("the two ways to hash disagree");
  }

  Reporter& reporter_;
  const bool quick_;
  const int rounds_;
  const int repeats_;
  std::vector<NgramHasher> hashers_;
  std::vector<int32_t> ids_;
  std::vector<RowId> rows_;
  std::vector<RowId> plain_rows_;
};

}  // namespace

absl::Status RunHashSuite(const BenchOptions& options, Reporter& reporter) {
  HashSuite suite(options, reporter);
  ENGRAM_RETURN_IF_ERROR(suite.Run("deepseek-v4.1", testing::DeepseekV41()));
  ENGRAM_RETURN_IF_ERROR(suite.Run("engram-demo", testing::EngramDemo()));
  ENGRAM_RETURN_IF_ERROR(suite.Run("qwen4-exp", testing::Qwen4Exp()));
  return suite.Run("longcat", testing::LongCatLite());
}

}  // namespace engram::bench
