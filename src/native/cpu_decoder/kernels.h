// The inner loops, written once over vectors of the machine's width; forward.cpp compiles them per
// instruction set. No template or inline function of a library here: the linker could keep a copy this
// machine cannot run.
#pragma once
#include "abi.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define MM_WIDTH 16
#define MM_ROWS 12 // rows of a tile: accumulators that fit the registers
#elif defined(__AVX2__)
#define MM_WIDTH 8
#define MM_ROWS 6
#else
#define MM_WIDTH 4
#define MM_ROWS 4
#endif

#define MM_INLINE static inline __attribute__((always_inline))

namespace {

constexpr long W = MM_WIDTH;
constexpr long P = MM_PANEL;
constexpr long HALVES = P / (2 * W); // a tile works on two vectors of outputs at a time

typedef float vf __attribute__((vector_size(4 * MM_WIDTH), may_alias));
typedef float vfu __attribute__((vector_size(4 * MM_WIDTH), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * MM_WIDTH), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * MM_WIDTH), may_alias));
typedef uint32_t vuu __attribute__((vector_size(4 * MM_WIDTH), aligned(4), may_alias));

MM_INLINE vf load(const float *p) { return *(const vfu *)p; }
MM_INLINE void store(float *p, vf x) { *(vfu *)p = x; }

MM_INLINE float half_to_float(uint16_t h) {
  // Shift the exponent into place and let a multiplication renormalise subnormal numbers.
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
  float scaled;
  __builtin_memcpy(&scaled, &rest, 4);
  scaled *= 5.192296858534828e33f; // 2^112
  uint32_t bits;
  __builtin_memcpy(&bits, &scaled, 4);
  if ((h & 0x7c00) == 0x7c00) bits = 0x7f800000u | (uint32_t)(h & 0x3ff) << 13;
  bits |= sign;
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}

// Inputs that are worked on at a time, so that a panel's part stays in the first-level cache for all rows.
constexpr long KPART = 128;

// A storage gives the two weight vectors of a half panel at one input, and which outputs they stand for.
struct Fp32 {
  typedef float Item;
  MM_INLINE long lane(long half, long i) { return half * 2 * W + i * W; }
  MM_INLINE void get(const float *w, long half, vf *out) {
    out[0] = load(w + half * 2 * W);
    out[1] = load(w + half * 2 * W + W);
  }
};

struct Bf16 {
  typedef uint16_t Item;
  // Outputs j and 16 + j share a 32-bit word: both are had with one operation.
  MM_INLINE long lane(long half, long i) { return half * W + i * 16; }
  MM_INLINE void get(const uint16_t *w, long half, vf *out) {
    vu both = *(const vuu *)(w + half * 2 * W);
    out[0] = (vf)(both << 16);
    out[1] = (vf)(both & 0xffff0000u);
  }
};

struct Fp16 {
  typedef uint16_t Item;
  MM_INLINE long lane(long half, long i) { return half * 2 * W + i * W; }
  MM_INLINE vf widen(const uint16_t *w) {
#if MM_WIDTH == 16
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
#elif MM_WIDTH == 8
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)w));
#else
    vf out;
    for (long i = 0; i < W; ++i) out[i] = half_to_float(w[i]);
    return out;
#endif
  }
  MM_INLINE void get(const uint16_t *w, long half, vf *out) {
    out[0] = widen(w + half * 2 * W);
    out[1] = widen(w + half * 2 * W + W);
  }
};

