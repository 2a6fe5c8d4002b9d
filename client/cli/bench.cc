// Load generator: threads that look up random rows for a while, each over a connection of its own.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/cli/command.h"
#include "client/cli/gpu_steps.h"
#include "client/cli/interrupt.h"
#include "client/cli/latency.h"
#include "client/cli/output.h"
#include "client/cli/row_ids.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchFlags {
  std::string name;
  std::string transport = "grpc";
  std::string distribution = "uniform";
  std::string layers = "all";
  uint32_t batch = 768;
  uint32_t threads = 1;
  double seconds = 5;
  double alpha = 1.0;
  uint64_t seed = 1;
};

absl::StatusOr<std::vector<int32_t>> ParseLayers(const std::string& text) {
  std::vector<int32_t> layers;
  if (text == "all") return layers;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t layer = 0;
    if (!absl::SimpleAtoi(part, &layer)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is not a layer: give numbers with commas, or all"));
    }
    layers.push_back(layer);
  }
  return layers;
}

std::string CheckLayers(const std::string& text) {
  const auto layers = ParseLayers(text);
  return layers.ok() ? std::string() : std::string(layers.status().message());
}

// The layers to look up, in the table's order.
absl::StatusOr<std::vector<LayerInfo>> ChooseLayers(const TableDescription& table,
                                                    const std::string& text) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> wanted, ParseLayers(text));
  if (wanted.empty()) return table.layers;
  std::vector<LayerInfo> chosen;
  for (const int32_t layer : wanted) {
    const auto found = std::find_if(table.layers.begin(), table.layers.end(),
                                    [layer](const LayerInfo& info) { return info.layer == layer; });
    if (found == table.layers.end()) {
      return absl::NotFoundError(absl::StrCat("table \"", table.name, "\" has no layer ", layer));
    }
    chosen.push_back(*found);
  }
  return chosen;
}

// What one thread has measured.
struct Result {
  absl::Status status;
  Latencies latencies;
  uint64_t rows = 0;
  uint64_t bytes = 0;
  uint64_t hbm_rows = 0;
  uint64_t dram_rows = 0;
  uint64_t nvme_rows = 0;

  void Count(const LookupAnswer& answer, uint64_t nanos) {
    latencies.Add(nanos);
    for (const LayerAnswer& layer : answer.layers) {
      hbm_rows += layer.hbm_rows;
      dram_rows += layer.dram_rows;
      nvme_rows += layer.nvme_rows;
    }
  }

  void Merge(const Result& other) {
    if (status.ok()) status = other.status;
    latencies.Merge(other.latencies);
    rows += other.rows;
    bytes += other.bytes;
    hbm_rows += other.hbm_rows;
    dram_rows += other.dram_rows;
    nvme_rows += other.nvme_rows;
  }
};

// One thread's batch: its share of ids for each layer, and room for the rows.
class Batch {
 public:
  Batch(const TableDescription& table, const std::vector<LayerInfo>& layers,
        const BenchFlags& flags, uint64_t seed)
      : random_(seed), zipf_wanted_(flags.distribution == "zipf") {
    request_.table = table.name;
    request_.version = table.version;
    const size_t count = layers.size();
    parts_.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      const size_t ids = flags.batch / count + (i < flags.batch % count ? 1 : 0);
      if (ids == 0) continue;
      Part& part = parts_.emplace_back();
      part.table_rows = layers[i].rows;
      if (zipf_wanted_) part.zipf.emplace(layers[i].rows, flags.alpha);
      part.ids.resize(ids);
      part.rows.resize(ids * layers[i].row_bytes);
      bytes_ += part.rows.size();
      request_.layers.push_back({layers[i].layer, part.ids, absl::MakeSpan(part.rows), {}});
    }
  }

  void NextIds() {
    for (Part& part : parts_) {
      for (uint32_t& id : part.ids) {
        id = zipf_wanted_ ? part.zipf->Row(random_) : UniformRow(random_, part.table_rows);
      }
    }
  }

  const LookupRequest& request() const { return request_; }
  size_t bytes() const { return bytes_; }

 private:
  struct Part {
    uint64_t table_rows = 0;
    std::optional<ZipfRows> zipf;
    std::vector<uint32_t> ids;
    std::vector<std::byte> rows;
  };

  Random random_;
  const bool zipf_wanted_;
  std::vector<Part> parts_;
  LookupRequest request_;
  size_t bytes_ = 0;
};

