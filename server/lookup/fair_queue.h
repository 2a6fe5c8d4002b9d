// FairQueue: whose work goes next.
//
// Work is counted in units (cold rows, or warm ones of a large gather) and handed out in pieces of
// at most `piece_units`, so that what is urgent waits for at most one piece of what is not. The
// order of pieces:
//
// 1. Classes. The most urgent class that has work goes first, but a class that waits while others
//    are served earns kWeights units for each kRound units of theirs, and goes first once that
//    makes a piece (of several such the one that is owed most), but never twice in a row. So none
//    starves, and the most urgent waits for one piece.
// 2. Clients of a class in turn, a piece's units each (deficit round-robin: Shreedhar and Varghese,
//    "Efficient fair queueing using deficit round robin", SIGCOMM 1995). A client that has been
//    away brings no credit.
// 3. Of one client the work with the earliest deadline, then with the fewest units left; every
//    eighth piece its oldest.
//
// Pure: no clock, no threads, no locks; what happens depends on the calls alone. Not thread-safe.
#ifndef ENGRAM_SERVER_LOOKUP_FAIR_QUEUE_H_
#define ENGRAM_SERVER_LOOKUP_FAIR_QUEUE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>

namespace engram {

// What work is for, the most urgent first.
enum class Urgency : uint8_t { kDecode, kPrefill, kPrefetch, kBackground };
inline constexpr size_t kUrgencies = 4;

enum class ClientId : uint64_t {};
enum class JobId : uint64_t {};

class FairQueue {
 public:
  struct Limits {
    uint64_t piece_units = 64;  // ≥ 1
    size_t jobs = 1024;         // that wait and count, in sum
    size_t jobs_of_client = 256;
  };
  struct Job {
    JobId id{};  // unique among those that wait
    ClientId client{};
    Urgency urgency = Urgency::kDecode;
    uint64_t units = 0;              // ≥ 1
    uint64_t deadline = UINT64_MAX;  // in any unit that grows with time
    bool counts = true;              // towards the limits
  };
  struct Piece {
    JobId job{};
    uint64_t first = 0;  // unit of the job
    uint64_t units = 0;
    bool last = false;  // the job has left the queue
  };

  explicit FairQueue(Limits limits) : limits_(limits) {}
  FairQueue(const FairQueue&) = delete;
  FairQueue& operator=(const FairQueue&) = delete;

  // Whether neither the queue nor this client's part of it is full.
  bool HasRoom(ClientId client) const;
  // Whether there is room or not: what has begun is to be ended. False if it has no units, or a job
  // of that name waits.
  bool Push(const Job& job);
  // The next piece of a class in `allowed` (one bit a class); none if none of them has work.
  std::optional<Piece> Next(uint32_t allowed = ~0u);
  // Takes out what is left of a job. False if it is not there (any more).
  bool Remove(JobId id);

  bool empty() const { return jobs_.empty(); }
  size_t jobs() const { return jobs_.size(); }
  bool Has(Urgency urgency) const { return classes_[Index(urgency)].units > 0; }
  // That wait.
  uint64_t units(Urgency urgency) const { return classes_[Index(urgency)].units; }
  size_t jobs(Urgency urgency) const { return classes_[Index(urgency)].jobs; }

  // Units that a waiting class earns for each kRound units served to others.
  static constexpr uint64_t kRound = 16;
  static constexpr std::array<uint64_t, kUrgencies> kWeights = {16, 4, 1, 1};

 private:
  struct Waiting {
    Job job;
    uint64_t done = 0;
    uint64_t arrival = 0;
    uint64_t left() const { return job.units - done; }
  };
  // Of one client in one class.
  struct Queue {
    std::deque<JobId> jobs;  // in order of arrival
    uint64_t deficit = 0;
    uint64_t pieces = 0;
  };
  struct Class {
    std::unordered_map<ClientId, Queue> clients;
    std::deque<ClientId> turns;  // clients with work
    uint64_t units = 0;
    size_t jobs = 0;
    uint64_t earned = 0;  // kRound-ths of a unit
  };
  static size_t Index(Urgency urgency) { return static_cast<size_t>(urgency); }

  std::optional<size_t> ChooseClass(uint32_t allowed) const;
  JobId ChooseJob(const Queue& queue) const;
  void Leave(Class& of, ClientId client, JobId id);

  const Limits limits_;
  std::unordered_map<JobId, Waiting> jobs_;
  size_t counted_ = 0;
  std::unordered_map<ClientId, size_t> counted_of_client_;
  std::array<Class, kUrgencies> classes_;
  uint64_t arrivals_ = 0;
  bool earned_last_ = false;  // the last piece was not of the most urgent class
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_FAIR_QUEUE_H_