// y[r][lanes of `count` halves] += sum over inputs k0..k1 of w * x[r]; `fresh` starts from zero.
template <int R, int COUNT, class S>
MM_INLINE void tile(const typename S::Item *w, long first_half, const float *x, long ldx, long k0, long k1,
                    float *y, long ldy, bool fresh) {
  vf acc[R][COUNT][2];
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < COUNT; ++h)
      for (int i = 0; i < 2; ++i) {
        float *from = y + r * ldy + S::lane(first_half + h, i);
        acc[r][h][i] = fresh ? (vf){} : load(from);
      }
  const typename S::Item *at = w + k0 * P;
  for (long k = k0; k < k1; ++k, at += P) {
    // The processor's own look-ahead ends at each page. A stream is asked for two kilobytes ahead; a part
    // that many rows work on, a part ahead and into the second level.
    if (COUNT == HALVES && R <= 2) {
      for (long line = 0; line < (long)(P * sizeof(*w)); line += 64)
        __builtin_prefetch((const char *)at + 2048 + line);
    } else {
      __builtin_prefetch((const char *)(at + first_half * 2 * W) + KPART * P * sizeof(*w), 0, 2);
    }
    for (int h = 0; h < COUNT; ++h) {
      vf weight[2];
      S::get(at, first_half + h, weight);
      for (int r = 0; r < R; ++r) {
        float value = x[r * ldx + k];
        acc[r][h][0] += weight[0] * value;
        acc[r][h][1] += weight[1] * value;
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < COUNT; ++h)
      for (int i = 0; i < 2; ++i) store(y + r * ldy + S::lane(first_half + h, i), acc[r][h][i]);
}

template <int R, class S>
MM_INLINE void tile_halves(const typename S::Item *w, const float *x, long ldx, long k0, long k1, float *y,
                           long ldy, bool fresh) {
  if (R <= 2) return tile<R, (int)HALVES, S>(w, 0, x, ldx, k0, k1, y, ldy, fresh);
  for (long half = 0; half < HALVES; ++half) tile<R, 1, S>(w, half, x, ldx, k0, k1, y, ldy, fresh);
}

// y[n][32] (+)= x[n][inputs] . panel; inputs k0..k1.
template <class S>
__attribute__((noinline)) void panel_rows(const typename S::Item *w, const float *x, long ldx, long n,
                                          long k0, long k1, float *y, long ldy, bool fresh) {
  long r = 0;
  for (; r + MM_ROWS <= n; r += MM_ROWS)
    tile_halves<MM_ROWS, S>(w, x + r * ldx, ldx, k0, k1, y + r * ldy, ldy, fresh);
  const float *xr = x + r * ldx;
  float *yr = y + r * ldy;
  // clang-format off
  switch (n - r) {
#define MM_CASE(R) case R: tile_halves<R, S>(w, xr, ldx, k0, k1, yr, ldy, fresh); break;
    MM_CASE(1) MM_CASE(2) MM_CASE(3)
#if MM_ROWS > 4
    MM_CASE(4) MM_CASE(5)
#endif
#if MM_ROWS > 6
    MM_CASE(6) MM_CASE(7) MM_CASE(8) MM_CASE(9) MM_CASE(10) MM_CASE(11)
#endif
#undef MM_CASE
    default: break;
  }
  // clang-format on
}

template <class S>
MM_INLINE void panel_all(const void *w, const float *x, long ldx, long n, long inputs, float *y) {
  const typename S::Item *items = (const typename S::Item *)w;
  if (n <= MM_ROWS && (n <= 2 || HALVES == 1)) return panel_rows<S>(items, x, ldx, n, 0, inputs, y, P, true);
  for (long k = 0; k < inputs; k += KPART)
    panel_rows<S>(items, x, ldx, n, k, k + KPART < inputs ? k + KPART : inputs, y, P, k == 0);
}

// --- int8 weights, 16-bit activations -------------------------------------------------------------------

// Sums of two products each: 2 * W int8 weights (W outputs x 2 inputs) with one pair of activations.
MM_INLINE vi pair_products(const int8_t *w, int32_t pair) {
#if MM_WIDTH == 16
  return (vi)_mm512_madd_epi16(_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w)),
                               _mm512_set1_epi32(pair));
#elif MM_WIDTH == 8
  return (vi)_mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w)),
                               _mm256_set1_epi32(pair));
#else
  int32_t low = (int16_t)(pair & 0xffff), high = pair >> 16;
  vi out;
  for (long i = 0; i < W; ++i) out[i] = w[2 * i] * low + w[2 * i + 1] * high;
  return out;
#endif
}

// One block of up to 128 inputs: y[r] += integer sum * (weight scale * activation scale).
template <int R, int COUNT>
MM_INLINE void tile_i8(const int8_t *w, long half, const int32_t *x, long ldx, long pairs, const float *ws,
                       const float *xs, long ldxs, float *y, long ldy) {
  vi acc[R][COUNT][2] = {};
  for (long p = 0; p < pairs; ++p, w += 2 * P) {
    if (R == 1) __builtin_prefetch(w + 2048);
    for (int h = 0; h < COUNT; ++h)
      for (int i = 0; i < 2; ++i) {
        const int8_t *at = w + (half + h) * 4 * W + i * 2 * W;
        for (int r = 0; r < R; ++r) acc[r][h][i] += pair_products(at, x[r * ldx + p]);
      }
  }
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < COUNT; ++h)
      for (int i = 0; i < 2; ++i) {
        long lane = (half + h) * 2 * W + i * W;
        vf scale = load(ws + lane) * xs[r * ldxs];
        float *to = y + r * ldy + lane;
        store(to, load(to) + __builtin_convertvector(acc[r][h][i], vf) * scale);
      }
}

template <int R>
MM_INLINE void halves_i8(const int8_t *w, const int32_t *x, long ldx, long pairs, const float *ws,
                         const float *xs, long ldxs, float *y, long ldy) {
  if (R == 1) return tile_i8<R, (int)HALVES>(w, 0, x, ldx, pairs, ws, xs, ldxs, y, ldy);
  for (long half = 0; half < HALVES; ++half) tile_i8<R, 1>(w, half, x, ldx, pairs, ws, xs, ldxs, y, ldy);
}

MM_INLINE long blocks_of(long inputs) { return (inputs + MM_BLOCK - 1) / MM_BLOCK; }
MM_INLINE long pairs_of(long inputs) { return (inputs + 1) / 2; }

