// ClientTelemetry: what one client on this host reports of the rows that it reads itself: how many
// of which layer, and a sample of their ids (storage/dram/access_ring.h).
//
// The daemon makes the ring's memory and seals its size, so that reading it never faults whatever
// the client does. Its contents are believed as such: they guide eviction and statistics only.
//
// One thread at a time.
#ifndef ENGRAM_SERVER_LOCAL_CLIENT_TELEMETRY_H_
#define ENGRAM_SERVER_LOCAL_CLIENT_TELEMETRY_H_

#include <memory>
#include <utility>

#include "server/tables/tables.h"
#include "storage/base/unique_fd.h"
#include "storage/dram/access_ring.h"

namespace engram {

class ClientTelemetry {
 public:
  // Null if there is no memory for the ring.
  static std::unique_ptr<ClientTelemetry> Create();
  ~ClientTelemetry();
  ClientTelemetry(const ClientTelemetry&) = delete;
  ClientTelemetry& operator=(const ClientTelemetry&) = delete;

  // The ring's memory, which the client maps.
  int file() const { return file_.get(); }

  // Adds what the client has reported since the last call to the counters of its layers. Layers
  // that do not exist are skipped. Bounded work; never blocks on the drive.
  void Read(const Tables& tables);

 private:
  ClientTelemetry(UniqueFd file, dram::AccessRing* ring)
      : file_(std::move(file)), ring_(ring), reader_(ring) {}

  const UniqueFd file_;
  dram::AccessRing* const ring_;  // mapped
  dram::RingReader reader_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOCAL_CLIENT_TELEMETRY_H_
