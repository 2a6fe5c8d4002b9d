// Clients that read DRAM while the daemon writes to it, switches versions and gives memory back: in
// one process, so that ThreadSanitizer sees both sides.
#include "server/local/handover_server.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <iterator>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

#include "storage/base/unique_fd.h"
#include "storage/dram/attached.h"
#include "storage/dram/control.h"
#include "storage/dram/handover.h"
#include "tests/sanitizer.h"
#include "tests/test_seed.h"
#include "tests/unit/server/local/handover_fixture.h"

namespace engram {
namespace {

class HandoverServerTest : public HandoverFixture {
 protected:
  // Gathers 64 rows and compares those that DRAM held. `used` counts them; false, with nothing
  // compared, when the memory was given back meanwhile.
  static bool GatherAndCompare(AttachedLayer& layer, AttachLink& link, uint64_t generation,
                               uint64_t version, uint32_t phase, std::mt19937_64& random,
                               std::atomic<uint64_t>& used) {
    std::vector<uint32_t> ids(64);
    for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % 3000);
    std::vector<std::byte> rows(ids.size() * kRowBytes);
    std::vector<uint32_t> missing(ids.size());
    const auto result = layer.Gather(ids, absl::MakeSpan(rows), absl::MakeSpan(missing), phase);
    if (!link.Holds(generation)) return false;
    std::vector<std::byte> expected(kRowBytes);
    size_t next = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (next < result.missing && missing[next] == i) {
        ++next;
        continue;
      }
      DeriveRow(14, ids[i], version, absl::MakeSpan(expected));
      EXPECT_EQ(std::memcmp(expected.data(), &rows[i * kRowBytes], kRowBytes), 0)
          << "row " << ids[i] << " of version " << version;
      ++used;
    }
    return true;
  }
};

TEST_F(HandoverServerTest, AClientReadsWhatWasLookedUpAndTheDaemonHears) {
  Load("t", 1, kRows);
  Serve(uint64_t{64} << 20);
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 1000; ++i) ids.push_back(i * 7);
  LookUp(ids);
  auto link = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(link.ok()) << link.status();
  const uint64_t generation = segments_->generation();
  EXPECT_TRUE((*link)->Holds(generation));
  EXPECT_FALSE((*link)->Holds(generation - 1));
  const auto table = *tables_->Find("t", kActiveVersion);
  auto layer = AttachedLayer::Map(*link, *Describe(*table, 14));
  ASSERT_TRUE(layer.ok()) << layer.status();
  ids.push_back(3);  // not looked up
  ids.push_back(dram::kDeadPosition);
  ids.push_back(static_cast<uint32_t>(kRows + 7));  // no such row
  std::vector<std::byte> rows(ids.size() * kRowBytes, std::byte{0xEE});
  std::vector<uint32_t> missing(ids.size());
  const uint64_t before = table->FindLayer(LayerId{14})->Snapshot()[1].hits;
  const auto result =
      (*layer)->Gather(ids, absl::MakeSpan(rows), absl::MakeSpan(missing), /*phase=*/0);
  ASSERT_EQ(result.missing, 2u);
  EXPECT_EQ(missing[0], 1000u);
  EXPECT_EQ(missing[1], 1002u);
  EXPECT_EQ(result.hits, 1000u);
  std::vector<std::byte> expected(kRowBytes);
  for (size_t i = 0; i < 1000; ++i) {
    DeriveRow(14, ids[i], 1, absl::MakeSpan(expected));
    ASSERT_EQ(std::memcmp(expected.data(), &rows[i * kRowBytes], kRowBytes), 0) << ids[i];
  }
  EXPECT_EQ(std::count(&rows[1001 * kRowBytes], &rows[1002 * kRowBytes], std::byte{0}), kRowBytes);
  (*layer)->CountCall();
  server_->ReadTelemetry();
  EXPECT_EQ(table->FindLayer(LayerId{14})->Snapshot()[1].hits, before + 1000);
  EXPECT_EQ(table->probe->lookups.load(), 2u);
}

