// Queries, keys and values: one product, then per head norm and rotation in one pass of a kernel, with the
// backward pass.
//
// N rows, D hidden, H query heads, K kv heads, E head dim, P positions.
#include "autograd.h"
#include "kernels/heads.h"

#include <ATen/ops/zeros.h>

namespace {

// The widest half head on the CPU, in stretches of VEC numbers.
constexpr int HOST_HEAD = 64;

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
  run(x, {"heads<" + head_lanes(a.e) + types({name_of<T>(), name_of<W>()}) + ">", "HeadsArgs", 32}, a,
      teams(x, a.n * a.split), &heads<1, HOST_HEAD, T, W>);
}

// A row of joined heads a token -> q, k, v and what norms were scaled by.
variable_list split_norm_rope(const Tensor &x, const Tensor &wq, const Tensor &wk, const Tensor &cos,
                              const Tensor &sin, const Caches &into, const HeadSizes &s) {
  int64_t n = x.size(0);
  auto head = [&](int64_t count) { return at::empty({n / s.length, s.length, count, s.e}, x.options()); };
  bool cached = into.k.defined();
  Tensor q = head(s.heads), k = cached ? into.k : head(s.kv_heads), v = cached ? into.v : head(s.kv_heads);
  Tensor rstd = wq.defined() ? at::empty({n, s.heads + s.kv_heads}, cos.options()) : Tensor();
  HeadsArgs a{data(x),
              data(wq),
              data(wk),
              data_as<float>(cos),
              data_as<float>(sin),
              data_as<i64>(into.start),
              data(q),
              data(k),
              data(v),
              data_as<float>(rstd),
              n,
              s.start,
              cached ? k.size(2) : 0,
              static_cast<int>(s.length),
              into.start.defined() && into.start.numel() > 1,
              row_width(x, n) == 32 ? 1 : static_cast<int>(s.heads + 2 * s.kv_heads),
              static_cast<int>(s.heads),
              static_cast<int>(s.kv_heads),
              static_cast<int>(s.e),
              static_cast<float>(s.eps)};
  by_type(x.scalar_type(), [&](auto *t) {
    by_type(wq.defined() ? wq.scalar_type() : at::kFloat, [&](auto *w) {
      heads_rows<std::remove_pointer_t<decltype(t)>, std::remove_pointer_t<decltype(w)>>(x, a);
    });
  });
  return {q, k, v, rstd};
}

// x [..., D] in T; query, key and value weights; norms' weights or nothing; tables [P, E] -> q [B, T, H, E],
// k and v [B, T, K, E]
struct HeadsFunction : public Function<HeadsFunction> {
  static variable_list forward(AutogradContext *ctx, const Tensor &x_in, const Tensor &q, const Tensor &k,
                               const Tensor &v, const std::optional<Tensor> &wq_in,
                               const std::optional<Tensor> &wk_in, const Tensor &cos, const Tensor &sin,
                               HeadSizes s) {
    AsWritten as_written;
    ctx->set_materialize_grads(false);
    Tensor x = flat(x_in), weight = joined({q, k, v}, x.scalar_type()), all = x.mm(weight.t());
    Tensor wq = wq_in ? wq_in->contiguous() : Tensor(), wk = wk_in ? wk_in->contiguous() : Tensor();
    auto made = split_norm_rope(all, wq, wk, cos, sin, {}, s);
    ctx->save_for_backward({x, weight, wq.defined() ? all : Tensor(), wq, wk, made[3], cos, sin});
    for (auto &[name, value] : {std::pair{"length", s.length},
                                {"start", s.start},
                                {"heads", s.heads},
                                {"kv", s.kv_heads},
                                {"e", s.e}})
      ctx->saved_data[name] = value;
    ctx->saved_data["type"] = static_cast<int64_t>(q.scalar_type());
    ctx->saved_data["shape"] = x_in.sizes().vec();
    made.pop_back();
    return made;
  }

  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    AsWritten as_written;
    auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &all = saved[2], &wq = saved[3], &wk = saved[4],
                 &rstd = saved[5];
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
    HeadsBackArgs a{data(dq),
                    data(dk),
                    data(dv),
                    data(all),
                    data(wq),
                    data(wk),
                    data_as<float>(saved[6]),
                    data_as<float>(saved[7]),
                    data_as<float>(rstd),
                    data(dx),
                    data_as<float>(dw),
                    n,
                    number("start"),
                    static_cast<int>(length),
                    static_cast<int>(h),
                    static_cast<int>(kv),
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
      // Only a defined input takes a number among those that may want a gradient, and both are there or
      // neither.
      out[4] = sums[0];
      out[5] = sums[1];
    }
    return out;
  }
};

} // namespace

extern "C" {

char *mm_cuda_qkv_rope(mm_tensor x, mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor wq, mm_tensor wk,
                       mm_tensor cos, mm_tensor sin, const int64_t *sizes, double eps, mm_tensor *out) {
  return mm_guard([&] {
    HeadSizes s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], eps};
    TORCH_CHECK(s.start + s.length <= mm_as_tensor(cos).size(0), "a table of ", mm_as_tensor(cos).sizes());
    auto made = HeadsFunction::apply(mm_as_tensor(x), mm_as_tensor(q), mm_as_tensor(k), mm_as_tensor(v),
                                     optional(wq), optional(wk), mm_as_tensor(cos), mm_as_tensor(sin), s);
    for (int i = 0; i < 3; ++i) out[i] = new Tensor(made[i]);
  });
}

char *mm_cuda_rope_into_cache(mm_tensor x, mm_tensor wq, mm_tensor wk, mm_tensor cos, mm_tensor sin,
                              mm_tensor k, mm_tensor v, mm_tensor start, const int64_t *sizes, double eps,
                              mm_tensor *out) {
  return mm_guard([&] {
    HeadSizes s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], eps};
    Caches into{mm_as_tensor(k), mm_as_tensor(v), mm_as_tensor(start)};
    TORCH_CHECK(into.start.scalar_type() == at::kLong, "a place of type ", into.start.scalar_type());
    *out = new Tensor(split_norm_rope(mm_as_tensor(x), maybe(wq), maybe(wk), mm_as_tensor(cos),
                                      mm_as_tensor(sin), into, s)[0]);
  });
}
}
