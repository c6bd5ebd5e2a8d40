// Run-time compilation and launches, by the C interfaces of NVRTC and the CUDA driver, which do not change.
#include "launch.h"

#include "../ffi.h"
#include "../guard.h"

#include <ATen/autocast_mode.h>

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

namespace cuda_ops {
namespace {

constexpr int THREADS = 256;
// Attributes of a device (cuda.h).
constexpr int MULTIPROCESSORS = 16, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76;
// A mode of cuThreadExchangeStreamCaptureMode.
constexpr int RELAXED_CAPTURE = 2;

struct Library {
  void *handle = nullptr;
  std::string source;
  int (*create)(void **, const char *, const char *, int, const char *const *, const char *const *) = nullptr;
  int (*compile)(void *, int, const char *const *) = nullptr;
  int (*log_size)(void *, size_t *) = nullptr;
  int (*log)(void *, char *) = nullptr;
  int (*code_size)(void *, size_t *) = nullptr;
  int (*code)(void *, char *) = nullptr;
  int (*destroy)(void **) = nullptr;
  int (*load_module)(void **, const void *) = nullptr;
  int (*get_function)(void **, void *, const char *) = nullptr;
  int (*start)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
               void **) = nullptr;
  int (*attribute)(int *, int, int) = nullptr;
  int (*uuid)(unsigned char *, int) = nullptr;
  int (*capture_mode)(int *) = nullptr;
  int (*error_text)(int, const char **) = nullptr;
};

Library &library() {
  static Library one;
  return one;
}

template <typename F> void find(F &function, const char *name) {
  function = reinterpret_cast<F>(dlsym(library().handle, name));
  TORCH_CHECK(function != nullptr, "the GPU's compiler has no ", name);
}

void driver(int status, const char *doing) {
  if (status == 0) return;
  const char *text = nullptr;
  library().error_text(status, &text);
  TORCH_CHECK(false, "cannot ", doing, ": ", text ? text : "unknown fault", " (", status, ")");
}

// Asked once: the numbers are wanted with every launch.
int attribute(c10::DeviceIndex device, int which) {
  static std::mutex lock;
  static std::map<std::pair<c10::DeviceIndex, int>, int> known;
  std::lock_guard<std::mutex> guard(lock);
  auto found = known.find({device, which});
  if (found != known.end()) return found->second;
  int value = 0;
  driver(library().attribute(&value, which, device), "ask the device");
  return known[{device, which}] = value;
}

void *built(c10::DeviceIndex device, const Kernel &kernel) {
  auto &lib = library();
  TORCH_CHECK(lib.handle != nullptr, "the GPU's compiler is not loaded");
  std::string text =
      lib.source + "\nextern \"C\" __global__ void __launch_bounds__(" + std::to_string(THREADS) +
      ") run(const " + kernel.arguments +
      " a) {\n  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;\n  " + kernel.call +
      "((int)(thread % WIDTH), thread / WIDTH, (long long)gridDim.x * blockDim.x / WIDTH, a);\n}\n";
  std::string architecture = "--gpu-architecture=sm_" + std::to_string(attribute(device, CAPABILITY_MAJOR)) +
                             std::to_string(attribute(device, CAPABILITY_MINOR));
  std::string width = "-DWIDTH=" + std::to_string(kernel.width);
  const char *options[] = {architecture.c_str(), width.c_str(), "-DMM_GPU", "--std=c++17"};
  void *program = nullptr;
  TORCH_CHECK(lib.create(&program, text.c_str(), "kernels.cu", 0, nullptr, nullptr) == 0,
              "cannot begin a GPU program");
  int status = lib.compile(program, 4, options);
  if (status != 0) {
    size_t size = 0;
    lib.log_size(program, &size);
    std::string log(size, ' ');
    lib.log(program, log.data());
    lib.destroy(&program);
    TORCH_CHECK(false, "cannot compile ", kernel.call, " for ", architecture, ": ", log);
  }
  size_t size = 0;
  lib.code_size(program, &size);
  std::vector<char> code(size);
  lib.code(program, code.data());
  lib.destroy(&program);
  void *module = nullptr, *function = nullptr;
  // Loading is no part of what a graph repeats, so it may happen while this thread records one.
  int mode = RELAXED_CAPTURE;
  driver(lib.capture_mode(&mode), "set the capture mode");
  int loaded = lib.load_module(&module, code.data());
  driver(lib.capture_mode(&mode), "set the capture mode");
  driver(loaded, "load a GPU program");
  driver(lib.get_function(&function, module, "run"), "find a GPU program");
  return function;
}

} // namespace

