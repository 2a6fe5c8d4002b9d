#include "storage/checkpoint/tokenizer.h"

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_checkpoint::TempDir;

constexpr char kByteLevel[] =
    R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true})";

// Writes a tokenizer.json. Tokens are JSON text without the quotes.
struct Writer {
  std::vector<std::string> tokens;                      // ids 0, 1, …
  std::vector<std::pair<int, std::string>> added = {};  // id, content
  std::string decoder = kByteLevel;                     // "": no such key

  std::string Text() const {
    std::vector<std::string> vocab, entries;
    for (size_t id = 0; id < tokens.size(); ++id) {
      vocab.push_back(absl::StrCat("\"", tokens[id], "\":", id));
    }
    for (const auto& [id, content] : added) {
      entries.push_back(absl::StrCat(R"({"id":)", id, R"(,"content":")", content,
                                     R"(","special":true,"normalized":false})"));
    }
    return absl::StrCat(R"({"version":"1.0","added_tokens":[)", absl::StrJoin(entries, ","), "],",
                        decoder.empty() ? "" : absl::StrCat("\"decoder\":", decoder, ","),
                        R"("model":{"type":"BPE","vocab":{)", absl::StrJoin(vocab, ","),
                        R"(},"merges":[]}})");
  }
};

std::vector<int32_t> MapOf(const Writer& writer) {
  const auto map = ParseTokenizer("t.json", writer.Text());
  EXPECT_TRUE(map.ok()) << map.status() << "\n" << writer.Text();
  if (!map.ok()) return {};
  return {map->compressed().begin(), map->compressed().end()};
}

void ExpectRefused(const std::string& text, const std::vector<std::string>& said,
                   absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const absl::Status status = ParseTokenizer("t.json", text).status();
  EXPECT_EQ(status.code(), code) << status << "\n" << text.substr(0, 500);
  EXPECT_THAT(status.message(), HasSubstr("t.json"));
  for (const std::string& part : said) EXPECT_THAT(status.message(), HasSubstr(part));
}

std::string Repeat(const std::string& text, int times) {
  return absl::StrJoin(std::vector<std::string>(times, text), "");
}

using Keys = std::vector<std::pair<std::string, std::string>>;

void ExpectKeys(const Keys& keys) {
  for (const auto& [text, key] : keys) EXPECT_EQ(NormalizeToken(text), key) << "of " << text;
}

TEST(NormalizeToken, Decomposes) {
  ExpectKeys({
      {"\ufb01\u2460\uff21", "fi1a"},    // NFKC: fi ligature, circled 1, full-width A
      {"\ud55c", "\u1112\u1161\u11ab"},  // NFD takes a Hangul syllable apart
      {"\u00e9", "e"},                   // and a letter with its accent, which goes
      {"e\u0301\u0323", "e"},            //
      {"\u0915\u093f", "\u0915"},        // category Mc
      {"a\u20dd", "a"},                  // Me
      {"\u0301a", "a"},                  //
      {"\u02c6", "\u02c6"},              // a modifier letter is no mark
  });
}

TEST(NormalizeToken, LowersCodePointByCodePoint) {
  ExpectKeys({
      {"ABC\u00c9\u0416", "abce\u0436"},
      {"\u0391\u03a3", "\u03b1\u03c3"},  // no final sigma
      {"\u0130", "i"},                   // its dot has gone as a mark
      {"\u0131", "\u0131"},
      {"\u1e9e", "\u00df"},
      {"\U00010400", "\U00010428"},
  });
}

TEST(NormalizeToken, JoinsBlanksAndStripsWhiteSpace) {
  ExpectKeys({
      {"a \t\r\n b", "a b"},
      {"a\nb\tc", "a b c"},
      {" a ", "a"},
      {"a \u0301 b", "a b"},  // one run, once the mark between has gone
      {"\u2003a\u2028", "a"},
      {"\u0085\u000b\u000ca\u001c", "a\u001c"},  // U+001C is no white space to Unicode
      {"a\u200b", "a\u200b"},                    // nor is U+200B
      {"\u3000\u4e2d\u3000", "\u4e2d"},
      {"a\u2028b", "a\u2028b"},
  });
}

