// The C ABI between Rust and the decoder's kernels: plain structs of pointers, all memory owned by Rust.
//
// Letters: N tokens of a step, D hidden, H query heads, K kv heads, E head dim, I inner width, V vocab, S
// positions. A packed matrix is cut into panels of 32 output rows; inside a panel the inputs run outermost,
// so that one token reads it as a single stream and many tokens reuse it from the cache. Every output is
// summed over its inputs in one fixed order, whatever the batch: a row's result does not depend on its
// neighbours, to the bit.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

enum { MM_PANEL = 32, MM_BLOCK = 128 }; // rows a panel; inputs that share a scale in int8

enum mm_storage { MM_F32 = 0, MM_BF16 = 1, MM_F16 = 2, MM_I8 = 3 };

typedef struct {
  const void *panels;  // [P][inputs][32] fp32 or 16-bit; int8: [P][pairs][32][2]
  const float *scales; // int8: [P][blocks][32]
  const float *bias;   // [outputs] in the panels' order, or NULL
  int32_t outputs, inputs, storage;
} mm_matrix;

typedef struct {
  mm_matrix gate_up; // panels alternate: gate 0, up 0, gate 1, up 1, ...; outputs = 2 * padded I
  mm_matrix down;
} mm_ffn;

typedef struct {
  mm_matrix qkv, o;
  const float *norm_in, *norm_post; // [D]
  const float *q_norm, *k_norm;     // [E] or NULL
  mm_matrix router;                 // [routed, D]; unused when dense
  const mm_ffn *ffns;               // dense: one; else routed, then shared ones
} mm_layer;

typedef struct {
  int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab;
  int32_t routed, top_k, shared, renormalise; // routed = 0: dense
  float eps;
  const float *embedding; // [V][D]
  const float *norm;      // [D]
  const float *cos, *sin; // [S][E / 2]
  const mm_layer *layer;
  mm_matrix head;
} mm_model;

// Keys and values live in pages of 32 positions. A page holds for each layer and kv head the keys as
// [E][32] (positions side by side) and the values as [E / 32 rounded up][32 positions][32].
typedef struct {
  float *arena;
  int64_t page_floats, layer_floats, head_floats;
} mm_cache;

// The tokens of one step: those of a sequence stand side by side, at increasing positions.
typedef struct {
  int32_t tokens, sequences, max_pages, outputs;
  const int32_t *ids, *positions; // [N]
  const int32_t *starts;          // [sequences + 1]: first token of each
  const int32_t *pages;           // [sequences][max_pages]
  const int32_t *output_rows;     // [outputs]: tokens whose logits (or hidden states) are wanted
  float *logits;                  // [outputs][V] or NULL
  float *hidden;                  // [outputs][D] after the last norm, or NULL
} mm_batch;

typedef struct mm_pool mm_pool;
mm_pool *mm_pool_new(int32_t threads);
void mm_pool_free(mm_pool *pool);

// Floats of scratch that a step of N tokens needs whose sequences are at most S long.
int64_t mm_scratch_floats(const mm_model *model, int32_t tokens, int32_t outputs, int64_t positions,
                          int32_t threads);

// One step. Returns how many logits rows hold a NaN.
int32_t mm_forward(const mm_model *model, const mm_cache *cache, const mm_batch *batch, float *scratch,
                   int64_t positions, mm_pool *pool);

// Packs rows of a row-major fp32 matrix into panels `first`, `first + stride`, ... of a packed one.
void mm_pack(const float *source, int32_t rows, int32_t inputs, int32_t storage, void *panels, float *scales,
             int32_t first, int32_t stride, mm_pool *pool);
// Bytes of a panel, and floats of its scales.
int64_t mm_panel_bytes(int32_t inputs, int32_t storage);
int64_t mm_panel_scales(int32_t inputs, int32_t storage);

// out[i] = exp((x[i] - most) * scale); returns the sum.
double mm_exp(const float *x, int64_t n, float most, float scale, float *out);

// What the machine can do, for the benchmark: bytes read a second, and fp32 operations a second.
double mm_measure_read(const float *data, int64_t floats, mm_pool *pool);
double mm_measure_flops(int64_t rounds, mm_pool *pool);

// Which instructions the kernels use: "avx512", "avx2" or "base".
const char *mm_isa(void);
}
