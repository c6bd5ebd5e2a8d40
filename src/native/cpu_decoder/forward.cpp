// One step of the decoder: embedding, blocks, final norm, output layer, over all tokens of all sequences.
// Compiled once per instruction set (MM_ISA names it); dispatch.cpp picks one.
#include "kernels.h"
#include "pool.h"

// MM_ISA: avx512, avx2 or base.
#define MM_JOIN_(a, b) a##b
#define MM_JOIN(a, b) MM_JOIN_(a, b)

namespace {

constexpr long ROWS = 96;    // tokens whose partial results a thread holds at a time
constexpr long QUERIES = 48; // query rows that share a pass over keys and values

MM_INLINE long rounded(long n, long to) { return (n + to - 1) / to * to; }

// Where the parts of a step's scratch lie.
struct Scratch {
  float *x, *xn, *qkv, *mixed, *inner, *scores_base, *tile_base, *share;
  int32_t *chosen, *order, *owner, *tiles;
  int16_t *quantised;
  float *q_scales;
  int64_t scores_stride, tile_stride, total;
};

struct Sizes {
  long d, q, kv, e, groups, inner, slots, widest;
  explicit Sizes(const mm_model *m) {
    d = m->hidden;
    e = m->head_dim;
    q = (long)m->heads * e;
    kv = (long)m->kv_heads * e;
    groups = m->heads / m->kv_heads;
    inner = rounded(m->inner, P);
    // A token takes part in this many feed-forwards.
    slots = m->routed ? m->top_k + m->shared : 1;
    widest = d > q ? d : q;
    widest = widest > inner ? widest : inner;
  }
};

Scratch lay_out(float *base, const mm_model *m, long n, long outputs, long positions, long threads) {
  const Sizes z(m);
  Scratch s;
  int64_t at = 0;
  auto take = [&](int64_t floats) {
    float *p = base + at;
    at += rounded(floats, 16);
    return p;
  };
  const long rows = n > outputs ? n : outputs;
  s.x = take(n * z.d);
  s.xn = take(rows * z.d);
  s.qkv = take(n * (z.q + 2 * z.kv));
  s.mixed = take(n * z.q);
  s.inner = take(n * z.slots * z.inner);
  s.share = take(n * (m->routed + z.slots + 1));
  s.chosen = (int32_t *)take(n * (z.slots + 1));
  s.order = (int32_t *)take(n * z.slots + m->routed + m->shared + 2);
  s.owner = (int32_t *)take(n);
  s.tiles = (int32_t *)take(2 * n);
  s.quantised = (int16_t *)take(rounded(rows * z.slots * (z.widest + 2), 2) / 2 + 16);
  s.q_scales = take(rows * z.slots * (z.widest / MM_BLOCK + 1));
  s.tile_stride = 2 * ROWS * P;
  s.tile_base = take(s.tile_stride * threads);
  // Scores of a tile of queries, its queries, and its mixed values.
  s.scores_stride = rounded((QUERIES + z.groups) * (rounded(positions, P) + rounded(z.e, P) * 2), 16);
  s.scores_base = take(s.scores_stride * threads);
  s.total = at;
  return s;
}

struct Step {
  const mm_model *m;
  const mm_cache *cache;
  const mm_batch *b;
  mm_pool *pool;
  Sizes z;
  Scratch s;
  long n;
  int32_t layer = 0;

  template <class F> void parallel(long count, const F &body) {
    pool_run(
        pool, (int32_t)count,
        [](void *f, int32_t chunk, int32_t thread) {
          (*static_cast<const F *>(f))((long)chunk, (long)thread);
        },
        const_cast<F *>(&body));
  }

  // --- matrix products ---

  // Makes 16-bit activations of rows that int8 weights meet.
  void prepare(const mm_matrix &w, const float *x, long ldx, long rows) {
    if (w.storage != MM_I8) return;
    const long width = pairs_of(w.inputs) * 2, blocks = blocks_of(w.inputs);
    auto row = [&](long r, long) {
      quantise_row(x + r * ldx, w.inputs, s.quantised + r * width, s.q_scales + r * blocks);
    };
    if (rows < 8) {
      for (long r = 0; r < rows; ++r) row(r, 0);
    } else {
      parallel(rows, row);
    }
  }

