// Between the wire's description of a table, the one that clients see, and the spec that
// storage/table works with.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_CLIENT_GRPC_TABLE_DESCRIPTION_H_
#define ENGRAM_CLIENT_GRPC_TABLE_DESCRIPTION_H_

#include "absl/status/statusor.h"
#include "client/client.h"
#include "storage/table/spec.h"

namespace engram {

namespace v1 {
class TableInfo;
}

TableDescription DescriptionFromWire(const v1::TableInfo& info);

// A table as its checkpoint's config describes it: not loaded, so without version, state and table
// digest.
TableDescription DescriptionFromSpec(const TableSpec& spec);

// All that the hash needs, and the rest that a spec has. FailedPrecondition, naming it, for a hash
// that this client does not know.
absl::StatusOr<TableSpec> SpecFromDescription(const TableDescription& table);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_TABLE_DESCRIPTION_H_
