// How long threads that wait for their partners spin before they sleep.
//
// libgomp, under libtorch and MKL, lets a thread spin 300,000 turns: 5 milliseconds and more. On a quiet
// machine that is best, since waking a thread costs more than the gap between two parallel stretches. Beside
// other busy processes it is longer than a turn of the system's scheduler: a thread whose partner has lost
// its core keeps its own core from it. libgomp reads its policy once, before main, but it spins 100 turns
// alone while the process has more OpenMP threads than there are processors (its manual, GOMP_SPINCOUNT). So
// short waits are asked for with a team of idle threads.
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "ffi.h"

#include <omp.h>

namespace {

// More idle threads are not worth it: with so many processors to spare the team is not short of them.
constexpr int MOST = 64;

// A thread that has a team of its own, asleep: libgomp counts a team until the thread that began it ends.
class IdleTeam {
public:
  explicit IdleTeam(int size) : owner([this, size] { hold(size); }) {}
  ~IdleTeam() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      over = true;
    }
    wake.notify_all();
    owner.join();
  }

private:
  void hold(int size) {
#pragma omp parallel num_threads(size)
    {
      // Not left out by the compiler.
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    std::unique_lock<std::mutex> lock(mutex);
    wake.wait(lock, [this] { return over; });
  }

  std::mutex mutex;
  std::condition_variable wake;
  bool over = false;
  std::thread owner;
};

} // namespace

extern "C" {

// Returns whether that is how waits are now; `threads` is the size of the team that works.
int32_t mm_set_short_waits(int32_t on, int32_t threads) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  // Never freed: at the process's end it may be at work.
  static auto *team = new std::unique_ptr<IdleTeam>;
  if (!on) {
    team->reset();
    return 1;
  }
  if (*team) return 1;
  // One more than the processors, all teams together.
  int size = omp_get_num_procs() - threads + 2;
  if (size > MOST) return 0;
  try {
    team->reset(new IdleTeam(size < 2 ? 2 : size));
  } catch (...) {
    return 0; // no thread to be had
  }
  return 1;
}
}
