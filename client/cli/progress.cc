#include "client/cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/output.h"

namespace engram {
namespace {

constexpr std::chrono::milliseconds kTerminalPeriod{100};
constexpr std::chrono::milliseconds kLinePeriod{5000};
constexpr int kBarWidth = 24;

}  // namespace

Progress::Progress()
    : terminal_(isatty(STDERR_FILENO) == 1),
      begin_(std::chrono::steady_clock::now()),
      next_(begin_ + (terminal_ ? kTerminalPeriod : kLinePeriod)) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

void Progress::Update(const State& state) {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + (terminal_ ? kTerminalPeriod : kLinePeriod);
  const std::string text = FormatProgress(state, seconds(), terminal_ ? kBarWidth : 0);
  std::fputs(terminal_ ? absl::StrCat("\r\033[K", text).c_str() : absl::StrCat(text, "\n").c_str(),
             stderr);
  std::fflush(stderr);
  drawn_ = terminal_;
}

std::string FormatProgress(const Progress::State& state, double seconds, int width) {
  const uint64_t total = std::max(state.bytes_total, state.bytes_done);
  const double share =
      total == 0 ? 0 : static_cast<double>(state.bytes_done) / static_cast<double>(total);
  const uint64_t before = std::min(state.bytes_before, state.bytes_done);
  const double rate = seconds <= 0 ? 0 : static_cast<double>(state.bytes_done - before) / seconds;
  std::string text = state.phase;
  if (width > 0) {
    const int full = static_cast<int>(share * width);
    absl::StrAppend(&text, "  [", std::string(static_cast<size_t>(full), '#'),
                    std::string(static_cast<size_t>(width - full), '-'), "]");
  }
  const double per_second = seconds <= 0 ? 0 : static_cast<double>(state.rows_done) / seconds;
  const std::string speed =
      state.unit == "rows"
          ? HumanRate(rate)
          : absl::StrCat(HumanCount(static_cast<uint64_t>(per_second)), " ", state.unit, "/s");
  absl::StrAppendFormat(&text, "  %s  %s of %s %s  %s", HumanShare(share),
                        HumanCount(state.rows_done), HumanCount(state.rows_total), state.unit,
                        speed);
  if (rate > 0 && total > state.bytes_done) {
    const double left = static_cast<double>(total - state.bytes_done) / rate;
    absl::StrAppend(&text, "  ", HumanSeconds(left), " left");
  }
  return text;
}

}  // namespace engram
