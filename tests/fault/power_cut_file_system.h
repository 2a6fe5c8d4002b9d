// The file system over a PowerCutDisk.
#ifndef ENGRAM_TESTS_FAULT_POWER_CUT_FILE_SYSTEM_H_
#define ENGRAM_TESTS_FAULT_POWER_CUT_FILE_SYSTEM_H_

#include <rocksdb/file_system.h>

#include <memory>

#include "tests/fault/power_cut_disk.h"

namespace engram {

// `disk` must outlive it, and every file opened through it.
std::shared_ptr<rocksdb::FileSystem> NewPowerCutFileSystem(
    std::shared_ptr<rocksdb::FileSystem> base, PowerCutDisk* disk);

}  // namespace engram

#endif  // ENGRAM_TESTS_FAULT_POWER_CUT_FILE_SYSTEM_H_
