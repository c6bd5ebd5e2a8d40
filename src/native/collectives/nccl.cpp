// ProcessGroupNCCL's header wants those of CUDA and NCCL, which a machine that builds need not have. Its
// constructor is found by name in libtorch's CUDA half, once that is loaded; all else is virtual in
// c10d::Backend.
#include "nccl.h"
#include "../symbol.h"

#include <c10/util/env.h>

#include <new>

namespace collectives {
namespace {

// More than any version's objects take (2.11's: 1112 and 248 bytes).
constexpr size_t OBJECT = 8192;

using Options = c10d::Backend::Options;
using MakeOptions = void (*)(void *, bool);
using MakeGroup = void (*)(void *, c10::intrusive_ptr<c10d::Store>, int, int, c10::intrusive_ptr<Options>);

// c10d::ProcessGroupNCCL::Options::Options(bool)
constexpr const char *OPTIONS = "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb";
// c10d::ProcessGroupNCCL::ProcessGroupNCCL(intrusive_ptr<Store>, int, int, intrusive_ptr<Options>)
constexpr const char *GROUP =
    "_ZN4c10d16ProcessGroupNCCLC1EN3c1013intrusive_ptrINS_5StoreENS1_6detail34intrusive_target_"
    "default_null_typeIS3_EEEEiiNS2_INS0_7OptionsENS5_IS8_EEEE";

// An object of a class that is known by its base alone; the base's virtual destructor frees it.
template <typename Base, typename F> c10::intrusive_ptr<Base> made(F &&construct) {
  void *memory = ::operator new(OBJECT);
  try {
    construct(memory);
  } catch (...) {
    ::operator delete(memory);
    throw;
  }
  return c10::intrusive_ptr<Base>::unsafe_steal_from_new(static_cast<Base *>(memory));
}

} // namespace

int nccl_version() {
  auto ask = reinterpret_cast<int (*)(int *)>(dlsym(RTLD_DEFAULT, "ncclGetVersion"));
  int version = 0;
  bool whole = dlsym(RTLD_DEFAULT, OPTIONS) && dlsym(RTLD_DEFAULT, GROUP);
  return whole && ask && ask(&version) == 0 ? version : 0;
}

c10::intrusive_ptr<c10d::Backend> nccl(const c10::intrusive_ptr<c10d::Store> &store, int rank, int world,
                                       std::chrono::milliseconds patience) {
  // A fault of NCCL ends the process at once. Else what was under way would be written to a file first, and a
  // minute waited.
  c10::utils::set_env("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", /*overwrite=*/false);
  c10::utils::set_env("TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "0", /*overwrite=*/false);
  auto make_options = mm_symbol<MakeOptions>(OPTIONS);
  auto make_group = mm_symbol<MakeGroup>(GROUP);
  auto options = made<Options>([&](void *at) { make_options(at, /*is_high_priority_stream=*/false); });
  options->timeout = patience;
  return made<c10d::Backend>([&](void *at) { make_group(at, store, rank, world, options); });
}

} // namespace collectives
