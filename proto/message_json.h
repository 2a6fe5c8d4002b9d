// Messages as JSON text: the one printer behind `--json`, /stats.json and the status page.
//
// Protobuf's own prints 64-bit numbers as strings and leaves zeros out. Here numbers are numbers,
// every field is printed by its name in the .proto file, and an enum's value is its short word
// (TABLE_STATE_PUBLISHED of TableState: "published"). Left out are messages and members of a oneof
// that are not set. Bytes are printed in hex. Text that is not UTF-8 has its bad bytes replaced.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_PROTO_MESSAGE_JSON_H_
#define ENGRAM_PROTO_MESSAGE_JSON_H_

#include <string>

namespace google::protobuf {
class EnumDescriptor;
class Message;
}  // namespace google::protobuf

namespace engram {

// One object on one line, its keys in the order of the message's declaration.
std::string MessageToJson(const google::protobuf::Message& message);

// The name of the value without the enum's own, in small letters with hyphens; empty for 0, which
// is no value; the number itself for one that this program does not know.
std::string EnumWord(const google::protobuf::EnumDescriptor& type, int number);

}  // namespace engram

#endif  // ENGRAM_PROTO_MESSAGE_JSON_H_
