// Cross-entropy over an output layer in pieces of its rows; gradients are taken on the way.
//
// N rows, D hidden, V vocab.
#include "autograd.h"
#include "kernels/rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_foreach_mul.h>

namespace {

// Logits of a row that stay in registers on the CPU, in stretches of VEC numbers.
constexpr int HOST_VOCAB = 16;
// Logits held at once, in numbers.
constexpr int64_t LOGITS = 128 << 20, HOST_LOGITS = 8 << 20;

// The sum over rows of the loss, and with `back` the gradients of `scale` times it: (loss, dh [N, D], dw [V,
// D], the loss of each row [N]).
variable_list entropy_sum(const Tensor &h, const Tensor &w, const Tensor &tokens, const Tensor &weights,
                          const Tensor &scale, bool back, bool by_weight) {
  int64_t n = h.size(0), vocab = w.size(0),
          most = std::max<int64_t>(1, (h.is_cuda() ? LOGITS : HOST_LOGITS) / vocab);
  Tensor cast = w.to(h.scalar_type()), loss = at::empty({n}, h.options().dtype(at::kFloat));
  Tensor dh = back ? at::empty_like(h) : Tensor(), dw;
  for (int64_t from = 0; from < n; from += most) {
    int64_t rows = std::min(most, n - from);
    Tensor part = h.narrow(0, from, rows), logits = part.mm(cast.t());
    EntropyArgs a{data(logits),
                  data_as<i64>(tokens) + from,
                  weights.defined() ? data_as<float>(weights) + from : nullptr,
                  data_as<float>(scale),
                  data_as<float>(loss) + from,
                  rows,
                  static_cast<int>(vocab),
                  back};
    by_type(h.scalar_type(), [&](auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      int64_t count = h.is_cuda() ? std::min<int64_t>(rows, cuda_ops::processors(h) * 8) : HOST_TEAMS;
      int64_t kept = (vocab + BLOCK * VEC - 1) / (BLOCK * VEC);
      std::string call = "entropy<" + std::to_string(kept <= 8 ? kept : 0) + ", " + name_of<T>() + ">";
      run(h, {call, "EntropyArgs", BLOCK}, a, count,
          vocab <= HOST_VOCAB * VEC ? &entropy<HOST_VOCAB, T> : &entropy<0, T>);
    });
    if (!back) continue;
    Tensor to = dh.narrow(0, from, rows);
    at::mm_out(to, logits, cast);
    if (by_weight) {
      Tensor share = product(logits.t(), part, w.scalar_type());
      if (dw.defined()) dw.add_(share);
      else dw = share;
    }
  }
  return {loss.sum(), dh, dw, loss};
}

// Gives `scale` times the summed loss a graph: its gradients are taken on the way.
struct EntropyFunction : public Function<EntropyFunction> {
  static variable_list forward(AutogradContext *ctx, const Tensor &h_in, const Tensor &w,
                               const Tensor &tokens, const std::optional<Tensor> &weights,
                               const Tensor &scale, at::ScalarType type) {
    AsWritten as_written;
    Tensor h = h_in.to(type).contiguous();
    bool by_weight = w.requires_grad();
    auto made = entropy_sum(h, w, tokens, weights ? weights->contiguous() : Tensor(), scale, true, by_weight);
    ctx->save_for_backward({made[1], made[2]});
    ctx->saved_data["type"] = static_cast<int64_t>(h_in.scalar_type());
    Tensor loss = made[0], each = made[3];
    ctx->mark_non_differentiable({loss, each});
    return {loss * scale, loss, each};
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    AsWritten as_written;
    auto saved = ctx->get_saved_variables();
    variable_list out(6);
    auto type = static_cast<at::ScalarType>(ctx->saved_data["type"].toInt());
    // Products with a number on the device, which libtorch does fast for lists alone.
    auto times = [&](const Tensor &t) { return at::_foreach_mul({t}, grads[0].to(t.scalar_type()))[0]; };
    if (ctx->needs_input_grad(0)) out[0] = times(saved[0]).to(type);
    if (saved[1].defined()) out[1] = times(saved[1]);
    return out;
  }
};

} // namespace

extern "C" {

char *mm_cuda_cross_entropy(mm_tensor h, mm_tensor w, mm_tensor tokens, mm_tensor weights, mm_tensor scale,
                            int type, mm_tensor *scaled, mm_tensor *loss, mm_tensor *each) {
  return mm_guard([&] {
    if (!scaled) {
      AsWritten as_written;
      at::NoGradGuard no_grad;
      Tensor rows = mm_as_tensor(h).to(static_cast<at::ScalarType>(type)).contiguous();
      auto made =
          entropy_sum(rows, mm_as_tensor(w), mm_as_tensor(tokens), maybe(weights), Tensor(), false, false);
      *loss = new Tensor(made[0]);
      *each = new Tensor(made[3]);
      return;
    }
    auto made =
        EntropyFunction::apply(mm_as_tensor(h), mm_as_tensor(w), mm_as_tensor(tokens), optional(weights),
                               mm_as_tensor(scale), static_cast<at::ScalarType>(type));
    *scaled = new Tensor(made[0]);
    *loss = new Tensor(made[1]);
    *each = new Tensor(made[2]);
  });
}
}
