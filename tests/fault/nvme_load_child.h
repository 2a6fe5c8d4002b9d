// The table that nvme_load_child loads and nvme_kill_test checks.
#ifndef ENGRAM_TESTS_FAULT_NVME_LOAD_CHILD_H_
#define ENGRAM_TESTS_FAULT_NVME_LOAD_CHILD_H_

#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {

inline TableSpec KillSpec() { return MakeSpec("m", 1, {{1, 3000, 264}, {14, 1200, 160}}); }

}  // namespace engram

#endif  // ENGRAM_TESTS_FAULT_NVME_LOAD_CHILD_H_
