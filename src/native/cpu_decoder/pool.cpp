// The thread pool of pool.h.
#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <sched.h>

namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Rounds of 32 pauses and a yield before an idle thread sleeps: about 100 microseconds on a quiet machine.
constexpr int kRounds = 150;

// A ticket is: generation (32 bits), chunks in all (16), next chunk (16).
constexpr uint64_t kMost = 0xffff;
inline uint64_t total(uint64_t ticket) { return (ticket >> 16) & kMost; }
inline uint64_t next(uint64_t ticket) { return ticket & kMost; }
inline bool open(uint64_t ticket) { return next(ticket) < total(ticket); }

} // namespace

struct mm_pool {
  alignas(64) std::atomic<uint64_t> ticket{0};
  mm_task task = nullptr;
  void *context = nullptr;
  alignas(64) std::atomic<uint64_t> done{0};
  alignas(64) std::atomic<int> sleeping{0};
  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;
  std::vector<std::thread> threads;

  // Claims and runs chunks until none is left. A claim binds its job: `task` and `context` change only after
  // every claimed chunk is done.
  void work(int32_t thread) {
    uint64_t seen = ticket.load(std::memory_order_acquire);
    while (open(seen)) {
      if (!ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      task(context, static_cast<int32_t>(next(seen)), thread);
      done.fetch_add(1, std::memory_order_release);
      seen = ticket.load(std::memory_order_acquire);
    }
  }

  void idle(int32_t thread) {
    int rounds = 0;
    for (;;) {
      uint64_t seen = ticket.load(std::memory_order_acquire);
      if (open(seen)) {
        work(thread);
        rounds = 0;
        continue;
      }
      if (++rounds < kRounds) {
        for (int i = 0; i < 32; ++i) pause();
        sched_yield();
        continue;
      }
      std::unique_lock<std::mutex> lock(mutex);
      sleeping.fetch_add(1);
      wake.wait(lock, [&] { return stop || ticket.load() != seen; });
      sleeping.fetch_sub(1);
      if (stop) return;
      rounds = 0;
    }
  }
};

void pool_run(mm_pool *pool, int32_t count, mm_task task, void *context) {
  if (count <= 0) return;
  if (count == 1 || pool->threads.empty()) {
    for (int32_t chunk = 0; chunk < count; ++chunk) task(context, chunk, 0);
    return;
  }
  // More chunks than a ticket counts are run in turns.
  if (static_cast<uint64_t>(count) > kMost) {
    struct Part {
      mm_task task;
      void *context;
      int32_t first;
    };
    for (int32_t first = 0; first < count; first += static_cast<int32_t>(kMost)) {
      Part part{task, context, first};
      int32_t left = count - first;
      pool_run(
          pool, left < static_cast<int32_t>(kMost) ? left : static_cast<int32_t>(kMost),
          [](void *p, int32_t chunk, int32_t thread) {
            auto *part = static_cast<Part *>(p);
            part->task(part->context, part->first + chunk, thread);
          },
          &part);
    }
    return;
  }
  pool->task = task;
  pool->context = context;
  pool->done.store(0, std::memory_order_relaxed);
  uint64_t generation = (pool->ticket.load(std::memory_order_relaxed) >> 32) + 1;
  pool->ticket.store(generation << 32 | static_cast<uint64_t>(count) << 16);
  if (pool->sleeping.load() > 0) {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->wake.notify_all();
  }
  pool->work(0);
  for (int spins = 0; pool->done.load(std::memory_order_acquire) != static_cast<uint64_t>(count); ++spins) {
    if (spins < 256) pause();
    else sched_yield();
  }
}

int32_t pool_threads(const mm_pool *pool) { return static_cast<int32_t>(pool->threads.size()) + 1; }

extern "C" {

mm_pool *mm_pool_new(int32_t threads) {
  mm_pool *pool = nullptr;
  try {
    pool = new mm_pool;
    for (int32_t i = 1; i < threads; ++i) pool->threads.emplace_back([pool, i] { pool->idle(i); });
  } catch (...) {
    // Fewer threads than asked for still do the work; without memory for the pool there is none.
  }
  return pool;
}

void mm_pool_free(mm_pool *pool) {
  if (!pool) return;
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    pool->stop = true;
    pool->wake.notify_all();
  }
  for (auto &thread : pool->threads) thread.join();
  delete pool;
}
}
