#include "client/grpc/admin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "tests/unit/client/fake_daemon.h"

namespace engram {
namespace {

using testing::FakeDaemon;
using ::testing::HasSubstr;

class AdminTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto admin = AdminClient::Connect(daemon_.target());
    ASSERT_TRUE(admin.ok()) << admin.status();
    admin_ = *std::move(admin);
  }

  static v1::LoadRequest LoadOf(const std::string& table) {
    v1::LoadRequest request;
    request.set_table(table);
    return request;
  }

  FakeDaemon daemon_;
  std::unique_ptr<AdminClient> admin_;
};

TEST_F(AdminTest, LoadTellsItsProgressAndGivesTheLastMessage) {
  std::vector<uint64_t> rows;
  const auto result = admin_->Load(
      LoadOf("t"), [&](const v1::LoadProgress& progress) { rows.push_back(progress.rows_done()); });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(rows, ::testing::ElementsAre(150, 300));
  EXPECT_TRUE(result->done());
  EXPECT_EQ(result->table().version(), 3u);
}

TEST_F(AdminTest, ALoadThatEndsWithoutDoneIsNoSuccess) {
  EXPECT_TRUE(absl::IsInternal(admin_->Load(LoadOf("undone"), nullptr).status()));
  EXPECT_EQ(admin_->Load(LoadOf("refused"), nullptr).status(),
            absl::InvalidArgumentError("no\nsuch thing"));
}

TEST_F(AdminTest, CancelEndsALoadOnBothSides) {
  std::atomic<bool> cancel{false};
  std::thread canceller([&] {
    daemon_.WaitForHang();
    cancel = true;
  });
  EXPECT_TRUE(absl::IsCancelled(admin_->Load(LoadOf("hang"), nullptr, &cancel).status()));
  canceller.join();
  daemon_.WaitForCancelled();
}

TEST_F(AdminTest, VerifyGivesTheLastMessage) {
  v1::VerifyRequest request;
  request.set_table("bad");
  const auto result = admin_->Verify(request, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->bad_rows(), 2u);
}

TEST_F(AdminTest, ListsActivatesDropsAndCounts) {
  const auto list = admin_->List();
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->tables(0).name(), "t");
  v1::ActivateRequest activate;
  activate.set_version(3);
  EXPECT_TRUE(admin_->Activate(activate).ok());
  activate.set_version(4);
  EXPECT_EQ(admin_->Activate(activate), absl::NotFoundError("no version 4"));
  const auto drop = admin_->DropTable(v1::DropTableRequest());
  ASSERT_TRUE(drop.ok());
  EXPECT_EQ(drop->versions_size(), 2);
  v1::DropVersionRequest one;
  one.set_version(3);
  EXPECT_TRUE(admin_->DropVersion(one).ok());
  EXPECT_EQ(daemon_.LastDropVersion().version(), 3u);
  const auto stats = admin_->Stats();
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->daemon_version(), "9.9");
}

TEST(AdminNotServedTest, SaysWhereAdminCallsAreServed) {
  const FakeDaemon daemon(FakeDaemon::Admin::kNotServed);
  const auto admin = AdminClient::Connect(daemon.target());
  ASSERT_TRUE(admin.ok()) << admin.status();
  const absl::Status status = (*admin)->List().status();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("admin_tcp: true"));
}

}  // namespace
}  // namespace engram
