// A worker that gathers rows of layer 1 of table "t" from the daemon at argv[1] until it is killed.
// Exits 1, saying why, when it cannot.
#include <cstdint>
#include <iostream>
#include <vector>

#include "client/gpu_reader.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: hbm_worker TARGET\n";
    return 2;
  }
  engram::GpuReaderOptions options;
  options.client.target = argv[1];
  options.table = "t";
  options.layer = 1;
  options.max_rows = 1000;
  options.host_memory = true;
  auto reader = engram::GpuReader::Open(options);
  if (!reader.ok()) {
    std::cerr << reader.status() << "\n";
    return 1;
  }
  std::vector<uint32_t> ids(options.max_rows);
  for (uint32_t i = 0; i < ids.size(); ++i) ids[i] = i;
  std::vector<std::byte> out(ids.size() * (*reader)->output_row_bytes());
  while (true) {
    absl::Status status = (*reader)->Refresh(nullptr);
    if (status.ok()) status = (*reader)->Enqueue(ids.data(), 1000, out.data(), nullptr);
    if (status.ok()) status = (*reader)->Complete(out.data(), nullptr).status();
    if (!status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
  }
}
