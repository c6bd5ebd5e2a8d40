// Row arithmetic of the fused training ops, fp32: plain loops over contiguous floats that the compiler turns
// into vector code, once for each set of instructions (`MM_ROWS`). No libtorch here.
//
// D width of a row, E head dim.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MM_ROWS __attribute__((target_clones("default", "avx2,fma", "arch=x86-64-v4")))
#else
#define MM_ROWS
#endif

namespace rows {

// Sixteen running sums: the compiler may not reorder one sum, but it may do sixteen at once.
constexpr int LANES = 16;

inline float total(const float *lane) {
  float sum = 0;
  for (int j = 0; j < LANES; ++j) sum += lane[j];
  return sum;
}

// exp, accurate to about one unit in the last place: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' expf).
inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

// sum(a * b)
inline float dot(const float *a, const float *b, int64_t n) {
  float lane[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; ++j) lane[j] += a[i + j] * b[i + j];
  float sum = total(lane);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// sum(a * b * c)
inline float dot3(const float *a, const float *b, const float *c, int64_t n) {
  float lane[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; ++j) lane[j] += a[i + j] * b[i + j] * c[i + j];
  float sum = total(lane);
  for (; i < n; ++i) sum += a[i] * b[i] * c[i];
  return sum;
}

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

MM_ROWS static void add_rms_rows(const float *x, const float *y, const float *w, float *sum, float *out, float *rstd,
                          int64_t from, int64_t to, int64_t d, float eps) {
  for (int64_t r = from; r < to; ++r) {
    const float *in = x + r * d;
    if (y) {
      for (int64_t i = 0; i < d; ++i) sum[r * d + i] = in[i] + y[r * d + i];
      in = sum + r * d;
    }
    rstd[r] = rms(in, w, out + r * d, d, eps);
  }
}

MM_ROWS static void rms_back_rows(const float *g, const float *x, const float *w, const float *rstd, const float *add,
                           float *dx, float *dw, int64_t from, int64_t to, int64_t d) {
  for (int64_t r = from; r < to; ++r)
    rms_back(g + r * d, x + r * d, w, rstd[r], add ? add + r * d : nullptr, dx + r * d, dw, d);
}

MM_ROWS static void swiglu_row(const float *g, const float *u, float *y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = g[i] / (1.0f + fast_exp(-g[i])) * u[i];
}

// The way back: `h` is the gradient going in and silu(g) * u coming out.
MM_ROWS static void swiglu_again_row(float *h, const float *g, const float *u, float *dg, float *du, int64_t n) {
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
MM_ROWS static float turn_head(const float *x, const float *w, const float *cos, const float *sin, float *y, int64_t e,
                        float eps) {
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

MM_ROWS static void turn_head_back(const float *g, const float *x, const float *w, float rstd, const float *cos,
                            const float *sin, float *dx, float *dw, int64_t e) {
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
