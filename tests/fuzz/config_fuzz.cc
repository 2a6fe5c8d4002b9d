// config.json, what every family makes of it, and the index of the shards.
#include <cstdint>
#include <string>

#include "storage/checkpoint/checkpoint_dir.h"
#include "storage/checkpoint/family.h"
#include "storage/checkpoint/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)engram::ParseSafetensorsIndex("model.safetensors.index.json", text);
  const auto config = engram::ModelConfig::Parse("config.json", text);
  if (!config.ok()) return 0;
  for (const engram::Family& family : engram::SupportedFamilies()) {
    if (family.matches != nullptr) (void)family.matches(*config);
    if (family.unverified != nullptr) (void)family.unverified(*config);
    if (family.spec == nullptr) continue;
    const auto spec = family.spec(*config);
    // A spec given is one that can be stored, but for a raw pad that waits for its token map.
    if (spec.ok() && !family.token_map.raw_pad && !engram::CheckTableSpec(*spec).ok())
      __builtin_trap();
  }
  return 0;
}
