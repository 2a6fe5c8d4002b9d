#include "storage/checkpoint/tokenizer.h"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/file_reader.h"
#include "storage/checkpoint/strict_json.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// The largest files of today have 35 MB.
constexpr uint64_t kMaxTokenizerBytes = 64 * 1024 * 1024;

// Far longer than any real token. ICU takes quadratic time to order a long run of marks.
constexpr size_t kMaxTokenBytes = 4096;

constexpr char16_t kReplacement = 0xFFFD;
constexpr char16_t kKeptSpace = 0xE000;  // stands for a text of one space while both ends go

// ------------------------------------------------------------------------------ normalised texts

// The library's normalisers know Unicode 9.0 only: to them a code point assigned since decomposes
// to itself and is no mark. ICU is newer, so it is shown nothing else. Three code points have
// changed their category since.
class Unicode9 {
 public:
  // Lives as long as the program; `error()` says whether ICU had what is needed.
  static const Unicode9& Get() {
    static const auto* const instance = new Unicode9;
    return *instance;
  }

  UErrorCode error() const { return error_; }

  // Requires no error().
  icu::UnicodeString Decompose(const icu::UnicodeString& text) const {
    UErrorCode error = U_ZERO_ERROR;
    return nfd_->normalize(nfkc_->normalize(text, error), error);
  }
  bool IsMark(UChar32 c) const { return marks_.contains(c) != 0; }

 private:
  Unicode9() : assigned_(u"[:age=9.0:]", error_), marks_(u"[[:M:] & [:age=9.0:]]", error_) {
    marks_.add(0x1CF2, 0x1CF3).remove(0x111C9);
    const icu::Normalizer2* const nfkc = icu::Normalizer2::getNFKCInstance(error_);
    const icu::Normalizer2* const nfd = icu::Normalizer2::getNFDInstance(error_);
    if (U_FAILURE(error_)) return;
    assigned_.freeze();
    marks_.freeze();
    nfkc_ = std::make_unique<icu::FilteredNormalizer2>(*nfkc, assigned_);
    nfd_ = std::make_unique<icu::FilteredNormalizer2>(*nfd, assigned_);
  }

  UErrorCode error_ = U_ZERO_ERROR;
  icu::UnicodeSet assigned_;
  icu::UnicodeSet marks_;
  std::unique_ptr<const icu::Normalizer2> nfkc_;
  std::unique_ptr<const icu::Normalizer2> nfd_;
};

bool IsBlank(UChar32 c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Marks go, letters become small ones, each run of blanks becomes one space.
icu::UnicodeString FoldCharacters(const icu::UnicodeString& text) {
  const Unicode9& unicode = Unicode9::Get();
  icu::UnicodeString folded;
  bool after_blank = false;
  for (int32_t at = 0; at < text.length(); at = text.moveIndex32(at, 1)) {
    const UChar32 c = text.char32At(at);
    if (unicode.IsMark(c)) continue;
    const bool blank = IsBlank(c);
    // One code point to one: the only exception among letters, U+0130, has been decomposed.
    if (!blank) folded.append(u_tolower(c));
    if (blank && !after_blank) folded.append(u' ');
    after_blank = blank;
  }
  return folded;
}

void StripWhiteSpace(icu::UnicodeString& text) {
  int32_t begin = 0;
  int32_t end = text.length();
  // All of Unicode's white space lies in the basic plane: a code unit is enough.
  while (begin < end && u_isUWhiteSpace(text[begin])) ++begin;
  while (end > begin && u_isUWhiteSpace(text[end - 1])) --end;
  text.retainBetween(begin, end);
}

// Requires that Unicode9 has no error.
icu::UnicodeString Normalize(const icu::UnicodeString& text) {
  icu::UnicodeString folded = FoldCharacters(Unicode9::Get().Decompose(text));
  if (folded == icu::UnicodeString(u' ')) folded = icu::UnicodeString(kKeptSpace);
  StripWhiteSpace(folded);
  // As the library does it: one that was there before becomes a space, too.
  folded.findAndReplace(icu::UnicodeString(kKeptSpace), icu::UnicodeString(u' '));
  return folded;
}

icu::UnicodeString FromUtf8(absl::string_view text) {
  return icu::UnicodeString::fromUTF8({text.data(), static_cast<int32_t>(text.size())});
}

std::string NormalizedKey(absl::string_view text, const icu::UnicodeString& decoded) {
  std::string key;
  Normalize(decoded).toUTF8String(key);
  return key.empty() ? std::string(text) : key;
}

// ------------------------------------------------------------------------------------ vocabulary

// For messages: in quotes, of bounded length, cut between characters.
std::string Quoted(absl::string_view token) {
  size_t length = token.size() < 80 ? token.size() : 80;
  while (length > 0 && length < token.size() && U8_IS_TRAIL(token[length])) --length;
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(token.substr(0, length)),
                      length < token.size() ? "…'" : "'");
}

