// Rows as `rows` and `lookup` fetch and print them. One thread.
#ifndef ENGRAM_CLIENT_CLI_ROW_OUTPUT_H_
#define ENGRAM_CLIENT_CLI_ROW_OUTPUT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace engram {

// Rows of one layer, with room for the answer.
struct FetchedRows {
  std::string table;
  uint64_t version = 0;  // that answered
  int32_t layer = 0;
  std::vector<uint32_t> ids;
  size_t row_bytes = 0;
  std::vector<std::byte> bytes;
  std::vector<uint8_t> tiers;

  // Room for the rows of `ids`. NotFound, naming those there are, if the table has no such layer.
  static absl::StatusOr<FetchedRows> For(const TableDescription& table, int32_t layer,
                                         std::vector<uint32_t> ids);
};

// As an id is written: kDeadPosition is −1.
int64_t SignedId(uint32_t id);

// One `ID HEX` a line, or a JSON document with id, hex and tier of each.
void PrintRows(const FetchedRows& rows, bool json);

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_ROW_OUTPUT_H_
