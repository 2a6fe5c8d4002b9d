#include "server/rpc/in_flight.h"

#include <gtest/gtest.h>

#include <thread>

namespace engram {
namespace {

TEST(InFlightTest, WaitsForThoseInsideAndLetsNobodyNewIn) {
  InFlight calls;
  EXPECT_TRUE(calls.WaitUntilIdle(std::chrono::milliseconds(0)));
  InFlight::Token first = calls.Enter();
  InFlight::Token second = calls.Enter();
  ASSERT_NE(first, nullptr);
  EXPECT_FALSE(calls.WaitUntilIdle(std::chrono::milliseconds(1)));
  calls.Close();
  EXPECT_EQ(calls.Enter(), nullptr);
  first.reset();
  EXPECT_FALSE(calls.WaitUntilIdle(std::chrono::milliseconds(1)));
  std::thread leaver([&] { second.reset(); });
  EXPECT_TRUE(calls.WaitUntilIdle(std::chrono::minutes(1)));
  leaver.join();
}

}  // namespace
}  // namespace engram
