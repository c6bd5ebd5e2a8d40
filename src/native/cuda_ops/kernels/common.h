// What the kernels of mixed-precision training and decoding share; with rows.h, heads.h and decode.h one text
// for two compilers: a GPU's at run time (NVRTC, which defines MM_GPU and WIDTH) and this program's own,
// where a team is one thread, so that the same arithmetic is tested on a CPU. No libtorch and no header here.
//
// A kernel is a function of (lane, team, teams, arguments): `teams` teams of WIDTH lanes share the rows, team
// t takes rows t, t + teams, ... A lane holds VEC neighbouring numbers of each stretch of WIDTH * VEC.
//
// N rows, D width of a row, H query heads, K kv heads, E head dim, I inner width, V vocab, P positions.
#ifdef MM_GPU
#define FN __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#else
#include <cmath>
#include <cstring>
#define FN static inline
#define UNROLL
#define WIDTH 1
#endif

typedef long long i64;
typedef unsigned short u16;
typedef unsigned int u32;

// A bf16 number: the upper half of a float's bits.
struct bf16 {
  u16 bits;
};

constexpr int VEC = 4;

#ifdef MM_GPU
FN float bits_float(u32 u) { return __uint_as_float(u); }
FN u32 float_bits(float f) { return __float_as_uint(f); }
FN float inverse_root(float x) { return rsqrtf(x); }
FN float exponent(float x) { return expf(x); }
FN float logarithm(float x) { return logf(x); }

// Lanes that add up without a barrier.
constexpr int WARP = 32;

template <class F> FN float over_warp(float x, F join) {
  UNROLL for (int o = WARP / 2; o > 0; o >>= 1) x = join(x, __shfl_xor_sync(~0u, x, o));
  return x;
}

template <class F> FN float over_team(float x, float none, F join) {
  x = over_warp(x, join);
  if (WIDTH == WARP) return x;
  __shared__ float parts[32];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  x = over_warp(lane < WIDTH / WARP ? parts[lane] : none, join);
  __syncthreads();
  return x;
}
#else
FN float bits_float(u32 u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
FN u32 float_bits(float f) {
  u32 u;
  std::memcpy(&u, &f, 4);
  return u;
}
FN float inverse_root(float x) { return 1.0f / std::sqrt(x); }
FN float exponent(float x) { return std::exp(x); }
FN float logarithm(float x) { return std::log(x); }
constexpr int WARP = 1;
template <class F> FN float over_warp(float x, F) { return x; }
template <class F> FN float over_team(float x, float, F) { return x; }
#endif

#define LEAST bits_float(0xff800000u) // minus infinity

FN float add(float a, float b) { return a + b; }
FN float larger(float a, float b) { return a > b ? a : b; }
#ifdef MM_GPU
// Good enough for what is rounded to bf16.
FN float exponent_for(const bf16 *, float x) { return __expf(x); }
#else
FN float exponent_for(const bf16 *, float x) { return exponent(x); }
#endif
FN float exponent_for(const float *, float x) { return exponent(x); }

FN float warp_sum(float x) { return over_warp(x, add); }
FN float team_sum(float x) { return over_team(x, 0.0f, add); }
FN float team_max(float x) { return over_team(x, LEAST, larger); }

FN u16 to_bf16(float f) {
  u32 u = float_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (u16)((u >> 16) | 64u); // stays a NaN
  return (u16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);               // to nearest, ties to even
}
FN float as_float(float x) { return x; }
FN float as_float(bf16 x) { return bits_float((u32)x.bits << 16); }
FN void put(float *at, float x) { *at = x; }
FN void put(bf16 *at, float x) { at->bits = to_bf16(x); }
// What a number is once it has been stored.
FN float stored(const float *, float x) { return x; }
FN float stored(const bf16 *, float x) { return bits_float((u32)to_bf16(x) << 16); }

// Four neighbours at an address that four of them divide.
template <class T> FN void load4(const T *p, float *v) {
#ifdef MM_GPU
  struct alignas(sizeof(T) * 4) Four {
    T x[4];
  };
  Four four = *(const Four *)p;
  UNROLL for (int k = 0; k < 4; ++k) v[k] = as_float(four.x[k]);
#else
  for (int k = 0; k < 4; ++k) v[k] = as_float(p[k]);
#endif
}
template <class T> FN void store4(T *p, const float *v) {
#ifdef MM_GPU
  struct alignas(sizeof(T) * 4) Four {
    T x[4];
  };
  Four four;
  UNROLL for (int k = 0; k < 4; ++k) put(&four.x[k], v[k]);
  *(Four *)p = four;
#else
  for (int k = 0; k < 4; ++k) put(p + k, v[k]);
#endif
}
template <class T> FN void load2(const T *p, float *v) {
#ifdef MM_GPU
  struct alignas(sizeof(T) * 2) Two {
    T x[2];
  };
  Two two = *(const Two *)p;
  v[0] = as_float(two.x[0]), v[1] = as_float(two.x[1]);
#else
  v[0] = as_float(p[0]), v[1] = as_float(p[1]);
#endif
}
template <class T> FN void store2(T *p, const float *v) {
#ifdef MM_GPU
  struct alignas(sizeof(T) * 2) Two {
    T x[2];
  };
  Two two;
  put(&two.x[0], v[0]), put(&two.x[1], v[1]);
  *(Two *)p = two;
#else
  put(p, v[0]), put(p + 1, v[1]);
#endif
}

// Adds up what the teams of a block hold of the same columns, in their order, and writes it as the block's
// row of `out`; on the CPU a team is a block. Lanes for which `here` says no hold nothing.
constexpr int BLOCK = 256;
template <int N, class Column, class Here>
FN void sum_of_block(const float *sums, float *whole, Column column, Here here, int columns, float *out,
                     i64 team) {
#ifdef MM_GPU
  for (int t = 0; t < BLOCK / WIDTH; ++t) {
    if (threadIdx.x / WIDTH == t)
      UNROLL for (int i = 0; i < N; ++i) if (here(i)) whole[column(i)] =
          (t ? whole[column(i)] : 0.0f) + sums[i];
    __syncthreads();
  }
  for (int i = threadIdx.x; i < columns; i += BLOCK) out[(i64)blockIdx.x * columns + i] = whole[i];
#else
  (void)whole, (void)columns;
  for (int i = 0; i < N; ++i)
    if (here(i)) out[team * columns + column(i)] = sums[i];
#endif
}
