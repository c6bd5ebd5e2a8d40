// The feed-forward part of `Step` (included inside it): one for all tokens, or routed experts and shared
// ones. Routing is that of model/moe.rs: softmax over the experts, the k likeliest, renormalised where the
// model says so.

// inner[place + r] = silu(gate . x[r0 + r]) * (up . x[r0 + r]), one panel of it; y holds two panels of ROWS
// rows.
void gated(const mm_matrix &w, long pair, long r0, long rows, long place, float *y) {
  float *up = y + ROWS * P;
  panel(w, 2 * pair, s.xn, z.d, r0, rows, y);
  panel(w, 2 * pair + 1, s.xn, z.d, r0, rows, up);
  for (long r = 0; r < rows; ++r) {
    if (w.bias)
      for (long i = 0; i < P; ++i) {
        y[r * P + i] += w.bias[2 * pair * P + i];
        up[r * P + i] += w.bias[(2 * pair + 1) * P + i];
      }
    swiglu(y + r * P, up + r * P, P, s.inner + (place + r) * z.inner + pair * P);
  }
}

void dense(const mm_ffn &f) {
  prepare(f.gate_up, s.xn, z.d, n);
  const long pairs = z.inner / P, step = panels_a_chunk(f.gate_up, pairs, 2);
  parallel((pairs + step - 1) / step, [&](long chunk, long thread) {
    float *y = s.tile_base + thread * s.tile_stride;
    const long last = (chunk + 1) * step < pairs ? (chunk + 1) * step : pairs;
    for (long pair = chunk * step; pair < last; ++pair)
      for (long r0 = 0; r0 < n; r0 += ROWS) gated(f.gate_up, pair, r0, n - r0 < ROWS ? n - r0 : ROWS, r0, y);
  });
  multiply(f.down, s.inner, z.inner, n, s.x, z.d, true);
}

// Fills `chosen` and `share`: the experts of each token with their weights, likeliest first.
void route(const mm_layer &l) {
  float *scores = s.share + n * z.slots;
  multiply(l.router, s.xn, z.d, n, scores, m->routed, false);
  for (long r = 0; r < n; ++r) {
    float *row = scores + r * m->routed, most = row[0], sum = 0, kept = 0;
    for (long e = 1; e < m->routed; ++e) most = row[e] > most ? row[e] : most;
    for (long e = 0; e < m->routed; ++e) {
      vf power = vexp((vf){} + (row[e] - most));
      row[e] = power[0];
      sum += row[e];
    }
    for (long k = 0; k < m->top_k; ++k) {
      long best = -1;
      for (long e = 0; e < m->routed; ++e)
        if (row[e] >= 0 && (best < 0 || row[e] > row[best])) best = e;
      // A router of NaNs chooses the first; the NaN itself reaches the logits.
      if (best < 0) best = 0;
      s.chosen[r * z.slots + k] = (int32_t)best;
      s.share[r * z.slots + k] = row[best] / sum;
      kept += row[best] / sum;
      row[best] = -1;
    }
    for (long k = 0; m->renormalise && k < m->top_k; ++k) s.share[r * z.slots + k] /= kept + 1e-20f;
  }
}

// Sorts (token, slot) pairs by expert: `order` holds them, `bounds` where each expert's begin.
void sort_by_expert(int32_t *order, int32_t *bounds) {
  int32_t at = 0;
  for (long e = 0; e < m->routed; ++e) {
    bounds[e] = at;
    for (long r = 0; r < n; ++r)
      for (long k = 0; k < m->top_k; ++k)
        if (s.chosen[r * z.slots + k] == e) order[at++] = (int32_t)(r * z.slots + k);
  }
  for (long e = 0; e < m->shared; ++e) {
    bounds[m->routed + e] = at;
    for (long r = 0; r < n; ++r) order[at++] = (int32_t)(r * z.slots + m->top_k + e);
  }
  bounds[m->routed + m->shared] = at;
}

// Work is laid out by (expert, panel). Outputs are added expert by expert in one order, so that a token's
// sum does not depend on the others.
void experts(const mm_layer &l) {
  route(l);
  const long all = m->routed + m->shared, pairs = z.inner / P;
  int32_t *order = s.order, *bounds = s.order + n * z.slots;
  sort_by_expert(order, bounds);
  prepare(l.ffns[0].gate_up, s.xn, z.d, n);
  parallel(all * pairs, [&](long chunk, long thread) {
    const long e = chunk / pairs, pair = chunk % pairs;
    float *y = s.tile_base + thread * s.tile_stride;
    each_run(order, bounds, e, [&](long token, long count, long first) {
      gated(l.ffns[e].gate_up, pair, token, count, first, y);
    });
  });
  const mm_matrix &some = l.ffns[0].down;
  prepare(some, s.inner, z.inner, bounds[all]);
  const long panels = (z.d + P - 1) / P;
  parallel(panels, [&](long p, long thread) {
    float *y = s.tile_base + thread * s.tile_stride;
    const long width = z.d - p * P < P ? z.d - p * P : P;
    for (long e = 0; e < all; ++e)
      for (long i = bounds[e]; i < bounds[e + 1]; i += ROWS) {
        const long count = bounds[e + 1] - i < ROWS ? bounds[e + 1] - i : ROWS;
        panel(l.ffns[e].down, p, s.inner, z.inner, i, count, y);
        for (long r = 0; r < count; ++r) {
          const long slot = order[i + r];
          const float share = e < m->routed ? s.share[slot] : 1.0f;
          float *to = s.x + slot / z.slots * z.d + p * P;
          const float *bias = l.ffns[e].down.bias;
          for (long j = 0; j < width; ++j)
            to[j] += share * (bias ? y[r * P + j] + bias[p * P + j] : y[r * P + j]);
        }
      }
  });
}

// An expert's tokens as runs of neighbours, at most ROWS long: body(first token, count, first place).
template <class F> void each_run(const int32_t *order, const int32_t *bounds, long e, F &&body) {
  for (long i = bounds[e]; i < bounds[e + 1];) {
    long count = 1;
    while (i + count < bounds[e + 1] && count < ROWS &&
           order[i + count] / z.slots == order[i] / z.slots + count)
      ++count;
    body(order[i] / z.slots, count, i);
    i += count;
  }
}