void load(const char *nvrtc, const char *source) {
  static std::mutex lock;
  std::lock_guard<std::mutex> guard(lock);
  auto &lib = library();
  if (lib.handle != nullptr) return;
  void *handle = dlopen(nvrtc, RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(handle != nullptr, dlerror());
  lib.handle = handle;
  lib.source = source;
  try {
    find(lib.create, "nvrtcCreateProgram");
    find(lib.compile, "nvrtcCompileProgram");
    find(lib.log_size, "nvrtcGetProgramLogSize");
    find(lib.log, "nvrtcGetProgramLog");
    find(lib.code_size, "nvrtcGetCUBINSize");
    find(lib.code, "nvrtcGetCUBIN");
    find(lib.destroy, "nvrtcDestroyProgram");
    find(lib.load_module, "cuModuleLoadData");
    find(lib.get_function, "cuModuleGetFunction");
    find(lib.start, "cuLaunchKernel");
    find(lib.attribute, "cuDeviceGetAttribute");
    find(lib.uuid, "cuDeviceGetUuid_v2");
    find(lib.capture_mode, "cuThreadExchangeStreamCaptureMode");
    find(lib.error_text, "cuGetErrorString");
  } catch (...) {
    lib.handle = nullptr;
    throw;
  }
}

int64_t processors(const at::Tensor &on) { return attribute(on.device().index(), MULTIPROCESSORS); }

int64_t capability(const at::Tensor &on) { return attribute(on.device().index(), CAPABILITY_MAJOR); }

std::string uuid(int64_t cuda_index) {
  TORCH_CHECK(library().handle != nullptr, "the GPU's driver is not loaded");
  unsigned char bytes[16] = {};
  driver(library().uuid(bytes, static_cast<int>(cuda_index)), "ask the device who it is");
  std::string text;
  for (unsigned char byte : bytes)
    for (int digit : {byte >> 4, byte & 15}) text += "0123456789abcdef"[digit];
  return text;
}

void launch(const at::Tensor &on, const Kernel &kernel, void *arguments, int64_t teams) {
  static std::mutex lock;
  static std::map<std::tuple<c10::DeviceIndex, int, std::string>, void *> functions;
  c10::DeviceGuard device(on.device());
  c10::impl::VirtualGuardImpl gpu(on.device().type());
  void *function = nullptr;
  {
    std::lock_guard<std::mutex> guard(lock);
    auto [at, fresh] = functions.try_emplace({on.device().index(), kernel.width, kernel.call}, nullptr);
    if (at->second == nullptr) at->second = built(on.device().index(), kernel);
    function = at->second;
  }
  if (teams == 0) return;
  void *stream = gpu.getStreamNativeHandle(gpu.getStream(on.device()));
  int64_t a_block = THREADS / kernel.width, blocks = (teams + a_block - 1) / a_block;
  void *all[] = {arguments};
  driver(
      library().start(function, static_cast<unsigned>(blocks), 1, 1, THREADS, 1, 1, 0, stream, all, nullptr),
      "start a GPU program");
}

} // namespace cuda_ops

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

char *mm_cuda_capability(mm_tensor on, int64_t *major) {
  return mm_guard([&] { *major = mm_as_tensor(on).is_cuda() ? cuda_ops::capability(mm_as_tensor(on)) : 0; });
}

int mm_autocast_on_cuda(void) {
  if (!at::autocast::is_autocast_enabled(at::kCUDA)) return -1;
  return static_cast<int>(at::autocast::get_autocast_dtype(at::kCUDA));
}
}
