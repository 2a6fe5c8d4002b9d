// engram_quickstart_client: what an inference worker does with engramd, in small. See README.md.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "client/examples/token_workload.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// 128 tokens of DeepSeek-V4.1 are 6,144 rows, 1.6 MB.
constexpr size_t kBatchTokens = 128;
// Batches asked for ahead of the one that is looked up.
constexpr size_t kPrefetchAhead = 2;
constexpr size_t kHotBatches = 32;
constexpr size_t kStreamBatches = 32;

struct Flags {
  std::string server = "unix:/run/engramd/engramd.sock";
  std::string table;
  std::string expect;  // JSON of deploy/lib/make_checkpoint.py
  std::string dump;
  uint64_t seed = 1;
  int32_t layer = 0;
  std::vector<uint32_t> ids;
};

// Rows served by each tier, as the answers say.
struct Served {
  uint64_t hbm = 0;
  uint64_t dram = 0;
  uint64_t nvme = 0;

  void Add(const LayerAnswer& answer) {
    hbm += answer.hbm_rows;
    dram += answer.dram_rows;
    nvme += answer.nvme_rows;
  }
  Json ToJson() const { return {{"hbm", hbm}, {"dram", dram}, {"nvme", nvme}}; }
};

// Every row that came back, for check_rows.py. Without a path nothing is written.
class Dump {
 public:
  explicit Dump(const std::string& path) : path_(path) {
    if (!path.empty()) out_.open(path, std::ios::binary | std::ios::trunc);
  }

  absl::Status Add(const StepBatch::Layer& layer) {
    if (path_.empty()) return absl::OkStatus();
    const auto count = static_cast<uint32_t>(layer.ids.size());
    Write(&layer.layer, sizeof(layer.layer));
    Write(&layer.row_bytes, sizeof(layer.row_bytes));
    Write(&count, sizeof(count));
    Write(layer.ids.data(), layer.ids.size() * sizeof(uint32_t));
    Write(layer.tiers.data(), layer.tiers.size());
    Write(layer.rows.data(), layer.rows.size());
    return Check();
  }

  absl::Status Close() {
    if (path_.empty()) return absl::OkStatus();
    out_.close();
    return Check();
  }

 private:
  void Write(const void* data, size_t bytes) {
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  }
  absl::Status Check() const {
    if (out_.good()) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot write ", path_));
  }

  std::string path_;
  std::ofstream out_;
};

// Fails closed unless the table is the one that the checkpoint's maker described.
absl::Status CheckHandshake(const TableDescription& table, const std::string& path) {
  std::ifstream file(path);
  const Json expect = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!expect.is_object() || !expect.contains("layers") || !expect.contains("row_bytes")) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not what make_checkpoint.py prints"));
  }
  Json found = Json::array();
  for (const LayerInfo& layer : table.layers) {
    found.push_back({{"layer", layer.layer}, {"rows", layer.rows}});
    if (layer.row_bytes != expect["row_bytes"]) {
      return absl::FailedPreconditionError(absl::StrCat("layer ", layer.layer, " has rows of ",
                                                        layer.row_bytes, " bytes, not ",
                                                        expect["row_bytes"].dump()));
    }
  }
  if (found != expect["layers"]) {
    return absl::FailedPreconditionError(
        absl::StrCat("the table has layers ", found.dump(), ", not ", expect["layers"].dump()));
  }
  return absl::OkStatus();
}

// Whether an answer accounts for each of its rows. The ids in use here have no dead positions.
absl::Status CheckAnswer(const LayerAnswer& answer, const StepBatch::Layer& asked) {
  const uint64_t served = answer.hbm_rows + answer.dram_rows + answer.nvme_rows;
  if (answer.layer == asked.layer && answer.row_bytes == asked.row_bytes &&
      answer.failures.empty() && served == asked.ids.size()) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("asked for ", asked.ids.size(), " rows of layer ",
                                          asked.layer, ", got ", served, " rows of ",
                                          answer.row_bytes, " bytes of layer ", answer.layer,
                                          " and ", answer.failures.size(), " failures"));
}

class Worker {
 public:
  Worker(Client& client, TableDescription table, const Flags& flags)
      : client_(client),
        table_(std::move(table)),
        workload_(table_, flags.seed),
        dump_(flags.dump) {}