// How one thread's calls are answered.
using Answer = std::function<absl::StatusOr<LookupAnswer>(const LookupRequest&)>;

absl::StatusOr<Answer> AnswerOver(const std::string& transport, const CommandLine& line,
                                  const TableDescription& table) {
  if (transport == "gpu" || transport == "gpu-host") {
    ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<GpuSteps> steps,
                            GpuSteps::Open(line.server, table, transport == "gpu-host"));
    return [steps](const LookupRequest& request) { return steps->Step(request); };
  }
  ENGRAM_ASSIGN_OR_RETURN(
      std::shared_ptr<Client> client,
      ConnectClient(line, transport == "shm" ? TransportKind::kShm : TransportKind::kGrpc));
  return [client](const LookupRequest& request) { return client->Lookup(request); };
}

// Until `end`, an interrupt, or an error here or in another thread.
void Drive(const Answer& ask, Batch& batch, uint32_t rows, Clock::time_point end,
           const std::atomic<bool>& interrupted, std::atomic<bool>& failed, Result& result) {
  while (!interrupted && !failed) {
    batch.NextIds();
    const Clock::time_point begin = Clock::now();
    if (begin >= end) return;
    const absl::StatusOr<LookupAnswer> answer = ask(batch.request());
    if (!answer.ok()) {
      result.status = answer.status();
      failed = true;
      return;
    }
    const auto took = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin);
    result.Count(*answer, static_cast<uint64_t>(took.count()));
    result.rows += rows;
    result.bytes += batch.bytes();
  }
}

