// Row sizes of known models (facts of their checkpoints: see storage/checkpoint), for which gathers
// are compiled with the size as a constant. Only the standard library.
#ifndef ENGRAM_STORAGE_DRAM_ROW_SIZES_H_
#define ENGRAM_STORAGE_DRAM_ROW_SIZES_H_

#include <cstdint>

namespace engram::dram {

// Calls `call.template operator()<kRowBytes>()`: with row_bytes if it is a known size, else with 0.
template <typename Call>
auto WithRowBytes(uint32_t row_bytes, const Call& call) {
  switch (row_bytes) {
    case 128:
      return call.template operator()<128>();
    case 160:
      return call.template operator()<160>();
    case 264:
      return call.template operator()<264>();
    case 320:
      return call.template operator()<320>();
    case 512:
      return call.template operator()<512>();
    default:
      return call.template operator()<0>();
  }
}

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_ROW_SIZES_H_
