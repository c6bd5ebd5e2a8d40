#!/usr/bin/env python3
"""Every training stage with plain PyTorch, from its formulas, for dense models. `tiny_stages.py` checks it against what the
reference recorded and makes small fixtures with it.

Formulas: MiniMind (github.com/jingyaogong/minimind) as its scripts compute them; nothing here is copied from them. fp32, CPU,
one thread. Shapes: R rows, T tokens, P of a prompt, C of a completion, V vocabulary, H hidden."""

import math

import torch
import torch.nn.functional as F

torch.set_num_threads(1)


class Norm(torch.nn.Module):
    def __init__(self, size, eps, era):
        super().__init__()
        self.weight, self.eps, self.era = torch.nn.Parameter(torch.ones(size)), eps, era

    def forward(self, x):
        normed = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.type_as(x) if self.era == "minimind2" else (self.weight * normed).type_as(x)


def rotate(x, theta):  # [R, heads, T, D]
    size = x.shape[-1]
    rates = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
    angles = torch.outer(torch.arange(x.shape[-2]).float(), rates)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    halves = torch.cat((-x[..., size // 2:], x[..., : size // 2]), -1)
    return x * cos + halves * sin


class Attention(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, heads, kv = c, c["num_attention_heads"], c["num_key_value_heads"]
        self.size = c.get("head_dim") or c["hidden_size"] // heads
        linear = lambda a, b: torch.nn.Linear(a, b, bias=False)
        self.q_proj, self.o_proj = linear(c["hidden_size"], heads * self.size), linear(heads * self.size, c["hidden_size"])
        self.k_proj, self.v_proj = linear(c["hidden_size"], kv * self.size), linear(c["hidden_size"], kv * self.size)
        if c["era"] == "minimind3":
            self.q_norm, self.k_norm = (Norm(self.size, c["rms_norm_eps"], c["era"]) for _ in range(2))

    def forward(self, x, seen):
        rows, length, _ = x.shape
        q, k, v = (p(x).view(rows, length, -1, self.size) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.c["era"] == "minimind3":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = rotate(q.transpose(1, 2), self.c["rope_theta"]), rotate(k.transpose(1, 2), self.c["rope_theta"]), v.transpose(1, 2)
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None, None, :].bool(), -1e9)
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, -1))


class Mlp(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        h, i = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = (torch.nn.Linear(*s, bias=False) for s in ((h, i), (h, i), (i, h)))

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), Mlp(c)
        self.input_layernorm, self.post_attention_layernorm = (Norm(c["hidden_size"], c["rms_norm_eps"], c["era"]) for _ in range(2))

    def forward(self, x, seen):
        x = x + self.self_attn(self.input_layernorm(x), seen)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(torch.nn.Module):
    """A dense causal language model; with `score` a critic, whose value head stands on a second final norm."""

    def __init__(self, c, score=False):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.embed_tokens = torch.nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = torch.nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = Norm(c["hidden_size"], c["rms_norm_eps"], c["era"])
        self.lm_head = torch.nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight
        if score:
            self.value_head = torch.nn.Linear(c["hidden_size"], 1)

    def hidden(self, ids, seen=None):
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, seen)
        return self.model.norm(x)

    def forward(self, ids, seen=None):  # [R, T] -> [R, T, V]
        return self.lm_head(self.hidden(ids, seen))

    def values(self, ids, seen):  # [R, T]
        return self.value_head(self.model.norm(self.hidden(ids, seen))).squeeze(-1)


def logps(logits, ids):
    """Log-probabilities of `ids` [R, T] by `logits` [R, T, V]."""
    return F.log_softmax(logits.float(), -1).gather(-1, ids[..., None]).squeeze(-1)


def until_end(ids, eos):
    """1 up to and with the first `eos` of each row, all of a row without one."""
    ends = (ids == eos).int()
    return ((ends.cumsum(-1) - ends) == 0).float()


def row_mean(x, mask):
    return ((x * mask).sum(1) / mask.sum(1)).mean()


