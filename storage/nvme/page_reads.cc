#include "storage/nvme/page_reads.h"

#include <rocksdb/file_system.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "storage/nvme/rocks_status.h"

namespace engram {
namespace {

using rocksdb::FSReadRequest;
using rocksdb::IOStatus;

// An idle drive is to be at work while further reads are queued, and a busy one costs a system call
// each time. So reads are handed over when there are as many as it has already, the first two at
// once. Of 48 cold rows the last came 20 µs later when they were handed over in eights, and 60
// later still when all of them went together.
constexpr size_t kLeastReadsPerSend = 2;

using Done = absl::FunctionRef<void(size_t, const absl::Status&, absl::Span<const std::byte>)>;

// The reads of one batch: those that are under way, and those that have come and are not handed
// over yet.
class Window {
 public:
  // `memory` has room for `slots` blocks.
  Window(rocksdb::FileSystem& file_system, ReadBudget::Batch& batch, std::byte* memory,
         size_t slots, uint32_t block_bytes)
      : file_system_(file_system),
        batch_(batch),
        block_bytes_(block_bytes),
        memory_(memory),
        slots_(slots) {
    idle_.reserve(slots);
    finished_.reserve(slots);
    handles_.reserve(slots);
    for (size_t i = 0; i < slots; ++i) {
      slots_[i].window = this;
      idle_.push_back(slots - 1 - i);
    }
  }

  // What is still under way, because something has thrown, is aborted: the kernel is not to write
  // into memory that is gone, nor the file system to answer into this.
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  bool HasRoom() const { return !idle_.empty(); }
  bool HasFinished() const { return !finished_.empty(); }
  void Start(size_t index, const BlockRead& block);
  // Whether what was started and not sent is worth a system call.
  bool ShouldSend() const {
    return unsent_ >= kLeastReadsPerSend && 2 * unsent_ >= batch_.in_flight();
  }
  // Hands what was started to the drive.
  void Send() {
    if (unsent_ > 0) Poll(0);
  }
  // The same, and returns when one more read has come.
  void Wait() { Poll(finished_.size() + 1); }
  void HandOver(Done done);

 private:
  struct Slot {
    Window* window = nullptr;
    size_t index = 0;  // of the block
    void* handle = nullptr;
    bool answered = false;  // and to be handed over
    rocksdb::IOHandleDeleter deleter;
    FSReadRequest answer;
  };

  static void Answer(const FSReadRequest& request, void* slot) {
    static_cast<Slot*>(slot)->window->Finish(*static_cast<Slot*>(slot), request.result,
                                             request.status);
  }
  void Finish(Slot& slot, const rocksdb::Slice& result, const IOStatus& status) noexcept;
  void Poll(size_t finished);
  void GiveUp(const IOStatus& status);

