#ifndef ENGRAM_TESTS_UNIT_STORAGE_NVME_EDIT_CATALOG_H_
#define ENGRAM_TESTS_UNIT_STORAGE_NVME_EDIT_CATALOG_H_

#include <string>

namespace engram {

// Changes a record below the Store, as another program or another release would. `directory` is
// a Store's, which must be closed.
void EditCatalog(const std::string& directory, const std::string& key, const std::string& value);

}  // namespace engram

#endif  // ENGRAM_TESTS_UNIT_STORAGE_NVME_EDIT_CATALOG_H_
