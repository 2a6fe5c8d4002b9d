// The gather kernel on a GPU: rows from HBM beside the device's own copy, rows from DRAM over PCIe
// beside a copy from pinned memory, small gathers, and a mix beside what its parts predict. Each
// figure is of replays of a CUDA graph; what came out is compared, row by row, outside the time.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_cache/arena.h"
#include "gpu_cache/gather_rows.h"
#include "storage/base/status_macros.h"
#include "storage/dram/control.h"
#include "storage/dram/row_cache.h"
#include "tests/bench/gpu_meter.h"
#include "tests/bench/suites.h"

namespace engram::bench {
namespace {

using gpu_cache::Arena;
using gpu_cache::kDeadPosition;
using gpu_cache::Output;

constexpr uint32_t kRowBytes = 264;
constexpr uint32_t kStack = 1;
constexpr uint64_t kSeed = 20261129;
constexpr uint64_t kArenaBytes = uint64_t{9} << 30;  // with rows over 8 GiB of it
constexpr uint64_t kQuickArenaBytes = uint64_t{64} << 20;
constexpr uint64_t kDramBytes = uint64_t{4} << 30;
constexpr uint64_t kQuickDramBytes = uint64_t{32} << 20;
constexpr uint32_t kBatch = 1u << 20;  // rows of the large gathers
constexpr size_t kRowsAtOnce = 8192;

absl::Status ToAbsl(const gpu_cache::Status& status) {
  return status.ok() ? absl::OkStatus() : absl::UnavailableError(status.message());
}

void RowOf(uint32_t id, std::span<std::byte> out) {
  for (size_t at = 0; at < out.size(); at += 8) {
    uint64_t x = (uint64_t{id} << 16 | at) * 0x9E3779B97F4A7C15ull;
    x ^= x >> 29;
    std::memcpy(&out[at], &x, std::min<size_t>(8, out.size() - at));
  }
}

class GpuSuite {
 public:
  GpuSuite(const BenchOptions& options, Reporter& reporter)
      : options_(options), reporter_(reporter) {}

  absl::Status Run() {
    ENGRAM_ASSIGN_OR_RETURN(meter_, GpuMeter::Open());
    reporter_.Note(absl::StrCat("gpu: filling an arena on ", meter_->card()));
    ENGRAM_RETURN_IF_ERROR(MakeDram());
    ENGRAM_RETURN_IF_ERROR(MakeArena());
    ENGRAM_RETURN_IF_ERROR(Large());
    return Small();
  }

 private:
  absl::Status MakeArena() {
    gpu_cache::Backend& backend = meter_->backend();
    ENGRAM_RETURN_IF_ERROR(
        ToAbsl(Arena::Create(backend, options_.quick ? kQuickArenaBytes : kArenaBytes,
                             gpu_cache::MemoryKind::kCudaVmm, arena_)));
    ENGRAM_RETURN_IF_ERROR(ToAbsl(
        backend.Import(arena_->memory().description(), arena_->memory().export_fd(), imported_)));
    const Arena::LayerShare layer{
        .stack_id = kStack, .row_bytes = kRowBytes, .layer_rows = kDeadPosition};
    ENGRAM_RETURN_IF_ERROR(ToAbsl(arena_->ShareOut({&layer, 1})));
    // Of the ids behind those that DRAM has, those that still find room in their sector.
    const Arena::RegionState& held = *arena_->Find(kStack);
    std::vector<uint8_t> used(held.shape.sectors);
    std::vector<Arena::WriteSlot> puts;
    std::vector<std::byte> rows;
    for (uint32_t id = dram_rows_; hot_.size() < held.shape.Slots() * 9 / 10; ++id) {
      const uint32_t sector = gpu_cache::SectorOf(id, held.shape.sectors, false);
      if (used[sector] == gpu_cache::kWays) continue;
      puts.push_back({.slot = uint64_t{sector} * gpu_cache::kWays + used[sector]++, .row_id = id});
      hot_.push_back(id);
      rows.resize(puts.size() * kRowBytes);
      RowOf(id, std::span(rows).subspan((puts.size() - 1) * kRowBytes));
      if (puts.size() < kRowsAtOnce) continue;
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      ENGRAM_RETURN_IF_ERROR(ToAbsl(arena_->Replace(kStack, {}, puts, rows)));
      puts.clear();
      rows.clear();
    }
    return ToAbsl(arena_->Replace(kStack, {}, puts, rows));
  }

