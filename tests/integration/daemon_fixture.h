// A test with a daemon, a checkpoint and clients of its own.
#ifndef ENGRAM_TESTS_INTEGRATION_DAEMON_FIXTURE_H_
#define ENGRAM_TESTS_INTEGRATION_DAEMON_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "client/grpc/admin.h"
#include "tests/integration/test_checkpoint.h"
#include "tests/integration/test_daemon.h"
#include "tests/test_seed.h"

namespace engram::testing {

class DaemonFixture : public ::testing::Test {
 protected:
  void StartDaemon(std::vector<std::string> flags = {}) {
    daemon_ = std::make_unique<TestDaemon>(dir_.path(), std::move(flags));
    auto admin = AdminClient::Connect(daemon_->target());
    ASSERT_TRUE(admin.ok()) << admin.status();
    admin_ = *std::move(admin);
    client_ = NewClient();
  }

  void StopDaemon() {
    client_.reset();
    admin_.reset();
    daemon_.reset();
  }

  std::unique_ptr<Client> NewClient() {
    auto client = Client::Connect({.target = daemon_->target()});
    if (!client.ok()) throw std::runtime_error(client.status().ToString());
    return *std::move(client);
  }

  TestCheckpoint MakeCheckpoint(const std::string& name, uint64_t base_size, uint64_t salt) {
    return WriteCheckpoint(dir_.path() + "/" + name, base_size, salt);
  }

  absl::StatusOr<v1::LoadProgress> Load(const std::string& table, const std::string& directory,
                                        uint64_t version = 0) {
    v1::LoadRequest request;
    request.set_table(table);
    request.set_checkpoint(directory);
    request.set_version(version);
    return admin_->Load(request, nullptr);
  }

  // Looks up these rows of both layers in one call and compares every byte with the checkpoint.
  // Returns the answer, for its counts.
  absl::StatusOr<LookupAnswer> LookupAndCompare(Client& client, const std::string& table,
                                                const TestCheckpoint& checkpoint,
                                                const std::vector<uint32_t>& ids,
                                                uint64_t version = 0) {
    std::vector<std::byte> first(ids.size() * kRowBytes);
    std::vector<std::byte> second(ids.size() * kRowBytes);
    auto answer = client.Lookup(
        {.table = table,
         .version = version,
         .layers = {{14, ids, absl::MakeSpan(second), {}}, {1, ids, absl::MakeSpan(first), {}}}});
    if (answer.ok()) {
      ExpectRows(checkpoint, 1, ids, first);
      ExpectRows(checkpoint, 14, ids, second);
    }
    return answer;
  }

  static void ExpectRows(const TestCheckpoint& checkpoint, int layer,
                         const std::vector<uint32_t>& ids, const std::vector<std::byte>& rows) {
    ASSERT_EQ(rows.size(), ids.size() * kRowBytes);
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::vector<std::byte> expected = ids[i] == kDeadPosition
                                                  ? std::vector<std::byte>(kRowBytes)
                                                  : checkpoint.ExpectedRow(layer, ids[i]);
      ASSERT_EQ(std::memcmp(expected.data(), &rows[i * kRowBytes], kRowBytes), 0)
          << "layer " << layer << " row " << ids[i] << " at position " << i;
    }
  }

  static std::vector<uint32_t> RandomIds(std::mt19937_64& random, const TestCheckpoint& checkpoint,
                                         size_t count) {
    const uint64_t rows = std::min(checkpoint.rows[0], checkpoint.rows[1]);
    std::vector<uint32_t> ids(count);
    for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % rows);
    return ids;
  }

  TempDir dir_;
  std::unique_ptr<TestDaemon> daemon_;
  std::unique_ptr<AdminClient> admin_;
  std::unique_ptr<Client> client_;
};

}  // namespace engram::testing

#endif  // ENGRAM_TESTS_INTEGRATION_DAEMON_FIXTURE_H_
