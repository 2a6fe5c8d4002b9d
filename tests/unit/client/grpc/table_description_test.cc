#include "client/grpc/table_description.h"

#include <gtest/gtest.h>

#include "engram/v1/store.pb.h"

namespace engram {
namespace {

TEST(DescriptionFromWire, TakesTheHashAsItIsSent) {
  v1::TableInfo info;
  info.mutable_addressing()->set_hash(v1::HASH_KIND_POLYNOMIAL);
  for (const int64_t boundary : {-1, 0, 2}) {
    info.mutable_addressing()->set_boundary_id(boundary);
    EXPECT_EQ(DescriptionFromWire(info).boundary_id, boundary);
  }
  EXPECT_EQ(DescriptionFromWire(info).hash, "polynomial");
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

// A daemon that is newer than the client may hash as the client cannot.
TEST(SpecFromDescription, RefusesAHashThatItDoesNotKnow) {
  v1::TableInfo info;
  info.mutable_addressing()->set_hash(static_cast<v1::HashKind>(77));
  const absl::Status status = SpecFromDescription(DescriptionFromWire(info)).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

TEST(DescriptionFromWire, NamesTheState) {
  v1::TableInfo info;
  EXPECT_EQ(DescriptionFromWire(info).state, "");
  info.set_state(v1::TABLE_STATE_LOADING);
  EXPECT_EQ(DescriptionFromWire(info).state, "loading");
  info.set_state(v1::TABLE_STATE_PUBLISHED);
  EXPECT_EQ(DescriptionFromWire(info).state, "published");
}

}  // namespace
}  // namespace engram
