// What Attach answers: how the DRAM tier of a table's layers lies in memory that clients may map.
// A pure function over what is open; safe from any thread.
#ifndef ENGRAM_SERVER_RPC_ATTACH_H_
#define ENGRAM_SERVER_RPC_ATTACH_H_

#include "absl/status/statusor.h"
#include "engram/v1/store.pb.h"
#include "server/local/handover_server.h"
#include "server/tables/tables.h"

namespace engram {

// FailedPrecondition, saying why, when nothing is shared; NotFound as Tables::Find.
absl::StatusOr<v1::AttachResponse> DescribeSharedDram(const Tables& tables, const Sharing& sharing,
                                                      const v1::AttachRequest& request);

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_ATTACH_H_
