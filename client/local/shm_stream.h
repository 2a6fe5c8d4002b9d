// LookupStream for a client that reads DRAM itself: what DRAM holds is copied in Send, by the
// calling thread, and only the rest goes to the daemon, over a gRPC stream that is opened when it
// is first needed. Answers come in the order of requests and of layers, as over gRPC. A request
// whose rows were all in DRAM needs nothing of the daemon. Of any other request, the layers out of
// DRAM are received once the daemon has begun to answer: from then on it finishes on the version.
//
// Threads, window and errors as in client/grpc/stream.h. A request whose version is dropped before
// the daemon has begun with it is retried as a whole.
#ifndef ENGRAM_CLIENT_LOCAL_SHM_STREAM_H_
#define ENGRAM_CLIENT_LOCAL_SHM_STREAM_H_

#include <chrono>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/local/shm_batch.h"
#include "client/transport.h"

namespace engram {

// As ShmBatch::Gather, of the table that the request names; false too if nothing was found.
using GatherShared = std::function<bool(const LookupRequest& request,
                                        std::chrono::milliseconds timeout, ShmBatch& batch)>;

// `rest` serves what memory does not; both must outlive the stream.
std::unique_ptr<LookupStream> OpenShmStream(Transport* rest, GatherShared gather,
                                            std::chrono::milliseconds default_timeout);

}  // namespace engram

#endif  // ENGRAM_CLIENT_LOCAL_SHM_STREAM_H_
