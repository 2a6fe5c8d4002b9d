// How descriptors of DRAM segments reach a client: the messages on the daemon's second Unix socket.
// gRPC passes no descriptors; its Attach says which segments there are, this hands them over.
//
// The socket is a SOCK_SEQPACKET beside each gRPC socket, at its path + kHandoverSuffix. The client
// asks, the daemon answers, one message each, with the descriptors as SCM_RIGHTS:
//   kHello      → the control page and the access ring (read-only and writable)
//   kSegments   → of each id one read-only descriptor, in order
//   kWritableSegments → the same, writable: for GPUs that read no host memory which their process
//                 may not write. kRefused unless the operator has chosen so.
//   kArena      → the HBM tier's memory (gpu_cache/arena_export.h); kGone if there is none
// A client keeps the connection for as long as it uses the memory: its end is how either side
// learns that the other is gone. Host byte order. Only the standard library.
#ifndef ENGRAM_STORAGE_DRAM_HANDOVER_H_
#define ENGRAM_STORAGE_DRAM_HANDOVER_H_

#include <cstddef>
#include <cstdint>

namespace engram::dram {

inline constexpr char kHandoverSuffix[] = ".shm";
inline constexpr uint32_t kHandoverMagic = 0x4D444E48;  // "HNDM"
inline constexpr size_t kSegmentsAtOnce = 64;           // the kernel takes 253 descriptors

enum class HandoverKind : uint32_t {
  kHello = 1,
  kSegments = 2,
  kArena = 3,
  kWritableSegments = 4,
};

struct HandoverRequest {
  uint32_t magic = kHandoverMagic;
  HandoverKind kind = HandoverKind::kHello;
  uint32_t layout_version = 0;  // kHello: the client's
  uint32_t count = 0;           // of ids, at most kSegmentsAtOnce
  uint64_t ids[kSegmentsAtOnce] = {};
};

enum class HandoverStatus : uint32_t {
  kOk = 0,
  kGone = 1,         // a segment is not there any more: attach again
  kOtherLayout = 2,  // the daemon's layout_version is another
  kTooManyClients = 4,
  kRefused = 5,  // the operator does not allow it
};

struct HandoverReply {
  uint32_t magic = kHandoverMagic;
  HandoverKind kind = HandoverKind::kHello;
  HandoverStatus status = HandoverStatus::kOk;
  uint32_t layout_version = 0;
  uint64_t instance = 0;  // of the daemon: what Attach says too
  uint32_t count = 0;     // of descriptors
};

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_HANDOVER_H_
