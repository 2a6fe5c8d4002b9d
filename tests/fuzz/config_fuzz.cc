// config.json and the index of the shards.
#include <cstdint>
#include <string>

#include "storage/checkpoint/checkpoint_dir.h"
#include "storage/checkpoint/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)engram::ModelConfig::Parse("config.json", text);
  (void)engram::ParseSafetensorsIndex("model.safetensors.index.json", text);
  return 0;
}
