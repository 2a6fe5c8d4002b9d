// AppendFile: a new file, written from front to back with direct writes where the file system takes
// them, so that making data does not fill the page cache. One thread.
#ifndef ENGRAM_TESTS_BENCH_APPEND_FILE_H_
#define ENGRAM_TESTS_BENCH_APPEND_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "storage/base/unique_fd.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {

// Errors: Unavailable, naming call and file; ResourceExhausted; Cancelled by an interrupt.
class AppendFile {
 public:
  absl::Status Open(const std::string& path);
  absl::Status Append(const void* data, size_t bytes);
  absl::Status Close();  // synced

 private:
  absl::Status Failed(const char* call) const;
  absl::Status Flush();

  std::string path_;
  UniqueFd fd_;
  AlignedBuffer buffer_;
  size_t used_ = 0;
  uint64_t written_ = 0;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_APPEND_FILE_H_
