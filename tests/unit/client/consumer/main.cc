// What a program of somebody else's looks like. There is no daemon, so it must be told so.
#include <cstdio>

#include "engram/client.h"

int main() {
  const auto client = engram::Client::Connect(
      {.target = "unix:/nonexistent/s", .connect_timeout = std::chrono::milliseconds(100)});
  std::puts(client.status().ToString().c_str());
  return absl::IsUnavailable(client.status()) ? 0 : 1;
}
