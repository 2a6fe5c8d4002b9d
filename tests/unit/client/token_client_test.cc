// The client against a daemon that hashes: the handshake, the token map, rows by tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>

#include "client/client.h"
#include "client/row_hasher.h"
#include "tests/unit/client/fake_daemon.h"

namespace engram {
namespace {

using ::testing::ElementsAreArray;
using testing::FakeDaemon;
using testing::HashedMap;
using testing::HashedSpec;
using ::testing::HasSubstr;
using testing::RowBytes;

constexpr size_t kColumns = 6;  // 3 orders of 2 heads

// Two sequences of raw ids, the second a chunk behind two others; 5 positions get rows. Both
// layers, the later one first.
class Ask {
 public:
  explicit Ask(std::vector<int32_t> ids = {3, 9, -1, 4, 0, 7, 7}) : ids_(std::move(ids)) {
    request_.table = "h";
    request_.layers.push_back({.layer = 14, .out = absl::MakeSpan(out14_)});
    request_.layers.push_back(
        {.layer = 1, .out = absl::MakeSpan(out1_), .tiers = absl::MakeSpan(tiers_)});
    request_.tokens = TokenBatch{.token_ids = ids_, .lengths = lengths_, .lookbacks = lookbacks_};
  }
  Ask(const Ask&) = delete;
  Ask& operator=(const Ask&) = delete;

  LookupRequest& request() { return request_; }

  void ExpectRows(const TableDescription& table) const {
    const auto hasher = RowHasher::Create(
        table, {HashedMap().compressed().begin(), HashedMap().compressed().end()});
    ASSERT_TRUE(hasher.ok()) << hasher.status();
    for (const int32_t layer : {1, 14}) {
      std::vector<uint32_t> rows(5 * kColumns);
      ASSERT_TRUE(hasher->Hash(layer, *request_.tokens, absl::MakeSpan(rows)).ok());
      std::string want;
      for (const uint32_t row : rows) want += RowBytes(layer, row);
      const std::vector<std::byte>& out = layer == 1 ? out1_ : out14_;
      EXPECT_EQ(absl::string_view(reinterpret_cast<const char*>(out.data()), out.size()), want);
    }
    EXPECT_EQ(tiers_[0], 1);
    EXPECT_EQ(tiers_[2 * kColumns], 255);  // the dead position
  }

 private:
  const std::vector<int32_t> ids_;
  const std::vector<uint32_t> lengths_ = {4, 3};
  const std::vector<uint32_t> lookbacks_ = {0, 2};
  std::vector<std::byte> out1_ = std::vector<std::byte>(5 * kColumns * 8);
  std::vector<std::byte> out14_ = std::vector<std::byte>(5 * kColumns * 6);
  std::vector<uint8_t> tiers_ = std::vector<uint8_t>(5 * kColumns);
  LookupRequest request_;
};

class TokenClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto client = Client::Connect({.target = daemon_.target()});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  TableDescription Table() {
    auto table = client_->OpenTable("h", {.family = "deepseek-v4.1"});
    EXPECT_TRUE(table.ok()) << table.status();
    return *table;
  }

