"""Our GGUF beside what llama.cpp's own Python package makes of the same weights: names, shapes, bytes.

usage: gguf_reader.py FILE.gguf WEIGHTS.pth (the tensors of a plain dict, upstream's names)
"""

import sys

import gguf
import numpy as np
import torch

reader = gguf.GGUFReader(sys.argv[1])
weights = {k: v.float().numpy() for k, v in torch.load(sys.argv[2], weights_only=True).items()}


def field(key):
    return reader.get_field(key).contents()


arch = field("general.architecture")
heads, kv = field(f"{arch}.attention.head_count"), field(f"{arch}.attention.head_count_kv")
layers = field(f"{arch}.block_count")
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[{"llama": "LLAMA", "qwen3": "QWEN3", "qwen3moe": "QWEN3MOE"}[arch]], layers)


def interleave(w, n):
    """`LlamaModel.permute` of llama.cpp's converter."""
    return w.reshape(n, 2, w.shape[0] // n // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


want = {}
for name, w in weights.items():
    if name == "lm_head.weight":
        continue
    if ".mlp.experts." in name:
        layer, rest = name.split(".mlp.experts.")
        expert, part = rest.split(".", 1)
        theirs = names.get_name(f"{layer}.mlp.experts.{part}", try_suffixes=(".weight",))
        want.setdefault(theirs, {})[int(expert)] = w
        continue
    if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        w = interleave(w, heads if "q_proj" in name else kv)
    theirs = names.get_name(name, try_suffixes=(".weight",))
    assert theirs, f"{name} has no name in llama.cpp"
    want[theirs] = w
want = {k: np.stack([v[e] for e in sorted(v)]) if isinstance(v, dict) else v for k, v in want.items()}

found = {t.name: t for t in reader.tensors}
assert found.keys() == want.keys(), found.keys() ^ want.keys()
kinds = {}
for name, tensor in found.items():
    kind = gguf.GGMLQuantizationType(tensor.tensor_type)
    kinds[kind.name] = kinds.get(kind.name, 0) + 1
    assert tuple(reversed(tensor.shape.tolist())) == want[name].shape, name
    theirs = gguf.quants.quantize(np.ascontiguousarray(want[name]), kind)
    ours = np.asarray(tensor.data).view(np.uint8).reshape(-1)
    assert np.array_equal(ours, theirs.view(np.uint8).reshape(-1)), f"{name} ({kind.name}): bytes differ"
print(f"{arch}: {len(found)} tensors, the bytes of the gguf package ({kinds})")