TEST(NormalizeToken, KeepsATextOfExactlyOneSpace) {
  ExpectKeys({
      {" ", " "},
      {"   ", " "},
      {"\t\r\n", " "},
      {"\u00a0", " "},
      {" \u0301", " "},
      {"\ue000", " "},
      {"a\ue000b\ue000", "a b "},  // not stripped: it becomes a space only afterwards
      {"\ue000 ", " "},
  });
}

TEST(NormalizeToken, IsTheTextItselfIfNothingIsLeft) {
  ExpectKeys({
      {"", ""},
      {"\u0301", "\u0301"},
      {"\u2028", "\u2028"},
      {" \u2028", " \u2028"},
      {"\u0085\u0301", "\u0085\u0301"},
  });
}

// As the library's tables have it; ICU knows all of these as something else.
TEST(NormalizeToken, IsOfUnicode9) {
  ExpectKeys({
      {"a\u0afa", "a\u0afa"},          // Mn since 10.0
      {"a\u1df9\u0301", "a\u1df9"},    // ccc 220 since 10.0
      {"\U0001f16c", "\U0001f16c"},    // decomposes since 12.0
      {"\u32ff", "\u32ff"},            // decomposes since 12.1
      {"\u32fe", "\u30f2"},            // always did
      {"\U00011938", "\U00011938"},    // decomposes since 13.0
      {"a\u1cf2\u1cf3", "a"},          // was Mc until 12.0
      {"a\U000111c9", "a\U000111c9"},  // became Mn with 11.0
  });
}

TEST(NormalizeToken, ReplacesWhatIsNotUtf8) {
  ExpectKeys({{"\xff", "\ufffd"}, {"A\xc3", "a\ufffd"}});
}

TEST(ParseTokenizer, CountsUpInOrderOfFirstAppearance) {
  EXPECT_THAT(MapOf({{"b", "a", "B", "c", "A"}}), ElementsAre(0, 1, 0, 2, 1));
}

TEST(ParseTokenizer, MapsCharactersToBytes) {
  // Ġ, Ċ, ĉ: space, line feed, tab. Ã©: the two bytes of é.
  EXPECT_THAT(MapOf({{"\u0120the", "The", "\u0120THE", "\u010a", "\u0120", "\u0109", "\u00c3\u00a9",
                      "e", "\u0143"}}),
              ElementsAre(0, 0, 0, 1, 1, 1, 2, 2, 3));
  // Every byte, each a token: ASCII meets by case and white space, the other half stays apart.
  Writer writer;
  for (int c = 0; c < 0x144; ++c) {
    const bool printable = (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad);
    if (printable || c >= 0x100)
      writer.tokens.push_back(absl::StrCat("\\u", absl::Hex(c, absl::kZeroPad4)));
  }
  ASSERT_EQ(writer.tokens.size(), 256u);
  const auto map = ParseTokenizer("t.json", writer.Text());
  ASSERT_TRUE(map.ok()) << map.status();
  // 26 small letters, and TAB, CR, LF and the space in one; VT and FF stay themselves.
  EXPECT_EQ(map->compressed_size(), 256u - 26 - 3);
}

