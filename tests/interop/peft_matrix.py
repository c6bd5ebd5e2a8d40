"""PEFT's side of the config matrix: for each entry a folder as `save_pretrained` writes it, with trained-looking numbers, and the logits and
greedy tokens of the model that `PeftModel.from_pretrained` makes of it, and of `merge_and_unload` where peft can merge.

usage: peft_matrix.py OUT    writes OUT/bases/{llama,tied,qwen2}, OUT/{entry}/, OUT/{entry}.check.safetensors, OUT/entries.json"""
import json, sys, warnings
from pathlib import Path

import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

warnings.filterwarnings("ignore"); torch.set_num_threads(1)
OUT = Path(sys.argv[1]).resolve(); torch.manual_seed(0)
size = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
            max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LlamaForCausalLM(LlamaConfig(**size, tie_word_embeddings=False)).save_pretrained(OUT / "bases/llama")
Qwen3ForCausalLM(Qwen3Config(**size, head_dim=8, tie_word_embeddings=True)).save_pretrained(OUT / "bases/tied")
qwen2 = Qwen2ForCausalLM(Qwen2Config(**size, tie_word_embeddings=False))
with torch.no_grad(): [b.normal_(0, 0.3) for n, b in qwen2.named_parameters() if n.endswith("bias")]
qwen2.save_pretrained(OUT / "bases/qwen2")