// What an error is about: a place in a file.
struct Place {
  absl::string_view file;
  std::string key;

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", key, " ", what));
  }
  absl::Status NotA(absl::string_view wanted, const Json& value) const {
    return Error(absl::StrCat("must be ", wanted, ", not ",
                              value.is_number() ? value.dump() : JsonTypeName(value)));
  }
};

// A missing key is a null, as to the library.
const Json& Member(const Json& object, const char* key) {
  static const Json* const null = new Json;
  const auto found = object.find(key);
  return found == object.end() ? *null : *found;
}

absl::StatusOr<size_t> ToId(const Place& place, const Json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxTokens) {
    return place.NotA(absl::StrCat("a whole number from 0 to ", kMaxTokens - 1), value);
  }
  return value.get<size_t>();
}

absl::Status CheckLength(const Place& place, absl::string_view token) {
  if (token.size() <= kMaxTokenBytes) return absl::OkStatus();
  return place.Error(absl::StrCat("has the token ", Quoted(token), " of ", token.size(),
                                  " bytes; a token has ", kMaxTokenBytes, " at most"));
}

// The strings of the ids 0, 1, …, as the library numbers them. They lie in the JSON tree.
class Vocabulary {
 public:
  explicit Vocabulary(absl::string_view file) : file_(file) {}

  absl::Status Load(const Json& root) {
    ENGRAM_RETURN_IF_ERROR(LoadModel(root));
    return LoadAdded(root);
  }
  const std::vector<absl::string_view>& tokens() const { return tokens_; }