TEST_F(HandoverServerTest, RefusesAnotherInstanceAndOtherLayouts) {
  Load("t", 1, 100);
  Serve(uint64_t{1} << 20);
  EXPECT_EQ(AttachLink::Connect(Path(), instance_ + 1).status().message(),
            "shared memory: another daemon answers there");
  EXPECT_EQ(AttachLink::Connect(Path() + "x", instance_).status().code(),
            absl::StatusCode::kUnavailable);
  auto link = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(link.ok()) << link.status();
  const AttachedShape good = *Describe(**tables_->Find("t", kActiveVersion), 14);
  ASSERT_TRUE(AttachedLayer::Map(*link, good).ok());
  const auto refused = [&](auto change) {
    AttachedShape bad = good;
    change(bad);
    return AttachedLayer::Map(*link, bad).status();
  };
  using S = AttachedShape;
  EXPECT_FALSE(refused([](S& s) { s.table_digest = "another"; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.layer = 1; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.shape.row_bytes = 8; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.shape.layer_rows += 1; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.shape.mode = dram::Mode::kCache; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.shape.per_segment = 0; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.shape.per_segment *= 2; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.shape.page_bytes = 0; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.segment_ids.clear(); }).ok());
  EXPECT_FALSE(refused([](S& s) { s.segment_ids[0] = 1000000; }).ok());
  EXPECT_FALSE(refused([](S& s) { s.bucket_segments.assign(dram::kBuckets, 9); }).ok());
}

