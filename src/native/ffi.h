// The C ABI between Rust and libtorch's C++ for what tch does not bind; collectives/collectives.h and
// cpu_decoder/abi.h are the rest of it. build.rs makes Rust's declarations from these headers: a function is
// declared here alone.
//
// Every function returns NULL when done, else a message that mm_free_message releases.
// `Tensor` is the object behind tch's C_tensor (an at::Tensor); the caller keeps what it passes.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
typedef void *mm_tensor;

void mm_free_message(char *message);

// AdamW in place over n parameters; `steps` are fp32 scalars, raised by one each.
char *mm_adamw(mm_tensor *params, mm_tensor *grads, mm_tensor *exp_avgs, mm_tensor *exp_avg_sqs,
               mm_tensor *steps, size_t n, double lr, double beta1, double beta2, double weight_decay,
               double eps);

// All tensors at once, which on a GPU is a few launches: their 2-norm together, a factor in place, zeros in
// place.
char *mm_global_norm(mm_tensor *tensors, size_t n, mm_tensor *out);
char *mm_scale_all(mm_tensor *tensors, size_t n, double factor);
char *mm_zero_all(mm_tensor *tensors, size_t n);
// Leaves parameters without gradients (`grad` is undefined).
char *mm_clear_grads(mm_tensor *params, size_t n);

// Random state of the CPU's (cuda_index < 0) or a GPU's generator, as a new byte tensor.
char *mm_rng_get(int64_t cuda_index, mm_tensor *out);
char *mm_rng_set(int64_t cuda_index, mm_tensor state);

// The most bytes that tensors on a GPU took since the last reset; and the reset.
char *mm_cuda_peak_memory(int64_t cuda_index, int64_t *bytes);
char *mm_cuda_reset_peak_memory(int64_t cuda_index);

// Autocast for this thread: device 0 = CPU, 1 = CUDA; dtype is libtorch's scalar type number.
char *mm_autocast(int device, int enabled, int dtype);

// TorchScript modules from source text. A builder holds modules by number, in the order they were made.
typedef void *mm_script;
char *mm_script_new(mm_script *out);
void mm_script_free(mm_script script);
// A module of a new class, or (like >= 0) of the class of an earlier one.
char *mm_script_module(mm_script script, const char *class_name, int64_t like, int64_t *out);
char *mm_script_parameter(mm_script script, int64_t module, const char *name, mm_tensor value);
char *mm_script_child(mm_script script, int64_t module, const char *name, int64_t child);
// Methods, as TorchScript source; those of children must be there already.
char *mm_script_define(mm_script script, int64_t module, const char *source);
// Writes a module; `keep` are the methods beside forward that freezing leaves (n_keep 0: not frozen).
char *mm_script_save(mm_script script, int64_t module, const char *path, const char *const *keep,
                     size_t n_keep, const char *extra_name, const char *extra_text);

// Fused training ops in fp32 on the CPU, each a node of autograd's graph (cpu_ops/). `y` and `w` may be NULL.
char *mm_cpu_add_rms_norm(mm_tensor x, mm_tensor y, mm_tensor w, double eps, mm_tensor *sum, mm_tensor *out);
char *mm_cpu_norm_rope(mm_tensor x, mm_tensor w, mm_tensor cos, mm_tensor sin, int64_t start, double eps,
                       mm_tensor *out);
// x W_i^T for n weights that share their input; and the gated feed-forward.
char *mm_cpu_linears(mm_tensor x, mm_tensor *weights, size_t n, mm_tensor *out);
char *mm_cpu_swiglu(mm_tensor x, mm_tensor gate, mm_tensor up, mm_tensor down, mm_tensor *out);
// Causal attention of n sequences that lie one after the other; lengths add up to B T.
char *mm_cpu_attend(mm_tensor q, mm_tensor k, mm_tensor v, const int64_t *lengths, size_t n, mm_tensor *made);
// Sorted tokens through their experts; weights: gate, up, down of each in turn, n in all.
char *mm_cpu_experts(mm_tensor x, mm_tensor share, mm_tensor chosen, mm_tensor *weights, size_t n,
                     mm_tensor *made);
// Whether autocast is on for this thread's work on the CPU.
int mm_autocast_on_cpu(void);

