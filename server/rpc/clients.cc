#include "server/rpc/clients.h"

#include "absl/hash/hash.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace engram {
namespace {

// Sets addresses apart from connections.
constexpr uint64_t kAddress = uint64_t{1} << 63;

}  // namespace

ClientId Clients::Add(int fd, uid_t user) {
  MutexLock lock(mutex_);
  const ClientId id{next_++};
  connections_[fd] = {id, user};
  return id;
}

void Clients::Remove(int fd, ClientId id) {
  MutexLock lock(mutex_);
  const auto found = connections_.find(fd);
  if (found != connections_.end() && found->second.id == id) connections_.erase(found);
}

size_t Clients::connections() const {
  MutexLock lock(mutex_);
  return connections_.size();
}

bool Clients::IsLocal(absl::string_view peer) {
  return absl::StartsWith(peer, "fd:") || absl::StartsWith(peer, "unix:");
}

ClientId Clients::Of(absl::string_view peer) const {
  if (absl::ConsumePrefix(&peer, "fd:")) {
    int fd = 0;
    if (!absl::SimpleAtoi(peer, &fd)) return ClientId{};
    MutexLock lock(mutex_);
    const auto found = connections_.find(fd);
    return found == connections_.end() ? ClientId{} : found->second.id;
  }
  if (!absl::StartsWith(peer, "ipv")) return ClientId{};
  return ClientId{absl::HashOf(peer.substr(0, peer.rfind(':'))) | kAddress};
}

}  // namespace engram
