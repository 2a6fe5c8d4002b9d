#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/table_json.h"
#include "proto/message_json.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct DescribeFlags {
  std::string name;
  uint64_t version = 0;
};

void PrintLayer(const v1::LayerInfo& layer) {
  Print(absl::StrFormat("layer %d: %s rows of %d bytes, %s\n", layer.layer(),
                        HumanCount(layer.rows()), layer.row_bytes(),
                        HumanBytes(static_cast<double>(layer.rows()) * layer.row_bytes())));
  if (layer.block_bytes() != 0) {
    Print(absl::StrFormat("  pages of %d rows in %s bytes, %.1f %% of them unused",
                          layer.rows_per_page(), HumanCount(layer.block_bytes()),
                          PageWastePercent(layer)));
    Print(layer.disk_bytes() == 0
              ? "\n"
              : absl::StrFormat("; %s on disk\n",
                                HumanBytes(static_cast<double>(layer.disk_bytes()))));
  }
  if (layer.row_scale() != 0) {
    Print(absl::StrFormat("  values are to be multiplied by %.9g\n", layer.row_scale()));
  }
  if (layer.columns().empty()) {
    Print("  no columns: rows are addressed by id\n");
    return;
  }
  const auto [smallest, largest] =
      std::minmax_element(layer.columns().begin(), layer.columns().end(),
                          [](const auto& a, const auto& b) { return a.rows() < b.rows(); });
  Print(absl::StrFormat("  %d columns of %s to %s rows\n", layer.columns_size(),
                        HumanCount(smallest->rows()), HumanCount(largest->rows())));
  if (!layer.multipliers().empty()) {
    Print(absl::StrCat("  multipliers ", absl::StrJoin(layer.multipliers(), " "), "\n"));
  }
  TextTable text({"  COLUMN", "ORDER", "HEAD", "ROWS"}, {true, true, true, true});
  for (int i = 0; i < layer.columns_size(); ++i) {
    const v1::Column& column = layer.columns(i);
    text.AddRow({absl::StrCat(i), absl::StrCat(column.order()), absl::StrCat(column.head()),
                 HumanCount(column.rows())});
  }
  Print(text.Format());
}

std::string AddressingText(const v1::Addressing& addressing) {
  std::string text = absl::StrFormat("n-grams of 2 to %d, %d heads, base size %d, pad id %d",
                                     addressing.max_ngram_size(), addressing.heads(),
                                     addressing.base_size(), addressing.pad_id());
  if (addressing.hash() != v1::HASH_KIND_UNSPECIFIED) {
    absl::StrAppend(&text, ", hash ", EnumWord(*v1::HashKind_descriptor(), addressing.hash()));
  }
  if (addressing.compressed_vocab_size() > 0) {
    absl::StrAppend(&text, ", compressed vocabulary ", addressing.compressed_vocab_size());
  }
  if (addressing.vocab_size() > 0) {
    absl::StrAppend(&text, ", vocabulary ", addressing.vocab_size());
  }
  // Where there is no hash, 0 only means that nothing was said.
  if (addressing.hash() != v1::HASH_KIND_UNSPECIFIED && addressing.boundary_id() >= 0) {
    absl::StrAppend(&text, ", boundary token ", addressing.boundary_id());
  }
  return text;
}

void PrintTable(const v1::TableInfo& table) {
  const auto field = [](const char* name, const std::string& value) {
    Print(absl::StrFormat("%-18s %s\n", name, value));
  };
  field("name", table.name());
  field("version", absl::StrCat(table.version(), table.active() ? " (active)" : ""));
  field("state", EnumWord(*v1::TableState_descriptor(), table.state()));
  field("family", table.family());
  field("row format", table.row_format());
  field("rows", HumanCount(table.rows()));
  field("size", HumanBytes(static_cast<double>(table.bytes())));
  field("checkpoint digest", table.checkpoint_digest());
  field("table digest", table.table_digest());
  if (table.addressing().max_ngram_size() == 0) {
    field("addressing", "by row id only");
  } else {
    field("addressing", AddressingText(table.addressing()));
  }
  if (!table.token_map_digest().empty()) {
    field("token map", absl::StrFormat("%s ids, sha256 %s", HumanCount(table.token_map_size()),
                                       table.token_map_digest()));
  }
  for (const v1::LayerInfo& layer : table.layers()) PrintLayer(layer);
}

absl::Status Run(const CommandLine& line, const DescribeFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const v1::TableInfo table,
                          DescribeTable(line, flags.name, flags.version));
  if (line.json) {
    PrintJson(TableToJson<nlohmann::ordered_json>(table));
  } else {
    PrintTable(table);
  }
  return absl::OkStatus();
}

}  // namespace

void AddDescribeCommand(CommandLine& line) {
  const auto flags = std::make_shared<DescribeFlags>();
  CLI::App* command =
      AddCommand(line, "describe", "Shows all that is known of a table: layers, columns, digests",
                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  command->add_option("--version", flags->version, "version (default: the active one)")
      ->check(CheckVersion);
}

}  // namespace engram
