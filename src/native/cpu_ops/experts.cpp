// A layer of experts with a hand-written backward pass, fp32 on the CPU: the tokens are sorted by expert
// once, each expert multiplies its stretch of rows, and nothing but the counts is looked at on the way.
//
// N tokens, k experts a token, M = N * k slots, D hidden, I inner width, X experts.
#include "ops.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

namespace {

// Where each slot of `chosen` [N, k] lies when slots are sorted by expert: place [M]; expert e has
// start[e]..start[e + 1].
struct Sorted {
  std::vector<int64_t> place, start;
  Sorted(const Tensor &chosen, size_t experts) : place(chosen.numel()), start(experts + 1, 0) {
    const int64_t *of = chosen.const_data_ptr<int64_t>();
    for (size_t i = 0; i < place.size(); ++i) {
      TORCH_CHECK(of[i] >= 0 && of[i] < static_cast<int64_t>(experts), "expert ", of[i], " of ", experts);
      ++start[of[i] + 1];
    }
    for (size_t e = 0; e < experts; ++e) start[e + 1] += start[e];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (size_t i = 0; i < place.size(); ++i) place[i] = next[of[i]]++;
  }
};

// Rows [N, D] to their slots' places [M, D], times each slot's share where there is one.
Tensor spread(const Tensor &x, const Sorted &sorted, int64_t k, const float *share) {
  int64_t d = x.size(1), m = sorted.place.size();
  Tensor made = at::empty({m, d}, x.options());
  const float *from = in(x);
  float *to = out(made);
  at::parallel_for(0, m, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      rows::scaled_row(from + i / k * d, share ? share[i] : 1.0f, to + sorted.place[i] * d, d);
  });
  return made;
}

// The sum of each token's k places, each times its share where there is one: [M, D] -> [N, D].
Tensor gather(const Tensor &y, const Sorted &sorted, int64_t k, const float *share) {
  int64_t d = y.size(1), n = static_cast<int64_t>(sorted.place.size()) / k;
  Tensor made = at::empty({n, d}, y.options());
  const float *from = in(y);
  float *to = out(made);
  at::parallel_for(0, n, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t j = 0; j < k; ++j) {
        float s = share ? share[t * k + j] : 1.0f;
        const float *row = from + sorted.place[t * k + j] * d;
        if (j == 0) rows::scaled_row(row, s, to + t * d, d);
        else rows::add_scaled_row(row, s, to + t * d, d);
      }
  });
  return made;
}

// x [N, D], share [N, k], chosen [N, k]; weights: gate [I, D], up [I, D], down [D, I] of each expert in turn
// -> [N, D]
struct Experts : public Function<Experts> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &share_in,
                        const Tensor &chosen_in, at::TensorList weights) {
    Tensor x = x_in.contiguous(), share = share_in.contiguous(), chosen = chosen_in.contiguous();
    size_t experts = weights.size() / 3;
    int64_t k = chosen.size(1), inner = weights[0].size(0);
    Sorted sorted(chosen, experts);
    Tensor xs = spread(x, sorted, k, nullptr), ys = at::empty_like(xs);
    Tensor gate = at::empty({xs.size(0), inner}, x.options()), up = at::empty_like(gate);
    for (size_t e = 0; e < experts; ++e) {
      int64_t from = sorted.start[e], m = sorted.start[e + 1] - from;
      if (m == 0) continue;
      Tensor rows_in = xs.narrow(0, from, m), g = gate.narrow(0, from, m), u = up.narrow(0, from, m),
             y = ys.narrow(0, from, m);
      at::mm_out(g, rows_in, weights[3 * e].t());
      at::mm_out(u, rows_in, weights[3 * e + 1].t());
      at::mm_out(y, gated(g, u), weights[3 * e + 2].t());
    }
    variable_list saved = {x, share, chosen, gate, up, ys};
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(saved);
    return gather(ys, sorted, k, in(share));
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &share = saved[1], &chosen = saved[2], &gate = saved[3], &up = saved[4],
                 &ys = saved[5];
    const Tensor *weights = saved.data() + 6;
    size_t experts = (saved.size() - 6) / 3;
    int64_t k = chosen.size(1), d = x.size(1);
    Sorted sorted(chosen, experts);
    Tensor dy = grads[0].contiguous(), xs = spread(x, sorted, k, nullptr),
           dys = spread(dy, sorted, k, in(share));
    Tensor dxs = at::empty_like(xs);
    variable_list made(3 + 3 * experts);
    for (size_t e = 0; e < experts; ++e) {
      int64_t from = sorted.start[e], m = sorted.start[e + 1] - from;
      const Tensor *w = weights + 3 * e;
      if (m == 0) { // its gradient is zero, not missing: moments and decay act on it all the same
        for (int i = 0; i < 3; ++i)
          if (ctx->needs_input_grad(3 + 3 * e + i)) made[3 + 3 * e + i] = at::zeros_like(w[i]);
        continue;
      }
      Tensor rows_in = xs.narrow(0, from, m), g = gate.narrow(0, from, m), u = up.narrow(0, from, m);
      Tensor above = dys.narrow(0, from, m), h = above.mm(w[2]), dg = at::empty_like(g),
             du = at::empty_like(g);
      gated_back(h, g, u, dg, du);
      if (ctx->needs_input_grad(3 + 3 * e)) made[3 + 3 * e] = dg.t().mm(rows_in);
      if (ctx->needs_input_grad(4 + 3 * e)) made[4 + 3 * e] = du.t().mm(rows_in);
      if (ctx->needs_input_grad(5 + 3 * e)) made[5 + 3 * e] = above.t().mm(h);
      Tensor dx = dxs.narrow(0, from, m);
      at::mm_out(dx, dg, w[0]);
      dx.addmm_(du, w[1]);
    }
    if (ctx->needs_input_grad(0)) made[0] = gather(dxs, sorted, k, nullptr);
    if (ctx->needs_input_grad(1)) {
      Tensor ds = at::empty_like(share);
      at::parallel_for(0, share.numel(), 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          out(ds)[i] = rows::dot_row(in(dy) + i / k * d, in(ys) + sorted.place[i] * d, d);
      });
      made[1] = ds;
    }
    return made;
  }
};

} // namespace

extern "C" char *mm_cpu_experts(mm_tensor x, mm_tensor share, mm_tensor chosen, mm_tensor *weights, size_t n,
                                mm_tensor *made) {
  return mm_guard([&] {
    std::vector<Tensor> all;
    for (size_t i = 0; i < n; ++i) all.push_back(mm_as_tensor(weights[i]));
    const Tensor &s = mm_as_tensor(share), &c = mm_as_tensor(chosen);
    TORCH_CHECK(n >= 3 && n % 3 == 0 && s.sizes() == c.sizes() && s.dim() == 2, "shares of ", s.sizes(),
                " for ", c.sizes());
    TORCH_CHECK(mm_as_tensor(x).dim() == 2 && s.size(0) == mm_as_tensor(x).size(0), "tokens of ",
                mm_as_tensor(x).sizes());
    *made = new Tensor(Experts::apply(mm_as_tensor(x), s, c, at::TensorList(all)));
  });
}