def token_mean(x, mask):
    return (x * mask).sum() / mask.sum()


def k3(reference, lp):
    return torch.exp(reference - lp) - (reference - lp) - 1


class Optimizer:
    """AdamW with PyTorch's defaults behind a clip by the global norm; `cosine` steps a schedule down to a tenth."""

    def __init__(self, parameters, lr, cosine=None):
        self.parameters = list(parameters)
        self.adam = torch.optim.AdamW(self.parameters, lr=lr)
        self.cosine = cosine and torch.optim.lr_scheduler.CosineAnnealingLR(self.adam, T_max=cosine, eta_min=lr / 10)

    def step(self, loss, lr=None):
        if lr is not None:
            self.adam.param_groups[0]["lr"] = lr
        loss.backward()
        self.finish()

    def finish(self):
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if self.cosine:
            self.cosine.step()
        self.lr = self.adam.param_groups[0]["lr"]


def upstream_lr(lr, step, total):
    return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * step / total)))


def completion_logps(model, ids, width, seen):
    return logps(model(ids, seen)[:, :-1], ids[:, 1:])[:, -width:]


def grouped(facts, rollouts, policy, reference, method):
    steps = len(facts["rewards"])
    optimizer, rows = Optimizer(policy.parameters(), facts["learning_rate"], steps), []
    for i in range(steps):
        ids, answers = rollouts[f"output_ids_{i}"], rollouts[f"completion_ids_{i}"]
        old, reward = rollouts[f"old_per_token_logps_{i}"], torch.tensor(facts["rewards"][i])
        seen, mask = (ids != facts["pad_token_id"]).int(), until_end(answers, facts["eos_token_id"])
        lp = completion_logps(policy, ids, answers.shape[1], seen)
        with torch.no_grad():
            ref = completion_logps(reference, ids, answers.shape[1], seen)
        groups = reward.view(-1, facts["num_generations"])
        advantages = ((groups - groups.mean(1, True)) / (groups.std(1, unbiased=False, keepdim=True) + 1e-4)).view(-1, 1)
        ratio, far = torch.exp(lp - old), k3(ref, lp)
        if method == "grpo":
            bounded = ratio.clamp(1 - facts["epsilon"], 1 + facts["epsilon"])
            each = -(torch.min(ratio * advantages, bounded * advantages) - facts["beta"] * far)
        else:
            each = -(ratio.clamp(max=facts["epsilon_high"]).detach() * advantages * lp - facts["beta"] * far)
        loss = row_mean(each, mask)
        optimizer.step(loss)
        rows.append({"reward": reward.mean().item(), "kl_ref": token_mean(ref - lp, mask).item(), "advantages_std": advantages.std().item(),
                     "advantages_mean": advantages.mean().item(), "policy_loss": loss.item(), "avg_response_len": mask.sum(1).mean().item(),
                     "learning_rate": optimizer.lr})
    return rows, policy.state_dict()


