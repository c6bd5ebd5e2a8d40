// Kernels over heads: norm and rotation, with their gradients. Needs common.h before it.

// One row of joined heads a token, [N, (H + 2K) E] -> q [N, H, E], k and v [N, K, E]: queries and keys normed
// where there are weights, then rotated by their position's row of the tables [P, E]; token n stands at start
// + n % length, where `start` may lie on the device, one for all or one for each row of `length` tokens. With
// a capacity S, k and v are caches [rows, K, S, E] and each token goes to its place. `split` teams have a
// token, L lanes of one a head; C: stretches of half a head.
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
// A lane's cosines and sines of a place.
template <int L, int C>
FN void turn_at(const float *cos, const float *sin, int half, int own, float *cs, float *sn) {
  UNROLL for (int c = 0; c < C; ++c) {
    int at = (c * L + own) * VEC;
    if (at >= half) break;
    load4(cos + at, cs + c * VEC);
    load4(sin + at, sn + c * VEC);
  }
}
template <int L, int C, class T, class W> FN void heads(int lane, i64 team, i64 teams, const HeadsArgs &a) {
  constexpr int AT_ONCE = WIDTH / L;
  int all = a.heads + 2 * a.kv_heads, half = a.e / 2, part = lane / L, own = lane % L;
  for (i64 unit = team; unit < a.n * a.split; unit += teams) {
    i64 token = unit / a.split, row = (int)token / a.length,
        start = a.start_at ? a.start_at[a.own_start ? row : 0] : a.start;
    i64 place = start + (int)token % a.length;
    float cs[C * VEC], sn[C * VEC];
    turn_at<L, C>(a.cos + place * a.e, a.sin + place * a.e, half, own, cs, sn);
    for (int first_head = (int)(unit % a.split) * AT_ONCE; first_head < all;
         first_head += a.split * AT_ONCE) {
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
            float rotated = first[k] * cs[c * VEC + k] - second[k] * sn[c * VEC + k];
            second[k] = second[k] * cs[c * VEC + k] + first[k] * sn[c * VEC + k];
            first[k] = rotated;
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
template <int L, int C, class T, class W>
FN void heads_back(int lane, i64 team, i64 teams, const HeadsBackArgs &a) {
  constexpr int AT_ONCE = WIDTH / L, HELD = C * 2 * VEC;
  int all = a.heads + 2 * a.kv_heads, half = a.e / 2, part = lane / L, own = lane % L;
  float sums[2 * HELD];
  UNROLL for (int i = 0; i < 2 * HELD; ++i) sums[i] = 0;
  for (i64 token = team; token < a.n; token += teams) {
    i64 place = a.start + (int)token % a.length;
    float cs[C * VEC], sn[C * VEC];
    turn_at<L, C>(a.cos + place * a.e, a.sin + place * a.e, half, own, cs, sn);
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
            float rotated = first[k] * cs[c * VEC + k] + second[k] * sn[c * VEC + k];
            second[k] = second[k] * cs[c * VEC + k] - first[k] * sn[c * VEC + k];
            first[k] = rotated;
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
  UNROLL for (int i = 0; i < 2 * HELD; ++i) UNROLL for (int o = WIDTH / 2; o >= L; o >>= 1) sums[i] +=
      __shfl_xor_sync(~0u, sums[i], o);
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
