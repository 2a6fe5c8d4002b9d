// The reader must see what was written, and take nothing that could not have been written.
#include "storage/profile/profile_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/test_seed.h"
#include "tests/unit/storage/profile/profile_testing.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

ProfileFile::Source From(const std::string& bytes) {
  return [&bytes](uint64_t offset, absl::Span<char> out) -> absl::StatusOr<size_t> {
    const size_t from = std::min<size_t>(offset, bytes.size());
    const size_t count = std::min(out.size(), bytes.size() - from);
    std::copy_n(bytes.data() + from, count, out.data());
    return count;
  };
}

// All of the file, put together again.
absl::StatusOr<RowProfile> ReadInPieces(const std::string& bytes) {
  const auto file = ProfileFile::Scan(From(bytes));
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
  for (const RowProfile& profile : {LargeProfile(), ExampleProfile(), SmallProfile()}) {
    const std::string bytes = Bytes(profile);
    EXPECT_EQ(HotSealer::Seal(bytes), bytes) << "the digests are not those of FORMAT.md";
    const auto read = ReadInPieces(bytes);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, profile);
  }
  RowProfile bare = SmallProfile();
  bare.token_map_digest.clear();
  bare.family.clear();
  bare.layers[0].head.clear();
  EXPECT_EQ(ReadInPieces(Bytes(bare)).value(), bare);
}

