#include "tests/bench/cache_models.h"

#include <algorithm>
#include <vector>

#include "storage/dram/layout.h"
#include "storage/dram/reader.h"
#include "tests/bench/zipf_law.h"

namespace engram::bench {
namespace {

using dram::kWays;

uint32_t SetOf(uint32_t row_id, uint32_t sets) {
  return dram::SetOf(dram::HashRowId(row_id), sets);
}

// Row by row: whether it is held, then, if not, the offer.
class Policy : public CacheModel {
 public:
  absl::StatusOr<uint64_t> Access(absl::Span<const uint32_t> row_ids) final {
    uint64_t held = 0;
    for (const uint32_t id : row_ids) {
      if (Lookup(id)) {
        ++held;
      } else {
        Offer(id);
      }
    }
    return held;
  }

 private:
  virtual bool Lookup(uint32_t row_id) = 0;
  virtual void Offer(uint32_t row_id) = 0;
};

class DramModel final : public Policy {
 public:
  DramModel(uint32_t sets, dram::Admission admission, uint32_t sampled)
      : sampled_(sampled), hotness_(sets, admission), tags_(sets), states_(sets), lines_(sets) {}

  bool Lookup(uint32_t row_id) override {
    const uint32_t set = SetOf(row_id, static_cast<uint32_t>(tags_.size()));
    const int way = dram::MatchWay(tags_[set], dram::TagOf(row_id));
    if (way < 0) return false;
    states_[set] |= uint64_t{1} << way;
    if (sampled_ == 1 || random_() % sampled_ == 0) {
      hotness_.Touch(lines_[set], tags_[set], row_id, sampled_);
    }
    return true;
  }

  void Offer(uint32_t row_id) override {
    const uint32_t set = SetOf(row_id, static_cast<uint32_t>(tags_.size()));
    const dram::Decision decision = hotness_.Decide(lines_[set], tags_[set], states_[set], row_id);
    states_[set] = (states_[set] & ~decision.clear) | decision.set;
    if (decision.way >= 0) tags_[set].tags[decision.way] = dram::TagOf(row_id);
  }

  uint64_t TimesForgotten() const override { return hotness_.times_forgotten(); }
  bool ByRecency() const override { return hotness_.policy() == dram::Policy::kRecency; }

 private:
  const uint32_t sampled_;
  TraceRandom random_{20261127};
  dram::Hotness hotness_;
  std::vector<dram::TagLine> tags_;
  std::vector<uint64_t> states_;
  std::vector<dram::HotLine> lines_;
};

// A list through an array; slot 0 is its two ends.
class LruModel final : public Policy {
 public:
  LruModel(uint32_t rows, uint32_t ids) : slots_(rows + 1), slot_of_(ids) {}

  bool Lookup(uint32_t row_id) override {
    const uint32_t slot = slot_of_[row_id];
    if (slot == 0) return false;
    Unlink(slot);
    LinkFirst(slot);
    return true;
  }

  void Offer(uint32_t row_id) override {
    uint32_t slot = used_ + 1;
    if (slot < slots_.size()) {
      ++used_;
    } else {
      slot = slots_[0].before;
      Unlink(slot);
      slot_of_[slots_[slot].row_id] = 0;
    }
    slots_[slot].row_id = row_id;
    slot_of_[row_id] = slot;
    LinkFirst(slot);
  }

 private:
  struct Slot {
    uint32_t row_id = 0;
    uint32_t before = 0;
    uint32_t after = 0;
  };
  void Unlink(uint32_t slot) {
    slots_[slots_[slot].before].after = slots_[slot].after;
    slots_[slots_[slot].after].before = slots_[slot].before;
  }
  void LinkFirst(uint32_t slot) {
    slots_[slot].before = 0;
    slots_[slot].after = slots_[0].after;
    slots_[slots_[0].after].before = slot;
    slots_[0].after = slot;
  }

  std::vector<Slot> slots_;
  std::vector<uint32_t> slot_of_;
  uint32_t used_ = 0;
};

// Tags of a set, the most recently used first.
class SetLruModel final : public Policy {
 public:
  explicit SetLruModel(uint32_t sets) : sets_(sets), tags_(uint64_t{sets} * kWays) {}

  bool Lookup(uint32_t row_id) override {
    uint32_t* set = Set(row_id);
    uint32_t* found = std::find(set, set + kWays, dram::TagOf(row_id));
    if (found == set + kWays) return false;
    std::rotate(set, found, found + 1);
    return true;
  }
  void Offer(uint32_t row_id) override {
    uint32_t* set = Set(row_id);
    std::copy_backward(set, set + kWays - 1, set + kWays);
    *set = dram::TagOf(row_id);
  }

 private:
  uint32_t* Set(uint32_t row_id) { return &tags_[uint64_t{SetOf(row_id, sets_)} * kWays]; }

  const uint32_t sets_;
  std::vector<uint32_t> tags_;
};

class PerfectCountsModel final : public Policy {
 public:
  PerfectCountsModel(uint32_t sets, uint32_t ids)
      : sets_(sets), tags_(uint64_t{sets} * kWays), counts_(ids) {}

  bool Lookup(uint32_t row_id) override {
    ++counts_[row_id];
    const uint32_t* set = Set(row_id);
    return std::find(set, set + kWays, dram::TagOf(row_id)) != set + kWays;
  }
  void Offer(uint32_t row_id) override {
    uint32_t* set = Set(row_id);
    uint32_t* weakest = std::min_element(
        set, set + kWays, [this](uint32_t a, uint32_t b) { return CountOf(a) < CountOf(b); });
    if (CountOf(*weakest) <= counts_[row_id]) *weakest = dram::TagOf(row_id);
  }

 private:
  uint32_t* Set(uint32_t row_id) { return &tags_[uint64_t{SetOf(row_id, sets_)} * kWays]; }
  uint32_t CountOf(uint32_t tag) const {
    return tag == dram::kEmptyTag ? 0 : counts_[dram::TagOf(tag)];  // a tag's tag is the id
  }

  const uint32_t sets_;
  std::vector<uint32_t> tags_;
  std::vector<uint32_t> counts_;
};

}  // namespace

std::unique_ptr<CacheModel> MakeDramModel(uint32_t sets, dram::Admission admission,
                                          uint32_t sampled) {
  return std::make_unique<DramModel>(sets, admission, sampled);
}
std::unique_ptr<CacheModel> MakeLruModel(uint32_t rows, uint32_t ids) {
  return std::make_unique<LruModel>(rows, ids);
}
std::unique_ptr<CacheModel> MakeSetLruModel(uint32_t sets) {
  return std::make_unique<SetLruModel>(sets);
}
std::unique_ptr<CacheModel> MakePerfectCountsModel(uint32_t sets, uint32_t ids) {
  return std::make_unique<PerfectCountsModel>(sets, ids);
}

}  // namespace engram::bench
