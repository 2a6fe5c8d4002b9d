#include "storage/table/ngram_hasher.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram {
namespace {

using testing::DeepseekV41;
using ::testing::ElementsAre;
using testing::EngramDemo;
using ::testing::HasSubstr;
using testing::LongCat2;
using testing::LongCatLite;
using testing::Model;
using testing::Qwen4Exp;

std::vector<Model> ReleasedModels() {
  return {DeepseekV41(), EngramDemo(), Qwen4Exp(), LongCatLite(), LongCat2()};
}

// The same families with sizes that the vectorised way does not take, or takes with a rest.
std::vector<Model> OddModels() {
  std::vector<Model> models = {DeepseekV41(1009), DeepseekV41(40'000, 1, 2), DeepseekV41(33'000, 3),
                               DeepseekV41(100'000'000, 11, 3), DeepseekV41(70'000, 16, 5)};
  models.push_back(testing::LongCat("small LongCat", 1000, 2.5, 4, 3));
  models.push_back(testing::LongCat("one column", 50'000, 78, 2, 1));
  // Sums past 2^53 cannot be computed in doubles.
  models.push_back(testing::LongCat("large LongCat", 2'000'000'000, 0.5, 3, 2));
  return models;
}

NgramHasher Hasher(const Model& model, size_t layer) {
  return NgramHasher::Create(model.addressing, model.layers[layer]).value();
}

using Ids = std::vector<int32_t>;
using Rows = std::vector<int64_t>;

Rows Signed(const std::vector<RowId>& ids) {
  Rows rows;
  for (const RowId id : ids) rows.push_back(id == RowId::kDeadPosition ? -1 : int64_t{Raw(id)});
  return rows;
}

// By both ways, which must agree.
Rows Hash(const NgramHasher& hasher, const TokenSpan& tokens) {
  std::vector<RowId> fast(tokens.positions() * hasher.columns());
  std::vector<RowId> plain(fast.size());
  hasher.Hash(tokens, absl::MakeSpan(fast));
  hasher.HashPlain(tokens, absl::MakeSpan(plain));
  EXPECT_EQ(Signed(fast), Signed(plain));
  return Signed(fast);
}

Rows At(const Model& model, size_t layer, const Ids& ids, size_t position,
        const std::vector<size_t>& columns, bool local = false) {
  const NgramHasher hasher = Hasher(model, layer);
  const Rows rows = Hash(hasher, {ids, 0});
  Rows result;
  for (const size_t column : columns) {
    int64_t row = rows[position * hasher.columns() + column];
    for (size_t i = 0; local && i < column; ++i) {
      row -= static_cast<int64_t>(model.layers[layer].columns[i].rows);
    }
    result.push_back(row);
  }
  return result;
}

TEST(NgramHasher, DeepseekV41Vectors) {
  const Model model = DeepseekV41();
  const Ids one = {5, 17, 99091, 1000};
  EXPECT_THAT(At(model, 0, one, 0, {0, 7, 8, 23}),
              ElementsAre(5412672, 127351390, 143494632, 372009279));
  EXPECT_THAT(At(model, 0, one, 3, {0, 7, 8, 23}),
              ElementsAre(13061917, 127301887, 139654678, 376806098));
  EXPECT_THAT(At(model, 1, one, 0, {0, 7, 8, 23}),
              ElementsAre(6939818, 119840903, 131576092, 382274687));
  EXPECT_THAT(At(model, 1, one, 3, {0, 7, 8, 23}),
              ElementsAre(6342040, 117947476, 139998107, 382003511));
  const Ids two = {5, 17, 1000, 42};
  const std::vector<size_t> columns = {0, 7, 8, 15, 16, 23};
  EXPECT_THAT(At(model, 0, two, 3, columns),
              ElementsAre(9001831, 118826057, 129539295, 246200002, 263608213, 374240704));
  EXPECT_THAT(At(model, 1, two, 3, columns),
              ElementsAre(11222432, 122131417, 129857349, 251727779, 268447127, 375436744));
}

TEST(NgramHasher, EngramDemoVectors) {
  const Model model = EngramDemo();
  const Ids ids = {5, 17, 1000, 42};
  const std::vector<size_t> columns = {0, 7, 8, 15};
  EXPECT_THAT(At(model, 0, ids, 0, columns), ElementsAre(228148, 4540891, 5544240, 10316796));
  EXPECT_THAT(At(model, 0, ids, 3, columns), ElementsAre(383941, 5017896, 5190681, 9920817));
  EXPECT_THAT(At(model, 1, ids, 0, columns), ElementsAre(371359, 4803460, 5515722, 10131034));
  EXPECT_THAT(At(model, 1, ids, 3, columns), ElementsAre(258250, 4899629, 5446557, 10007117));
}

TEST(NgramHasher, Qwen4ExpVectors) {
  const Model model = Qwen4Exp();
  const std::vector<size_t> columns = {0, 7, 8, 15};
  EXPECT_THAT(At(model, 0, {5, 17, 1000, 42}, 0, columns),
              ElementsAre(15389869, 155458159, 179763390, 315720898));
  EXPECT_THAT(At(model, 0, {5, 17, 1000, 42}, 3, columns),
              ElementsAre(15394486, 145979698, 170474119, 302622549));
  const Ids with_end = {5, 7, 248044, 9, 11};
  EXPECT_THAT(At(model, 0, with_end, 1, columns),
              ElementsAre(12441580, 156012011, 169119442, 314484167));
  EXPECT_THAT(At(model, 0, with_end, 3, columns),
              ElementsAre(18043673, 144330141, 176817901, 307951937));
}

TEST(NgramHasher, LongCatVectors) {
  const Model lite = LongCatLite();
  const std::vector<size_t> columns = {0, 7, 8, 11};
  EXPECT_THAT(At(lite, 0, {5, 17, 1000, 42}, 3, columns, /*local=*/true),
              ElementsAre(8388638, 7697821, 1790348, 8682297));
  EXPECT_THAT(At(lite, 0, {5, 2, 1000, 42}, 3, columns, /*local=*/true),
              ElementsAre(8388638, 8388470, 8388446, 8388374));
  const Model two = LongCat2();
  EXPECT_THAT(At(two, 0, {5, 17, 1000, 42}, 3, {0, 7, 8, 15}, /*local=*/true),
              ElementsAre(15547960, 11268282, 7380954, 7307818));
  // Position 0 sees no other token, whatever the column; position 1 sees one.
  for (size_t column = 0; column < 12; ++column) {
    EXPECT_THAT(At(lite, 0, {5, 17, 1000, 42}, 0, {column}, true), ElementsAre(5));
    const Rows second = At(lite, 0, {5, 17, 1000, 42}, 1, {column}, true);
    EXPECT_TRUE(second[0] == 655377 || second[0] == 655362) << column << ": " << second[0];
  }
}

// Random sequences with dead tokens and boundaries in them, and lengths around the n-gram size.
class Sequences {
 public:
  Sequences() {
    const char* given = std::getenv("ENGRAM_TEST_SEED");
    const uint64_t seed =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::cerr << "ENGRAM_TEST_SEED=" << seed << "\n";
    random_.seed(seed);
  }

  size_t Below(size_t bound) { return random_() % bound; }

  Ids Next(const AddressingSpec& addressing) {
    const size_t length = Below(3) == 0 ? Below(6) : Below(200);
    // Small vocabularies make boundaries and repeats frequent.
    const uint64_t range = Below(2) == 0 ? addressing.hashed_ids() : 4;
    Ids ids(length);
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random_() % range);
      if (Below(12) == 0) id = NgramHasher::kDeadPosition;
      if (Below(12) == 0 && addressing.boundary_id >= 0) {
        id = static_cast<int32_t>(addressing.boundary_id);
      }
      // The largest products.
      if (Below(12) == 0) id = static_cast<int32_t>(addressing.hashed_ids() - 1);
    }
    return ids;
  }

 private:
  std::mt19937_64 random_;
};

TEST(NgramHasher, TheFastWayIsThePlainWay) {
  Sequences sequences;
  std::vector<Model> models = ReleasedModels();
  for (Model& odd : OddModels()) models.push_back(std::move(odd));
  for (const Model& model : models) {
    for (size_t layer = 0; layer < model.layers.size(); ++layer) {
      const NgramHasher hasher = Hasher(model, layer);
      for (int round = 0; round < 300; ++round) {
        const Ids ids = sequences.Next(model.addressing);
        ASSERT_TRUE(hasher.Check(ids).ok());
        const Rows rows = Hash(hasher, {ids, sequences.Below(ids.size() + 1)});
        for (const int64_t row : rows) {
          ASSERT_LT(row, static_cast<int64_t>(model.layers[layer].rows)) << model.name;
        }
        ASSERT_FALSE(HasFailure()) << model.name;
      }
    }
  }
}

TEST(NgramHasher, TheReleasedModelsAreHashedTheFastWay) {
  for (const Model& model : ReleasedModels()) {
    for (size_t layer = 0; layer < model.layers.size(); ++layer) {
      EXPECT_TRUE(Hasher(model, layer).vectorized()) << model.name;
    }
  }
}

TEST(NgramHasher, KnowsWhereTheFastWayEnds) {
  const auto with_rows = [](uint64_t rows) {
    Model model = DeepseekV41(40'000, 1, 2);
    model.layers[0].columns[0].rows = rows;
    model.layers[0].rows = rows;
    return Hasher(model, 0).vectorized();
  };
  EXPECT_FALSE(with_rows(uint64_t{1} << 15));
  EXPECT_TRUE(with_rows((uint64_t{1} << 15) + 1));
  EXPECT_TRUE(with_rows((uint64_t{1} << 30) - 1));
  EXPECT_FALSE(with_rows(uint64_t{1} << 30));
  EXPECT_FALSE(Hasher(testing::LongCat("large", 2'000'000'000, 0.5, 3, 2), 0).vectorized());
}

TEST(NgramHasher, NothingIsWrittenPastTheOutput) {
  for (const Model& model : OddModels()) {
    const NgramHasher hasher = Hasher(model, 0);
    for (size_t length = 0; length < 5; ++length) {
      const Ids ids(length, 1);
      std::vector<RowId> out(length * hasher.columns() + 16, RowId{12345});
      hasher.Hash({ids, 0}, absl::MakeSpan(out).first(length * hasher.columns()));
      for (size_t i = length * hasher.columns(); i < out.size(); ++i) {
        ASSERT_EQ(out[i], RowId{12345}) << model.name << ", " << length << " tokens, " << i;
      }
    }
  }
}

TEST(NgramHasher, ChunksGiveTheRowsOfTheWhole) {
  Sequences sequences;
  for (const Model& model : ReleasedModels()) {
    const NgramHasher hasher = Hasher(model, 0);
    for (int round = 0; round < 20; ++round) {
      const Ids ids = sequences.Next(model.addressing);
      const Rows whole = Hash(hasher, {ids, 0});
      for (size_t split = 0; split <= ids.size(); ++split) {
        const size_t context = std::min(split, hasher.lookback());
        const auto all = absl::MakeConstSpan(ids);
        Rows rows = Hash(hasher, {all.first(split), 0});
        const Rows rest = Hash(hasher, {all.subspan(split - context), context});
        rows.insert(rows.end(), rest.begin(), rest.end());
        ASSERT_EQ(rows, whole) << model.name << ", split at " << split << " of " << ids.size();
      }
    }
  }
}

TEST(NgramHasher, DecodingTokenByTokenGivesTheRowsOfTheWhole) {
  Sequences sequences;
  for (const Model& model : ReleasedModels()) {
    const NgramHasher hasher = Hasher(model, 0);
    const Ids ids = sequences.Next(model.addressing);
    Rows rows;
    for (size_t i = 0; i < ids.size(); ++i) {
      const size_t context = std::min(i, hasher.lookback());
      const auto step = absl::MakeConstSpan(ids).subspan(i - context, context + 1);
      const Rows row = Hash(hasher, {step, context});
      rows.insert(rows.end(), row.begin(), row.end());
    }
    EXPECT_EQ(rows, Hash(hasher, {ids, 0})) << model.name;
  }
}

TEST(NgramHasher, MoreContextThanNeededChangesNothing) {
  const Model model = DeepseekV41();
  const NgramHasher hasher = Hasher(model, 0);
  const Ids ids = {9, 8, 7, 6, 5, 4, 3};
  EXPECT_EQ(Hash(hasher, {ids, 6}), Hash(hasher, {absl::MakeConstSpan(ids).last(4), 3}));
}

TEST(NgramHasher, ADeadTokenHasNoRowsAndHidesWhatIsBeforeIt) {
  for (const Model& model : ReleasedModels()) {
    const NgramHasher hasher = Hasher(model, 0);
    const size_t columns = hasher.columns();
    const Rows rows = Hash(hasher, {Ids{5, 6, NgramHasher::kDeadPosition, 7, 8}, 0});
    EXPECT_EQ(Rows(rows.begin() + 2 * columns, rows.begin() + 3 * columns), Rows(columns, -1));
    EXPECT_EQ(Rows(rows.begin() + 3 * columns, rows.end()), Hash(hasher, {Ids{7, 8}, 0}))
        << model.name;
  }
}

TEST(NgramHasher, OnlyFamiliesWithABoundaryStopAtIt) {
  const Model qwen = Qwen4Exp();
  const NgramHasher hasher = Hasher(qwen, 0);
  const Ids end = {248044};
  const Rows after = Hash(hasher, {Ids{5, 6, 248044, 7}, 3});
  EXPECT_EQ(after, Hash(hasher, {Ids{7}, 0}));
  // The boundary token itself sees its own sequence.
  EXPECT_NE(Hash(hasher, {Ids{5, 6, 248044}, 2}), Hash(hasher, {end, 0}));
  EXPECT_EQ(DeepseekV41().addressing.boundary_id, -1);
}

TEST(NgramHasher, BeforeTheStartStandsThePad) {
  const Model model = DeepseekV41();
  const NgramHasher hasher = Hasher(model, 0);
  EXPECT_EQ(Hash(hasher, {Ids{5}, 0}), Hash(hasher, {Ids{2, 2, 2, 5}, 3}));
}

TEST(NgramHasher, NamesAnIdOutOfRange) {
  const NgramHasher hasher = Hasher(DeepseekV41(), 0);
  EXPECT_TRUE(hasher.Check(Ids{-1, 0, 99091}).ok());
  const absl::Status high = hasher.Check(Ids{-1, 0, 99092});
  EXPECT_EQ(high.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(high.message(), HasSubstr("token id 99092 at position 2"));
  EXPECT_THAT(hasher.Check(Ids{-2}).message(), HasSubstr("token id -2 at position 0"));
  EXPECT_THAT(hasher.Check(Ids{INT32_MIN}).message(), HasSubstr("-2147483648"));
  EXPECT_FALSE(hasher.Check(Ids{INT32_MAX}).ok());
}

// Everything that a damaged or hostile description may hold.
TEST(NgramHasher, RefusesNumbersThatCannotBe) {
  const auto error = [](auto change) {
    Model model = DeepseekV41(1009);
    change(model.addressing, model.layers[0]);
    const auto hasher = NgramHasher::Create(model.addressing, model.layers[0]);
    EXPECT_EQ(hasher.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(hasher.status().message());
  };
  using A = AddressingSpec;
  using L = LayerSpec;
  EXPECT_THAT(error([](A& a, L&) { a.hash = HashKind::kNone; }), HasSubstr("no n-gram hash"));
  EXPECT_THAT(error([](A& a, L&) { a.compressed_vocab_size = 0; }), HasSubstr("0 token ids"));
  EXPECT_THAT(error([](A& a, L&) { a.pad_id = 99092; }), HasSubstr("pad id 99092"));
  EXPECT_THAT(error([](A& a, L&) { a.pad_id = -1; }), HasSubstr("pad id -1"));
  EXPECT_THAT(error([](A& a, L&) { a.boundary_id = 99092; }), HasSubstr("boundary id 99092"));
  EXPECT_THAT(error([](A& a, L&) { a.max_ngram_size = 1; }), HasSubstr("n-grams of up to 1"));
  EXPECT_THAT(error([](A& a, L&) { a.max_ngram_size = 17; }), HasSubstr("n-grams of up to 17"));
  EXPECT_THAT(error([](A& a, L&) { a.heads = 0; }), HasSubstr("0 heads"));
  EXPECT_THAT(error([](A&, L& l) { l.columns.pop_back(); }), HasSubstr("23 columns, not 24"));
  EXPECT_THAT(error([](A&, L& l) { l.columns[8].order = 2; }), HasSubstr("column 8"));
  EXPECT_THAT(error([](A&, L& l) { l.columns[3].rows = 0; }), HasSubstr("column 3 has 0 rows"));
  EXPECT_THAT(error([](A&, L& l) { l.columns[3].rows = ~0ull; }), HasSubstr("column 3"));
  EXPECT_THAT(error([](A&, L& l) { --l.rows; }), HasSubstr("columns of"));
  EXPECT_THAT(error([](A&, L& l) { l.multipliers.pop_back(); }), HasSubstr("3 multipliers, not 4"));
  EXPECT_THAT(error([](A&, L& l) { l.multipliers[0] = 0; }), HasSubstr("multiplier 0"));
  EXPECT_THAT(error([](A&, L& l) { l.multipliers[1] = INT64_MAX; }), HasSubstr("multiplier 9223"));
}

}  // namespace
}  // namespace engram