  // y[rows][32] = x[r0..r0 + rows] . panel; `x` are the rows that `prepare` has seen.
  void panel(const mm_matrix &w, long p, const float *x, long ldx, long r0, long rows, float *y) {
    const char *at = (const char *)w.panels;
    const long in = w.inputs;
    const float *xr = x + r0 * ldx;
    switch (w.storage) {
    case MM_F32: return panel_all<Fp32>(at + p * in * P * 4, xr, ldx, rows, in, y);
    case MM_BF16: return panel_all<Bf16>(at + p * in * P * 2, xr, ldx, rows, in, y);
    case MM_F16: return panel_all<Fp16>(at + p * in * P * 2, xr, ldx, rows, in, y);
    default: {
      const long pairs = pairs_of(in), blocks = blocks_of(in);
      panel_i8((const int8_t *)at + p * pairs * 2 * P, w.scales + p * blocks * P,
               (const int32_t *)(s.quantised + r0 * pairs * 2), s.q_scales + r0 * blocks, rows, in, y);
    }
    }
  }

  // Consecutive panels a chunk: enough bytes to be worth a claim, enough chunks to share out.
  long panels_a_chunk(const mm_matrix &w, long panels, long unit) {
    const long bytes = mm_panel_bytes(w.inputs, w.storage) * unit, fair = panels / (pool_threads(pool) * 4);
    long want = 65536 / bytes;
    want = want < fair ? want : fair;
    return want < 1 ? 1 : want;
  }

  // out[r][o] (+)= x[r] . w + bias
  void multiply(const mm_matrix &w, const float *x, long ldx, long rows, float *out, long ldo, bool add) {
    prepare(w, x, ldx, rows);
    const long panels = (w.outputs + P - 1) / P, step = panels_a_chunk(w, panels, 1);
    parallel((panels + step - 1) / step, [&](long chunk, long thread) {
      float *y = s.tile_base + thread * s.tile_stride;
      const long last = (chunk + 1) * step < panels ? (chunk + 1) * step : panels;
      for (long p = chunk * step; p < last; ++p)
        for (long r0 = 0; r0 < rows; r0 += ROWS) {
          const long count = rows - r0 < ROWS ? rows - r0 : ROWS,
                     width = w.outputs - p * P < P ? w.outputs - p * P : P;
          panel(w, p, x, ldx, r0, count, y);
          for (long r = 0; r < count; ++r) {
            float *to = out + (r0 + r) * ldo + p * P;
            const float *from = y + r * P;
            for (long i = 0; i < width; ++i) {
              const float value = w.bias ? from[i] + w.bias[p * P + i] : from[i];
              to[i] = add ? to[i] + value : value;
            }
          }
        }
    });
  }

  void norm_rows(const float *x, long rows, const float *weight, float *out) {
    auto row = [&](long r, long) { rms_norm(x + r * z.d, weight, z.d, m->eps, out + r * z.d); };
    if (rows < 16) {
      for (long r = 0; r < rows; ++r) row(r, 0);
    } else {
      parallel(rows, row);
    }
  }

  // --- attention ---

  float *page(long sequence, long index, long head) {
    return cache->arena + (int64_t)b->pages[sequence * b->max_pages + index] * cache->page_floats +
           layer * cache->layer_floats + head * cache->head_floats;
  }

  // Norms and rotates one kv head's key and its queries of a token, and writes key and value into the cache.
  void place(long sequence, long token, long head) {
    const mm_layer &l = m->layer[layer];
    float *row = s.qkv + token * (z.q + 2 * z.kv);
    float *key = row + z.q + head * z.e, *value = key + z.kv;
    const long at = b->positions[token], half = z.e / 2;
    const float *cos = m->cos + at * half, *sin = m->sin + at * half;
    for (long g = 0; g < z.groups; ++g) {
      float *query = row + (head * z.groups + g) * z.e;
      if (l.q_norm) rms_norm(query, l.q_norm, z.e, m->eps, query);
      rotate(query, cos, sin, half);
    }
    if (l.k_norm) rms_norm(key, l.k_norm, z.e, m->eps, key);
    rotate(key, cos, sin, half);
    float *to = page(sequence, at / P, head);
    const long lane = at % P;
    for (long i = 0; i < z.e; ++i) to[i * P + lane] = key[i];
    float *values = to + z.e * P;
    for (long i = 0; i < z.e; ++i) values[(i / P) * P * P + lane * P + i % P] = value[i];
  }

