#include "storage/dram/segment.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace engram {
namespace {

using dram::SegmentHeader;

constexpr uint64_t kBytes = uint64_t{3} << 20;

class SegmentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = "/dev/shm/engram_segment_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    parent_ = path;
    Open();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(parent_);
  }
  void Open() {
    store_.reset();
    auto store = SegmentStore::Open(parent_, "s");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  static SegmentHeader Header(uint32_t index, const char* digest = "d1") {
    SegmentHeader header{};
    header.mode = dram::Mode::kResident;
    header.row_bytes = 264;
    header.layer = 14;
    header.layer_rows = 1000;
    header.page_bytes = dram::kPageBytes;
    header.per_segment = 100;
    header.index = index;
    std::strcpy(header.table_digest, digest);
    return header;
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(parent_ + "/s")) {
      if (entry.path().filename() != "control") files.push_back(entry.path().string());
    }
    return files;
  }

  std::string parent_;
  std::unique_ptr<SegmentStore> store_;
};

TEST_F(SegmentTest, IsAllocatedPrivateAndFoundById) {
  auto made = store_->Create(Header(0), kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  const std::shared_ptr<Segment> segment = *made;
  EXPECT_EQ(segment->bytes(), kBytes);
  struct stat found {};
  ASSERT_EQ(::fstat(segment->share_fd(), &found), 0);
  EXPECT_EQ(found.st_size, static_cast<off_t>(kBytes));
  EXPECT_GE(uint64_t{static_cast<uint64_t>(found.st_blocks)} * 512, kBytes);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  EXPECT_EQ(::fcntl(segment->share_fd(), F_GETFL) & O_ACCMODE, O_RDONLY);
  for (uint64_t at = sizeof(SegmentHeader); at < kBytes; ++at) {
    ASSERT_EQ(segment->data()[at], std::byte{0}) << at;
  }
  EXPECT_EQ(store_->Find(segment->id()), segment);
  EXPECT_EQ(store_->Find(segment->id() + 1), nullptr);
  ASSERT_EQ(::stat((parent_ + "/s").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700u);
}

TEST_F(SegmentTest, DiscardTakesThePagesFromWhoeverMapsThem) {
  auto made = store_->Create(Header(0), kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  std::memset((*made)->data() + dram::kHeaderBytes, 7, kBytes - dram::kHeaderBytes);
  const auto* const mapped = static_cast<const std::byte*>(
      ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, (*made)->share_fd(), 0));
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_EQ(mapped[kBytes - 1], std::byte{7});
  const uint64_t generation = store_->generation();
  store_->Advance();
  EXPECT_EQ(store_->generation(), generation + 1);
  (*made)->Discard();
  EXPECT_TRUE(Files().empty());
  struct stat found {};
  ASSERT_EQ(::fstat((*made)->share_fd(), &found), 0);
  EXPECT_EQ(found.st_blocks, 0);
  EXPECT_EQ(mapped[kBytes - 1], std::byte{0});
  ::munmap(const_cast<std::byte*>(mapped), kBytes);
}

TEST_F(SegmentTest, TheNextStoreFindsWhatIsLeft) {
  for (const uint32_t index : {2u, 0u, 1u}) {
    auto made = store_->Create(Header(index), kBytes);
    ASSERT_TRUE(made.ok()) << made.status();
    (*made)->data()[kBytes - 1] = static_cast<std::byte>(index + 1);
  }
  ASSERT_TRUE(store_->Create(Header(0, "d2"), kBytes).ok());
  Open();
  EXPECT_EQ(store_->leftover_bytes(), 4 * kBytes);
  const auto adopted = store_->Adopt(Header(0));
  ASSERT_EQ(adopted.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(adopted[i]->header().index, i);
    EXPECT_EQ(adopted[i]->data()[kBytes - 1], static_cast<std::byte>(i + 1));
    EXPECT_EQ(store_->Find(adopted[i]->id()), adopted[i]);
  }
  EXPECT_TRUE(store_->Adopt(Header(0)).empty());
  // A new one does not take the name of an old one.
  auto made = store_->Create(Header(9), kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(adopted[0]->data()[kBytes - 1], std::byte{1});
  store_->TrimLeftovers([](const SegmentHeader& header, uint64_t bytes) {
    EXPECT_STREQ(header.table_digest, "d2");
    EXPECT_EQ(bytes, kBytes);
    return false;
  });
  EXPECT_EQ(store_->leftover_bytes(), 0u);
  EXPECT_EQ(Files().size(), 4u);
}

TEST_F(SegmentTest, TheEarlierControlPageIsRetired) {
  const int fd = ::dup(store_->control_fd());
  const auto* const page = static_cast<const dram::ControlPage*>(
      ::mmap(nullptr, dram::kControlBytes, PROT_READ, MAP_SHARED, fd, 0));
  ASSERT_NE(page, MAP_FAILED);
  const uint64_t seen = dram::Generation(*page);
  EXPECT_TRUE(dram::SameGeneration(*page, seen));
  // As after kill -9: the page is still there when the next store comes.
  const std::string path = parent_ + "/s/control";
  ASSERT_EQ(::link(path.c_str(), (parent_ + "/kept").c_str()), 0);
  store_.reset();
  EXPECT_EQ(dram::Generation(*page), dram::kRetired);
  EXPECT_FALSE(dram::SameGeneration(*page, seen));
  EXPECT_FALSE(dram::SameGeneration(*page, dram::kRetired));
  Open();
  EXPECT_NE(store_->generation(), dram::kRetired);
  ::munmap(const_cast<dram::ControlPage*>(page), dram::kControlBytes);
  ::close(fd);
}

TEST_F(SegmentTest, RefusesWhatIsNoSegment) {
  ASSERT_TRUE(store_->Create(Header(0), kBytes).ok());
  store_.reset();
  const std::string file = Files().at(0);
  std::string bytes(dram::kHeaderBytes, '\0');
  std::ifstream(file, std::ios::binary)
      .read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  // Each byte that the checksum covers, and each length.
  for (size_t i = 0; i < offsetof(SegmentHeader, checksum) + 8; i += 3) {
    std::string bad = bytes;
    bad[i] = static_cast<char>(bad[i] ^ 4);
    std::ofstream(file, std::ios::binary) << bad;
    Open();
    EXPECT_EQ(store_->leftover_bytes(), 0u) << i;
    EXPECT_TRUE(Files().empty()) << i;
  }
  for (const size_t length : {0, 1, 100, 4095}) {
    std::ofstream(file, std::ios::binary) << bytes.substr(0, length);
    Open();
    EXPECT_EQ(store_->leftover_bytes(), 0u) << length;
  }
  // Good in all but that it has holes.
  std::ofstream(file, std::ios::binary) << bytes;
  std::filesystem::resize_file(file, kBytes);
  Open();
  EXPECT_EQ(store_->leftover_bytes(), 0u);
}

TEST_F(SegmentTest, ADirectoryOfSomebodyElseIsRefused) {
  store_.reset();
  std::filesystem::remove_all(parent_ + "/s");
  std::filesystem::create_directory(parent_ + "/elsewhere");
  std::filesystem::create_symlink(parent_ + "/elsewhere", parent_ + "/s");
  EXPECT_FALSE(SegmentStore::Open(parent_, "s").ok());
  std::filesystem::remove(parent_ + "/s");
  ASSERT_EQ(::mkdir((parent_ + "/s").c_str(), 0755), 0);
  EXPECT_EQ(SegmentStore::Open(parent_, "s").status().code(),
            absl::StatusCode::kFailedPrecondition);
  if (::geteuid() == 0) {
    ASSERT_EQ(::chmod((parent_ + "/s").c_str(), 0700), 0);
    ASSERT_EQ(::chown((parent_ + "/s").c_str(), 65534, 65534), 0);
    EXPECT_EQ(SegmentStore::Open(parent_, "s").status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  std::filesystem::remove(parent_ + "/s");
  EXPECT_EQ(SegmentStore::Open(parent_ + "/none", "s").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(SegmentStore::Open(::testing::TempDir(), "s").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SegmentTest, TooMuchIsRefusedAndLeavesNothing) {
  const auto made = store_->Create(Header(0), uint64_t{1} << 50);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(made.status().message().find("--shm-size"), std::string::npos) << made.status();
  EXPECT_TRUE(Files().empty());
}

// Where the administrator has reserved huge pages and mounted a hugetlbfs that we may write to;
// else it is skipped. (vm.nr_hugepages=8; mount -t hugetlbfs none /mnt/huge)
TEST(HugePageTest, SegmentsInHugetlbfsAreMadeSharedFoundAgainAndGivenBack) {
  std::string mount;
  std::ifstream mounts("/proc/mounts");
  for (std::string device, path, kind, rest; mounts >> device >> path >> kind;) {
    std::getline(mounts, rest);
    if (kind == "hugetlbfs" && ::access(path.c_str(), W_OK) == 0) mount = path;
  }
  if (mount.empty()) GTEST_SKIP() << "no hugetlbfs is mounted that this user may write to";
  std::string parent = mount + "/engram_segment_XXXXXX";
  ASSERT_NE(::mkdtemp(parent.data()), nullptr);
  auto store = SegmentStore::Open(parent, "s");
  ASSERT_TRUE(store.ok()) << store.status();
  const uint64_t page = (*store)->page_bytes();
  const uint64_t free = (*store)->FreeBytes();
  EXPECT_GE(page, dram::kHugePageBytes);
  if (free < 3 * page) {
    std::filesystem::remove_all(parent);
    GTEST_SKIP() << "only " << free << " bytes of huge pages are free";
  }
  EXPECT_NE((*store)->description().find("hugetlbfs " + parent), std::string::npos);
  SegmentHeader header{};
  header.mode = dram::Mode::kResident;
  header.row_bytes = 264;
  header.layer_rows = 1000;
  header.page_bytes = page;
  header.per_segment = 1000;
  {
    const auto made = (*store)->Create(header, 2 * page);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ((*made)->huge_bytes(), 2 * page);
    EXPECT_LE((*store)->FreeBytes(), free - 2 * page);
    (*made)->data()[page + 5] = std::byte{42};
    const auto* const mapped = static_cast<const std::byte*>(
        ::mmap(nullptr, 2 * page, PROT_READ, MAP_SHARED, (*made)->share_fd(), 0));
    ASSERT_NE(mapped, MAP_FAILED);
    EXPECT_EQ(mapped[page + 5], std::byte{42});
    ::munmap(const_cast<std::byte*>(mapped), 2 * page);
    EXPECT_EQ((*store)->Create(header, free).status().code(), absl::StatusCode::kResourceExhausted);
  }
  store->reset();
  store = SegmentStore::Open(parent, "s");
  ASSERT_TRUE(store.ok()) << store.status();
  const std::vector<std::shared_ptr<Segment>> found = (*store)->Adopt(header);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0]->data()[page + 5], std::byte{42});
  EXPECT_EQ(found[0]->huge_bytes(), 2 * page);
  const auto* const mapped = static_cast<const std::byte*>(
      ::mmap(nullptr, 2 * page, PROT_READ, MAP_SHARED, found[0]->share_fd(), 0));
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_EQ(mapped[page + 5], std::byte{42});
  found[0]->Discard();                            // also of what is still mapped
  EXPECT_GE((*store)->FreeBytes() + page, free);  // the control page has one
  ::munmap(const_cast<std::byte*>(mapped), 2 * page);
  store->reset();
  std::filesystem::remove_all(parent);
}

TEST(AnonymousStoreTest, SharesNothing) {
  const std::unique_ptr<SegmentStore> store = SegmentStore::Anonymous();
  EXPECT_FALSE(store->shared());
  EXPECT_EQ(store->control_fd(), -1);
  auto made = store->Create(SegmentHeader{}, kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ((*made)->share_fd(), -1);
  (*made)->Discard();
}

}  // namespace
}  // namespace engram
