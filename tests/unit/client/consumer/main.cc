// What a program of somebody else's looks like. There is no daemon, so it must be told so.
#include <cstdio>

#include "engram/client.h"
#include "engram/row_hasher.h"

int main() {
  // The hasher, and with it all that it needs at link time, is in the installed libraries.
  engram::TableDescription table;
  table.hash = "polynomial";
  table.max_ngram_size = 2;
  table.heads = 1;
  table.vocab_size = 8;
  table.layers = {{.layer = 3, .rows = 11, .row_bytes = 1, .columns = {{2, 0, 11}}}};
  const auto hasher = engram::RowHasher::Create(table);
  const int32_t tokens[] = {1, 2};
  uint32_t rows[2] = {};
  // 0 · 8 + 1, then 1 · 8 + 2.
  if (!hasher.ok() || !hasher->Hash(3, {.token_ids = tokens}, absl::MakeSpan(rows)).ok() ||
      rows[0] != 1 || rows[1] != 10) {
    std::puts(hasher.status().ToString().c_str());
    return 1;
  }

  const auto client = engram::Client::Connect(
      {.target = "unix:/nonexistent/s", .connect_timeout = std::chrono::milliseconds(100)});
  std::puts(client.status().ToString().c_str());
  return absl::IsUnavailable(client.status()) ? 0 : 1;
}
