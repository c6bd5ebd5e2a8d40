// Fused ops of mixed precision with hand-written backward passes: products in T (bf16 or fp32), everything between
// them in one pass of a kernel, weights and their gradients in the parameters' own type. On a CUDA device the kernels are
// compiled at run time; on the CPU, for tests, they are this program's own.
//
// N rows, D hidden, O outputs, H query heads, K kv heads, E head dim, I inner width, V vocab.
#include "ops.h"
#include "kernels/heads.h"
#include "kernels/rows.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Stretches of VEC numbers on the CPU: of a row, of half a head, and of logits that are kept.
constexpr int HOST_ROW = 2048, HOST_HEAD = 64, HOST_VOCAB = 16;
// Logits held at once, in numbers.
constexpr int64_t LOGITS = 128 << 20, HOST_LOGITS = 8 << 20;

inline Tensor flat(const Tensor &x) { return x.reshape({-1, x.size(-1)}).contiguous(); }

// The sum of [parts, D] over the parts: as a product, which is faster than libtorch's sum of so few rows.
Tensor sum_of_parts(const Tensor &parts) { return parts.is_cuda() ? parts.t().mv(at::ones({parts.size(0)}, parts.options())) : parts.sum(0); }

// Rows of partial sums that `count` teams write: one a block (BLOCK / 32 teams), on the CPU one a team.
int64_t parts(const Tensor &on, int64_t count) { return on.is_cuda() ? count / (BLOCK / 32) : count; }

// The product of two matrices with fp32 sums that stay fp32: a weight's gradient.
Tensor product(const Tensor &a, const Tensor &b, at::ScalarType out) {
  if (a.scalar_type() == out) return a.mm(b);
  return a.is_cuda() ? at::mm(a, b, out) : a.to(out).mm(b.to(out));
}

// Matrices that share an input, one below the other in `type`.
Tensor joined(at::TensorList weights, at::ScalarType type) {
  if (weights.size() == 1) return weights[0].to(type);
  int64_t rows = 0;
  for (const Tensor &w : weights) rows += w.size(0);
  Tensor all = at::empty({rows, weights[0].size(1)}, weights[0].options().dtype(type).requires_grad(false));
  rows = 0;
  for (const Tensor &w : weights) {
    all.narrow(0, rows, w.size(0)).copy_(w);
    rows += w.size(0);
  }
  return all;
}

// ---- x + y and its norm

template <class X, class Y, class O> void norm_rows(const Tensor &on, const NormArgs &a) {
  int width = row_width(on, a.n);
  std::string call = "norm<" + std::to_string(stretches(a.d, VEC, width)) + ", " + types({name_of<X>(), name_of<Y>(), name_of<X>(), name_of<O>()}) + ">";
  run(on, {call, "NormArgs", width}, a, teams(on, a.n), &norm<HOST_ROW, X, Y, X, O>);
}