  // A resident layer: no index is in the way of the copy's figure.
  absl::Status MakeDram() {
    segments_ = SegmentStore::Anonymous();
    const uint64_t bytes = options_.quick ? kQuickDramBytes : kDramBytes;
    dram_rows_ = static_cast<uint32_t>(bytes / kRowBytes);
    ENGRAM_ASSIGN_OR_RETURN(dram_, RowCache::Create({.budget_bytes = bytes / 8 * 9,
                                                     .row_bytes = kRowBytes,
                                                     .layer_rows = dram_rows_,
                                                     .segments = segments_.get(),
                                                     .counters = &counters_}));
    std::vector<RowId> ids;
    std::vector<std::byte> rows(kRowsAtOnce * kRowBytes);
    for (uint32_t first = 0; first < dram_rows_; first += kRowsAtOnce) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      ids.clear();
      for (uint32_t id = first; id < std::min<uint64_t>(dram_rows_, first + kRowsAtOnce); ++id) {
        RowOf(id, std::span(rows).subspan(ids.size() * kRowBytes, kRowBytes));
        ids.push_back(RowId{id});
      }
      dram_->Offer(ids, absl::MakeSpan(rows).first(ids.size() * kRowBytes));
    }
    for (const auto& segment : dram_->segments()) {
      ENGRAM_RETURN_IF_ERROR(ToAbsl(meter_->backend().Register(segment->data(), segment->bytes(),
                                                               false, registered_.emplace_back())));
      addresses_.push_back(registered_.back()->data());
    }
    page_.control.generation = 1;
    return ToAbsl(meter_->backend().Register(reinterpret_cast<std::byte*>(&page_), sizeof(page_),
                                             false, control_));
  }

  gpu_cache::Source SourceOf(bool hbm, bool dram) const {
    gpu_cache::Source source{.row_bytes = kRowBytes, .dram = {}};
    if (hbm) {
      source.arena = imported_->data();
      source.arena_bytes = arena_->bytes();
      source.region = arena_->Find(kStack)->region;
      source.stack_id = kStack;
    }
    if (dram) {
      source.dram = gpu_cache::DramViewOf(dram_->shape());
      source.dram.complete = 1;
      source.dram.generation = reinterpret_cast<const uint64_t*>(
          control_->data() + offsetof(dram::ControlPage, generation));
      source.dram.attached_generation = 1;
    }
    return source;
  }

  struct Batch {
    std::vector<uint32_t> ids;
    bool hbm = true;
    bool dram = false;
    Output output = Output::kRaw;
  };

  // Seconds of one gather of these ids; what comes out is compared.
  absl::StatusOr<double> Time(const Batch& batch, int replays) {
    gpu_cache::Backend& backend = meter_->backend();
    const auto count = static_cast<uint32_t>(batch.ids.size());
    const uint64_t out_bytes = gpu_cache::OutputRowBytes(kRowBytes, batch.output);
    std::unique_ptr<gpu_cache::Gatherer> gatherer;
    std::unique_ptr<gpu_cache::DeviceBuffer> ids, out;
    std::unique_ptr<gpu_cache::Stream> stream;
    ENGRAM_RETURN_IF_ERROR(ToAbsl(backend.MakeStream(stream)));
    ENGRAM_RETURN_IF_ERROR(ToAbsl(backend.MakeGatherer(
        {.row_bytes = kRowBytes, .max_rows = count, .output = batch.output, .sample_every = 4},
        gatherer)));
    ENGRAM_RETURN_IF_ERROR(ToAbsl(backend.MakeBuffer(count * sizeof(uint32_t), ids)));
    ENGRAM_RETURN_IF_ERROR(ToAbsl(backend.MakeBuffer(count * out_bytes, out)));
    ENGRAM_RETURN_IF_ERROR(ToAbsl(ids->Upload(0, std::as_bytes(std::span(batch.ids)))));
    const std::span<const std::byte* const> addresses =
        batch.dram ? std::span<const std::byte* const>(addresses_)
                   : std::span<const std::byte* const>();
    ENGRAM_RETURN_IF_ERROR(ToAbsl(
        gatherer->SetSource(SourceOf(batch.hbm, batch.dram), addresses, {}, stream->handle())));
    ENGRAM_RETURN_IF_ERROR(ToAbsl(gatherer->Wait(stream->handle())));
    std::vector<double> seconds;
    for (int round = 0; round < options_.Rounds(5); ++round) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      ENGRAM_ASSIGN_OR_RETURN(seconds.emplace_back(),
                              meter_->Replay(
                                  [&](void* on) {
                                    return gatherer->Enqueue(
                                        reinterpret_cast<const uint32_t*>(ids->data()), count,
                                        out->data(), on);
                                  },
                                  replays));
    }
    std::vector<std::byte> rows(count * out_bytes);
    ENGRAM_RETURN_IF_ERROR(ToAbsl(out->Download(0, rows)));
    ENGRAM_RETURN_IF_ERROR(Compare(batch, rows, *gatherer));
    return Median(seconds);
  }

