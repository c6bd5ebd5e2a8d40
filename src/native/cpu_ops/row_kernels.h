// Row arithmetic of the fused training ops, fp32: plain loops over contiguous floats that the compiler turns
// into vector code, once for each set of instructions (`MM_ROWS`). No libtorch here.
//
// D width of a row, E head dim.
#pragma once
#include "vector_math.h"

#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MM_ROWS __attribute__((target_clones("default", "avx2,fma", "arch=x86-64-v4")))
#else
#define MM_ROWS
#endif

namespace rows {

// y = x * rstd * w; gives rstd = 1 / sqrt(mean(x^2) + eps)
inline float rms(const float *x, const float *w, float *y, int64_t d, float eps) {
  float rstd = 1.0f / std::sqrt(dot(x, x, d) / d + eps);
  for (int64_t i = 0; i < d; ++i) y[i] = x[i] * rstd * w[i];
  return rstd;
}

// dx = rstd * (g * w) - x * rstd^3 / D * sum(g * w * x) (+ add); dw += g * x * rstd
inline void rms_back(const float *g, const float *x, const float *w, float rstd, const float *add, float *dx,
                     float *dw, int64_t d) {
  float c = dot3(g, w, x, d) * rstd * rstd * rstd / d;
  if (add)
    for (int64_t i = 0; i < d; ++i) dx[i] = rstd * (g[i] * w[i]) - x[i] * c + add[i];
  else
    for (int64_t i = 0; i < d; ++i) dx[i] = rstd * (g[i] * w[i]) - x[i] * c;
  if (dw)
    for (int64_t i = 0; i < d; ++i) dw[i] += g[i] * x[i] * rstd;
}

MM_ROWS static void add_rms_rows(const float *x, const float *y, const float *w, float *sum, float *out,
                                 float *rstd, int64_t from, int64_t to, int64_t d, float eps) {
  for (int64_t r = from; r < to; ++r) {
    const float *in = x + r * d;
    if (y) {
      for (int64_t i = 0; i < d; ++i) sum[r * d + i] = in[i] + y[r * d + i];
      in = sum + r * d;
    }
    rstd[r] = rms(in, w, out + r * d, d, eps);
  }
}

MM_ROWS static void rms_back_rows(const float *g, const float *x, const float *w, const float *rstd,
                                  const float *add, float *dx, float *dw, int64_t from, int64_t to,
                                  int64_t d) {
  for (int64_t r = from; r < to; ++r)
    rms_back(g + r * d, x + r * d, w, rstd[r], add ? add + r * d : nullptr, dx + r * d, dw, d);
}

MM_ROWS static void swiglu_row(const float *g, const float *u, float *y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = g[i] / (1.0f + fast_exp(-g[i])) * u[i];
}

// Backward: `h` is the gradient going in and silu(g) * u coming out.
MM_ROWS static void swiglu_again_row(float *h, const float *g, const float *u, float *dg, float *du,
                                     int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float s = 1.0f / (1.0f + fast_exp(-g[i]));
    float silu = g[i] * s, dy = h[i];
    dg[i] = dy * u[i] * (s + silu * (1.0f - s));
    du[i] = dy * silu;
    h[i] = silu * u[i];
  }
}

MM_ROWS static void scaled_row(const float *x, float s, float *y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * s;
}

MM_ROWS static void add_scaled_row(const float *x, float s, float *y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i] * s;
}

MM_ROWS static float dot_row(const float *a, const float *b, int64_t n) { return dot(a, b, n); }

// One head: norm (where w), then rotate by the position's half-split cosines and sines.
MM_ROWS static float rotate_head(const float *x, const float *w, const float *cos, const float *sin, float *y,
                                 int64_t e, float eps) {
  float rstd = 1.0f;
  float buffer[512];
  const float *n = x;
  if (w) {
    rstd = rms(x, w, buffer, e, eps);
    n = buffer;
  }
  int64_t h = e / 2;
  for (int64_t i = 0; i < h; ++i) {
    y[i] = n[i] * cos[i] - n[i + h] * sin[i];
    y[i + h] = n[i + h] * cos[i + h] + n[i] * sin[i + h];
  }
  return rstd;
}

MM_ROWS static void rotate_head_back(const float *g, const float *x, const float *w, float rstd,
                                     const float *cos, const float *sin, float *dx, float *dw, int64_t e) {
  float buffer[512];
  float *n = w ? buffer : dx;
  int64_t h = e / 2;
  for (int64_t i = 0; i < h; ++i) {
    n[i] = g[i] * cos[i] + g[i + h] * sin[i + h];
    n[i + h] = g[i + h] * cos[i + h] - g[i] * sin[i];
  }
  if (w) rms_back(n, x, w, rstd, nullptr, dx, dw, e);
}

} // namespace rows
