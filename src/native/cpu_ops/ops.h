// What the fused ops share: libtorch's names, and the gate of a feed-forward over whole tensors.
#pragma once
#include "../guard.h"
#include "../ffi.h"
#include "row_kernels.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Numbers that a thread takes at once.
constexpr int64_t GRAIN = 8192;

inline const float *in(const Tensor &t) { return t.const_data_ptr<float>(); }
inline float *out(const Tensor &t) { return t.mutable_data_ptr<float>(); }

// silu(gate) * up
inline Tensor gated(const Tensor &gate, const Tensor &up) {
  Tensor inner = at::empty_like(gate);
  at::parallel_for(0, gate.numel(), GRAIN, [&](int64_t from, int64_t to) {
    rows::swiglu_row(in(gate) + from, in(up) + from, out(inner) + from, to - from);
  });
  return inner;
}

// The gradients of gate and up; `inner` holds that of their product going in and the product itself coming
// out.
inline void gated_back(const Tensor &inner, const Tensor &gate, const Tensor &up, const Tensor &dgate,
                       const Tensor &dup) {
  at::parallel_for(0, gate.numel(), GRAIN, [&](int64_t from, int64_t to) {
    rows::swiglu_again_row(out(inner) + from, in(gate) + from, in(up) + from, out(dgate) + from,
                           out(dup) + from, to - from);
  });
}

} // namespace
