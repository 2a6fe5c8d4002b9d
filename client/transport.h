// Transport: how a Client reaches its daemon. The seam beside which other transports can come
// (gRPC now; memory shared with a daemon on the same host would be another).
//
// As Client, with two differences: every call states how long it may take, and `table`,
// `version` … come as the caller gave them. Thread-safe. The destructor cancels calls that are
// under way and returns when each `done` has run; it must not run inside one.
#ifndef ENGRAM_CLIENT_TRANSPORT_H_
#define ENGRAM_CLIENT_TRANSPORT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace engram {

class Transport {
 public:
  virtual ~Transport() = default;

  virtual absl::StatusOr<TableDescription> Describe(const std::string& table, uint64_t version,
                                                    std::chrono::milliseconds timeout) = 0;
  virtual absl::StatusOr<std::vector<int32_t>> FetchTokenMap(const std::string& table,
                                                             uint64_t version,
                                                             std::chrono::milliseconds timeout) = 0;
  virtual absl::StatusOr<LookupAnswer> Lookup(const LookupRequest& request,
                                              std::chrono::milliseconds timeout) = 0;
  virtual void LookupAsync(const LookupRequest& request, std::chrono::milliseconds timeout,
                           std::function<void(absl::StatusOr<LookupAnswer>)> done) = 0;
  // `done` is never null.
  virtual void Prefetch(const PrefetchRequest& request, std::chrono::milliseconds timeout,
                        std::function<void(absl::StatusOr<PrefetchAnswer>)> done) = 0;
  // A request of the stream that states no deadline gets `default_timeout`.
  virtual absl::StatusOr<std::unique_ptr<LookupStream>> OpenStream(
      std::chrono::milliseconds default_timeout) = 0;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_TRANSPORT_H_
