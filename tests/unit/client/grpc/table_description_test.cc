#include "client/grpc/table_description.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engram/v1/store.pb.h"
#include "proto/message_json.h"

namespace engram {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::json;

// Sets every field of a message, at every depth, to a value that no other has, two of each repeated
// one. Numbers need all bits of their type's width.
class Filler {
 public:
  void Fill(Message& message) {
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor& field = *message.GetDescriptor()->field(i);
      if (field.is_repeated()) {
        for (int j = 0; j < 2; ++j) Add(message, field);
      } else {
        Set(message, field);
      }
    }
  }

 private:
  void Set(Message& message, const FieldDescriptor& field) {
    const google::protobuf::Reflection& set = *message.GetReflection();
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return set.SetInt32(&message, &field, -(1 << 30) - Next());
      case FieldDescriptor::CPPTYPE_INT64:
        return set.SetInt64(&message, &field, -(int64_t{1} << 62) - Next());
      case FieldDescriptor::CPPTYPE_UINT32:
        return set.SetUInt32(&message, &field, (1u << 31) + static_cast<uint32_t>(Next()));
      case FieldDescriptor::CPPTYPE_UINT64:
        return set.SetUInt64(&message, &field, (uint64_t{1} << 63) + static_cast<uint64_t>(Next()));
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return set.SetDouble(&message, &field, 1.0 / (2 + Next()));
      case FieldDescriptor::CPPTYPE_BOOL:
        return set.SetBool(&message, &field, true);
      case FieldDescriptor::CPPTYPE_ENUM:
        return set.SetEnum(&message, &field, field.enum_type()->value(1));
      case FieldDescriptor::CPPTYPE_STRING:
        return set.SetString(&message, &field, absl::StrCat(field.name(), " ", Next()));
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Fill(*set.MutableMessage(&message, &field));
      default:
        ADD_FAILURE() << field.full_name() << ": say here how a " << field.cpp_type_name()
                      << " is filled";
    }
  }

  void Add(Message& message, const FieldDescriptor& field) {
    const google::protobuf::Reflection& set = *message.GetReflection();
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT64:
        return set.AddInt64(&message, &field, -(int64_t{1} << 62) - Next());
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Fill(*set.AddMessage(&message, &field));
      default:
        ADD_FAILURE() << field.full_name() << ": say here how a repeated " << field.cpp_type_name()
                      << " is filled";
    }
  }

  int Next() { return next_++; }
  int next_ = 0;
};

// The description under the wire's names, as MessageToJson prints a TableInfo.
Json UnderWireNames(const TableDescription& table) {
  Json layers = Json::array();
  for (const LayerInfo& layer : table.layers) {
    Json columns = Json::array();
    for (const ColumnInfo& column : layer.columns) {
      columns.push_back({{"order", column.order}, {"head", column.head}, {"rows", column.rows}});
    }
    layers.push_back({{"layer", layer.layer},
                      {"rows", layer.rows},
                      {"row_bytes", layer.row_bytes},
                      {"columns", columns},
                      {"multipliers", layer.multipliers},
                      {"row_scale", layer.row_scale},
                      {"rows_per_page", layer.rows_per_page},
                      {"block_bytes", layer.block_bytes},
                      {"disk_bytes", layer.disk_bytes}});
  }
  return {{"name", table.name},
          {"version", table.version},
          {"active", table.active},
          {"state", table.state},
          {"family", table.family},
          {"row_format", table.row_format},
          {"layers", layers},
          {"addressing",
           {{"max_ngram_size", table.max_ngram_size},
            {"heads", table.heads},
            {"base_size", table.base_size},
            {"pad_id", table.pad_id},
            {"compressed_vocab_size", table.compressed_vocab_size},
            {"hash", table.hash},
            {"vocab_size", table.vocab_size},
            {"boundary_id", table.boundary_id}}},
          {"checkpoint_digest", table.checkpoint_digest},
          {"table_digest", table.table_digest},
          {"rows", table.rows},
          {"bytes", table.bytes},
          {"token_map_size", table.token_map_size},
          {"token_map_digest", table.token_map_digest}};
}

// client.h has no protobuf, so its structs repeat the message. What the wire says of a table has to
// reach clients: a new field belongs into client.h, DescriptionFromWire and UnderWireNames.
TEST(DescriptionFromWire, TakesEveryFieldOfTheMessage) {
  v1::TableInfo info;
  Filler().Fill(info);
  const Json sent = Json::parse(MessageToJson(info));
  const Json difference = Json::diff(sent, UnderWireNames(DescriptionFromWire(info)));
  EXPECT_TRUE(difference.empty()) << "as a patch of the message: " << difference.dump(2);
}

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
