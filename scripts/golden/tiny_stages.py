#!/usr/bin/env python3
"""Small fixtures of training stages, so that every clone has numbers to compare with.

    tiny_stages.py check FIXTURES   what the reference recorded in FIXTURES/<era>/dense against `stages.py`
    tiny_stages.py write FOLDER     FOLDER/<era>/tiny, for tests/parity_rl.rs and tests/parity_stages.rs

`check` is what `write` rests on: losses within 2e-5 of the reference's, 99.9% of the weights within 5e-5, none beyond 2e-3."""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

import stages
from stages import Model

RL = {"minimind3": ("grpo", "cispo", "ppo"), "minimind2": ("spo",)}
TUNED = {"minimind3": ("lora", "dpo", "distill"), "minimind2": ("lora", "dpo", "distill", "reason")}
SECOND = {"dpo": "dpo_reference_fp32.pth", "distill": "teacher_fp32.pth"}


def loaded(config, path):
    state = torch.load(path, weights_only=True)
    model = Model(config, score="value_head.weight" in state)
    missing, odd = model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    assert not odd and set(missing) <= {"lm_head.weight"}, (missing, odd)
    return model


def run(folder, era, method, facts):
    """Rows and final weights of one method, from the files that its fixture names."""
    read = lambda name: load_file(folder / name)
    if method in RL[era]:
        config = json.loads((folder / "rl_config.json").read_text()) | {"era": era}
        policy, reference = (loaded(config, folder / f"rl_{name}_fp32.pth") for name in ("policy", "reference"))
        rollouts = read(f"{method}_rollouts.safetensors")
        if method == "spo":
            return stages.spo(facts, rollouts, policy, reference)
        if method == "ppo":
            return stages.ppo(facts, rollouts, policy, reference, loaded(config, folder / "ppo_critic_fp32.pth"))
        return stages.grouped(facts, rollouts, policy, reference, method)
    config = facts["config"] if method == "reason" else json.loads((folder / "config.json").read_text())
    model = loaded(config | {"era": era}, folder / ("reason_weights_fp32.pth" if method == "reason" else "weights_fp32.pth"))
    batches = read(f"{method}_batches.safetensors")
    if method == "lora":
        return stages.lora(facts, batches, model, read("lora_init.safetensors"))
    if method == "reason":
        return stages.reason(facts, batches, model)
    second = loaded(config | {"era": era}, folder / SECOND[method])
    if method == "dpo":
        return stages.dpo(facts, batches, model, second, era)
    return stages.distill(facts, batches, model, second)


def check(fixtures):
    for era in RL:
        folder = fixtures / era / "dense"
        for method in RL[era] + TUNED[era]:
            facts = json.loads((folder / f"{method}.json").read_text())
            rows, final = run(folder, era, method, dict(facts))
            assert len(rows) == len(facts["steps"]), method
            far = max(abs(row[k] - want[k]) / (10 if method == "reason" else 1) for row, want in zip(rows, facts["steps"]) for k in row)
            if method == "lora":
                recorded, near, most = torch.load(folder / "lora.pth", weights_only=True), 2e-4, 2e-4
            else:
                recorded, near, most = load_file(folder / f"{method}_final.safetensors"), 5e-5, 2e-3
            gaps = torch.cat([(final[k].float() - v.float()).abs().flatten() for k, v in recorded.items()])
            share = (gaps > near).float().mean().item()
            print(f"{era} {method}: numbers differ by {far:.1e}, weights by {gaps.max():.1e}, {share:.5f} beyond {near:g}")
            assert far <= 2e-5 and share <= 1e-3 and gaps.max() <= most, method


def made(seed, config, score=False):
    """A model whose weights are large enough that a wrong formula shows."""
    torch.manual_seed(seed)
    model = Model(config, score)
    for name, p in model.named_parameters():
        p.data = torch.randn_like(p) * (0.3 if p.dim() > 1 else 0.1) + (1.0 if "norm" in name else 0.0)
    return model


def near(model, seed, scale):
    """The same model a little aside, as one that trained from there."""
    torch.manual_seed(seed)
    for p in model.parameters():
        p.data += torch.randn_like(p) * scale
    return model


def tokens(vocab, *shape):
    return torch.randint(3, vocab, shape)


def keep(model, path):
    state = dict(model.state_dict())
    del state["lm_head.weight"]  # the embedding's own storage
    torch.save(state, path)


def rollouts(config, policy, steps, rows, prompt, completion, old):
    found = {}
    for i in range(steps):
        ids = tokens(config["vocab_size"], rows, prompt + completion)
        for row in range(0, rows, 2):
            ids[row, prompt + 3 + row:] = 2  # from its end on; other rows have none
        found[f"output_ids_{i}"], found[f"completion_ids_{i}"] = ids, ids[:, prompt:].clone()
        if old:
            with torch.no_grad():
                found[f"old_per_token_logps_{i}"] = stages.completion_logps(policy, ids, completion, torch.ones_like(ids)).contiguous()
    return found


def rl_facts(method, rewards):
    facts = {"learning_rate": 0.001, "eos_token_id": 2, "pad_token_id": 0, "rewards": rewards}
    if method == "spo":
        tracker = {"rho_mode": "kl", "rho_const": 0.9, "D_half": 0.06, "clip_lower": 0.5, "clip_upper": 0.96}
        return facts | {"beta": 0.02, "tracker": tracker}
    if method == "ppo":
        return facts | {"critic_learning_rate": 0.001, "clip_epsilon": 0.2, "vf_coef": 0.5, "kl_coef": 0.02, "gamma": 0.97, "lam": 0.9,
                        "cliprange_value": 0.2, "ppo_update_iters": 2, "early_stop_kl": 1.0, "mini_batch_size": 4}
    return facts | {"num_generations": 4, "beta": 0.1, "epsilon": 0.2, "epsilon_high": 5.0}


