// Kernels of mixed-precision training and decoding, one text for two compilers: a GPU's at run time (NVRTC, which
// defines MM_GPU and WIDTH) and this program's own, where a team is one thread, so that the same arithmetic is tested
// on a CPU. No libtorch and no header here.
//
// A kernel is a function of (lane, team, teams, arguments): `teams` teams of WIDTH lanes share the rows, team t takes
// rows t, t + teams, ... A lane holds VEC neighbouring numbers of each stretch of WIDTH * VEC.
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
FN float bits_float(u32 u) { float f; std::memcpy(&f, &u, 4); return f; }
FN u32 float_bits(float f) { u32 u; std::memcpy(&u, &f, 4); return u; }
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
  struct alignas(sizeof(T) * 4) Four { T x[4]; };
  Four four = *(const Four *)p;
  UNROLL for (int k = 0; k < 4; ++k) v[k] = as_float(four.x[k]);
#else
  for (int k = 0; k < 4; ++k) v[k] = as_float(p[k]);
#endif
}
template <class T> FN void store4(T *p, const float *v) {
#ifdef MM_GPU
  struct alignas(sizeof(T) * 4) Four { T x[4]; };
  Four four;
  UNROLL for (int k = 0; k < 4; ++k) put(&four.x[k], v[k]);
  *(Four *)p = four;
#else
  for (int k = 0; k < 4; ++k) put(p + k, v[k]);
#endif
}
template <class T> FN void load2(const T *p, float *v) {
#ifdef MM_GPU
  struct alignas(sizeof(T) * 2) Two { T x[2]; };
  Two two = *(const Two *)p;
  v[0] = as_float(two.x[0]), v[1] = as_float(two.x[1]);
#else
  v[0] = as_float(p[0]), v[1] = as_float(p[1]);
#endif
}
template <class T> FN void store2(T *p, const float *v) {
#ifdef MM_GPU
  struct alignas(sizeof(T) * 2) Two { T x[2]; };
  Two two;
  put(&two.x[0], v[0]), put(&two.x[1], v[1]);
  *(Two *)p = two;
#else
  put(p, v[0]), put(p + 1, v[1]);
#endif
}

// Adds up what the teams of a block hold of the same columns, in their order, and writes it as the block's row of `out`;
// on the CPU a team is a block. Lanes for which `here` says no hold nothing.
constexpr int BLOCK = 256;
template <int N, class Column, class Here>
FN void sum_of_block(const float *sums, float *whole, Column column, Here here, int columns, float *out, i64 team) {
#ifdef MM_GPU
  for (int t = 0; t < BLOCK / WIDTH; ++t) {
    if (threadIdx.x / WIDTH == t)
      UNROLL for (int i = 0; i < N; ++i)
        if (here(i)) whole[column(i)] = (t ? whole[column(i)] : 0.0f) + sums[i];
    __syncthreads();
  }
  for (int i = threadIdx.x; i < columns; i += BLOCK) out[(i64)blockIdx.x * columns + i] = whole[i];
#else
  (void)whole, (void)columns;
  for (int i = 0; i < N; ++i)
    if (here(i)) out[team * columns + column(i)] = sums[i];
#endif
}

// x [N, D] and y (or none) -> sum = x + y, out = sum / sqrt(mean(sum^2) + eps) * w, rstd [N]. C: stretches of a row.
struct NormArgs {
  const void *x, *y, *w;
  void *sum, *out;
  float *rstd;
  i64 n;
  int d;
  float eps;
};
template <int C, class X, class Y, class W, class O> FN void norm(int lane, i64 team, i64 teams, const NormArgs &a) {
  const X *x = (const X *)a.x;
  const Y *y = (const Y *)a.y;
  for (i64 r = team; r < a.n; r += teams) {
    float v[C * VEC], t[VEC], square = 0;
    UNROLL for (int c = 0; c < C; ++c) {
      int at = (c * WIDTH + lane) * VEC;
      if (at >= a.d) break;
      load4(x + r * a.d + at, v + c * VEC);
      if (y) {
        load4(y + r * a.d + at, t);
        UNROLL for (int k = 0; k < VEC; ++k) v[c * VEC + k] = stored(x, v[c * VEC + k] + t[k]);
        store4((X *)a.sum + r * a.d + at, v + c * VEC);
      }
      UNROLL for (int k = 0; k < VEC; ++k) square += v[c * VEC + k] * v[c * VEC + k];
    }
    float scale = inverse_root(team_sum(square) / a.d + a.eps);
    UNROLL for (int c = 0; c < C; ++c) {
      int at = (c * WIDTH + lane) * VEC;
      if (at >= a.d) break;
      load4((const W *)a.w + at, t);
      UNROLL for (int k = 0; k < VEC; ++k) t[k] *= v[c * VEC + k] * scale;
      store4((O *)a.out + r * a.d + at, t);
    }
    if (lane == 0) a.rstd[r] = scale;
  }
}