 private:
  absl::Status LoadModel(const Json& root) {
    const Json& model = Member(root, "model");
    if (!model.is_object()) return Place{file_, "model"}.NotA("an object", model);
    const Json& vocab = Member(model, "vocab");
    const Place place{file_, "model.vocab"};
    if (!vocab.is_object()) {
      return place.NotA("an object of token strings to ids (as BPE has it, unlike Unigram)", vocab);
    }
    tokens_.resize(vocab.size());
    for (const auto& [token, value] : vocab.get_ref<const Json::object_t&>()) {
      ENGRAM_RETURN_IF_ERROR(CheckLength(place, token));
      ENGRAM_ASSIGN_OR_RETURN(
          const size_t id, ToId({file_, absl::StrCat("model.vocab[", Quoted(token), "]")}, value));
      ids_.emplace(token, id);
      if (id >= tokens_.size()) continue;  // then there is a hole, which is found below
      if (tokens_[id].data() != nullptr) {
        return place.Error(absl::StrCat("gives id ", id, " to both ", Quoted(tokens_[id]), " and ",
                                        Quoted(token)));
      }
      tokens_[id] = token;
    }
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (tokens_[id].data() == nullptr) {
        return place.Error(absl::StrCat("has ", tokens_.size(), " tokens but none with id ", id,
                                        ": ids must be 0, 1, … without holes; give the free ids "
                                        "placeholder tokens"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status LoadAdded(const Json& root) {
    const Json& added = Member(root, "added_tokens");
    if (added.is_null()) return absl::OkStatus();
    if (!added.is_array()) return Place{file_, "added_tokens"}.NotA("a list", added);
    for (size_t i = 0; i < added.size(); ++i) {
      const Place place{file_, absl::StrCat("added_tokens[", i, "]")};
      ENGRAM_RETURN_IF_ERROR(Add(place, added[i]));
    }
    return absl::OkStatus();
  }

  // The library goes by the string: one that it knows keeps its id, any other gets the next one.
  // What the file says is only checked by it, and an engine that took the file at its word would
  // see other ids: so both must agree.
  absl::Status Add(const Place& place, const Json& entry) {
    if (!entry.is_object()) return place.NotA("an object", entry);
    const Json& content = Member(entry, "content");
    const Place content_place{file_, absl::StrCat(place.key, ".content")};
    if (!content.is_string()) return content_place.NotA("a string", content);
    const std::string& token = content.get_ref<const std::string&>();
    if (token.empty()) return content_place.Error("is empty; remove this entry");
    ENGRAM_RETURN_IF_ERROR(CheckLength(content_place, token));
    ENGRAM_ASSIGN_OR_RETURN(const size_t id,
                            ToId({file_, absl::StrCat(place.key, ".id")}, Member(entry, "id")));
    const auto [known, is_new] = ids_.emplace(token, tokens_.size());
    if (known->second != id) {
      return place.Error(absl::StrCat(
          "gives ", Quoted(token), " the id ", id, ", but it has the id ", known->second,
          is_new ? ", the first that is free" : " already",
          ": load and save the tokenizer with the tokenizers library, which numbers it so"));
    }
    if (is_new) tokens_.push_back(token);
    return absl::OkStatus();
  }

  const absl::string_view file_;
  std::vector<absl::string_view> tokens_;
  absl::flat_hash_map<absl::string_view, size_t> ids_;
};

// --------------------------------------------------------------------------------------- decoder

// Whether tokens are strings over the byte alphabet. Anything but a ByteLevel decoder, alone or
// alone in a Sequence, and none at all is refused.
absl::StatusOr<bool> IsByteLevel(absl::string_view file, const Json& root) {
  const Json* decoder = &Member(root, "decoder");
  Place place{file, "decoder"};
  if (decoder->is_null()) return false;
  if (decoder->is_object() && Member(*decoder, "type") == "Sequence") {
    const Json& steps = Member(*decoder, "decoders");
    place.key = "decoder.decoders";
    if (!steps.is_array()) return place.NotA("a list", steps);
    if (steps.empty()) return false;
    if (steps.size() > 1) {
      return place.Error(absl::StrCat("has ", steps.size(), " steps: only ByteLevel is supported"));
    }
    decoder = &steps[0];
    place.key = "decoder.decoders[0]";
  }
  if (!decoder->is_object()) return place.NotA("an object", *decoder);
  const Json& type = Member(*decoder, "type");
  place.key += ".type";
  if (!type.is_string()) return place.NotA("a string", type);
  if (type != "ByteLevel") {
    return place.Error(absl::StrCat("is ", Quoted(type.get_ref<const std::string&>()),
                                    ": only ByteLevel, or no decoder, is supported"));
  }
  return true;
}

// GPT-2's alphabet: printable bytes stand for themselves, the other 68 are U+0100 … U+0143 in
// order. −1 where a code point stands for no byte.
constexpr std::array<int16_t, 0x144> ByteAlphabet() {
  std::array<int16_t, 0x144> bytes{};
  size_t next = 0x100;
  for (size_t byte = 0; byte < 0x100; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    if (!printable) bytes[byte] = -1;
    bytes[printable ? byte : next++] = static_cast<int16_t>(byte);
  }
  return bytes;
}

// The bytes that a token stands for; its own if one of its characters is not of the alphabet.
std::string ToBytes(absl::string_view token) {
  static constexpr std::array<int16_t, 0x144> kAlphabet = ByteAlphabet();
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    UChar32 c = 0;
    U8_NEXT(token.data(), at, token.size(), c);
    if (c < 0 || static_cast<size_t>(c) >= kAlphabet.size() || kAlphabet[c] < 0) {
      return std::string(token);
    }
    bytes.push_back(static_cast<char>(kAlphabet[c]));
  }
  return bytes;
}

std::string Key(absl::string_view token, bool byte_level) {
  const std::string text = byte_level ? ToBytes(token) : std::string(token);
  // Bytes that are no UTF-8 become U+FFFD, as in the library; how many of them does not matter.
  const icu::UnicodeString decoded = FromUtf8(text);
  if (decoded.indexOf(kReplacement) >= 0) return std::string(token);
  return NormalizedKey(text, decoded);
}

}  // namespace

absl::StatusOr<TokenMap> ParseTokenizer(absl::string_view file, absl::string_view text) {
  if (text.size() > kMaxTokenizerBytes) {
    return absl::InvalidArgumentError(absl::StrCat(file, " has ", text.size(), " bytes, over ",
                                                   kMaxTokenizerBytes, ": no tokenizer has that"));
  }
  if (U_FAILURE(Unicode9::Get().error())) {
    return absl::InternalError(absl::StrCat(
        "ICU cannot normalise text: ", u_errorName(Unicode9::Get().error()), "; reinstall libicu"));
  }
  ENGRAM_ASSIGN_OR_RETURN(const Json root, ParseJsonObject(file, text));
  ENGRAM_ASSIGN_OR_RETURN(const bool byte_level, IsByteLevel(file, root));
  Vocabulary vocabulary(file);
  ENGRAM_RETURN_IF_ERROR(vocabulary.Load(root));
  if (vocabulary.tokens().empty()) return Place{file, "model.vocab"}.Error("holds no token");
  absl::flat_hash_map<std::string, int32_t> ids;
  std::vector<int32_t> compressed;
  compressed.reserve(vocabulary.tokens().size());
  for (const absl::string_view token : vocabulary.tokens()) {
    const auto next = static_cast<int32_t>(ids.size());
    compressed.push_back(ids.emplace(Key(token, byte_level), next).first->second);
  }
  return TokenMap::Create(std::move(compressed));
}

absl::StatusOr<TokenMap> ReadTokenMap(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/tokenizer.json");
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxTokenizerBytes));
  return ParseTokenizer(path, text);
}

std::string NormalizeToken(absl::string_view text) {
  if (U_FAILURE(Unicode9::Get().error())) return std::string(text);
  return NormalizedKey(text, FromUtf8(text));
}

}  // namespace engram
