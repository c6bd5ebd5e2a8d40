// Sums between GPUs without the host: PyTorch's own c10d::ProcessGroupNCCL.
#pragma once
#include <chrono>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace collectives {

// The version that libtorch's CUDA half was loaded with, as NCCL counts (22809 is 2.28.9); 0 where there is
// none.
int nccl_version();

// Not connected yet: the first sum does that. `patience` is how long it may take.
c10::intrusive_ptr<c10d::Backend> nccl(const c10::intrusive_ptr<c10d::Store> &store, int rank, int world,
                                       std::chrono::milliseconds patience);

} // namespace collectives
