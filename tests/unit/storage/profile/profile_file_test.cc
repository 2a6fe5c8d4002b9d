// The reader must see what was written, and take nothing that could not have been written.
#include "storage/profile/profile_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

uint64_t Seed() {
  const char* given = std::getenv("ENGRAM_TEST_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "ENGRAM_TEST_SEED=" << seed << std::endl;
  return seed;
}

// Two layers, of which the second has a head that is larger than the pieces that are read.
RowProfile Example() {
  RowProfile profile;
  profile.family = "deepseek-v4.1";
  profile.fingerprint = std::string(32, 'a');
  profile.token_map_digest = std::string(64, 'b');
  profile.tokens = 12;
  profile.sequences = 2;
  LayerProfile first;
  first.id = LayerId{1};
  first.rows = 30;
  first.columns = {{2, 10}, {2, 5}, {3, 15}};
  first.orders = {{2, {{7, 1}, {2, 2}, {1, 3}}}, {3, {{2, 1}, {1, 9}}}};
  first.head = {{RowId{14}, 7}, {RowId{3}, 2}, {RowId{9}, 2}, {RowId{20}, 2}, {RowId{0}, 1}};
  LayerProfile second;
  second.id = LayerId{14};
  second.rows = 1000000;
  second.columns = {{2, 999999}};
  second.orders = {{2, {{kMaxRowCount, 1}, {9, 100000}, {1, 600000}}}};
  second.head.push_back({RowId{999999}, static_cast<uint32_t>(kMaxRowCount)});
  for (uint32_t i = 0; i < 100000; ++i) second.head.push_back({RowId{i * 2}, 9});
  for (uint32_t i = 0; i < 400000; ++i) second.head.push_back({RowId{i * 2 + 1}, 1});
  profile.layers = {first, second};
  return profile;
}

// A small one, for tests that damage every byte.
RowProfile Small() {
  RowProfile profile = Example();
  profile.layers.pop_back();
  return profile;
}

std::string Bytes(const RowProfile& profile) {
  auto bytes = profile.Serialize();
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or("");
}

std::string Sealed(std::string body) {
  const uint64_t size = body.size() + 32;
  if (body.size() >= 24) std::memcpy(body.data() + 16, &size, sizeof size);
  Digest digest;
  digest.Update(body);
  return body + digest.Hex();
}

ProfileFile::Source From(const std::string& bytes) {
  return [&bytes](uint64_t offset, absl::Span<char> out) -> absl::StatusOr<size_t> {
    const size_t from = std::min<size_t>(offset, bytes.size());
    const size_t count = std::min(out.size(), bytes.size() - from);
    std::memcpy(out.data(), bytes.data() + from, count);
    return count;
  };
}

// All of the file, put together again.
absl::StatusOr<RowProfile> ReadInPieces(const std::string& bytes) {
  const auto file = ProfileFile::Scan(bytes.size(), From(bytes));
  if (!file.ok()) return file.status();
  RowProfile profile = file->outline();
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    EXPECT_TRUE(profile.layers[i].head.empty());
    const absl::Status status = file->VisitHead(i, [&](const HotRow& row) {
      profile.layers[i].head.push_back(row);
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    EXPECT_EQ(profile.layers[i].head.size(), file->head_rows(i));
  }
  return profile;
}

TEST(ProfileFileTest, SeesWhatTheWholeFileHas) {
  for (const RowProfile& profile : {Example(), Small()}) {
    const auto read = ReadInPieces(Bytes(profile));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, profile);
  }
  RowProfile bare = Small();
  bare.token_map_digest.clear();
  bare.family.clear();
  bare.layers[0].head.clear();
  EXPECT_EQ(ReadInPieces(Bytes(bare)).value(), bare);
}

TEST(ProfileFileTest, AnyDamagedByteIsFound) {
  const std::string bytes = Bytes(Small());
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    const auto code = ReadInPieces(damaged).status().code();
    // Bytes 8 to 11 say the format.
    EXPECT_EQ(code, at >= 8 && at < 12 ? absl::StatusCode::kFailedPrecondition
                                       : absl::StatusCode::kDataLoss)
        << "byte " << at;
  }
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(ReadInPieces(bytes.substr(0, size)).status().code(), absl::StatusCode::kDataLoss);
  }
}

