// The NVMe tier: rows out of one layer's column family.
#ifndef ENGRAM_STORAGE_NVME_ROW_STORE_H_
#define ENGRAM_STORAGE_NVME_ROW_STORE_H_

#include <memory>

#include "storage/nvme/catalog_record.h"
#include "storage/nvme/store.h"
#include "storage/nvme/store_core.h"

namespace engram {

// Requires: the record has the layer, and `family` holds all its pages. `counters` may be null.
std::unique_ptr<LayerReader> NewLayerReader(std::shared_ptr<ColumnFamily> family,
                                            const CatalogRecord& record, LayerId layer,
                                            PageReadCounters* counters);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_ROW_STORE_H_
