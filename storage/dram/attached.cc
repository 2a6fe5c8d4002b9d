#include "storage/dram/attached.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/gather.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14
#endif

namespace engram {
namespace {

using dram::HandoverKind;
using dram::HandoverReply;
using dram::HandoverRequest;
using dram::HandoverStatus;

constexpr int kPatienceMs = 1000;

absl::Status Unavailable(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("shared memory: ", what));
}
absl::Status Failed(absl::string_view what) {
  return Unavailable(absl::StrCat(what, ": ", std::strerror(errno)));
}

const char* Meaning(HandoverStatus status) {
  switch (status) {
    case HandoverStatus::kOk:
      return "ok";
    case HandoverStatus::kGone:
      return "what was asked for is gone already";
    case HandoverStatus::kOtherLayout:
      return "the daemon's layout is of another version: use a client of its release";
    case HandoverStatus::kTooManyClients:
      return "too many clients are attached";
    case HandoverStatus::kRefused:
      return "the daemon gives no memory that may be written: hbm_memory is not gpu-writable";
  }
  return "an unknown answer";
}

// The descriptors of a message, each owned from now on.
std::vector<UniqueFd> TakeDescriptors(const msghdr& message) {
  std::vector<UniqueFd> files;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(const_cast<msghdr*>(&message), header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      files.emplace_back(fd);
    }
  }
  return files;
}

}  // namespace

absl::StatusOr<std::shared_ptr<MappedSegment>> MappedSegment::Map(UniqueFd file, bool populate,
                                                                  bool writable) {
  struct stat found {};
  if (::fstat(file.get(), &found) != 0) return Failed("fstat");
  const auto bytes = static_cast<uint64_t>(found.st_size);
  if (bytes < dram::kHeaderBytes) return Unavailable("a segment is too small");
  AlignedMap map =
      AlignedMap::Map(file.get(), bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ);
  if (!map.valid()) return Failed("mmap");
  // So that the first look-ups do not pay for page faults. Of small pages there are too many.
  if (populate) (void)::madvise(map.data(), bytes, MADV_POPULATE_READ);
  return std::shared_ptr<MappedSegment>(new MappedSegment(std::move(map)));
}

absl::StatusOr<std::shared_ptr<AttachLink>> AttachLink::Connect(const std::string& path,
                                                                uint64_t instance) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Unavailable(absl::StrCat("the path ", path, " is too long for a socket"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  std::shared_ptr<AttachLink> link(new AttachLink());
  link->socket_ = UniqueFd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!link->socket_.valid() ||
      ::connect(link->socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return Failed(absl::StrCat("cannot connect to ", path));
  }
  ENGRAM_RETURN_IF_ERROR(link->Hello(instance));
  link->stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!link->stop_.valid()) return Failed("eventfd");
  link->watcher_ = std::thread([watched = link.get()] { watched->Watch(); });
  return link;
}

AttachLink::~AttachLink() {
  if (watcher_.joinable()) {
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof(one));
    watcher_.join();
  }
  if (control_ != nullptr) {
    ::munmap(const_cast<dram::ControlPage*>(control_), control_bytes_);
  }
  if (ring_ != nullptr) ::munmap(ring_, dram::kRingBytes);
}

// Only for the end of the connection: what the daemon sends is an answer, and read by who asked.
void AttachLink::Watch() {
  std::array<pollfd, 2> files = {pollfd{socket_.get(), POLLRDHUP, 0},
                                 pollfd{stop_.get(), POLLIN, 0}};
  while (::poll(files.data(), files.size(), -1) < 0 && errno == EINTR) {
  }
  ended_.store(true, std::memory_order_relaxed);
}

