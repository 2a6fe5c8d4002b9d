#include "tests/unit/storage/nvme/edit_catalog.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <memory>
#include <vector>

namespace engram {

void EditCatalog(const std::string& directory, const std::string& key, const std::string& value) {
  rocksdb::Options options;
  std::vector<std::string> names;
  ASSERT_TRUE(rocksdb::DB::ListColumnFamilies(options, directory + "/db", &names).ok());
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : names) families.emplace_back(name, options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open(options, directory + "/db", families, &handles, &db).ok());
  const std::unique_ptr<rocksdb::DB> owner(db);
  EXPECT_TRUE(db->Put(rocksdb::WriteOptions(), key, value).ok());
  for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
}

}  // namespace engram
