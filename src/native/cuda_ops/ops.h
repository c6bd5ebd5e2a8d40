// What the mixed-precision ops share: how a kernel is started on a tensor's device, and how types become
// kernels.
#pragma once
#include "../guard.h"
#include "../ffi.h"
#include "kernels/common.h"
#include "launch.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <initializer_list>
#include <string>

namespace {

using at::Tensor;

// Teams on the CPU, so that sums do not depend on its threads.
constexpr int64_t HOST_TEAMS = 32;
// Autocast would cast what is written here with care.
struct AsWritten {
  c10::impl::ExcludeDispatchKeyGuard guard{
      c10::DispatchKeySet({c10::DispatchKey::AutocastCUDA, c10::DispatchKey::AutocastCPU})};
};

template <class T> const char *name_of();
template <> inline const char *name_of<float>() { return "float"; }
template <> inline const char *name_of<bf16>() { return "bf16"; }

inline void *data(const Tensor &t) { return t.defined() ? t.data_ptr() : nullptr; }
template <class T> T *data_as(const Tensor &t) { return static_cast<T *>(data(t)); }

// Teams that share `rows`: one for each, or where each keeps sums of its own `many` a multiprocessor.
inline int64_t teams(const Tensor &on, int64_t rows, int64_t many = 0) {
  if (!on.is_cuda()) return HOST_TEAMS;
  if (many > 0) return cuda_ops::processors(on) * many;
  return std::max<int64_t>(rows + 7, 8) / 8 * 8;
}

// Lanes that share a row of few: a warp, or a block where there are not enough rows to fill the device.
inline int row_width(const Tensor &on, int64_t rows) {
  return on.is_cuda() && rows < cuda_ops::processors(on) * 4 ? BLOCK : 32;
}

template <class A>
void run(const Tensor &on, const cuda_ops::Kernel &kernel, A arguments, int64_t count,
         void (*host)(int, i64, i64, const A &)) {
  if (on.is_cuda()) return cuda_ops::launch(on, kernel, &arguments, count);
  at::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) host(0, t, count, arguments);
  });
}

inline int64_t stretches(int64_t numbers, int64_t each, int64_t width = 32) {
  return (numbers + width * each - 1) / (width * each);
}

inline std::string types(std::initializer_list<const char *> names) {
  std::string all;
  for (auto name : names) all += (all.empty() ? "" : ", ") + std::string(name);
  return all;
}

// Calls body with a null pointer of the tensor's type.
template <typename F> void by_type(at::ScalarType type, F &&body) {
  if (type == at::kFloat) body(static_cast<float *>(nullptr));
  else if (type == at::kBFloat16) body(static_cast<bf16 *>(nullptr));
  else TORCH_CHECK(false, "fused ops take fp32 and bf16, not ", type);
}

inline Tensor maybe(mm_tensor t) { return t ? mm_as_tensor(t) : Tensor(); }

} // namespace
