// A caching allocator for CPU tensors: large blocks that tensors free are cached for the tensors of the next
// step. The system would take them back and hand others out page by page, each cleared first: a tenth of a
// training step.
#include "ffi.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace {

// Smaller blocks are malloc's, which keeps them itself.
constexpr size_t LARGE_BLOCK = size_t{1} << 18;
// Sizes are multiples of this; of HUGE_PAGE where the system may use huge pages.
constexpr size_t GRANULARITY = size_t{1} << 16, HUGE_PAGE = size_t{1} << 21;

class CachingCpuAllocator final : public c10::Allocator {
public:
  explicit CachingCpuAllocator(c10::Allocator *base) : base(base) {}

  c10::DataPtr allocate(size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void *to, const void *from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool reclaim(void *block);
  void empty_cache();
  void reset_peak();
  // The most that was held since then, less the most of it that tensors used.
  size_t peak_overhead();

private:
  // Size, and a number that grows with each block that is freed.
  using Key = std::pair<size_t, uint64_t>;

  void *allocate_block(size_t bytes);
  void *remove_cached(std::map<Key, void *>::iterator which);
  void evict_oldest();

  c10::Allocator *base;
  std::mutex mutex;
  std::unordered_map<void *, size_t> used;
  std::map<Key, void *> cached;
  std::map<uint64_t, size_t> ages; // of what is cached
  uint64_t frees = 0;
  size_t bytes_used = 0, bytes_cached = 0, peak_used = 0;
  size_t window_peak_used = 0, window_peak_held = 0;
};

size_t round_up(size_t bytes) {
  size_t step = bytes >= 4 * HUGE_PAGE ? HUGE_PAGE : GRANULARITY;
  return (bytes + step - 1) / step * step;
}

void *map_block(size_t size) {
  bool huge = size % HUGE_PAGE == 0;
  size_t asked = huge ? size + HUGE_PAGE : size;
  void *at = mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  if (!huge) return at;
  auto begin = reinterpret_cast<uintptr_t>(at);
  size_t before = (HUGE_PAGE - begin % HUGE_PAGE) % HUGE_PAGE;
  auto *block = static_cast<char *>(at) + before;
  if (before > 0) munmap(at, before);
  if (HUGE_PAGE > before) munmap(block + size, HUGE_PAGE - before);
#ifdef MADV_HUGEPAGE
  madvise(block, size, MADV_HUGEPAGE);
#endif
  return block;
}

void *CachingCpuAllocator::remove_cached(std::map<Key, void *>::iterator which) {
  void *block = which->second;
  bytes_cached -= which->first.first;
  ages.erase(which->first.second);
  cached.erase(which);
  return block;
}

void CachingCpuAllocator::evict_oldest() {
  auto [age, size] = *ages.begin();
  munmap(remove_cached(cached.find({size, age})), size);
}

void *CachingCpuAllocator::allocate_block(size_t bytes) {
  size_t size = round_up(bytes);
  std::lock_guard<std::mutex> lock(mutex);
  auto found = cached.lower_bound({size, 0});
  void *block = nullptr;
  if (found != cached.end() && found->first.first <= 2 * size) {
    size = found->first.first;
    // Of those of this size the one freed last: the processor may still cache it.
    block = remove_cached(std::prev(cached.upper_bound({size, frees})));
  } else {
    // Never much more than what tensors once took together.
    while (!cached.empty() && bytes_used + bytes_cached + size > peak_used + peak_used / 8) evict_oldest();
    block = map_block(size);
    while (block == nullptr && !cached.empty()) {
      evict_oldest();
      block = map_block(size);
    }
    if (block == nullptr) return nullptr;
  }
  try {
    used.emplace(block, size);
  } catch (...) {
    munmap(block, size);
    throw;
  }
  bytes_used += size;
  peak_used = std::max(peak_used, bytes_used);
  window_peak_used = std::max(window_peak_used, bytes_used);
  window_peak_held = std::max(window_peak_held, bytes_used + bytes_cached);
  return block;
}

bool CachingCpuAllocator::reclaim(void *block) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = used.find(block);
  if (found == used.end()) return false;
  size_t size = found->second;
  used.erase(found);
  bytes_used -= size;
  try {
    ages.emplace(++frees, size);
    cached.emplace(Key{size, frees}, block);
    bytes_cached += size;
  } catch (...) {
    // No memory to remember it by.
    ages.erase(frees);
    munmap(block, size);
  }
  return true;
}

void CachingCpuAllocator::empty_cache() {
  std::lock_guard<std::mutex> lock(mutex);
  while (!cached.empty()) evict_oldest();
  peak_used = bytes_used;
}

void CachingCpuAllocator::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex);
  window_peak_used = bytes_used;
  window_peak_held = bytes_used + bytes_cached;
}

size_t CachingCpuAllocator::peak_overhead() {
  std::lock_guard<std::mutex> lock(mutex);
  return window_peak_held - window_peak_used;
}

// One for the process, never freed: tensors may outlive everything else.
CachingCpuAllocator &cpu_allocator() {
  static auto *one = new CachingCpuAllocator(c10::GetDefaultCPUAllocator());
  return *one;
}

void deallocate(void *block) { cpu_allocator().reclaim(block); }

c10::DataPtr CachingCpuAllocator::allocate(size_t bytes) {
  void *block = bytes < LARGE_BLOCK || bytes > SIZE_MAX / 2 ? nullptr : allocate_block(bytes);
  // Also where the system has no more: libtorch's own way of saying so.
  if (block == nullptr) return base->allocate(bytes);
  return {block, block, &deallocate, c10::Device(c10::kCPU)};
}

// Of blocks without a DataPtr; those that have one carry the deleter of who made them.
c10::DeleterFnPtr CachingCpuAllocator::raw_deleter() const {
  return [](void *block) {
    if (!cpu_allocator().reclaim(block)) c10::GetDefaultCPUAllocator()->raw_deallocate(block);
  };
}

} // namespace

extern "C" {

void mm_cpu_cache_enable() { c10::SetCPUAllocator(&cpu_allocator(), /*priority=*/1); }

void mm_cpu_cache_empty() { cpu_allocator().empty_cache(); }

void mm_cpu_cache_reset_peak() { cpu_allocator().reset_peak(); }

uint64_t mm_cpu_cache_peak_overhead() { return cpu_allocator().peak_overhead(); }
}