// Fused ops on a CUDA device once the compiler is loaded, and on the CPU for tests (cuda_ops/). `dtype` is
// libtorch's scalar type number; NULL where an input may be left out. Sizes: length, start, heads, kv heads,
// head dim.
char *mm_cuda_load(const char *nvrtc, const char *source);
char *mm_cuda_rms_norm(mm_tensor x, mm_tensor y, mm_tensor w, double eps, int dtype, mm_tensor *sum,
                       mm_tensor *out);
char *mm_cuda_linear(mm_tensor x, mm_tensor w, mm_tensor *out);
char *mm_cuda_qkv_rope(mm_tensor x, mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor wq, mm_tensor wk,
                       mm_tensor cos, mm_tensor sin, const int64_t *sizes, double eps, mm_tensor *out);
char *mm_cuda_swiglu(mm_tensor x, mm_tensor gate, mm_tensor up, mm_tensor down, mm_tensor *out);
// The loss summed over rows; with `scaled` also `scale` (a number on the device) times it, with a graph.
char *mm_cuda_cross_entropy(mm_tensor h, mm_tensor w, mm_tensor tokens, mm_tensor weights, mm_tensor scale,
                            int dtype, mm_tensor *scaled, mm_tensor *loss, mm_tensor *each);
// Without a graph, for decoding: joined heads -> q, with k and v into caches [rows, K, S, E] from the place
// `start` on the device; attention of one new token a row over a cache up to its place `last`; silu(gate) *
// up.
char *mm_cuda_rope_into_cache(mm_tensor x, mm_tensor wq, mm_tensor wk, mm_tensor cos, mm_tensor sin,
                              mm_tensor k, mm_tensor v, mm_tensor start, const int64_t *sizes, double eps,
                              mm_tensor *out);
char *mm_cuda_attend_cached(mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor last, mm_tensor *out);
char *mm_cuda_silu_mul(mm_tensor x, mm_tensor *out);
// norm(x + y) m^T for up to 4 rows, the result in `dtype`; y may be NULL; with `gated`, m is gate and up
// joined.
char *mm_cuda_norm_linear(mm_tensor x, mm_tensor y, mm_tensor w, mm_tensor m, double eps, int gated,
                          int dtype, mm_tensor *sum, mm_tensor *out);
// x w^T for up to 4 rows, the result in `dtype`.
char *mm_cuda_linear_few(mm_tensor x, mm_tensor w, int dtype, mm_tensor *out);
// Causal attention of each document to itself, [N, H, E]; document i reaches from ends[i] to ends[i + 1];
// bf16 on a GPU.
char *mm_cuda_attend_documents(mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor ends, int64_t longest,
                               mm_tensor *out);
// What differs from GPU to GPU: 32 hexadecimal digits and a zero; the major number of the compute capability;
// autocast's scalar type for this thread, -1 where it is off.
char *mm_gpu_uuid(int64_t cuda_index, char *text);
char *mm_cuda_capability(mm_tensor on, int64_t *major);
int mm_autocast_on_cuda(void);

// CUDA graphs (cuda_graph.cpp): the work of a GPU between begin and end, captured, and replayed as a
// whole. `end` without `keep` gives up. With `like` the graph shares that one's memory pool: the two must not
// run at a time.
typedef void *mm_graph;
char *mm_graph_begin(int64_t cuda_index, mm_graph like, mm_graph *out);
char *mm_graph_end(mm_graph graph, int keep);
char *mm_graph_replay(mm_graph graph);
void mm_graph_free(mm_graph graph);

// A copy of a tensor of the host on a GPU by pinned memory; nothing waits for it.
char *mm_to_gpu(mm_tensor tensor, int64_t cuda_index, mm_tensor *out);
// Gives cached memory back to the GPU; waits for all work of a GPU.
char *mm_cuda_empty_cache(int64_t cuda_index);
char *mm_cuda_synchronize(int64_t cuda_index);

// The caching allocator for CPU tensors (allocator.cpp): from now on it serves; gives what it caches back to
// the system.
void mm_cpu_cache_enable(void);
void mm_cpu_cache_empty(void);
// The most bytes that were held since the last reset, less the most of them that tensors used; and the reset.
uint64_t mm_cpu_cache_peak_overhead(void);
void mm_cpu_cache_reset_peak(void);

// Whether threads that wait for each other sleep soon (wait_policy.cpp): turns that on or off for teams of
// `threads`; returns whether it is as asked.
int32_t mm_set_short_waits(int32_t on, int32_t threads);
}