// Gradients of the above: g of out, above of sum (or none) -> dx, dy (the same as y's type; or none), and dw in
// parts, [parts, D] (or none). x: what was normed.
struct NormBackArgs {
  const void *g, *x, *w, *above;
  const float *rstd;
  void *dx, *dy;
  float *dw;
  i64 n;
  int d;
};
template <int C, class X, class Y, class W, class O>
FN void norm_back(int lane, i64 team, i64 teams, const NormBackArgs &a) {
  float sums[C * VEC];
  UNROLL for (int i = 0; i < C * VEC; ++i) sums[i] = 0;
  for (i64 r = team; r < a.n; r += teams) {
    float v[C * VEC], h[C * VEC], t[VEC], dot = 0, scale = a.rstd[r];
    UNROLL for (int c = 0; c < C; ++c) {
      int at = (c * WIDTH + lane) * VEC;
      if (at >= a.d) break;
      load4((const X *)a.x + r * a.d + at, v + c * VEC);
      load4((const O *)a.g + r * a.d + at, h + c * VEC);
      load4((const W *)a.w + at, t);
      UNROLL for (int k = 0; k < VEC; ++k) {
        int i = c * VEC + k;
        sums[i] += h[i] * v[i] * scale;
        h[i] *= t[k];
        dot += h[i] * v[i];
      }
    }
    float back = team_sum(dot) * scale * scale * scale / a.d;
    UNROLL for (int c = 0; c < C; ++c) {
      int at = (c * WIDTH + lane) * VEC;
      if (at >= a.d) break;
      UNROLL for (int k = 0; k < VEC; ++k) h[c * VEC + k] = h[c * VEC + k] * scale - v[c * VEC + k] * back;
      if (a.above) {
        load4((const X *)a.above + r * a.d + at, t);
        UNROLL for (int k = 0; k < VEC; ++k) h[c * VEC + k] += t[k];
      }
      store4((X *)a.dx + r * a.d + at, h + c * VEC);
      if (a.dy) store4((Y *)a.dy + r * a.d + at, h + c * VEC);
    }
  }
  if (!a.dw) return;
#ifdef MM_GPU
  __shared__ float whole[C * WIDTH * VEC];
#else
  float *whole = nullptr;
#endif
  auto column = [&](int i) { return (i / VEC * WIDTH + lane) * VEC + i % VEC; };
  auto here = [&](int i) { return column(i) < a.d; };
  sum_of_block<C * VEC>(sums, whole, column, here, a.d, a.dw, team);
}

