// The safetensors header parser, on bytes that nobody wrote on purpose: an error or a map, never a
// crash. The first 8 bytes stand for the length of the data behind the header.
#include <cstdint>
#include <cstring>
#include <string>

#include "storage/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  uint64_t length = 0;
  std::memcpy(&length, data, 8);
  const std::string header(reinterpret_cast<const char*>(data) + 8, size - 8);
  (void)engram::ParseSafetensorsHeader("fuzz", header, length);
  (void)engram::ParseSafetensorsHeader("fuzz", header, length % 4096);
  (void)engram::ParseSafetensorsPrefix("fuzz", std::string(header, 0, 8), length);
  return 0;
}
