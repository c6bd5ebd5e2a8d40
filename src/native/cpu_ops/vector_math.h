// Arithmetic that loops over contiguous floats share. Each file has its own copy, for its own set of
// instructions.
#pragma once
#include <cstdint>
#include <cstring>

namespace rows {

// Sixteen running sums: the compiler may not reorder one sum, but it may do sixteen at once.
constexpr int LANES = 16;

static inline float total(const float *lane) {
  float sum = 0;
  for (int j = 0; j < LANES; ++j) sum += lane[j];
  return sum;
}

// exp, accurate to about one unit in the last place: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes'
// expf).
static inline float fast_exp(float x) {
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
static inline float dot(const float *a, const float *b, int64_t n) {
  float lane[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; ++j) lane[j] += a[i + j] * b[i + j];
  float sum = total(lane);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// sum(a * b * c)
static inline float dot3(const float *a, const float *b, const float *c, int64_t n) {
  float lane[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES; ++j) lane[j] += a[i + j] * b[i + j] * c[i + j];
  float sum = total(lane);
  for (; i < n; ++i) sum += a[i] * b[i] * c[i];
  return sum;
}

} // namespace rows
