// Functions of libtorch's CUDA half, which is loaded when it is asked for and not linked.
#pragma once
#include <c10/util/Exception.h>

#include <dlfcn.h>

template <typename F> F mm_symbol(const char *name) {
  auto found = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  TORCH_CHECK(found != nullptr, "this libtorch has no ", name);
  return found;
}
