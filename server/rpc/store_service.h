// The EngramStore service: Describe, Lookup, StreamLookup, Prefetch.
//
// Small look-ups whose rows are all in memory are answered on the call loop's thread, and so is one
// at a time that needs a few rows of the drive (drive_seat.h). Look-ups that need more of the
// drive, and large ones, go to `dispatcher`. Answers are raw byte buffers whose rows are sent from
// the memory that they were gathered into.
#ifndef ENGRAM_SERVER_RPC_STORE_SERVICE_H_
#define ENGRAM_SERVER_RPC_STORE_SERVICE_H_

#include <memory>

#include "server/local/handover_server.h"
#include "server/lookup/buffer_pool.h"
#include "server/lookup/dispatcher.h"
#include "server/lookup/lookup.h"
#include "server/lookup/prefetcher.h"
#include "server/rpc/clients.h"
#include "server/rpc/in_flight.h"
#include "server/tables/tables.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace engram {

class CallLoop;

class StoreService {
 public:
  // All must outlive the service.
  struct Parts {
    const Tables* tables = nullptr;
    BufferPool* pool = nullptr;
    Dispatcher* dispatcher = nullptr;
    const Clients* clients = nullptr;
    InFlight* in_flight = nullptr;
    Prefetcher* prefetcher = nullptr;
    RefusalProbe* refusals = nullptr;
    LookupLimits limits = {};
    Sharing sharing = {};
  };
  static std::unique_ptr<StoreService> Create(Parts parts);
  virtual ~StoreService() = default;

  virtual grpc::Service* service() = 0;
  // Calls are answered from now on, on the threads of `loop`. Once, after the server is built.
  virtual void Accept(CallLoop& loop) = 0;

  // Ends every stream, as Unavailable, once what was read of it is answered. For shutting down,
  // after in_flight is closed: idle streams would hold it up.
  virtual void Drain() = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_STORE_SERVICE_H_
