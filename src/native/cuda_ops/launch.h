// Compiles the kernels of kernels/ for the GPU at hand and starts them, through libraries that are loaded
// when a GPU is asked for: nothing here is linked.
#pragma once
#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace cuda_ops {

// A kernel function and its template's arguments, as kernels/ has them; `width` lanes are a team.
struct Kernel {
  std::string call;      // "norm<6, float, bf16, float, bf16>"
  const char *arguments; // "NormArgs"
  int width;
};

// Takes the kernels' text and finds NVRTC and the driver beside `nvrtc` (libtorch's libcaffe2_nvrtc.so).
void load(const char *nvrtc, const char *source);

// Starts `teams` teams on the tensor's device and its current stream; `arguments` are copied.
void launch(const at::Tensor &on, const Kernel &kernel, void *arguments, int64_t teams);

// Multiprocessors of the tensor's device, and the major number of its compute capability.
int64_t processors(const at::Tensor &on);
int64_t capability(const at::Tensor &on);

// The identity of this GPU, or of a part of one: 32 hexadecimal digits.
std::string uuid(int64_t cuda_index);

} // namespace cuda_ops
