// Processes that train together: PyTorch's own c10d, a TCPStore to meet at, Gloo to add up what the host
// holds, NCCL what GPUs hold.
//
// Gloo's headers do not come with libtorch. Without them this file still builds, and opening a group says so.
#include "../guard.h"
#include "../ffi.h"
#include "nccl.h"
#include "collectives.h"

#include <stdexcept>
#include <string>

#ifdef MM_GLOO

#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace {

using at::Tensor;
using c10d::ProcessGroupGloo;

// How long a rank waits for another to say anything. One that died is noticed at once, by its closed
// connection; one that measures or prepares data alone may take its time; a machine that vanished without a
// word costs this much.
constexpr std::chrono::hours PATIENCE{6};
constexpr std::chrono::minutes MEETING{5};

struct Group {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<ProcessGroupGloo> gloo;
  c10::intrusive_ptr<c10d::Backend> nccl; // null: what GPUs hold goes through the host

  // A rank that is lost leaves sums on the GPU that would never end.
  ~Group() { give_up(); }

  void give_up() {
    if (!nccl) return;
    mm_free_message(mm_guard([&] { nccl->abort(); }));
    nccl.reset();
  }

  bool takes(const Tensor &tensor) const { return tensor.is_cpu() || (tensor.is_cuda() && nccl); }
  c10d::Backend &of(const Tensor &tensor) { return tensor.is_cuda() ? *nccl : *gloo; }
};

Group &as_group(mm_group group) { return *static_cast<Group *>(group); }

std::shared_ptr<gloo::transport::Device> interface(const std::string &host) {
  if (const char *name = std::getenv("GLOO_SOCKET_IFNAME"))
    return ProcessGroupGloo::createDeviceForInterface(name);
  if (host == "127.0.0.1" || host == "localhost")
    return ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
  return ProcessGroupGloo::createDefaultDevice();
}

c10d::ReduceOp operation(int op) {
  switch (op) {
  case MM_SUM: return c10d::ReduceOp::SUM;
  case MM_MAX: return c10d::ReduceOp::MAX;
  default: return c10d::ReduceOp::MIN;
  }
}

c10::intrusive_ptr<c10d::Work> begin_sum(Group &group, Tensor &tensor, int op = MM_SUM) {
  std::vector<Tensor> list{tensor};
  c10d::AllreduceOptions options;
  options.reduceOp = operation(op);
  return group.of(tensor).allreduce(list, options);
}

// Calls `body` with the tensor's numbers side by side where a sum can be taken: on its device, or on the
// host.
template <typename F> void in_place(Group &group, Tensor &tensor, F &&body) {
  at::NoGradGuard no_grad;
  Tensor whole = (group.takes(tensor) ? tensor : tensor.cpu()).contiguous();
  body(whole);
  if (!whole.is_same(tensor)) tensor.copy_(whole);
}

// Gradients in buckets, the last parameters first, as backward makes them. Armed, a bucket leaves as soon as
// its gradients are there and those before it have left (so that every rank sends them in the same order).
struct Reducer {
  struct Bucket {
    std::vector<size_t> members;
    Tensor flat; // where the gradients are, or on the host
    size_t missing = 0;
    bool sent = false;
    c10::intrusive_ptr<c10d::Work> work;
  };

  Group &group;
  std::vector<Tensor> params;
  std::vector<Bucket> buckets;
  std::vector<size_t> bucket_of;
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators;
  std::vector<uintptr_t> hooks;
  std::mutex mutex;
  bool armed = false, late = false;
  size_t next = 0;