template <class X, class Y, class O> void norm_back_rows(const Tensor &on, const NormBackArgs &a, int64_t count) {
  std::string call = "norm_back<" + std::to_string(stretches(a.d, VEC)) + ", " + types({name_of<X>(), name_of<Y>(), name_of<X>(), name_of<O>()}) + ">";
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
  static variable_list forward(AutogradContext *ctx, const Tensor &x_in, const std::optional<Tensor> &y_in, const Tensor &w_in, double eps,
                               at::ScalarType type) {
    AsWritten as_written;
    ctx->set_materialize_grads(false);
    Tensor x = x_in.contiguous(), y = y_in ? y_in->contiguous() : Tensor(), w = w_in.contiguous();
    int64_t d = x.size(-1), n = x.numel() / d;
    Tensor sum = y.defined() ? at::empty_like(x) : Tensor();
    Tensor out = at::empty(x.sizes(), x.options().dtype(type)), rstd = at::empty({n}, x.options().dtype(at::kFloat));
    NormArgs a{data(x), data(y), data(w), data(sum), data(out), data_as<float>(rstd), n, static_cast<int>(d), static_cast<float>(eps)};
    by_norm(x.scalar_type(), y.defined() ? y.scalar_type() : type, type, [&](auto *tx, auto *ty, auto *to) {
      norm_rows<std::remove_pointer_t<decltype(tx)>, std::remove_pointer_t<decltype(ty)>, std::remove_pointer_t<decltype(to)>>(x, a);
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
    if (!last.defined()) return {above, added && above.defined() ? above.to(other) : Tensor(), Tensor(), Tensor(), Tensor()};
    Tensor g = last.contiguous();
    int64_t d = x.size(-1), n = x.numel() / d, count = teams(x, n, 16);
    bool wants = ctx->needs_input_grad(added ? 2 : 1);
    Tensor dx = at::empty_like(x), dy = added && other != x.scalar_type() ? at::empty(x.sizes(), x.options().dtype(other)) : Tensor();
    Tensor dw = wants ? at::empty({parts(x, count), d}, rstd.options()) : Tensor();
    NormBackArgs a{data(g), data(x), data(w), data(above), data_as<float>(rstd), data(dx), data(dy), data_as<float>(dw), n, static_cast<int>(d)};
    by_norm(x.scalar_type(), other, g.scalar_type(), [&](auto *tx, auto *ty, auto *to) {
      norm_back_rows<std::remove_pointer_t<decltype(tx)>, std::remove_pointer_t<decltype(ty)>, std::remove_pointer_t<decltype(to)>>(x, a, count);
    });
    return {dx, added ? (dy.defined() ? dy : dx) : Tensor(), wants ? sum_of_parts(dw).to(w.scalar_type()) : Tensor(), Tensor(), Tensor()};
  }
};

// ---- a product

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
    if (ctx->needs_input_grad(1)) out[1] = product(g.t(), x, static_cast<at::ScalarType>(ctx->saved_data["type"].toInt()));
    return out;
  }
};

// ---- queries, keys and values

struct HeadSizes {
  int64_t length, start, heads, kv_heads, e;
  double eps;
};

// Where keys and values of tokens go one after another, [rows, K, S, E] each, and the first one's place.
struct Caches {
  Tensor k, v, start;
};

// Lanes that a head of `e` numbers takes, and how often.
std::string head_lanes(int64_t e) {
  int64_t lanes = e <= 64 ? 8 : e <= 128 ? 16 : 32;
  return std::to_string(lanes) + ", " + std::to_string((e / 2 + lanes * VEC - 1) / (lanes * VEC)) + ", ";
}

template <class T, class W> void heads_rows(const Tensor &x, const HeadsArgs &a) {
  run(x, {"heads<" + head_lanes(a.e) + types({name_of<T>(), name_of<W>()}) + ">", "HeadsArgs", 32}, a, teams(x, a.n * a.split), &heads<1, HOST_HEAD, T, W>);
}

// A row of joined heads a token -> q, k, v and what norms were scaled by.
variable_list turned(const Tensor &x, const Tensor &wq, const Tensor &wk, const Tensor &cos, const Tensor &sin, const Caches &into,
                     const HeadSizes &s) {
  int64_t n = x.size(0);
  auto head = [&](int64_t count) { return at::empty({n / s.length, s.length, count, s.e}, x.options()); };
  bool cached = into.k.defined();
  Tensor q = head(s.heads), k = cached ? into.k : head(s.kv_heads), v = cached ? into.v : head(s.kv_heads);
  Tensor rstd = wq.defined() ? at::empty({n, s.heads + s.kv_heads}, cos.options()) : Tensor();
  HeadsArgs a{data(x), data(wq), data(wk), data_as<float>(cos), data_as<float>(sin), data_as<i64>(into.start), data(q), data(k), data(v),
              data_as<float>(rstd), n, s.start, cached ? k.size(2) : 0, static_cast<int>(s.length),
              into.start.defined() && into.start.numel() > 1, row_width(x, n) == 32 ? 1 : static_cast<int>(s.heads + 2 * s.kv_heads),
              static_cast<int>(s.heads), static_cast<int>(s.kv_heads), static_cast<int>(s.e),
              static_cast<float>(s.eps)};
  by_type(x.scalar_type(), [&](auto *t) {
    by_type(wq.defined() ? wq.scalar_type() : at::kFloat, [&](auto *w) {
      heads_rows<std::remove_pointer_t<decltype(t)>, std::remove_pointer_t<decltype(w)>>(x, a);
    });
  });
  return {q, k, v, rstd};
}

