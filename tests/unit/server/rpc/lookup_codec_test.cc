#include "server/rpc/lookup_codec.h"

#include <gmock/gmock.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/rpc/wire.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// In pieces of one byte, as the network may bring them.
grpc::ByteBuffer Bytes(const std::string& text) {
  std::vector<grpc::Slice> slices;
  for (const char byte : text) slices.emplace_back(std::string(1, byte));
  return grpc::ByteBuffer(slices.data(), slices.size());
}

v1::LookupRequest WithLayers(int count) {
  v1::LookupRequest request;
  request.set_table("t");
  request.set_request_id(70);
  for (int i = 0; i < count; ++i) {
    v1::LayerRowIds& layer = *request.mutable_ids()->add_layers();
    layer.set_layer(i);
    layer.set_row_ids("abcd");
  }
  return request;
}

TEST(CheckEncodedRequest, CountsLayersAndNothingElse) {
  uint64_t id = 0;
  EXPECT_TRUE(CheckEncodedRequest(Bytes(WithLayers(1024).SerializeAsString()), &id).ok());
  EXPECT_EQ(id, 70u);
  id = 0;
  const absl::Status wide = CheckEncodedRequest(Bytes(WithLayers(1025).SerializeAsString()), &id);
  EXPECT_TRUE(absl::IsInvalidArgument(wide)) << wide;
  EXPECT_THAT(std::string(wide.message()), HasSubstr("1025 entries in `ids.layers`"));
  EXPECT_EQ(id, 70u);
}

// The generated class puts the pieces of a message together.
TEST(CheckEncodedRequest, CountsLayersInPieces) {
  std::string pieces;
  for (int i = 0; i < 1025; ++i) pieces += WithLayers(1).SerializeAsString();
  v1::LookupRequest together;
  ASSERT_TRUE(together.ParseFromString(pieces));
  ASSERT_EQ(together.ids().layers_size(), 1025);
  EXPECT_TRUE(absl::IsInvalidArgument(CheckEncodedRequest(Bytes(pieces))));
}

TEST(CheckEncodedRequest, RefusesIdsBesideTokens) {
  v1::PrefetchRequest ids;
  ids.mutable_ids()->add_layers()->set_layer(1);
  v1::PrefetchRequest tokens;
  tokens.mutable_tokens()->set_token_ids("abcd");
  EXPECT_TRUE(CheckEncodedRequest(Bytes(tokens.SerializeAsString())).ok());
  for (const std::string& both : {ids.SerializeAsString() + tokens.SerializeAsString(),
                                  tokens.SerializeAsString() + ids.SerializeAsString()}) {
    const absl::Status status = CheckEncodedRequest(Bytes(both));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("both row ids and tokens"));
  }
}

TEST(CheckEncodedRequest, LeavesWhatIsNoMessageToDecode) {
  const std::string good = WithLayers(3).SerializeAsString();
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_TRUE(CheckEncodedRequest(Bytes(good.substr(0, size))).ok()) << size;
  }
  v1::LookupRequest request;
  EXPECT_FALSE(Decode(Bytes(good.substr(0, good.size() - 1)), request));
}

TEST(CheckPolicy, RefusesAValueThatIsNotKnown) {
  v1::LookupRequest request;
  for (const v1::OnRowError known :
       {v1::ON_ROW_ERROR_UNSPECIFIED, v1::ON_ROW_ERROR_FAIL, v1::ON_ROW_ERROR_ZERO}) {
    request.set_on_row_error(known);
    EXPECT_TRUE(CheckPolicy(request).ok()) << known;
  }
  v1::LookupRequest newer;
  ASSERT_TRUE(newer.ParseFromString(std::string("\x28\x4d", 2)));  // field 5, 77
  const absl::Status status = CheckPolicy(newer);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("on_row_error is 77"));
}

TEST(ToQuery, TakesIdsOrTokens) {
  const v1::LookupRequest by_ids = WithLayers(2);
  const LookupQuery ids = ToQuery(by_ids);
  EXPECT_EQ(ids.table, "t");
  ASSERT_EQ(ids.layers.size(), 2u);
  EXPECT_EQ(ids.layers[1].layer, LayerId{1});
  EXPECT_FALSE(ids.tokens.has_value());
  // What is said nowhere fails the call.
  EXPECT_TRUE(ids.fail_on_row_error);

  v1::LookupRequest by_tokens;
  by_tokens.mutable_tokens()->set_token_ids("abcd");
  by_tokens.mutable_tokens()->add_layers(14);
  by_tokens.set_on_row_error(v1::ON_ROW_ERROR_ZERO);
  const LookupQuery tokens = ToQuery(by_tokens);
  EXPECT_TRUE(tokens.layers.empty());
  ASSERT_TRUE(tokens.tokens.has_value());
  EXPECT_THAT(tokens.tokens->layers, ::testing::ElementsAre(14));
  EXPECT_FALSE(tokens.fail_on_row_error);
  by_tokens.set_on_row_error(v1::ON_ROW_ERROR_FAIL);
  EXPECT_TRUE(ToQuery(by_tokens).fail_on_row_error);
}

TEST(LookupCodec, KnowsEveryUrgencyAndRefusesOthers) {
  EXPECT_EQ(ToUrgency(v1::URGENCY_UNSPECIFIED).value(), std::nullopt);
  EXPECT_EQ(ToUrgency(v1::URGENCY_DECODE).value(), Urgency::kDecode);
  EXPECT_EQ(ToUrgency(v1::URGENCY_PREFILL).value(), Urgency::kPrefill);
  EXPECT_EQ(ToUrgency(v1::URGENCY_PREFETCH).value(), Urgency::kPrefetch);
  EXPECT_EQ(ToUrgency(v1::URGENCY_BACKGROUND).value(), Urgency::kBackground);
  const absl::Status status = ToUrgency(static_cast<v1::Urgency>(9)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("urgency is 9"));
}

}  // namespace
}  // namespace engram