  Reducer(Group &group_in, std::vector<Tensor> params_in, int64_t bucket_bytes)
      : group(group_in), params(std::move(params_in)), bucket_of(params.size()) {
    int64_t bytes = 0;
    for (size_t i = params.size(); i-- > 0;) {
      if (buckets.empty() || bytes >= bucket_bytes) {
        buckets.emplace_back();
        bytes = 0;
      }
      buckets.back().members.push_back(i);
      bucket_of[i] = buckets.size() - 1;
      bytes += static_cast<int64_t>(params[i].nbytes());
    }
    for (auto &bucket : buckets) {
      int64_t total = 0;
      for (size_t i : bucket.members) total += params[i].numel();
      const Tensor &first = params[bucket.members.front()];
      bucket.flat = at::empty(
          {total},
          at::TensorOptions().dtype(at::kFloat).device(group.takes(first) ? first.device() : at::kCPU));
    }
    for (size_t i = 0; i < params.size(); ++i) {
      auto node = torch::autograd::impl::grad_accumulator(params[i]);
      TORCH_CHECK(node, "a parameter does not want a gradient");
      auto hook = std::make_unique<torch::autograd::utils::LambdaPostHook>(
          [this, i](const torch::autograd::variable_list &outputs, const torch::autograd::variable_list &) {
            arrived(i);
            return outputs;
          });
      hooks.push_back(node->add_post_hook(std::move(hook)));
      accumulators.push_back(std::move(node));
    }
  }

  ~Reducer() {
    for (size_t i = 0; i < hooks.size(); ++i) accumulators[i]->del_post_hook(hooks[i]);
  }

  void arm() {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto &bucket : buckets) {
      bucket.missing = bucket.members.size();
      bucket.sent = false;
      bucket.work.reset();
    }
    next = 0;
    late = false;
    armed = true;
  }

  void arrived(size_t param) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!armed) return;
    Bucket &bucket = buckets[bucket_of[param]];
    if (bucket.sent) late = true;
    if (bucket.missing > 0) --bucket.missing;
    while (next < buckets.size() && buckets[next].missing == 0) send(buckets[next++]);
  }

  // Each member's part of a bucket, shaped like it.
  std::vector<Tensor> parts(const Bucket &bucket) {
    std::vector<Tensor> parts;
    int64_t start = 0;
    for (size_t i : bucket.members) {
      parts.push_back(bucket.flat.narrow(0, start, params[i].numel()).view(params[i].sizes()));
      start += params[i].numel();
    }
    return parts;
  }

  void send(Bucket &bucket) {
    at::NoGradGuard no_grad;
    auto all = parts(bucket);
    std::vector<Tensor> there, grads;
    for (size_t k = 0; k < all.size(); ++k) {
      const Tensor &grad = params[bucket.members[k]].grad();
      if (!grad.defined()) {
        all[k].zero_();
        continue;
      }
      there.push_back(all[k]);
      grads.push_back(grad);
    }
    // One launch on a GPU, so that the host is never held up by a full queue.
    if (!there.empty()) at::_foreach_copy_(there, grads);
    bucket.sent = true;
    bucket.work = begin_sum(group, bucket.flat);
  }

  void finish() {
    std::lock_guard<std::mutex> lock(mutex);
    at::NoGradGuard no_grad;
    TORCH_CHECK(!late, "a gradient changed after it had been sent to the other ranks");
    if (!armed) next = 0;
    armed = false;
    while (next < buckets.size()) send(buckets[next++]);
    for (auto &bucket : buckets) {
      bucket.work->wait();
      bucket.work.reset();
      auto all = parts(bucket);
      std::vector<Tensor> there, grads;
      for (size_t k = 0; k < all.size(); ++k) {
        const Tensor &param = params[bucket.members[k]];
        Tensor &grad = param.mutable_grad();
        if (!grad.defined()) {
          grad = all[k].to(param.device(), param.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
          continue;
        }
        there.push_back(all[k]);
        grads.push_back(grad);
      }
      if (!grads.empty()) at::_foreach_copy_(grads, there);
    }
  }
};

} // namespace

