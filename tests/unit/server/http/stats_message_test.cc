#include "server/http/stats_message.h"

#include <google/protobuf/message.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

namespace engram {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// A snapshot of one table of one layer. Every number is another one, and none is zero.
DaemonSnapshot Whole() {
  uint64_t next = 100;
  DaemonSnapshot snapshot;
  snapshot.daemon_version = "1.2.3";
  snapshot.uptime_seconds = static_cast<double>(next++);
  snapshot.ready = true;
  snapshot.nvme_io = "io_uring";
  snapshot.hbm_note = "no CUDA";
  snapshot.dram_memory = "tmpfs";
  for (uint64_t* const number :
       {&snapshot.attached_clients, &snapshot.dram_budget_bytes, &snapshot.hbm_budget_bytes,
        &snapshot.client_connections, &snapshot.refused[0], &snapshot.refused[1],
        &snapshot.refused[2]}) {
    *number = next++;
  }
  LatencyHistogram latencies;
  latencies.Observe(std::chrono::microseconds(1));
  latencies.Observe(std::chrono::milliseconds(1));
  for (QueueSnapshot& queue : snapshot.queue) {
    queue.jobs = next++;
    queue.units = next++;
    queue.wait_seconds = latencies.Snapshot();
  }
  TableSnapshot& table = snapshot.tables.emplace_back();
  table.name = "demo";
  table.version = VersionId{next++};
  for (uint64_t* const number :
       {&table.lookups, &table.failed_lookups, &table.prefetched_rows, &table.prefetched_used_rows,
        &table.prefetched_unused_rows, &table.prefetched_late_rows, &table.skipped_prefetch_rows}) {
    *number = next++;
  }
  table.lookup_seconds = latencies.Snapshot();
  LayerSnapshot& layer = table.layers.emplace_back();
  layer.layer = LayerId{static_cast<int32_t>(next++)};
  for (uint64_t* const number : {&layer.failed_rows, &layer.zero_rows, &layer.failed_pages,
                                 &layer.retried_pages, &layer.shared_pages}) {
    *number = next++;
  }
  for (TierSnapshot& tier : layer.tiers) {
    tier.usage.on = true;
    tier.usage.note = "note " + std::to_string(next++);
    for (uint64_t* const number :
         {&tier.usage.rows, &tier.usage.bytes, &tier.usage.capacity_bytes, &tier.hits,
          &tier.checked_rows, &tier.mismatched_rows, &tier.times_forgotten, &tier.placed_rows}) {
      *number = next++;
    }
  }
  return snapshot;
}

// Fails for each field, however deep, that is not set, and for each number of a message that
// another of its fields has as well.
void ExpectWhole(const Message& message, const std::string& path) {
  const google::protobuf::Reflection& get = *message.GetReflection();
  std::set<std::string> numbers;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const std::string name = path + "." + field.name();
    if (field.is_repeated()) {
      EXPECT_GT(get.FieldSize(message, &field), 0) << name;
      for (int item = 0; item < get.FieldSize(message, &field); ++item) {
        ExpectWhole(get.GetRepeatedMessage(message, &field, item), name);
      }
      continue;
    }
    EXPECT_TRUE(get.HasField(message, &field)) << name << " is not filled in";
    std::string number;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        ExpectWhole(get.GetMessage(message, &field), name);
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        number = std::to_string(get.GetUInt64(message, &field));
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        number = std::to_string(get.GetDouble(message, &field));
        break;
      default:
        break;
    }
    if (!number.empty()) {
      EXPECT_TRUE(numbers.insert(number).second) << name << " has another field's " << number;
    }
  }
}

TEST(StatsMessage, EveryFieldIsFilledInWithANumberOfItsOwn) {
  ExpectWhole(ToStatsMessage(Whole()), "stats");
}

// Half of the observations lie below the one, nearly all below the other.
TEST(StatsMessage, QuantilesAreThoseOfTheirNames) {
  const v1::StatsResponse message = ToStatsMessage(Whole());
  EXPECT_LE(message.tables(0).lookup_p50_seconds(), 2e-6);
  EXPECT_GE(message.tables(0).lookup_p99_seconds(), 5e-4);
  EXPECT_LE(message.queue(0).wait_p50_seconds(), 2e-6);
  EXPECT_GE(message.queue(0).wait_p99_seconds(), 5e-4);
}

TEST(StatsMessage, TheQueueHasEveryClassAndRefusalsAreSummedUp) {
  const DaemonSnapshot snapshot = Whole();
  const v1::StatsResponse message = ToStatsMessage(snapshot);
  ASSERT_EQ(message.queue_size(), 4);
  EXPECT_EQ(message.queue(0).urgency(), v1::URGENCY_DECODE);
  EXPECT_EQ(message.queue(3).urgency(), v1::URGENCY_BACKGROUND);
  EXPECT_EQ(message.queue(3).jobs(), snapshot.queue[3].jobs);
  EXPECT_EQ(message.queue(3).units(), snapshot.queue[3].units);
  EXPECT_EQ(message.queue(3).begun(), 2u);
  EXPECT_EQ(message.refused_lookups(),
            snapshot.refused[0] + snapshot.refused[1] + snapshot.refused[2]);
}

}  // namespace
}  // namespace engram