TEST(ParseTokenizer, KeepsTheStringOfWhatIsNotUtf8) {
  // Lone bytes C0 and E0, which as letters would be one.
  EXPECT_THAT(MapOf({{"\u00c0", "\u00e0", "a"}}), ElementsAre(0, 1, 2));
  // Overlong, surrogate, over U+10FFFF, cut short: with a capital letter and a small one each.
  for (const std::string bytes : {"\u00c0\u0122", "\u00ed\u0142\u0122", "\u00f4\u0132\u0122\u0122",
                                  "\u00e4\u00b8", "\u00bf"}) {
    EXPECT_THAT(MapOf({{"A" + bytes, "a" + bytes}}), ElementsAre(0, 1)) << bytes;
  }
  // Well-formed U+FFFD counts as broken.
  EXPECT_THAT(MapOf({{"A\u00ef\u00bf\u00bd", "a\u00ef\u00bf\u00bd", "A\ufffd", "a\ufffd"}}),
              ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(MapOf({{"A\ufffd", "a\ufffd", "A", "a"}, {}, ""}), ElementsAre(0, 1, 2, 2));
}

TEST(ParseTokenizer, StringsAndTextsShareTheirKeys) {
  // The lone byte DF, whose string is ß; then C3 9F, which is the text ß.
  EXPECT_THAT(MapOf({{"\u00df", "a", "\u00c3\u0141"}}), ElementsAre(0, 1, 0));
}

TEST(ParseTokenizer, TakesATokenOutsideTheAlphabetAsItIs) {
  EXPECT_THAT(MapOf({{"<\uff5ca\uff5c>", "<|A|>"}}), ElementsAre(0, 0));
  // 中 as itself and as its bytes; Ġ beside it is the letter G with a dot.
  EXPECT_THAT(MapOf({{"\u4e2d", "\u00e4\u00b8\u0143", "\u0120\u4e2d", "g\u4e2d", "\u0144"}}),
              ElementsAre(0, 0, 1, 1, 2));
  EXPECT_THAT(MapOf({{"a\\u0000", "A\\u0000", "a"}}), ElementsAre(0, 0, 1));
}

TEST(ParseTokenizer, KnowsNoDecoderAndSequences) {
  const std::vector<std::string> tokens = {"\u0120a", "a", "GA"};
  for (const std::string decoder : {"", "null", R"({"type":"Sequence","decoders":[]})"}) {
    EXPECT_THAT(MapOf({tokens, {}, decoder}), ElementsAre(0, 1, 0)) << decoder;
  }
  const std::string sequence = absl::StrCat(R"({"type":"Sequence","decoders":[)", kByteLevel, "]}");
  EXPECT_THAT(MapOf({tokens, {}, sequence}), ElementsAre(0, 0, 1));
}

TEST(ParseTokenizer, NamesTheDecoderThatItDoesNotKnow) {
  const auto refuse = [](const std::string& decoder, const std::vector<std::string>& said) {
    ExpectRefused(Writer{{"a"}, {}, decoder}.Text(), said);
  };
  refuse(R"({"type":"Metaspace"})", {"decoder.type is 'Metaspace'", "ByteLevel"});
  refuse(R"({"type":"Sequence","decoders":[{"type":"Fuse"}]})",
         {"decoder.decoders[0].type is 'Fuse'"});
  refuse(R"({"type":"Sequence","decoders":[{"type":"ByteLevel"},{"type":"Fuse"}]})", {"2 steps"});
  refuse(R"({"type":"Sequence","decoders":[{"type":"Sequence","decoders":[]}]})", {"'Sequence'"});
  refuse(R"({"type":"Sequence"})", {"decoder.decoders must be a list, not null"});
  refuse(R"({"type":"Sequence","decoders":[7]})", {"decoder.decoders[0] must be an object, not 7"});
  refuse(R"({"type":5})", {"decoder.type must be a string, not 5"});
  refuse("{}", {"decoder.type", "not null"});
  refuse(R"("ByteLevel")", {"decoder must be an object, not a string"});
}

TEST(ParseTokenizer, AddedTokensFollowTheVocabulary) {
  EXPECT_THAT(MapOf({{"a", "b"}, {{2, "<S>"}, {3, "B"}}}), ElementsAre(0, 1, 2, 1));
  // Known to the vocabulary, in any order; said twice.
  EXPECT_THAT(MapOf({{"a", "b"}, {{1, "b"}, {0, "a"}, {2, "c"}, {2, "c"}, {0, "a"}}}),
              ElementsAre(0, 1, 2));
  EXPECT_THAT(MapOf({{}, {{0, "x"}, {1, "y"}}}), ElementsAre(0, 1));
  // They go through the decoder, too.
  EXPECT_THAT(MapOf({{"a"}, {{1, "\u0120a"}}}), ElementsAre(0, 0));
}

TEST(ParseTokenizer, RefusesAddedTokensThatTheLibraryNumbersOtherwise) {
  const auto refuse = [](std::vector<std::pair<int, std::string>> added,
                         const std::vector<std::string>& said) {
    ExpectRefused(Writer{{"a", "b"}, std::move(added)}.Text(), said);
  };
  refuse({{3, "c"}},
         {"added_tokens[0] gives 'c' the id 3", "has the id 2, the first that is free"});
  refuse({{2, "c"}, {4, "d"}}, {"added_tokens[1] gives 'd' the id 4", "the id 3"});
  refuse({{3, "c"}, {2, "d"}}, {"added_tokens[0] gives 'c' the id 3"});
  refuse({{1, "c"}}, {"gives 'c' the id 1", "the id 2"});
  refuse({{0, "b"}}, {"gives 'b' the id 0", "the id 1 already"});
  refuse({{2, "c"}, {3, "c"}}, {"added_tokens[1] gives 'c' the id 3", "the id 2 already"});
  refuse({{2, ""}}, {"added_tokens[0].content is empty"});
  refuse({{-1, "c"}}, {"added_tokens[0].id must be a whole number", "not -1"});
}

TEST(ParseTokenizer, RefusesWrongAddedTokens) {
  const auto refuse = [](const std::string& added, const std::string& said) {
    ExpectRefused(R"({"model":{"vocab":{"a":0}},"added_tokens":)" + added + "}", {said});
  };
  refuse("{}", "added_tokens must be a list, not an object");
  refuse("[[]]", "added_tokens[0] must be an object, not an array");
  refuse(R"([{"id":1}])", "added_tokens[0].content must be a string, not null");
  refuse(R"([{"id":1,"content":1}])", "added_tokens[0].content must be a string, not 1");
  refuse(R"([{"content":"x"}])", "added_tokens[0].id must be a whole number");
  refuse(R"([{"content":"x","id":"1"}])", "not a string");
}

TEST(ParseTokenizer, RefusesWrongVocabularies) {
  const auto refuse = [](const std::string& vocab, const std::vector<std::string>& said) {
    ExpectRefused(R"({"model":{"vocab":)" + vocab + "}}", said);
  };
  refuse(R"({"a":0,"b":2})", {"model.vocab has 2 tokens but none with id 1"});
  refuse(R"({"a":1})", {"none with id 0"});
  refuse(R"({"a":0,"b":3,"c":1,"d":4})", {"none with id 2"});
  refuse(R"({"a":0,"b":0})", {"id 0 to both 'a' and 'b'"});
  refuse(R"({"a":-1})", {"model.vocab['a'] must be a whole number from 0 to 16777215, not -1"});
  refuse(R"({"a":1.0})", {"model.vocab['a']", "not 1.0"});
  refuse(R"({"a":"0"})", {"model.vocab['a']", "not a string"});
  refuse(R"({"a":16777216})", {"not 16777216"});
  refuse(R"({"a":18446744073709551616})", {"model.vocab['a']"});
  refuse(R"([["a",0.0]])", {"model.vocab must be an object", "Unigram", "not an array"});
  refuse("null", {"model.vocab must be an object", "not null"});
  refuse("{}", {"model.vocab holds no token"});
  ExpectRefused("{}", {"model must be an object, not null"});
  ExpectRefused(R"({"model":[]})", {"model must be an object, not an array"});
}

TEST(ParseTokenizer, BoundsTokens) {
  const std::string longest(4096, 'x');
  EXPECT_THAT(MapOf({{longest}, {{1, longest.substr(1)}}}), ElementsAre(0, 1));
  ExpectRefused(Writer{{longest + "x"}}.Text(), {"model.vocab has the token 'xxx", "4097 bytes"});
  ExpectRefused(Writer{{"a"}, {{1, longest + "x"}}}.Text(), {"added_tokens[0].content", "4097"});
  // What a message quotes stays UTF-8 where it is cut.
  ExpectRefused(R"({"model":{"vocab":{"x)" + Repeat("\u4e2d", 100) + R"(":-1}}})",
                {"['x" + Repeat("\u4e2d", 26) + "…']"});
}

TEST(ParseTokenizer, RefusesWhatIsNotJson) {
  const std::string good = Writer{{"a", "\u0120b"}, {{2, "<S>"}}}.Text();
  for (size_t length = 0; length < good.size(); ++length) {
    ExpectRefused(good.substr(0, length), {"not JSON"}, absl::StatusCode::kDataLoss);
  }
  ExpectRefused(R"({"model":{"vocab":{"a":0,"a":1}}})", {"'a' twice"}, absl::StatusCode::kDataLoss);
  ExpectRefused(R"({"model":{"vocab":{"\ud800":0}}})", {"not JSON"}, absl::StatusCode::kDataLoss);
  ExpectRefused("{\"model\":{\"vocab\":{\"\xff\":0}}}", {"not JSON"}, absl::StatusCode::kDataLoss);
  ExpectRefused(std::string(64 * 1024 * 1024 + 1, ' '), {"67108865 bytes"});
}

TEST(ParseTokenizer, SurvivesAnyChangedBytes) {
  const char* const given = std::getenv("ENGRAM_TEST_SEED");
  const uint32_t seed = given != nullptr ? std::stoul(given) : std::random_device{}();
  std::cout << "ENGRAM_TEST_SEED=" << seed << std::endl;
  std::mt19937 random(seed);
  const std::string good = Writer{{"a", "\u0120b", "\u00c3\u00a9"}, {{3, "<S>"}}}.Text();
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = good;
    for (uint32_t changes = random() % 3 + 1; changes > 0; --changes) {
      // A byte from elsewhere in the text makes another valid one more often than a random byte.
      const char byte = random() % 2 ? good[random() % good.size()] : static_cast<char>(random());
      text[random() % text.size()] = byte;
    }
    const auto map = ParseTokenizer("t.json", text);
    if (map.ok()) {
      EXPECT_TRUE(TokenMap::Parse(map->bytes(), map->digest()).ok()) << text;
      continue;
    }
    ++refused;
    EXPECT_THAT(map.status().code(),
                AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kDataLoss))
        << map.status() << "\n"
        << text;
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 5000);
}

TEST(ReadTokenMap, ReadsADirectory) {
  TempDir dir;
  const absl::Status missing = ReadTokenMap(dir.path()).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound) << missing;
  EXPECT_THAT(missing.message(), HasSubstr(dir.File("tokenizer.json")));
  const std::string path = dir.Write("tokenizer.json", Writer{{"a", "A"}}.Text());
  const auto map = ReadTokenMap(dir.path());
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_THAT(map->compressed(), ElementsAre(0, 0));
  dir.Write("tokenizer.json", "{");
  const absl::Status damaged = ReadTokenMap(dir.path()).status();
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(damaged.message(), HasSubstr(path));
  std::filesystem::resize_file(path, 64 * 1024 * 1024 + 1);
  const absl::Status large = ReadTokenMap(dir.path()).status();
  EXPECT_EQ(large.code(), absl::StatusCode::kInvalidArgument) << large;
  EXPECT_THAT(large.message(), HasSubstr(path));
}

}  // namespace
}  // namespace engram
