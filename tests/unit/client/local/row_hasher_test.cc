#include "client/row_hasher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/grpc/table_description.h"
#include "storage/table/ngram_hasher.h"
#include "storage/table/token_map.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TableSpec SpecOf(const testing::Model& model) {
  TableSpec spec;
  spec.name = model.name;
  spec.addressing = model.addressing;
  spec.layers = model.layers;
  return spec;
}

RowHasher HasherOf(const testing::Model& model) {
  auto hasher = RowHasher::Create(DescriptionFromSpec(SpecOf(model)));
  EXPECT_TRUE(hasher.ok()) << hasher.status();
  return *std::move(hasher);
}

std::vector<uint32_t> Hash(const RowHasher& hasher, int32_t layer, const TokenBatch& tokens,
                           size_t positions) {
  std::vector<uint32_t> ids(positions * hasher.columns(layer).value());
  const absl::Status status = hasher.Hash(layer, tokens, absl::MakeSpan(ids));
  EXPECT_TRUE(status.ok()) << status;
  return ids;
}

// Ids of the last position, in the columns named.
std::vector<uint32_t> LastIds(const RowHasher& hasher, int32_t layer,
                              const std::vector<int32_t>& tokens,
                              const std::vector<size_t>& columns) {
  const std::vector<uint32_t> all =
      Hash(hasher, layer, {.token_ids = tokens, .compressed = true}, tokens.size());
  std::vector<uint32_t> ids;
  for (const size_t column : columns) {
    ids.push_back(all[all.size() - hasher.columns(layer).value() + column]);
  }
  return ids;
}

TEST(RowHasherTest, GivesTheModelsPublishedIds) {
  EXPECT_THAT(
      LastIds(HasherOf(testing::DeepseekV41()), 14, {5, 17, 1000, 42}, {0, 7, 8, 15, 16, 23}),
      ElementsAre(11222432, 122131417, 129857349, 251727779, 268447127, 375436744));
  EXPECT_THAT(LastIds(HasherOf(testing::EngramDemo()), 1, {5, 17, 1000, 42}, {0, 7, 8, 15}),
              ElementsAre(383941, 5017896, 5190681, 9920817));
  EXPECT_THAT(LastIds(HasherOf(testing::Qwen4Exp()), 2, {5, 17, 1000, 42}, {0, 7, 8, 15}),
              ElementsAre(15394486, 145979698, 170474119, 302622549));
}

// Sequences of several blocks, with lookbacks of any length, against the hasher's one way.
TEST(RowHasherTest, ABatchIsItsSequences) {
  const testing::Model model = testing::DeepseekV41(300, 2);
  const RowHasher hasher = HasherOf(model);
  EXPECT_EQ(hasher.lookback(), 3u);
  const auto plain = NgramHasher::Create(model.addressing, model.layers[1]);
  ASSERT_TRUE(plain.ok());
  const std::vector<uint32_t> lengths = {700, 0, 1, 259, 256};
  const std::vector<uint32_t> lookbacks = {2, 0, 0, 3, 256};
  std::vector<int32_t> ids(std::accumulate(lengths.begin(), lengths.end(), 0u));
  std::mt19937 random(1);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 99093) - 1;
  std::vector<uint32_t> want;
  size_t begin = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const TokenSpan span{absl::MakeConstSpan(ids).subspan(begin, lengths[i]), lookbacks[i]};
    std::vector<RowId> rows(span.positions() * plain->columns());
    plain->HashPlain(span, absl::MakeSpan(rows));
    for (const RowId row : rows) want.push_back(Raw(row));
    begin += lengths[i];
  }
  const TokenBatch tokens{
      .token_ids = ids, .lengths = lengths, .lookbacks = lookbacks, .compressed = true};
  EXPECT_EQ(Hash(hasher, 14, tokens, 698 + 1 + 256), want);
}

// A model whose raw ids 0 … 9 are compressed to half as many.
testing::Model SmallModel() {
  testing::Model model = testing::DeepseekV41(300, 2);
  model.addressing.compressed_vocab_size = 5;
  model.addressing.vocab_size = 10;
  return model;
}
const std::vector<int32_t> kMap = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4};

TableDescription SmallTable() {
  TableDescription table = DescriptionFromSpec(SpecOf(SmallModel()));
  table.token_map_size = kMap.size();
  table.token_map_digest = TokenMap::Create(kMap).value().digest();
  return table;
}

