// Of cuda_test.cc, what can be said of a build without a CUDA compiler.
#include <gtest/gtest.h>

#include "gpu_cache/backend.h"

namespace engram::gpu_cache {
namespace {

TEST(CudaTest, ThisBuildSaysThatItHasNoCuda) {
  std::unique_ptr<Backend> backend;
  const Status status = OpenCuda(0, backend);
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("CUDA compiler"), std::string::npos) << status.message();
}

TEST(GpuTest, NeedsACudaBuild) { GTEST_SKIP() << "made without a CUDA compiler"; }

}  // namespace
}  // namespace engram::gpu_cache