absl::Status AttachLink::Hello(uint64_t instance) {
  HandoverRequest request;
  request.layout_version = dram::kLayoutVersion;
  MutexLock lock(mutex_);
  instance_ = instance;
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<UniqueFd> files, Ask(request));
  if (files.size() != 2) return Unavailable("the daemon's answer has not the descriptors it says");
  struct stat control {};
  struct stat ring {};
  if (::fstat(files[0].get(), &control) != 0 || ::fstat(files[1].get(), &ring) != 0 ||
      static_cast<uint64_t>(control.st_size) < dram::kControlBytes ||
      static_cast<uint64_t>(ring.st_size) < dram::kRingBytes) {
    return Unavailable("the daemon's control page or ring is too small");
  }
  control_bytes_ = static_cast<uint64_t>(control.st_size);
  void* page = ::mmap(nullptr, control_bytes_, PROT_READ, MAP_SHARED, files[0].get(), 0);
  if (page == MAP_FAILED) return Failed("mmap");
  control_ = static_cast<const dram::ControlPage*>(page);
  page = ::mmap(nullptr, dram::kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, files[1].get(), 0);
  if (page == MAP_FAILED) return Failed("mmap");
  ring_ = static_cast<dram::AccessRing*>(page);
  if (control_->magic != dram::kControlMagic) return Unavailable("no control page");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<UniqueFd>> AttachLink::Ask(const HandoverRequest& request) {
  if (::send(socket_.get(), &request, sizeof(request), MSG_NOSIGNAL) != sizeof(request)) {
    return Failed("cannot ask the daemon");
  }
  pollfd readable{socket_.get(), POLLIN, 0};
  if (::poll(&readable, 1, kPatienceMs) <= 0) return Unavailable("the daemon does not answer");
  HandoverReply reply;
  iovec part{&reply, sizeof(reply)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(dram::kSegmentsAtOnce * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (size < 0) return Failed("no answer from the daemon");
  std::vector<UniqueFd> files = TakeDescriptors(message);
  if (size != sizeof(reply) || reply.magic != dram::kHandoverMagic) {
    return Unavailable("the daemon's answer cannot be read");
  }
  if (reply.status != HandoverStatus::kOk) return Unavailable(Meaning(reply.status));
  if (reply.instance != instance_) return Unavailable("another daemon answers there");
  if ((message.msg_flags & MSG_CTRUNC) != 0 || files.size() != reply.count) {
    return Unavailable("descriptors were lost: raise the limit of open files (ulimit -n)");
  }
  return files;
}

absl::StatusOr<std::vector<std::shared_ptr<MappedSegment>>> AttachLink::Segments(
    absl::Span<const uint64_t> ids, bool populate) {
  MutexLock lock(mutex_);
  std::erase_if(mapped_, [](const auto& entry) { return entry.second.expired(); });
  std::vector<std::shared_ptr<MappedSegment>> segments(ids.size());
  std::vector<size_t> wanted;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (const auto found = mapped_.find(ids[i]); found != mapped_.end()) {
      segments[i] = found->second.lock();
    }
    if (segments[i] == nullptr) wanted.push_back(i);
  }
  std::vector<uint64_t> wanted_ids;
  for (const size_t i : wanted) wanted_ids.push_back(ids[i]);
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::shared_ptr<MappedSegment>> mapped,
                          MapNow(HandoverKind::kSegments, wanted_ids, populate));
  for (size_t i = 0; i < wanted.size(); ++i) {
    segments[wanted[i]] = mapped[i];
    mapped_[wanted_ids[i]] = mapped[i];
  }
  return segments;
}

absl::StatusOr<std::vector<std::shared_ptr<MappedSegment>>> AttachLink::MapNow(
    HandoverKind kind, absl::Span<const uint64_t> ids, bool populate) {
  std::vector<std::shared_ptr<MappedSegment>> segments;
  for (size_t first = 0; first < ids.size(); first += dram::kSegmentsAtOnce) {
    HandoverRequest request;
    request.kind = kind;
    request.count = static_cast<uint32_t>(std::min(dram::kSegmentsAtOnce, ids.size() - first));
    std::copy_n(ids.begin() + first, request.count, request.ids);
    ENGRAM_ASSIGN_OR_RETURN(std::vector<UniqueFd> files, Ask(request));
    if (files.size() != request.count) return Unavailable("the daemon sent too few descriptors");
    for (UniqueFd& file : files) {
      ENGRAM_ASSIGN_OR_RETURN(
          segments.emplace_back(),
          MappedSegment::Map(std::move(file), populate, kind == HandoverKind::kWritableSegments));
    }
  }
  return segments;
}

absl::StatusOr<std::vector<std::shared_ptr<MappedSegment>>> AttachLink::WritableSegments(
    absl::Span<const uint64_t> ids) {
  MutexLock lock(mutex_);
  return MapNow(HandoverKind::kWritableSegments, ids, false);
}

absl::StatusOr<UniqueFd> AttachLink::ArenaFile() {
  HandoverRequest request;
  request.kind = HandoverKind::kArena;
  MutexLock lock(mutex_);
  ENGRAM_ASSIGN_OR_RETURN(std::vector<UniqueFd> files, Ask(request));
  if (files.size() != 1) return Unavailable("the daemon sent no descriptor of its HBM tier");
  return std::move(files[0]);
}

AttachLink::Cell AttachLink::CellFor(uint32_t stack_id) {
  MutexLock lock(mutex_);
  for (uint32_t i = 0; i < cells_.size(); ++i) {
    if (cells_[i] == stack_id) return {&ring_->cells[i], i};
  }
  if (cells_.size() == dram::kRingCells) return {};
  const auto number = static_cast<uint32_t>(cells_.size());
  cells_.push_back(stack_id);
  std::atomic_ref<uint64_t>(ring_->cells[number].stack_id)
      .store(stack_id, std::memory_order_relaxed);
  return {&ring_->cells[number], number};
}