// With good digests: what is read could have been written, and in no other bytes.
TEST(ProfileFileTest, ForgedBytesAreRefusedOrAreAWrittenProfile) {
  std::mt19937_64 random(Seed());
  const std::string body = Bytes(Small()).substr(0, Bytes(Small()).size() - 32);
  int taken = 0;
  for (int round = 0; round < 40000; ++round) {
    std::string forged = body;
    for (uint64_t i = 0; i <= random() % 3; ++i) {
      char& byte = forged[12 + random() % (forged.size() - 12)];
      byte = static_cast<char>(random() % 4 == 0 ? random() : byte + random() % 3 - 1);
    }
    if (random() % 8 == 0) forged.resize(24 + random() % (forged.size() - 24));
    const std::string bytes = Sealed(forged);
    const auto whole = RowProfile::Parse(bytes);
    const auto pieces = ReadInPieces(bytes);
    if (!whole.ok()) {
      ASSERT_EQ(whole.status().code(), absl::StatusCode::kDataLoss) << whole.status();
      // Whether a row stands twice is seen only by who holds the whole head.
      ASSERT_EQ(pieces.ok(), absl::StrContains(whole.status().message(), "twice"));
      // The rules that the writer keeps refuse it too.
      ASSERT_TRUE(!pieces.ok() || absl::IsInvalidArgument(pieces->Serialize().status()));
      continue;
    }
    ASSERT_TRUE(pieces.ok()) << pieces.status();
    ASSERT_EQ(*pieces, *whole);
    const auto again = whole->Serialize();
    ASSERT_TRUE(again.ok()) << again.status();
    ASSERT_EQ(*again, bytes);
    ++taken;
  }
  EXPECT_GT(taken, 100) << "else nothing was compared";
}

TEST(ProfileFileTest, TooManyFrequenciesAreNeitherWrittenNorRead) {
  RowProfile profile = Small();
  LayerProfile& layer = profile.layers[0];
  layer.rows = 1u << 22;
  layer.columns = {{2, layer.rows}};
  layer.head.clear();
  layer.orders = {{2, {}}};
  for (uint64_t count = kMaxClasses; count >= 1; --count) {
    layer.orders[0].classes.push_back({count + 1, 1});
  }
  const std::string bytes = Bytes(profile);
  EXPECT_TRUE(RowProfile::Parse(bytes).ok()) << RowProfile::Parse(bytes).status();
  layer.orders[0].classes.push_back({1, 1});
  EXPECT_EQ(profile.Serialize().status().code(), absl::StatusCode::kInvalidArgument);
  // One class more than is written.
  std::string body = bytes.substr(0, bytes.size() - 32);
  const uint32_t classes = kMaxClasses + 1;
  std::memcpy(body.data() + 153 + 24 + 12, &classes, sizeof classes);
  const CountClass more{1, 1};
  body.append(reinterpret_cast<const char*>(&more), sizeof more);
  EXPECT_EQ(RowProfile::Parse(Sealed(body)).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ProfileFileTest, ErrorsNameTheFile) {
  std::string folder = ::testing::TempDir() + "profile_file_XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/hot";
  const auto expect = [&](absl::StatusCode code, const std::string& text) {
    const absl::Status status = ProfileFile::Open(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect(absl::StatusCode::kNotFound, "No such file");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  expect(absl::StatusCode::kInvalidArgument, "no regular file");
  std::filesystem::remove(path);
  std::ofstream(path) << "something else";
  expect(absl::StatusCode::kDataLoss, "no profile");
  ASSERT_TRUE(Example().Write(path).ok());
  const auto file = ProfileFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->head_rows(1), Example().layers[1].head.size());
  // Cut off after it was opened.
  std::filesystem::resize_file(path, 300);
  EXPECT_EQ(file->VisitHead(1, [](const HotRow&) { return absl::OkStatus(); }).code(),
            absl::StatusCode::kDataLoss);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace engram
