// Hotness is saved and read back, and nothing else is taken for it.
#include "storage/dram/hotness_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/test_seed.h"

namespace engram {
namespace {

using HotRows = std::vector<std::pair<uint32_t, uint32_t>>;

constexpr char kIdentity[] = "deepseek-v4.1 version 2 layer 14";
constexpr uint64_t kRows = uint64_t{1} << 31;
constexpr size_t kHeaderBytes = 16 + sizeof(kIdentity) - 1 + 32;

HotRows SomeRows(size_t count) {
  std::mt19937_64 random(TestSeed());
  HotRows rows;
  for (size_t i = 0; i < count; ++i) {
    rows.emplace_back(static_cast<uint32_t>(random() % kRows), 1 + random() % 255);
  }
  return rows;
}

std::string Save(const HotRows& rows) {
  std::string file;
  HotnessWriter writer(kIdentity, [&](absl::string_view bytes) {
    absl::StrAppend(&file, bytes);
    return absl::OkStatus();
  });
  for (const auto& [id, count] : rows) EXPECT_TRUE(writer.Add(id, count).ok());
  EXPECT_TRUE(writer.Finish().ok());
  return file;
}

absl::Status Read(const std::string& file, HotRows* rows = nullptr, uint64_t layer_rows = kRows,
                  absl::string_view identity = kIdentity) {
  size_t at = 0;
  const HotnessSource source = [&](absl::Span<char> out) -> absl::StatusOr<size_t> {
    const size_t bytes = std::min(out.size(), file.size() - at);
    std::copy_n(file.data() + at, bytes, out.data());
    at += bytes;
    return bytes;
  };
  return ReadHotness(identity, layer_rows, source, [&](uint32_t id, uint32_t count) {
    if (rows != nullptr) rows->emplace_back(id, count);
  });
}

std::string Number(uint32_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string Entry(uint32_t id, uint8_t count) { return Number(id) + static_cast<char>(count); }
// What comes after the header, each block with the digest that a writer would have given it.
std::string Forge(const std::vector<std::string>& blocks) {
  std::string file = Save({}).substr(0, kHeaderBytes);
  for (const std::string& block : blocks) {
    file += block;
    Digest digest;
    digest.Update(absl::string_view(file));
    file += digest.Hex();
  }
  return file;
}

TEST(HotnessFileTest, WhatIsSavedIsReadBack) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{kHotnessBlockRows} - 1,
                             size_t{kHotnessBlockRows}, size_t{3} * kHotnessBlockRows + 7}) {
    const HotRows rows = SomeRows(count);
    HotRows read;
    const absl::Status status = Read(Save(rows), &read);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(read, rows);
  }
}

TEST(HotnessFileTest, AForgedFileOfGoodRowsIsRead) {  // else the tests below would prove nothing
  HotRows read;
  EXPECT_TRUE(Read(Forge({Number(1) + Entry(5, 9), Number(0)}), &read).ok());
  EXPECT_EQ(read, (HotRows{{5, 9}}));
}

TEST(HotnessFileTest, AnyDamagedByteIsFound) {
  const HotRows rows = SomeRows(20);
  const std::string file = Save(rows);
  for (size_t at = 0; at < file.size(); ++at) {
    for (const int bit : {0, 7}) {
      std::string damaged = file;
      damaged[at] = static_cast<char>(damaged[at] ^ 1 << bit);
      HotRows read;
      const absl::Status status = Read(damaged, &read);
      EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsFailedPrecondition(status))
          << at << ": " << status;
      // Its one block is reported whole or not at all.
      if (!read.empty()) {
        EXPECT_EQ(read, rows) << at;
      }
    }
  }
}

TEST(HotnessFileTest, ATornFileIsRefused) {
  const std::string file = Save(SomeRows(20));
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    EXPECT_TRUE(absl::IsDataLoss(Read(file.substr(0, bytes)))) << bytes;
  }
  EXPECT_TRUE(absl::IsDataLoss(Read(file + "x")));
}

TEST(HotnessFileTest, BlocksMayNotChangePlaces) {
  const std::string file = Save(SomeRows(2 * size_t{kHotnessBlockRows}));
  const size_t block = 4 + 5 * size_t{kHotnessBlockRows} + 32;
  const std::string swapped =
      file.substr(0, kHeaderBytes) + file.substr(kHeaderBytes + block, block) +
      file.substr(kHeaderBytes, block) + file.substr(kHeaderBytes + 2 * block);
  ASSERT_EQ(swapped.size(), file.size());
  EXPECT_TRUE(absl::IsDataLoss(Read(swapped)));
  const std::string left_out =
      file.substr(0, kHeaderBytes + block) + file.substr(kHeaderBytes + 2 * block);
  EXPECT_TRUE(absl::IsDataLoss(Read(left_out)));
}

TEST(HotnessFileTest, AnotherLayersFileIsRefusedByName) {
  const absl::Status status = Read(Save({}), nullptr, kRows, "qwen layer 2");
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find(kIdentity), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("qwen layer 2"), absl::string_view::npos) << status;
}

TEST(HotnessFileTest, AnotherVersionIsRefusedByNumber) {
  std::string file = Save({});
  file[8] = 2;
  const absl::Status status = Read(file);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("version 2"), absl::string_view::npos) << status;
}

TEST(HotnessFileTest, RowsThatCannotBeAreRefused) {
  EXPECT_TRUE(absl::IsDataLoss(Read(Forge({Number(1) + Entry(100, 9), Number(0)}), nullptr, 100)));
  EXPECT_TRUE(absl::IsDataLoss(Read(Forge({Number(1) + Entry(5, 0), Number(0)}))));
}

TEST(HotnessFileTest, HostileLengthsTakeNoMemory) {
  std::string file = Save({});
  file.replace(12, 4, Number(UINT32_MAX));
  EXPECT_TRUE(absl::IsDataLoss(Read(file)));
  EXPECT_TRUE(absl::IsDataLoss(Read(Forge({Number(UINT32_MAX)}))));
  EXPECT_TRUE(absl::IsDataLoss(Read(Forge({Number(kHotnessBlockRows + 1)}))));
}

TEST(HotnessFileTest, ErrorsOfTheFileArePassedOn) {
  HotnessWriter writer(
      kIdentity, [](absl::string_view) { return absl::ResourceExhaustedError("drive full"); });
  EXPECT_TRUE(writer.Add(1, 1).ok());  // still in memory
  EXPECT_TRUE(absl::IsResourceExhausted(writer.Finish()));
  const HotnessSource broken = [](absl::Span<char>) -> absl::StatusOr<size_t> {
    return absl::UnavailableError("read error");
  };
  EXPECT_TRUE(
      absl::IsUnavailable(ReadHotness(kIdentity, kRows, broken, [](uint32_t, uint32_t) {})));
}

}  // namespace
}  // namespace engram