  // Attention of tokens first..last of a sequence for one kv head.
  void attend(long sequence, long head, long first, long last, long thread) {
    const long tokens = last - first, rows = tokens * z.groups, ev = rounded(z.e, P);
    const long length = b->positions[last - 1] + 1, padded = rounded(length, P);
    float *scores = s.scores_base + thread * s.scores_stride, *queries = scores + rows * padded;
    float *mixed = queries + rows * ev;
    const float scale = 1.0f / __builtin_sqrtf((float)z.e);
    for (long r = 0; r < rows; ++r) {
      const float *q =
          s.qkv + (first + r / z.groups) * (z.q + 2 * z.kv) + (head * z.groups + r % z.groups) * z.e;
      for (long i = 0; i < z.e; ++i) queries[r * ev + i] = q[i] * scale;
    }
    for (long p = 0; p < padded; p += P)
      panel_rows<Fp32>(page(sequence, p / P, head), queries, ev, rows, 0, z.e, scores + p, padded, true);
    // The sums stand where the queries did, which are done with.
    for (long r = 0; r < rows; ++r)
      queries[r * ev] = softmax_row(scores + r * padded, b->positions[first + r / z.groups] + 1, padded);
    for (long p = 0; p < padded; p += P) {
      const float *values = page(sequence, p / P, head) + z.e * P;
      const long count = length - p < P ? length - p : P;
      for (long v = 0; v < ev; v += P)
        panel_rows<Fp32>(values + v * P, scores + p, padded, rows, 0, count, mixed + v, ev, p == 0);
    }
    for (long r = 0; r < rows; ++r) {
      const float inverse = 1.0f / queries[r * ev];
      float *to = s.mixed + (first + r / z.groups) * z.q + (head * z.groups + r % z.groups) * z.e;
      for (long i = 0; i < z.e; ++i) to[i] = mixed[r * ev + i] * inverse;
    }
  }

  void attention() {
    const long heads = m->kv_heads;
    if (n == b->sequences) {
      // One token each: a head's key is written by the chunk that reads it.
      return parallel(n * heads, [&](long chunk, long thread) {
        const long token = chunk / heads, head = chunk % heads;
        place(token, token, head);
        attend(token, head, token, token + 1, thread);
      });
    }
    // A sequence's tokens read each other's keys: all are placed first.
    const long most = z.groups < QUERIES ? QUERIES / z.groups : 1;
    long tiles = 0;
    for (long q = 0; q < b->sequences; ++q) {
      for (long t = b->starts[q]; t < b->starts[q + 1]; ++t) s.owner[t] = (int32_t)q;
      // The longest rows first, so that no thread ends with one.
      for (long last = b->starts[q + 1]; last > b->starts[q]; last -= most, ++tiles) {
        s.tiles[2 * tiles] = (int32_t)(last - most > b->starts[q] ? last - most : b->starts[q]);
        s.tiles[2 * tiles + 1] = (int32_t)last;
      }
    }
    parallel(n, [&](long token, long) {
      for (long head = 0; head < heads; ++head) place(s.owner[token], token, head);
    });
    parallel(tiles * heads, [&](long chunk, long thread) {
      const int32_t *tile = s.tiles + chunk / heads * 2;
      attend(s.owner[tile[0]], chunk % heads, tile[0], tile[1], thread);
    });
  }

#include "experts.h"

