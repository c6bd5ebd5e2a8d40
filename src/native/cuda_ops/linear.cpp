// Matrix products and the gated feed-forward on a GPU, with their backward passes.
//
// N rows, D hidden, O outputs, I inner width.
#include "autograd.h"
#include "kernels/rows.h"

namespace {

// x [..., D] in T, w [O, D] -> x w^T
struct LinearFunction : public Function<LinearFunction> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &w) {
    AsWritten as_written;
    Tensor x = flat(x_in), cast = w.to(x.scalar_type());
    ctx->save_for_backward({x, cast});
    ctx->saved_data["shape"] = x_in.sizes().vec();
    ctx->saved_data["type"] = static_cast<int64_t>(w.scalar_type());
    auto shape = x_in.sizes().vec();
    shape.back() = w.size(0);
    return x.mm(cast.t()).view(shape);
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    AsWritten as_written;
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1];
    Tensor g = flat(grads[0]);
    variable_list out(2);
    if (ctx->needs_input_grad(0)) out[0] = g.mm(w).view(ctx->saved_data["shape"].toIntVector());
    if (ctx->needs_input_grad(1))
      out[1] = product(g.t(), x, static_cast<at::ScalarType>(ctx->saved_data["type"].toInt()));
    return out;
  }
};

template <class T> void gate_rows(const Tensor &x, const GateArgs &a) {
  run(x, {std::string("gate<") + name_of<T>() + ">", "GateArgs", row_width(x, a.n)}, a, teams(x, a.n),
      &gate<T>);
}

// [N, 2I] -> [N, I]
Tensor gated(const Tensor &x) {
  int64_t n = x.size(0), inner = x.size(1) / 2;
  Tensor out = at::empty({n, inner}, x.options());
  GateArgs a{data(x), data(out), n, static_cast<int>(inner)};
  by_type(x.scalar_type(), [&](auto *t) { gate_rows<std::remove_pointer_t<decltype(t)>>(x, a); });
  return out;
}

// x [..., D] in T, gate and up [I, D], down [D, I] -> (silu(x gate^T) * (x up^T)) down^T
struct MlpFunction : public Function<MlpFunction> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &w_gate, const Tensor &w_up,
                        const Tensor &w_down) {
    AsWritten as_written;
    Tensor x = flat(x_in), weight = joined({w_gate, w_up}, x.scalar_type()),
           down = w_down.to(x.scalar_type());
    Tensor both = x.mm(weight.t());
    ctx->save_for_backward({x, both, weight, down});
    ctx->saved_data["shape"] = x_in.sizes().vec();
    ctx->saved_data["type"] = static_cast<int64_t>(w_gate.scalar_type());
    return gated(both).mm(down.t()).view(x_in.sizes());
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    AsWritten as_written;
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &both = saved[1], &weight = saved[2], &down = saved[3];
    Tensor dy = flat(grads[0]), inner = dy.mm(down), dboth = at::empty_like(both);
    int64_t n = inner.size(0), width = inner.size(1);
    GateBackArgs a{data(both), data(inner), data(dboth), n, static_cast<int>(width)};
    by_type(x.scalar_type(), [&](auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      run(x, {std::string("gate_back<") + name_of<T>() + ">", "GateBackArgs", 32}, a, teams(x, n),
          &gate_back<T>);
    });
    variable_list out(4);
    auto type = static_cast<at::ScalarType>(ctx->saved_data["type"].toInt());
    if (ctx->needs_input_grad(3)) out[3] = product(dy.t(), inner, type);
    if (ctx->needs_input_grad(1) || ctx->needs_input_grad(2)) {
      Tensor by_weight = product(dboth.t(), x, type);
      if (ctx->needs_input_grad(1)) out[1] = by_weight.narrow(0, 0, width);
      if (ctx->needs_input_grad(2)) out[2] = by_weight.narrow(0, width, width);
    }
    if (ctx->needs_input_grad(0)) out[0] = dboth.mm(weight).view(ctx->saved_data["shape"].toIntVector());
    return out;
  }
};

} // namespace

extern "C" {

char *mm_cuda_linear(mm_tensor x, mm_tensor w, mm_tensor *out) {
  return mm_guard([&] { *out = new Tensor(LinearFunction::apply(mm_as_tensor(x), mm_as_tensor(w))); });
}

char *mm_cuda_silu_mul(mm_tensor x, mm_tensor *out) {
  return mm_guard([&] { *out = new Tensor(gated(mm_as_tensor(x))); });
}

char *mm_cuda_swiglu(mm_tensor x, mm_tensor gate, mm_tensor up, mm_tensor down, mm_tensor *out) {
  return mm_guard([&] {
    *out = new Tensor(
        MlpFunction::apply(mm_as_tensor(x), mm_as_tensor(gate), mm_as_tensor(up), mm_as_tensor(down)));
  });
}
}
