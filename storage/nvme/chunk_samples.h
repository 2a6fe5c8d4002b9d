// Whether a finished chunk still is what its checkpoint holds: a few pages of both are compared.
//
// To read a finished chunk again whole would cost as much as to load it again. A checkpoint whose
// rows were replaced under the same names, sizes and times, as some copying tools do, differs
// nearly everywhere, and a few pages of each chunk tell; a single changed row they mostly miss,
// and `verify` finds.
#ifndef ENGRAM_STORAGE_NVME_CHUNK_SAMPLES_H_
#define ENGRAM_STORAGE_NVME_CHUNK_SAMPLES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "storage/nvme/page.h"
#include "storage/nvme/store.h"

namespace rocksdb {
struct Options;
}

namespace engram {

// Of each chunk: its first page, its last, and some between.
inline constexpr uint64_t kSampledPages = 16;

// Compares pages of the chunk's file with what `read` gives. FailedPrecondition: they differ.
// DataLoss, NotFound: the file is damaged or gone. Other errors are those of `read`. The texts say
// what to do. Blocks.
absl::Status CompareSamples(const rocksdb::Options& options, const std::string& file,
                            const Chunk& chunk, const PageGeometry& geometry, RowReader read);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_CHUNK_SAMPLES_H_
