#include "storage/table/token_map.h"

#include <openssl/evp.h>

#include <bit>
#include <cassert>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// bytes() is the array itself.
static_assert(std::endian::native == std::endian::little);

absl::StatusOr<std::string> Sha256Hex(absl::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) != 1) {
    return absl::InternalError("sha256 is not to be had from OpenSSL's libcrypto");
  }
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), size_t{length}));
}

absl::string_view AsBytes(const std::vector<int32_t>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t)};
}

// Returns how many different values there are.
absl::StatusOr<size_t> CheckFirstAppearance(const std::vector<int32_t>& compressed) {
  if (compressed.empty() || compressed.size() > kMaxTokens) {
    return absl::InvalidArgumentError(absl::StrCat("a token map has 1 to ", kMaxTokens,
                                                   " entries; this one has ", compressed.size()));
  }
  int32_t next = 0;
  for (size_t id = 0; id < compressed.size(); ++id) {
    if (compressed[id] < 0 || compressed[id] > next) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is mapped to ", compressed[id],
                       ": compressed ids count up from 0 in order of first appearance, so it must "
                       "be from 0 to ",
                       next));
    }
    if (compressed[id] == next) ++next;
  }
  return static_cast<size_t>(next);
}

}  // namespace

absl::StatusOr<TokenMap> TokenMap::Create(std::vector<int32_t> compressed) {
  auto rep = std::make_shared<Rep>();
  ENGRAM_ASSIGN_OR_RETURN(rep->compressed_size, CheckFirstAppearance(compressed));
  ENGRAM_ASSIGN_OR_RETURN(rep->digest, Sha256Hex(AsBytes(compressed)));
  rep->compressed = std::move(compressed);
  return TokenMap(std::move(rep));
}

absl::StatusOr<TokenMap> TokenMap::Parse(absl::string_view bytes, absl::string_view digest) {
  if (bytes.size() % sizeof(int32_t) != 0 || bytes.size() / sizeof(int32_t) > kMaxTokens) {
    return absl::DataLossError(absl::StrCat("a token map of ", bytes.size(),
                                            " bytes: it must be 4 bytes for each of 1 to ",
                                            kMaxTokens, " token ids"));
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string found, Sha256Hex(bytes));
  if (found != digest) {
    return absl::DataLossError(absl::StrCat("the token map's sha256 is ", found, ", not '",
                                            absl::CHexEscape(digest.substr(0, 200)),
                                            "': it is damaged, or another model's"));
  }
  std::vector<int32_t> compressed(bytes.size() / sizeof(int32_t));
  if (!compressed.empty()) std::memcpy(compressed.data(), bytes.data(), bytes.size());
  auto map = Create(std::move(compressed));
  // The caller has bytes that once were a map; that they are none is the bytes' fault.
  if (absl::IsInvalidArgument(map.status())) return absl::DataLossError(map.status().message());
  return map;
}

absl::string_view TokenMap::bytes() const { return AsBytes(rep_->compressed); }

absl::Status TokenMap::Compress(absl::Span<const int32_t> raw, absl::Span<int32_t> out) const {
  assert(raw.size() == out.size());
  const std::vector<int32_t>& compressed = rep_->compressed;
  for (size_t i = 0; i < raw.size(); ++i) {
    const int32_t id = raw[i];
    if (id == -1) {
      out[i] = -1;
    } else if (id >= 0 && static_cast<size_t>(id) < compressed.size()) {
      out[i] = compressed[static_cast<size_t>(id)];
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", id, " at index ", i, " is not one of this model's tokenizer: 0 to ",
          compressed.size() - 1, ", or -1 for a position without a token"));
    }
  }
  return absl::OkStatus();
}

}  // namespace engram
