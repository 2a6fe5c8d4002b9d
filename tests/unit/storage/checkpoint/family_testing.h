// What the tests of the families have in common: specs, errors, hashes and rows.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_CHECKPOINT_FAMILY_TESTING_H_
#define ENGRAM_TESTS_UNIT_STORAGE_CHECKPOINT_FAMILY_TESTING_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/checkpoint/family.h"
#include "storage/table/ngram_hasher.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram::testing_checkpoint {

inline constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

inline ModelConfig ParseConfig(const std::string& text) {
  auto config = ModelConfig::Parse("config.json", text);
  EXPECT_TRUE(config.ok()) << config.status() << "\n" << text;
  return *std::move(config);
}

// `text` with `from` replaced, which must be there.
inline std::string Replaced(const std::string& text, const std::string& from,
                            const std::string& to) {
  std::string edited = absl::StrReplaceAll(text, {{from, to}});
  EXPECT_NE(edited, text) << from;
  return edited;
}

inline void ExpectError(const absl::Status& status, absl::StatusCode code,
                        const std::vector<std::string>& texts) {
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& text : texts) EXPECT_THAT(status.message(), ::testing::HasSubstr(text));
}

// A change to a config, and what the error then says.
struct BadConfig {
  std::string from, to;
  std::vector<std::string> texts;
};

inline void ExpectBadConfigs(absl::StatusOr<TableSpec> (*spec)(const ModelConfig&),
                             const std::string& good, const std::vector<BadConfig>& cases) {
  EXPECT_TRUE(spec(ParseConfig(good)).ok());
  for (const BadConfig& item : cases) {
    SCOPED_TRACE(item.from + " -> " + item.to);
    const auto bad = spec(ParseConfig(Replaced(good, item.from, item.to)));
    ExpectError(bad.status(), absl::StatusCode::kInvalidArgument, item.texts);
    EXPECT_THAT(bad.status().message(), ::testing::HasSubstr("config.json"));
  }
}

// The rows of `columns` at one position of a sequence. Local ids are those within a column.
inline std::vector<int64_t> HashAt(const TableSpec& spec, int32_t layer,
                                   const std::vector<int32_t>& ids, size_t position,
                                   const std::vector<size_t>& columns, bool local = false) {
  const LayerSpec& found = *spec.FindLayer(LayerId{layer});
  const auto hasher = NgramHasher::Create(spec.addressing, found);
  EXPECT_TRUE(hasher.ok()) << hasher.status();
  EXPECT_TRUE(hasher->Check(ids).ok()) << hasher->Check(ids);
  std::vector<RowId> rows(ids.size() * hasher->columns());
  hasher->Hash({ids, 0}, absl::MakeSpan(rows));
  std::vector<int64_t> result;
  for (const size_t column : columns) {
    int64_t row = Raw(rows[position * hasher->columns() + column]);
    for (size_t i = 0; local && i < column; ++i) row -= found.columns[i].rows;
    result.push_back(row);
  }
  return result;
}

inline std::string ReadLayer(const RowSource& source, int32_t layer, uint64_t first,
                             uint64_t count) {
  const LayerSpec* const found = source.spec().FindLayer(LayerId{layer});
  if (found == nullptr) {
    ADD_FAILURE() << "no layer " << layer;
    return "";
  }
  std::string out(count * found->row_bytes, '!');
  const absl::Status status = source.ReadRows(
      LayerId{layer}, first, count, {reinterpret_cast<std::byte*>(out.data()), out.size()});
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

// Reads the whole layer: at once, and row by row.
inline void ExpectLayer(const RowSource& source, int32_t layer, const std::string& expected) {
  const LayerSpec* const found = source.spec().FindLayer(LayerId{layer});
  ASSERT_NE(found, nullptr);
  ASSERT_EQ(found->bytes(), expected.size());
  EXPECT_TRUE(ReadLayer(source, layer, 0, found->rows) == expected);
  for (uint64_t row = 0; row < found->rows; ++row) {
    ASSERT_TRUE(ReadLayer(source, layer, row, 1) ==
                expected.substr(row * found->row_bytes, found->row_bytes))
        << "row " << row;
  }
}

// I64 values as a tensor holds them.
inline TestTensor Int64Tensor(const std::string& name, const std::vector<int64_t>& values) {
  std::string bytes(values.size() * sizeof(int64_t), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return {name, "I64", {values.size()}, bytes};
}

}  // namespace engram::testing_checkpoint

#endif  // ENGRAM_TESTS_UNIT_STORAGE_CHECKPOINT_FAMILY_TESTING_H_
