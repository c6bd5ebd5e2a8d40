// The inner loops of attention_kernels.h, compiled once for every set of instructions (MM_ISA).
//
// A tile of scores is made, used and forgotten. All five products go through one small kernel: R rows times
// 16 columns, whose right side lies in panels of 16 columns.
#include "attention_kernels.h"
#include "vector_math.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define MM_JOIN(a, b) a##b
#define MM_NAMED(a, b) MM_JOIN(a, b)

using attend::COLUMNS;
using attend::Rows;

namespace {

// Queries, and keys, of a tile.
constexpr int64_t TILE = 96;

#if defined(__AVX512F__)
constexpr int WIDTH = 16, R = 12;
#elif defined(__AVX2__)
constexpr int WIDTH = 8, R = 6;
#elif defined(__aarch64__)
constexpr int WIDTH = 4, R = 6;
#else
constexpr int WIDTH = 4, R = 2;
#endif
constexpr int VECTORS = COLUMNS / WIDTH;
static_assert(TILE % R == 0 && TILE % COLUMNS == 0, "a tile is whole kernels");

typedef float Vector __attribute__((vector_size(WIDTH * 4), aligned(4)));

#define MM_INLINE inline __attribute__((always_inline))

MM_INLINE Vector load(const float *at) { return *reinterpret_cast<const Vector *>(at); }
MM_INLINE void store(float *at, Vector x) { *reinterpret_cast<Vector *>(at) = x; }

int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// c[i][0..16] (+)= sum over j of a[i * row + j * step] * panel[j * 16 ..], for `rows` i and `inner` j.
template <int ROWS>
MM_INLINE void product_rows(const float *a, int64_t row, int64_t step, const float *panel, int64_t inner,
                            float *c, int64_t stride, bool add) {
  Vector sum[ROWS][VECTORS];
  for (int i = 0; i < ROWS; ++i)
    for (int w = 0; w < VECTORS; ++w) sum[i][w] = add ? load(c + i * stride + w * WIDTH) : Vector{};
  for (int64_t j = 0; j < inner; ++j) {
    Vector x[VECTORS];
    for (int w = 0; w < VECTORS; ++w) x[w] = load(panel + j * COLUMNS + w * WIDTH);
    for (int i = 0; i < ROWS; ++i) {
      float y = a[i * row + j * step];
      for (int w = 0; w < VECTORS; ++w) sum[i][w] += x[w] * y;
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int w = 0; w < VECTORS; ++w) store(c + i * stride + w * WIDTH, sum[i][w]);
}

inline void product(int64_t rows, const float *a, int64_t row, int64_t step, const float *panel,
                    int64_t inner, float *c, int64_t stride, bool add) {
  if (rows == R) return product_rows<R>(a, row, step, panel, inner, c, stride, add);
  for (int64_t i = 0; i < rows; ++i)
    product_rows<1>(a + i * row, row, step, panel, inner, c + i * stride, stride, add);
}

// Panels of x^T: 16 rows of x side by side, `E` deep; rows beyond the last are zeros.
void pack_across(Rows x, int64_t n, int64_t e, float *panels) {
  for (int64_t r = 0; r < up(n, COLUMNS); ++r) {
    float *to = panels + r / COLUMNS * COLUMNS * e + r % COLUMNS;
    for (int64_t i = 0; i < e; ++i) to[i * COLUMNS] = r < n ? x[r][i] : 0.0f;
  }
}

// Panels of x: 16 columns of it, `rows` deep each.
void pack_down(Rows x, int64_t n, int64_t e, float *panels, int64_t rows) {
  for (int64_t r = 0; r < n; ++r)
    for (int64_t p = 0; p < e / COLUMNS; ++p)
      std::memcpy(panels + (p * rows + r) * COLUMNS, x[r] + p * COLUMNS, COLUMNS * sizeof(float));
}

// A square of scores: queries from `first` on, `rows` of them, and keys from `key` on, `keys` of them. Where
// they are the same tokens a query sees the keys up to itself alone, and what it does not see is left out of
// every product.
struct Square {
  int64_t first, rows, key, keys;
  bool diagonal() const { return first == key; }
  // Keys that some of the queries from row i on, R of them, can see.
  int64_t seen(int64_t i) const { return diagonal() ? std::min(keys, i + R) : keys; }
  // Keys that query i sees.
  int64_t own(int64_t i) const { return diagonal() ? std::min(keys, i + 1) : keys; }
};

// tile = rows of a times panels of the keys.
void scores(const Square &s, Rows a, const float *panels, int64_t e, float *tile) {
  for (int64_t i = 0; i < s.rows; i += R)
    for (int64_t j = 0; j < s.seen(i); j += COLUMNS)
      product(std::min<int64_t>(R, s.rows - i), a[s.first + i], a.stride, 1, panels + (s.key + j) * e, e,
              tile + i * TILE + j, TILE, false);
}

// c (+)= tile times panels that are `depth` deep and begin at the square's keys.
void spread(const Square &s, const float *tile, const float *panels, int64_t depth, int64_t e, Rows c,
            bool add) {
  for (int64_t i = 0; i < s.rows; i += R)
    for (int64_t p = 0; p < e / COLUMNS; ++p)
      product(std::min<int64_t>(R, s.rows - i), tile + i * TILE, TILE, 1,
              panels + (p * depth + s.key) * COLUMNS, s.seen(i), c[i] + p * COLUMNS, c.stride, add);
}

// c += tile^T times panels of the queries, TILE deep.
void gather(const Square &s, const float *tile, const float *panels, int64_t e, Rows c) {
  for (int64_t j = 0; j < s.keys; j += R) {
    int64_t from = s.diagonal() ? j : 0;
    if (from >= s.rows) break;
    for (int64_t p = 0; p < e / COLUMNS; ++p)
      product(std::min<int64_t>(R, s.keys - j), tile + from * TILE + j, 1, TILE,
              panels + (p * TILE + from) * COLUMNS, s.rows - from, c[s.key + j] + p * COLUMNS, c.stride,
              true);
  }
}

// Zeros where query i sees nothing but products look.
void blank(const Square &s, int64_t i, float *row) {
  int64_t own = s.own(i), seen = s.seen(i / R * R);
  if (own < seen) std::memset(row + own, 0, (seen - own) * sizeof(float));
}

MM_INLINE float largest(const float *x, int64_t n) {
  float lane[rows::LANES], most = x[0];
  std::fill_n(lane, rows::LANES, x[0]);
  int64_t j = 0;
  for (; j + rows::LANES <= n; j += rows::LANES)
    for (int l = 0; l < rows::LANES; ++l) lane[l] = lane[l] > x[j + l] ? lane[l] : x[j + l];
  for (int l = 0; l < rows::LANES; ++l) most = std::max(most, lane[l]);
  for (; j < n; ++j) most = std::max(most, x[j]);
  return most;
}

MM_INLINE float total(const float *x, int64_t n) {
  float lane[rows::LANES] = {0};
  int64_t j = 0;
  for (; j + rows::LANES <= n; j += rows::LANES)
    for (int l = 0; l < rows::LANES; ++l) lane[l] += x[j + l];
  float sum = rows::total(lane);
  for (; j < n; ++j) sum += x[j];
  return sum;
}

struct Forward {
  float *keys, *values, *tile, *most, *sum;
  Forward(int64_t n, int64_t e, float *at) {
    keys = at, values = keys + up(n, COLUMNS) * e, tile = values + n * e, most = tile + TILE * TILE,
    sum = most + TILE;
  }
};

int64_t room_forward(int64_t n, int64_t e) {
  return Forward(n, e, nullptr).sum + TILE - static_cast<float *>(nullptr);
}

void forward(Rows q, Rows k, Rows v, Rows out, Rows lse, int64_t n, int64_t e, float scale, float *scratch) {
  Forward f(n, e, scratch);
  pack_across(k, n, e, f.keys);
  pack_down(v, n, e, f.values, n);
  for (int64_t first = 0; first < n; first += TILE) {
    int64_t rows = std::min(TILE, n - first);
    std::fill_n(f.most, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(f.sum, rows, 0.0f);
    for (int64_t key = 0; key <= first; key += TILE) {
      Square s{first, rows, key, std::min(TILE, n - key)};
      scores(s, q, f.keys, e, f.tile);
      for (int64_t i = 0; i < rows; ++i) {
        float *row = f.tile + i * TILE;
        int64_t own = s.own(i);
        float most = std::max(f.most[i], largest(row, own) * scale);
        for (int64_t j = 0; j < own; ++j) row[j] = rows::fast_exp(row[j] * scale - most);
        float sum = total(row, own);
        blank(s, i, row);
        float shrink = std::exp(f.most[i] - most);
        f.sum[i] = f.sum[i] * shrink + sum;
        f.most[i] = most;
        if (key > 0 && shrink != 1.0f)
          for (int64_t c = 0; c < e; ++c) out[first + i][c] *= shrink;
      }
      spread(s, f.tile, f.values, n, e, Rows{out[first], out.stride}, key > 0);
    }
    for (int64_t i = 0; i < rows; ++i) {
      float share = 1.0f / f.sum[i];
      for (int64_t c = 0; c < e; ++c) out[first + i][c] *= share;
      *lse[first + i] = f.most[i] + std::log(f.sum[i]);
    }
  }
}

struct Back {
  float *keys_across, *values_across, *keys_down, *queries, *grads, *share, *slope, *dk, *dv;
  Back(int64_t n, int64_t e, float *at) {
    int64_t wide = up(n, COLUMNS) * e;
    keys_across = at, values_across = keys_across + wide, keys_down = values_across + wide;
    dk = keys_down + n * e, dv = dk + n * e;
    queries = dv + n * e, grads = queries + TILE * e;
    share = grads + TILE * e, slope = share + TILE * TILE;
  }
};

int64_t room_back(int64_t n, int64_t e) {
  return Back(n, e, nullptr).slope + TILE * TILE - static_cast<float *>(nullptr);
}

void back_begin(Rows k, Rows v, int64_t n, int64_t e, float *scratch) {
  Back b(n, e, scratch);
  pack_across(k, n, e, b.keys_across);
  pack_across(v, n, e, b.values_across);
  pack_down(k, n, e, b.keys_down, n);
  std::fill_n(b.dk, 2 * n * e, 0.0f);
}

void back(Rows q, Rows out, Rows dout, Rows lse, Rows dq, int64_t n, int64_t e, float scale, float *scratch) {
  Back b(n, e, scratch);
  float along[TILE];
  for (int64_t first = 0; first < n; first += TILE) {
    int64_t rows = std::min(TILE, n - first);
    pack_down(Rows{q[first], q.stride}, rows, e, b.queries, TILE);
    pack_down(Rows{dout[first], dout.stride}, rows, e, b.grads, TILE);
    for (int64_t i = 0; i < rows; ++i) along[i] = rows::dot(out[first + i], dout[first + i], e);
    for (int64_t key = 0; key <= first; key += TILE) {
      Square s{first, rows, key, std::min(TILE, n - key)};
      scores(s, q, b.keys_across, e, b.share);
      scores(s, dout, b.values_across, e, b.slope);
      for (int64_t i = 0; i < rows; ++i) {
        float *share = b.share + i * TILE, *slope = b.slope + i * TILE, log = *lse[first + i],
              away = along[i];
        int64_t own = s.own(i);
        for (int64_t j = 0; j < own; ++j) {
          float p = rows::fast_exp(share[j] * scale - log);
          share[j] = p;
          slope[j] = p * (slope[j] - away) * scale;
        }
        blank(s, i, share);
        blank(s, i, slope);
      }
      spread(s, b.slope, b.keys_down, n, e, Rows{dq[first], dq.stride}, key > 0);
      gather(s, b.slope, b.queries, e, Rows{b.dk, e});
      gather(s, b.share, b.grads, e, Rows{b.dv, e});
    }
  }
}

void back_end(Rows dk, Rows dv, int64_t n, int64_t e, float *scratch) {
  Back b(n, e, scratch);
  for (int64_t r = 0; r < n; ++r) {
    std::memcpy(dk[r], b.dk + r * e, e * sizeof(float));
    std::memcpy(dv[r], b.dv + r * e, e * sizeof(float));
  }
}

} // namespace

const attend::Kernels &MM_NAMED(attend_, MM_ISA)() {
  static const attend::Kernels all{room_forward, room_back, forward, back_begin, back, back_end};
  return all;
}
