// Reads a model that `minimind export torchscript` wrote, with libtorch alone.
//
//   c++ -std=c++17 torchscript.cpp -o torchscript -I$LIBTORCH/include -I$LIBTORCH/include/torch/csrc/api/include \
//       -L$LIBTORCH/lib -ltorch_cpu -lc10 -Wl,-rpath,$LIBTORCH/lib
//   ./torchscript model.pt 8 182 162 289        # eight new tokens after the prompt 182 162 289
#include <torch/script.h>

#include <cstdlib>
#include <iostream>
#include <vector>

int main(int argc, char **argv) {
  if (argc < 4) {
    std::cerr << "usage: " << argv[0] << " MODEL.pt NEW_TOKENS ID [ID ...]\n";
    return 2;
  }
  torch::InferenceMode no_gradients;
  auto module = torch::jit::load(argv[1]);
  module.eval();
  const int64_t new_tokens = std::atoll(argv[2]);
  std::vector<int64_t> prompt;
  for (int i = 3; i < argc; ++i) prompt.push_back(std::atoll(argv[i]));
  auto ids = torch::tensor(prompt, torch::kInt64).unsqueeze(0); // [B, T]

  // The short way: the module's own loop; temperature 0 takes the likeliest token.
  auto all = module.get_method("generate")({ids, new_tokens, /*temperature=*/0.0}).toTensor(); // [B, T + N]

  // The long way, where each token is wanted as it comes: the caches [L, B, K, S, E] go in and come out.
  auto past_k = module.get_method("empty_cache")({ids.size(0)}).toTensor();
  auto past_v = past_k;
  auto step = ids;
  std::vector<int64_t> made;
  for (int64_t i = 0; i < new_tokens; ++i) {
    auto out = module.get_method("forward_cached")({step, past_k, past_v}).toTuple();
    auto logits = out->elements()[0].toTensor(); // [B, T, V]
    past_k = out->elements()[1].toTensor();
    past_v = out->elements()[2].toTensor();
    step = logits.select(1, -1).argmax(-1, /*keepdim=*/true); // [B, 1]
    made.push_back(step.item<int64_t>());
  }

  for (int64_t i = 0; i < new_tokens; ++i) {
    const auto id = all[0][ids.size(1) + i].item<int64_t>();
    if (id != made[i]) {
      std::cerr << "generate and forward_cached differ at token " << i << "\n";
      return 1;
    }
    std::cout << id << (i + 1 < new_tokens ? ' ' : '\n');
  }
}
