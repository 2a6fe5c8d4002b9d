// A profile's file: what parses must serialise to the same bytes again. A fuzzer cannot guess a
// digest, so its bytes are also tried with the size and the digest that they should have.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"
#include "storage/table/digest.h"
#include "storage/table/row_profile.h"

namespace {

void Try(absl::string_view bytes) {
  const auto profile = engram::RowProfile::Parse(bytes);
  if (!profile.ok()) return;
  const auto again = profile->Serialize();
  if (!again.ok() || *again != bytes) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  Try(bytes);
  if (size < 24 + 32) return 0;
  bytes.resize(size - 32);
  const uint64_t whole = size;
  std::memcpy(bytes.data() + 16, &whole, sizeof whole);
  engram::Digest digest;
  digest.Update(bytes);
  Try(bytes + digest.Hex());
  return 0;
}
