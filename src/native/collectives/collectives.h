// The C ABI of processes that train together; messages and tensors as in ffi.h.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
typedef void *mm_tensor;
typedef void *mm_group;
typedef void *mm_reducer;

// Meets the others at host:port (`serves`: this process keeps the meeting place) under a name of their own.
char *mm_group_new(const char *host, uint16_t port, int rank, int world, int serves, const char *name,
                   mm_group *out);
void mm_group_free(mm_group group);
// As NCCL counts (22809 is 2.28.9); 0 where libtorch's CUDA half is not loaded.
int mm_nccl_version();
// From now on what lies on this GPU is added up by NCCL. Called by all ranks, each with a GPU that no other
// has.
char *mm_group_use_gpu(mm_group group, int64_t cuda_index);
// Waits for what GPUs still add up and lets NCCL go; called by all ranks when all went well. Else `free` cuts
// it short.
char *mm_group_close(mm_group group);
enum mm_reduce { MM_SUM = 0, MM_MAX = 1, MM_MIN = 2 };
// In place over all ranks; `op` is one of mm_reduce.
char *mm_group_all_reduce(mm_group group, mm_tensor tensor, int op);
char *mm_group_broadcast(mm_group group, mm_tensor tensor, int root);

// Sums the gradients of n fp32 parameters over all ranks, in buckets. Between `prepare` and `finalize` there
// is one backward pass at most, and a bucket leaves while it goes on; without `prepare` all leave at
// `finalize`. The group must outlive it.
char *mm_reducer_new(mm_group group, mm_tensor *params, size_t n, int64_t bucket_bytes, mm_reducer *out);
void mm_reducer_free(mm_reducer reducer);
char *mm_reducer_prepare(mm_reducer reducer);
char *mm_reducer_finalize(mm_reducer reducer);
}
