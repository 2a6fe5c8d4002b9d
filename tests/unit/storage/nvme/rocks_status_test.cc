#include "storage/nvme/rocks_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/status.h>

#include <cerrno>
#include <string>

namespace engram {
namespace {

using testing::HasSubstr;

TEST(RocksStatusTest, EachCodeHasItsOwn) {
  using rocksdb::Status;
  EXPECT_TRUE(FromRocks(Status::OK(), "x").ok());
  const auto code = [](const Status& status) { return FromRocks(status, "x").code(); };
  EXPECT_EQ(code(Status::Corruption("c")), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code(Status::NotFound()), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(Status::NoSpace("n")), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(code(Status::IOError("i")), absl::StatusCode::kUnavailable);
  EXPECT_EQ(code(Status::Busy()), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(Status::InvalidArgument("a")), absl::StatusCode::kInternal);
}

TEST(RocksStatusTest, TextsKeepWhatAndWhere) {
  const std::string text(
      FromRocks(rocksdb::Status::NoSpace("/data/db/000012.sst"), "writing t").message());
  EXPECT_THAT(text, HasSubstr("writing t"));
  EXPECT_THAT(text, HasSubstr("/data/db/000012.sst"));
  EXPECT_THAT(text, HasSubstr("make room"));
}

TEST(RocksStatusTest, Errno) {
  EXPECT_EQ(FromErrno(ENOSPC, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(FromErrno(EDQUOT, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(FromErrno(ENOENT, "x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(FromErrno(EIO, "x").code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace engram
