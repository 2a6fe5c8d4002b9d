// The seed of randomised tests: $ENGRAM_TEST_SEED, or a new one for each process; printed at its
// first use, so that a failure can be had again.
#ifndef ENGRAM_TESTS_TEST_SEED_H_
#define ENGRAM_TESTS_TEST_SEED_H_

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>

namespace engram {

// The same at every call. Thread-safe.
inline uint64_t TestSeed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("ENGRAM_TEST_SEED");
    const uint64_t value =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::cout << "ENGRAM_TEST_SEED=" << value << std::endl;
    return value;
  }();
  return seed;
}

}  // namespace engram

#endif  // ENGRAM_TESTS_TEST_SEED_H_
