// For tests/integration/python/tokenizer_test.py: what the tokenizer code makes of its inputs.
//
//   token_map_tool map DIR OUT   the map of DIR/tokenizer.json: prints size, compressed size and
//                                digest, writes the map's bytes to OUT
//   token_map_tool normalize     NormalizeToken of each text from stdin, to stdout; a text is its
//                                length in bytes (4 bytes, little-endian) and the bytes
//   token_map_tool unassigned    the code points that this ICU does not know: lines of first and
//                                last, in hex
#include <unicode/uchar.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>

#include "storage/checkpoint/tokenizer.h"

namespace engram {
namespace {

int PrintMap(const std::string& directory, const std::string& out) {
  const auto map = ReadTokenMap(directory);
  if (!map.ok()) {
    std::cerr << map.status() << "\n";
    return 1;
  }
  std::ofstream file(out, std::ios::binary | std::ios::trunc);
  file << map->bytes();
  file.close();
  if (!file.good()) {
    std::cerr << "cannot write " << out << "\n";
    return 1;
  }
  std::cout << map->size() << " " << map->compressed_size() << " " << map->digest() << "\n";
  return 0;
}

int NormalizeAll() {
  uint32_t length = 0;
  while (std::cin.read(reinterpret_cast<char*>(&length), sizeof length)) {
    std::string text(length, '\0');
    if (!std::cin.read(text.data(), length)) return 1;
    const std::string key = NormalizeToken(text);
    length = static_cast<uint32_t>(key.size());
    std::cout.write(reinterpret_cast<const char*>(&length), sizeof length);
    std::cout << key;
  }
  return std::cout.flush().good() ? 0 : 1;
}

UBool PrintUnassigned(const void*, UChar32 start, UChar32 limit, UCharCategory type) {
  if (type == U_UNASSIGNED) std::cout << std::hex << start << " " << limit - 1 << "\n";
  return true;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "map" && argc == 4) return engram::PrintMap(argv[2], argv[3]);
  if (command == "normalize" && argc == 2) return engram::NormalizeAll();
  if (command == "unassigned" && argc == 2) {
    u_enumCharTypes(engram::PrintUnassigned, nullptr);
    return 0;
  }
  std::cerr << "usage: token_map_tool map DIR OUT | normalize | unassigned\n";
  return 2;
}
