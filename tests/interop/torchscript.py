"""What PyTorch's users do with an exported module, against what the reference recorded.

    torchscript.py MODULE FROZEN FIXTURE
"""

import json
import sys
from pathlib import Path

import torch

path, frozen_path, fixture = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def safetensors(file):
    """The format by hand, so that torch is all this needs."""
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])
    kinds = {"F32": torch.float32, "I64": torch.int64}
    read = lambda info: torch.frombuffer(data, dtype=kinds[info["dtype"]], offset=info["data_offsets"][0], count=torch.Size(info["shape"]).numel())
    return {name: read(info).view(info["shape"]) for name, info in header.items() if name != "__metadata__"}


recorded = safetensors(fixture / "forward.safetensors")
facts = json.loads((fixture / "forward.json").read_text())
config = json.loads((fixture / "config.json").read_text())
ids, want = recorded["input_ids"], recorded["logits"]
prompt, completion = torch.tensor([facts["greedy_prompt"]]), facts["greedy_completion"]

extra = {"minimind.json": ""}
module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
assert json.loads(extra["minimind.json"])["config"]["hidden_size"] == config["hidden_size"]

# The state_dict is upstream's: names, order, numbers, ties.
upstream = torch.load(fixture / "weights_fp32.pth", map_location="cpu", weights_only=True)
state = module.state_dict()
assert list(state) == list(upstream), (list(state), list(upstream))
assert all(torch.equal(state[name], upstream[name]) for name in upstream)
assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
assert sum(p.numel() for p in module.parameters()) == facts["params"]


def far(logits):
    assert logits.shape == want.shape
    return (logits.float() - want).abs().max().item()


def cached(module, ids, cuts):
    past_k = past_v = module.empty_cache(ids.shape[0])
    made = []
    for piece in ids.split(cuts, dim=1):
        logits, past_k, past_v = module.forward_cached(piece, past_k, past_v)
        made.append(logits)
    shape = (config["num_hidden_layers"], ids.shape[0], config["num_key_value_heads"], ids.shape[1])
    assert past_k.shape[:4] == shape and past_v.shape == past_k.shape
    return torch.cat(made, 1)


def greedy(module):
    return module.generate(prompt, len(completion), temperature=0.0)[0, prompt.shape[1] :].tolist()


with torch.inference_mode():
    for _ in range(3):  # the third call runs what the first two taught the compiler
        assert far(module(ids)) <= 2e-5
        assert far(cached(module, ids, [7, 1, 11])) <= 2e-5
    rows = torch.cat([module(ids[i : i + 1]) for i in range(len(ids))])
    assert far(rows) <= 2e-5, "batch is free"
    assert (module(ids[:, :5]) - want[:, :5]).abs().max() <= 2e-5, "length is free"
    assert greedy(module) == completion

    # Sampling: a seed repeats, the cuts cut, frequencies are the probabilities.
    draw = lambda n, **how: module.generate(ids[:1, :4].repeat(n, 1), 1, **how)[:, -1]
    torch.manual_seed(5)
    first = module.generate(ids, 6, temperature=0.8, top_k=20, top_p=0.9)
    torch.manual_seed(5)
    assert torch.equal(first, module.generate(ids, 6, temperature=0.8, top_k=20, top_p=0.9))
    assert torch.equal(first[:, : ids.shape[1]], ids)
    best = want[0, 3].argmax().item()
    assert set(draw(50, top_k=1).tolist()) == {best} and set(draw(50, top_p=1e-6).tolist()) == {best}
    probs = (want[0, 3] / 0.05).softmax(-1)
    top = probs.topk(3)
    taken = draw(4000, temperature=0.05, top_k=3)
    assert set(taken.tolist()) <= set(top.indices.tolist())
    share = (taken == top.indices[0]).float().mean().item()
    assert abs(share - (top.values[0] / top.values.sum()).item()) < 0.04, share
    nucleus = probs.sort(descending=True)
    kept = nucleus.indices[: int((nucleus.values.cumsum(0) < 0.5).sum()) + 1].tolist()
    assert set(draw(4000, temperature=0.05, top_p=0.5).tolist()) == set(kept)

    module.double()
    assert module(ids).dtype == torch.float64 and far(module(ids)) <= 2e-5
    assert far(cached(module, ids, [7, 12])) <= 2e-5 and greedy(module) == completion
    module.float()
    assert far(module(ids)) <= 2e-5
    for kind, tolerance in [(torch.half, 5e-3), (torch.bfloat16, 4e-2)]:
        low = torch.jit.load(path).to(kind)
        assert low(ids).dtype == kind and cached(low, ids, [7, 12]).dtype == kind
        if not config["use_moe"]:  # a rounding may send a token to another expert
            assert far(low(ids)) <= tolerance * max(1.0, want.abs().max().item()), far(low(ids))
        low.generate(prompt, 4)
    if torch.cuda.is_available():
        there = torch.jit.load(path).to("cuda")
        assert far(there(ids.cuda()).cpu()) <= 1e-4
        there.generate(prompt.cuda(), 4)

# Training goes on from it; read anew, since what inference mode converted cannot be trained.
module = torch.jit.load(path)
for p in module.parameters():
    p.requires_grad_(True)
module(ids).square().mean().backward()
assert all(p.grad is not None or "experts" in name for name, p in module.named_parameters())

# Saved again by PyTorch, it is still the same.
for p in module.parameters():
    p.requires_grad_(False)
copy = str(Path(path).with_suffix(".copy.pt"))
torch.jit.save(module, copy)
assert far(torch.jit.load(copy)(ids)) <= 2e-5

frozen = torch.jit.load(frozen_path)
assert not list(frozen.parameters())
with torch.inference_mode():
    for _ in range(3):
        assert far(frozen(ids)) <= 2e-5 and far(cached(frozen, ids, [7, 12])) <= 2e-5
    assert greedy(frozen) == completion
print(f"{fixture.parent.name}/{fixture.name}: {far(module(ids)):.1e}")
