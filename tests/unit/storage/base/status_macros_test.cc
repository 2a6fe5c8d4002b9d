#include "storage/base/status_macros.h"

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace engram {
namespace {

absl::StatusOr<std::unique_ptr<int>> Make(bool good) {
  if (!good) return absl::NotFoundError("nothing to make");
  return std::make_unique<int>(7);
}

absl::StatusOr<int> Sum(bool first, bool second, int* evaluated) {
  ENGRAM_ASSIGN_OR_RETURN(const auto a, Make(first));
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<int> b, (++*evaluated, Make(second)));
  return *a + *b;
}

absl::Status Check(absl::Status status, bool* reached) {
  ENGRAM_RETURN_IF_ERROR(std::move(status));
  *reached = true;
  return absl::OkStatus();
}

TEST(StatusMacros, AssignOrReturnMovesValuesAndReturnsErrors) {
  int evaluated = 0;
  EXPECT_EQ(*Sum(true, true, &evaluated), 14);
  EXPECT_EQ(evaluated, 1);
  EXPECT_EQ(Sum(false, true, &evaluated).status(), absl::NotFoundError("nothing to make"));
  EXPECT_EQ(evaluated, 1);
  EXPECT_EQ(Sum(true, false, &evaluated).status(), absl::NotFoundError("nothing to make"));
  EXPECT_EQ(evaluated, 2);
}

TEST(StatusMacros, ReturnIfErrorReturnsOnlyErrors) {
  bool reached = false;
  EXPECT_EQ(Check(absl::DataLossError("x"), &reached), absl::DataLossError("x"));
  EXPECT_FALSE(reached);
  EXPECT_TRUE(Check(absl::OkStatus(), &reached).ok());
  EXPECT_TRUE(reached);
}

}  // namespace
}  // namespace engram
