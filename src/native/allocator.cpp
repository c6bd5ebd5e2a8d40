// Keeps the large blocks of memory that tensors on the CPU gave back, for the tensors of the next step. The system would
// take them and hand others out page by page, each cleared first: a tenth of a training step.
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
constexpr size_t LARGE = size_t{1} << 18;
// Sizes are multiples of this; of HUGE_PAGE where the system may use huge pages.
constexpr size_t STEP = size_t{1} << 16, HUGE_PAGE = size_t{1} << 21;

class Keeping final : public c10::Allocator {
public:
  explicit Keeping(c10::Allocator *base) : base(base) {}

  c10::DataPtr allocate(size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void *to, const void *from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  bool give(void *block);
  void release();
  void restart_peak();
  // The most that was held since then, less the most of it that tensors used.
  size_t surplus();

private:
  // Size, and a number that grows with each block that is given back.
  using Key = std::pair<size_t, uint64_t>;

  void *take(size_t bytes);
  void *unkept(std::map<Key, void *>::iterator which);
  void drop_oldest();

  c10::Allocator *base;
  std::mutex mutex;
  std::unordered_map<void *, size_t> used;
  std::map<Key, void *> kept;
  std::map<uint64_t, size_t> ages; // of what is kept
  uint64_t given = 0;
  size_t bytes_used = 0, bytes_kept = 0, most_used = 0;
  size_t phase_used = 0, phase_held = 0;
};

size_t rounded(size_t bytes) {
  size_t step = bytes >= 4 * HUGE_PAGE ? HUGE_PAGE : STEP;
  return (bytes + step - 1) / step * step;
}

void *mapped(size_t size) {
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

void *Keeping::unkept(std::map<Key, void *>::iterator which) {
  void *block = which->second;
  bytes_kept -= which->first.first;
  ages.erase(which->first.second);
  kept.erase(which);
  return block;
}

void Keeping::drop_oldest() {
  auto [age, size] = *ages.begin();
  munmap(unkept(kept.find({size, age})), size);
}

void *Keeping::take(size_t bytes) {
  size_t size = rounded(bytes);
  std::lock_guard<std::mutex> lock(mutex);
  auto found = kept.lower_bound({size, 0});
  void *block = nullptr;
  if (found != kept.end() && found->first.first <= 2 * size) {
    size = found->first.first;
    // Of those of this size the last that was given back: the caches may know it.
    block = unkept(std::prev(kept.upper_bound({size, given})));
  } else {
    // Never much more than what tensors once took together.
    while (!kept.empty() && bytes_used + bytes_kept + size > most_used + most_used / 8) drop_oldest();
    block = mapped(size);
    while (block == nullptr && !kept.empty()) {
      drop_oldest();
      block = mapped(size);
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
  most_used = std::max(most_used, bytes_used);
  phase_used = std::max(phase_used, bytes_used);
  phase_held = std::max(phase_held, bytes_used + bytes_kept);
  return block;
}

bool Keeping::give(void *block) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = used.find(block);
  if (found == used.end()) return false;
  size_t size = found->second;
  used.erase(found);
  bytes_used -= size;
  try {
    ages.emplace(++given, size);
    kept.emplace(Key{size, given}, block);
    bytes_kept += size;
  } catch (...) {
    // No memory to remember it by.
    ages.erase(given);
    munmap(block, size);
  }
  return true;
}

void Keeping::release() {
  std::lock_guard<std::mutex> lock(mutex);
  while (!kept.empty()) drop_oldest();
  most_used = bytes_used;
}

void Keeping::restart_peak() {
  std::lock_guard<std::mutex> lock(mutex);
  phase_used = bytes_used;
  phase_held = bytes_used + bytes_kept;
}

size_t Keeping::surplus() {
  std::lock_guard<std::mutex> lock(mutex);
  return phase_held - phase_used;
}

// One for the process, never freed: tensors may outlive everything else.
Keeping &keeping() {
  static auto *one = new Keeping(c10::GetDefaultCPUAllocator());
  return *one;
}

void give_back(void *block) { keeping().give(block); }

c10::DataPtr Keeping::allocate(size_t bytes) {
  void *block = bytes < LARGE || bytes > SIZE_MAX / 2 ? nullptr : take(bytes);
  // Also where the system has no more: libtorch's own way of saying so.
  if (block == nullptr) return base->allocate(bytes);
  return {block, block, &give_back, c10::Device(c10::kCPU)};
}

// Of blocks without a DataPtr; those that have one carry the deleter of who made them.
c10::DeleterFnPtr Keeping::raw_deleter() const {
  return [](void *block) {
    if (!keeping().give(block)) c10::GetDefaultCPUAllocator()->raw_deallocate(block);
  };
}

} // namespace

extern "C" {

void mm_memory_keep() { c10::SetCPUAllocator(&keeping(), /*priority=*/1); }

void mm_memory_release() { keeping().release(); }

void mm_memory_restart_peak() { keeping().restart_peak(); }

uint64_t mm_memory_surplus() { return keeping().surplus(); }
}
