// The messages that describe tables, from the daemon's own records.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_SERVER_RPC_TABLE_MESSAGES_H_
#define ENGRAM_SERVER_RPC_TABLE_MESSAGES_H_

#include "engram/v1/store.pb.h"
#include "storage/nvme/store.h"

namespace engram {

// With the layers' layout on the drive as `store` has it; without, should the version be gone.
v1::TableInfo ToTableInfo(const TableRecord& record, const Store& store);

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_TABLE_MESSAGES_H_
