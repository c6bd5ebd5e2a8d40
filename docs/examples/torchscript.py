"""Reads a model that `minimind export torchscript` wrote, with PyTorch alone.

    python torchscript.py model.pt 8 182 162 289      # eight new tokens after the prompt 182 162 289
"""

import sys

import torch

module = torch.jit.load(sys.argv[1], map_location="cpu")
new_tokens, prompt = int(sys.argv[2]), [int(word) for word in sys.argv[3:]]
ids = torch.tensor([prompt])  # [B, T]

with torch.inference_mode():
    # The short way: the module's own loop; temperature 0 takes the likeliest token.
    answer = module.generate(ids, new_tokens, temperature=0.0)[0, len(prompt) :].tolist()

    # The long way, where each token is wanted as it comes: the caches [L, B, K, S, E] go in and come out.
    past_k = past_v = module.empty_cache(1)
    step, made = ids, []
    for _ in range(new_tokens):
        logits, past_k, past_v = module.forward_cached(step, past_k, past_v)  # [B, T, V]
        step = logits[:, -1].argmax(-1, keepdim=True)  # [B, 1]
        made.append(step.item())

assert made == answer, (made, answer)
print(*answer)
