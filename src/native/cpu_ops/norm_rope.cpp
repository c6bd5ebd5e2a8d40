// Fused ops with hand-written backward passes for training in fp32 on the CPU: one pass over memory where
// eager PyTorch makes five to ten. Each is a node of libtorch's own autograd graph.
//
// B batch, T tokens, N rows, D hidden, H heads, E head dim, I inner width.
#include "ops.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

namespace {

// A weight's gradient is gathered in this many parts whatever the threads, so that it does not depend on
// them.
constexpr int64_t PARTS = 32;

float *data(const Tensor &t) { return t.defined() ? t.mutable_data_ptr<float>() : nullptr; }

// Runs body(part, from, to) over PARTS stretches of 0..n.
template <typename F> void parts(int64_t n, F &&body) {
  int64_t size = (n + PARTS - 1) / PARTS;
  at::parallel_for(0, PARTS, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      int64_t from = std::min(n, p * size), to = std::min(n, from + size);
      if (from < to) body(p, from, to);
    }
  });
}

// (x, y or nothing, w) -> (x + y, rms_norm(x + y) * w); without y the sum is x itself and not returned.
struct AddRmsNorm : public Function<AddRmsNorm> {
  static variable_list forward(AutogradContext *ctx, const Tensor &x_in, const std::optional<Tensor> &y_in,
                               const Tensor &w_in, double eps) {
    Tensor x = x_in.contiguous(), w = w_in.contiguous();
    Tensor y = y_in ? y_in->contiguous() : Tensor();
    int64_t d = x.size(-1), n = x.numel() / d;
    Tensor sum = y.defined() ? at::empty_like(x) : Tensor();
    Tensor out = at::empty_like(x), rstd = at::empty({n}, x.options());
    parts(n, [&](int64_t, int64_t from, int64_t to) {
      rows::add_rms_rows(data(x), data(y), data(w), data(sum), data(out), data(rstd), from, to, d,
                         static_cast<float>(eps));
    });
    ctx->save_for_backward({y.defined() ? sum : x, w, rstd});
    ctx->saved_data["added"] = y.defined();
    if (y.defined()) return {sum, out};
    return {out};
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    bool added = ctx->saved_data["added"].toBool();
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &rstd = saved[2];
    Tensor above = added && grads[0].defined() ? grads[0].contiguous() : Tensor();
    const Tensor &last = grads[added ? 1 : 0];
    if (!last.defined()) return {above, added ? above : Tensor(), Tensor(), Tensor()};
    Tensor g = last.contiguous();
    int64_t d = x.size(-1), n = x.numel() / d;
    bool wants = ctx->needs_input_grad(added ? 2 : 1);
    Tensor dx = at::empty_like(x), dw = wants ? at::zeros({PARTS, d}, x.options()) : Tensor();
    parts(n, [&](int64_t p, int64_t from, int64_t to) {
      float *mine = dw.defined() ? data(dw) + p * d : nullptr;
      rows::rms_back_rows(data(g), data(x), data(w), data(rstd), data(above), data(dx), mine, from, to, d);
    });
    return {dx, added ? dx : Tensor(), wants ? dw.sum(0) : Tensor(), Tensor()};
  }
};

// x [B, T, H, E], w [E] or nothing, cos and sin [P, E], token t stands at start + t -> [B, T, H, E]
struct NormRope : public Function<NormRope> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x_in, const std::optional<Tensor> &w_in,
                        const Tensor &cos, const Tensor &sin, int64_t start, double eps) {
    Tensor x = x_in.contiguous(), w = w_in ? w_in->contiguous() : Tensor();
    int64_t t = x.size(1), h = x.size(2), e = x.size(3), n = x.numel() / e;
    Tensor out = at::empty_like(x), rstd = w.defined() ? at::empty({n}, x.options()) : Tensor();
    parts(n, [&](int64_t, int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) {
        int64_t at = (start + r / h % t) * e;
        float scale = rows::rotate_head(data(x) + r * e, data(w), data(cos) + at, data(sin) + at,
                                        data(out) + r * e, e, static_cast<float>(eps));
        if (w.defined()) data(rstd)[r] = scale;
      }
    });
    ctx->save_for_backward({w.defined() ? x : Tensor(), w, rstd, cos, sin});
    ctx->saved_data["start"] = start;
    return out;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &rstd = saved[2], &cos = saved[3], &sin = saved[4];
    int64_t start = ctx->saved_data["start"].toInt();
    Tensor g = grads[0].contiguous();
    int64_t t = g.size(1), h = g.size(2), e = g.size(3), n = g.numel() / e;
    bool wants = w.defined() && ctx->needs_input_grad(1);
    Tensor dx = at::empty_like(g), dw = wants ? at::zeros({PARTS, e}, g.options()) : Tensor();
    parts(n, [&](int64_t p, int64_t from, int64_t to) {
      float *mine = dw.defined() ? data(dw) + p * e : nullptr;
      for (int64_t r = from; r < to; ++r) {
        int64_t at = (start + r / h % t) * e;
        rows::rotate_head_back(data(g) + r * e, w.defined() ? data(x) + r * e : nullptr, data(w),
                               w.defined() ? data(rstd)[r] : 1.0f, data(cos) + at, data(sin) + at,
                               data(dx) + r * e, mine, e);
      }
    });
    return {dx, wants ? dw.sum(0) : Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

std::optional<Tensor> optional(mm_tensor t) {
  return t ? std::optional<Tensor>(mm_as_tensor(t)) : std::nullopt;
}

} // namespace

extern "C" {

char *mm_cpu_add_rms_norm(mm_tensor x, mm_tensor y, mm_tensor w, double eps, mm_tensor *sum, mm_tensor *out) {
  return mm_guard([&] {
    const Tensor &a = mm_as_tensor(x);
    TORCH_CHECK(a.dim() > 0 && a.scalar_type() == at::kFloat && mm_as_tensor(w).numel() == a.size(-1),
                "a norm of ", a.sizes());
    if (y)
      TORCH_CHECK(mm_as_tensor(y).sizes() == a.sizes(), "cannot add ", mm_as_tensor(y).sizes(), " to ",
                  a.sizes());
    auto made = AddRmsNorm::apply(mm_as_tensor(x), optional(y), mm_as_tensor(w), eps);
    if (y) *sum = new Tensor(made[0]);
    *out = new Tensor(made[y ? 1 : 0]);
  });
}

char *mm_cpu_norm_rope(mm_tensor x, mm_tensor w, mm_tensor cos, mm_tensor sin, int64_t start, double eps,
                       mm_tensor *out) {
  return mm_guard([&] {
    const Tensor &a = mm_as_tensor(x);
    TORCH_CHECK(a.dim() == 4 && a.scalar_type() == at::kFloat, "heads of ", a.sizes());
    TORCH_CHECK(a.size(3) <= 512 && a.size(3) % 2 == 0, "a head of ", a.size(3));
    for (auto table : {cos, sin}) {
      const Tensor &t = mm_as_tensor(table);
      TORCH_CHECK(t.is_contiguous() && t.size(1) == a.size(3) && start + a.size(1) <= t.size(0),
                  "a table of ", t.sizes());
    }
    *out = new Tensor(
        NormRope::apply(mm_as_tensor(x), optional(w), mm_as_tensor(cos), mm_as_tensor(sin), start, eps));
  });
}
}
