#include "client/grpc/lookup_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "engram/v1/store.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/unknown_field_set.h"
#include "tests/test_seed.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// Two layers, asked for in descending order, with buffers that have a guard behind them.
class Ask {
 public:
  Ask() {
    request_.table = "t";
    request_.layers.push_back({14, ids14_, absl::MakeSpan(out14_.data(), 6 * 2), {}});
    request_.layers.push_back({1, ids1_, absl::MakeSpan(out1_.data(), 8 * 3), {}});
  }
  Ask(const Ask&) = delete;
  Ask& operator=(const Ask&) = delete;

  void WantTiers() { request_.layers[1].tiers = absl::MakeSpan(tiers1_); }
  LookupRequest& request() { return request_; }
  std::string Rows(int32_t layer) const {
    const auto& out = layer == 1 ? out1_ : out14_;
    return std::string(reinterpret_cast<const char*>(out.data()), layer == 1 ? 24 : 12);
  }
  const std::vector<uint8_t>& tiers() const { return tiers1_; }
  bool Untouched() const {
    return Guarded(0) && Rows(1) == std::string(24, '\xEE') && Rows(14) == std::string(12, '\xEE');
  }
  // Nothing was written behind the buffers.
  bool Guarded(size_t = 0) const {
    for (size_t i = 24; i < out1_.size(); ++i) {
      if (out1_[i] != kGuard) return false;
    }
    for (size_t i = 12; i < out14_.size(); ++i) {
      if (out14_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr std::byte kGuard{0xEE};
  const std::vector<uint32_t> ids1_ = {5, 0, 7};
  const std::vector<uint32_t> ids14_ = {1, kDeadPosition};
  std::vector<std::byte> out1_ = std::vector<std::byte>(24 + 64, kGuard);
  std::vector<std::byte> out14_ = std::vector<std::byte>(12 + 64, kGuard);
  std::vector<uint8_t> tiers1_ = {9, 9, 9};
  LookupRequest request_;
};

v1::LookupResponse Answer() {
  v1::LookupResponse response;
  response.set_version(42);
  v1::LayerRows* first = response.add_layers();
  first->set_layer(1);
  first->set_row_bytes(8);
  first->mutable_served()->set_hbm(1);
  first->mutable_served()->set_nvme(2);
  first->set_tiers(std::string("\x00\x02\x02", 3));
  first->set_rows("aaaaaaaabbbbbbbbcccccccc");
  v1::LayerRows* second = response.add_layers();
  second->set_layer(14);
  second->set_row_bytes(6);
  second->mutable_served()->set_dram(1);
  second->set_rows("ddddddeeeeee");
  return response;
}

// Scan and copy, from slices of `slice` bytes each.
absl::StatusOr<LookupAnswer> Parse(const std::string& bytes, const LookupRequest& request,
                                   int slice = -1) {
  google::protobuf::io::ArrayInputStream first(bytes.data(), static_cast<int>(bytes.size()), slice);
  auto scanned = ScanLookupResponse(&first, request);
  if (!scanned.ok()) return scanned.status();
  google::protobuf::io::ArrayInputStream second(bytes.data(), static_cast<int>(bytes.size()),
                                                slice);
  if (absl::Status status = CopyRows(&second, request, scanned->layers); !status.ok()) {
    return status;
  }
  LookupAnswer answer;
  answer.version = scanned->version;
  for (auto& layer : scanned->layers) answer.layers.push_back(std::move(layer.answer));
  return answer;
}

void ExpectGood(const Ask& ask, const LookupAnswer& answer) {
  EXPECT_EQ(answer.version, 42u);
  ASSERT_EQ(answer.layers.size(), 2u);
  EXPECT_EQ(answer.layers[0].layer, 1);
  EXPECT_EQ(answer.layers[0].row_bytes, 8u);
  EXPECT_EQ(answer.layers[0].hbm_rows, 1u);
  EXPECT_EQ(answer.layers[0].nvme_rows, 2u);
  EXPECT_EQ(answer.layers[1].layer, 14);
  EXPECT_EQ(answer.layers[1].dram_rows, 1u);
  EXPECT_EQ(ask.Rows(1), "aaaaaaaabbbbbbbbcccccccc");
  EXPECT_EQ(ask.Rows(14), "ddddddeeeeee");
  EXPECT_TRUE(ask.Guarded());
}

TEST(ScanLookupResponseTest, ReadsTheGeneratedForm) {
  Ask ask;
  ask.WantTiers();
  const auto answer = Parse(Answer().SerializeAsString(), ask.request());
  ASSERT_TRUE(answer.ok()) << answer.status();
  ExpectGood(ask, *answer);
  EXPECT_THAT(ask.tiers(), ::testing::ElementsAre(0, 2, 2));
}

TEST(ScanLookupResponseTest, ReadsManySmallSlices) {
  for (int slice = 1; slice < 40; ++slice) {
    Ask ask;
    ask.WantTiers();
    const auto answer = Parse(Answer().SerializeAsString(), ask.request(), slice);
    ASSERT_TRUE(answer.ok()) << slice << " " << answer.status();
    ExpectGood(ask, *answer);
    EXPECT_THAT(ask.tiers(), ::testing::ElementsAre(0, 2, 2));
  }
}

std::string Text(const google::protobuf::UnknownFieldSet& fields) {
  std::string bytes;
  fields.SerializeToString(&bytes);
  return bytes;
}

// One field of a message, as bytes.
std::string BytesField(int number, const std::string& value) {
  google::protobuf::UnknownFieldSet fields;
  fields.AddLengthDelimited(number, value);
  return Text(fields);
}
std::string VarintField(int number, uint64_t value) {
  google::protobuf::UnknownFieldSet fields;
  fields.AddVarint(number, value);
  return Text(fields);
}

TEST(ScanLookupResponseTest, FieldsMayComeInAnyOrderWithUnknownOnesBetween) {
  std::mt19937_64 random(TestSeed());
  google::protobuf::UnknownFieldSet unknown;
  unknown.AddFixed32(100, 7);
  unknown.AddFixed64(101, 7);
  unknown.AddGroup(102)->AddVarint(1, 1);
  unknown.AddLengthDelimited(103, std::string(300, 'u'));
  unknown.AddVarint(6, 3);  // the number of `rows`, but not its type
  const v1::LookupResponse good = Answer();
  for (int round = 0; round < 50; ++round) {
    std::vector<std::string> messages;
    for (const v1::LayerRows& layer : good.layers()) {
      std::vector<std::string> parts = {VarintField(1, static_cast<uint64_t>(layer.layer())),
                                        VarintField(2, layer.row_bytes()),
                                        BytesField(3, layer.served().SerializeAsString()),
                                        BytesField(5, layer.tiers()),
                                        BytesField(6, layer.rows()),
                                        Text(unknown)};
      std::shuffle(parts.begin(), parts.end(), random);
      messages.push_back(BytesField(2, std::accumulate(parts.begin(), parts.end(), std::string())));
    }
    messages.push_back(VarintField(1, 42));
    messages.push_back(Text(unknown));
    std::shuffle(messages.begin(), messages.end(), random);
    Ask ask;
    ask.WantTiers();
    const auto answer = Parse(std::accumulate(messages.begin(), messages.end(), std::string()),
                              ask.request(), 1 + static_cast<int>(random() % 50));
    ASSERT_TRUE(answer.ok()) << answer.status();
    ExpectGood(ask, *answer);
  }
}

TEST(ScanLookupResponseTest, NoTruncationIsTakenForAnAnswer) {
  const std::string bytes = Answer().SerializeAsString();
  for (size_t size = 0; size < bytes.size(); ++size) {
    Ask ask;
    const auto answer = Parse(bytes.substr(0, size), ask.request());
    ASSERT_FALSE(answer.ok()) << size;
    EXPECT_TRUE(absl::IsDataLoss(answer.status()) || absl::IsInternal(answer.status()))
        << answer.status();
    EXPECT_TRUE(ask.Untouched()) << size;
  }
}

TEST(ScanLookupResponseTest, RandomDamageNeverWritesPastTheBuffers) {
  std::mt19937_64 random(TestSeed());
  const std::string good = Answer().SerializeAsString();
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good;
    for (uint64_t i = 0; i <= random() % 4; ++i) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    Ask ask;
    ask.WantTiers();
    const auto answer = Parse(bytes, ask.request(), 1 + static_cast<int>(random() % 64));
    ASSERT_TRUE(ask.Guarded());
    if (!answer.ok()) {
      ASSERT_TRUE(ask.Untouched()) << answer.status();
    }
  }
}

void ExpectRefused(const v1::LookupResponse& response, Ask& ask, absl::StatusCode code,
                   const std::string& text) {
  const auto answer = Parse(response.SerializeAsString(), ask.request());
  ASSERT_FALSE(answer.ok()) << text;
  EXPECT_EQ(answer.status().code(), code) << answer.status();
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr(text));
  EXPECT_TRUE(ask.Untouched());
}

TEST(ScanLookupResponseTest, RefusesAnswersThatDoNotFitTheRequest) {
  constexpr auto kInternal = absl::StatusCode::kInternal;
  Ask ask;
  v1::LookupResponse response = Answer();
  response.mutable_layers()->RemoveLast();
  ExpectRefused(response, ask, kInternal, "layer 14 of table \"t\": the daemon's answer lacks it");

  response = Answer();
  *response.add_layers() = response.layers(0);
  ExpectRefused(response, ask, kInternal, "layer 1 of table \"t\": the daemon answered it twice");

  response = Answer();
  response.mutable_layers(0)->set_layer(2);
  ExpectRefused(response, ask, kInternal, "layer 2 of table \"t\": the daemon answered it, but");

  response = Answer();
  response.mutable_layers(0)->mutable_rows()->pop_back();
  ExpectRefused(response, ask, kInternal, "23 bytes of rows for 3 ids of 8 bytes");

  response = Answer();
  response.mutable_layers(0)->set_row_bytes(7);
  ExpectRefused(response, ask, kInternal, "24 bytes of rows for 3 ids of 7 bytes");

  response = Answer();
  response.mutable_layers(0)->clear_row_bytes();
  response.mutable_layers(0)->clear_rows();
  ExpectRefused(response, ask, kInternal, "0 bytes of rows for 3 ids of 0 bytes");

  ask.WantTiers();
  response = Answer();
  response.mutable_layers(0)->clear_tiers();
  ExpectRefused(response, ask, kInternal, "0 tiers for 3 rows");
}

TEST(ScanLookupResponseTest, ABufferOfTheWrongSizeIsTheCallersMistake) {
  for (const size_t size : {0, 23, 25}) {
    Ask ask;
    LayerRequest& layer = ask.request().layers[1];
    layer.out = absl::MakeSpan(layer.out.data(), size);
    ExpectRefused(Answer(), ask, absl::StatusCode::kInvalidArgument,
                  "out has " + std::to_string(size) + " bytes, 3 rows of 8 bytes need exactly 24");
  }
}

TEST(ScanLookupResponseTest, FailuresOnlyWhereTheyMayBe) {
  v1::LookupResponse response = Answer();
  v1::RowFailure* failure = response.mutable_layers(0)->add_failures();
  failure->set_position(2);
  failure->set_code(15);
  failure->set_message("bad page");
  Ask ask;
  ExpectRefused(response, ask, absl::StatusCode::kInternal, "position 2 (DATA_LOSS: bad page)");

  ask.request().on_row_error = RowErrorPolicy::kZero;
  failure->set_position(3);
  ExpectRefused(response, ask, absl::StatusCode::kInternal, "position 3 as failed, of 3 rows");

  failure->set_position(2);
  const auto answer = Parse(response.SerializeAsString(), ask.request());
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->layers[0].failures.size(), 1u);
  EXPECT_EQ(answer->layers[0].failures[0].position, 2u);
  EXPECT_EQ(answer->layers[0].failures[0].status, absl::DataLossError("bad page"));
}