TEST(ProfileFileTest, AnyDamagedByteIsFound) {
  const std::string bytes = Bytes(SmallProfile());
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
// With good digests: what is read could have been written, and in no other bytes.
TEST(ProfileFileTest, ForgedBytesAreRefusedOrAreAWrittenProfile) {
  std::mt19937_64 random(TestSeed());
  const std::string good = Bytes(SmallProfile());
  int taken = 0;
  for (int round = 0; round < 40000; ++round) {
    std::string forged = good;
    for (uint64_t i = 0; i <= random() % 3; ++i) {
      char& byte = forged[12 + random() % (forged.size() - 12)];
      byte = static_cast<char>(random() % 4 == 0 ? random() : byte + random() % 3 - 1);
    }
    if (random() % 8 == 0) forged.resize(24 + random() % (forged.size() - 24));
    const std::string bytes = HotSealer::Seal(forged);
    const auto whole = RowProfile::Parse(bytes);
    const auto pieces = ReadInPieces(bytes);
    if (!whole.ok()) {
      // A kind or a table of the data directory is good by itself, but no profile.
      if (absl::IsFailedPrecondition(whole.status())) {
        ASSERT_THAT(std::string(whole.status().message()), HasSubstr("data directory"));
        ASSERT_FALSE(pieces.ok());
        continue;
      }
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

// Layers may not change places, be left out, or come from another file that begins alike.
TEST(ProfileFileTest, LayersStayWhereTheyAre) {
  const RowProfile profile = ExampleProfile();
  RowProfile other = profile;
  other.layers[0].head[0].id = RowId{13};
  const std::string bytes = Bytes(profile), others = Bytes(other);
  ASSERT_EQ(bytes.size(), others.size());
  const size_t first = kLayersAt, second = bytes.find(Number(14) + Number(1), first);
  const size_t end = bytes.size() - 32;
  ASSERT_NE(second, std::string::npos);
  const auto part = [](const std::string& of, size_t from, size_t to) {
    return of.substr(from, to - from);
  };
  const std::string header = bytes.substr(0, first);
  const std::string one = part(bytes, first, second), two = part(bytes, second, end);
  ASSERT_EQ(header + one + two + bytes.substr(end), bytes);
  const auto refused = [](const std::string& file) {
    return absl::IsDataLoss(ReadInPieces(file).status());
  };
  const std::string swapped = header + two + one + bytes.substr(end);
  EXPECT_TRUE(refused(swapped));
  EXPECT_TRUE(refused(HotSealer::Seal(swapped)));
  EXPECT_TRUE(refused(header + one + bytes.substr(end)));
  EXPECT_TRUE(refused(header + two + bytes.substr(end)));
  EXPECT_TRUE(refused(header + one + one + bytes.substr(end)));
  EXPECT_TRUE(refused(HotSealer::Seal(header + one + one + bytes.substr(end))));
  // Whole layers and their digests, behind the same header.
  ASSERT_EQ(others.substr(0, first), header);
  ASSERT_EQ(part(others, second, end), two);
  ASSERT_NE(part(others, first, second), one);
  EXPECT_TRUE(refused(header + part(others, first, second) + two + bytes.substr(end)));
  EXPECT_FALSE(refused(header + part(others, first, second) + two + others.substr(end)));
  // Behind another one they fit less.
  other = profile;
  ++other.tokens;
  EXPECT_TRUE(refused(Bytes(other).substr(0, first) + bytes.substr(first)));
}

TEST(ProfileFileTest, FilesOfTheDataDirectoryAreNoProfiles) {
  std::string bytes;
  const HotWriter::Sink sink = [&bytes](absl::string_view more) {
    bytes.append(more.data(), more.size());
    return absl::OkStatus();
  };
  const auto expect_refused = [&](HotKind kind, const std::string& table,
                                  const LayerProfile& outline) {
    bytes.clear();
    HotWriter writer({.kind = kind,
                      .layers = 1,
                      .fingerprint = std::string(32, 'a'),
                      .token_map_digest = {},
                      .family = {},
                      .table = table},
                     sink);
    ASSERT_TRUE(writer.BeginLayer(outline).ok());
    ASSERT_TRUE(writer.Finish().ok());
    const absl::Status status = ReadInPieces(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("file of table '" + table + "' from a daemon's data"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(HotKindName(kind)) + " file"));
  };
  expect_refused(HotKind::kProfile, "t", SmallProfile().layers[0]);
  LayerProfile live;
  live.rows = 30;
  expect_refused(HotKind::kLive, "t", live);
  expect_refused(HotKind::kLive, "", live);
}

TEST(ProfileFileTest, TooManyFrequenciesAreNeitherWrittenNorRead) {
  RowProfile profile = SmallProfile();
  LayerProfile& layer = profile.layers[0];
  layer.rows = 1u << 22;
  layer.columns = {{2, layer.rows - 9}, {3, 9}};
  layer.head.clear();
  layer.orders = {{2, {}}, {3, {{5, 1}}}};
  for (uint64_t count = kMaxClasses - 1; count >= 1; --count) {
    layer.orders[0].classes.push_back({count + 2, 1});
  }
  const std::string bytes = Bytes(profile);
  EXPECT_TRUE(RowProfile::Parse(bytes).ok()) << RowProfile::Parse(bytes).status();
  layer.orders[0].classes.push_back({1, 1});
  EXPECT_EQ(profile.Serialize().status().code(), absl::StatusCode::kInvalidArgument);
  // One class more than is written, and two: then the first order alone has too many.
  const size_t number_at = kLayersAt + 16 + 2 * 12;
  const size_t classes_end = number_at + 4 + 16 * (kMaxClasses - 1);
  for (const size_t more : {1, 2}) {
    const CountClass added[] = {{2, 1}, {1, 1}};
    std::string larger = bytes;
    larger.replace(number_at, 4, Number(static_cast<uint32_t>(kMaxClasses - 1 + more)));
    larger.insert(classes_end, reinterpret_cast<const char*>(added), sizeof(CountClass) * more);
    EXPECT_EQ(RowProfile::Parse(HotSealer::Seal(larger)).status().code(),
              absl::StatusCode::kFailedPrecondition);
    // Only a good digest says that there are more.
    EXPECT_EQ(RowProfile::Parse(larger).status().code(), absl::StatusCode::kDataLoss);
  }
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
  ASSERT_TRUE(LargeProfile().Write(path).ok());
  const auto file = ProfileFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->head_rows(1), LargeProfile().layers[1].head.size());
  // Cut off after it was opened.
  std::filesystem::resize_file(path, 1000);
  EXPECT_EQ(file->VisitHead(1, [](const HotRow&) { return absl::OkStatus(); }).code(),
            absl::StatusCode::kDataLoss);
  // Written over.
  RowProfile other = LargeProfile();
  other.layers[1].head[0].id = RowId{999997};
  std::ofstream(path, std::ios::binary | std::ios::trunc) << Bytes(other);
  EXPECT_EQ(file->VisitHead(1, [](const HotRow&) { return absl::OkStatus(); }).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_TRUE(file->VisitHead(0, [](const HotRow&) { return absl::OkStatus(); }).ok());
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace engram