  FakeDaemon daemon_;
  std::unique_ptr<Client> client_;
};

TEST_F(TokenClientTest, DescribesTheHash) {
  const TableDescription table = Table();
  EXPECT_EQ(table.hash, "xor-multiply");
  EXPECT_EQ(table.vocab_size, 10);
  EXPECT_EQ(table.boundary_id, -1);
  EXPECT_EQ(table.token_map_size, 10u);
  EXPECT_EQ(table.token_map_digest, HashedMap().digest());
  ASSERT_EQ(table.layers.size(), 2u);
  EXPECT_THAT(table.layers[1].multipliers, ElementsAreArray(HashedSpec().layers[1].multipliers));
  EXPECT_EQ(table.layers[1].row_scale, 0.25);
  EXPECT_EQ(table.layers[1].columns.size(), kColumns);
}

TEST_F(TokenClientTest, OpenTableFailsClosed) {
  const absl::Status other = client_->OpenTable("h", {.family = "longcat"}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  EXPECT_THAT(std::string(other.message()), HasSubstr("found \"deepseek-v4.1\""));
  EXPECT_TRUE(absl::IsNotFound(client_->OpenTable("u", {}).status()));
}

TEST_F(TokenClientTest, OpenTableWantsADigestToHoldOnTo) {
  daemon_.on_describe = [](v1::DescribeResponse* answer) {
    answer->mutable_table()->clear_table_digest();
  };
  const absl::Status status = client_->OpenTable("h", {}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no table digest"));
}

TEST_F(TokenClientTest, FetchesTheTokenMap) {
  const auto map = client_->FetchTokenMap("h");
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_THAT(*map, ElementsAreArray(HashedMap().compressed()));
  const absl::Status none = client_->FetchTokenMap("m").status();
  EXPECT_TRUE(absl::IsNotFound(none)) << none;
  EXPECT_THAT(std::string(none.message()), HasSubstr("\"m\" version 5 has no token map"));
  EXPECT_TRUE(absl::IsNotFound(client_->FetchTokenMap("u").status()));
}

TEST_F(TokenClientTest, ADamagedTokenMapIsRefused) {
  daemon_.on_describe = [](v1::DescribeResponse* answer) {
    if (answer->token_map().empty()) return;
    (*answer->mutable_token_map())[4] ^= 1;
  };
  EXPECT_TRUE(absl::IsDataLoss(client_->FetchTokenMap("h").status()));
  daemon_.on_describe = [](v1::DescribeResponse* answer) { answer->clear_token_map(); };
  EXPECT_TRUE(absl::IsDataLoss(client_->FetchTokenMap("h").status()));
}

TEST_F(TokenClientTest, LooksUpByTokensBothWays) {
  const TableDescription table = Table();
  Ask sync;
  sync.request().expect_table_digest = table.table_digest;
  const auto answer = client_->Lookup(sync.request());
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->layers[0].layer, 1);
  EXPECT_EQ(answer->layers[0].dram_rows, 4 * kColumns);
  sync.ExpectRows(table);

  Ask async({1, 2, -1, 4, 5, 6, 7});
  std::promise<absl::StatusOr<LookupAnswer>> promise;
  client_->LookupAsync(async.request(), [&](absl::StatusOr<LookupAnswer> result) {
    promise.set_value(std::move(result));
  });
  const auto later = promise.get_future().get();
  ASSERT_TRUE(later.ok()) << later.status();
  async.ExpectRows(table);
}

TEST_F(TokenClientTest, StreamsByTokens) {
  const TableDescription table = Table();
  auto stream = client_->OpenStream();
  ASSERT_TRUE(stream.ok()) << stream.status();
  Ask first, second({8, 8, -1, 8, 8, 8, 8}), wrong;
  wrong.request().tokens->lengths = {};
  EXPECT_TRUE(absl::IsInvalidArgument((*stream)->Send(wrong.request())));
  ASSERT_TRUE((*stream)->Send(first.request()).ok());
  ASSERT_TRUE((*stream)->Send(second.request()).ok());
  for (int i = 0; i < 4; ++i) {
    const auto event = (*stream)->Receive();
    ASSERT_TRUE(event.ok() && event->status.ok()) << event.status();
  }
  first.ExpectRows(table);
  second.ExpectRows(table);
}

TEST_F(TokenClientTest, PassesOnWhyTokensHaveNoRows) {
  Ask ask;
  ask.request().table = "m";
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->Lookup(ask.request()).status()));
  ask.request().table = "t";
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->Lookup(ask.request()).status()));
  Ask unknown({10, 1, 1, 1, 1, 1, 1});
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Lookup(unknown.request()).status()));
}

TEST_F(TokenClientTest, RoomOfTheWrongSizeIsNamed) {
  Ask ask;
  ask.request().layers[0].out.remove_suffix(6);
  const absl::Status status = client_->Lookup(ask.request()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("layer 14 of table \"h\": out has 174 bytes, 30 rows of 6 bytes"));
}

TEST_F(TokenClientTest, PrefetchesByTokens) {
  const std::vector<int32_t> ids = {1, 2, 3};
  const std::vector<uint32_t> lookbacks = {2};
  std::promise<absl::StatusOr<PrefetchAnswer>> promise;
  client_->Prefetch({.table = "h",
                     .layers = {{.layer = 14}},
                     .tokens = TokenBatch{.token_ids = ids, .lookbacks = lookbacks},
                     .expect_table_digest = "d0"},
                    [&](absl::StatusOr<PrefetchAnswer> answer) { promise.set_value(answer); });
  const auto answer = promise.get_future().get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  const v1::PrefetchRequest sent = daemon_.LastPrefetch();
  EXPECT_EQ(sent.expect_table_digest(), "d0");
  EXPECT_FALSE(sent.has_ids());
  EXPECT_THAT(sent.tokens().layers(), ::testing::ElementsAre(14));
  EXPECT_EQ(sent.tokens().token_ids().size(), 12u);
  EXPECT_THAT(sent.tokens().lookbacks(), ::testing::ElementsAre(2));
}

}  // namespace
}  // namespace engram
