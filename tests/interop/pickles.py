"""Files that `torch.load(weights_only=True)` reads, with the numbers it gives; and files that it refuses, with what they name.

usage: pickles.py OUT    writes OUT/{name}.pth, OUT/weights.safetensors (what each must give in float32, by file), OUT/cases.json"""
import argparse, collections, json, sys, types
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(sys.argv[1]); torch.manual_seed(0)
sd = {"model.embed_tokens.weight": torch.randn(7, 4), "model.layers.0.mlp.up_proj.weight": torch.randn(6, 4), "model.norm.weight": torch.randn(4)}
class Attributed(torch.nn.Parameter): pass
with_attributes = {k: torch.nn.Parameter(v) for k, v in sd.items()}
for v in with_attributes.values(): v.note = "kept"
plain_attributes = {k: v.clone() for k, v in sd.items()}
for v in plain_attributes.values(): v.note = [1, "a"]
whole = torch.randn(200); shared = {k: whole[i * 40:i * 40 + v.numel()].view(v.shape) for i, (k, v) in enumerate(sd.items())}
strided = {k: torch.randn(*(2 * n for n in v.shape))[tuple(slice(None, None, 2) for _ in v.shape)] for k, v in sd.items()}
turned = {k: torch.randn(*reversed(v.shape)).T for k, v in sd.items()}
ordered = collections.OrderedDict(sd); ordered._metadata = {"": {"version": 1}}
big = 2**200
F8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
beside = dict(a_set={1, "x"}, frozen=None, dtypes=[torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bits8, torch.qint8, torch.uint16, torch.int4], device=torch.device("cpu"), cuda=torch.device("cuda", 1),
              counter=collections.Counter("abca"), ordered=collections.OrderedDict([("k", 1)]), size=torch.Size([2, 3]), byte=b"\x00\xff", nothing=b"x", array=bytearray(b"ab"), empty=bytearray(),
              number=1 + 2j, layout=torch.strided, big=big, negative=-big, small=-1, long=2**40, nan=float("nan"), none=None, nested=[({"a": [True, False]},)], scheme=torch.per_tensor_affine,
              quantised=torch.quantize_per_tensor(torch.randn(3), 0.1, 2, torch.qint8), complex=torch.randn(3, dtype=torch.complex64), cdouble=torch.randn(2, dtype=torch.complex128),
              u16=torch.tensor([1, 65535], dtype=torch.uint16), u64=torch.tensor([1], dtype=torch.uint64), e8m0=torch.ones(2).to(torch.float8_e8m0fnu), scalar=torch.tensor(3.5), no_elements=torch.zeros(0, 3),
              boolean=torch.tensor([True, False]))
files = dict(plain=sd, ordered=ordered, parameter={k: torch.nn.Parameter(v) for k, v in sd.items()}, attributes=with_attributes, tensor_attributes=plain_attributes, shared=shared, strided=strided,
             turned=turned, half={k: v.half() for k, v in sd.items()}, bf16={k: v.bfloat16() for k, v in sd.items()}, double={k: v.double() for k, v in sd.items()},
             **{f: {k: v.to(getattr(torch, f)) for k, v in sd.items()} for f in F8},
             **{f"beside_{k}": {"model": sd, "epoch": 3, k: v} for k, v in beside.items()}, beside_all={"state_dict": sd, **beside},
             wrapped_state_dict={"state_dict": sd, "epoch": 1}, wrapped_model_state_dict={"model_state_dict": sd, "optimizer_state_dict": {}, "loss": 0.5}, wrapped_module={"module": sd, "global_steps": 3},
             wrapped_model_state={"model_state": sd}, wrapped_twice={"module": {"model": sd}}, wrapped_own={"net_g": sd, "epoch": 2},
             adam={"model": sd, "optimizer": {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.randn(3)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}},
             ddp={f"module.{k}": v for k, v in sd.items()}, compiled={f"_orig_mod.{k}": v for k, v in sd.items()}, both={f"_orig_mod.module.{k}": v for k, v in sd.items()},
             fsdp={f"_fsdp_wrapped_module.{k}".replace("layers.0.", "layers.0._checkpoint_wrapped_module."): v for k, v in sd.items()},
             compiled_block={k.replace("layers.0.", "layers.0._orig_mod."): v for k, v in sd.items()}, lightning={"state_dict": {f"model.{k}": v for k, v in sd.items()}, "epoch": 1},
             base_model={k.removeprefix("model."): v for k, v in sd.items()}, in_transformer={k.replace("model.", "transformer.", 1): v for k, v in sd.items()})
def norm(name):
    for part in ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"): name = ".".join(p for p in name.split(".") if p != part)
    return "model." + name.split("model.")[-1].removeprefix("transformer.").removeprefix("model.")
def weights(obj):
    if any(isinstance(k, str) and "." in k and isinstance(v, torch.Tensor) for k, v in obj.items()): return obj
    return next(w for w in (weights(v) for k, v in obj.items() if isinstance(v, dict) and "optim" not in k) if w)
names, expected = [], {}
for legacy in (False, True):
    for name, obj in files.items():
        file = OUT / f"{name}{'.legacy' if legacy else ''}.pth"
        try:
            torch.save(obj, file, _use_new_zipfile_serialization=not legacy); back = torch.load(file, weights_only=True)
        except Exception as e:
            assert legacy, (name, e)
            file.unlink(missing_ok=True); print("torch cannot:", file.name, str(e)[:80].replace("\n", " ")); continue
        names.append(file.name); expected.update({f"{file.name}/{norm(k)}": v.detach().float().contiguous().clone() for k, v in weights(back).items()})
save_file(expected, OUT / "weights.safetensors")
refused = {}
def refuse(name, obj, what, **how):
    torch.save(obj, OUT / f"{name}.pth", **how); refused[f"{name}.pth"] = what
    try: torch.load(OUT / f"{name}.pth", weights_only=True)
    except Exception: return
    refused[f"{name}.pth"] = [what, "torch reads it"]
refuse("namespace", {"model": sd, "args": argparse.Namespace(lr=1)}, "argparse.Namespace")
refuse("defaultdict", {"model": sd, "d": collections.defaultdict(list)}, "collections.defaultdict")
refuse("a_path", {"model": sd, "p": Path("x")}, "pathlib.PosixPath")
refuse("module", torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear")
refuse("legacy_namespace", {"model": sd, "args": argparse.Namespace(lr=1)}, "argparse.Namespace", _use_new_zipfile_serialization=False)
refuse("sparse", {"model.w": torch.eye(3).to_sparse()}, "a sparse tensor")
refuse("sparse_csr", {"model.w": torch.eye(3).to_sparse_csr()}, "a sparse tensor")
refuse("nested", {"model.w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, "a nested tensor")
refuse("meta", {"model.w": torch.empty(2, device="meta")}, "without numbers")
refuse("conjugate", {"model.w": torch.randn(2, dtype=torch.complex64).conj()}, "conjugate")
(OUT / "cases.json").write_text(json.dumps({"read": names, "refused": refused}))
print(len(names), "read,", len(refused), "refused")