  // Returns the totals.
  absl::StatusOr<Json> Run() {
    const size_t batches = (workload_.tokens() + kBatchTokens - 1) / kBatchTokens;
    ENGRAM_RETURN_IF_ERROR(LookupPass("cover", batches, [this](size_t index) {
      return workload_.Cover(index * kBatchTokens, kBatchTokens);
    }));
    ENGRAM_RETURN_IF_ERROR(
        LookupPass("hot", kHotBatches, [this](size_t) { return workload_.Hot(kBatchTokens); }));
    ENGRAM_RETURN_IF_ERROR(StreamPass("stream"));
    ENGRAM_RETURN_IF_ERROR(dump_.Close());
    return Json{{"table", table_.name},
                {"version", table_.version},
                {"table_digest", table_.table_digest},
                {"passes", passes_},
                {"prefetch",
                 {{"accepted", prefetched_->accepted.load()},
                  {"skipped", prefetched_->skipped.load()},
                  {"failed_calls", prefetched_->failed_calls.load()}}},
                {"served", total_.ToJson()}};
  }

 private:
  using Clock = std::chrono::steady_clock;

  // Shared with callbacks, which may come after the pass that asked.
  struct Prefetched {
    std::atomic<uint64_t> accepted{0};
    std::atomic<uint64_t> skipped{0};
    std::atomic<uint64_t> failed_calls{0};
  };

  // Looks up batch after batch, each in one call for all layers, the next ones prefetched.
  template <typename Make>
  absl::Status LookupPass(const char* name, size_t batches, Make make) {
    Begin();
    std::deque<StepBatch> ahead;
    for (size_t made = 0; made < batches || !ahead.empty();) {
      // The first batch is wanted at once; those behind it are prefetched.
      while (made < batches && ahead.size() <= kPrefetchAhead) {
        ahead.push_back(make(made));
        if (made++ > 0) Prefetch(ahead.back());
      }
      StepBatch batch = std::move(ahead.front());
      ahead.pop_front();
      ENGRAM_ASSIGN_OR_RETURN(const LookupAnswer answer, client_.Lookup(batch.Lookup(table_)));
      if (answer.layers.size() != batch.layers.size()) {
        return absl::InternalError(
            absl::StrCat("asked for ", batch.layers.size(), " layers, got ", answer.layers.size()));
      }
      for (size_t i = 0; i < answer.layers.size(); ++i) {
        ENGRAM_RETURN_IF_ERROR(Take(answer.layers[i], batch.layers[i]));
      }
    }
    End(name, batches);
    return absl::OkStatus();
  }

  // The same over one stream: one thread sends, this one receives layer by layer.
  absl::Status StreamPass(const char* name) {
    std::vector<StepBatch> batches;
    for (size_t i = 0; i < kStreamBatches; ++i) batches.push_back(workload_.Hot(kBatchTokens));
    Begin();
    ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<LookupStream> stream, client_.OpenStream());
    absl::Status sent;
    std::thread sender([&] {
      for (size_t i = 0; i < batches.size() && sent.ok(); ++i) {
        sent = stream->Send(batches[i].Lookup(table_));
      }
      stream->CloseSend();
    });
    const absl::Status received = ReceiveAll(*stream, batches);
    sender.join();
    ENGRAM_RETURN_IF_ERROR(sent);
    ENGRAM_RETURN_IF_ERROR(received);
    End(name, batches.size());
    return absl::OkStatus();
  }

  // Answers come in the order of the requests, and within one in the order of layers.
  absl::Status ReceiveAll(LookupStream& stream, const std::vector<StepBatch>& batches) {
    absl::Status first_error;
    for (size_t i = 0; i < batches.size(); ++i) {
      const std::vector<StepBatch::Layer>& layers = batches[i].layers;
      for (size_t k = 0; k < layers.size(); ++k) {
        ENGRAM_ASSIGN_OR_RETURN(const LookupStream::Event event, stream.Receive());
        // A failed request has one answer. The rest is received all the same: the sender must not
        // be left waiting for room.
        absl::Status status = event.status;
        if (status.ok() && (event.sequence != i || event.last != (k + 1 == layers.size()))) {
          status = absl::InternalError(absl::StrCat("stream: answer ", k, " of request ", i,
                                                    " has sequence ", event.sequence,
                                                    event.last ? " and is the last" : ""));
        }
        if (status.ok()) status = Take(event.layer, layers[k]);
        first_error.Update(status);
        if (event.last) break;
      }
    }
    return first_error;
  }

  absl::Status Take(const LayerAnswer& answer, const StepBatch::Layer& asked) {
    ENGRAM_RETURN_IF_ERROR(CheckAnswer(answer, asked));
    served_.Add(answer);
    total_.Add(answer);
    return dump_.Add(asked);
  }

  // Best effort: a row that was not prefetched is only slower.
  void Prefetch(const StepBatch& batch) {
    client_.Prefetch(batch.Prefetch(table_),
                     [state = prefetched_](const absl::StatusOr<PrefetchAnswer>& answer) {
                       if (!answer.ok()) {
                         ++state->failed_calls;
                         return;
                       }
                       state->accepted += answer->accepted;
                       state->skipped += answer->skipped;
                     });
  }

  void Begin() {
    served_ = Served();
    start_ = Clock::now();
  }
  void End(const char* name, size_t batches) {
    const std::chrono::duration<double> elapsed = Clock::now() - start_;
    passes_.push_back({{"pass", name},
                       {"batches", batches},
                       {"served", served_.ToJson()},
                       {"seconds", elapsed.count()}});
  }

  Client& client_;
  TableDescription table_;
  TokenWorkload workload_;
  Dump dump_;
  std::shared_ptr<Prefetched> prefetched_ = std::make_shared<Prefetched>();
  Json passes_ = Json::array();
  Served served_;  // of this pass
  Served total_;
  Clock::time_point start_;
};

