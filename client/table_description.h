// From the wire's description of a table to the one that clients see.
//
// A pure function, safe from any thread.
#ifndef ENGRAM_CLIENT_TABLE_DESCRIPTION_H_
#define ENGRAM_CLIENT_TABLE_DESCRIPTION_H_

#include "client/client.h"

namespace engram {

namespace v1 {
class TableInfo;
}

TableDescription DescriptionFromWire(const v1::TableInfo& info);

}  // namespace engram

#endif  // ENGRAM_CLIENT_TABLE_DESCRIPTION_H_