// A look-up by tokens: 3 tokens behind a lookback of 1, in a layer of 2 columns and 8-byte rows.
class TokenAsk {
 public:
  TokenAsk() {
    request_.table = "t";
    request_.tokens = TokenBatch{.token_ids = ids_, .lookbacks = lookbacks_};
    request_.layers.push_back({.layer = 1, .out = absl::MakeSpan(out_)});
  }
  TokenAsk(const TokenAsk&) = delete;
  TokenAsk& operator=(const TokenAsk&) = delete;

  LookupRequest& request() { return request_; }
  LayerRequest& layer() { return request_.layers[0]; }
  std::vector<uint8_t>& tiers() { return tiers_; }
  std::string Rows() const {
    return std::string(reinterpret_cast<const char*>(out_.data()), out_.size());
  }

 private:
  const std::vector<int32_t> ids_ = {7, 5, -1, 6};
  const std::vector<uint32_t> lookbacks_ = {1};
  std::vector<std::byte> out_ = std::vector<std::byte>(3 * 2 * 8, std::byte{0xEE});
  std::vector<uint8_t> tiers_ = std::vector<uint8_t>(6, 9);
  LookupRequest request_;
};

v1::LookupResponse TokenAnswer(size_t rows, uint32_t row_bytes = 8) {
  v1::LookupResponse response;
  v1::LayerRows* layer = response.add_layers();
  layer->set_layer(1);
  layer->set_row_bytes(row_bytes);
  for (size_t i = 0; i < rows; ++i) {
    layer->mutable_rows()->append(row_bytes, static_cast<char>('a' + i));
    layer->mutable_tiers()->push_back(static_cast<char>(i));
  }
  return response;
}

