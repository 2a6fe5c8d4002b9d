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
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(queue.HasRoom(ClientId{1}));
    EXPECT_TRUE(queue.Push(JobOf(i, 1, 1)));
  }
  EXPECT_FALSE(queue.HasRoom(ClientId{1}));
  EXPECT_TRUE(queue.HasRoom(ClientId{2}));
  EXPECT_TRUE(queue.Push(JobOf(4, 2, 1)));
  EXPECT_TRUE(queue.HasRoom(ClientId{3}));
  EXPECT_TRUE(queue.Push(JobOf(5, 2, 1)));
  EXPECT_FALSE(queue.HasRoom(ClientId{3}));
  EXPECT_TRUE(queue.Remove(JobId{0}));
  EXPECT_FALSE(queue.Remove(JobId{0}));
  EXPECT_TRUE(queue.HasRoom(ClientId{1}));
  // What has begun is taken in any case, once.
  EXPECT_TRUE(queue.Push(JobOf(7, 1, 1)));
  EXPECT_TRUE(queue.Push(JobOf(8, 1, 1)));
  EXPECT_FALSE(queue.Push(JobOf(8, 1, 1)));
  EXPECT_FALSE(queue.Push(JobOf(9, 9, 0)));
}

TEST(FairQueueTest, OnlyAllowedClasses) {
  FairQueue queue({.piece_units = kPiece});
  ASSERT_TRUE(queue.Push(JobOf(1, 1, 10, Urgency::kPrefill)));
  EXPECT_FALSE(queue.Next(1).has_value());
  EXPECT_TRUE(queue.Next(3).has_value());
}

// A random mix of clients that send without end.
class Mix {
 public:
  explicit Mix(uint64_t seed)
      : random_(seed),
        clients_(Pick(20)),
        piece_units_(Pick(100)),
        queue_({.piece_units = piece_units_, .jobs = 1024, .jobs_of_client = 256}) {
    for (Client& client : clients_) {
      const bool greedy = random_() % 2 == 0;
      client = {static_cast<Urgency>(random_() % kUrgencies), Pick(random_() % 2 ? 100 : 2000),
                greedy ? 1 + Pick(8) : Pick(8), greedy};
    }
  }

  // Every unit is handed out once and in order.
  void Step() {
    Refill();
    const auto piece = queue_.Next();
    ASSERT_TRUE(piece.has_value());
    const auto job = jobs_.find(static_cast<uint64_t>(piece->job));
    ASSERT_NE(job, jobs_.end());
    ASSERT_EQ(piece->first, job->second.done);
    job->second.done += piece->units;
    clients_[job->second.client].served += piece->units;
    clients_[job->second.client].last_step = step_;
    ++step_;
    ASSERT_EQ(piece->last, job->second.done == job->second.units);
    if (!piece->last) return;
    --clients_[job->second.client].waiting;
    jobs_.erase(job);
  }

  // No client waits for ever, and those of one class that always have work get the same.
  void Check() const {
    for (const Client& a : clients_) {
      // A turn of each class comes once in 16 × 23 pieces at the worst, to each of 20 clients.
      EXPECT_LT(step_ - a.last_step, uint64_t{16} * 23 * 20);
      for (const Client& b : clients_) {
        if (a.urgency != b.urgency || !b.greedy) continue;
        // One may have had its turn, with what it had saved, and the other not yet.
        EXPECT_LE(a.served, b.served + 3 * piece_units_);
      }
    }
  }

 private:
  struct Client {
    Urgency urgency = Urgency::kDecode;
    uint64_t most_units = 0;
    size_t jobs = 0;      // kept waiting
    bool greedy = false;  // always has two pieces and more
    uint64_t served = 0;
    size_t waiting = 0;
    uint64_t last_step = 0;
  };
  struct Known {
    size_t client = 0;
    uint64_t units = 0;
    uint64_t done = 0;
  };

  uint64_t Pick(uint64_t most) { return 1 + random_() % most; }

  void Refill() {
    for (size_t i = 0; i < clients_.size(); ++i) {
      Client& client = clients_[i];
      for (; client.waiting < client.jobs; ++client.waiting) {
        const uint64_t units = Pick(client.most_units) + (client.greedy ? piece_units_ : 0);
        jobs_[++next_] = {i, units};
        const uint64_t deadline = random_() % 3 != 0 ? UINT64_MAX : next_;
        ASSERT_TRUE(queue_.Push(JobOf(next_, i, units, client.urgency, deadline)));
      }
    }
  }

  std::mt19937_64 random_;
  std::vector<Client> clients_;
  const uint64_t piece_units_;
  FairQueue queue_;
  std::map<uint64_t, Known> jobs_;
  uint64_t next_ = 0;
  uint64_t step_ = 0;
};

TEST(FairQueueTest, NobodyStarvesInAnyMix) {
  for (uint64_t i = 0; i < 1000 && !HasFailure(); ++i) {
    SCOPED_TRACE("mix " + std::to_string(i));
    Mix mix(TestSeed() + i);
    const int steps = i % 50 == 0 ? 20000 : 1000;
    for (int step = 0; step < steps && !HasFailure(); ++step) mix.Step();
    mix.Check();
  }
}

}  // namespace
}  // namespace engram