// x [..., D] in T; query, key and value weights; norms' weights or nothing; tables [P, E] -> q [B, T, H, E], k and v [B, T, K, E]
struct HeadsFunction : public Function<HeadsFunction> {
  static variable_list forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &q, const Tensor &k, const Tensor &v,
                               const std::optional<Tensor> &wq_in, const std::optional<Tensor> &wk_in, const Tensor &cos, const Tensor &sin,
                               HeadSizes s) {
    AsWritten as_written;
    ctx->set_materialize_grads(false);
    Tensor x = flat(x_in), weight = joined({q, k, v}, x.scalar_type()), all = x.mm(weight.t());
    Tensor wq = wq_in ? wq_in->contiguous() : Tensor(), wk = wk_in ? wk_in->contiguous() : Tensor();
    auto made = turned(all, wq, wk, cos, sin, {}, s);
    ctx->save_for_backward({x, weight, wq.defined() ? all : Tensor(), wq, wk, made[3], cos, sin});
    for (auto &[name, value] : {std::pair{"length", s.length}, {"start", s.start}, {"heads", s.heads}, {"kv", s.kv_heads}, {"e", s.e}})
      ctx->saved_data[name] = value;
    ctx->saved_data["type"] = static_cast<int64_t>(q.scalar_type());
    ctx->saved_data["shape"] = x_in.sizes().vec();
    made.pop_back();
    return made;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    AsWritten as_written;
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &all = saved[2], &wq = saved[3], &wk = saved[4], &rstd = saved[5];
    auto number = [&](const char *name) { return ctx->saved_data[name].toInt(); };
    int64_t n = x.size(0), length = number("length"), h = number("heads"), kv = number("kv"), e = number("e");
    auto whole = [&](const Tensor &g, int64_t count) {
      return g.defined() ? g.contiguous() : at::zeros({n / length, length, count, e}, x.options());
    };
    Tensor dq = whole(grads[0], h), dk = whole(grads[1], kv), dv = whole(grads[2], kv);
    Tensor dx = at::empty({n, (h + 2 * kv) * e}, x.options());
    bool wants = wq.defined() && (ctx->needs_input_grad(4) || ctx->needs_input_grad(5));
    int64_t count = teams(x, n, 64);
    Tensor dw = wants ? at::empty({parts(x, count), 2, e}, rstd.options()) : Tensor();
    HeadsBackArgs a{data(dq), data(dk), data(dv), data(all), data(wq), data(wk), data_as<float>(saved[6]), data_as<float>(saved[7]),
                    data_as<float>(rstd), data(dx), data_as<float>(dw), n, number("start"), static_cast<int>(length), static_cast<int>(h), static_cast<int>(kv),
                    static_cast<int>(e)};
    by_type(x.scalar_type(), [&](auto *t) {
      by_type(wq.defined() ? wq.scalar_type() : at::kFloat, [&](auto *w) {
        using T = std::remove_pointer_t<decltype(t)>;
        using W = std::remove_pointer_t<decltype(w)>;
        std::string call = "heads_back<" + head_lanes(e) + types({name_of<T>(), name_of<W>()}) + ">";
        run(x, {call, "HeadsBackArgs", 32}, a, count, &heads_back<1, HOST_HEAD, T, W>);
      });
    });
    variable_list out(9);
    auto type = static_cast<at::ScalarType>(number("type"));
    if (ctx->needs_input_grad(0)) out[0] = dx.mm(weight).view(ctx->saved_data["shape"].toIntVector());
    if (ctx->needs_input_grad(1) || ctx->needs_input_grad(2) || ctx->needs_input_grad(3)) {
      Tensor by_weight = product(dx.t(), x, type);
      int64_t rows[] = {h * e, kv * e, kv * e}, from = 0;
      for (int i = 0; i < 3; ++i) {
        if (ctx->needs_input_grad(1 + i)) out[1 + i] = by_weight.narrow(0, from, rows[i]);
        from += rows[i];
      }
    }
    if (wants) {
      Tensor sums = sum_of_parts(dw.view({-1, 2 * e})).view({2, e}).to(wq.scalar_type());
      // Only a defined input takes a number among those that may want a gradient, and both are there or neither.
      out[4] = sums[0];
      out[5] = sums[1];
    }
    return out;
  }
};

// ---- the gated feed-forward

