#include "client/grpc/message.h"

#include <grpc/slice.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/grpc/lookup_codec.h"
#include "google/protobuf/message_lite.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// A buffer of `size` bytes that `write` fills.
template <typename Write>
grpc::ByteBuffer OneSlice(size_t size, const Write& write) {
  const grpc_slice raw = grpc_slice_malloc(size);
  write(const_cast<uint8_t*>(GRPC_SLICE_START_PTR(raw)));
  const grpc::Slice slice(raw, grpc::Slice::STEAL_REF);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

grpc::ByteBuffer ToBuffer(const RequestEncoder& encoder) {
  return OneSlice(encoder.size(), [&](uint8_t* out) { encoder.Write(out); });
}

grpc::ByteBuffer ToBuffer(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  return OneSlice(size, [&](uint8_t* out) { message.SerializeWithCachedSizesToArray(out); });
}

absl::Status FromBuffer(grpc::ByteBuffer* buffer, google::protobuf::MessageLite* message) {
  grpc::ProtoBufferReader reader(buffer);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the daemon's answer is no ", message->GetTypeName()));
}

absl::StatusOr<LookupAnswer> ReadLookupAnswer(grpc::ByteBuffer* buffer,
                                              const LookupRequest& request) {
  grpc::ProtoBufferReader first(buffer);
  ENGRAM_ASSIGN_OR_RETURN(ScannedAnswer scanned, ScanLookupResponse(&first, request));
  grpc::ProtoBufferReader second(buffer);
  ENGRAM_RETURN_IF_ERROR(CopyRows(&second, request, scanned.layers));
  LookupAnswer answer;
  answer.version = scanned.version;
  answer.layers.reserve(scanned.layers.size());
  for (ScannedLayer& layer : scanned.layers) answer.layers.push_back(std::move(layer.answer));
  return answer;
}

}  // namespace engram
