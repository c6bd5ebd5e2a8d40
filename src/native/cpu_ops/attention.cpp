// Causal attention for training in fp32 on the CPU: attention_kernels.h's kernels over every sequence and
// head, a node of libtorch's autograd graph.
//
// B batch, T tokens, H query heads, K key and value heads, E head dim.
#include "../isa.h"
#include "attention_kernels.h"
#include "ops.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <numeric>

const attend::Kernels &attend_base();
#ifdef MM_X86
const attend::Kernels &attend_avx2();
const attend::Kernels &attend_avx512();
#endif

namespace {

using attend::Rows;

const attend::Kernels &kernels() {
#ifdef MM_X86
  if (mm_machine() == Isa::avx512) return attend_avx512();
  if (mm_machine() == Isa::avx2) return attend_avx2();
#endif
  return attend_base();
}

// A thread's working memory.
struct Scratch {
  // Floats that stay for the next layer.
  static constexpr int64_t KEPT = 4 << 20;
  struct Free {
    void operator()(float *at) const { ::operator delete(at, std::align_val_t{64}); }
  };
  std::unique_ptr<float, Free> held;
  int64_t room = 0;

  float *of(int64_t floats) {
    if (room < floats) {
      forget();
      held.reset(static_cast<float *>(
          ::operator new(static_cast<size_t>(floats) * sizeof(float), std::align_val_t{64})));
      room = floats;
    }
    return held.get();
  }
  void forget() {
    held.reset();
    room = 0;
  }
};

// Sequences that lie one after the other, and what their heads are to a kernel.
struct Sequences {
  std::vector<int64_t> lengths, starts, by_length;

  explicit Sequences(std::vector<int64_t> all)
      : lengths(std::move(all)), starts(lengths.size()), by_length(lengths.size()) {
    std::exclusive_scan(lengths.begin(), lengths.end(), starts.begin(), int64_t{0});
    std::iota(by_length.begin(), by_length.end(), int64_t{0});
    std::stable_sort(by_length.begin(), by_length.end(),
                     [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  }

  // Runs body(sequence, head, scratch) for each, long sequences first; a thread that is done takes the next.
  template <typename F> void each(int64_t heads, F &&body) const {
    std::atomic<int64_t> next{0};
    int64_t all = static_cast<int64_t>(lengths.size()) * heads;
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), all), 1, [&](int64_t, int64_t) {
      thread_local Scratch scratch;
      for (int64_t u = next++; u < all; u = next++) body(by_length[u / heads], u % heads, scratch);
      if (scratch.room > Scratch::KEPT) scratch.forget();
    });
  }

  // Head h of a sequence in [B T, heads, width].
  Rows of(const Tensor &t, int64_t sequence, int64_t h) const {
    int64_t heads = t.size(-2), width = t.size(-1);
    return {out(t) + (starts[sequence] * heads + h) * width, heads * width};
  }
};

// Tasks that keep a machine's threads busy.
constexpr int64_t FEW = 16;

// q [B, T, H, E], k and v [B, T, K, E], sequences that fill B T -> [B, T, H, E]
struct Attention : public Function<Attention> {
  static Tensor forward(AutogradContext *ctx, const Tensor &q_in, const Tensor &k_in, const Tensor &v_in,
                        std::vector<int64_t> lengths) {
    Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
    int64_t h = q.size(2), e = q.size(3), group = h / k.size(2);
    Tensor made = at::empty_like(q), lse = at::empty({q.size(0) * q.size(1), h, 1}, q.options());
    Sequences all(lengths);
    float scale = 1.0f / std::sqrt(static_cast<float>(e));
    all.each(h, [&](int64_t s, int64_t head, Scratch &scratch) {
      int64_t n = all.lengths[s], shared = head / group;
      kernels().forward(all.of(q, s, head), all.of(k, s, shared), all.of(v, s, shared), all.of(made, s, head),
                        all.of(lse, s, head), n, e, scale, scratch.of(kernels().room_forward(n, e)));
    });
    ctx->save_for_backward({q, k, v, made, lse});
    ctx->saved_data["lengths"] = lengths;
    return made;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &made = saved[3], &lse = saved[4];
    int64_t e = q.size(3), kv = k.size(2), group = q.size(2) / kv;
    Sequences all(ctx->saved_data["lengths"].toIntVector());
    // A task is a key and value head with its query heads, or where these are few (whatever the threads, so
    // that sums do not depend on them) a query head, whose share is added up afterwards.
    bool apart = group > 1 && static_cast<int64_t>(all.lengths.size()) * kv < FEW;
    int64_t heads = apart ? group * kv : kv, many = apart ? 1 : group;
    Tensor g = grads[0].contiguous(), dq = at::empty_like(q);
    Tensor dk = at::empty({k.size(0), k.size(1), heads, e}, k.options()), dv = at::empty_like(dk);
    float scale = 1.0f / std::sqrt(static_cast<float>(e));
    all.each(heads, [&](int64_t s, int64_t task, Scratch &scratch) {
      int64_t n = all.lengths[s], shared = task * many / group;
      float *room = scratch.of(kernels().room_back(n, e));
      kernels().back_begin(all.of(k, s, shared), all.of(v, s, shared), n, e, room);
      for (int64_t head = task * many; head < (task + 1) * many; ++head)
        kernels().back(all.of(q, s, head), all.of(made, s, head), all.of(g, s, head), all.of(lse, s, head),
                       all.of(dq, s, head), n, e, scale, room);
      kernels().back_end(all.of(dk, s, task), all.of(dv, s, task), n, e, room);
    });
    if (!apart) return {dq, dk, dv, Tensor()};
    auto sum = [&](const Tensor &t) { return t.view({k.size(0), k.size(1), kv, group, e}).sum(3); };
    return {dq, sum(dk), sum(dv), Tensor()};
  }
};

} // namespace

extern "C" char *mm_cpu_attend(mm_tensor q, mm_tensor k, mm_tensor v, const int64_t *lengths, size_t n,
                               mm_tensor *made) {
  return mm_guard([&] {
    const Tensor &a = mm_as_tensor(q), &b = mm_as_tensor(k), &c = mm_as_tensor(v);
    bool fits = a.dim() == 4 && b.dim() == 4 && b.sizes() == c.sizes() && a.size(0) == b.size(0) &&
                a.size(1) == b.size(1) && a.size(3) == b.size(3) && a.size(3) % attend::COLUMNS == 0 &&
                b.size(2) > 0 && a.size(2) % b.size(2) == 0;
    TORCH_CHECK(fits, "cannot attend from ", a.sizes(), " to ", b.sizes(), " and ", c.sizes());
    std::vector<int64_t> all(lengths, lengths + n);
    bool filled = std::all_of(all.begin(), all.end(), [](int64_t length) { return length >= 0; }) &&
                  std::accumulate(all.begin(), all.end(), int64_t{0}) == a.size(0) * a.size(1);
    TORCH_CHECK(filled, "sequences that do not fill ", a.sizes());
    *made = new Tensor(Attention::apply(a, b, c, std::move(all)));
  });
}
