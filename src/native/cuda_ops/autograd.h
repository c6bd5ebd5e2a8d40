// What the training ops of a GPU share: matrix products and sums of their backward passes, and libtorch's
// names.
//
// Weights and their gradients have the parameters' own type, products run in T (bf16 or fp32), and what lies
// between is one pass of a kernel. On a CUDA device the kernels are compiled at run time; on the CPU, for
// tests, they are this program's own.
#pragma once
#include "ops.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

inline Tensor flat(const Tensor &x) { return x.reshape({-1, x.size(-1)}).contiguous(); }

// The sum of [parts, D] over the parts: as a product, which is faster than libtorch's sum of so few rows.
inline Tensor sum_of_parts(const Tensor &parts) {
  return parts.is_cuda() ? parts.t().mv(at::ones({parts.size(0)}, parts.options())) : parts.sum(0);
}

// Rows of partial sums that `count` teams write: one a block (BLOCK / 32 teams), on the CPU one a team.
inline int64_t parts(const Tensor &on, int64_t count) { return on.is_cuda() ? count / (BLOCK / 32) : count; }

// The product of two matrices with fp32 sums that stay fp32: a weight's gradient.
inline Tensor product(const Tensor &a, const Tensor &b, at::ScalarType out) {
  if (a.scalar_type() == out) return a.mm(b);
  return a.is_cuda() ? at::mm(a, b, out) : a.to(out).mm(b.to(out));
}

// Matrices that share an input, one below the other in `type`.
inline Tensor joined(at::TensorList weights, at::ScalarType type) {
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

inline std::optional<Tensor> optional(mm_tensor t) {
  return t ? std::optional<Tensor>(mm_as_tensor(t)) : std::nullopt;
}

} // namespace