absl::Status Measure(const CommandLine& line, const BenchFlags& flags,
                     const TableDescription& table, Result& total, double& seconds) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<LayerInfo> layers, ChooseLayers(table, flags.layers));
  for (const LayerInfo& layer : layers) {
    if (layer.rows == 0) return absl::FailedPreconditionError("the table has an empty layer");
  }
  std::vector<Answer> answers;
  std::vector<std::unique_ptr<Batch>> batches;
  std::vector<Result> results(flags.threads);
  for (uint32_t i = 0; i < flags.threads; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(answers.emplace_back(), AnswerOver(flags.transport, line, table));
    batches.push_back(std::make_unique<Batch>(table, layers, flags, flags.seed + i * 0x10001ull));
    // Once, so that what is opened or mapped at the first call is not measured.
    ENGRAM_RETURN_IF_ERROR(answers.back()(batches.back()->request()).status());
  }
  const std::atomic<bool>& interrupted = CatchInterrupts();
  std::atomic<bool> failed{false};
  const Clock::time_point begin = Clock::now();
  const Clock::time_point end = begin + std::chrono::duration_cast<Clock::duration>(
                                            std::chrono::duration<double>(flags.seconds));
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < flags.threads; ++i) {
    threads.emplace_back([&, i] {
      Drive(answers[i], *batches[i], flags.batch, end, interrupted, failed, results[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  for (const Result& result : results) total.Merge(result);
  return total.status;
}

struct Rates {
  double rows_per_s = 0;
  double gb_per_s = 0;
  double hbm = 0, dram = 0, nvme = 0;  // shares of the rows served

  Rates(const Result& total, double seconds) {
    rows_per_s = static_cast<double>(total.rows) / seconds;
    gb_per_s = static_cast<double>(total.bytes) / seconds / 1e9;
    const auto served = static_cast<double>(
        std::max<uint64_t>(1, total.hbm_rows + total.dram_rows + total.nvme_rows));
    hbm = static_cast<double>(total.hbm_rows) / served;
    dram = static_cast<double>(total.dram_rows) / served;
    nvme = static_cast<double>(total.nvme_rows) / served;
  }
};

void PrintResult(const BenchFlags& flags, const TableDescription& table, const Result& total,
                 double seconds) {
  const Rates rates(total, seconds);
  const Latencies& latencies = total.latencies;
  const std::string law = flags.distribution == "zipf"
                              ? absl::StrFormat("zipf, alpha %g", flags.alpha)
                              : flags.distribution;
  Print(absl::StrFormat("%s version %d over %s: %d thread%s, %d rows a call, %s\n", table.name,
                        table.version, flags.transport, flags.threads,
                        flags.threads == 1 ? "" : "s", flags.batch, law));
  Print(absl::StrFormat("%s rows/s, %.3f GB/s (%s calls in %s)\n",
                        HumanCount(static_cast<uint64_t>(rates.rows_per_s)), rates.gb_per_s,
                        HumanCount(latencies.count()), HumanSeconds(seconds)));
  Print(absl::StrFormat("latency a call: p50 %s, p95 %s, p99 %s, max %s\n",
                        HumanMicros(latencies.QuantileUs(0.5)),
                        HumanMicros(latencies.QuantileUs(0.95)),
                        HumanMicros(latencies.QuantileUs(0.99)), HumanMicros(latencies.max_us())));
  Print(absl::StrFormat("rows by tier: hbm %s, dram %s, nvme %s\n", HumanShare(rates.hbm),
                        HumanShare(rates.dram), HumanShare(rates.nvme)));
}

void PrintResultJson(const BenchFlags& flags, const TableDescription& table, const Result& total,
                     double seconds) {
  const Rates rates(total, seconds);
  const Latencies& latencies = total.latencies;
  nlohmann::ordered_json json;
  json["table"] = table.name;
  json["version"] = table.version;
  json["transport"] = flags.transport;
  json["threads"] = flags.threads;
  json["batch"] = flags.batch;
  json["layers"] = flags.layers;
  json["distribution"] = flags.distribution;
  if (flags.distribution == "zipf") json["alpha"] = flags.alpha;
  json["seed"] = flags.seed;
  json["seconds"] = seconds;
  json["calls"] = latencies.count();
  json["rows"] = total.rows;
  json["bytes"] = total.bytes;
  json["rows_per_s"] = rates.rows_per_s;
  json["gb_per_s"] = rates.gb_per_s;
  json["latency_us"] = {{"mean", latencies.mean_us()},
                        {"p50", latencies.QuantileUs(0.5)},
                        {"p95", latencies.QuantileUs(0.95)},
                        {"p99", latencies.QuantileUs(0.99)},
                        {"max", latencies.max_us()}};
  json["tiers"] = {{"hbm", {{"rows", total.hbm_rows}, {"share", rates.hbm}}},
                   {"dram", {{"rows", total.dram_rows}, {"share", rates.dram}}},
                   {"nvme", {{"rows", total.nvme_rows}, {"share", rates.nvme}}}};
  PrintJson(json);
}

absl::Status Run(const CommandLine& line, const BenchFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const auto client, ConnectClient(line));
  ENGRAM_ASSIGN_OR_RETURN(const TableDescription table, client->Describe(flags.name));
  Result total;
  double seconds = 0;
  ENGRAM_RETURN_IF_ERROR(Measure(line, flags, table, total, seconds));
  if (line.json) {
    PrintResultJson(flags, table, total, seconds);
  } else {
    PrintResult(flags, table, total, seconds);
  }
  return absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CommandLine& line) {
  const auto flags = std::make_shared<BenchFlags>();
  CLI::App* command =
      AddCommand(line, "bench", "Looks up random rows for a while and says how fast",
                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  command
      ->add_option("--transport", flags->transport,
                   "how rows come; gpu: gathered by a GPU, gpu-host: by the processor in its stead")
      ->check(CLI::IsMember({"grpc", "shm", "gpu", "gpu-host"}))
      ->capture_default_str();
  command->add_option("--batch", flags->batch, "rows a call, of all layers together")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "each with one call in flight")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--seconds", flags->seconds, "how long")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  command->add_option("--distribution", flags->distribution, "of the row ids")
      ->check(CLI::IsMember({"uniform", "zipf"}))
      ->capture_default_str();
  command->add_option("--alpha", flags->alpha, "of the zipf distribution")
      ->check(CLI::Range(0.01, 10.0))
      ->capture_default_str();
  command->add_option("--layers", flags->layers, "layers with commas, or all")
      ->check(CheckLayers)
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "of the row ids")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace engram
