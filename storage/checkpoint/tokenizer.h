// The token map of a model, built from its tokenizer.json (the format of Hugging Face's
// `tokenizers` library).
//
// For id = 0 … number of tokens − 1 that one id is decoded with special tokens kept. If the text
// contains U+FFFD the key is the token's own string, else it is the normalised text, or the text
// itself if that is empty. Equal keys share a compressed id. Normalised means, in this order and
// as the library's normalisers of these names do it: NFKC, NFD, StripAccents (all of general
// category M goes), Lowercase (code point by code point), every run of space, tab, CR, LF becomes
// one space, a text of exactly one space becomes U+E000, Strip (Unicode white space at both ends),
// every U+E000 becomes a space. (DeepSeek's Engram demo; DeepSeek-V4.1-Flash uses the same, and the
// map of its tokenizer has sha256
// c60a86322ec17b4142bfef3c57a8d81fb428550cdf487f88a4320cb59fe46481.)
//
// NFKC, NFD and general category M are Unicode 9.0's, which is what the library's tables hold: a
// code point assigned since then stays as it is. Lower-casing is ICU's Unicode (15.0 in Debian 12);
// the library's follows the Rust compiler that built it.
//
// Ids are those that the library gives: it goes by an added token's string, not by its `id`. A file
// in which the two differ is refused, as engines would disagree on it.
//
// Pure but for ReadTokenMap; safe from any thread.
#ifndef ENGRAM_STORAGE_CHECKPOINT_TOKENIZER_H_
#define ENGRAM_STORAGE_CHECKPOINT_TOKENIZER_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/table/token_map.h"

namespace engram {

// `file` names the text in errors. DataLoss if it is not JSON. InvalidArgument, naming file and
// key or token, if it is not a tokenizer of the kind that is understood: a vocabulary of token
// strings (up to 4 KiB) to ids without holes or duplicates, and a ByteLevel decoder or none; or if
// it has over 64 MiB. Internal if the ICU at hand lacks its tables.
absl::StatusOr<TokenMap> ParseTokenizer(absl::string_view file, absl::string_view text);

// DIR/tokenizer.json. NotFound if there is none; else as ParseTokenizer and ReadSmallFile.
absl::StatusOr<TokenMap> ReadTokenMap(const std::string& directory);

// The key of one decoded token as described above but for the U+FFFD rule. For tests.
std::string NormalizeToken(absl::string_view text);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_TOKENIZER_H_