  rocksdb::FileSystem& file_system_;
  ReadBudget::Batch& batch_;
  const uint32_t block_bytes_;
  std::byte* const memory_;
  std::vector<Slot> slots_;
  std::vector<size_t> idle_;
  std::vector<size_t> finished_;
  std::vector<void*> handles_;
  size_t unsent_ = 0;
};

void Window::Start(size_t index, const BlockRead& block) {
  const size_t number = idle_.back();
  idle_.pop_back();
  Slot& slot = slots_[number];
  slot.index = index;
  slot.answered = false;
  FSReadRequest request;
  request.offset = block.offset;
  request.len = block.bytes;
  request.scratch = reinterpret_cast<char*>(memory_ + number * block_bytes_);
  batch_.Started();
  const IOStatus status = block.file->ReadAsync(request, rocksdb::IOOptions(), &Window::Answer,
                                                &slot, &slot.handle, &slot.deleter, nullptr);
  if (status.ok()) {
    ++unsent_;
  } else {
    Finish(slot, rocksdb::Slice(), status);
  }
}

Window::~Window() {
  handles_.clear();
  for (const Slot& slot : slots_) {
    if (slot.handle != nullptr && !slot.answered) handles_.push_back(slot.handle);
  }
  if (!handles_.empty() && !file_system_.AbortIO(handles_).ok()) std::abort();
  for (Slot& slot : slots_) {
    if (slot.handle != nullptr) slot.deleter(slot.handle);
  }
  while (batch_.in_flight() > 0) batch_.Finished();
}

// Called by the file system in the middle of its own work, so it must not throw.
void Window::Finish(Slot& slot, const rocksdb::Slice& result, const IOStatus& status) noexcept {
  batch_.Finished();
  slot.answered = true;
  slot.answer.result = result;
  try {
    slot.answer.status = status;
  } catch (const std::bad_alloc&) {
    slot.answer.status = IOStatus::IOError();  // without a text, which takes memory
  }
  finished_.push_back(static_cast<size_t>(&slot - slots_.data()));
}

// Returns when so many reads are finished in all, those counted that wait to be handed over.
void Window::Poll(size_t finished) {
  unsent_ = 0;
  handles_.clear();
  for (const Slot& slot : slots_) {
    if (slot.handle != nullptr) handles_.push_back(slot.handle);
  }
  if (const IOStatus status = file_system_.Poll(handles_, finished); !status.ok()) GiveUp(status);
}

// Fails all that is under way. Their memory must not go before the file system has let go of it.
void Window::GiveUp(const IOStatus& status) {
  if (!file_system_.AbortIO(handles_).ok()) std::abort();
  for (Slot& slot : slots_) {
    if (slot.handle != nullptr && !slot.answered) Finish(slot, rocksdb::Slice(), status);
  }
}

void Window::HandOver(Done done) {
  for (const size_t number : finished_) {
    Slot& slot = slots_[number];
    const FSReadRequest& answer = slot.answer;
    if (answer.status.ok()) {
      done(slot.index, absl::OkStatus(),
           absl::MakeConstSpan(reinterpret_cast<const std::byte*>(answer.result.data()),
                               answer.result.size()));
    } else {
      done(slot.index, FromRocks(answer.status, "reading a page"), {});
    }
    // Given back here and not where the read finished: the file system was still looking at it.
    if (slot.handle != nullptr) slot.deleter(slot.handle);
    slot.handle = nullptr;
    idle_.push_back(number);
  }
  finished_.clear();
}

}  // namespace

ReadBudget::Memory ReadBudget::Take(size_t bytes) {
  Memory memory;
  {
    MutexLock lock(mutex_);
    if (!idle_.empty()) {
      memory = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (memory.bytes >= bytes) return memory;
  memory.data.reset();
  return {AllocateDirect(bytes), RoundUpDirect(bytes)};
}

void ReadBudget::GiveBack(Memory memory) {
  MutexLock lock(mutex_);
  idle_.push_back(std::move(memory));
}

void ReadBlocks(rocksdb::FileSystem& file_system, ReadBudget& budget, ReadPriority priority,
                size_t count, uint32_t max_block_bytes, absl::FunctionRef<BlockRead(size_t)> block,
                Done done) {
  if (count == 0) return;
  ReadBudget::Batch batch(budget, priority);
  // Twice the depth: as many may be under way as wait to be handed over.
  const size_t slots = std::min<size_t>(count, 2 * size_t{budget.depth()});
  ReadBudget::Memory memory = budget.Take(slots * max_block_bytes);
  {
    Window window(file_system, batch, memory.data.get(), slots, max_block_bytes);
    size_t next = 0;
    while (next < count || batch.in_flight() > 0 || window.HasFinished()) {
      // The drive gets new work first, and is busy with it while the rows are copied.
      while (next < count && window.HasRoom() && batch.MayStart()) {
        window.Start(next, block(next));
        ++next;
        if (window.ShouldSend()) window.Send();
      }
      if (window.HasFinished()) {
        window.Send();
        window.HandOver(done);
      } else if (batch.in_flight() > 0) {
        window.Wait();
      }
    }
  }
  budget.GiveBack(std::move(memory));
}

}  // namespace engram