extern "C" {

char *mm_group_new(const char *host, uint16_t port, int rank, int world, int serves, const char *name,
                   mm_group *out) {
  return mm_guard([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves != 0;
    options.waitWorkers = false;
    options.timeout = MEETING;
    auto meeting = c10::make_intrusive<c10d::TCPStore>(host, options);
    auto store = c10::make_intrusive<c10d::PrefixStore>(name, meeting);
    auto settings = ProcessGroupGloo::Options::create(MEETING);
    settings->devices.push_back(interface(host));
    store->setTimeout(MEETING);
    auto gloo = c10::make_intrusive<ProcessGroupGloo>(store, rank, world, settings);
    settings->timeout = PATIENCE; // from now on, for all that is asked of it
    *out = new Group{store, gloo, {}};
  });
}

int mm_nccl_version() { return collectives::nccl_version(); }

char *mm_group_use_gpu(mm_group group, int64_t cuda_index) {
  return mm_guard([&] {
    Group &all = as_group(group);
    c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(cuda_index));
    auto store = c10::make_intrusive<c10d::PrefixStore>("nccl", all.store);
    int world = all.gloo->getSize();
    all.nccl = collectives::nccl(store, all.gloo->getRank(), world, PATIENCE);
    try {
      // Ranks connect with their first sum, which also shows whether this works.
      c10::DeviceGuard guard(device);
      at::NoGradGuard no_grad;
      Tensor ranks = at::ones({1}, at::TensorOptions().dtype(at::kFloat).device(device));
      begin_sum(all, ranks)->wait();
      TORCH_CHECK(ranks.item<float>() == static_cast<float>(world), "a sum over the GPUs is wrong");
    } catch (...) {
      all.give_up();
      throw;
    }
  });
}

char *mm_group_close(mm_group group) {
  return mm_guard([&] {
    Group &all = as_group(group);
    if (!all.nccl) return;
    all.nccl->shutdown();
    all.nccl.reset();
  });
}

void mm_group_free(mm_group group) { delete static_cast<Group *>(group); }

char *mm_group_all_reduce(mm_group group, mm_tensor tensor, int op) {
  return mm_guard([&] {
    Group &all = as_group(group);
    in_place(all, mm_as_tensor(tensor), [&](Tensor &whole) { begin_sum(all, whole, op)->wait(); });
  });
}

char *mm_group_broadcast(mm_group group, mm_tensor tensor, int root) {
  return mm_guard([&] {
    Group &all = as_group(group);
    in_place(all, mm_as_tensor(tensor), [&](Tensor &whole) {
      std::vector<Tensor> list{whole};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      all.of(whole).broadcast(list, options)->wait();
    });
  });
}

char *mm_reducer_new(mm_group group, mm_tensor *params, size_t n, int64_t bucket_bytes, mm_reducer *out) {
  return mm_guard([&] {
    std::vector<Tensor> list;
    for (size_t i = 0; i < n; ++i) list.push_back(mm_as_tensor(params[i]));
    *out = new Reducer(as_group(group), std::move(list), bucket_bytes);
  });
}

void mm_reducer_free(mm_reducer reducer) { delete static_cast<Reducer *>(reducer); }

char *mm_reducer_prepare(mm_reducer reducer) {
  return mm_guard([&] { static_cast<Reducer *>(reducer)->arm(); });
}

char *mm_reducer_finalize(mm_reducer reducer) {
  return mm_guard([&] { static_cast<Reducer *>(reducer)->finish(); });
}
}

#else

namespace {
char *absent() {
  return mm_guard([] { throw std::runtime_error("this program was built without gloo's headers"); });
}
} // namespace

extern "C" {
char *mm_group_new(const char *, uint16_t, int, int, int, const char *, mm_group *) { return absent(); }
void mm_group_free(mm_group) {}
int mm_nccl_version() { return 0; }
char *mm_group_use_gpu(mm_group, int64_t) { return absent(); }
char *mm_group_close(mm_group) { return absent(); }
char *mm_group_all_reduce(mm_group, mm_tensor, int) { return absent(); }
char *mm_group_broadcast(mm_group, mm_tensor, int) { return absent(); }
char *mm_reducer_new(mm_group, mm_tensor *, size_t, int64_t, mm_reducer *) { return absent(); }
void mm_reducer_free(mm_reducer) {}
char *mm_reducer_prepare(mm_reducer) { return absent(); }
char *mm_reducer_finalize(mm_reducer) { return absent(); }
}

#endif
