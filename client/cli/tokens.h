// Tokens on the command line, and the row ids that they ask for; what `hash` and `lookup` share.
// One thread.
#ifndef ENGRAM_CLIENT_CLI_TOKENS_H_
#define ENGRAM_CLIENT_CLI_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"

namespace CLI {
class App;
}

namespace engram {

struct TokenFlags {
  int32_t layer = 0;
  std::string tokens;
  uint32_t lookback = 0;
  bool compressed = false;
};

// --layer, --tokens, --compressed and --lookback. What is no list of whole numbers, or a lookback
// of more than there are, is wrong usage.
void AddTokenFlags(CLI::App& command, TokenFlags& flags);
// What is done once all flags are read: reads stdin for `--tokens -`, and checks the lookback;
// throws CLI11's own error. For a command that puts a parse_complete_callback of its own in the
// place of the one that AddTokenFlags sets.
void SettleTokenFlags(TokenFlags& flags);

// InvalidArgument, naming value and index, for a number that no token has. Requires what the check
// of --tokens let through.
absl::StatusOr<std::vector<int32_t>> ParseTokens(const std::string& text);

// One sequence as the flags describe it, with its row ids.
struct HashedTokens {
  std::vector<int32_t> tokens;
  uint32_t lookback = 0;
  bool compressed = false;
  size_t columns = 0;
  std::vector<uint32_t> ids;  // of each token behind the lookback, `columns` of them

  size_t positions() const { return tokens.size() - lookback; }
  // Borrows `tokens` and `lookback`.
  TokenBatch batch() const;
};

// `token_map`: the table's, or empty. FailedPrecondition as CheckTokenMap;
// else as RowHasher.
absl::StatusOr<HashedTokens> HashTokens(const TableDescription& table,
                                        std::vector<int32_t> token_map, const TokenFlags& flags);

// Whether ids, compressed already or raw, cannot be hashed without the table's token map.
bool NeedsTokenMap(const TableDescription& table, bool compressed);

// FailedPrecondition, saying what to do, when the map is needed and empty.
absl::Status CheckTokenMap(const TableDescription& table, const std::vector<int32_t>& token_map,
                           bool compressed);

// The table's token map from the server, or an empty one where none is needed or there is none.
absl::StatusOr<std::vector<int32_t>> TokenMapFor(Client& client, const TableDescription& table,
                                                 bool compressed);

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_TOKENS_H_
