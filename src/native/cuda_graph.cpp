// CUDA graphs: at::cuda::CUDAGraph, found by name in libtorch's CUDA half, which is loaded when it is asked
// for.
#include "guard.h"
#include "ffi.h"
#include "symbol.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>
#include <memory>

namespace {

// Other threads may use the GPU while one captures.
constexpr int THREAD_LOCAL_CAPTURE = 1;
// More than any version's object takes (2.11's: about 200 bytes).
constexpr size_t OBJECT = 4096;

struct Graph {
  // What was current when recording began, and is again when it ends.
  c10::Device device;
  c10::Stream stream;
  alignas(64) unsigned char object[OBJECT];

  Graph(c10::Device device, c10::Stream stream) : device(device), stream(stream) {
    mm_symbol<void (*)(void *, bool)>("_ZN2at4cuda9CUDAGraphC1Eb")(object, false);
  }
  ~Graph() { mm_symbol<void (*)(void *)>("_ZN2at4cuda9CUDAGraphD1Ev")(object); }
  c10::MempoolId_t pool() {
    return mm_symbol<c10::MempoolId_t (*)(void *)>("_ZN2at4cuda9CUDAGraph4poolEv")(object);
  }
  void begin(c10::MempoolId_t pool) {
    mm_symbol<void (*)(void *, c10::MempoolId_t, int)>(
        "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode")(object, pool,
                                                                                   THREAD_LOCAL_CAPTURE);
  }
  void end() { mm_symbol<void (*)(void *)>("_ZN2at4cuda9CUDAGraph11capture_endEv")(object); }
  void replay() { mm_symbol<void (*)(void *)>("_ZN2at4cuda9CUDAGraph6replayEv")(object); }
};

// The stream that this thread records on, always the same: libraries keep memory for each stream that they
// meet.
c10::Stream recording_stream(const c10::impl::VirtualGuardImpl &gpu, c10::Device device) {
  thread_local std::map<c10::DeviceIndex, c10::Stream> known;
  auto found = known.find(device.index());
  if (found == known.end())
    found = known.emplace(device.index(), gpu.getStreamFromGlobalPool(device, false)).first;
  return found->second;
}

c10::Device cuda(int64_t index) { return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index)); }

} // namespace

extern "C" {

char *mm_graph_begin(int64_t cuda_index, mm_graph like, mm_graph *out) {
  return mm_guard([&] {
    auto device = cuda(cuda_index);
    c10::impl::VirtualGuardImpl gpu(c10::kCUDA);
    gpu.synchronizeDevice(device.index());
    // CUDAGraph records on the current device's current stream, which may not be the default one.
    auto device_before = gpu.exchangeDevice(device);
    auto stream_before = gpu.exchangeStream(recording_stream(gpu, device));
    try {
      auto graph = std::make_unique<Graph>(device_before, stream_before);
      graph->begin(like ? static_cast<Graph *>(like)->pool() : c10::MempoolId_t{0, 0});
      *out = graph.release();
    } catch (...) {
      gpu.exchangeStream(stream_before);
      gpu.setDevice(device_before);
      throw;
    }
  });
}

char *mm_graph_end(mm_graph made, int keep) {
  return mm_guard([&] {
    auto *graph = static_cast<Graph *>(made);
    c10::impl::VirtualGuardImpl gpu(c10::kCUDA);
    struct Back {
      c10::impl::VirtualGuardImpl &gpu;
      Graph &graph;
      ~Back() {
        gpu.exchangeStream(graph.stream);
        gpu.uncheckedSetDevice(graph.device);
      }
    } back{gpu, *graph};
    try {
      graph->end();
    } catch (...) {
      // The fault inside has been reported already.
      if (keep) throw;
    }
  });
}

char *mm_graph_replay(mm_graph graph) {
  return mm_guard([&] { static_cast<Graph *>(graph)->replay(); });
}

void mm_graph_free(mm_graph graph) {
  char *message = mm_guard([&] { delete static_cast<Graph *>(graph); });
  mm_free_message(message);
}

char *mm_to_gpu(mm_tensor tensor, int64_t cuda_index, mm_tensor *out) {
  return mm_guard([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(mm_as_tensor(tensor).pin_memory().to(cuda(cuda_index), /*non_blocking=*/true));
  });
}

char *mm_cuda_empty_cache(int64_t cuda_index) {
  return mm_guard([&] {
    c10::DeviceGuard device(cuda(cuda_index));
    at::getDeviceAllocator(at::kCUDA)->emptyCache();
  });
}

char *mm_cuda_synchronize(int64_t cuda_index) {
  return mm_guard([&] {
    c10::impl::VirtualGuardImpl(c10::kCUDA).synchronizeDevice(static_cast<c10::DeviceIndex>(cuda_index));
  });
}
}
