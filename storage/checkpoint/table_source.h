// TableSource: the RowSource of every family, made from a spec and the tensors behind its layers.
//
// As row_source.h says; ReadRows checks what it is asked for, the rest is RowShards.
#ifndef ENGRAM_STORAGE_CHECKPOINT_TABLE_SOURCE_H_
#define ENGRAM_STORAGE_CHECKPOINT_TABLE_SOURCE_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "storage/checkpoint/checkpoint_dir.h"
#include "storage/checkpoint/row_shards.h"
#include "storage/checkpoint/row_source.h"

namespace engram {

using LayerRows = std::map<LayerId, std::unique_ptr<const RowShards>>;

class TableSource final : public RowSource {
 public:
  // Requires in `layers` every layer of `spec`, with its rows and row size, over files that
  // `directory` owns.
  TableSource(TableSpec spec, std::unique_ptr<CheckpointDir> directory, LayerRows layers,
              std::optional<TokenMap> map)
      : spec_(std::move(spec)),
        directory_(std::move(directory)),
        layers_(std::move(layers)),
        map_(std::move(map)) {}

  const TableSpec& spec() const override { return spec_; }
  const TokenMap* token_map() const override { return map_ ? &*map_ : nullptr; }
  absl::Status ReadRows(LayerId layer, uint64_t first, uint64_t count,
                        absl::Span<std::byte> out) const override;
  absl::StatusOr<std::unique_ptr<RowStream>> Stream(LayerId layer, uint64_t first, uint64_t count,
                                                    bool io_uring) const override;
  std::string HowRead(bool io_uring) const override;
  absl::Status CheckUnchanged() const override;

 private:
  absl::StatusOr<const LayerSpec*> FindRows(LayerId layer, uint64_t first, uint64_t count) const;

  const TableSpec spec_;
  const std::unique_ptr<CheckpointDir> directory_;
  const LayerRows layers_;
  const std::optional<TokenMap> map_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_TABLE_SOURCE_H_
