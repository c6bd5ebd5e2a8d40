"""PEFT's side: `make` writes a model and adapters trained a little with their logits; `check` loads a folder
that we wrote over that model and prints how far its logits are from the recorded ones."""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

mode, root = sys.argv[1], Path(sys.argv[2])
base = root / "base"
configs = {
    "plain": LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "o_proj"]),
    "scaled": LoraConfig(r=4, lora_alpha=10, target_modules=["q_proj", "o_proj", "v_proj"]),
    "rslora": LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["up_proj", "down_proj"]),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "o_proj"],
        rank_pattern={"o_proj": 2},
        alpha_pattern={"model.layers.1.self_attn.q_proj": 3},
    ),
}
if mode == "make":
    torch.manual_seed(1)
    config = Qwen3Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=61, max_position_embeddings=128, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(base)
    ids = torch.randint(0, 61, (2, 17))
    for name, lora in configs.items():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    parameter.normal_(0, 0.1)
            logits = model(ids).logits
        model.save_pretrained(root / name)
        save_file({"ids": ids, "logits": logits.contiguous()}, root / f"{name}.check.safetensors")
    print(len(configs), "adapters")
else:
    name, folder = sys.argv[3], sys.argv[4]
    check = load_file(root / f"{name}.check.safetensors")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()
    with torch.no_grad():
        far = (model(check["ids"]).logits - check["logits"]).abs().max().item()
    print(f"{name}: {far:.1e}")
    assert far < 2e-5, far
