// Progress of a long call on stderr: a bar on a terminal, a line every 5 s otherwise.
//
//   read  [######------]  45.1 %  348,123 of 771,234 rows  0.17 GB/s  4.2 s left
//
// It has no clock of its own: it prints when it is told something new. One thread.
#ifndef ENGRAM_CLIENT_CLI_PROGRESS_H_
#define ENGRAM_CLIENT_CLI_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <string>

namespace engram {

class Progress {
 public:
  struct State {
    std::string phase;
    std::string unit = "rows";  // what rows_done counts; of others so many a second are shown
    uint64_t rows_done = 0;
    uint64_t rows_total = 0;
    uint64_t bytes_done = 0;
    uint64_t bytes_total = 0;
    uint64_t bytes_before = 0;  // of bytes_done, what was done before we began
  };

  Progress();
  ~Progress();  // takes the bar away
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Update(const State& state);
  double seconds() const;  // since the beginning

 private:
  const bool terminal_;
  const std::chrono::steady_clock::time_point begin_;
  std::chrono::steady_clock::time_point next_;
  bool drawn_ = false;
};

// One line, without the bar when `width` is 0.
std::string FormatProgress(const Progress::State& state, double seconds, int width);

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_PROGRESS_H_
