// SharedPages: the pages of a layer that are being read. Whoever wants one of them meanwhile gets
// it from that read instead of reading it again: callers with the same prompt want the same pages.
//
// Thread-safe. Never blocks.
#ifndef ENGRAM_STORAGE_NVME_SHARED_PAGES_H_
#define ENGRAM_STORAGE_NVME_SHARED_PAGES_H_

#include <cstddef>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "storage/base/mutex.h"
#include "storage/nvme/page.h"

namespace engram {

class SharedPages {
 public:
  class Waiter {
   public:
    // Once for each Begin that was false, on the thread that has read the page. `value` is gone
    // when it returns; empty if the page could not be read, or came wrong.
    virtual void PageCame(size_t index, absl::Span<const std::byte> value) = 0;

   protected:
    ~Waiter() = default;
  };

  // Whether the caller is to read the page, and to Finish it whatever happens. If not, `waiter`,
  // which has to stay until then, is told about its page `index`.
  bool Begin(PageId page, Waiter* waiter, size_t index);
  // Tells the waiters.
  void Finish(PageId page, absl::Span<const std::byte> value);

 private:
  using Waiting = std::vector<std::pair<Waiter*, size_t>>;
  Mutex mutex_;
  // As many pages as reads are planned at once.
  std::unordered_map<PageId, Waiting> pages_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_SHARED_PAGES_H_
