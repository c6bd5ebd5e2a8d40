// x + y and its root-mean-square norm in one pass of a kernel, with its backward pass.
//
// N rows, D hidden.
#include "autograd.h"
#include "kernels/rows.h"

namespace {

// The widest row on the CPU, in stretches of VEC numbers.
constexpr int HOST_ROW = 2048;

template <class X, class Y, class O> void norm_rows(const Tensor &on, const NormArgs &a) {
  int width = row_width(on, a.n);
  std::string call = "norm<" + std::to_string(stretches(a.d, VEC, width)) + ", " +
                     types({name_of<X>(), name_of<Y>(), name_of<X>(), name_of<O>()}) + ">";
  run(on, {call, "NormArgs", width}, a, teams(on, a.n), &norm<HOST_ROW, X, Y, X, O>);
}

template <class X, class Y, class O>
void norm_back_rows(const Tensor &on, const NormBackArgs &a, int64_t count) {
  std::string call = "norm_back<" + std::to_string(stretches(a.d, VEC)) + ", " +
                     types({name_of<X>(), name_of<Y>(), name_of<X>(), name_of<O>()}) + ">";
  run(on, {call, "NormBackArgs", 32}, a, count, &norm_back<HOST_ROW, X, Y, X, O>);
}

// Calls body with the types of the stream, of what is added to it, and of the norm.
template <typename F> void by_norm(at::ScalarType x, at::ScalarType y, at::ScalarType out, F &&body) {
  float *f = nullptr;
  bf16 *h = nullptr;
  if (x == at::kFloat && y == at::kFloat && out == at::kFloat) body(f, f, f);
  else if (x == at::kFloat && y == at::kFloat) body(f, f, h);
  else if (x == at::kFloat && out == at::kFloat) body(f, h, f);
  else if (x == at::kFloat) body(f, h, h);
  else body(h, h, h);
}

// (x, y or nothing, w) -> (x + y, its norm in `type`); without y the norm alone.
struct NormFunction : public Function<NormFunction> {
  static variable_list forward(AutogradContext *ctx, const Tensor &x_in, const std::optional<Tensor> &y_in,
                               const Tensor &w_in, double eps, at::ScalarType type) {
    AsWritten as_written;
    ctx->set_materialize_grads(false);
    Tensor x = x_in.contiguous(), y = y_in ? y_in->contiguous() : Tensor(), w = w_in.contiguous();
    int64_t d = x.size(-1), n = x.numel() / d;
    Tensor sum = y.defined() ? at::empty_like(x) : Tensor();
    Tensor out = at::empty(x.sizes(), x.options().dtype(type)),
           rstd = at::empty({n}, x.options().dtype(at::kFloat));
    NormArgs a{data(x),
               data(y),
               data(w),
               data(sum),
               data(out),
               data_as<float>(rstd),
               n,
               static_cast<int>(d),
               static_cast<float>(eps)};
    by_norm(x.scalar_type(), y.defined() ? y.scalar_type() : type, type, [&](auto *tx, auto *ty, auto *to) {
      norm_rows<std::remove_pointer_t<decltype(tx)>, std::remove_pointer_t<decltype(ty)>,
                std::remove_pointer_t<decltype(to)>>(x, a);
    });
    ctx->save_for_backward({y.defined() ? sum : x, w, rstd});
    ctx->saved_data["added"] = y.defined();
    ctx->saved_data["other"] = static_cast<int64_t>(y.defined() ? y.scalar_type() : type);
    if (y.defined()) return {sum, out};
    return {out};
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    AsWritten as_written;
    bool added = ctx->saved_data["added"].toBool();
    auto other = static_cast<at::ScalarType>(ctx->saved_data["other"].toInt());
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &rstd = saved[2];
    Tensor above = added && grads[0].defined() ? grads[0].contiguous() : Tensor();
    const Tensor &last = grads[added ? 1 : 0];
    if (!last.defined())
      return {above, added && above.defined() ? above.to(other) : Tensor(), Tensor(), Tensor(), Tensor()};
    Tensor g = last.contiguous();
    int64_t d = x.size(-1), n = x.numel() / d, count = teams(x, n, 16);
    bool wants = ctx->needs_input_grad(added ? 2 : 1);
    Tensor dx = at::empty_like(x),
           dy = added && other != x.scalar_type() ? at::empty(x.sizes(), x.options().dtype(other)) : Tensor();
    Tensor dw = wants ? at::empty({parts(x, count), d}, rstd.options()) : Tensor();
    NormBackArgs a{data(g),
                   data(x),
                   data(w),
                   data(above),
                   data_as<float>(rstd),
                   data(dx),
                   data(dy),
                   data_as<float>(dw),
                   n,
                   static_cast<int>(d)};
    by_norm(x.scalar_type(), other, g.scalar_type(), [&](auto *tx, auto *ty, auto *to) {
      norm_back_rows<std::remove_pointer_t<decltype(tx)>, std::remove_pointer_t<decltype(ty)>,
                     std::remove_pointer_t<decltype(to)>>(x, a, count);
    });
    return {dx, added ? (dy.defined() ? dy : dx) : Tensor(),
            wants ? sum_of_parts(dw).to(w.scalar_type()) : Tensor(), Tensor(), Tensor()};
  }
};

} // namespace

extern "C" {

char *mm_cuda_rms_norm(mm_tensor x, mm_tensor y, mm_tensor w, double eps, int type, mm_tensor *sum,
                       mm_tensor *out) {
  return mm_guard([&] {
    auto made = NormFunction::apply(mm_as_tensor(x), optional(y), mm_as_tensor(w), eps,
                                    static_cast<at::ScalarType>(type));
    if (y) *sum = new Tensor(made[0]);
    *out = new Tensor(made[y ? 1 : 0]);
  });
}
}
