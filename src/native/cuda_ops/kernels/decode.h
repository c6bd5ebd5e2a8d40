// Kernels of a step of decoding, for few rows: attention over caches, and products. Needs common.h before it.

// Attention of one new token a row: q [N, H, E] over the first last + 1 places of the caches k and v [N, K,
// S, E] -> out [N, H, E]. A team has a head; its warps take places in turn, with a softmax of their own each.
// C: stretches of a head.
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
        if (first + i < count) UNROLL for (int c = 0; c < C; ++c) {
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
    UNROLL for (int c = 0; c < C; ++c) UNROLL for (int k = 0; k < VEC; ++k)
        parts[warp][(c * WARP + place) * VEC + k] = made[c * VEC + k] * shrink;
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

// norm(x + y) m^T for few rows, x and y (or none) [R, D], m [O, D] -> [R, O], and x + y; `gated`: m [2O, D]
// is gate and up, and silu(gate) * up comes out. Every team norms the rows for itself, and its warps have an
// output each.
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
