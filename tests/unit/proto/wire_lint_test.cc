// Holds the rules of proto/README.md that a program can hold: over the .proto files as they are
// written, comments included, and over planted ones that break each rule.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace engram {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::OneofDescriptor;
using google::protobuf::ServiceDescriptor;
using google::protobuf::SourceLocation;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Lint {
 public:
  explicit Lint(const FileDescriptor& file) {
    for (int i = 0; i < file.service_count(); ++i) CheckService(*file.service(i));
    for (int i = 0; i < file.message_type_count(); ++i) CheckMessage(*file.message_type(i));
    for (int i = 0; i < file.enum_type_count(); ++i) CheckEnum(*file.enum_type(i));
  }

  const std::vector<std::string>& problems() const { return problems_; }

 private:
  void Add(const std::string& name, absl::string_view what) {
    problems_.push_back(absl::StrCat(name, ": ", what));
  }

  // The comment before or behind it; reported where there is none.
  template <typename Thing>
  std::string Comment(const Thing& thing) {
    SourceLocation at;
    std::string text;
    if (thing.GetSourceLocation(&at))
      text = absl::StrCat(at.leading_comments, at.trailing_comments);
    if (absl::StripAsciiWhitespace(text).empty()) Add(thing.full_name(), "has no comment");
    return text;
  }

  void CheckService(const ServiceDescriptor& service) {
    Comment(service);
    for (int i = 0; i < service.method_count(); ++i) Comment(*service.method(i));
  }

  void CheckEnum(const EnumDescriptor& type) {
    Comment(type);
    std::string prefix;
    for (const char c : type.name()) {
      if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
      prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
    }
    for (int i = 0; i < type.value_count(); ++i) {
      const EnumValueDescriptor& value = *type.value(i);
      Comment(value);
      if (!absl::StartsWith(value.name(), prefix + "_")) {
        Add(value.full_name(), absl::StrCat("does not begin with ", prefix, "_"));
      }
      if (value.number() == 0 && value.name() != prefix + "_UNSPECIFIED") {
        Add(value.full_name(), absl::StrCat("is 0 and not ", prefix, "_UNSPECIFIED"));
      }
    }
  }

  void CheckMessage(const Descriptor& message) {
    Comment(message);
    int outside = 0;  // messages that a request may or may not have, beside a oneof
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor& field = *message.field(i);
      CheckField(field);
      outside += field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
                 field.real_containing_oneof() == nullptr;
    }
    for (int i = 0; i < message.real_oneof_decl_count(); ++i) Comment(*message.oneof_decl(i));
    const bool alternatives = outside > 1 || (outside == 1 && message.real_oneof_decl_count() > 0);
    if (absl::EndsWith(message.name(), "Request") && alternatives) {
      Add(message.full_name(), "has alternatives that are in no oneof");
    }
    for (int i = 0; i < message.nested_type_count(); ++i) CheckMessage(*message.nested_type(i));
    for (int i = 0; i < message.enum_type_count(); ++i) CheckEnum(*message.enum_type(i));
  }

  void CheckField(const FieldDescriptor& field) {
    const std::string comment = Comment(field);
    const std::vector<std::string> words = absl::StrSplit(field.name(), '_');
    const bool choice = ::testing::Matches(
        ::testing::AnyOf("state", "kind", "phase", "mode", "policy"))(words.back());
    const bool scalar = field.cpp_type() != FieldDescriptor::CPPTYPE_ENUM &&
                        field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE;
    if (choice && scalar) Add(field.full_name(), "wants an enum");
    if (field.name() == "version" && field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64) {
      const size_t zero = comment.find(" 0:");
      const bool said = zero != std::string::npos || absl::StrContains(comment, "1 and up");
      const bool twice = zero != std::string::npos && comment.find(" 0:", zero + 1) != zero &&
                         comment.find(" 0:", zero + 1) != std::string::npos;
      if (!said || twice) Add(field.full_name(), "does not say one thing about 0");
    }
    if (field.real_containing_oneof() == nullptr && absl::StrContains(comment, "instead of `")) {
      Add(field.full_name(), "is an alternative, and in no oneof");
    }
  }

  std::vector<std::string> problems_;
};

// The file as protoc understands it, comments included; null, with a test failure, if it does not.
const FileDescriptor* Read(const std::string& folder, const std::string& name,
                           google::protobuf::DescriptorPool& pool) {
  const std::string set = absl::StrCat(::testing::TempDir(), "wire_lint_", ::getpid(), ".set");
  const std::string command =
      absl::StrCat("'" ENGRAM_PROTOC "' --include_imports --include_source_info --proto_path='",
                   folder, "' --descriptor_set_out='", set, "' ", name);
  const int status = std::system(command.c_str());
  EXPECT_EQ(status, 0) << command;
  std::ifstream bytes(set, std::ios::binary);
  google::protobuf::FileDescriptorSet files;
  EXPECT_TRUE(files.ParseFromIstream(&bytes)) << set;
  for (const google::protobuf::FileDescriptorProto& file : files.file()) pool.BuildFile(file);
  std::remove(set.c_str());
  return pool.FindFileByName(name);
}

