// The Describe call: what a table is, in the wire's own words.
#ifndef ENGRAM_CLIENT_GRPC_DESCRIBE_H_
#define ENGRAM_CLIENT_GRPC_DESCRIBE_H_

#include <chrono>

#include "absl/status/statusor.h"
#include "client/grpc/unary_call.h"

namespace engram {

namespace v1 {
class DescribeRequest;
class DescribeResponse;
}  // namespace v1

// Blocks; repeated as UnaryCaller does. Errors as Client::Describe; DataLoss for an answer that is
// no such message.
absl::StatusOr<v1::DescribeResponse> CallDescribe(UnaryCaller& caller,
                                                  const v1::DescribeRequest& request,
                                                  std::chrono::milliseconds timeout);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_DESCRIBE_H_
