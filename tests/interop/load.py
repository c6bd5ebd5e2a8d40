"""Reads what a run wrote as PyTorch's users would: weights_only, and the resume file into torch.optim.AdamW."""

import sys
from pathlib import Path

import torch

run = Path(sys.argv[1])
files = sorted(run.rglob("*.pth"))
assert len(files) >= 3, files
for file in files:
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    if "_resume." in file.name:  # the last resume point and the one before it
        assert {"model", "optimizer", "epoch", "step", "world_size", "wandb_id", "scaler"} <= loaded.keys(), loaded.keys()
        named = {k: torch.nn.Parameter(v) for k, v in loaded["model"].items() if k != "lm_head.weight"}
        assert all(v.dtype == torch.float32 for v in named.values())
        optimizer = torch.optim.AdamW(list(named.values()), lr=1e-3)
        optimizer.load_state_dict(loaded["optimizer"])
        for parameter in named.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        first = next(iter(named.values()))
        assert optimizer.state[first]["step"].item() > 1, "the moments came along"
    else:
        tied = loaded["lm_head.weight"].data_ptr() == loaded["model.embed_tokens.weight"].data_ptr()
        assert tied, "tied weights stay one storage"
        assert all(isinstance(v, torch.Tensor) for v in loaded.values())
print(f"{len(files)} files read")
