#include "client/grpc/request_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "engram/v1/store.pb.h"
#include "tests/test_seed.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

std::string Encoded(const RequestEncoder& encoder) {
  std::string bytes(encoder.size(), '?');
  encoder.Write(reinterpret_cast<uint8_t*>(bytes.data()));
  return bytes;
}

TEST(RequestEncoderTest, WritesWhatTheGeneratedClassWrites) {
  std::mt19937_64 random(TestSeed());
  for (const int32_t id : {0, 1, 14, -3, 1 << 30}) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{31}, size_t{40000}}) {
      std::vector<uint32_t> ids(count);
      for (uint32_t& value : ids) value = static_cast<uint32_t>(random());
      std::vector<uint8_t> tiers(count);
      LookupRequest request{.table = "deepseek",
                            .version = 9,
                            .layers = {{id, ids, {}, absl::MakeSpan(tiers)}, {99, {}, {}, {}}},
                            .on_row_error = RowErrorPolicy::kZero,
                            .expect_table_digest = "abc",
                            .urgency = CallUrgency::kBackground};
      v1::LookupRequest want;
      want.set_table("deepseek");
      want.set_version(9);
      v1::LayerRowIds* layer = want.mutable_ids()->add_layers();
      layer->set_layer(id);
      layer->set_row_ids(ids.data(), ids.size() * 4);
      want.mutable_ids()->add_layers()->set_layer(99);
      want.set_on_row_error(v1::ON_ROW_ERROR_ZERO);
      want.set_want_tiers(count > 0);
      want.set_request_id(7);
      want.set_expect_table_digest("abc");
      want.set_urgency(v1::URGENCY_BACKGROUND);
      EXPECT_EQ(Encoded(*RequestEncoder::ForLookup(request, 7)), want.SerializeAsString());

      v1::PrefetchRequest prefetch;
      prefetch.set_table("deepseek");
      *prefetch.mutable_ids()->add_layers() = *layer;
      PrefetchRequest asked{.table = "deepseek", .layers = {{id, ids}}};
      EXPECT_EQ(Encoded(*RequestEncoder::ForPrefetch(asked)), prefetch.SerializeAsString());
      asked.urgency = CallUrgency::kDecode;
      prefetch.set_urgency(v1::URGENCY_DECODE);
      EXPECT_EQ(Encoded(*RequestEncoder::ForPrefetch(asked)), prefetch.SerializeAsString());
    }
  }
}

// Sequence lengths that add up to `total`, some of them nothing.
std::vector<uint32_t> RandomLengths(std::mt19937_64& random, size_t total) {
  std::vector<uint32_t> lengths;
  while (total > 0) {
    const size_t length = random() % (total + 1);
    lengths.push_back(static_cast<uint32_t>(length));
    total -= length;
  }
  return lengths;
}

TEST(RequestEncoderTest, WritesTokensAsTheGeneratedClassDoes) {
  std::mt19937_64 random(TestSeed());
  for (const size_t count : {size_t{0}, size_t{1}, size_t{127}, size_t{200}, size_t{70000}}) {
    for (const bool compressed : {false, true}) {
      std::vector<int32_t> ids(count);
      for (int32_t& value : ids) value = static_cast<int32_t>(random());
      const std::vector<uint32_t> lengths = RandomLengths(random, count);
      std::vector<uint32_t> lookbacks;
      for (const uint32_t length : lengths) lookbacks.push_back(random() % (length + 1));
      const TokenBatch tokens{
          .token_ids = ids, .lengths = lengths, .lookbacks = lookbacks, .compressed = compressed};
      v1::TokenBatch batch;
      batch.set_token_ids(ids.data(), ids.size() * 4);
      for (const uint32_t value : lengths) batch.add_lengths(value);
      for (const uint32_t value : lookbacks) batch.add_lookbacks(value);
      for (const int32_t layer : {14, 0, -5}) batch.add_layers(layer);
      batch.set_compressed(compressed);

      v1::LookupRequest want;
      want.set_table("deepseek");
      want.set_version(9);
      want.set_on_row_error(v1::ON_ROW_ERROR_ZERO);
      want.set_request_id(7);
      want.set_expect_table_digest("abc");
      *want.mutable_tokens() = batch;
      const LookupRequest request{.table = "deepseek",
                                  .version = 9,
                                  .layers = {{.layer = 14}, {.layer = 0}, {.layer = -5}},
                                  .tokens = tokens,
                                  .on_row_error = RowErrorPolicy::kZero,
                                  .expect_table_digest = "abc"};
      EXPECT_EQ(Encoded(*RequestEncoder::ForLookup(request, 7)), want.SerializeAsString());

      v1::PrefetchRequest prefetch;
      prefetch.set_table("deepseek");
      *prefetch.mutable_tokens() = batch;
      prefetch.set_expect_table_digest("abc");
      PrefetchRequest asked{.table = "deepseek",
                            .layers = {{.layer = 14}, {.layer = 0}, {.layer = -5}},
                            .tokens = tokens,
                            .expect_table_digest = "abc"};
      EXPECT_EQ(Encoded(*RequestEncoder::ForPrefetch(asked)), prefetch.SerializeAsString());

      asked.layers.clear();
      prefetch.mutable_tokens()->clear_layers();
      EXPECT_EQ(Encoded(*RequestEncoder::ForPrefetch(asked)), prefetch.SerializeAsString());
    }
  }
}