def ppo(facts, rollouts, policy, reference, critic):
    passes, steps = facts["ppo_update_iters"], len(facts["rewards"])
    actor = Optimizer(policy.parameters(), facts["learning_rate"], passes * steps)
    judge = Optimizer(critic.parameters(), facts["critic_learning_rate"], passes * steps)
    rows = []
    for i in range(steps):
        ids, answers = rollouts[f"output_ids_{i}"], rollouts[f"completion_ids_{i}"]
        old, reward = rollouts[f"old_per_token_logps_{i}"], torch.tensor(facts["rewards"][i])
        seen, mask, width = (ids != facts["pad_token_id"]).int(), until_end(answers, facts["eos_token_id"]), answers.shape[1]
        with torch.no_grad():
            ref = completion_logps(reference, ids, width, seen)
            before = critic.values(ids, seen)[:, :-1][:, -width:] * mask
        given = torch.zeros_like(mask)
        given[torch.arange(len(ids)), mask.sum(1).long() - 1] = reward
        advantages, last = torch.zeros_like(mask), torch.zeros(len(ids))
        for t in reversed(range(width)):
            after = before[:, t + 1] if t + 1 < width else torch.zeros(len(ids))
            last = given[:, t] + facts["gamma"] * after - before[:, t] + facts["gamma"] * facts["lam"] * last
            advantages[:, t] = last
        returns = advantages + before
        mean = token_mean(advantages, mask)
        advantages = (advantages - mean) * torch.rsqrt(token_mean((advantages - mean) ** 2, mask) + 1e-8) * mask
        told = []
        for _ in range(passes):
            lp = completion_logps(policy, ids, width, seen)
            value = critic.values(ids, seen)[:, :-1][:, -width:]
            ratio, e = torch.exp(lp - old), facts["clip_epsilon"]
            far = token_mean(k3(ref, lp), mask)
            policy_loss = token_mean(torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - e, 1 + e)), mask)
            near = before + (value - before).clamp(-facts["cliprange_value"], facts["cliprange_value"])
            value_loss = 0.5 * token_mean(torch.max((value - returns) ** 2, (near - returns) ** 2), mask)
            loss = policy_loss + facts["kl_coef"] * far + facts["vf_coef"] * value_loss
            told.append((far, token_mean(0.5 * (lp - old) ** 2, mask), token_mean(((ratio - 1).abs() > e).float(), mask), value_loss))
            loss.backward()
            actor.finish(), judge.finish()
        kl_ref, approx_kl, clipfrac, critic_loss = (sum(x[j].item() for x in told) / passes for j in range(4))
        rows.append({"reward": reward.mean().item(), "kl_ref": kl_ref, "approx_kl": approx_kl, "clipfrac": clipfrac, "critic_loss": critic_loss,
                     "avg_response_len": mask.sum(1).mean().item(), "actor_lr": actor.lr, "critic_lr": judge.lr})
    final = {f"actor.{k}": v for k, v in policy.state_dict().items()}
    return rows, final | {f"critic.{k}": v for k, v in critic.state_dict().items()}


def spo(facts, rollouts, policy, reference):
    steps, tracker = len(facts["rewards"]), facts["tracker"]
    optimizer, rows = Optimizer(policy.parameters(), facts["learning_rate"], steps), []
    alpha = beta = 1.0
    earlier = None
    for i in range(steps):
        ids, answers = rollouts[f"output_ids_{i}"], rollouts[f"completion_ids_{i}"]
        reward, mask = torch.tensor(facts["rewards"][i]), until_end(answers, facts["eos_token_id"])
        lp = completion_logps(policy, ids, answers.shape[1], None)
        baseline = alpha / (alpha + beta)
        advantages = (reward - (6 * baseline - 3)).clamp(-5, 5)[:, None]
        far = k3(completion_logps(reference, ids, answers.shape[1], None).detach(), lp)
        loss = row_mean(-lp * advantages + facts["beta"] * far, mask)
        now = token_mean(lp, mask).item()
        rho = tracker["rho_const"] if earlier is None else min(max(2 ** (-abs(earlier - now) / tracker["D_half"]), tracker["clip_lower"]), tracker["clip_upper"])
        earlier, good = now, ((reward + 3) / 6).mean().item()
        alpha, beta = rho * alpha + good, rho * beta + 1 - good
        optimizer.step(loss)
        rows.append({"policy_loss": loss.item(), "aux_loss": 0.0, "reward": reward.mean().item(), "kl": token_mean(far, mask).item(), "rho": rho,
                     "baseline": baseline, "advantages_mean": advantages.mean().item(), "learning_rate": optimizer.lr})
    facts["final_tracker"] = {"alpha": alpha, "beta": beta}
    return rows, policy.state_dict()


def entropy(logits, labels):
    """Cross-entropy of each next label [R, T-1]; 0 where it is -100."""
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100, reduction="none").view(len(labels), -1)


