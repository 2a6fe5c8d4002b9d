// What engramctl prints: numbers for people, aligned tables, JSON. stdout carries results only;
// all else goes to stderr. One thread.
#ifndef ENGRAM_CLIENT_CLI_OUTPUT_H_
#define ENGRAM_CLIENT_CLI_OUTPUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram {

std::string HumanCount(uint64_t count);          // "771,234"
std::string HumanBytes(double bytes);            // decimal units: "203.6 MB"
std::string HumanRate(double bytes_per_second);  // always "0.17 GB/s"
std::string HumanSeconds(double seconds);        // "1.2 s", "3 min 5 s", "2 h 10 min"
std::string HumanMicros(double micros);          // "85 µs", "1.25 ms"
std::string HumanShare(double share);            // of 1: "99.5 %"

// Columns padded to their widest cell, two blanks apart; those named in `right` are right-aligned.
class TextTable {
 public:
  TextTable(std::vector<std::string> header, std::vector<bool> right);
  void AddRow(std::vector<std::string> cells);
  std::string Format() const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> right_;
};

// To stdout.
void Print(absl::string_view text);

// Unavailable when some of what was printed could not be written (a full disk, a closed pipe).
absl::Status FlushOutput();

// A document of its own: indented, or on one line for `compact`. Bytes that are no UTF-8 are
// replaced, never thrown upon. A template, so that no header includes the JSON library.
template <typename Json>
void PrintJson(const Json& document, bool compact = false) {
  Print(document.dump(compact ? -1 : 2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_OUTPUT_H_
