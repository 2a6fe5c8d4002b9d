#include "gpu_cache/device.h"

#include <gtest/gtest.h>

namespace engram::gpu_cache {
namespace {

TEST(DeviceTest, SaysWhyThereIsNoneOrDescribesIt) {
  const DeviceReport report = ProbeDevice();
  if (report.usable) {
    EXPECT_FALSE(report.name.empty());
    EXPECT_GT(report.total_bytes, 0u);
    EXPECT_LE(report.free_bytes, report.total_bytes);
    EXPECT_GE(report.compute_capability, 50);
  } else {
    EXPECT_FALSE(report.reason.empty());
    EXPECT_EQ(report.total_bytes, 0u);
  }
}

TEST(DeviceTest, GpuHoldsItsNameAcrossProbes) {
  const DeviceReport report = ProbeDevice();
  if (!report.usable) GTEST_SKIP() << report.reason;
  EXPECT_EQ(ProbeDevice().name, report.name);
}

}  // namespace
}  // namespace engram::gpu_cache
