// Kernels over rows: norm, gate and cross-entropy, with their gradients. Needs common.h before it.

// x [N, D] and y (or none) -> sum = x + y, out = sum / sqrt(mean(sum^2) + eps) * w, rstd [N]. C: stretches of
// a row.
struct NormArgs {
  const void *x, *y, *w;
  void *sum, *out;
  float *rstd;
  i64 n;
  int d;
  float eps;
};
template <int C, class X, class Y, class W, class O>
FN void norm(int lane, i64 team, i64 teams, const NormArgs &a) {
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

// Gradients of the above: g of out, above of sum (or none) -> dx, dy (the same as y's type; or none), and dw
// in parts, [parts, D] (or none). x: what was normed.
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

// Going back: `inner` [N, I] holds the product's gradient going in and the product itself coming out; dx [N,
// 2I].
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

// Cross-entropy of logits [N, V] against tokens [N]; a negative token counts nothing. loss [N] (times the
// row's weight, where there are weights); with `back` the logits become their gradients, times `scale`. A
// lane keeps its C stretches of a row; C = 0: rows are read again.
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
          UNROLL for (int k = 0; k < VEC; ++k) sum += kept[c * VEC + k] =
              exponent_for(x, kept[c * VEC + k] - most);
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
        UNROLL for (int k = 0; k < VEC; ++k) kept[c * VEC + k] =
            token < 0 ? 0.0f : (kept[c * VEC + k] * one - (at + k == token ? 1.0f : 0.0f)) * times;
        store4(x + at, kept + c * VEC);
      }
    } else {
      for (int at = lane * VEC; at < a.vocab; at += WIDTH * VEC) {
        float v[VEC];
        load4(x + at, v);
        UNROLL for (int k = 0; k < VEC; ++k) v[k] =
            token < 0 ? 0.0f : (exponent_for(x, v[k] - most) * one - (at + k == token ? 1.0f : 0.0f)) * times;
        store4(x + at, v);
      }
    }
  }
}