// The rows of --ids, as `engramctl rows --json` prints them.
absl::StatusOr<Json> FetchIds(Client& client, const TableDescription& table, const Flags& flags) {
  StepBatch batch;
  for (const LayerInfo& info : table.layers) {
    if (info.layer != flags.layer) continue;
    StepBatch::Layer layer{.layer = info.layer,
                           .row_bytes = info.row_bytes,
                           .ids = flags.ids,
                           .rows = std::vector<std::byte>(flags.ids.size() * info.row_bytes),
                           .tiers = std::vector<uint8_t>(flags.ids.size())};
    batch.layers.push_back(std::move(layer));
  }
  if (batch.layers.empty()) {
    return absl::NotFoundError(absl::StrCat("table ", table.name, " has no layer ", flags.layer));
  }
  ENGRAM_RETURN_IF_ERROR(client.Lookup(batch.Lookup(table)).status());
  const StepBatch::Layer& layer = batch.layers.front();
  Json rows = Json::array();
  for (size_t i = 0; i < layer.ids.size(); ++i) {
    const absl::string_view bytes(
        reinterpret_cast<const char*>(layer.rows.data()) + i * layer.row_bytes, layer.row_bytes);
    static constexpr const char* kTiers[] = {"hbm", "dram", "nvme"};
    rows.push_back({{"id", layer.ids[i]},
                    {"hex", absl::BytesToHexString(bytes)},
                    {"tier", layer.tiers[i] < 3 ? kTiers[layer.tiers[i]] : "none"}});
  }
  return Json{{"rows", std::move(rows)}};
}

absl::StatusOr<Json> Run(const Flags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Client> client,
                          Client::Connect({.target = flags.server}));
  ENGRAM_ASSIGN_OR_RETURN(TableDescription table, client->Describe(flags.table));
  if (!flags.expect.empty()) ENGRAM_RETURN_IF_ERROR(CheckHandshake(table, flags.expect));
  if (!flags.ids.empty()) return FetchIds(*client, table, flags);
  return Worker(*client, std::move(table), flags).Run();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Fetches every row of a table from engramd, then hot ones again, and reports totals");
  app.add_option("--server", flags.server, "unix:/path or host:port")->envname("ENGRAM_SERVER");
  app.add_option("--table", flags.table, "name of the table")->required();
  app.add_option("--expect", flags.expect,
                 "what make_checkpoint.py printed: refuse any other table");
  app.add_option("--dump", flags.dump, "write every row that came back to this file");
  app.add_option("--seed", flags.seed, "of the order in which rows are asked for");
  CLI::Option* layer = app.add_option("--layer", flags.layer, "only with --ids");
  CLI::Option* ids = app.add_option("--ids", flags.ids, "print just these rows, as JSON");
  ids->delimiter(',')->needs(layer);
  layer->needs(ids);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::StatusOr<Json> result = Run(flags);
  if (!result.ok()) {
    std::cerr << "engram_quickstart_client: " << result.status() << "\n";
    return 1;
  }
  std::cout << result->dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) { return engram::Main(argc, argv); }
