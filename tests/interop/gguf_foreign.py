"""GGUF files as other programs write them, made with the gguf package, and what they must give.

usage: gguf_foreign.py OUT    writes
OUT/blocks.gguf and OUT/blocks.safetensors     random blocks of every quantised type, and what gguf's dequantize makes of them
OUT/{name}.gguf and OUT/{name}.check.safetensors   Llama models as llama.cpp's converter lays them out, and the logits of transformers"""
import sys
from pathlib import Path

import gguf, numpy as np, torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

OUT = Path(sys.argv[1]); rng = np.random.default_rng(0); torch.manual_seed(0); torch.set_num_threads(1)
HALVES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.IQ4_NL: [0], Q.IQ4_XS: [0]}


def head(path, arch="llama", hidden=64, layers=2, heads=4, kv=2, inner=96, **more):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers); w.add_context_length(256); w.add_embedding_length(hidden); w.add_feed_forward_length(inner); w.add_head_count(heads); w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(more.get("eps", 1e-6)); w.add_rope_freq_base(more.get("theta", 1e4)); return w


def finish(w): w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def random_blocks(kind, blocks):
    raw = rng.integers(0, 256, (blocks, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    for at in HALVES[kind]: raw[:, at:at + 2] = rng.normal(0, 0.2, (blocks, 1)).astype(np.float16).view(np.uint8)
    return raw


w, want = head(OUT / "blocks.gguf"), {}
w.add_tensor("token_embd.weight", np.zeros((8, 64), np.float32))
for kind in HALVES:
    rows = random_blocks(kind, 12).reshape(4, -1)
    w.add_tensor(f"a.{kind.name}", rows, raw_dtype=kind); want[f"a.{kind.name}"] = torch.tensor(gguf.dequantize(rows, kind).copy())
finish(w); save_file(want, OUT / "blocks.safetensors")
w = head(OUT / "unread.gguf"); w.add_tensor("token_embd.weight", rng.integers(0, 256, (4, 66), dtype=np.uint8), raw_dtype=Q.IQ2_XXS); finish(w)

permute = lambda t, n: t.reshape(n, 2, t.shape[0] // n // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)  # convert_hf_to_gguf.py
BLOCK = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def tensors(model, turn):
    c = model.config
    for name, t in model.state_dict().items():
        t = t.float().numpy()
        if name in WHOLE: yield WHOLE[name], t; continue
        _, _, layer, rest = name.split(".", 3); part, kind = rest.rsplit(".", 1)
        if turn and part.endswith("q_proj"): t = permute(t, c.num_attention_heads)
        if turn and part.endswith("k_proj"): t = permute(t, c.num_key_value_heads)
        yield f"blk.{layer}.{BLOCK[part]}.{kind}", t


def rope_factors(c, rope):  # generate_extra_tensors of LlamaModel in convert_hf_to_gguf.py
    dim = c.hidden_size // c.num_attention_heads; base = c.rope_parameters["rope_theta"]
    freqs = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)); out = []
    low, high, old, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"], rope["factor"]
    for freq in freqs:
        wavelen = 2 * np.pi / freq.item()
        if wavelen < old / high: out.append(1)
        elif wavelen > old / low: out.append(factor)
        else: smooth = (old / wavelen - low) / (high - low); out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def put(w, name, t, quantise):
    if quantise and t.ndim == 2: w.add_tensor(name, gguf.quantize(t, quantise), raw_dtype=quantise)
    else: w.add_tensor(name, t)


def write(name, model, arch="llama", rope=None, quantise=None, parts=1):
    c = model.config; all = list(tensors(model, arch == "llama"))
    if rope: all.insert(0, ("rope_freqs.weight", rope_factors(c, rope)))
    size = dict(arch=arch, hidden=c.hidden_size, layers=c.num_hidden_layers, heads=c.num_attention_heads, kv=c.num_key_value_heads, inner=c.intermediate_size, eps=c.rms_norm_eps, theta=c.rope_parameters["rope_theta"])
    for part in range(parts):
        file = OUT / (f"{name}.gguf" if parts == 1 else f"{name}-{part + 1:05}-of-{parts:05}.gguf")
        w = head(file, **size) if part == 0 else gguf.GGUFWriter(file, arch)
        if parts > 1: w.add_uint16("split.no", part); w.add_uint16("split.count", parts); w.add_int32("split.tensors.count", len(all))
        for n, t in all[part::parts]: put(w, n, t, quantise)
        finish(w)
    if quantise:
        for n, t in model.state_dict().items():
            if t.ndim == 2: t.copy_(torch.tensor(gguf.dequantize(gguf.quantize(t.numpy(), quantise), quantise)))
    ids = torch.randint(0, c.vocab_size, (2, 90))
    with torch.no_grad(): save_file({"ids": ids, "logits": model(ids).logits.contiguous()}, OUT / f"{name}.check.safetensors")


small = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=256)
def llama(**more): return LlamaForCausalLM(LlamaConfig(**{**small, **more})).eval()
rope = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
odd = {**rope, "factor": 3.0, "low_freq_factor": 1.5, "high_freq_factor": 6.0, "original_max_position_embeddings": 50}
write("llama31", llama(rope_parameters={**rope, "rope_theta": 5e5}), rope=rope)
write("llama31_tied", llama(rope_parameters={**rope, "rope_theta": 1e4}, tie_word_embeddings=True), rope=rope)
write("llama_odd_factors", llama(rope_parameters={**odd, "rope_theta": 1e4}), rope=odd)
write("split", llama(), parts=3)
write("qwen2", Qwen2ForCausalLM(Qwen2Config(**small)).eval(), arch="qwen2")
for kind in (Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0): write(kind.name.lower(), llama(), quantise=kind)
llama(rope_parameters={**rope, "rope_theta": 5e5}).save_pretrained(OUT / "folder")
print("written")