// Each segment of a resident layer is as large as the next, and only its index tells them apart.
TEST_F(HandoverServerTest, RefusesSegmentsInAnotherOrder) {
  Load("t", 1, kRows);
  Serve(uint64_t{64} << 20);
  auto link = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(link.ok()) << link.status();
  const AttachedShape good = *Describe(**tables_->Find("t", kActiveVersion), 14);
  ASSERT_EQ(good.shape.mode, dram::Mode::kResident);
  ASSERT_GE(good.shape.segments, 3u);
  ASSERT_TRUE(AttachedLayer::Map(*link, good).ok());
  AttachedShape swapped = good;
  std::swap(swapped.segment_ids[0], swapped.segment_ids[1]);
  EXPECT_EQ(AttachedLayer::Map(*link, swapped).status().code(),
            absl::StatusCode::kFailedPrecondition);
  AttachedShape twice = good;
  twice.segment_ids[1] = twice.segment_ids[0];
  EXPECT_EQ(AttachedLayer::Map(*link, twice).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(HandoverServerTest, KeepsPlacesForOtherUsersAndFreesThoseOfTheDead) {
  Load("t", 1, 100);
  Serve(uint64_t{1} << 20, /*max_clients=*/8, /*max_per_user=*/3);
  std::vector<std::shared_ptr<AttachLink>> links;
  for (int i = 0; i < 3; ++i) {
    auto link = AttachLink::Connect(Path(), instance_);
    ASSERT_TRUE(link.ok()) << link.status();
    links.push_back(*std::move(link));
  }
  EXPECT_EQ(AttachLink::Connect(Path(), instance_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_->clients(), 3u);
  links.clear();
  while (server_->clients() > 0) std::this_thread::yield();
  EXPECT_TRUE(AttachLink::Connect(Path(), instance_).ok());
}

TEST_F(HandoverServerTest, RingsLieWithinTheDramBudget) {
  Load("t", 1, 100'000);
  constexpr uint64_t kBudget = uint64_t{4} << 20;
  Serve(kBudget);
  std::vector<std::shared_ptr<AttachLink>> links;
  for (absl::StatusOr<std::shared_ptr<AttachLink>> link = AttachLink::Connect(Path(), instance_);
       link.ok(); link = AttachLink::Connect(Path(), instance_)) {
    links.push_back(*std::move(link));
    ASSERT_LE(links.size(), 100u);
  }
  // One user has half of the places.
  const size_t places = dram::BytesForRings(kBudget) / dram::kRingBytes;
  EXPECT_EQ(links.size(), places / 2);
  EXPECT_GT(tables_->DramBytes(), kBudget / 2);
  EXPECT_LE(tables_->DramBytes() + places * dram::kRingBytes, kBudget);
  // With a quarter of the budget some go, and those that are left fit.
  tables_->SetDramBudget(kBudget / 4);
  const size_t fewer = dram::BytesForRings(kBudget / 4) / dram::kRingBytes;
  ASSERT_LT(fewer, links.size());
  while (server_->clients() > fewer) std::this_thread::yield();
  EXPECT_LE(tables_->DramBytes() + fewer * dram::kRingBytes, kBudget / 4);
  size_t ended = 0;
  while (ended < links.size() - fewer) {
    ended = static_cast<size_t>(
        std::count_if(links.begin(), links.end(), [](const auto& link) { return link->ended(); }));
  }
  EXPECT_EQ(server_->clients(), fewer);
  EXPECT_EQ(ended, links.size() - fewer);
}

TEST_F(HandoverServerTest, GivesAsManySegmentsAtOnceAsItSaysAndNoMore) {
  Load("t", 1, 100);
  Serve(uint64_t{64} << 20);
  const std::vector<uint64_t> ids = Describe(**tables_->Find("t", kActiveVersion), 1)->segment_ids;
  const UniqueFd client(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, Path().c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  dram::HandoverRequest request;
  request.layout_version = dram::kLayoutVersion;
  dram::HandoverReply reply;
  ASSERT_EQ(::send(client.get(), &request, sizeof(request), 0), sizeof(request));
  ASSERT_EQ(::recv(client.get(), &reply, sizeof(reply), 0), sizeof(reply));
  request.kind = dram::HandoverKind::kSegments;
  std::fill(std::begin(request.ids), std::end(request.ids), ids[0]);
  // Descriptors that a plain recv does not ask for are closed by the kernel.
  request.count = dram::kSegmentsAtOnce;
  ASSERT_EQ(::send(client.get(), &request, sizeof(request), 0), sizeof(request));
  ASSERT_EQ(::recv(client.get(), &reply, sizeof(reply), 0), sizeof(reply));
  EXPECT_EQ(reply.status, dram::HandoverStatus::kOk);
  EXPECT_EQ(reply.count, dram::kSegmentsAtOnce);
  request.count = dram::kSegmentsAtOnce + 1;
  ASSERT_EQ(::send(client.get(), &request, sizeof(request), 0), sizeof(request));
  EXPECT_EQ(::recv(client.get(), &reply, sizeof(reply), 0), 0) << "an answer";
}

// At its first unread answer: the send buffer would hold a few more.
TEST_F(HandoverServerTest, AClientThatDoesNotReadItsAnswersIsCutOff) {
  Load("t", 1, 100);
  Serve(uint64_t{64} << 20);
  const std::vector<uint64_t> ids = Describe(**tables_->Find("t", kActiveVersion), 1)->segment_ids;
  const UniqueFd client(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, Path().c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  dram::HandoverRequest request;
  request.layout_version = dram::kLayoutVersion;
  ASSERT_EQ(::send(client.get(), &request, sizeof(request), 0), sizeof(request));
  dram::HandoverReply reply;
  ASSERT_EQ(::recv(client.get(), &reply, sizeof(reply), MSG_PEEK), sizeof(reply));
  EXPECT_EQ(server_->clients(), 1u);
  request.kind = dram::HandoverKind::kSegments;
  request.count = 1;
  request.ids[0] = ids[0];
  ASSERT_EQ(::send(client.get(), &request, sizeof(request), 0), sizeof(request));
  // The server has one thread: once a later client has its answer, this request is handled.
  auto later = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_EQ(server_->clients(), 1u);
  ASSERT_EQ(::recv(client.get(), &reply, sizeof(reply), 0), sizeof(reply));
  EXPECT_EQ(reply.kind, dram::HandoverKind::kHello);
  EXPECT_EQ(::recv(client.get(), &reply, sizeof(reply), MSG_DONTWAIT), 0) << "a second answer";
}

TEST_F(HandoverServerTest, WaitsForADescriptorAndDoesNotSpin) {
  if (kAddressSanitizer) {
    GTEST_SKIP() << "the sanitizer itself looks at objects through a pipe, and calls them bad if "
                    "it can make none";
  }
  Serve(uint64_t{64} << 20);
  const UniqueFd client(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, Path().c_str(), sizeof(address.sun_path) - 1);
  ::testing::internal::CaptureStderr();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int next = ::dup(0);  // the lowest that is free
  ASSERT_GE(next, 0);
  ::close(next);
  rlimit none_left = before;
  none_left.rlim_cur = static_cast<rlim_t>(next);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none_left), 0);
  const auto begin = std::chrono::steady_clock::now();
  const int connected =
      ::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(server_->clients(), 0u);
  const auto elapsed = std::chrono::steady_clock::now() - begin;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_EQ(connected, 0);
  for (int i = 0; i < 3000 && server_->clients() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(server_->clients(), 1u);
  EXPECT_TRUE(AttachLink::Connect(Path(), instance_).ok());
  const std::string log = ::testing::internal::GetCapturedStderr();
  int tries = 0;
  for (size_t at = log.find("Too many open files"); at != std::string::npos;
       at = log.find("Too many open files", at + 1)) {
    ++tries;
  }
  EXPECT_GE(tries, 1) << log;
  EXPECT_LE(tries, 2 + elapsed / std::chrono::seconds(1));
}

TEST_F(HandoverServerTest, ItsEndIsNoticed) {
  Load("t", 1, 100);
  Serve(uint64_t{1} << 20);
  auto link = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(link.ok()) << link.status();
  const uint64_t generation = segments_->generation();
  EXPECT_TRUE((*link)->Holds(generation));
  server_.reset();
  while (!(*link)->ended()) std::this_thread::yield();
  EXPECT_FALSE((*link)->Holds(generation));
}

// Of a complete resident layer a client checks nothing but the generation: without its advance
// the client takes the zeros of memory given back for rows.
TEST_F(HandoverServerTest, TheGenerationAdvancesBeforeMemoryIsGivenBack) {
  constexpr uint32_t kAll = 500;
  Load("t", 1, kAll);
  Load("t", 2, kAll);
  std::vector<uint32_t> ids(kAll);
  std::iota(ids.begin(), ids.end(), 0u);
  std::vector<std::byte> rows(ids.size() * kRowBytes);
  std::vector<uint32_t> missing(ids.size());
  std::function<void()> check;
  await_clients_ = [&] { check(); };
  Serve(uint64_t{64} << 20);
  auto link = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(link.ok()) << link.status();
  const std::vector<std::function<void()>> ways = {
      [&] { ASSERT_TRUE(tables_->Activate("t", VersionId{2}).ok()); },
      [&] { tables_->GiveUpDram(); }};
  for (uint64_t version = 1; version <= ways.size(); ++version) {
    SCOPED_TRACE(version);
    LookUp(ids);
    auto layer = AttachedLayer::Map(*link, *Describe(**tables_->Find("t", kActiveVersion), 1));
    ASSERT_TRUE(layer.ok()) << layer.status();
    ASSERT_TRUE((*layer)->Complete());
    const uint64_t generation = segments_->generation();
    const auto gather = [&] {
      EXPECT_EQ(
          (*layer)->Gather(ids, absl::MakeSpan(rows), absl::MakeSpan(missing), /*phase=*/0).missing,
          0u);
    };
    int checks = 0;
    check = [&] {
      ++checks;
      gather();
      std::vector<std::byte> expected(kRowBytes);
      for (const uint32_t id : ids) {
        DeriveRow(1, id, version, absl::MakeSpan(expected));
        ASSERT_EQ(std::memcmp(expected.data(), &rows[id * kRowBytes], kRowBytes), 0) << id;
      }
      EXPECT_FALSE((*link)->Holds(generation)) << "memory is about to go";
    };
    gather();
    EXPECT_TRUE((*link)->Holds(generation));
    ways[version - 1]();
    EXPECT_EQ(checks, 1);
    gather();
    EXPECT_EQ(rows, std::vector<std::byte>(rows.size())) << "it is given back";
    EXPECT_FALSE((*link)->Holds(generation));
  }
}

TEST_F(HandoverServerTest, NoClientSeesAWrongRowWhileEverythingChanges) {
  Load("t", 1, kRows);
  Load("t", 2, kRows);
  Serve(uint64_t{2} << 20);
  const uint64_t seed = TestSeed();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> used{0};
  std::atomic<uint64_t> discarded{0};
  const auto client = [&](uint64_t salt) {
    std::mt19937_64 random(seed + salt);
    auto link = AttachLink::Connect(Path(), instance_);
    ASSERT_TRUE(link.ok()) << link.status();
    while (!stop && !HasFailure()) {
      const uint64_t generation = segments_->generation();
      const auto table = *tables_->Find("t", kActiveVersion);
      const uint64_t version = Raw(table->spec().version);
      const auto shape = Describe(*table, 14);
      if (!shape.has_value()) continue;
      auto layer = AttachedLayer::Map(*link, *shape);
      for (uint32_t batch = 0; layer.ok() && batch < 50 && (*link)->Holds(generation); ++batch) {
        if (GatherAndCompare(**layer, **link, generation, version, batch, random, used)) continue;
        ++discarded;
        break;
      }
    }
  };
  std::vector<std::thread> threads;
  threads.emplace_back(client, 1);
  threads.emplace_back(client, 2);
  threads.emplace_back([&] {
    std::mt19937_64 random(seed + 3);
    while (!stop) {
      std::vector<uint32_t> ids(50);
      for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % 3000);
      LookUp(ids);
    }
  });
  // Until clients have read a lot over a number of switches; bounded for a fault that stops them.
  for (int round = 0; round < 400 && (round < 40 || used < 200000); ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ASSERT_TRUE(tables_->Activate("t", VersionId{1u + round % 2}).ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(used, 1000u);
  std::cout << used << " rows used, " << discarded << " batches discarded" << std::endl;
}

TEST_F(HandoverServerTest, MemoryIsWritableForNobodyUnlessTheOperatorSaysSo) {
  Load("t", 1, kRows);
  Serve(uint64_t{64} << 20);
  const auto table = *tables_->Find("t", kActiveVersion);
  const std::vector<uint64_t> ids = Describe(*table, 1)->segment_ids;
  {
    auto link = AttachLink::Connect(Path(), instance_);
    ASSERT_TRUE(link.ok()) << link.status();
    const auto refused = (*link)->WritableSegments(ids);
    EXPECT_FALSE(refused.ok());
    EXPECT_THAT(refused.status().message(), ::testing::HasSubstr("gpu-writable"));
    EXPECT_EQ(server_->writing_clients(), 0u);
    EXPECT_TRUE((*link)->Segments(ids, false).ok()) << "and goes on";
  }
  server_.reset();
  Serve(uint64_t{64} << 20, 1024, 256, /*writable_dram=*/true);
  const auto again = *tables_->Find("t", kActiveVersion);
  std::vector<uint64_t> with_page = Describe(*again, 1)->segment_ids;
  with_page.push_back(dram::kControlPageId);
  auto link = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(link.ok()) << link.status();
  const auto segments = (*link)->WritableSegments(with_page);
  ASSERT_TRUE(segments.ok()) << segments.status();
  EXPECT_EQ(server_->writing_clients(), 1u);
  // Both are the daemon's own memory.
  const auto* page = reinterpret_cast<const dram::ControlPage*>(segments->back()->data());
  EXPECT_EQ(page->generation, segments_->generation());
  std::byte* const last = segments->front()->data() + segments->front()->bytes() - 1;
  *last = std::byte{0x5A};
  const auto cache = again->FindLayer(LayerId{1})->SharedDram();
  const auto& own = *cache->segments().front();
  EXPECT_EQ(own.data()[own.bytes() - 1], std::byte{0x5A});
  EXPECT_FALSE((*link)->WritableSegments({uint64_t{999999}}).ok());
}

TEST_F(HandoverServerTest, WithoutAnHbmTierThereIsNoArena) {
  Load("t", 1, 100);
  Serve(uint64_t{64} << 20);
  auto link = AttachLink::Connect(Path(), instance_);
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ((*link)->ArenaFile().status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace engram
