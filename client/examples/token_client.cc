// engram_token_client: a decode step of an inference worker that knows tokens and nothing of rows.
// The handshake, a prefetch, a look-up: all by token ids. See README.md.
#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct Flags {
  std::string server = "unix:/run/engramd/engramd.sock";
  std::string table;
  std::string family;
  std::vector<int32_t> tokens;
  uint32_t lookback = 0;
  bool compressed = false;
};

// Room for the rows of one layer, whose columns and row bytes the handshake told.
struct LayerRows {
  LayerRows(const LayerInfo& info, size_t positions)
      : layer(info.layer), bytes(positions * info.columns.size() * info.row_bytes) {}

  int32_t layer = 0;
  std::vector<std::byte> bytes;
};

// What this worker's model expects. A real one states all that its config implies: rows, row bytes,
// column sizes, multipliers, the token map's digest.
TableExpectation Expected(const Flags& flags) {
  TableExpectation expected;
  if (!flags.family.empty()) expected.family = flags.family;
  return expected;
}

absl::Status Run(const Flags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Client> client,
                          Client::Connect({.target = flags.server}));
  // Fails closed: another model's table never gets as far as a look-up.
  ENGRAM_ASSIGN_OR_RETURN(const TableDescription table,
                          client->OpenTable(flags.table, Expected(flags)));
  const TokenBatch tokens{.token_ids = flags.tokens,
                          .lengths = {},
                          .lookbacks = absl::MakeConstSpan(&flags.lookback, 1),
                          .compressed = flags.compressed};

  // As soon as the tokens are known, long before the first of the layers runs. Best effort, and
  // nobody waits for it.
  client->Prefetch({.table = table.name,
                    .version = table.version,
                    .tokens = tokens,
                    .expect_table_digest = table.table_digest});

  std::vector<LayerRows> rows;
  for (const LayerInfo& info : table.layers) {
    if (!info.columns.empty()) rows.emplace_back(info, flags.tokens.size() - flags.lookback);
  }
  LookupRequest request;
  request.table = table.name;
  request.version = table.version;
  request.tokens = tokens;
  request.expect_table_digest = table.table_digest;
  for (LayerRows& layer : rows) {
    request.layers.push_back({.layer = layer.layer, .out = absl::MakeSpan(layer.bytes)});
  }
  ENGRAM_ASSIGN_OR_RETURN(const LookupAnswer answer, client->Lookup(request));
  for (const LayerAnswer& layer : answer.layers) {
    std::cout << "layer " << layer.layer << ": rows of " << layer.row_bytes << " bytes, "
              << layer.hbm_rows << " from hbm, " << layer.dram_rows << " from dram, "
              << layer.nvme_rows << " from nvme\n";
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Prefetches and looks up the rows of some tokens, in every layer of a table");
  app.add_option("--server", flags.server, "unix:/path or host:port")->envname("ENGRAM_SERVER");
  app.add_option("--table", flags.table, "name of the table")->required();
  app.add_option("--family", flags.family, "refuse the table of any other model family");
  app.add_option("--tokens", flags.tokens, "token ids with commas; -1 is a dead position")
      ->required()
      ->delimiter(',');
  app.add_option("--lookback", flags.lookback, "how many of the first are only context");
  app.add_flag("--compressed", flags.compressed, "the ids are compressed already");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (flags.lookback > flags.tokens.size()) {
    std::cerr << "engram_token_client: --lookback is more than there are tokens\n";
    return 2;
  }
  const absl::Status status = Run(flags);
  if (status.ok()) return 0;
  std::cerr << "engram_token_client: " << status << "\n";
  return 1;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) { return engram::Main(argc, argv); }
