// Causal attention of one head, or of the query heads that share a key and value head: fp32, forward and
// back, after FlashAttention-2 (arXiv 2307.08691) with tiles that fit a processor's caches. No libtorch here.
//
// n tokens of the sequence, E head dim.
#pragma once
#include <cstdint>

namespace attend {

// Rows of a matrix that lie `stride` floats apart.
struct Rows {
  float *at;
  int64_t stride;
  float *operator[](int64_t row) const { return at + row * stride; }
};

// E is a multiple of this.
constexpr int64_t COLUMNS = 16;

// The kernels for one set of instructions. `scratch` has room for as many floats as are asked for.
struct Kernels {
  // For sequences of up to n tokens.
  int64_t (*room_forward)(int64_t n, int64_t e);
  int64_t (*room_back)(int64_t n, int64_t e);
  // out = softmax(scale q k^T) v over the tokens up to each one; lse (a number a row) is the logarithm of the
  // softmax's sum.
  void (*forward)(Rows q, Rows k, Rows v, Rows out, Rows lse, int64_t n, int64_t e, float scale,
                  float *scratch);
  // Once for a key and value head, before its query heads.
  void (*back_begin)(Rows k, Rows v, int64_t n, int64_t e, float *scratch);
  // For each of its query heads: dq is written.
  void (*back)(Rows q, Rows out, Rows dout, Rows lse, Rows dq, int64_t n, int64_t e, float scale,
               float *scratch);
  // dk and dv are written, the sums over those heads.
  void (*back_end)(Rows dk, Rows dv, int64_t n, int64_t e, float *scratch);
};

} // namespace attend
