#include "client/grpc/target.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(GrpcTargetTest, GivesGrpcsForm) {
  EXPECT_EQ(*GrpcTarget("unix:/run/engramd/engramd.sock"), "unix:/run/engramd/engramd.sock");
  EXPECT_EQ(*GrpcTarget("unix:/a b%/s"), "unix:/a%20b%25/s");
  EXPECT_EQ(*GrpcTarget("localhost:7070"), "dns:///localhost:7070");
  EXPECT_EQ(*GrpcTarget("10.0.0.1:1"), "dns:///10.0.0.1:1");
  EXPECT_EQ(*GrpcTarget("[::1]:65535"), "dns:///%5B::1%5D:65535");
}

TEST(GrpcTargetTest, RefusesTheRestNamingIt) {
  const std::string too_long = "unix:/" + std::string(107, 'x');
  const std::string zero_byte = std::string("unix:/a\0b", 9);
  for (const std::string& bad :
       {std::string(), std::string("unix:"), std::string("unix:relative"), too_long, zero_byte,
        std::string("localhost"), std::string("localhost:"), std::string("localhost:0"),
        std::string("localhost:65536"), std::string("localhost:-1"), std::string("localhost:7x"),
        std::string("localhost:99999999999"), std::string(":7070"), std::string("[]:7070"),
        std::string("::1:7070"), std::string("http://host:80"), std::string("a b:80")}) {
    const auto target = GrpcTarget(bad);
    ASSERT_TRUE(absl::IsInvalidArgument(target.status())) << bad;
    EXPECT_NE(target.status().message().find("\"" + bad + "\""), absl::string_view::npos) << bad;
  }
}

TEST(GrpcTargetTest, TakesTheLongestPathThatASocketHolds) {
  EXPECT_TRUE(GrpcTarget("unix:/" + std::string(106, 'x')).ok());
}

}  // namespace
}  // namespace engram
