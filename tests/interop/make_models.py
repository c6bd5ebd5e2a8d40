"""Makes small random models of every family with the transformers library, each with ids and their logits."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

out = Path(sys.argv[1])
base = dict(
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_size=97,
    max_position_embeddings=256,
)
moe = dict(moe_intermediate_size=24, num_experts=5, num_experts_per_tok=2)
llama3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
models = {
    "llama": (LlamaForCausalLM, LlamaConfig(**base)),
    "llama-tied": (LlamaForCausalLM, LlamaConfig(**base, tie_word_embeddings=True, rms_norm_eps=1e-4)),
    "llama-biases": (LlamaForCausalLM, LlamaConfig(**base, attention_bias=True, mlp_bias=True)),
    "llama-wide-heads": (LlamaForCausalLM, LlamaConfig(**base, head_dim=12)),
    "llama-31": (LlamaForCausalLM, LlamaConfig(**base, rope_parameters=llama3)),
    "llama-linear": (
        LlamaForCausalLM,
        LlamaConfig(**base, rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}),
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**base, sliding_window=128)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**base)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**base, head_dim=20, rope_parameters={"rope_type": "default", "rope_theta": 2e5})),
    "qwen3-yarn": (Qwen3ForCausalLM, Qwen3Config(**base, head_dim=16, rope_parameters=yarn)),
    "qwen3-biases": (Qwen3ForCausalLM, Qwen3Config(**base, head_dim=8, attention_bias=True, tie_word_embeddings=True)),
    "qwen3-moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**base, **moe, head_dim=8, norm_topk_prob=True)),
    "qwen3-moe-raw": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**base, **moe, head_dim=8, norm_topk_prob=False)),
}
for number, (name, (cls, config)) in enumerate(models.items()):
    torch.manual_seed(number)
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start as ones and zeros: nothing would show
            parameter.add_(torch.randn_like(parameter) * 0.05)
    ids = torch.randint(0, 97, (2, 90))
    with torch.no_grad():
        logits = model(ids).logits
    folder = out / name
    shard = "30KB" if number % 2 else "5GB"
    model.save_pretrained(folder, max_shard_size=shard)
    save_file({"ids": ids, "logits": logits.contiguous()}, out / f"{name}.check.safetensors")
    # The same as PyTorch's pickles, whole and in shards: the layout of older folders.
    if name in ("llama-biases", "qwen3-moe"):
        older = out / f"{name}-bin"
        older.mkdir()
        (older / "config.json").write_text((folder / "config.json").read_text())
        state = {k: v.clone() for k, v in model.state_dict().items()}
        if number % 2:
            names = sorted(state)
            halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
            weight_map = {}
            for file, keys in halves.items():
                torch.save({k: state[k] for k in keys}, older / file)
                weight_map.update(dict.fromkeys(keys, file))
            import json

            (older / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        else:
            torch.save(state, older / "pytorch_model.bin")
        save_file({"ids": ids, "logits": logits.contiguous()}, out / f"{name}-bin.check.safetensors")
print(len(models), "models")
