#include "client/cli/tokens.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/row_hasher.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

constexpr char kStdin[] = "-";
// As many bytes of text as one request may have; nobody looks up more ids at once.
constexpr size_t kMaxStdinBytes = 64 * 1024 * 1024;

bool IsWholeNumber(absl::string_view text) {
  if (!text.empty() && text.front() == '-') text.remove_prefix(1);
  return !text.empty() && text.find_first_not_of("0123456789") == absl::string_view::npos;
}

std::string CheckTokens(const std::string& text) {
  if (text == kStdin) return "";
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    if (IsWholeNumber(part)) continue;
    return absl::StrCat("\"", absl::CHexEscape(part.substr(0, 100)),
                        "\" is not a token id: give whole numbers, or -1 for a dead position, ",
                        "with commas");
  }
  return "";
}

// What --tokens would have been: the numbers on stdin, with commas.
std::string ReadStdin() {
  std::string text;
  char buffer[64 * 1024];
  while (const size_t bytes = std::fread(buffer, 1, sizeof buffer, stdin)) {
    text.append(buffer, bytes);
    if (text.size() > kMaxStdinBytes) {
      throw CLI::ValidationError("--tokens", absl::StrCat("stdin has over ", kMaxStdinBytes,
                                                          " bytes; give fewer tokens at once"));
    }
  }
  if (std::ferror(stdin) != 0) throw CLI::ValidationError("--tokens", "stdin cannot be read");
  const std::vector<absl::string_view> ids =
      absl::StrSplit(text, absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty());
  if (ids.empty()) throw CLI::ValidationError("--tokens", "there is no token id on stdin");
  std::string tokens = absl::StrJoin(ids, ",");
  if (tokens == kStdin) throw CLI::ValidationError("--tokens", "\"-\" on stdin is no token id");
  if (std::string why = CheckTokens(tokens); !why.empty()) {
    throw CLI::ValidationError("--tokens", why);
  }
  return tokens;
}

// CLI11 itself takes -1 for the largest number.
std::string CheckLookback(const std::string& text) {
  uint32_t lookback = 0;
  if (text.find('-') == std::string::npos && absl::SimpleAtoi(text, &lookback)) return "";
  return absl::StrCat("\"", text, "\" is not a number of tokens");
}

size_t CountTokens(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), ',')) + 1;
}

}  // namespace

void AddTokenFlags(CLI::App& command, TokenFlags& flags) {
  command.add_option("--layer", flags.layer, "the model config's own number")->required();
  command
      .add_option("--tokens", flags.tokens,
                  "token ids with commas, in the order of the text; -1 is a dead position (an "
                  "image's place), whose rows are zeros; - reads them from stdin, with commas or "
                  "white space (a command line holds some 128 KiB of them, about 18,000 ids)")
      ->required()
      ->check(CheckTokens);
  command
      .add_option("--lookback", flags.lookback,
                  "how many of the first tokens are only context: they get no rows")
      ->check(CheckLookback);
  command.add_flag("--compressed", flags.compressed,
                   "the ids are compressed already; ignored by models that hash raw ids");
  command.parse_complete_callback([&flags] { SettleTokenFlags(flags); });
}

void SettleTokenFlags(TokenFlags& flags) {
  if (flags.tokens == kStdin) flags.tokens = ReadStdin();
  const size_t tokens = CountTokens(flags.tokens);
  if (flags.lookback <= tokens) return;
  throw CLI::ValidationError(
      "--lookback", absl::StrCat(flags.lookback, " is more than there are tokens (", tokens, ")"));
}

absl::StatusOr<std::vector<int32_t>> ParseTokens(const std::string& text) {
  std::vector<int32_t> tokens;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(part, &id) || id < -1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", part, " at position ", tokens.size(), " is out of range: ids are 0 to ",
          std::numeric_limits<int32_t>::max(), ", or -1 for a dead position"));
    }
    tokens.push_back(id);
  }
  return tokens;
}

TokenBatch HashedTokens::batch() const {
  return {.token_ids = tokens,
          .lengths = {},
          .lookbacks = absl::MakeConstSpan(&lookback, 1),
          .compressed = compressed};
}

bool NeedsTokenMap(const TableDescription& table, bool compressed) {
  return table.compressed_vocab_size > 0 && !compressed;
}

absl::Status CheckTokenMap(const TableDescription& table, const std::vector<int32_t>& token_map,
                           bool compressed) {
  if (!NeedsTokenMap(table, compressed) || !token_map.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      table.family,
      " hashes compressed token ids, and there is no token map for raw ones: give "
      "ids that are compressed already with --compressed, or put the model's tokenizer.json "
      "beside its config.json",
      table.version == 0 ? "" : " and load it as a new version"));
}

absl::StatusOr<HashedTokens> HashTokens(const TableDescription& table,
                                        std::vector<int32_t> token_map, const TokenFlags& flags) {
  ENGRAM_RETURN_IF_ERROR(CheckTokenMap(table, token_map, flags.compressed));
  HashedTokens hashed;
  ENGRAM_ASSIGN_OR_RETURN(hashed.tokens, ParseTokens(flags.tokens));
  hashed.lookback = flags.lookback;
  hashed.compressed = flags.compressed;
  ENGRAM_ASSIGN_OR_RETURN(const RowHasher hasher, RowHasher::Create(table, std::move(token_map)));
  ENGRAM_ASSIGN_OR_RETURN(hashed.columns, hasher.columns(flags.layer));
  hashed.ids.resize(hashed.positions() * hashed.columns);
  ENGRAM_RETURN_IF_ERROR(hasher.Hash(flags.layer, hashed.batch(), absl::MakeSpan(hashed.ids)));
  return hashed;
}

absl::StatusOr<std::vector<int32_t>> TokenMapFor(Client& client, const TableDescription& table,
                                                 bool compressed) {
  if (!NeedsTokenMap(table, compressed) || table.token_map_digest.empty())
    return std::vector<int32_t>();
  return client.FetchTokenMap(table.name, table.version);
}

}  // namespace engram
