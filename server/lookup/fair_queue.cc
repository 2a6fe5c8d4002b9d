#include "server/lookup/fair_queue.h"

#include <algorithm>
#include <tuple>

namespace engram {
namespace {

// Of one client's pieces, every so many is of its oldest job, so that what is small does not keep
// what is large waiting for ever.
constexpr uint64_t kOldestEvery = 8;

}  // namespace

bool FairQueue::HasRoom(ClientId client) const {
  if (counted_ >= limits_.jobs) return false;
  const auto found = counted_of_client_.find(client);
  return found == counted_of_client_.end() || found->second < limits_.jobs_of_client;
}

bool FairQueue::Push(const Job& job) {
  if (job.units == 0 || jobs_.contains(job.id)) return false;
  if (job.counts) {
    ++counted_;
    ++counted_of_client_[job.client];
  }
  jobs_.emplace(job.id, Waiting{.job = job, .arrival = arrivals_++});
  Class& its = classes_[Index(job.urgency)];
  // A class that had no work has earned nothing.
  if (its.units == 0) its.earned = 0;
  its.units += job.units;
  ++its.jobs;
  const auto [place, is_new] = its.clients.try_emplace(job.client);
  if (is_new) {
    place->second.deficit = limits_.piece_units;
    its.turns.push_back(job.client);
  }
  place->second.jobs.push_back(job.id);
  return true;
}

std::optional<size_t> FairQueue::ChooseClass(uint32_t allowed) const {
  std::optional<size_t> first;
  std::optional<size_t> owed;  // the one that has earned most
  for (size_t i = 0; i < kUrgencies; ++i) {
    if ((allowed >> i & 1) == 0 || classes_[i].units == 0) continue;
    if (!first.has_value()) {
      first = i;
    } else if (classes_[i].earned >= kRound * limits_.piece_units &&
               (!owed.has_value() || classes_[i].earned >= classes_[*owed].earned)) {
      // Of equals the least urgent: one whose pieces are small earns more than they cost, and would
      // go before all others for ever.
      owed = i;
    }
  }
  return owed.has_value() && !earned_last_ ? owed : first;
}

JobId FairQueue::ChooseJob(const Queue& queue) const {
  if (queue.pieces % kOldestEvery == kOldestEvery - 1) return queue.jobs.front();
  return *std::min_element(queue.jobs.begin(), queue.jobs.end(), [this](JobId a, JobId b) {
    const Waiting& x = jobs_.at(a);
    const Waiting& y = jobs_.at(b);
    return std::tuple(x.job.deadline, x.left(), x.arrival) <
           std::tuple(y.job.deadline, y.left(), y.arrival);
  });
}

std::optional<FairQueue::Piece> FairQueue::Next(uint32_t allowed) {
  const std::optional<size_t> chosen = ChooseClass(allowed);
  if (!chosen.has_value()) return std::nullopt;
  Class& its = classes_[*chosen];
  while (true) {
    const ClientId client = its.turns.front();
    Queue& queue = its.clients.at(client);
    const JobId id = ChooseJob(queue);
    Waiting& waiting = jobs_.at(id);
    const uint64_t units = std::min(waiting.left(), limits_.piece_units);
    if (queue.deficit < units) {
      // Its turn is over; it begins the next one with a piece more.
      queue.deficit += limits_.piece_units;
      its.turns.pop_front();
      its.turns.push_back(client);
      continue;
    }
    const Piece piece{
        .job = id, .first = waiting.done, .units = units, .last = units == waiting.left()};
    queue.deficit -= units;
    ++queue.pieces;
    waiting.done += units;
    its.units -= units;
    bool above = false;  // a more urgent class waits
    for (size_t i = 0; i < kUrgencies; ++i) {
      if (i == *chosen || classes_[i].units == 0) continue;
      if (i < *chosen && (allowed >> i & 1) != 0) above = true;
      classes_[i].earned =
          std::min(classes_[i].earned + units * kWeights[i], 2 * kRound * limits_.piece_units);
    }
    earned_last_ = above;
    its.earned -= std::min(its.earned, kRound * units);
    if (piece.last) Leave(its, client, id);
    return piece;
  }
}

void FairQueue::Leave(Class& of, ClientId client, JobId id) {
  Queue& queue = of.clients.at(client);
  std::erase(queue.jobs, id);
  --of.jobs;
  if (queue.jobs.empty()) {
    of.clients.erase(client);
    std::erase(of.turns, client);
  }
  const bool counts = jobs_.at(id).job.counts;
  jobs_.erase(id);
  if (!counts) return;
  --counted_;
  const auto count = counted_of_client_.find(client);
  if (--count->second == 0) counted_of_client_.erase(count);
}

bool FairQueue::Remove(JobId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return false;
  const Job job = found->second.job;
  Class& its = classes_[Index(job.urgency)];
  its.units -= found->second.left();
  Leave(its, job.client, id);
  return true;
}

}  // namespace engram
