#include "client/grpc/describe.h"

#include <grpcpp/support/byte_buffer.h>

#include "client/grpc/message.h"
#include "engram/v1/store.pb.h"
#include "storage/base/status_macros.h"

namespace engram {

absl::StatusOr<v1::DescribeResponse> CallDescribe(UnaryCaller& caller,
                                                  const v1::DescribeRequest& request,
                                                  std::chrono::milliseconds timeout) {
  static constexpr char kDescribe[] = "/engram.v1.EngramStore/Describe";
  grpc::ByteBuffer answer;
  ENGRAM_RETURN_IF_ERROR(caller.Call(kDescribe, ToBuffer(request), timeout, &answer));
  v1::DescribeResponse response;
  ENGRAM_RETURN_IF_ERROR(FromBuffer(&answer, &response));
  return response;
}

}  // namespace engram