def write(folder):
    for number, era in enumerate(RL):
        out = folder / era / "tiny"
        out.mkdir(parents=True, exist_ok=True)
        config = {"era": era, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 48,
                  "intermediate_size": 24, "max_position_embeddings": 512, "rms_norm_eps": 1e-5 if era == "minimind2" else 1e-6, "rope_theta": 1e6,
                  "use_moe": False, "head_dim": 8, "hidden_act": "silu", "dropout": 0.0, "tie_word_embeddings": True, "rope_scaling": None}
        for name in ("config.json", "rl_config.json"):
            (out / name).write_text(json.dumps(config, indent=1) + "\n")
        seed = 100 * number
        keep(made(seed + 1, config), out / "weights_fp32.pth")
        keep(made(seed + 2, config), out / "rl_policy_fp32.pth")
        keep(near(made(seed + 2, config), seed + 3, 0.02), out / "rl_reference_fp32.pth")
        if "ppo" in RL[era]:
            keep(near(made(seed + 2, config, True), seed + 4, 0.02), out / "ppo_critic_fp32.pth")
        older = near(made(seed + 2, config), seed + 5, 0.03)
        for method in RL[era]:
            torch.manual_seed(seed + 6)
            steps, rows = (3, 8) if method in ("grpo", "cispo") else (2, 4)
            rewards = (torch.randn(steps, rows) * 1.2 + 0.3).tolist()
            save_file(rollouts(config, older, steps, rows, 5, 10, method != "spo"), out / f"{method}_rollouts.safetensors")
            record(out, era, method, rl_facts(method, rewards))
        keep(near(made(seed + 1, config), seed + 7, 0.05), out / "dpo_reference_fp32.pth")
        keep(made(seed + 8, config), out / "teacher_fp32.pth")
        torch.manual_seed(seed + 9)
        pairs = {}
        for i in range(3):
            for side in ("chosen", "rejected"):
                ids, mask = tokens(48, 3, 13), torch.zeros(3, 12, dtype=torch.long)
                for row in range(3):
                    mask[row, 3 + row: 10 - i] = 1
                pairs |= {f"x_{side}_{i}": ids[:, :-1].clone(), f"y_{side}_{i}": ids[:, 1:].clone(), f"mask_{side}_{i}": mask}
        save_file(pairs, out / "dpo_batches.safetensors")
        record(out, era, "dpo", {"beta": 0.15, "learning_rate": 0.001, "schedule_total_steps": 3, "grad_clip": 1.0})
        ids = tokens(48, 4, 3, 14)
        labels = ids.clone()
        labels[..., :4], labels[:, 1, 11:] = -100, -100
        save_file({"input_ids": ids, "labels": labels}, out / "distill_batches.safetensors")
        record(out, era, "distill", {"grad_clip": 1.0, "alpha": 0.4, "temperature": 1.7, "learning_rate": 0.001, "schedule_total_steps": 4})
        if "reason" in TUNED[era]:
            keep(made(seed + 1, config), out / "reason_weights_fp32.pth")
            save_file({"input_ids": ids[:3].clone(), "labels": labels[:3].clone()}, out / "reason_batches.safetensors")
            record(out, era, "reason", {"grad_clip": 1.0, "learning_rate": 0.001, "schedule_total_steps": 3, "marker_token_ids": [5, 9, 9, 20], "marker_weight": 10,
                                        "config": config})
        adapted = [f"model.layers.0.self_attn.{n}_proj" for n in ("o", "q")]
        init = {f"{n}.lora.{side}.weight": torch.randn(2, 16) * 0.1 if side == "A" else torch.zeros(16, 2) for n in adapted for side in "AB"}
        save_file(init, out / "lora_init.safetensors")
        save_file({"input_ids": tokens(48, 4, 3, 10)}, out / "lora_batches.safetensors")
        record(out, era, "lora", {"rank": 2, "learning_rate": 0.01, "adapted": adapted})


def record(out, era, method, facts):
    """Runs a method on the files that lie in `out` and writes what it gives beside them."""
    rows, final = run(out, era, method, facts)
    (out / f"{method}.json").write_text(json.dumps(facts | {"steps": rows}) + "\n")
    final = {k: v.detach().clone() for k, v in final.items() if not k.endswith("lm_head.weight")}
    if method != "lora":
        return save_file(final, out / f"{method}_final.safetensors")
    torch.save({k: v.half() if era == "minimind3" else v for k, v in final.items()}, out / "lora.pth")
    config = json.loads((out / "config.json").read_text())
    model, ids = loaded(config, out / "weights_fp32.pth"), load_file(out / "lora_batches.safetensors")["input_ids"][0]
    with torch.no_grad():
        # Merged, the adapter computes what it computes beside the weights.
        for name in facts["adapted"]:
            model.get_submodule(name).weight += final[f"{name}.lora.B.weight"] @ final[f"{name}.lora.A.weight"]
        save_file({"input_ids": ids, "logits": model(ids)}, out / "lora_forward.safetensors")
    if era == "minimind3":
        weights = torch.load(out / "weights_fp32.pth", weights_only=True)
        merged = {k: v.half() for k, v in weights.items()}
        for name in facts["adapted"]:
            a, b = (final[f"{name}.lora.{side}.weight"].half() for side in "AB")
            merged[f"{name}.weight"] = merged[f"{name}.weight"] + b @ a
        merged["lm_head.weight"] = merged["model.embed_tokens.weight"]
        torch.save(merged, out / "lora_merged_fp16.pth")


if __name__ == "__main__":
    {"check": check, "write": write}[sys.argv[1]](pathlib.Path(sys.argv[2]))
