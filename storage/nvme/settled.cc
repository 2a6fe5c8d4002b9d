#include "storage/nvme/settled.h"

#include <rocksdb/file_system.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/directory.h"
#include "storage/nvme/rocks_status.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

// "settled 1 SEQUENCE DIGEST\n", the digest over what is before it.
std::string Encode(uint64_t sequence) {
  const std::string text = absl::StrCat("settled 1 ", sequence, " ");
  Digest digest;
  digest.Update(text);
  return absl::StrCat(text, digest.Hex(), "\n");
}

std::optional<uint64_t> Decode(const std::string& content) {
  std::istringstream in(content);
  std::string kind, format, number;
  uint64_t sequence = 0;
  if (!(in >> kind >> format >> number) || !absl::SimpleAtoi(number, &sequence)) return {};
  if (content != Encode(sequence)) return {};
  return sequence;
}

absl::Status WriteFile(rocksdb::FileSystem& files, const std::string& path,
                       const std::string& content) {
  const rocksdb::IOOptions io;
  std::unique_ptr<rocksdb::FSWritableFile> file;
  rocksdb::IOStatus status = files.NewWritableFile(path, rocksdb::FileOptions(), &file, nullptr);
  if (!status.ok()) return FromRocks(status, "making " + path);
  status = file->Append(content, io, nullptr);
  if (status.ok()) status = file->Sync(io, nullptr);
  const rocksdb::IOStatus closed = file->Close(io, nullptr);
  return FromRocks(status.ok() ? closed : status, "writing " + path);
}

}  // namespace

absl::Status WriteSettled(rocksdb::FileSystem& files, const std::string& path, uint64_t sequence) {
  const std::string unfinished = path + ".new";
  ENGRAM_RETURN_IF_ERROR(WriteFile(files, unfinished, Encode(sequence)));
  ENGRAM_RETURN_IF_ERROR(FromRocks(
      files.RenameFile(unfinished, path, rocksdb::IOOptions(), nullptr), "renaming " + unfinished));
  return SyncDirectory(files, std::filesystem::path(path).parent_path().string());
}

std::optional<uint64_t> ReadSettled(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return {};
  std::ifstream in(path, std::ios::binary);
  std::stringstream content;
  content << in.rdbuf();
  const std::optional<uint64_t> sequence = Decode(content.str());
  if (!sequence.has_value()) {
    ENGRAM_LOG(kWarning) << path
                         << " is damaged: what RocksDB's MANIFEST may have lost goes unseen "
                         << "until the next publication, switch or drop writes it anew";
  }
  return sequence;
}

}  // namespace engram