def dpo(facts, batches, policy, reference, era):
    steps = sum(k.startswith("x_chosen_") for k in batches)
    optimizer, rows = Optimizer(policy.parameters(), facts["learning_rate"]), []
    for i in range(steps):
        x, y, mask = (torch.cat([batches[f"{n}_chosen_{i}"], batches[f"{n}_rejected_{i}"]]) for n in ("x", "y", "mask"))
        total = (lambda lp: (lp * mask).sum(1) / mask.sum(1)) if era == "minimind2" else (lambda lp: (lp * mask).sum(1))
        ours = total(logps(policy(x), y))
        with torch.no_grad():
            theirs = total(logps(reference(x), y))
        half = len(x) // 2
        loss = -F.logsigmoid(facts["beta"] * ((ours[:half] - ours[half:]) - (theirs[:half] - theirs[half:]))).mean()
        lr = upstream_lr(facts["learning_rate"], i + 1, facts["schedule_total_steps"])
        optimizer.step(loss, lr)
        rows.append({"loss": loss.item(), "dpo_loss": loss.item(), "aux_loss": 0.0, "learning_rate": lr})
    return rows, policy.state_dict()


def distill(facts, batches, student, teacher):
    optimizer, rows, t = Optimizer(student.parameters(), facts["learning_rate"]), [], facts["temperature"]
    for i in range(facts["schedule_total_steps"]):
        ids, labels = batches["input_ids"][i], batches["labels"][i]
        logits, kept = student(ids), labels[:, 1:] != -100
        with torch.no_grad():
            theirs = teacher(ids)[:, :-1][kept][:, : logits.shape[-1]]
        ce = entropy(logits, labels).sum() / kept.sum()
        kl = t * t * F.kl_div(F.log_softmax(logits[:, :-1][kept] / t, -1), F.softmax(theirs / t, -1), reduction="batchmean")
        loss = facts["alpha"] * ce + (1 - facts["alpha"]) * kl
        lr = upstream_lr(facts["learning_rate"], i + 1, facts["schedule_total_steps"])
        optimizer.step(loss, lr)
        rows.append({"loss": loss.item(), "ce_loss": ce.item(), "aux_loss": 0.0, "distill_loss": kl.item(), "learning_rate": lr})
    return rows, student.state_dict()


def reason(facts, batches, model):
    optimizer, rows, markers = Optimizer(model.parameters(), facts["learning_rate"]), [], torch.tensor(facts["marker_token_ids"])
    for i in range(facts["schedule_total_steps"]):
        ids, labels = batches["input_ids"][i], batches["labels"][i]
        weight = torch.where(torch.isin(labels[:, 1:], markers), float(facts["marker_weight"]), 1.0)
        loss = (entropy(model(ids), labels) * weight).sum() / (labels[:, 1:] != -100).sum()
        lr = upstream_lr(facts["learning_rate"], i + 1, facts["schedule_total_steps"])
        optimizer.step(loss, lr)
        rows.append({"loss": loss.item(), "logits_loss": loss.item(), "aux_loss": 0.0, "learning_rate": lr})
    return rows, model.state_dict()


def lora(facts, batches, model, init):
    pairs = {}
    for name in facts["adapted"]:
        layer = model.get_submodule(name)
        pair = [torch.nn.Parameter(init[f"{name}.lora.{side}.weight"].float().clone()) for side in "AB"]
        pairs[name] = pair
        layer.register_forward_hook(lambda _, x, y, pair=pair: y + x[0] @ pair[0].T @ pair[1].T)
    optimizer, rows = Optimizer([p for pair in pairs.values() for p in pair], facts["learning_rate"]), []
    for ids in batches["input_ids"]:
        labels = batches["labels"][len(rows)] if "labels" in batches else ids
        loss = entropy(model(ids), labels).mean()
        optimizer.step(loss)
        rows.append({"loss": loss.item(), "aux_loss": 0.0, "grad_norm": optimizer.norm})
    return rows, {f"{n}.lora.{side}.weight": p.detach() for n, pair in pairs.items() for side, p in zip("AB", pair)}
