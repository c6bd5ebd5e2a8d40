"""What the benchmarks beside this file share: running a program, and a model of random weights."""

import json
import math
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def threaded(threads):
    return os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def run_threaded(command, threads):
    return run(command, env=threaded(threads))


def write_model(folder, args):
    """Random weights of a minimind3 of the wanted size, its config and a tokenizer of as many tokens."""
    import torch
    from safetensors.torch import save_file

    d, layers, vocab = args.hidden_size, args.num_hidden_layers, 6400
    e, inner = d // 8, math.ceil(math.pi * d / 64) * 64
    torch.manual_seed(42)
    linear = lambda out, into: torch.empty(out, into).uniform_(-1, 1) / math.sqrt(into)
    weights = {"model.embed_tokens.weight": linear(vocab, d), "model.norm.weight": torch.ones(d)}
    for i in range(layers):
        name = f"model.layers.{i}."
        shapes = {"self_attn.q_proj": (8 * e, d), "self_attn.k_proj": (4 * e, d), "self_attn.v_proj": (4 * e, d)}
        shapes |= {"self_attn.o_proj": (d, 8 * e), "mlp.gate_proj": (inner, d), "mlp.up_proj": (inner, d), "mlp.down_proj": (d, inner)}
        weights |= {f"{name}{part}.weight": linear(*shape) for part, shape in shapes.items()}
        weights |= {f"{name}self_attn.{n}_norm.weight": torch.ones(e) for n in "qk"}
        weights |= {f"{name}{n}_layernorm.weight": torch.ones(d) for n in ("input", "post_attention")}
    save_file(weights, folder / "model.safetensors")
    config = {"era": "minimind3", "hidden_size": d, "num_hidden_layers": layers, "vocab_size": vocab}
    (folder / "config.json").write_text(json.dumps(config))
    source = ROOT / "tests/fixtures/tokenizer"
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    taken = set(words.values()) | {t["id"] for t in tokenizer["added_tokens"]}
    for filler in (i for i in range(vocab) if i not in taken):
        words[f"filler{filler}"] = filler
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text((source / "tokenizer_config.json").read_text())


def release_binary():
    """Our program as users run it."""
    run(["cargo", "build", "--release", "--quiet"], cwd=ROOT)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/minimind"