  absl::Status Compare(const Batch& batch, const std::vector<std::byte>& rows,
                       const gpu_cache::Gatherer& gatherer) const {
    std::vector<bool> missing(batch.ids.size());
    for (const gpu_cache::Miss& miss : gatherer.missing()) missing[miss.position] = true;
    const uint64_t out_bytes = gpu_cache::OutputRowBytes(kRowBytes, batch.output);
    std::vector<uint64_t> row(kRowBytes / sizeof(uint64_t));
    std::vector<gpu_cache::Bf16x8> expected(512 / sizeof(gpu_cache::Bf16x8));  // either output
    auto* const expected_bytes = reinterpret_cast<std::byte*>(expected.data());
    for (size_t i = 0; i < batch.ids.size(); ++i) {
      std::fill(row.begin(), row.end(), 0);
      if (!missing[i]) RowOf(batch.ids[i], std::as_writable_bytes(std::span(row)));
      gpu_cache::StoreRow(kRowBytes, batch.output, reinterpret_cast<const std::byte*>(row.data()),
                          expected_bytes);
      if (std::memcmp(expected_bytes, &rows[i * out_bytes], out_bytes) != 0) {
        return absl::DataLossError(
            absl::StrCat("the gather gave a wrong row for id ", batch.ids[i]));
      }
      const bool wanted = batch.ids[i] >= kDeadPosition / 2;  // those that nobody has
      if (missing[i] != wanted) {
        return absl::DataLossError(
            absl::StrCat("row ", batch.ids[i], " was ", missing[i] ? "not " : "", "found"));
      }
    }
    return absl::OkStatus();
  }

  uint32_t HotId() { return hot_[random_() % hot_.size()]; }
  uint32_t ColdId() { return static_cast<uint32_t>(kDeadPosition / 2 + random_() % 1000000); }
  uint32_t DramId() { return static_cast<uint32_t>(random_() % dram_rows_); }

  void Print(const std::string& name, double value, const std::string& unit, double baseline,
             std::vector<std::pair<std::string, Detail>> details) {
    Result result{.name = name, .value = value, .unit = unit, .baseline = baseline, .details = {}};
    result.details = {{"command", options_.command},
                      {"card", meter_->card()},
                      {"driver", meter_->driver()},
                      {"row_bytes", int64_t{kRowBytes}},
                      {"arena_bytes", static_cast<int64_t>(arena_->bytes())},
                      {"dram_bytes", static_cast<int64_t>(dram_->shape().TotalBytes())}};
    for (auto& detail : details) result.details.push_back(std::move(detail));
    if (options_.quick) result.details.emplace_back("quick", true);
    reporter_.Print(result);
  }