TEST(ScanTokenAnswerTest, FillsRowsAndTiers) {
  TokenAsk ask;
  ask.layer().tiers = absl::MakeSpan(ask.tiers());
  const auto answer = Parse(TokenAnswer(6).SerializeAsString(), ask.request(), 5);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(ask.Rows(), TokenAnswer(6).layers(0).rows());
  EXPECT_THAT(ask.tiers(), ::testing::ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(ScanTokenAnswerTest, RefusesWhatIsNotAsManyRowsForEveryPosition) {
  struct Case {
    v1::LookupResponse response;
    absl::StatusCode code;
    std::string text;
  };
  constexpr auto kInternal = absl::StatusCode::kInternal;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  std::vector<Case> cases = {
      {TokenAnswer(0), kInternal, "0 bytes of rows for 3 positions of 8 bytes"},
      {TokenAnswer(5), kInternal, "40 bytes of rows for 3 positions of 8 bytes"},
      {TokenAnswer(6, 0), kInternal, "0 bytes of rows for 3 positions of 0 bytes"},
      {TokenAnswer(9), kInvalid, "out has 48 bytes, 9 rows of 8 bytes need exactly 72"},
      {TokenAnswer(6, 7), kInvalid, "out has 48 bytes, 6 rows of 7 bytes need exactly 42"}};
  cases.push_back({TokenAnswer(6), kInternal, "47 bytes of rows for 3 positions of 8 bytes"});
  cases.back().response.mutable_layers(0)->mutable_rows()->pop_back();
  cases.push_back({TokenAnswer(6), kInternal, "position 6 as failed, of 6 rows"});
  cases.back().response.mutable_layers(0)->add_failures()->set_position(6);
  for (const Case& wrong : cases) {
    TokenAsk ask;
    ask.request().on_row_error = RowErrorPolicy::kZero;
    const auto answer = Parse(wrong.response.SerializeAsString(), ask.request());
    EXPECT_EQ(answer.status().code(), wrong.code) << wrong.text << answer.status();
    EXPECT_THAT(std::string(answer.status().message()), HasSubstr(wrong.text));
    EXPECT_EQ(ask.Rows(), std::string(48, '\xEE'));
  }
}

TEST(ScanTokenAnswerTest, TiersAreOneARow) {
  TokenAsk ask;
  ask.layer().tiers = absl::MakeSpan(ask.tiers());
  v1::LookupResponse response = TokenAnswer(6);
  response.mutable_layers(0)->mutable_tiers()->pop_back();
  EXPECT_THAT(std::string(Parse(response.SerializeAsString(), ask.request()).status().message()),
              HasSubstr("5 tiers for 6 rows"));
  ask.layer().tiers = absl::MakeSpan(ask.tiers().data(), 3);
  const absl::Status status = Parse(TokenAnswer(6).SerializeAsString(), ask.request()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tiers has room for 3 entries, there are 6 rows"));
}

TEST(ScanTokenAnswerTest, NoPositionsHaveNoRows) {
  TokenAsk ask;
  ask.request().tokens = TokenBatch{};
  ask.layer().out = {};
  EXPECT_TRUE(Parse(TokenAnswer(0).SerializeAsString(), ask.request()).ok());
  EXPECT_TRUE(absl::IsInternal(Parse(TokenAnswer(1).SerializeAsString(), ask.request()).status()));
}

TEST(ScanStreamResponseTest, ReadsAMessageAndItsError) {
  v1::StreamLookupResponse message;
  message.set_request_id(77);
  message.set_last(true);
  message.set_version(42);
  *message.mutable_layer() = Answer().layers(1);
  std::string bytes = message.SerializeAsString();
  google::protobuf::io::ArrayInputStream in(bytes.data(), static_cast<int>(bytes.size()), 5);
  auto scanned = ScanStreamResponse(&in);
  ASSERT_TRUE(scanned.ok()) << scanned.status();
  EXPECT_EQ(scanned->request_id, 77u);
  EXPECT_TRUE(scanned->last);
  EXPECT_EQ(scanned->version, 42u);
  ASSERT_EQ(scanned->layers.size(), 1u);
  Ask ask;
  ASSERT_TRUE(CheckLayer(ask.request(), scanned->layers[0]).ok());
  google::protobuf::io::ArrayInputStream again(bytes.data(), static_cast<int>(bytes.size()), 5);
  ASSERT_TRUE(CopyRows(&again, ask.request(), scanned->layers).ok());
  EXPECT_EQ(ask.Rows(14), "ddddddeeeeee");

  message.set_code(5);
  message.set_message("no table");
  bytes = message.SerializeAsString();
  google::protobuf::io::ArrayInputStream failed(bytes.data(), static_cast<int>(bytes.size()));
  scanned = ScanStreamResponse(&failed);
  ASSERT_TRUE(scanned.ok());
  EXPECT_EQ(scanned->status, absl::NotFoundError("no table"));
  EXPECT_TRUE(scanned->layers.empty());
}

TEST(ScanStreamResponseTest, RefusesTruncatedMessagesAndTwoLayers) {
  v1::StreamLookupResponse message;
  *message.mutable_layer() = Answer().layers(1);
  std::string bytes = message.SerializeAsString();
  for (size_t size = 1; size < bytes.size(); ++size) {
    google::protobuf::io::ArrayInputStream in(bytes.data(), static_cast<int>(size));
    EXPECT_TRUE(absl::IsDataLoss(ScanStreamResponse(&in).status())) << size;
  }
  bytes += bytes;
  google::protobuf::io::ArrayInputStream in(bytes.data(), static_cast<int>(bytes.size()));
  EXPECT_TRUE(absl::IsDataLoss(ScanStreamResponse(&in).status()));
}

}  // namespace
}  // namespace engram