TEST(RequestEncoderTest, TokensWithRoomForTiersAskForThem) {
  const std::vector<int32_t> ids = {1, 2};
  std::vector<uint8_t> tiers(6);
  LookupRequest request{.table = "t",
                        .layers = {{.layer = 1, .tiers = absl::MakeSpan(tiers)}},
                        .tokens = TokenBatch{.token_ids = ids}};
  v1::LookupRequest sent;
  ASSERT_TRUE(sent.ParseFromString(Encoded(*RequestEncoder::ForLookup(request, 0))));
  EXPECT_TRUE(sent.want_tiers());
  request.layers[0].tiers = absl::MakeSpan(tiers.data(), 3);
  const absl::Status status = RequestEncoder::ForLookup(request, 0).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 entries, there are 2 positions"));
}

void ExpectBadTokens(const TokenBatch& tokens, const std::string& text) {
  const absl::Status status = SequencesOf(tokens).CountPositions().status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  EXPECT_EQ(RequestEncoder::ForPrefetch({.table = "t", .tokens = tokens}).status(), status);
  EXPECT_EQ(RequestEncoder::ForLookup({.table = "t", .layers = {{.layer = 1}}, .tokens = tokens}, 0)
                .status(),
            status);
}

TEST(RequestEncoderTest, CountsPositionsAndRefusesWhatDoesNotFit) {
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5};
  const std::vector<uint32_t> lengths = {3, 0, 2}, lookbacks = {1, 0, 2}, one = {4}, six = {6};
  EXPECT_EQ(SequencesOf({.token_ids = ids}).CountPositions().value(), 5u);
  EXPECT_EQ(SequencesOf({.token_ids = ids, .lookbacks = one}).CountPositions().value(), 1u);
  EXPECT_EQ(SequencesOf({.token_ids = ids, .lengths = lengths, .lookbacks = lookbacks})
                .CountPositions()
                .value(),
            2u);
  EXPECT_EQ(SequencesOf({}).CountPositions().value(), 0u);
  ExpectBadTokens({.token_ids = ids, .lengths = one}, "lengths add up to 4, but there are 5");
  ExpectBadTokens({.token_ids = ids, .lengths = lengths, .lookbacks = one},
                  "1 lookbacks for 3 sequences");
  ExpectBadTokens({.token_ids = ids, .lookbacks = six}, "sequence 0 has a lookback of 6 in 5 ids");
}

TEST(RequestEncoderTest, RowsAreAskedForByIdsOrByTokens) {
  const std::vector<int32_t> tokens = {1};
  const std::vector<uint32_t> ids = {1, 2};
  const absl::Status both =
      RequestEncoder::ForLookup(
          {.table = "t", .layers = {{3, ids, {}, {}}}, .tokens = TokenBatch{.token_ids = tokens}},
          0)
          .status();
  EXPECT_TRUE(absl::IsInvalidArgument(both)) << both;
  EXPECT_THAT(std::string(both.message()), HasSubstr("layer 3 has 2 row ids"));
  EXPECT_EQ(RequestEncoder::ForPrefetch(
                {.table = "t", .layers = {{3, ids}}, .tokens = TokenBatch{.token_ids = tokens}})
                .status(),
            both);
  const absl::Status nowhere =
      RequestEncoder::ForLookup({.table = "t", .tokens = TokenBatch{.token_ids = tokens}}, 0)
          .status();
  EXPECT_TRUE(absl::IsInvalidArgument(nowhere)) << nowhere;
  EXPECT_THAT(std::string(nowhere.message()), HasSubstr("names no layer"));
}

TEST(RequestEncoderTest, RefusesALayerTwiceAndTiersOfAnotherSize) {
  const std::vector<uint32_t> ids = {1, 2};
  std::vector<uint8_t> tiers(3);
  const LookupRequest twice{.table = "t", .layers = {{1, ids, {}, {}}, {1, ids, {}, {}}}};
  EXPECT_TRUE(absl::IsInvalidArgument(RequestEncoder::ForLookup(twice, 0).status()));
  const LookupRequest room{.table = "t", .layers = {{1, ids, {}, absl::MakeSpan(tiers)}}};
  const absl::Status status = RequestEncoder::ForLookup(room, 0).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 entries, there are 2 ids"));
}

TEST(RequestEncoderTest, RefusesWhatNoMessageCanHold) {
  // Never read: the size is refused first.
  const absl::Span<const uint32_t> huge(reinterpret_cast<const uint32_t*>(64), size_t{1} << 29);
  const PrefetchRequest request{.table = "t", .layers = {{1, huge}}};
  EXPECT_TRUE(absl::IsResourceExhausted(RequestEncoder::ForPrefetch(request).status()));
  const TokenBatch tokens{.token_ids = {reinterpret_cast<const int32_t*>(64), size_t{1} << 29}};
  EXPECT_TRUE(absl::IsResourceExhausted(
      RequestEncoder::ForPrefetch({.table = "t", .tokens = tokens}).status()));
}

}  // namespace
}  // namespace engram