absl::StatusOr<std::unique_ptr<AttachedLayer>> AttachedLayer::Map(
    std::shared_ptr<AttachLink> link, const AttachedShape& description) {
  const dram::LayerShape& shape = description.shape;
  const bool buckets_fit = description.bucket_segments.empty()
                               ? shape.segments == 1 || shape.mode == dram::Mode::kResident
                               : description.bucket_segments.size() == dram::kBuckets &&
                                     shape.mode == dram::Mode::kCache;
  bool fits = buckets_fit && shape.segments == description.segment_ids.size() &&
              shape.segments > 0 && shape.per_segment > 0 && shape.row_bytes > 0 &&
              shape.page_bytes > 0;
  for (const uint16_t segment : description.bucket_segments) fits &= segment < shape.segments;
  if (shape.mode == dram::Mode::kResident) {
    fits &= shape.layer_rows > uint64_t{shape.per_segment} * (shape.segments - 1) &&
            shape.layer_rows <= uint64_t{shape.per_segment} * shape.segments;
  }
  if (!fits) return absl::FailedPreconditionError("shared memory: a description that cannot be");
  std::unique_ptr<AttachedLayer> layer(new AttachedLayer());
  ENGRAM_ASSIGN_OR_RETURN(layer->segments_,
                          link->Segments(description.segment_ids, description.huge_pages));
  std::vector<std::byte*> bases;
  for (uint32_t i = 0; i < shape.segments; ++i) {
    const MappedSegment& segment = *layer->segments_[i];
    const auto& header = *reinterpret_cast<const dram::SegmentHeader*>(segment.data());
    // The daemon's word and the memory's own: rows of another table would be wrong answers.
    if (segment.bytes() < shape.SegmentBytes(i) || header.magic != dram::kSegmentMagic ||
        header.layout_version != dram::kLayoutVersion ||
        header.checksum != dram::HeaderChecksum(header) || header.mode != shape.mode ||
        header.row_bytes != shape.row_bytes || header.layer != description.layer ||
        header.layer_rows != shape.layer_rows || header.per_segment != shape.per_segment ||
        header.table_digest != description.table_digest ||
        (shape.mode == dram::Mode::kResident && header.index != i)) {
      return absl::FailedPreconditionError(absl::StrCat("shared memory: a segment is not of layer ",
                                                        description.layer, " as it was described"));
    }
    bases.push_back(segment.data());
  }
  layer->view_ = dram::View(shape, std::move(bases), description.bucket_segments);
  layer->layer_ = description.layer;
  layer->description_ = description;
  layer->cell_ = link->CellFor(description.stack_id);
  layer->link_ = std::move(link);
  return layer;
}

namespace {

// What dram::Gather wants of a batch: all of `ids`. Hits cost nothing: they are what is left.
struct ClientBatch {
  static constexpr bool kReadsState = false;

  const uint32_t* ids;
  std::byte* out;
  size_t row_bytes;
  uint64_t dead = 0;

  uint32_t position(size_t i) const { return static_cast<uint32_t>(i); }
  uint32_t id(uint32_t position) const { return ids[position]; }
  std::byte* row(uint32_t position) const { return out + position * row_bytes; }
  void HitInSet(uint32_t /*position*/, const dram::Found& /*found*/) const {}
  void HitResident(uint32_t /*position*/) const {}
  void DeadPosition() { ++dead; }
};

}  // namespace

AttachedLayer::Result AttachedLayer::Gather(absl::Span<const uint32_t> ids,
                                            absl::Span<std::byte> out, absl::Span<uint32_t> missing,
                                            uint32_t phase) const {
  bool complete = complete_.load(std::memory_order_acquire);
  if (!complete && view_.resident() && view_.Complete()) {
    complete_.store(true, std::memory_order_release);
    complete = true;
  }
  ClientBatch batch{.ids = ids.data(), .out = out.data(), .row_bytes = row_bytes()};
  Result result;
  result.missing = dram::Gather(view_, batch, ids.size(), missing.data(), complete);
  result.hits = ids.size() - result.missing - batch.dead;
  if (cell_.cell != nullptr && result.hits > 0) {
    dram::CountRows(*cell_.cell, result.hits, 0);
    Report(ids, missing.first(result.missing), phase);
  }
  return result;
}

// Of rows that were missing the daemon hears anyway.
void AttachedLayer::Report(absl::Span<const uint32_t> ids, absl::Span<const uint32_t> missing,
                           uint32_t phase) const {
  const size_t every = view_.resident() ? dram::kResidentSampleEvery : dram::kSampleEvery;
  const size_t first = phase % every;
  if (first >= ids.size() || dram::IsFull(link_->ring())) return;
  const size_t count = (ids.size() - first + every - 1) / every;
  dram::AccessRing& ring = link_->ring();
  uint64_t number = dram::TakePlaces(ring, count);
  for (size_t i = first; i < ids.size(); i += every) {
    const auto position = static_cast<uint32_t>(i);
    if (ids[i] == dram::kDeadPosition) continue;
    if (!missing.empty() && std::binary_search(missing.begin(), missing.end(), position)) continue;
    dram::PutSample(ring, number++, cell_.number, ids[i]);
  }
}

void AttachedLayer::CountCall() const {
  if (cell_.cell != nullptr) dram::CountRows(*cell_.cell, 0, 1);
}

}  // namespace engram