  void run() {
    for (long r = 0; r < n; ++r)
      __builtin_memcpy(s.x + r * z.d, m->embedding + (int64_t)b->ids[r] * z.d, z.d * sizeof(float));
    const long width = z.q + 2 * z.kv;
    for (layer = 0; layer < m->layers; ++layer) {
      const mm_layer &l = m->layer[layer];
      norm_rows(s.x, n, l.norm_in, s.xn);
      multiply(l.qkv, s.xn, z.d, n, s.qkv, width, false);
      attention();
      multiply(l.o, s.mixed, z.q, n, s.x, z.d, true);
      norm_rows(s.x, n, l.norm_post, s.xn);
      if (m->routed) experts(l);
      else dense(l.ffns[0]);
    }
  }

  int32_t finish() {
    for (long o = 0; o < b->outputs; ++o)
      rms_norm(s.x + (long)b->output_rows[o] * z.d, m->norm, z.d, m->eps, s.xn + o * z.d);
    if (b->hidden) __builtin_memcpy(b->hidden, s.xn, sizeof(float) * b->outputs * z.d);
    if (!b->logits) return 0;
    multiply(m->head, s.xn, z.d, b->outputs, b->logits, m->vocab, false);
    int32_t broken = 0;
    for (long o = 0; o < b->outputs; ++o) {
      float sum = 0;
      const float *row = b->logits + o * m->vocab;
      for (long i = 0; i < m->vocab; ++i) sum += row[i] != row[i] ? 1.0f : 0.0f;
      broken += sum > 0;
    }
    return broken;
  }
};

} // namespace

extern "C" {

int64_t MM_JOIN(mm_scratch_, MM_ISA)(const mm_model *m, int32_t n, int32_t outputs, int64_t positions,
                                     int32_t threads) {
  return lay_out(nullptr, m, n, outputs, positions, threads).total;
}

int32_t MM_JOIN(mm_forward_, MM_ISA)(const mm_model *m, const mm_cache *cache, const mm_batch *b,
                                     float *scratch, int64_t positions, mm_pool *pool) {
  Step step{m,        cache,    b,
            pool,     Sizes(m), lay_out(scratch, m, b->tokens, b->outputs, positions, pool_threads(pool)),
            b->tokens};
  step.run();
  return step.finish();
}

double MM_JOIN(mm_exp_, MM_ISA)(const float *x, int64_t n, float most, float scale, float *out) {
  double total = 0;
  int64_t i = 0;
  // Lanes are added in double every few vectors: a vocabulary is long.
  for (; i + W <= n;) {
    vf sum = {};
    for (long j = 0; j < 64 && i + W <= n; ++j, i += W) {
      vf e = vexp((load(x + i) - most) * scale);
      store(out + i, e);
      sum += e;
    }
    for (long j = 0; j < W; ++j) total += sum[j];
  }
  for (; i < n; ++i) {
    vf e = vexp((vf){} + (x[i] - most) * scale);
    out[i] = e[0];
    total += e[0];
  }
  return total;
}

// Bytes are read and added up: what a product with one token does at the least.
double MM_JOIN(mm_sum_, MM_ISA)(const float *data, int64_t floats) {
  vf acc[8] = {};
  for (int64_t i = 0; i + 8 * W <= floats; i += 8 * W) {
    __builtin_prefetch(data + i + 1024);
    for (long j = 0; j < 8; ++j) acc[j] += load(data + i + j * W);
  }
  double total = 0;
  for (long j = 0; j < 8; ++j) total += sum_lanes(acc[j]);
  return total;
}

// Multiply-adds that depend on nothing but registers; two operations a lane each.
int64_t MM_JOIN(mm_flops_, MM_ISA)(int64_t rounds, float *sink) {
  vf acc[12];
  for (long j = 0; j < 12; ++j) acc[j] = (vf){} + (float)j;
  vf a = (vf){} + 0.999f, c = (vf){} + 0.001f;
  for (int64_t i = 0; i < rounds; ++i) {
    for (long j = 0; j < 12; ++j) acc[j] = acc[j] * a + c;
#if defined(__x86_64__)
    __asm__ volatile("" : "+v"(a), "+v"(c)); // keeps the rounds apart
#endif
  }
  for (long j = 0; j < 12; ++j) *sink += sum_lanes(acc[j]);
  return rounds * 12 * W * 2;
}
}
