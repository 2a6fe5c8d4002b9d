#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/table_json.h"
#include "client/table_description.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

void PrintTables(const std::vector<TableDescription>& tables) {
  TextTable text({"NAME", "VERSION", "ACTIVE", "STATE", "FAMILY", "LAYERS", "ROWS", "SIZE"},
                 {false, true, false, false, false, false, true, true});
  for (const TableDescription& table : tables) {
    const std::string layers = absl::StrJoin(
        table.layers, ",",
        [](std::string* out, const LayerInfo& layer) { absl::StrAppend(out, layer.layer); });
    text.AddRow({table.name, absl::StrCat(table.version), table.active ? "yes" : "no", table.state,
                 table.family, layers, HumanCount(table.rows),
                 HumanBytes(static_cast<double>(table.bytes))});
  }
  Print(text.Format());
}

absl::Status Run(const CommandLine& line) {
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  ENGRAM_ASSIGN_OR_RETURN(const v1::ListResponse response, admin->List());
  std::vector<TableDescription> tables;
  for (const v1::TableInfo& table : response.tables()) {
    tables.push_back(DescriptionFromWire(table));
  }
  if (line.json) {
    nlohmann::ordered_json json;
    json["tables"] = nlohmann::ordered_json::array();
    for (const TableDescription& table : tables) {
      json["tables"].push_back(TableToJson<nlohmann::ordered_json>(table));
    }
    PrintJson(json);
  } else if (tables.empty()) {
    Print("no tables\n");
  } else {
    PrintTables(tables);
  }
  return absl::OkStatus();
}

}  // namespace

void AddListCommand(CommandLine& line) {
  AddCommand(line, "list", "Lists tables and their versions", [&line] { return Run(line); });
}

}  // namespace engram
