#include "client/grpc/wire_status.h"

#include <gtest/gtest.h>

#include <string>

namespace engram {
namespace {

struct GrpcLike {
  int error_code() const { return 8; }
  std::string error_message() const { return "full"; }
};

TEST(StatusFromWireTest, KeepsEveryCodeAndText) {
  EXPECT_TRUE(StatusFromWire(0, "").ok());
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status = StatusFromWire(code, "why");
    EXPECT_EQ(static_cast<int>(status.code()), code);
    EXPECT_EQ(status.message(), "why");
  }
}

TEST(StatusFromWireTest, NumbersThatAreNoCodeAreUnknownAndNamed) {
  for (const int code : {-1, 17, 1000}) {
    const absl::Status status = StatusFromWire(code, "why");
    EXPECT_TRUE(absl::IsUnknown(status));
    EXPECT_NE(status.message().find(std::to_string(code)), absl::string_view::npos);
  }
}

TEST(StatusFromGrpcTest, TakesCodeAndText) {
  EXPECT_EQ(StatusFromGrpc(GrpcLike()), absl::ResourceExhaustedError("full"));
}

}  // namespace
}  // namespace engram
