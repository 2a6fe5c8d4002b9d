// The faults themselves: what a plan does to reads of each kind, and that its seed repeats it.
#include "tests/fault/fault_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <set>

#include "tests/fault/fault_plan.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

using rocksdb::FSReadRequest;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 200;

std::string Content() {
  std::string content(kPage * kPages, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(Mix(i));
  return content;
}

// A read that is done when somebody polls for it, as through io_uring.
struct LateRead {
  rocksdb::FSRandomAccessFile* file;
  FSReadRequest* request;
  std::function<void(const FSReadRequest&, void*)> done;
  void* argument;
};

class LateFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  using FSRandomAccessFileOwnerWrapper::FSRandomAccessFileOwnerWrapper;

  IOStatus ReadAsync(FSReadRequest& request, const IOOptions&,
                     std::function<void(const FSReadRequest&, void*)> done, void* argument,
                     void** handle, rocksdb::IOHandleDeleter* deleter,
                     rocksdb::IODebugContext*) override {
    *handle = new LateRead{this, &request, std::move(done), argument};
    *deleter = [](void* of) { delete static_cast<LateRead*>(of); };
    return IOStatus::OK();
  }
};

class LateFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  LateFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "LateFileSystem"; }

  IOStatus NewRandomAccessFile(const std::string& name, const rocksdb::FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               rocksdb::IODebugContext* debug) override {
    std::unique_ptr<rocksdb::FSRandomAccessFile> base;
    IOStatus status = target()->NewRandomAccessFile(name, options, &base, debug);
    if (status.ok()) *result = std::make_unique<LateFile>(std::move(base));
    return status;
  }
  IOStatus Poll(std::vector<void*>& handles, size_t) override {
    for (void* handle : handles) {
      LateRead& read = *static_cast<LateRead*>(handle);
      FSReadRequest& request = *read.request;
      request.status = read.file->Read(request.offset, request.len, IOOptions(), &request.result,
                                       request.scratch, nullptr);
      read.done(request, read.argument);
    }
    return IOStatus::OK();
  }
};

enum class Way { kRead, kMultiRead, kAsync };

class FaultFileSystemTest : public testing::TestWithParam<Way> {
 protected:
  FaultFileSystemTest() { std::ofstream(path_, std::ios::binary) << content_; }

  // What each page's read came to: "error", "short", "flipped" or "well".
  std::vector<std::string> ReadAll(uint64_t seed, const FaultHook& hook) {
    const auto plan = std::make_shared<FaultPlan>(
        seed, FaultPlan::Rates{.error = 0.2, .short_read = 0.2, .bit_flip = 0.2});
    FaultFileSystem files(
        std::make_shared<LateFileSystem>(), hook,
        [plan](const std::string& file, FSReadRequest& read) { plan->Spoil(file, read); });
    std::unique_ptr<rocksdb::FSRandomAccessFile> file;
    EXPECT_TRUE(files.NewRandomAccessFile(path_, rocksdb::FileOptions(), &file, nullptr).ok());
    std::vector<std::string> outcomes;
    for (size_t page = 0; page < kPages; ++page) outcomes.push_back(ReadPage(files, *file, page));
    return outcomes;
  }

  std::string ReadPage(rocksdb::FileSystem& files, rocksdb::FSRandomAccessFile& file, size_t page) {
    std::string scratch(kPage, '\0');
    FSReadRequest request;
    request.offset = page * kPage;
    request.len = kPage;
    request.scratch = scratch.data();
    std::string outcome = "never called back";
    const auto judge = [&](const FSReadRequest& read, void*) {
      const std::string expected = content_.substr(page * kPage, read.result.size());
      outcome = !read.status.ok()                    ? "error"
                : read.result.size() < kPage         ? "short"
                : read.result.ToString() != expected ? "flipped"
                                                     : "well";
    };
    if (GetParam() == Way::kRead) {
      request.status =
          file.Read(request.offset, kPage, IOOptions(), &request.result, scratch.data(), nullptr);
      judge(request, nullptr);
    } else if (GetParam() == Way::kMultiRead) {
      EXPECT_TRUE(file.MultiRead(&request, 1, IOOptions(), nullptr).ok());
      judge(request, nullptr);
    } else {
      void* handle = nullptr;
      rocksdb::IOHandleDeleter deleter;
      EXPECT_TRUE(
          file.ReadAsync(request, IOOptions(), judge, nullptr, &handle, &deleter, nullptr).ok());
      std::vector<void*> handles = {handle};
      EXPECT_EQ(outcome, "never called back");
      EXPECT_TRUE(files.Poll(handles, 1).ok());
      deleter(handle);
    }
    return outcome;
  }

  const TestDirectory directory_;
  const std::string path_ = directory_ / "000001.sst";
  const std::string content_ = Content();
};

const FaultHook kNoFault = [](FileOp, const std::string&, uint64_t, size_t) {
  return IOStatus::OK();
};

TEST_P(FaultFileSystemTest, EveryKindIsDoneAndTheSeedRepeatsIt) {
  const std::vector<std::string> first = ReadAll(TestSeed(), kNoFault);
  EXPECT_EQ(std::set<std::string>(first.begin(), first.end()),
            (std::set<std::string>{"error", "short", "flipped", "well"}));
  EXPECT_EQ(ReadAll(TestSeed(), kNoFault), first);
  EXPECT_NE(ReadAll(TestSeed() + 1, kNoFault), first);
}

TEST_P(FaultFileSystemTest, TheHookFailsReadsToo) {
  const std::vector<std::string> outcomes =
      ReadAll(TestSeed(), [](FileOp op, const std::string&, uint64_t offset, size_t bytes) {
        EXPECT_EQ(op, FileOp::kRead);
        EXPECT_EQ(bytes, kPage);
        return offset == 7 * kPage ? IOStatus::IOError("page 7") : IOStatus::OK();
      });
  EXPECT_EQ(outcomes[7], "error");
}

INSTANTIATE_TEST_SUITE_P(Ways, FaultFileSystemTest,
                         testing::Values(Way::kRead, Way::kMultiRead, Way::kAsync));

}  // namespace
}  // namespace engram
