#include "storage/table/numpy_random.h"

#include <array>
#include <bit>

namespace engram {
namespace {

constexpr int kPoolWords = 4;
constexpr int kShift = 16;

// SeedSequence's mixing of one word, with a constant that moves on with every call.
class HashMix {
 public:
  HashMix(uint32_t start, uint32_t step) : constant_(start), step_(step) {}

  uint32_t operator()(uint32_t value) {
    value ^= constant_;
    constant_ *= step_;
    value *= constant_;
    return value ^ value >> kShift;
  }

 private:
  uint32_t constant_;
  const uint32_t step_;
};

uint32_t Mix(uint32_t x, uint32_t y) {
  const uint32_t mixed = 0xCA01F9DDu * x - 0x4973F715u * y;
  return mixed ^ mixed >> kShift;
}

// SeedSequence(seed).generate_state(4, uint64). A seed of 64 bits fills at most two of the pool's
// words, so there is no entropy left over to be mixed in afterwards.
std::array<uint64_t, kPoolWords> SeedWords(uint64_t seed) {
  std::array<uint32_t, kPoolWords> pool{};
  const std::array<uint32_t, kPoolWords> entropy = {static_cast<uint32_t>(seed),
                                                    static_cast<uint32_t>(seed >> 32)};
  HashMix in(0x43B0D7E5u, 0x931E8875u);
  for (int i = 0; i < kPoolWords; ++i) pool[i] = in(entropy[i]);
  for (int from = 0; from < kPoolWords; ++from) {
    for (int to = 0; to < kPoolWords; ++to) {
      if (from != to) pool[to] = Mix(pool[to], in(pool[from]));
    }
  }
  HashMix out(0x8B51F9DDu, 0x58F38DEDu);
  std::array<uint64_t, kPoolWords> words{};
  for (int i = 0; i < 2 * kPoolWords; ++i) {
    words[i / 2] |= static_cast<uint64_t>(out(pool[i % kPoolWords])) << (i % 2 * 32);
  }
  return words;
}

}  // namespace

NumpyRandom::NumpyRandom(uint64_t seed) {
  const std::array<uint64_t, kPoolWords> words = SeedWords(seed);
  const Uint128 start = static_cast<Uint128>(words[0]) << 64 | words[1];
  const Uint128 stream = static_cast<Uint128>(words[2]) << 64 | words[3];
  increment_ = stream << 1 | 1;
  Next64();
  state_ += start;
  Next64();
}

uint64_t NumpyRandom::Next64() {
  constexpr Uint128 kMultiplier =
      static_cast<Uint128>(0x2360ED051FC65DA4u) << 64 | 0x4385DF649FCCF645u;
  state_ = state_ * kMultiplier + increment_;
  const auto high = static_cast<uint64_t>(state_ >> 64);
  return std::rotr(high ^ static_cast<uint64_t>(state_), static_cast<int>(high >> 58));
}

uint32_t NumpyRandom::Next32() {
  if (has_half_) {
    has_half_ = false;
    return half_;
  }
  const uint64_t word = Next64();
  has_half_ = true;
  half_ = static_cast<uint32_t>(word >> 32);
  return static_cast<uint32_t>(word);
}

uint64_t NumpyRandom::Below(uint64_t bound) {
  if (bound == 1) return 0;  // numpy draws nothing
  if (bound == uint64_t{1} << 32) return Next32();
  if (bound < uint64_t{1} << 32) {
    const auto narrow = static_cast<uint32_t>(bound);
    const uint32_t threshold = -narrow % narrow;
    while (true) {
      const uint64_t product = static_cast<uint64_t>(Next32()) * narrow;
      if (static_cast<uint32_t>(product) >= threshold) return product >> 32;
    }
  }
  const uint64_t threshold = -bound % bound;
  while (true) {
    const Uint128 product = static_cast<Uint128>(Next64()) * bound;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

}  // namespace engram