TEST(RowHasherTest, CompressesRawIdsByTheTablesMap) {
  const auto hasher = RowHasher::Create(SmallTable(), kMap);
  ASSERT_TRUE(hasher.ok()) << hasher.status();
  const std::vector<int32_t> raw = {9, 2, -1, 4, 1}, compressed = {4, 1, -1, 2, 0};
  const std::vector<uint32_t> ids = Hash(*hasher, 1, {.token_ids = raw}, 5);
  EXPECT_EQ(ids, Hash(*hasher, 1, {.token_ids = compressed, .compressed = true}, 5));
  EXPECT_EQ(ids[2 * 6], kDeadPosition);
}

TEST(RowHasherTest, RawIdsWithoutTheirMapAreRefusedWithAWayOut) {
  const std::vector<int32_t> raw = {1};
  std::vector<uint32_t> ids(6);
  TableDescription table = SmallTable();
  const auto without = RowHasher::Create(table);
  ASSERT_TRUE(without.ok());
  absl::Status status = without->Hash(1, {.token_ids = raw}, absl::MakeSpan(ids));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Client::FetchTokenMap"));
  table.token_map_digest.clear();
  status = RowHasher::Create(table)->Hash(1, {.token_ids = raw}, absl::MakeSpan(ids));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
}

TEST(RowHasherTest, RawIdModelsIgnoreCompressed) {
  const RowHasher hasher = HasherOf(testing::LongCatLite());
  const std::vector<int32_t> ids = {5, 17, 1000, 42};
  EXPECT_EQ(Hash(hasher, 0, {.token_ids = ids}, 4),
            Hash(hasher, 0, {.token_ids = ids, .compressed = true}, 4));
}

TEST(RowHasherTest, ABadRequestIsNamed) {
  const auto hasher = RowHasher::Create(SmallTable(), kMap);
  ASSERT_TRUE(hasher.ok()) << hasher.status();
  EXPECT_TRUE(absl::IsNotFound(hasher->columns(2).status()));
  std::vector<uint32_t> room(18);
  const auto error = [&](int32_t layer, const TokenBatch& tokens, size_t size) {
    return hasher->Hash(layer, tokens, absl::MakeSpan(room).first(size));
  };
  const std::vector<int32_t> ids = {1, 2, 10};
  const std::vector<uint32_t> lengths = {4};
  const absl::Status layer = error(2, {.token_ids = ids}, 18);
  EXPECT_TRUE(absl::IsNotFound(layer)) << layer;
  EXPECT_THAT(std::string(layer.message()), HasSubstr("no hashed layer 2; it has 1, 14"));
  for (const auto& [status, text] : std::vector<std::pair<absl::Status, std::string>>{
           {error(1, {.token_ids = ids}, 18), "10"},
           {error(1, {.token_ids = ids, .compressed = true}, 18), "10"},
           {error(1, {.token_ids = ids}, 17), "room for 17 row ids, 3 positions of 6 columns"},
           {error(1, {.token_ids = ids, .lengths = lengths}, 18), "lengths add up to 4"}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
}

TEST(RowHasherTest, CreateRefusesWhatItCannotHash) {
  TableDescription table = SmallTable();
  std::vector<int32_t> other = kMap;
  other.push_back(0);
  absl::Status status = RowHasher::Create(table, other).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(table.token_map_digest));
  EXPECT_TRUE(absl::IsInvalidArgument(RowHasher::Create(table, {5}).status()));

  // As many compressed ids as the map has, or rows would be read that no token asks for.
  table.compressed_vocab_size = 4;
  EXPECT_TRUE(absl::IsFailedPrecondition(RowHasher::Create(table, kMap).status()));

  table = SmallTable();
  table.hash = "none";
  status = RowHasher::Create(table).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("addressed by row id only"));
  table.hash = "sha1";
  status = RowHasher::Create(table).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"sha1\""));

  table = SmallTable();
  table.layers[0].multipliers.pop_back();
  EXPECT_TRUE(absl::IsInvalidArgument(RowHasher::Create(table).status()));
}

TEST(TableDescriptionTest, SpecsSurviveTheRoundTrip) {
  for (const testing::Model& model :
       {testing::DeepseekV41(300, 2), testing::Qwen4Exp(), testing::LongCat2()}) {
    TableSpec spec = SpecOf(model);
    spec.family = "f";
    spec.row_format = "r";
    spec.checkpoint_digest = "c";
    spec.token_map_size = 3;
    spec.token_map_digest = "m";
    spec.layers[0].row_scale = 0.25;
    EXPECT_EQ(SpecFromDescription(DescriptionFromSpec(spec)).value(), spec);
  }
}

}  // namespace
}  // namespace engram
