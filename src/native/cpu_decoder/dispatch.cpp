// Picks the kernels that this machine can run, packs weights, and measures the machine.
#include "../isa.h"
#include "pool.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>

#define MM_DECLARE(ISA)                                                                                      \
  int64_t mm_scratch_##ISA(const mm_model *, int32_t, int32_t, int64_t, int32_t);                            \
  int32_t mm_forward_##ISA(const mm_model *, const mm_cache *, const mm_batch *, float *, int64_t,           \
                           mm_pool *);                                                                       \
  double mm_exp_##ISA(const float *, int64_t, float, float, float *);                                        \
  double mm_sum_##ISA(const float *, int64_t);                                                               \
  int64_t mm_flops_##ISA(int64_t, float *);

extern "C" {
MM_DECLARE(base)
#ifdef MM_X86
MM_DECLARE(avx2)
MM_DECLARE(avx512)
#endif
}

namespace {

#ifdef MM_X86
#define MM_CALL(NAME, ...)                                                                                   \
  switch (mm_machine()) {                                                                                    \
  case Isa::avx512: return mm_##NAME##_avx512(__VA_ARGS__);                                                  \
  case Isa::avx2: return mm_##NAME##_avx2(__VA_ARGS__);                                                      \
  default: return mm_##NAME##_base(__VA_ARGS__);                                                             \
  }
#else
#define MM_CALL(NAME, ...) return mm_##NAME##_base(__VA_ARGS__);
#endif

double sum(const float *data, int64_t floats){MM_CALL(sum, data, floats)} int64_t
    flops(int64_t rounds, float *sink){MM_CALL(flops, rounds, sink)}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// To the nearest, ties to even; NaN stays NaN.
uint16_t to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

uint16_t to_half(float x) {
  const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (size >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00); // rounds beyond 65504
  if (size < 0x38800000) {                                             // subnormal: units of 2^-24
    const float units = std::fabs(x) * 16777216.0f;
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(units)));
  }
  const uint32_t rounded = size + 0xfff + ((size >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

struct Packing {
  const float *source;
  int64_t rows, inputs;
  int32_t storage;
  char *panels;
  float *scales;
  int64_t first, stride;

  // The weight of a row, zero where the panel reaches past the matrix.
  float at(int64_t row, int64_t k) const {
    return row < rows && k < inputs ? source[row * inputs + k] : 0.0f;
  }

  void panel(int64_t p) const {
    const int64_t to = first + p * stride;
    char *out = panels + to * mm_panel_bytes(static_cast<int32_t>(inputs), storage);
    if (storage == MM_I8)
      return int8_panel(p, reinterpret_cast<int8_t *>(out),
                        scales + to * mm_panel_scales(static_cast<int32_t>(inputs), storage));
    // Blocks of 32 inputs: reads and writes both stay in the first-level cache.
    for (int64_t k0 = 0; k0 < inputs; k0 += 32)
      for (int64_t lane = 0; lane < MM_PANEL; ++lane)
        for (int64_t k = k0; k < inputs && k < k0 + 32; ++k) {
          const float value = at(p * MM_PANEL + lane, k);
          if (storage == MM_F32) reinterpret_cast<float *>(out)[k * MM_PANEL + lane] = value;
          else if (storage == MM_F16) reinterpret_cast<uint16_t *>(out)[k * MM_PANEL + lane] = to_half(value);
          // Outputs j and 16 + j share a 32-bit word.
          else reinterpret_cast<uint16_t *>(out)[k * MM_PANEL + lane % 16 * 2 + lane / 16] = to_bf16(value);
        }
  }

  void int8_panel(int64_t p, int8_t *out, float *scale) const {
    const int64_t pairs = (inputs + 1) / 2;
    for (int64_t k0 = 0, b = 0; k0 < inputs; k0 += MM_BLOCK, ++b)
      for (int64_t lane = 0; lane < MM_PANEL; ++lane) {
        const int64_t row = p * MM_PANEL + lane, end = k0 + MM_BLOCK < 2 * pairs ? k0 + MM_BLOCK : 2 * pairs;
        float most = 0;
        for (int64_t k = k0; k < end; ++k) most = std::fmax(most, std::fabs(at(row, k)));
        scale[b * MM_PANEL + lane] = most / 127.0f;
        const float inverse = most > 0 ? 127.0f / most : 0.0f;
        for (int64_t k = k0; k < end; ++k)
          out[k / 2 * 2 * MM_PANEL + lane * 2 + k % 2] =
              static_cast<int8_t>(std::lrintf(at(row, k) * inverse));
      }
  }
};

template <class F> double best_seconds(int tries, F &&body) {
  double best = 1e30;
  for (int i = 0; i < tries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = s < best ? s : best;
  }
  return best;
}

template <class F> void shared_out(mm_pool *pool, int32_t chunks, F &&body) {
  pool_run(pool, chunks, [](void *f, int32_t chunk, int32_t) { (*static_cast<F *>(f))(chunk); }, &body);
}

} // namespace

extern "C" {

int64_t mm_scratch_floats(const mm_model *m, int32_t n, int32_t outputs, int64_t positions,
                          int32_t threads){MM_CALL(scratch, m, n, outputs, positions, threads)}

int32_t mm_forward(const mm_model *m, const mm_cache *cache, const mm_batch *b, float *scratch,
                   int64_t positions, mm_pool *pool) {
  MM_CALL(forward, m, cache, b, scratch, positions, pool)
}

double mm_exp(const float *x, int64_t n, float most, float scale, float *out) {
  MM_CALL(exp, x, n, most, scale, out)
}

const char *mm_isa(void) {
  return mm_machine() == Isa::avx512 ? "avx512" : mm_machine() == Isa::avx2 ? "avx2" : "base";
}

int64_t mm_panel_bytes(int32_t inputs, int32_t storage) {
  const int64_t in = inputs;
  if (storage == MM_I8) return (in + 1) / 2 * 2 * MM_PANEL;
  return in * MM_PANEL * (storage == MM_F32 ? 4 : 2);
}

int64_t mm_panel_scales(int32_t inputs, int32_t storage) {
  return storage == MM_I8 ? (inputs + MM_BLOCK - 1) / MM_BLOCK * MM_PANEL : 0;
}

void mm_pack(const float *source, int32_t rows, int32_t inputs, int32_t storage, void *panels, float *scales,
             int32_t first, int32_t stride, mm_pool *pool) {
  const Packing packing{source, rows, inputs, storage, static_cast<char *>(panels), scales, first, stride};
  shared_out(pool, (rows + MM_PANEL - 1) / MM_PANEL, [&](int32_t p) { packing.panel(p); });
}

double mm_measure_read(const float *data, int64_t floats, mm_pool *pool) {
  constexpr int64_t kChunk = 1 << 16;
  std::atomic<double> sink{0};
  const auto chunks = static_cast<int32_t>(floats / kChunk);
  const double s = best_seconds(7, [&] {
    shared_out(pool, chunks,
               [&](int32_t c) { sink.store(sum(data + c * kChunk, kChunk), std::memory_order_relaxed); });
  });
  return static_cast<double>(chunks) * kChunk * 4 / s;
}

double mm_measure_flops(int64_t rounds, mm_pool *pool) {
  std::atomic<int64_t> done{0};
  std::atomic<float> sink{0};
  const int32_t chunks = pool_threads(pool) * 8;
  const double s = best_seconds(7, [&] {
    done.store(0);
    shared_out(pool, chunks, [&](int32_t) {
      float x = 0;
      done.fetch_add(flops(rounds, &x));
      sink.store(x, std::memory_order_relaxed);
    });
  });
  return static_cast<double>(done.load()) / s;
}
}
