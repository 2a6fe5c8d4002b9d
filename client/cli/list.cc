#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/table_json.h"
#include "proto/message_json.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Tables = google::protobuf::RepeatedPtrField<v1::TableInfo>;
using Json = nlohmann::ordered_json;

Json ToJson(const Tables& tables) {
  Json json = Json::array();
  for (const v1::TableInfo& table : tables) json.push_back(TableToJson<Json>(table));
  return json;
}

void PrintTables(const Tables& tables) {
  TextTable text({"NAME", "VERSION", "ACTIVE", "STATE", "FAMILY", "LAYERS", "ROWS", "SIZE"},
                 {false, true, false, false, false, false, true, true});
  for (const v1::TableInfo& table : tables) {
    const std::string layers = absl::StrJoin(
        table.layers(), ",",
        [](std::string* out, const v1::LayerInfo& layer) { absl::StrAppend(out, layer.layer()); });
    text.AddRow({table.name(), absl::StrCat(table.version()), table.active() ? "yes" : "no",
                 EnumWord(*v1::TableState_descriptor(), table.state()), table.family(), layers,
                 HumanCount(table.rows()), HumanBytes(static_cast<double>(table.bytes()))});
  }
  Print(text.Format());
}

absl::Status Run(const CommandLine& line) {
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  ENGRAM_ASSIGN_OR_RETURN(const v1::ListResponse response, admin->List());
  const Tables& tables = response.tables();
  const Tables& unfinished = response.unfinished();
  if (line.json) {
    PrintJson(Json{{"tables", ToJson(tables)}, {"unfinished", ToJson(unfinished)}});
    return absl::OkStatus();
  }
  if (tables.empty()) {
    Print("no tables\n");
  } else {
    PrintTables(tables);
  }
  if (!unfinished.empty()) {
    Print(
        "\nNot served, for their load is under way or was interrupted (the same `engramctl load` "
        "takes it up, `engramctl drop` removes it):\n");
    PrintTables(unfinished);
  }
  return absl::OkStatus();
}

}  // namespace

void AddListCommand(CommandLine& line) {
  AddCommand(line, "list", "Lists tables and their versions", [&line] { return Run(line); });
}

}  // namespace engram