// One row of joined heads a token, [N, (H + 2K) E] -> q [N, H, E], k and v [N, K, E]: queries and keys normed where there
// are weights, then turned by their position's row of the tables [P, E]; token n stands at start + n % length, where
// `start` may lie on the device, one for all or one for each row of `length` tokens. With a capacity S, k and v are caches
// [rows, K, S, E] and each token goes to its place. `split` teams have a token, L lanes of one a head; C: stretches of half a
// head.
struct HeadsArgs {
  const void *x, *wq, *wk;
  const float *cos, *sin;
  const i64 *start_at;
  void *q, *k, *v;
  float *rstd;
  i64 n, start, capacity;
  int length, own_start, split, heads, kv_heads, e;
  float eps;
};
template <int L> FN float head_sum(float x) {
#ifdef MM_GPU
  UNROLL for (int o = L / 2; o > 0; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
#endif
  return x;
}
template <int L, int C, class T, class W> FN void heads(int lane, i64 team, i64 teams, const HeadsArgs &a) {
  constexpr int AT_ONCE = WIDTH / L;
  int all = a.heads + 2 * a.kv_heads, half = a.e / 2, part = lane / L, own = lane % L;
  for (i64 unit = team; unit < a.n * a.split; unit += teams) {
    i64 token = unit / a.split, row = (int)token / a.length, start = a.start_at ? a.start_at[a.own_start ? row : 0] : a.start;
    i64 place = start + (int)token % a.length;
    float cs[C * VEC], sn[C * VEC];
    UNROLL for (int c = 0; c < C; ++c) {
      int at = (c * L + own) * VEC;
      if (at >= half) break;
      load4(a.cos + place * a.e + at, cs + c * VEC);
      load4(a.sin + place * a.e + at, sn + c * VEC);
    }
    for (int first_head = (int)(unit % a.split) * AT_ONCE; first_head < all; first_head += a.split * AT_ONCE) {
      int head = first_head + part;
      bool live = head < all, query = head < a.heads, value = head >= a.heads + a.kv_heads;
      int kv = head - a.heads - (value ? a.kv_heads : 0);
      const T *x = (const T *)a.x + (token * all + head) * a.e;
      i64 row_of = a.capacity ? (row * a.kv_heads + kv) * a.capacity + place : token * a.kv_heads + kv;
      T *y = query ? (T *)a.q + (token * a.heads + head) * a.e : (T *)(value ? a.v : a.k) + row_of * a.e;
      const W *w = value ? nullptr : (const W *)(query ? a.wq : a.wk);
      float v[C * 2 * VEC], square = 0;
      UNROLL for (int c = 0; c < C; ++c) {
        int at = (c * L + own) * VEC;
        if (at >= half || !live) break;
        load4(x + at, v + c * 2 * VEC);
        load4(x + half + at, v + c * 2 * VEC + VEC);
        UNROLL for (int k = 0; k < 2 * VEC; ++k) square += v[c * 2 * VEC + k] * v[c * 2 * VEC + k];
      }
      float scale = inverse_root(head_sum<L>(square) / a.e + a.eps);
      if (w && live && own == 0 && a.rstd) a.rstd[token * (a.heads + a.kv_heads) + head] = scale;
      UNROLL for (int c = 0; c < C; ++c) {
        int at = (c * L + own) * VEC;
        if (at >= half || !live) break;
        float *first = v + c * 2 * VEC, *second = first + VEC, t[VEC];
        if (w) {
          load4(w + at, t);
          UNROLL for (int k = 0; k < VEC; ++k) first[k] *= scale * t[k];
          load4(w + half + at, t);
          UNROLL for (int k = 0; k < VEC; ++k) second[k] *= scale * t[k];
        }
        if (!value) UNROLL for (int k = 0; k < VEC; ++k) {
            float turned = first[k] * cs[c * VEC + k] - second[k] * sn[c * VEC + k];
            second[k] = second[k] * cs[c * VEC + k] + first[k] * sn[c * VEC + k];
            first[k] = turned;
          }
        store4(y + at, first);
        store4(y + half + at, second);
      }
    }
  }
}

// Gradients of the above: of q, k and v -> of x, and the weights' in parts, [parts, 2, E] (or none).
struct HeadsBackArgs {
  const void *dq, *dk, *dv, *x, *wq, *wk;
  const float *cos, *sin, *rstd;
  void *dx;
  float *dw;
  i64 n, start;
  int length, heads, kv_heads, e;
};
template <int L, int C, class T, class W> FN void heads_back(int lane, i64 team, i64 teams, const HeadsBackArgs &a) {
  constexpr int AT_ONCE = WIDTH / L, HELD = C * 2 * VEC;
  int all = a.heads + 2 * a.kv_heads, half = a.e / 2, part = lane / L, own = lane % L;
  float sums[2 * HELD];
  UNROLL for (int i = 0; i < 2 * HELD; ++i) sums[i] = 0;
  for (i64 token = team; token < a.n; token += teams) {
    i64 place = a.start + (int)token % a.length;
    float cs[C * VEC], sn[C * VEC];
    UNROLL for (int c = 0; c < C; ++c) {
      int at = (c * L + own) * VEC;
      if (at >= half) break;
      load4(a.cos + place * a.e + at, cs + c * VEC);
      load4(a.sin + place * a.e + at, sn + c * VEC);
    }
    for (int first_head = 0; first_head < all; first_head += AT_ONCE) {
      int head = first_head + part;
      bool live = head < all, query = head < a.heads, value = head >= a.heads + a.kv_heads;
      int kv = head - a.heads - (value ? a.kv_heads : 0);
      const T *g = query ? (const T *)a.dq + (token * a.heads + head) * a.e
                         : (const T *)(value ? a.dv : a.dk) + (token * a.kv_heads + kv) * a.e;
      const W *w = value || !live ? nullptr : (const W *)(query ? a.wq : a.wk);
      const T *x = (const T *)a.x + (token * all + head) * a.e;
      T *dx = (T *)a.dx + (token * all + head) * a.e;
      float scale = w ? a.rstd[token * (a.heads + a.kv_heads) + head] : 1, dot = 0;
      float h[HELD], v[HELD];
      UNROLL for (int c = 0; c < C; ++c) {
        int at = (c * L + own) * VEC;
        if (at >= half || !live) break;
        float *first = h + c * 2 * VEC, *second = first + VEC, *seen = v + c * 2 * VEC;
        load4(g + at, first);
        load4(g + half + at, second);
        if (!value) UNROLL for (int k = 0; k < VEC; ++k) {
            float turned = first[k] * cs[c * VEC + k] + second[k] * sn[c * VEC + k];
            second[k] = second[k] * cs[c * VEC + k] - first[k] * sn[c * VEC + k];
            first[k] = turned;
          }
        if (!w) continue;
        float t[2 * VEC];
        load4(x + at, seen);
        load4(x + half + at, seen + VEC);
        load4(w + at, t);
        load4(w + half + at, t + VEC);
        UNROLL for (int k = 0; k < 2 * VEC; ++k) {
          int i = c * 2 * VEC + k;
          float share = h[i] * v[i] * scale;
          sums[i] += query ? share : 0.0f;
          sums[HELD + i] += query ? 0.0f : share;
          h[i] *= t[k];
          dot += h[i] * v[i];
        }
      }
      float back = head_sum<L>(dot) * scale * scale * scale / a.e;
      UNROLL for (int c = 0; c < C; ++c) {
        int at = (c * L + own) * VEC;
        if (at >= half || !live) break;
        if (w) UNROLL for (int k = 0; k < 2 * VEC; ++k) {
            int i = c * 2 * VEC + k;
            h[i] = h[i] * scale - v[i] * back;
          }
        store4(dx + at, h + c * 2 * VEC);
        store4(dx + half + at, h + c * 2 * VEC + VEC);
      }
    }
  }
  if (!a.dw) return;
  // Lanes of other heads hold the same columns.
#ifdef MM_GPU
  UNROLL for (int i = 0; i < 2 * HELD; ++i)
    UNROLL for (int o = WIDTH / 2; o >= L; o >>= 1) sums[i] += __shfl_xor_sync(~0u, sums[i], o);
  __shared__ float whole[2 * C * L * 2 * VEC];
#else
  float *whole = nullptr;
#endif
  auto column = [&](int i) {
    int c = i % HELD / (2 * VEC), k = i % (2 * VEC);
    return i / HELD * a.e + (k / VEC) * half + (c * L + own) * VEC + k % VEC;
  };
  auto here = [&](int i) { return (i % HELD / (2 * VEC) * L + own) * VEC < half && part == 0; };
  sum_of_block<2 * HELD>(sums, whole, column, here, 2 * a.e, a.dw, team);
}

// Attention of one new token a row: q [N, H, E] over the first last + 1 places of the caches k and v [N, K, S, E] ->
// out [N, H, E]. A team has a head; its warps take places in turn, with a softmax of their own each. C: stretches of a
// head.
struct AttendArgs {
  const void *q, *k, *v;
  void *out;
  const i64 *last;
  i64 n, capacity;
  int own_last, heads, kv_heads, e;
  float scale;
};
template <int C, class T> FN void attend(int lane, i64 team, i64 teams, const AttendArgs &a) {
  constexpr int WARPS = WIDTH / WARP, AT_ONCE = 4;
  int warp = lane / WARP, place = lane % WARP;
  for (i64 r = team; r < a.n * a.heads; r += teams) {
    i64 kv = r / a.heads * a.kv_heads + r % a.heads / (a.heads / a.kv_heads);
    const T *keys = (const T *)a.k + kv * a.capacity * a.e, *values = (const T *)a.v + kv * a.capacity * a.e;
    float q[C * VEC], made[C * VEC], most = LEAST, sum = 0;
    UNROLL for (int c = 0; c < C; ++c) {
      int at = (c * WARP + place) * VEC;
      UNROLL for (int k = 0; k < VEC; ++k) made[c * VEC + k] = q[c * VEC + k] = 0;
      if (at < a.e) load4((const T *)a.q + r * a.e + at, q + c * VEC);
    }
    i64 count = a.last[a.own_last ? r / a.heads : 0] + 1;
    for (i64 first = warp * AT_ONCE; first < count; first += WARPS * AT_ONCE) {
      float score[AT_ONCE], here = most;
      UNROLL for (int i = 0; i < AT_ONCE; ++i) {
        float dot = 0, t[VEC];
        if (first + i < count)
          UNROLL for (int c = 0; c < C; ++c) {
            int at = (c * WARP + place) * VEC;
            if (at >= a.e) break;
            load4(keys + (first + i) * a.e + at, t);
            UNROLL for (int k = 0; k < VEC; ++k) dot += q[c * VEC + k] * t[k];
          }
        dot = warp_sum(dot) * a.scale;
        score[i] = first + i < count ? dot : LEAST;
        here = larger(here, score[i]);
      }
      float shrink = exponent(most - here);
      most = here, sum *= shrink;
      UNROLL for (int i = 0; i < C * VEC; ++i) made[i] *= shrink;
      UNROLL for (int i = 0; i < AT_ONCE; ++i) {
        if (first + i >= count) break;
        float t[VEC], p = exponent(score[i] - most);
        sum += p;
        UNROLL for (int c = 0; c < C; ++c) {
          int at = (c * WARP + place) * VEC;
          if (at >= a.e) break;
          load4(values + (first + i) * a.e + at, t);
          UNROLL for (int k = 0; k < VEC; ++k) made[c * VEC + k] += p * t[k];
        }
      }
    }
    // The warps' softmaxes become one.
    float top = team_max(most), shrink = sum > 0 ? exponent(most - top) : (sum == sum ? 0.0f : sum);
#ifdef MM_GPU
    __shared__ float parts[WARPS][C * VEC * WARP];
    float all = team_sum(place == 0 ? sum * shrink : 0.0f);
    UNROLL for (int c = 0; c < C; ++c)
      UNROLL for (int k = 0; k < VEC; ++k) parts[warp][(c * WARP + place) * VEC + k] = made[c * VEC + k] * shrink;
    __syncthreads();
    for (int i = lane; i < a.e; i += WIDTH) {
      float value = 0;
      UNROLL for (int w = 0; w < WARPS; ++w) value += parts[w][i];
      put((T *)a.out + r * a.e + i, value / all);
    }
    __syncthreads();
#else
    for (int i = 0; i < a.e; ++i) put((T *)a.out + r * a.e + i, made[i] * shrink / (sum * shrink));
#endif
  }
}

// gate and up side by side, [N, 2I] -> silu(gate) * up, [N, I].
struct GateArgs {
  const void *x;
  void *out;
  i64 n;
  int inner;
};
template <class T> FN void gate(int lane, i64 team, i64 teams, const GateArgs &a) {
  for (i64 r = team; r < a.n; r += teams) {
    const T *x = (const T *)a.x + r * 2 * a.inner;
    for (int at = lane * VEC; at < a.inner; at += WIDTH * VEC) {
      float g[VEC], u[VEC];
      load4(x + at, g);
      load4(x + a.inner + at, u);
      UNROLL for (int k = 0; k < VEC; ++k) g[k] = g[k] / (1.0f + exponent_for(x, -g[k])) * u[k];
      store4((T *)a.out + r * a.inner + at, g);
    }
  }
}

// Going back: `inner` [N, I] holds the product's gradient going in and the product itself coming out; dx [N, 2I].
struct GateBackArgs {
  const void *x;
  void *inner_io, *dx;
  i64 n;
  int inner;
};
template <class T> FN void gate_back(int lane, i64 team, i64 teams, const GateBackArgs &a) {
  for (i64 r = team; r < a.n; r += teams) {
    const T *x = (const T *)a.x + r * 2 * a.inner;
    T *io = (T *)a.inner_io + r * a.inner, *dx = (T *)a.dx + r * 2 * a.inner;
    for (int at = lane * VEC; at < a.inner; at += WIDTH * VEC) {
      float g[VEC], u[VEC], h[VEC], dg[VEC], du[VEC];
      load4(x + at, g);
      load4(x + a.inner + at, u);
      load4(io + at, h);
      UNROLL for (int k = 0; k < VEC; ++k) {
        float s = 1.0f / (1.0f + exponent_for(x, -g[k])), silu = g[k] * s;
        dg[k] = h[k] * u[k] * (s + silu * (1.0f - s));
        du[k] = h[k] * silu;
        h[k] = silu * u[k];
      }
      store4(dx + at, dg);
      store4(dx + a.inner + at, du);
      store4(io + at, h);
    }
  }
}

// norm(x + y) m^T for few rows, x and y (or none) [R, D], m [O, D] -> [R, O], and x + y; `gated`: m [2O, D] is gate and up,
// and silu(gate) * up comes out. Every team norms the rows for itself, and its warps have an output each.
struct NormedArgs {
  const void *x, *y, *w, *m;
  void *sum, *out;
  i64 outputs;
  int d, gated;
  float eps;
};
constexpr int HELD = 8192;
template <int R, class T, class O> FN void normed(int lane, i64 team, i64 teams, const NormedArgs &a) {
  constexpr int WARPS = WIDTH / WARP;
  int warp = lane / WARP, place = lane % WARP;
#ifdef MM_GPU
  __shared__ float held[HELD];
#else
  float held[HELD];
#endif
  UNROLL for (int r = 0; r < R; ++r) {
    float *row = held + r * a.d, v[VEC], t[VEC], square = 0;
    for (int at = lane * VEC; at < a.d; at += WIDTH * VEC) {
      load4((const T *)a.x + r * a.d + at, v);
      if (a.y) {
        load4((const T *)a.y + r * a.d + at, t);
        UNROLL for (int k = 0; k < VEC; ++k) v[k] = stored((const T *)a.x, v[k] + t[k]);
        if (team == 0) store4((T *)a.sum + r * a.d + at, v);
      }
      UNROLL for (int k = 0; k < VEC; ++k) row[at + k] = v[k], square += v[k] * v[k];
    }
    float scale = inverse_root(team_sum(square) / a.d + a.eps);
    for (int at = lane * VEC; at < a.d; at += WIDTH * VEC) {
      load4((const T *)a.w + at, t);
      UNROLL for (int k = 0; k < VEC; ++k) row[at + k] = stored((const T *)a.x, row[at + k] * scale * t[k]);
    }
  }
#ifdef MM_GPU
  __syncthreads();
#endif
  for (i64 o = team * WARPS + warp; o < a.outputs; o += teams * WARPS) {
    const T *first = (const T *)a.m + o * a.d, *second = first + (a.gated ? a.outputs * a.d : 0);
    float one[R], two[R];
    UNROLL for (int r = 0; r < R; ++r) one[r] = two[r] = 0;
#ifdef MM_GPU
#pragma unroll 3
#endif
    for (int at = place * VEC; at < a.d; at += WARP * VEC) {
      float t[VEC], u[VEC];
      load4(first + at, t);
      if (a.gated) load4(second + at, u);
      UNROLL for (int r = 0; r < R; ++r) {
        const float *row = held + r * a.d + at;
        UNROLL for (int k = 0; k < VEC; ++k) one[r] += t[k] * row[k];
        if (a.gated) UNROLL for (int k = 0; k < VEC; ++k) two[r] += u[k] * row[k];
      }
    }
    UNROLL for (int r = 0; r < R; ++r) {
      float made = warp_sum(one[r]);
      if (a.gated) made = made / (1.0f + exponent_for((const T *)a.x, -made)) * warp_sum(two[r]);
      if (place == 0) put((O *)a.out + r * a.outputs + o, made);
    }
  }
}

// x [R, D] and a matrix w [O, D] -> x w^T [R, O], for few rows: w is read once. A team has an output.
struct MatvecArgs {
  const void *x, *w;
  void *out;
  i64 outputs;
  int d;
};
template <int R, class T, class O> FN void matvec(int lane, i64 team, i64 teams, const MatvecArgs &a) {
  for (i64 o = team; o < a.outputs; o += teams) {
    const T *w = (const T *)a.w + o * a.d;
    float sums[R];
    UNROLL for (int r = 0; r < R; ++r) sums[r] = 0;
#ifdef MM_GPU
#pragma unroll 4
#endif
    for (int at = lane * VEC; at < a.d; at += WIDTH * VEC) {
      float t[VEC], v[VEC];
      load4(w + at, t);
      UNROLL for (int r = 0; r < R; ++r) {
        load4((const T *)a.x + r * a.d + at, v);
        UNROLL for (int k = 0; k < VEC; ++k) sums[r] += t[k] * v[k];
      }
    }
    UNROLL for (int r = 0; r < R; ++r) {
      float sum = warp_sum(sums[r]);
      if (lane == 0) put((O *)a.out + r * a.outputs + o, sum);
    }
  }
}

// Cross-entropy of logits [N, V] against tokens [N]; a negative token counts nothing. loss [N] (times the row's weight,
// where there are weights); with `back` the logits become their gradients, times `scale`. A lane keeps its C stretches of a
// row; C = 0: rows are read again.
struct EntropyArgs {
  void *logits;
  const i64 *tokens;
  const float *weights, *scale;
  float *loss;
  i64 n;
  int vocab, back;
};
template <int C, class T> FN void entropy(int lane, i64 team, i64 teams, const EntropyArgs &a) {
  constexpr int KEPT = C ? C : 1;
  for (i64 r = team; r < a.n; r += teams) {
    T *x = (T *)a.logits + r * a.vocab;
    i64 token = a.tokens[r];
    float kept[KEPT * VEC], most = LEAST, sum = 0, own = 0;
    if (token >= 0) {
      if (C) {
        UNROLL for (int c = 0; c < KEPT; ++c) {
          int at = (c * WIDTH + lane) * VEC;
          if (at >= a.vocab) break;
          load4(x + at, kept + c * VEC);
          UNROLL for (int k = 0; k < VEC; ++k) {
            most = larger(most, kept[c * VEC + k]);
            if (at + k == token) own = kept[c * VEC + k];
          }
        }
        most = team_max(most);
        UNROLL for (int c = 0; c < KEPT; ++c) {
          if ((c * WIDTH + lane) * VEC >= a.vocab) break;
          UNROLL for (int k = 0; k < VEC; ++k) sum += kept[c * VEC + k] = exponent_for(x, kept[c * VEC + k] - most);
        }
      } else {
        for (int at = lane * VEC; at < a.vocab; at += WIDTH * VEC) {
          float v[VEC], here = most;
          load4(x + at, v);
          UNROLL for (int k = 0; k < VEC; ++k) here = larger(v[k], here);
          if (here > most) sum *= exponent_for(x, most - here), most = here;
          UNROLL for (int k = 0; k < VEC; ++k) {
            sum += exponent_for(x, v[k] - most);
            if (at + k == token) own = v[k];
          }
        }
        float top = team_max(most);
        sum = sum > 0 ? sum * exponent_for(x, most - top) : sum;
        most = top;
      }
      sum = team_sum(sum);
      own = team_sum(own);
    }
    float weight = token < 0 ? 0.0f : a.weights ? a.weights[r] : 1.0f;
    if (lane == 0) a.loss[r] = token < 0 ? 0.0f : (most + logarithm(sum) - own) * weight;
    if (!a.back) continue;
    float one = 1.0f / sum, times = weight * *a.scale;
    if (C) {
      UNROLL for (int c = 0; c < KEPT; ++c) {
        int at = (c * WIDTH + lane) * VEC;
        if (at >= a.vocab) break;
        UNROLL for (int k = 0; k < VEC; ++k)
          kept[c * VEC + k] = token < 0 ? 0.0f : (kept[c * VEC + k] * one - (at + k == token ? 1.0f : 0.0f)) * times;
        store4(x + at, kept + c * VEC);
      }
    } else {
      for (int at = lane * VEC; at < a.vocab; at += WIDTH * VEC) {
        float v[VEC];
        load4(x + at, v);
        UNROLL for (int k = 0; k < VEC; ++k)
          v[k] = token < 0 ? 0.0f : (exponent_for(x, v[k] - most) * one - (at + k == token ? 1.0f : 0.0f)) * times;
        store4(x + at, v);
      }
    }
  }
}
