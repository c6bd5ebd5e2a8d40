// The whole C ABI between Rust and libtorch's C++ for what tch does not bind.
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
char *mm_fused_adamw(mm_tensor *params, mm_tensor *grads, mm_tensor *exp_avgs, mm_tensor *exp_avg_sqs,
                     mm_tensor *steps, size_t n, double lr, double beta1, double beta2, double weight_decay,
                     double eps);

// All tensors at once, which on a GPU is a few launches: their 2-norm together, a factor in place, zeros in place.
char *mm_global_norm(mm_tensor *tensors, size_t n, mm_tensor *out);
char *mm_scale(mm_tensor *tensors, size_t n, double factor);
char *mm_zero(mm_tensor *tensors, size_t n);
// Leaves parameters without gradients.
char *mm_forget_grads(mm_tensor *params, size_t n);

// Random state of the CPU's (cuda_index < 0) or a GPU's generator, as a new byte tensor.
char *mm_rng_get(int64_t cuda_index, mm_tensor *out);
char *mm_rng_set(int64_t cuda_index, mm_tensor state);

// Bytes that tensors on a GPU took at most since the last restart; and the restart.
char *mm_device_peak(int64_t cuda_index, int64_t *bytes);
char *mm_device_peak_restart(int64_t cuda_index);

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
char *mm_script_save(mm_script script, int64_t module, const char *path, const char *const *keep, size_t n_keep,
                     const char *extra_name, const char *extra_text);

// Fused training ops, fp32 on the CPU, each a node of autograd's graph (cpu_ops/norm_rope.cpp); `y` and `w` may be NULL.
char *mm_add_rms_norm(mm_tensor x, mm_tensor y, mm_tensor w, double eps, mm_tensor *sum, mm_tensor *out);
char *mm_norm_rope(mm_tensor x, mm_tensor w, mm_tensor cos, mm_tensor sin, int64_t start, double eps, mm_tensor *out);
// x W_i^T for n weights that share their input; and the gated feed-forward (cpu_ops/linear.cpp).
char *mm_joined(mm_tensor x, mm_tensor *weights, size_t n, mm_tensor *out);
char *mm_gated_mlp(mm_tensor x, mm_tensor gate, mm_tensor up, mm_tensor down, mm_tensor *out);
// Causal attention of n sequences that lie one after the other; lengths add up to B T (cpu_ops/attention.cpp).
char *mm_attend(mm_tensor q, mm_tensor k, mm_tensor v, const int64_t *lengths, size_t n, mm_tensor *made);
// Sorted tokens through their experts; weights: gate, up, down of each in turn, n in all (cpu_ops/experts.cpp).
char *mm_experts(mm_tensor x, mm_tensor share, mm_tensor chosen, mm_tensor *weights, size_t n, mm_tensor *made);
// Mixed-precision ops (cuda_ops/training.cpp, cuda_ops/decode.cpp), on a CUDA device once the compiler is loaded, and on the CPU. `type` is libtorch's
// scalar type number; NULL where an input may be left out. Sizes: length, start, heads, kv heads, head dim.
char *mm_cuda_load(const char *nvrtc, const char *source);
// 32 hexadecimal digits and a zero: what tells this GPU from every other.
char *mm_gpu_uuid(int64_t cuda_index, char *text);
char *mm_cuda_norm(mm_tensor x, mm_tensor y, mm_tensor w, double eps, int type, mm_tensor *sum, mm_tensor *out);
char *mm_cuda_linear(mm_tensor x, mm_tensor w, mm_tensor *out);
char *mm_cuda_heads(mm_tensor x, mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor wq, mm_tensor wk, mm_tensor cos, mm_tensor sin,
                     const int64_t *sizes, double eps, mm_tensor *out);
char *mm_cuda_mlp(mm_tensor x, mm_tensor gate, mm_tensor up, mm_tensor down, mm_tensor *out);
// The loss summed over rows; with `scaled` also `scale` (a number on the device) times it, with a graph.
char *mm_cuda_entropy(mm_tensor h, mm_tensor w, mm_tensor tokens, mm_tensor weights, mm_tensor scale, int type, mm_tensor *scaled,
                       mm_tensor *loss);
// Parts of them without a graph, for decoding: joined heads -> q, with k and v into caches [rows, K, S, E] from the place
// `start` on the device; attention of one new token a row over a cache up to its place `last`; the gate.
char *mm_cuda_turn(mm_tensor x, mm_tensor wq, mm_tensor wk, mm_tensor cos, mm_tensor sin, mm_tensor k, mm_tensor v, mm_tensor start,
                    const int64_t *sizes, double eps, mm_tensor *out);
char *mm_cuda_attend(mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor last, mm_tensor *out);
char *mm_cuda_gate(mm_tensor x, mm_tensor *out);
// norm(x + y) m^T for up to 4 rows, the result in `type`; y may be NULL; with `gated`, m is gate and up joined.
char *mm_cuda_normed(mm_tensor x, mm_tensor y, mm_tensor w, mm_tensor m, double eps, int gated, int type, mm_tensor *sum, mm_tensor *out);
// x w^T for up to 4 rows, the result in `type`.
char *mm_cuda_few(mm_tensor x, mm_tensor w, int type, mm_tensor *out);
// Causal attention of each document to itself, [N, H, E]; document i reaches from ends[i] to ends[i + 1]; bf16 on a GPU.
char *mm_cuda_documents(mm_tensor q, mm_tensor k, mm_tensor v, mm_tensor ends, int64_t longest, mm_tensor *out);
// What a GPU is told between begin and end, to be told again at once (cuda_graph.cpp). `end` without `keep` gives up.
typedef void *mm_graph;
// With `like` it takes its temporary memory from where that one does: the two must not be repeated at a time.
char *mm_graph_begin(int64_t cuda_index, mm_graph like, mm_graph *out);
char *mm_graph_end(mm_graph graph, int keep);
char *mm_graph_replay(mm_graph graph);
void mm_graph_free(mm_graph graph);
// A copy of a tensor of the host on a GPU by pinned memory; nothing waits for it.
char *mm_to_gpu(mm_tensor tensor, int64_t cuda_index, mm_tensor *out);
// From now on large blocks that tensors on the CPU give back are kept for later ones (allocator.cpp).
void mm_memory_keep(void);
// Gives what is kept back to the system.
void mm_memory_release(void);
// Starts over what the next tells: the most bytes that were held, less the most of them that tensors used.
void mm_memory_restart_peak(void);
uint64_t mm_memory_surplus(void);
// Gives memory that libtorch keeps for later tensors of a GPU back to it.
char *mm_device_release(int64_t cuda_index);
// Waits for all that a GPU was told.
char *mm_device_wait(int64_t cuda_index);
// The major number of the compute capability of a tensor's device.
char *mm_cuda_capability(mm_tensor on, int64_t *major);
// Autocast's type for this thread's work on a CUDA device; -1 where it is off.
int mm_autocast_on_cuda(void);
// Whether autocast is on for this thread's work on the CPU.
int mm_autocast_on_cpu(void);
}