std::vector<std::string> Problems(const std::string& folder, const std::string& name) {
  google::protobuf::DescriptorPool pool;
  const FileDescriptor* const file = Read(folder, name, pool);
  return file == nullptr ? std::vector<std::string>{name + " cannot be read"}
                         : Lint(*file).problems();
}

std::vector<std::string> Planted(const std::string& text) {
  const std::string folder = absl::StrCat(::testing::TempDir(), "wire_lint_", ::getpid());
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/planted.proto") << "syntax = \"proto3\";\npackage p;\n" << text;
  std::vector<std::string> problems = Problems(folder, "planted.proto");
  std::filesystem::remove_all(folder);
  return problems;
}

TEST(WireLint, TheContractKeepsItsRules) {
  for (const char* name : {"engram/v1/store.proto", "engram/v1/admin.proto"}) {
    EXPECT_THAT(Problems(ENGRAM_PROTO_DIR, name), IsEmpty()) << name;
  }
}

TEST(WireLintItself, LetsGoodFilesPass) {
  EXPECT_THAT(Planted(R"(
    // An enum.
    enum TableState {
      // Nothing.
      TABLE_STATE_UNSPECIFIED = 0;
      TABLE_STATE_GOOD = 1;  // Good.
    }
    // A message.
    message Part {
      string mode_text = 1;  // Free text.
    }
    // A request.
    message GetRequest {
      TableState state = 1;  // Its state.
      // Which; 0: the active one.
      uint64 version = 2;
      // Which parts.
      oneof parts {
        Part one = 3;  // This.
        Part other = 4;  // Or this.
      }
      repeated string tensors = 5;  // Names.
    }
    // A service.
    service S {
      // A call.
      rpc Get(GetRequest) returns (Part);
    })"),
              IsEmpty());
}

TEST(WireLintItself, FindsWhatHasNoComment) {
  EXPECT_THAT(Planted(R"(
    message M { string a = 1; oneof c { string d = 3; } }
    enum E { E_UNSPECIFIED = 0; }
    service S { rpc Get(M) returns (M); })"),
              ElementsAre("p.S: has no comment", "p.S.Get: has no comment", "p.M: has no comment",
                          "p.M.a: has no comment", "p.M.d: has no comment", "p.M.c: has no comment",
                          "p.E: has no comment", "p.E_UNSPECIFIED: has no comment"));
  // Nested ones are not passed over.
  EXPECT_THAT(
      Planted("// A.\nmessage M {\n message N {}\n enum E {\n // X.\n E_UNSPECIFIED = 0;\n } }"),
      ElementsAre("p.M.N: has no comment", "p.M.E: has no comment"));
}

TEST(WireLintItself, FindsEnumsWithoutAnUnspecifiedValue) {
  EXPECT_THAT(Planted("// E.\nenum RowPolicy {\n // A.\n ROW_POLICY_FAIL = 0;\n }"),
              ElementsAre(HasSubstr("is 0 and not ROW_POLICY_UNSPECIFIED")));
  EXPECT_THAT(
      Planted("// E.\nenum RowPolicy {\n // A.\n ROW_POLICY_UNSPECIFIED = 0;\n // B.\n ZERO "
              "= 1;\n }"),
      ElementsAre(HasSubstr("does not begin with ROW_POLICY_")));
}

TEST(WireLintItself, FindsChoicesThatAreTextOrNumbers) {
  for (const std::string field :
       {"string state", "uint32 arena_kind", "string phase", "int32 mode", "uint64 row_policy",
        "repeated string kind", "bytes state", "bool mode"}) {
    EXPECT_THAT(Planted("// M.\nmessage M {\n // A.\n " + field + " = 1;\n }"),
                ElementsAre(HasSubstr("wants an enum")))
        << field;
  }
}

TEST(WireLintItself, FindsVersionsWithoutOneMeaningOfZero) {
  for (const std::string comment : {"Which.", "Which; 0: the next, or of a repair 0: the last."}) {
    EXPECT_THAT(Planted("// M.\nmessage M {\n // " + comment + "\n uint64 version = 1;\n }"),
                ElementsAre(HasSubstr("does not say one thing about 0")))
        << comment;
  }
}

TEST(WireLintItself, FindsAlternativesOutsideAOneof) {
  const std::string part = "// P.\nmessage P {}\n// R.\nmessage GetRequest {\n";
  for (const std::string fields :
       {" // A.\n repeated P rows = 1;\n // B.\n P tokens = 2;\n",
        " // A.\n P rows = 1;\n // O.\n oneof o {\n // B.\n P tokens = 2;\n }\n"}) {
    EXPECT_THAT(Planted(part + fields + "}"),
                Contains(HasSubstr("has alternatives that are in no oneof")))
        << fields;
  }
  EXPECT_THAT(
      Planted("// R.\nmessage R {\n // A.\n bytes a = 1;\n // Given instead of `a`.\n bytes b = "
              "2;\n }"),
      ElementsAre("p.R.b: is an alternative, and in no oneof"));
}

}  // namespace
}  // namespace engram
