// libtorch's C++ behind the C ABI of ffi.h. One guard turns every C++ exception into a message.
#include "guard.h"
#include "ffi.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/stack.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <cstdlib>
#include <vector>

namespace {

std::vector<at::Tensor> list(mm_tensor *tensors, size_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) out.push_back(mm_as_tensor(tensors[i]));
  return out;
}

at::Generator generator(int64_t cuda_index) {
  if (cuda_index < 0) return at::detail::getDefaultCPUGenerator();
  return at::globalContext().defaultGenerator(
      at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda_index)));
}

} // namespace

extern "C" {

void mm_free_message(char *message) { free(message); }

char *mm_adamw(mm_tensor *params, mm_tensor *grads, mm_tensor *exp_avgs, mm_tensor *exp_avg_sqs,
               mm_tensor *steps, size_t n, double lr, double beta1, double beta2, double weight_decay,
               double eps) {
  return mm_guard([&] {
    at::NoGradGuard guard_grad;
    auto step_list = list(steps, n);
    at::_foreach_add_(step_list, 1);
    at::_fused_adamw_(list(params, n), list(grads, n), list(exp_avgs, n), list(exp_avg_sqs, n), {}, step_list,
                      lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false);
  });
}

char *mm_global_norm(mm_tensor *tensors, size_t n, mm_tensor *out) {
  return mm_guard([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(at::stack(at::_foreach_norm(list(tensors, n), 2)).to(at::kFloat).norm());
  });
}

char *mm_scale_all(mm_tensor *tensors, size_t n, double factor) {
  return mm_guard([&] {
    at::NoGradGuard no_grad;
    at::_foreach_mul_(list(tensors, n), factor);
  });
}

char *mm_zero_all(mm_tensor *tensors, size_t n) {
  return mm_guard([&] {
    at::NoGradGuard no_grad;
    at::_foreach_zero_(list(tensors, n));
  });
}

char *mm_clear_grads(mm_tensor *params, size_t n) {
  return mm_guard([&] {
    for (size_t i = 0; i < n; ++i) mm_as_tensor(params[i]).mutable_grad().reset();
  });
}

char *mm_rng_get(int64_t cuda_index, mm_tensor *out) {
  return mm_guard([&] {
    auto gen = generator(cuda_index);
    std::lock_guard<std::mutex> lock(gen.mutex());
    *out = new at::Tensor(gen.get_state());
  });
}

char *mm_rng_set(int64_t cuda_index, mm_tensor state) {
  return mm_guard([&] {
    auto gen = generator(cuda_index);
    std::lock_guard<std::mutex> lock(gen.mutex());
    gen.set_state(mm_as_tensor(state));
  });
}

char *mm_cuda_peak_memory(int64_t cuda_index, int64_t *bytes) {
  return mm_guard([&] {
    auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(cuda_index));
    *bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  });
}

char *mm_cuda_reset_peak_memory(int64_t cuda_index) {
  return mm_guard(
      [&] { at::getDeviceAllocator(at::kCUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(cuda_index)); });
}

char *mm_autocast(int device, int enabled, int dtype) {
  return mm_guard([&] {
    auto type = device == 1 ? at::kCUDA : at::kCPU;
    if (enabled) at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(dtype));
    else at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(type, enabled != 0);
  });
}

int mm_autocast_on_cpu(void) { return at::autocast::is_autocast_enabled(at::kCPU); }
}
