// The one guard between C++ and Rust: an exception becomes a message, and nothing is thrown across.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstring>
#include <exception>

template <typename F> char *mm_guard(F &&body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception &e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}

inline at::Tensor &mm_as_tensor(void *tensor) { return *static_cast<at::Tensor *>(tensor); }
