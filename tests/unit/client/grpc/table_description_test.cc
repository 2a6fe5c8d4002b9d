#include "client/grpc/table_description.h"

#include <gtest/gtest.h>

#include "engram/v1/store.pb.h"

namespace engram {
namespace {

TEST(DescriptionFromWire, TakesTheHashAsItIsSent) {
  v1::TableInfo info;
  info.mutable_addressing()->set_hash("polynomial");
  for (const int64_t boundary : {-1, 0, 2}) {
    info.mutable_addressing()->set_boundary_id(boundary);
    EXPECT_EQ(DescriptionFromWire(info).boundary_id, boundary);
  }
}

// A daemon from before there were hashes sends no boundary either: token 0 must not become one.
TEST(DescriptionFromWire, HasNoBoundaryWithoutAHash) {
  v1::TableInfo info;
  EXPECT_EQ(DescriptionFromWire(info).boundary_id, -1);
  info.mutable_addressing()->set_max_ngram_size(4);
  EXPECT_EQ(DescriptionFromWire(info).boundary_id, -1);
  const auto spec = SpecFromDescription(DescriptionFromWire(info));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->addressing.boundary_id, -1);
}

}  // namespace
}  // namespace engram
