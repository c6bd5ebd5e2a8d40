// Matrix products that share an input, with hand-written backward passes, for training in fp32 on the CPU:
// the input's gradient is gathered inside the products (no separate sums), and what can be computed again is
// not kept.
//
// N rows, D hidden, O outputs, I inner width.
#include "ops.h"

#include <ATen/ops/mm.h>

namespace {

Tensor flat(const Tensor &x) { return x.reshape({-1, x.size(-1)}).contiguous(); }

std::vector<int64_t> shaped(const Tensor &x, int64_t width) {
  auto shape = x.sizes().vec();
  shape.back() = width;
  return shape;
}

// x [..., D], each weight [O_i, D] -> x W_i^T each
struct Joined : public Function<Joined> {
  static variable_list forward(AutogradContext *ctx, const Tensor &x_in, at::TensorList weights) {
    Tensor x = flat(x_in);
    variable_list saved = {x}, out;
    for (const Tensor &w : weights) {
      out.push_back(x.mm(w.t()).view(shaped(x_in, w.size(0))));
      saved.push_back(w);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["shape"] = x_in.sizes().vec();
    return out;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0];
    variable_list out(saved.size());
    for (size_t i = 0; i < grads.size(); ++i) {
      if (!grads[i].defined()) continue;
      const Tensor &w = saved[1 + i];
      Tensor g = flat(grads[i]);
      if (ctx->needs_input_grad(0)) {
        if (out[0].defined()) out[0].addmm_(g, w);
        else out[0] = g.mm(w);
      }
      if (ctx->needs_input_grad(1 + i)) out[1 + i] = g.t().mm(x);
    }
    if (out[0].defined()) out[0] = out[0].view(ctx->saved_data["shape"].toIntVector());
    return out;
  }
};

// x [..., D], gate and up [I, D], down [D, I] -> (silu(x gate^T) * (x up^T)) down^T; the product is made
// again in backward.
struct GatedMlp : public Function<GatedMlp> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &w_gate, const Tensor &w_up,
                        const Tensor &w_down) {
    Tensor x = flat(x_in), gate = x.mm(w_gate.t()), up = x.mm(w_up.t());
    Tensor y = gated(gate, up).mm(w_down.t());
    ctx->save_for_backward({x, gate, up, w_gate, w_up, w_down});
    ctx->saved_data["shape"] = x_in.sizes().vec();
    return y.view(x_in.sizes());
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &gate = saved[1], &up = saved[2], &w_gate = saved[3], &w_up = saved[4],
                 &w_down = saved[5];
    Tensor dy = flat(grads[0]),
           inner = dy.mm(w_down); // the gradient of silu(gate) * up; then that product itself
    Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    gated_back(inner, gate, up, dgate, dup);
    variable_list out(4);
    if (ctx->needs_input_grad(3)) out[3] = dy.t().mm(inner);
    if (ctx->needs_input_grad(1)) out[1] = dgate.t().mm(x);
    if (ctx->needs_input_grad(2)) out[2] = dup.t().mm(x);
    if (ctx->needs_input_grad(0)) {
      Tensor dx = dgate.mm(w_gate);
      dx.addmm_(dup, w_up);
      out[0] = dx.view(ctx->saved_data["shape"].toIntVector());
    }
    return out;
  }
};

} // namespace

extern "C" {

char *mm_cpu_linears(mm_tensor x, mm_tensor *weights, size_t n, mm_tensor *out) {
  return mm_guard([&] {
    std::vector<Tensor> all;
    for (size_t i = 0; i < n; ++i) all.push_back(mm_as_tensor(weights[i]));
    auto made = Joined::apply(mm_as_tensor(x), at::TensorList(all));
    for (size_t i = 0; i < n; ++i) out[i] = new Tensor(made[i]);
  });
}

char *mm_cpu_swiglu(mm_tensor x, mm_tensor gate, mm_tensor up, mm_tensor down, mm_tensor *out) {
  return mm_guard([&] {
    *out = new Tensor(
        GatedMlp::apply(mm_as_tensor(x), mm_as_tensor(gate), mm_as_tensor(up), mm_as_tensor(down)));
  });
}
}
