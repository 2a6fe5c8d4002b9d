#include "storage/nvme/store.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/bulk_writer.h"
#include "storage/nvme/catalog.h"
#include "storage/nvme/repair.h"
#include "storage/nvme/rocks_status.h"
#include "storage/nvme/row_store.h"
#include "storage/nvme/store_core.h"
#include "storage/nvme/store_internal.h"

namespace engram {
namespace {

class RocksStore final : public Store {
 public:
  explicit RocksStore(StoreParts parts) : parts_(std::move(parts)) {}

  // Drops column families and staging folders that no catalog record stands for.
  absl::Status CleanUp();

  std::string Describe() const override { return parts_.core->Describe(); }
  std::vector<TableRecord> List() const override { return parts_.catalog->List(); }
  absl::StatusOr<TableRecord> Find(absl::string_view name, VersionId version) const override {
    ENGRAM_ASSIGN_OR_RETURN(CatalogRecord record, parts_.catalog->Find(name, version));
    return std::move(record.table);
  }
  absl::StatusOr<std::unique_ptr<BulkWriter>> BeginLoad(const TableSpec& spec,
                                                        const TokenMap* token_map) override {
    return BeginBulkLoad(parts_, spec, token_map);
  }
  absl::StatusOr<std::optional<TokenMap>> ReadTokenMap(absl::string_view name,
                                                       VersionId version) const override {
    ENGRAM_ASSIGN_OR_RETURN(const CatalogRecord record, parts_.catalog->Find(name, version));
    return parts_.catalog->ReadTokenMap(record.table.spec);
  }
  absl::StatusOr<std::vector<LayerLayout>> Layout(absl::string_view name,
                                                  VersionId version) const override;
  absl::Status CheckChunkFile(absl::string_view name, VersionId version,
                              const Chunk& chunk) const override {
    return CheckOneChunkFile(parts_, {std::string(name), version}, chunk);
  }
  absl::Status RepairChunk(absl::string_view name, VersionId version, const Chunk& chunk,
                           RowReader read, const std::atomic<bool>& cancelled,
                           std::atomic<uint64_t>& rows_written) override {
    return RepairOneChunk(parts_, {std::string(name), version}, chunk, read, cancelled,
                          rows_written);
  }
  absl::Status Activate(absl::string_view name, VersionId version) override {
    return parts_.catalog->Activate(name, version);
  }
  absl::Status Drop(absl::string_view name, VersionId version) override;
  absl::StatusOr<std::unique_ptr<LayerReader>> OpenLayer(absl::string_view name, VersionId version,
                                                         LayerId layer,
                                                         PageReadCounters* counters) override;

 private:
  const StoreParts parts_;
};

absl::Status RocksStore::CleanUp() {
  for (const std::string& name : parts_.families->Names()) {
    const absl::StatusOr<VersionName> version = ParseVersionLabel(name);
    if (!version.ok() || parts_.catalog->Knows(*version)) continue;
    ENGRAM_LOG(kInfo) << "finishing an interrupted drop of " << name;
    ENGRAM_RETURN_IF_ERROR(parts_.families->Drop(name));
  }
  const std::string directory = parts_.core->load_directory();
  std::vector<std::string> left_over;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string label = entry->path().filename().string();
    const absl::StatusOr<VersionName> version = ParseVersionLabel(label);
    if (!version.ok()) continue;  // not ours
    const absl::StatusOr<CatalogRecord> record =
        parts_.catalog->Find(version->name, version->version);
    const bool published = record.ok() && record->table.state == TableState::kPublished;
    if (published && !FinishRepairs(parts_, *record)) continue;
    if (published || !parts_.catalog->Knows(*version)) left_over.push_back(label);
  }
  if (error) return FromErrno(error.value(), "listing " + directory);
  for (const std::string& label : left_over) {
    ENGRAM_RETURN_IF_ERROR(parts_.core->RemoveStaging(label));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<LayerLayout>> RocksStore::Layout(absl::string_view name,
                                                            VersionId version) const {
  ENGRAM_ASSIGN_OR_RETURN(const CatalogRecord record, parts_.catalog->Find(name, version));
  const bool published = record.table.state == TableState::kPublished;
  std::vector<LayerLayout> layers;
  for (const LayerSpec& layer : record.table.spec.layers) {
    const PageGeometry& geometry = *record.FindGeometry(layer.id);
    const std::shared_ptr<ColumnFamily> family =
        published ? parts_.families->Find(FamilyName(name, version, layer.id)) : nullptr;
    layers.push_back({layer.id, geometry.rows_per_page, geometry.block_bytes,
                      family == nullptr ? 0 : family->DiskBytes()});
  }
  return layers;
}

absl::Status RocksStore::Drop(absl::string_view name, VersionId version) {
  const VersionName key{std::string(name), version};
  parts_.core->GiveUpReserve();
  // From here on nobody finds the version; should we die, or the drive fail, before its files are
  // gone, the next Open removes them.
  ENGRAM_RETURN_IF_ERROR(parts_.catalog->Remove(key));
  parts_.core->internals().Step("removed from the catalog");
  absl::Status status = parts_.families->DropAll(key);
  if (status.ok()) {
    parts_.core->internals().Step("families dropped");
    ForgetDamageIfWhole(parts_);
    status = parts_.core->RemoveStaging(VersionLabel(name, version));
  }
  if (!status.ok()) {
    ENGRAM_LOG(kError) << status.message() << "; " << VersionLabel(name, version)
                       << " is dropped, but the rest of its files goes with the next start";
  }
  parts_.core->TakeReserve();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LayerReader>> RocksStore::OpenLayer(absl::string_view name,
                                                                   VersionId version, LayerId layer,
                                                                   PageReadCounters* counters) {
  ENGRAM_ASSIGN_OR_RETURN(const CatalogRecord record, parts_.catalog->Find(name, version));
  if (record.table.state != TableState::kPublished) {
    return absl::FailedPreconditionError(absl::StrCat("table ", name, " version ", Raw(version),
                                                      " is still being loaded; finish its load"));
  }
  if (record.FindGeometry(layer) == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("table ", name, " version ", Raw(version), " has no layer ", Raw(layer)));
  }
  std::shared_ptr<ColumnFamily> family = parts_.families->Find(FamilyName(name, version, layer));
  if (family == nullptr) {
    return absl::DataLossError(absl::StrCat("table ", name, " version ", Raw(version), " layer ",
                                            Raw(layer),
                                            ": its column family is gone; drop the version and "
                                            "load it again"));
  }
  return NewLayerReader(std::move(family), record, layer, counters);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenStore(const StoreOptions& options,
                                                 const StoreInternals& internals) {
  FamilyMap families;
  StoreParts parts;
  ENGRAM_ASSIGN_OR_RETURN(parts.core, StoreCore::Open(options, internals, &families));
  parts.families = std::make_shared<Families>(std::move(families));
  ENGRAM_ASSIGN_OR_RETURN(parts.catalog, Catalog::Load(parts.core));
  auto store = std::make_unique<RocksStore>(std::move(parts));
  ENGRAM_RETURN_IF_ERROR(store->CleanUp());
  return std::unique_ptr<Store>(std::move(store));
}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const StoreOptions& options) {
  return OpenStore(options, StoreInternals());
}

}  // namespace engram
