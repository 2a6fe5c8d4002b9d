// One line to stderr per message, whole even when many threads log at once.
//
//   ENGRAM_LOG(kInfo) << "table " << name << " published";
//
// Lines look like `2026-11-24T10:00:00.123Z I table x published`; systemd's journal adds the rest.
// Thread-safe. Never on the way of a batch.
#ifndef ENGRAM_STORAGE_BASE_LOG_H_
#define ENGRAM_STORAGE_BASE_LOG_H_

#include <sstream>

namespace engram {

enum class LogLevel { kInfo, kWarning, kError };

class LogLine {
 public:
  explicit LogLine(LogLevel level);
  ~LogLine();  // writes the line
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  template <typename T>
  LogLine& operator<<(const T& value) {
    text_ << value;
    return *this;
  }

 private:
  std::ostringstream text_;
};

}  // namespace engram

#define ENGRAM_LOG(level) ::engram::LogLine(::engram::LogLevel::level)

#endif  // ENGRAM_STORAGE_BASE_LOG_H_
