// The catalog's records and keys as text; FORMAT.md describes them for people.
//
// Pure functions; safe from any thread.
#ifndef ENGRAM_STORAGE_NVME_CATALOG_RECORD_H_
#define ENGRAM_STORAGE_NVME_CATALOG_RECORD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/nvme/page.h"
#include "storage/nvme/store.h"

namespace engram {

// Of every record. A record of another version belongs to another release of the daemon.
inline constexpr int kCatalogFormat = 1;

inline constexpr char kTablePrefix[] = "table/";
inline constexpr char kActivePrefix[] = "active/";
inline constexpr char kChunkPrefix[] = "chunk/";
inline constexpr char kTokenMapPrefix[] = "tokens/";

// What the catalog knows of one version beyond what the Store shows.
struct CatalogRecord {
  TableRecord table;                   // `active` is not part of the stored text
  std::vector<PageGeometry> geometry;  // one for each layer of table.spec

  // Null when there is no such layer.
  const PageGeometry* FindGeometry(LayerId layer) const;
};

// That one chunk's file is whole and durable.
struct ChunkRecord {
  std::string digest;
  uint64_t file_bytes = 0;
};

std::string TableKey(absl::string_view name, VersionId version);
std::string ActiveKey(absl::string_view name);
std::string TokenMapKey(absl::string_view name, VersionId version);
std::string ChunkPrefix(absl::string_view name, VersionId version);
std::string ChunkKey(absl::string_view name, VersionId version, const Chunk& chunk);

// "NAME@VERSION": names the staging folder; and what its column families begin with.
std::string VersionLabel(absl::string_view name, VersionId version);
// "NAME@VERSION/LAYER"
std::string FamilyName(absl::string_view name, VersionId version, LayerId layer);

// The version that a table key, a column family or a staging folder belongs to, whatever its
// record may say. InvalidArgument when it is none.
struct VersionName {
  std::string name;
  VersionId version{};
  auto operator<=>(const VersionName&) const = default;
};
absl::StatusOr<VersionName> ParseTableKey(absl::string_view key);
absl::StatusOr<VersionName> ParseVersionLabel(absl::string_view label_or_family);

std::string EncodeTableRecord(const CatalogRecord& record);
// DataLoss naming `key`: the text cannot be read, or its chunks do not make up its layers.
// FailedPrecondition: another format version.
absl::StatusOr<CatalogRecord> DecodeTableRecord(absl::string_view key, absl::string_view text);

std::string EncodeChunkRecord(const Chunk& chunk, uint64_t file_bytes);
// DataLoss naming `key`, also when the record is of other rows than `chunk`.
absl::StatusOr<ChunkRecord> DecodeChunkRecord(absl::string_view key, absl::string_view text,
                                              const Chunk& chunk);

std::string EncodeActiveRecord(VersionId version);
absl::StatusOr<VersionId> DecodeActiveRecord(absl::string_view key, absl::string_view text);

// Over the spec, as TableSpecToJson wrote it into the record, and every chunk's digest. The stored
// text counts, not the fields: a spec that grows in a later release keeps old digests valid.
std::string TableDigest(absl::string_view spec_json, absl::Span<const Chunk> chunks);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_CATALOG_RECORD_H_