qv, all7 = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
E = {}
def entry(name, base="llama", **keys): E[name] = (base, keys)
entry("plain", target_modules=qv)
entry("rslora", target_modules=qv, use_rslora=True)
entry("dora", target_modules=qv, use_dora=True)
entry("dora_all", "qwen2", target_modules=all7, use_dora=True, use_rslora=True)
entry("dora_embedding", target_modules=["embed_tokens", "q_proj"], use_dora=True)
entry("pissa", target_modules=qv, init_lora_weights="pissa")
entry("pissa_all", target_modules=all7, init_lora_weights="pissa", r=6, use_rslora=True)
entry("pissa_dora", target_modules=qv, init_lora_weights="pissa", use_dora=True)
entry("olora", target_modules=all7, init_lora_weights="olora")
entry("gaussian", target_modules=qv, init_lora_weights="gaussian")
entry("orthogonal", target_modules=qv, init_lora_weights="orthogonal")
entry("eva", target_modules=qv, init_lora_weights="eva", eva_config=EvaConfig())
entry("mica", target_modules=qv, init_lora_weights="mica")
entry("no_init", target_modules=qv, init_lora_weights=False)
entry("alpha_regex", target_modules=qv, alpha_pattern={r"layers\.1\.self_attn\.v_proj": 64})
entry("alpha_group", target_modules=all7, alpha_pattern={r"(q|k)_proj": 3, r"layers\.[02]\..*": 32, "v_proj": 1})
entry("alpha_anchor", target_modules=qv, alpha_pattern={r"^model\.layers\.0\..*": 48, r"^q_proj": 99, "proj": 7})
entry("rank_regex", target_modules=qv, rank_pattern={r".*\.0\.self_attn\.q_proj": 2, r"self_attn\.v.*": 6}, alpha_pattern={"v_proj": 5})
entry("rank_lookahead", target_modules=qv, rank_pattern={r"(?!.*layers\.1).*q_proj": 3})
entry("regex_targets", target_modules=r".*\.(0|2)\.(self_attn|mlp)\.(q_proj|up_proj)")
entry("regex_lookahead", target_modules=r"^(?!.*lm_head).*_proj$")
entry("all_linear", target_modules="all-linear")
entry("exclude_list", target_modules=qv, exclude_modules=["layers.1.self_attn.q_proj"])
entry("exclude_regex", target_modules=all7, exclude_modules=r".*\.mlp\..*")
entry("layers", target_modules=qv, layers_to_transform=[0, 2])
entry("layer_pattern", target_modules=qv, layers_to_transform=1, layers_pattern="layers")
entry("head", target_modules=["q_proj", "lm_head"])
entry("head_tied", "tied", target_modules=["q_proj", "lm_head"])
entry("embedding", target_modules=["q_proj", "embed_tokens"])
entry("embedding_tied", "tied", target_modules=["q_proj", "embed_tokens"])
entry("embedding_tied_ensured", "tied", target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)
entry("both_tied", "tied", target_modules=["embed_tokens", "lm_head"])
entry("save_head", target_modules=qv, modules_to_save=["lm_head"])
entry("save_head_tied", "tied", target_modules=qv, modules_to_save=["lm_head"])
entry("save_embedding_tied", "tied", target_modules=qv, modules_to_save=["embed_tokens"])
entry("save_embedding_ensured", "tied", target_modules=qv, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
entry("save_both", target_modules=qv, modules_to_save=["embed_tokens", "lm_head"])
entry("save_norms", "tied", target_modules=qv, modules_to_save=["input_layernorm", "q_norm"])
entry("save_norm_short", target_modules=qv, modules_to_save=["norm"])
entry("save_linear", target_modules=qv, modules_to_save=["down_proj"])
entry("save_mlp", target_modules=all7, modules_to_save=["mlp"])
entry("bias_all", "qwen2", target_modules=["q_proj", "o_proj"], bias="all")
entry("bias_lora_only", "qwen2", target_modules=qv, bias="lora_only")
entry("bias_none_there", target_modules=qv, bias="all")
entry("lora_bias", "qwen2", target_modules=qv, lora_bias=True)
entry("lora_bias_new", target_modules=["q_proj", "o_proj", "up_proj"], lora_bias=True)
entry("tokens", target_modules=qv, trainable_token_indices=[5, 96, 1])
entry("tokens_tied", "tied", target_modules=qv, trainable_token_indices=[5, 96, 1])
entry("tokens_dict", target_modules=qv, trainable_token_indices={"embed_tokens": [3, 4], "lm_head": [7]})
entry("tokens_dict_tied_apart", "tied", target_modules=qv, trainable_token_indices={"embed_tokens": [3, 4], "lm_head": [7]})
entry("tokens_dict_tied_alike", "tied", target_modules=qv, trainable_token_indices={"embed_tokens": [3, 4], "lm_head": [3, 4]})
entry("fan_in", target_modules=qv, fan_in_fan_out=True)
entry("loftq_ignored", target_modules=qv, loftq_config={"loftq_bits": 4})
entry("dropout", target_modules=qv, lora_dropout=0.5)
# Not computed by minimind, so it must refuse them by the key.
REFUSED = dict(
    pissa_niter=dict(target_modules=qv, init_lora_weights="pissa_niter_4"),
    layer_replication=dict(target_modules=qv, layer_replication=[(0, 2), (1, 3)]),
    alora=dict(target_modules=qv, alora_invocation_tokens=[5, 6]),
)

ids = torch.randint(3, 97, (3, 19)); done = {}
def base(name): return AutoModelForCausalLM.from_pretrained(OUT / "bases" / name, dtype=torch.float32).eval()
for name, (of, keys) in list(E.items()) + [(n, ("llama", k)) for n, k in REFUSED.items()]:
    torch.manual_seed(len(name)); keys = {"r": 4, "lora_alpha": 10, **keys}
    model = get_peft_model(base(of), LoraConfig(task_type="CAUSAL_LM", **keys))
    with torch.no_grad():
        for n, w in model.named_parameters():
            if "lora_magnitude" in n: w.mul_(1 + 0.2 * torch.randn_like(w).abs())
            elif w.requires_grad: w.add_(torch.randn_like(w) * 0.15)
    model.save_pretrained(OUT / name)
    if name in REFUSED: continue
    model = PeftModel.from_pretrained(base(of), OUT / name).eval()
    with torch.no_grad():
        logits = model(ids).logits
        greedy = model.generate(ids[:1, :7], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 7:]
    save_file({"ids": ids, "logits": logits.contiguous(), "greedy": greedy.contiguous()}, OUT / f"{name}.check.safetensors")
    done[name] = of
# The same adapter as other versions and programs leave it.
import shutil
from safetensors.torch import load_file
plain = load_file(OUT / "plain/adapter_model.safetensors"); config = json.loads((OUT / "plain/adapter_config.json").read_text())
def variant(name, tensors, config, bin=False):
    p = OUT / name; p.mkdir(); (p / "adapter_config.json").write_text(json.dumps(config))
    torch.save(tensors, p / "adapter_model.bin") if bin else save_file(tensors, p / "adapter_model.safetensors")
    shutil.copy(OUT / "plain.check.safetensors", OUT / f"{name}.check.safetensors"); done[name] = "llama"
old = {k: config[k] for k in ("base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha", "lora_dropout", "modules_to_save",
                              "peft_type", "r", "target_modules", "task_type")}
variant("bin", plain, config, bin=True)
variant("old_config", plain, {**old, "enable_lora": None, "merge_weights": False}, bin=True)
variant("adapter_name", {k.replace(".weight", ".default.weight"): v for k, v in plain.items()}, config)
variant("unprefixed", {k.removeprefix("base_model.model."): v for k, v in plain.items()}, config)
variant("compiled", {k.replace("base_model.model.", "base_model.model._orig_mod."): v for k, v in plain.items()}, config)
(OUT / "entries.json").write_text(json.dumps({"computed": done, "refused": {"pissa_niter": "init_lora_weights", "layer_replication": "layer_replication", "alora": "alora_invocation_tokens"}}))
print(len(done), "entries")
