// Results on their way to stdout: one JSON object a line, or one line for people.
//
// One thread at a time.
#ifndef ENGRAM_TESTS_BENCH_REPORT_H_
#define ENGRAM_TESTS_BENCH_REPORT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace engram::bench {

using Detail = std::variant<bool, int64_t, double, std::string>;

struct Result {
  std::string name;  // suite/what/size
  double value = 0;
  std::string unit;
  double baseline = 0;  // in the same unit, measured in the same run
  // How it came about: sizes, depths, rounds. Keys are stable names, readers accept new ones.
  std::vector<std::pair<std::string, Detail>> details;
};

// What the figures were measured on; taken once, for they must not be read without it.
struct Machine {
  std::string cpu;
  int64_t cores = 0;
  std::string kernel;
  std::string file_system;  // of the scratch directory
  int64_t memory_bytes = 0;
  std::string date;         // UTC, ISO 8601
  double load_average = 0;  // of the last minute, before the start
};
Machine DescribeMachine(const std::string& dir);

class Reporter {
 public:
  // With `json` each result carries the machine; without it the machine stands in a first line.
  Reporter(bool json, Machine machine);
  void Print(const Result& result);
  // For people, on stderr: what is going on.
  void Note(const std::string& text);

 private:
  const bool json_;
  const Machine machine_;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_REPORT_H_
