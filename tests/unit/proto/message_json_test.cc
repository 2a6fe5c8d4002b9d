#include "proto/message_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engram/v1/admin.pb.h"
#include "engram/v1/store.pb.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> Keys(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  return keys;
}

TEST(MessageJson, NumbersAreNumbersAndZerosAreThere) {
  v1::LayerInfo layer;
  layer.set_layer(-3);
  layer.set_rows(std::numeric_limits<uint64_t>::max());
  layer.add_multipliers(std::numeric_limits<int64_t>::min());
  layer.set_row_scale(0.1);
  EXPECT_EQ(MessageToJson(layer),
            R"({"layer":-3,"rows":18446744073709551615,"row_bytes":0,"columns":[],)"
            R"("multipliers":[-9223372036854775808],"row_scale":0.1,"rows_per_page":0,)"
            R"("block_bytes":0,"disk_bytes":0})");
}

TEST(MessageJson, EnumsAreTheirShortWords) {
  v1::TableInfo table;
  EXPECT_EQ(Json::parse(MessageToJson(table))["state"], "");
  table.set_state(v1::TABLE_STATE_PUBLISHED);
  table.mutable_addressing()->set_hash(v1::HASH_KIND_XOR_MULTIPLY);
  const Json json = Json::parse(MessageToJson(table));
  EXPECT_EQ(json["state"], "published");
  EXPECT_EQ(json["addressing"]["hash"], "xor-multiply");
  EXPECT_EQ(EnumWord(*v1::HashKind_descriptor(), v1::HASH_KIND_NONE), "none");
  EXPECT_EQ(EnumWord(*v1::LoadPhase_descriptor(), v1::LOAD_PHASE_READ), "read");
  EXPECT_EQ(EnumWord(*v1::HashKind_descriptor(), 77), "77");
}

TEST(MessageJson, MessagesAndAlternativesThatAreNotSetAreLeftOut) {
  v1::LookupRequest request;
  EXPECT_THAT(Keys(Json::parse(MessageToJson(request))),
              ::testing::ElementsAre("table", "version", "on_row_error", "want_tiers", "request_id",
                                     "expect_table_digest", "urgency"));
  v1::LayerRowIds& layer = *request.mutable_ids()->add_layers();
  layer.set_layer(1);
  layer.set_row_ids(std::string("\x01\x00\xff", 3));
  EXPECT_EQ(Json::parse(MessageToJson(request))["ids"],
            Json::parse(R"({"layers":[{"layer":1,"row_ids":"0100ff"}]})"));
}

TEST(MessageJson, EveryFieldOfTheStatisticsIsThere) {
  v1::StatsResponse stats;
  v1::TableStats& table = *stats.add_tables();
  *table.mutable_tiers()->mutable_dram() = v1::TierStats();
  const Json json = Json::parse(MessageToJson(stats));
  EXPECT_EQ(Keys(json).size(), static_cast<size_t>(stats.GetDescriptor()->field_count()));
  EXPECT_EQ(Keys(json["tables"][0]).size(),
            static_cast<size_t>(table.GetDescriptor()->field_count()));
  EXPECT_EQ(Keys(json["tables"][0]["tiers"]["dram"]).size(),
            static_cast<size_t>(v1::TierStats::descriptor()->field_count()));
}

TEST(MessageJson, BadBytesAndQuotesMakeNoBadText) {
  v1::TableStats table;
  table.set_name("a\"\\\n\xff");
  EXPECT_EQ(Json::parse(MessageToJson(table))["name"], "a\"\\\n\xEF\xBF\xBD");
}

}  // namespace
}  // namespace engram