template <class T> void gate_rows(const Tensor &x, const GateArgs &a) {
  run(x, {std::string("gate<") + name_of<T>() + ">", "GateArgs", row_width(x, a.n)}, a, teams(x, a.n), &gate<T>);
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
  static Tensor forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &w_gate, const Tensor &w_up, const Tensor &w_down) {
    AsWritten as_written;
    Tensor x = flat(x_in), weight = joined({w_gate, w_up}, x.scalar_type()), down = w_down.to(x.scalar_type());
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
      run(x, {std::string("gate_back<") + name_of<T>() + ">", "GateBackArgs", 32}, a, teams(x, n), &gate_back<T>);
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

// ---- cross-entropy over an output layer

// The sum over rows of the loss, and with `back` the gradients of `scale` times it: (loss, dh [N, D], dw [V, D]).
variable_list entropy_sum(const Tensor &h, const Tensor &w, const Tensor &tokens, const Tensor &weights, const Tensor &scale, bool back, bool by_weight) {
  int64_t n = h.size(0), vocab = w.size(0), most = std::max<int64_t>(1, (h.is_cuda() ? LOGITS : HOST_LOGITS) / vocab);
  Tensor cast = w.to(h.scalar_type()), loss = at::empty({n}, h.options().dtype(at::kFloat));
  Tensor dh = back ? at::empty_like(h) : Tensor(), dw;
  for (int64_t from = 0; from < n; from += most) {
    int64_t rows = std::min(most, n - from);
    Tensor part = h.narrow(0, from, rows), logits = part.mm(cast.t());
    EntropyArgs a{data(logits), data_as<i64>(tokens) + from, weights.defined() ? data_as<float>(weights) + from : nullptr,
                  data_as<float>(scale), data_as<float>(loss) + from, rows, static_cast<int>(vocab), back};
    by_type(h.scalar_type(), [&](auto *t) {
      using T = std::remove_pointer_t<decltype(t)>;
      int64_t count = h.is_cuda() ? std::min<int64_t>(rows, cuda_ops::processors(h) * 8) : HOST_TEAMS;
      int64_t kept = (vocab + BLOCK * VEC - 1) / (BLOCK * VEC);
      std::string call = "entropy<" + std::to_string(kept <= 8 ? kept : 0) + ", " + name_of<T>() + ">";
      run(h, {call, "EntropyArgs", BLOCK}, a, count, vocab <= HOST_VOCAB * VEC ? &entropy<HOST_VOCAB, T> : &entropy<0, T>);
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
  return {loss.sum(), dh, dw};
}

// Gives `scale` times the summed loss a graph: its gradients are taken on the way.
struct EntropyFunction : public Function<EntropyFunction> {
  static variable_list forward(AutogradContext *ctx, const Tensor &h_in, const Tensor &w, const Tensor &tokens, const std::optional<Tensor> &weights,
                               const Tensor &scale, at::ScalarType type) {
    AsWritten as_written;
    Tensor h = h_in.to(type).contiguous();
    bool by_weight = w.requires_grad();
    auto made = entropy_sum(h, w, tokens, weights ? weights->contiguous() : Tensor(), scale, true, by_weight);
    ctx->save_for_backward({made[1], made[2]});
    ctx->saved_data["type"] = static_cast<int64_t>(h_in.scalar_type());
    Tensor loss = made[0];
    ctx->mark_non_differentiable({loss});
    return {loss * scale, loss};
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

std::optional<Tensor> optional(mm_tensor t) { return t ? std::optional<Tensor>(mm_as_tensor(t)) : std::nullopt; }

} // namespace

extern "C" {

char *mm_cuda_load(const char *nvrtc, const char *source) {
  return mm_guard([&] { cuda_ops::load(nvrtc, source); });
}

char *mm_gpu_uuid(int64_t cuda_index, char *text) {
  return mm_guard([&] {
    auto uuid = cuda_ops::uuid(cuda_index);
    std::copy_n(uuid.c_str(), uuid.size() + 1, text);
  });
}

char *mm_cuda_norm(mm_tensor x, mm_tensor y, mm_tensor w, double eps, int type, mm_tensor *sum, mm_tensor *out) {
  return mm_guard([&] {
    auto made = NormFunction::apply(mm_as_tensor(x), optional(y), mm_as_tensor(w), eps, static_cast<at::ScalarType>(type));
    if (y) *sum = new Tensor(made[0]);
    *out = new Tensor(made[y ? 1 : 0]);
  });
}

char *mm_cuda_linear(mm_tensor x, mm_tensor w, mm_tensor *out) {
  return mm_guard([&] { *out = new Tensor(LinearFunction::apply(mm_as_tensor(x), mm_as_tensor(w))); });
}

char *mm_cuda_heads(mm_tensor x, mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor wq, mm_tensor wk, mm_tensor cos, mm_tensor sin,
                     const int64_t *sizes, double eps, mm_tensor *out) {
  return mm_guard([&] {
    HeadSizes s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], eps};
    TORCH_CHECK(s.start + s.length <= mm_as_tensor(cos).size(0), "a table of ", mm_as_tensor(cos).sizes());
    auto made = HeadsFunction::apply(mm_as_tensor(x), mm_as_tensor(q), mm_as_tensor(k), mm_as_tensor(v), optional(wq), optional(wk),
                                  mm_as_tensor(cos), mm_as_tensor(sin), s);
    for (int i = 0; i < 3; ++i) out[i] = new Tensor(made[i]);
  });
}

char *mm_cuda_turn(mm_tensor x, mm_tensor wq, mm_tensor wk, mm_tensor cos, mm_tensor sin, mm_tensor k, mm_tensor v, mm_tensor start,
                    const int64_t *sizes, double eps, mm_tensor *out) {
  return mm_guard([&] {
    HeadSizes s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], eps};
    Caches into{mm_as_tensor(k), mm_as_tensor(v), mm_as_tensor(start)};
    TORCH_CHECK(into.start.scalar_type() == at::kLong, "a place of type ", into.start.scalar_type());
    *out = new Tensor(turned(mm_as_tensor(x), maybe(wq), maybe(wk), mm_as_tensor(cos), mm_as_tensor(sin), into, s)[0]);
  });
}

char *mm_cuda_gate(mm_tensor x, mm_tensor *out) {
  return mm_guard([&] { *out = new Tensor(gated(mm_as_tensor(x))); });
}

char *mm_cuda_mlp(mm_tensor x, mm_tensor gate, mm_tensor up, mm_tensor down, mm_tensor *out) {
  return mm_guard([&] {
    *out = new Tensor(MlpFunction::apply(mm_as_tensor(x), mm_as_tensor(gate), mm_as_tensor(up), mm_as_tensor(down)));
  });
}

char *mm_cuda_entropy(mm_tensor h, mm_tensor w, mm_tensor tokens, mm_tensor weights, mm_tensor scale, int type, mm_tensor *scaled, mm_tensor *loss) {
  return mm_guard([&] {
    if (!scaled) {
      AsWritten as_written;
      at::NoGradGuard no_grad;
      Tensor rows = mm_as_tensor(h).to(static_cast<at::ScalarType>(type)).contiguous();
      *loss = new Tensor(entropy_sum(rows, mm_as_tensor(w), mm_as_tensor(tokens), maybe(weights), Tensor(), false, false)[0]);
      return;
    }
    auto made = EntropyFunction::apply(mm_as_tensor(h), mm_as_tensor(w), mm_as_tensor(tokens), optional(weights), mm_as_tensor(scale), static_cast<at::ScalarType>(type));
    *scaled = new Tensor(made[0]);
    *loss = new Tensor(made[1]);
  });
}

char *mm_cuda_documents(mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor ends, int64_t longest, mm_tensor *out) {
  return mm_guard([&] {
    AsWritten as_written;
    const Tensor &e = mm_as_tensor(ends);
    auto made = at::_flash_attention_forward(mm_as_tensor(q), mm_as_tensor(k), mm_as_tensor(v), e, e, longest, longest, /*dropout_p=*/0.0,
                                             /*is_causal=*/true, /*return_debug_mask=*/false);
    *out = new Tensor(std::get<0>(made));
  });
}

char *mm_cuda_capability(mm_tensor on, int64_t *major) {
  return mm_guard([&] { *major = mm_as_tensor(on).is_cuda() ? cuda_ops::capability(mm_as_tensor(on)) : 0; });
}

int mm_autocast_on_cuda(void) {
  if (!at::autocast::is_autocast_enabled(at::kCUDA)) return -1;
  return static_cast<int>(at::autocast::get_autocast_dtype(at::kCUDA));
}
}
