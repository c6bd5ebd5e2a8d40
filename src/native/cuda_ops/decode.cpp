// A step of decoding for few rows, without a graph: attention of one new token over its caches, and products
// that read a weight once.
//
// R rows, D hidden, O outputs, H query heads, K kv heads, S capacity, E head dim.
#include "ops.h"
#include "kernels/decode.h"

#include <ATen/ops/_flash_attention_forward.h>

#include <type_traits>
#include <utility>

namespace {

// Stretches of VEC numbers of a head on the CPU.
constexpr int HOST_WHOLE_HEAD = 128;

// One new token a row: q [N, 1, H, E], caches [N, K, S, E], the last place that is held -> [N, H E]
Tensor attended(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &last) {
  int64_t n = q.size(0), h = q.size(2), e = q.size(3);
  Tensor out = at::empty({n, h * e}, q.options());
  AttendArgs a{data(q),
               data(k),
               data(v),
               data(out),
               data_as<i64>(last),
               n,
               k.size(2),
               last.numel() > 1,
               static_cast<int>(h),
               static_cast<int>(k.size(1)),
               static_cast<int>(e),
               1.0f / std::sqrt(static_cast<float>(e))};
  by_type(q.scalar_type(), [&](auto *t) {
    using T = std::remove_pointer_t<decltype(t)>;
    std::string call = "attend<" + std::to_string(stretches(e, VEC)) + ", " + name_of<T>() + ">";
    run(q, {call, "AttendArgs", BLOCK}, a, q.is_cuda() ? n * h : HOST_TEAMS, &attend<HOST_WHOLE_HEAD, T>);
  });
  return out;
}

// Calls body with the number of rows and the types of inputs and result, as kernels take them.
template <typename F> void by_rows(const Tensor &x, at::ScalarType result, F &&body) {
  auto typed = [&](auto rows) {
    float *f = nullptr;
    bf16 *h = nullptr;
    if (x.scalar_type() == at::kFloat) body(rows, f, f);
    else if (result == at::kFloat) body(rows, h, f);
    else body(rows, h, h);
  };
  switch (x.size(0)) {
  case 1: return typed(std::integral_constant<int, 1>());
  case 2: return typed(std::integral_constant<int, 2>());
  case 3: return typed(std::integral_constant<int, 3>());
  case 4: return typed(std::integral_constant<int, 4>());
  default: TORCH_CHECK(false, "a product for few rows got ", x.sizes());
  }
}

// x [R, D], w [O, D] of one type -> [R, O] in it or in fp32; R up to 4.
Tensor few(const Tensor &x_in, const Tensor &w, at::ScalarType type) {
  Tensor x = x_in.contiguous(), out = at::empty({x.size(0), w.size(0)}, x.options().dtype(type));
  MatvecArgs a{data(x), data(w), data(out), w.size(0), static_cast<int>(w.size(1))};
  by_rows(x, type, [&](auto rows, auto *t, auto *o) {
    using T = std::remove_pointer_t<decltype(t)>;
    using O = std::remove_pointer_t<decltype(o)>;
    std::string call = "matvec<" + std::to_string(rows()) + ", " + types({name_of<T>(), name_of<O>()}) + ">";
    run(x, {call, "MatvecArgs", 32}, a, teams(x, a.outputs), &matvec<rows(), T, O>);
  });
  return out;
}

// norm(x + y) m^T, x and y (or none) [R, D] and m of one type; with `gated` gate and up are joined in m. (x +
// y or nothing, out)
std::pair<Tensor, Tensor> normed_few(const Tensor &x, const Tensor &y, const Tensor &w, const Tensor &m,
                                     double eps, bool gated, at::ScalarType type) {
  int64_t d = x.size(1), outputs = gated ? m.size(0) / 2 : m.size(0);
  TORCH_CHECK(x.size(0) * d <= HELD, "a product for few rows got ", x.sizes());
  Tensor sum = y.defined() ? at::empty_like(x) : Tensor(),
         out = at::empty({x.size(0), outputs}, x.options().dtype(type));
  NormedArgs a{data(x),   data(y),
               data(w),   data(m),
               data(sum), data(out),
               outputs,   static_cast<int>(d),
               gated,     static_cast<float>(eps)};
  by_rows(x, type, [&](auto rows, auto *t, auto *o) {
    using T = std::remove_pointer_t<decltype(t)>;
    using O = std::remove_pointer_t<decltype(o)>;
    std::string call = "normed<" + std::to_string(rows()) + ", " + types({name_of<T>(), name_of<O>()}) + ">";
    int64_t blocks = (outputs + BLOCK / 32 - 1) / (BLOCK / 32),
            most = x.is_cuda() ? cuda_ops::processors(x) * 4 : HOST_TEAMS;
    run(x, {call, "NormedArgs", BLOCK}, a, x.is_cuda() ? std::min(blocks, most) : most,
        &normed<rows(), T, O>);
  });
  return {sum, out};
}

} // namespace

extern "C" {

char *mm_cuda_attend_cached(mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor last, mm_tensor *out) {
  return mm_guard([&] {
    TORCH_CHECK(mm_as_tensor(last).scalar_type() == at::kLong, "a place of type ",
                mm_as_tensor(last).scalar_type());
    *out = new Tensor(attended(mm_as_tensor(q), mm_as_tensor(k), mm_as_tensor(v), mm_as_tensor(last)));
  });
}

char *mm_cuda_norm_linear(mm_tensor x, mm_tensor y, mm_tensor w, mm_tensor m, double eps, int gated, int type,
                          mm_tensor *sum, mm_tensor *out) {
  return mm_guard([&] {
    auto made = normed_few(mm_as_tensor(x), maybe(y), mm_as_tensor(w), mm_as_tensor(m), eps, gated != 0,
                           static_cast<at::ScalarType>(type));
    if (y) *sum = new Tensor(made.first);
    *out = new Tensor(made.second);
  });
}

char *mm_cuda_linear_few(mm_tensor x, mm_tensor w, int type, mm_tensor *out) {
  return mm_guard(
      [&] { *out = new Tensor(few(mm_as_tensor(x), mm_as_tensor(w), static_cast<at::ScalarType>(type))); });
}

char *mm_cuda_attend_documents(mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor ends, int64_t longest,
                               mm_tensor *out) {
  return mm_guard([&] {
    AsWritten as_written;
    const Tensor &e = mm_as_tensor(ends);
    auto made = at::_flash_attention_forward(mm_as_tensor(q), mm_as_tensor(k), mm_as_tensor(v), e, e, longest,
                                             longest, /*dropout_p=*/0.0,
                                             /*is_causal=*/true, /*return_debug_mask=*/false);
    *out = new Tensor(std::get<0>(made));
  });
}
}