// y[n][32] = x[n] . panel, x as pairs of 16-bit numbers with a scale a block.
__attribute__((noinline)) void panel_i8(const int8_t *w, const float *ws, const int32_t *x, const float *xs,
                                        long n, long inputs, float *y) {
  const long pairs = pairs_of(inputs), blocks = blocks_of(inputs), step = MM_BLOCK / 2;
  for (long i = 0; i < n * P; ++i) y[i] = 0;
  for (long b = 0; b < blocks; ++b) {
    const long count = (b + 1) * step < pairs ? step : pairs - b * step;
    const int8_t *wb = w + b * step * 2 * P;
    const int32_t *xb = x + b * step;
    long r = 0;
#define MM_TILE(R)                                                                                           \
  halves_i8<R>(wb, xb + r * pairs, pairs, count, ws + b * P, xs + r * blocks + b, blocks, y + r * P, P)
    for (; r + 4 <= n; r += 4) MM_TILE(4);
    for (; r + 2 <= n; r += 2) MM_TILE(2);
    for (; r < n; ++r) MM_TILE(1);
#undef MM_TILE
  }
}

// 16-bit activations: x = q * scale, scale = largest of the block / 32767.
MM_INLINE void quantise_row(const float *x, long inputs, int16_t *q, float *scales) {
  for (long b = 0, k = 0; k < inputs; ++b, k += MM_BLOCK) {
    const long end = k + MM_BLOCK < inputs ? k + MM_BLOCK : inputs;
    float most = 0, broken = 0; // a NaN must come through
    for (long i = k; i < end; ++i) {
      float size = __builtin_fabsf(x[i]);
      most = size > most ? size : most;
      broken += x[i] * 0.0f;
    }
    scales[b] = most / 32767.0f + broken;
    const float inverse = most > 0 ? 32767.0f / most : 0.0f;
    for (long i = k; i < end; ++i) {
      float scaled = x[i] * inverse;
      q[i] = (int16_t)(int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f));
    }
  }
  if (inputs & 1) q[inputs] = 0;
}

// --- elementwise ------------------------------------------------------------------------------------------

// exp: Cephes' expf (range reduction by ln 2 in two parts, polynomial of degree 5), about 2 ulp.
MM_INLINE vf vexp(vf x) {
  const vf lowest = (vf){} - 87.3f, highest = (vf){} + 88.0f;
  const vi under = x<lowest, over = x> highest;
  x = (vf)(((vi)lowest & under) | ((vi)x & ~under));
  x = (vf)(((vi)highest & over) | ((vi)x & ~over));
  const vf magic = (vf){} + 12582912.0f; // 1.5 * 2^23: adding it rounds to a whole number
  const vf shifted = x * 1.44269504f + magic;
  const vf n = shifted - magic;
  vf r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const vi power = ((vi)shifted - (vi)magic + 127) << 23;
  vf out = p * (vf)power;
  // Below the range the result is zero, as a masked position wants it.
  return (vf)((vi)out & ~under);
}

MM_INLINE float sum_lanes(vf x) {
  float sum = 0;
  for (long i = 0; i < W; ++i) sum += x[i];
  return sum;
}

MM_INLINE float dot(const float *a, const float *b, long n) {
  vf acc = {};
  long i = 0;
  for (; i + W <= n; i += W) acc += load(a + i) * load(b + i);
  float sum = sum_lanes(acc);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

MM_INLINE void rms_norm(const float *x, const float *weight, long n, float eps, float *out) {
  const float scale = 1.0f / __builtin_sqrtf(dot(x, x, n) / (float)n + eps);
  long i = 0;
  for (; i + W <= n; i += W) store(out + i, load(x + i) * scale * load(weight + i));
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// out[i] = silu(gate[i]) * up[i]; n is a multiple of 32.
MM_INLINE void swiglu(const float *gate, const float *up, long n, float *out) {
  for (long i = 0; i < n; i += W) {
    vf g = load(gate + i);
    store(out + i, g / (1.0f + vexp(-g)) * load(up + i));
  }
}

// Rotates pairs (i, i + E / 2).
MM_INLINE void rotate(float *x, const float *cos, const float *sin, long half) {
  for (long i = 0; i < half; ++i) {
    float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

// Softmax without its division over scores[0..length); what follows up to `padded` becomes zero.
MM_INLINE float softmax_row(float *scores, long length, long padded) {
  float most = scores[0];
  vf top = (vf){} + most;
  long i = 0;
  for (; i + W <= length; i += W) {
    vf x = load(scores + i);
    vi larger = x > top;
    top = (vf)(((vi)x & larger) | ((vi)top & ~larger));
  }
  for (long j = 0; j < W; ++j) most = top[j] > most ? top[j] : most;
  for (; i < length; ++i) most = scores[i] > most ? scores[i] : most;
  for (long j = length; j < padded; ++j) scores[j] = -__builtin_inff();
  vf sum = {};
  for (i = 0; i < padded; i += W) {
    vf e = vexp(load(scores + i) - most);
    store(scores + i, e);
    sum += e;
  }
  return sum_lanes(sum);
}

} // namespace