  absl::Status Large() {
    for (const uint32_t count : {100'000u, kBatch}) {
      ENGRAM_RETURN_IF_ERROR(LargeOf(count));
    }
    return absl::OkStatus();
  }

  absl::Status LargeOf(uint32_t count) {
    const int replays = options_.quick ? 2 : 20;
    const double bytes = static_cast<double>(count) * kRowBytes;
    Batch hot{.ids = std::vector<uint32_t>(count)};
    for (uint32_t& id : hot.ids) id = HotId();
    ENGRAM_ASSIGN_OR_RETURN(const double hbm, Time(hot, replays));
    ENGRAM_ASSIGN_OR_RETURN(const double device,
                            meter_->DeviceCopy(uint64_t{count} * kRowBytes, replays));
    Print(absl::StrCat("gpu/hbm/", count), 2 * bytes / hbm / 1e9, "GB/s", 2 * bytes / device / 1e9,
          {{"counted", std::string("bytes read and written")}});
    hot.output = Output::kBf16;
    ENGRAM_ASSIGN_OR_RETURN(const double bf16, Time(hot, replays));
    const double bf16_bytes = static_cast<double>(count) * (kRowBytes + 512);
    Print(absl::StrCat("gpu/hbm_bf16/", count), bf16_bytes / bf16 / 1e9, "GB/s",
          2 * bytes / device / 1e9, {{"counted", std::string("bytes read and written")}});
    Batch warm{.ids = std::vector<uint32_t>(count), .hbm = false, .dram = true};
    for (uint32_t& id : warm.ids) id = DramId();
    ENGRAM_ASSIGN_OR_RETURN(const double dram, Time(warm, replays));
    ENGRAM_ASSIGN_OR_RETURN(const double pinned,
                            meter_->HostCopy(uint64_t{count} * kRowBytes, replays));
    Print(absl::StrCat("gpu/dram/", count), bytes / dram / 1e9, "GB/s", bytes / pinned / 1e9,
          {{"counted", std::string("bytes of rows")}});
    // Eighty of a hundred rows in HBM, fifteen in DRAM alone, five in neither.
    Batch mixed{.ids = std::vector<uint32_t>(count), .hbm = true, .dram = true};
    for (uint32_t& id : mixed.ids) {
      const uint64_t toss = random_() % 100;
      id = toss < 80 ? HotId() : toss < 95 ? DramId() : ColdId();
    }
    ENGRAM_ASSIGN_OR_RETURN(const double mix, Time(mixed, replays));
    Print(absl::StrCat("gpu/mixed/", count), mix * 1e6, "us", (0.8 * hbm + 0.15 * dram) * 1e6,
          {{"baseline_is", std::string("0.80 of the time for HBM and 0.15 of that for DRAM")}});
    return absl::OkStatus();
  }

  absl::Status Small() {
    for (const uint32_t count : {48u, 768u}) {
      for (const Output output : {Output::kRaw, Output::kBf16}) {
        Batch batch{.ids = std::vector<uint32_t>(count), .output = output};
        for (uint32_t& id : batch.ids) id = HotId();
        ENGRAM_ASSIGN_OR_RETURN(const double seconds, Time(batch, options_.quick ? 20 : 2000));
        Print(absl::StrCat("gpu/small", output == Output::kBf16 ? "_bf16/" : "/", count),
              seconds * 1e6, "us", 0, {});
      }
    }
    return absl::OkStatus();
  }

  struct alignas(4096) Page {
    dram::ControlPage control;
  };

  const BenchOptions& options_;
  Reporter& reporter_;
  std::unique_ptr<GpuMeter> meter_;
  std::mt19937_64 random_{kSeed};
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<gpu_cache::MappedMemory> imported_;
  std::vector<uint32_t> hot_;
  PrefetchCounters counters_;
  std::unique_ptr<SegmentStore> segments_;
  std::unique_ptr<RowCache> dram_;
  uint32_t dram_rows_ = 0;
  Page page_{};
  std::vector<std::unique_ptr<gpu_cache::MappedMemory>> registered_;
  std::vector<const std::byte*> addresses_;
  std::unique_ptr<gpu_cache::MappedMemory> control_;
};

}  // namespace

absl::Status RunGpuSuite(const BenchOptions& options, Reporter& reporter) {
  return GpuSuite(options, reporter).Run();
}

}  // namespace engram::bench
