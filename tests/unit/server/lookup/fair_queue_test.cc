#include "server/lookup/fair_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/test_seed.h"

namespace engram {
namespace {

constexpr uint64_t kPiece = 64;

FairQueue::Job JobOf(uint64_t id, uint64_t client, uint64_t units,
                     Urgency urgency = Urgency::kDecode, uint64_t deadline = UINT64_MAX) {
  return {JobId{id}, ClientId{client}, urgency, units, deadline};
}

// The jobs of the next pieces, in order, until the queue is empty or `most` have come.
std::vector<uint64_t> Order(FairQueue& queue, size_t most = 1000) {
  std::vector<uint64_t> order;
  while (order.size() < most) {
    const auto piece = queue.Next();
    if (!piece.has_value()) break;
    order.push_back(static_cast<uint64_t>(piece->job));
  }
  return order;
}

TEST(FairQueueTest, AJobComesInPiecesWithoutGapsAndLeaves) {
  FairQueue queue({.piece_units = kPiece});
  ASSERT_TRUE(queue.Push(JobOf(1, 1, 150)));
  EXPECT_EQ(queue.units(Urgency::kDecode), 150u);
  const std::vector<std::pair<uint64_t, uint64_t>> expected = {{0, 64}, {64, 64}, {128, 22}};
  for (const auto& [first, units] : expected) {
    const auto piece = queue.Next();
    ASSERT_TRUE(piece.has_value());
    EXPECT_EQ(piece->first, first);
    EXPECT_EQ(piece->units, units);
    EXPECT_EQ(piece->last, first == 128);
  }
  EXPECT_FALSE(queue.Next().has_value());
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.Has(Urgency::kDecode));
}

TEST(FairQueueTest, ClientsTakeTurnsWhateverTheyHaveQueued) {
  FairQueue queue({.piece_units = kPiece});
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(queue.Push(JobOf(10 + i, 1, kPiece)));
  ASSERT_TRUE(queue.Push(JobOf(20, 2, kPiece)));
  ASSERT_TRUE(queue.Push(JobOf(30, 3, kPiece)));
  EXPECT_EQ(Order(queue), (std::vector<uint64_t>{10, 20, 30, 11, 12, 13}));
}

TEST(FairQueueTest, OfOneClientWhatIsDueFirstAndThenWhatIsSmall) {
  FairQueue queue({.piece_units = kPiece});
  ASSERT_TRUE(queue.Push(JobOf(1, 1, 60)));
  ASSERT_TRUE(queue.Push(JobOf(2, 1, 5)));
  ASSERT_TRUE(queue.Push(JobOf(3, 1, 50, Urgency::kDecode, 1000)));
  ASSERT_TRUE(queue.Push(JobOf(4, 1, 50, Urgency::kDecode, 10)));
  EXPECT_EQ(Order(queue), (std::vector<uint64_t>{4, 3, 2, 1}));
}

TEST(FairQueueTest, WhatIsUrgentWaitsForOnePieceAtMost) {
  FairQueue queue({.piece_units = kPiece});
  for (uint64_t client = 1; client <= 64; ++client) {
    ASSERT_TRUE(queue.Push(JobOf(client, client, 8192, Urgency::kPrefill)));
  }
  uint64_t next = 1000;
  // However long it has gone on, and whatever less urgent classes have earned meanwhile.
  for (int i = 0; i < 1000; ++i) {
    for (int k = 0; k < i % 5; ++k) ASSERT_TRUE(queue.Next().has_value());
    ASSERT_TRUE(queue.Push(JobOf(next, 999, 48)));
    const std::vector<uint64_t> order = Order(queue, 2);
    EXPECT_TRUE(order[0] == next || order[1] == next) << i;
    if (order[1] == next || order[0] == next) ++next;
  }
}

TEST(FairQueueTest, EachClassHasItsShareWhateverIsMoreUrgent) {
  FairQueue queue({.piece_units = kPiece});
  uint64_t next = 0;
  std::map<Urgency, uint64_t> waiting;
  std::map<uint64_t, Urgency> urgencies;
  std::array<uint64_t, kUrgencies> served{};
  const auto top_up = [&] {
    for (size_t i = 0; i < kUrgencies; ++i) {
      const auto urgency = static_cast<Urgency>(i);
      while (queue.units(urgency) < 4 * kPiece) {
        urgencies[++next] = urgency;
        ASSERT_TRUE(queue.Push(JobOf(next, i, kPiece, urgency)));
      }
    }
  };
  for (int i = 0; i < 10'000; ++i) {
    top_up();
    const auto piece = queue.Next();
    served[static_cast<size_t>(urgencies.at(static_cast<uint64_t>(piece->job)))] += piece->units;
  }
  const double sum = 10'000.0 * kPiece;
  EXPECT_GT(served[0] / sum, 0.6);
  for (size_t i = 1; i < kUrgencies; ++i) EXPECT_GT(served[i] / sum, 0.03) << i;
  EXPECT_GT(served[1], 2 * served[2]);
}

TEST(FairQueueTest, RefusesWhatIsTooMuchInSumOrOfOneClient) {
  FairQueue queue({.piece_units = kPiece, .jobs = 5, .jobs_of_client = 3});
  for (uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(queue.Push(JobOf(i, 1, 1)));
  EXPECT_FALSE(queue.Push(JobOf(3, 1, 1)));
  EXPECT_TRUE(queue.Push(JobOf(4, 2, 1)));
  EXPECT_TRUE(queue.Push(JobOf(5, 2, 1)));
  EXPECT_FALSE(queue.Push(JobOf(6, 3, 1)));
  EXPECT_TRUE(queue.Remove(JobId{0}));
  EXPECT_FALSE(queue.Remove(JobId{0}));
  EXPECT_TRUE(queue.Push(JobOf(7, 1, 1)));
  EXPECT_FALSE(queue.Push(JobOf(8, 9, 0)));
}

TEST(FairQueueTest, OnlyAllowedClasses) {
  FairQueue queue({.piece_units = kPiece});
  ASSERT_TRUE(queue.Push(JobOf(1, 1, 10, Urgency::kPrefill)));
  EXPECT_FALSE(queue.Next(1).has_value());
  EXPECT_TRUE(queue.Next(3).has_value());
}

// Random mixes of clients that send without end: no job waits for ever, every unit is handed out
// once and in order, and clients of one class that always have work get the same.
TEST(FairQueueTest, NobodyStarvesInAnyMix) {
  for (uint64_t mix = 0; mix < 1000; ++mix) {
    SCOPED_TRACE("mix " + std::to_string(mix));
    std::mt19937_64 random(TestSeed() + mix);
    const auto pick = [&](uint64_t most) { return 1 + random() % most; };
    struct Client {
      Urgency urgency;
      uint64_t most_units;
      size_t jobs;  // kept waiting
      bool greedy;  // always has two pieces and more
      uint64_t served = 0;
      size_t waiting = 0;
    };
    std::vector<Client> clients(pick(20));
    for (Client& client : clients) {
      const bool greedy = random() % 2 == 0;
      client = {static_cast<Urgency>(random() % kUrgencies), pick(random() % 2 ? 100 : 2000),
                greedy ? 1 + pick(8) : pick(8), greedy};
    }
    const uint64_t piece_units = pick(100);
    FairQueue queue({.piece_units = piece_units, .jobs = 1024, .jobs_of_client = 256});
    struct Known {
      size_t client;
      uint64_t units;
      uint64_t done = 0;
      uint64_t since = 0;
    };
    std::map<uint64_t, Known> known;
    uint64_t next = 0;
    uint64_t served = 0;
    uint64_t longest = 0;
    for (int step = 0; step < 1000; ++step) {
      for (size_t i = 0; i < clients.size(); ++i) {
        for (; clients[i].waiting < clients[i].jobs; ++clients[i].waiting) {
          const uint64_t units =
              pick(clients[i].most_units) + (clients[i].greedy ? piece_units : 0);
          known[++next] = {i, units, 0, served};
          ASSERT_TRUE(queue.Push(
              JobOf(next, i, units, clients[i].urgency, random() % 3 ? UINT64_MAX : next)));
        }
      }
      const auto piece = queue.Next();
      ASSERT_TRUE(piece.has_value());
      const auto job = known.find(static_cast<uint64_t>(piece->job));
      ASSERT_NE(job, known.end());
      ASSERT_EQ(piece->first, job->second.done);
      job->second.done += piece->units;
      served += piece->units;
      clients[job->second.client].served += piece->units;
      ASSERT_EQ(piece->last, job->second.done == job->second.units);
      if (!piece->last) continue;
      longest = std::max(longest, served - job->second.since);
      --clients[job->second.client].waiting;
      known.erase(job);
    }
    for (const Client& a : clients) {
      for (const Client& b : clients) {
        if (a.urgency != b.urgency || !b.greedy) continue;
        // One may have had its turn, with what it had saved, and the other not yet.
        EXPECT_LE(a.served, b.served + 3 * piece_units);
      }
    }
    if (HasFailure()) break;
  }
}

}  // namespace
}  // namespace engram
