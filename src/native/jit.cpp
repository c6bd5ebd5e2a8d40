// TorchScript modules built from source text with registered parameters, behind the C ABI of ffi.h.
#include "guard.h"
#include "ffi.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/export.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

struct Script {
  std::shared_ptr<torch::jit::CompilationUnit> unit = std::make_shared<torch::jit::CompilationUnit>();
  std::vector<torch::jit::Module> modules;
};

Script &script(mm_script s) { return *static_cast<Script *>(s); }
torch::jit::Module &module(mm_script s, int64_t i) { return script(s).modules.at(static_cast<size_t>(i)); }

} // namespace

extern "C" {

char *mm_script_new(mm_script *out) {
  return mm_guard([&] { *out = new Script(); });
}

void mm_script_free(mm_script s) { delete static_cast<Script *>(s); }

char *mm_script_module(mm_script s, const char *class_name, int64_t like, int64_t *out) {
  return mm_guard([&] {
    auto &all = script(s);
    if (like < 0) {
      all.modules.emplace_back(c10::QualifiedName(class_name), all.unit);
    } else {
      auto type = module(s, like).type();
      all.modules.emplace_back(all.unit, type);
    }
    // Python's wrapper asks for it.
    all.modules.back().register_attribute("training", c10::BoolType::get(), false);
    *out = static_cast<int64_t>(all.modules.size()) - 1;
  });
}

char *mm_script_parameter(mm_script s, int64_t i, const char *name, mm_tensor value) {
  return mm_guard([&] { module(s, i).register_parameter(name, mm_as_tensor(value), /*is_buffer=*/false); });
}

char *mm_script_child(mm_script s, int64_t i, const char *name, int64_t child) {
  return mm_guard([&] { module(s, i).register_module(name, module(s, child)); });
}

char *mm_script_define(mm_script s, int64_t i, const char *source) {
  return mm_guard([&] { module(s, i).define(source); });
}

char *mm_script_save(mm_script s, int64_t i, const char *path, const char *const *keep, size_t n_keep,
                     const char *extra_name, const char *extra_text) {
  return mm_guard([&] {
    torch::jit::ExtraFilesMap extra{{extra_name, extra_text}};
    auto whole = module(s, i);
    if (n_keep > 0) whole = torch::jit::freeze(whole, std::vector<std::string>(keep, keep + n_keep));
    // libtorch's writer ends the process when a write fails (its destructor throws), so it learns that all
    // went well, and the fault is raised once it is done. The archive's root is then not named after the
    // file.
    std::FILE *out = std::fopen(path, "wb");
    TORCH_CHECK(out != nullptr, std::strerror(errno));
    int fault = 0;
    auto write = [&](const void *bytes, size_t n) {
      if (fault == 0 && std::fwrite(bytes, 1, n, out) != n) fault = errno;
      return n;
    };
    try {
      torch::jit::ExportModule(whole, write, extra);
    } catch (...) {
      std::fclose(out);
      throw;
    }
    if (std::fclose(out) != 0 && fault == 0) fault = errno;
    TORCH_CHECK(fault == 0, std::strerror(fault));
  });
}
}
