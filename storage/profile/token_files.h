// Token files: the text that a profile counts, as little-endian uint32 token ids without a header.
//
// A file is one sequence; its first tokens have nothing before them. 0xFFFFFFFF (−1) is a dead
// position, which gets no rows and ends n-grams, so it also separates documents within a file.
// Immutable once opened; any number of threads may read, each for itself.
#ifndef ENGRAM_STORAGE_PROFILE_TOKEN_FILES_H_
#define ENGRAM_STORAGE_PROFILE_TOKEN_FILES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/unique_fd.h"

namespace engram {

// How ids of a file become ids that are hashed.
struct TokenCheck {
  uint32_t limit = 0;  // ids are below it
  absl::Span<const int32_t> map =
      {};  // from raw to compressed, `limit` of them; empty: as they are
};

class TokenFiles {
 public:
  // NotFound or Unavailable with errno; InvalidArgument, naming the file, if it is no regular file,
  // is empty, or has a size that is no multiple of 4.
  static absl::StatusOr<TokenFiles> Open(const std::vector<std::string>& paths);

  size_t count() const { return files_.size(); }
  uint64_t ids() const;  // of all files, dead ones too

  // Calls `each` for every kBlockIds ids or less, file by file, in order: `ids` begin with
  // `context` ids that were in the call before (up to `lookback`). It borrows them for the call. An
  // error of `each` ends it and is returned. InvalidArgument, naming file, byte offset and value,
  // for an id that `check` does not know; DataLoss, naming the file, if it became shorter or was
  // written to since it was opened.
  using Block = absl::FunctionRef<absl::Status(absl::Span<const int32_t> ids, size_t context)>;
  absl::Status Read(const TokenCheck& check, size_t lookback, Block each) const;

  static constexpr size_t kBlockIds = 4096;

 private:
  struct File {
    std::string path;
    UniqueFd fd;
    uint64_t ids = 0;
    int64_t changed_ns = 0;  // when it was last written to
  };

  static absl::Status ReadFile(const File& file, const TokenCheck& check, size_t lookback,
                               Block each);

  std::vector<File> files_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_TOKEN_FILES_H_
