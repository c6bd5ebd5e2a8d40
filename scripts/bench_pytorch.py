"""A plain PyTorch loop of the usual kind, to measure ours against: one module a layer, keys and values concatenated
each token, log-probabilities of all tokens of the vocabulary. Random weights; speed alone is looked at.

    python scripts/bench_pytorch.py --hidden-size 512 --threads 2 --json
"""

import argparse
import copy
import json
import math
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class FeedForward(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """A loop over the experts, each on the tokens that chose it."""

    def __init__(self, width, inner, count, per_token):
        super().__init__()
        self.per_token = per_token
        self.gate = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(FeedForward(width, inner) for _ in range(count))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        scores = F.softmax(self.gate(flat), -1)
        share, chosen = scores.topk(self.per_token, -1)
        share = share / (share.sum(-1, keepdim=True) + 1e-20)
        made = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == number)
            if rows.numel():
                made.index_add_(0, rows, expert(flat[rows]) * share[rows, slot, None])
        load = F.one_hot(chosen, len(self.experts)).float().mean((0, 1))
        self.balance = 5e-4 * len(self.experts) * (load * scores.mean(0)).sum()
        return made.view_as(x)


class Block(nn.Module):
    def __init__(self, width, heads, kv_heads, inner, qk_norm=True, experts=0, per_token=1):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.q = nn.Linear(width, heads * self.size, bias=False)
        self.k = nn.Linear(width, kv_heads * self.size, bias=False)
        self.v = nn.Linear(width, kv_heads * self.size, bias=False)
        self.o = nn.Linear(heads * self.size, width, bias=False)
        self.q_norm, self.k_norm = (Norm(self.size), Norm(self.size)) if qk_norm else (nn.Identity(), nn.Identity())
        self.norm_in, self.norm_post = Norm(width), Norm(width)
        self.mlp = Experts(width, inner, experts, per_token) if experts else FeedForward(width, inner)

    def forward(self, x, cos, sin, past):
        b, t, _ = x.shape
        h = self.norm_in(x)
        q = self.q_norm(self.q(h).view(b, t, self.heads, self.size))
        k = self.k_norm(self.k(h).view(b, t, self.kv_heads, self.size))
        v = self.v(h).view(b, t, self.kv_heads, self.size)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        kept = (k, v)
        times = self.heads // self.kv_heads
        q, k, v = q.transpose(1, 2), k.repeat_interleave(times, 2).transpose(1, 2), v.repeat_interleave(times, 2).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        return x + self.mlp(self.norm_post(x)), kept


class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        width = args.hidden_size
        inner = args.inner or math.ceil(math.pi * width / 64) * 64
        self.embed = nn.Embedding(args.vocab_size, width)
        more = (not args.no_qk_norm, args.experts, args.experts_per_token)
        self.layers = nn.ModuleList(Block(width, 8, args.kv_heads, inner, *more) for _ in range(args.num_hidden_layers))
        self.norm = Norm(width)
        size = width // 8
        angles = torch.outer(torch.arange(4096).float(), 1.0 / 1e6 ** (torch.arange(0, size, 2).float() / size))
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos())
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin())

    def forward(self, ids, past):
        start = 0 if past is None else past[0][0].shape[1]
        t = ids.shape[1]
        cos, sin = self.cos[start : start + t, None], self.sin[start : start + t, None]
        x, kept = self.embed(ids), []
        for i, layer in enumerate(self.layers):
            x, k = layer(x, cos, sin, None if past is None else past[i])
            kept.append(k)
        return self.norm(x) @ self.embed.weight.T, kept

    def balance(self):
        """The experts' loss of the last pass; 0 without experts."""
        return sum(layer.mlp.balance for layer in self.layers if isinstance(layer.mlp, Experts))


@torch.no_grad()
def rollout(model, prompt, rows, new_tokens, temperature):
    ids, past = prompt.repeat(rows, 1), None
    step, logprobs = ids, []
    for _ in range(new_tokens):
        logits, past = model(step, past)
        logits = logits[:, -1]
        if temperature > 0:
            step = torch.multinomial(torch.softmax(logits / temperature, -1), 1)
            logprobs.append(torch.log_softmax(logits, -1).gather(1, step))
        else:
            step = logits.argmax(-1, keepdim=True)
        ids = torch.cat((ids, step), dim=1)
    return ids, logprobs


@torch.no_grad()
def timed(body, repeat):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def initialise(model):
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)


def train(model, args):
    """Whole steps: forward over all logits, loss, backward, clipping, AdamW; in turns with plain matrix products."""
    initialise(model)
    device = torch.device(args.device)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    ids = torch.randint(0, args.vocab_size, (args.batch_size, args.seq_len), device=device)
    square = [torch.randn(1536, 1536, device=device) for _ in range(2)]
    forward = torch.compile(model) if args.compile else model

    def settle():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def product():
        start = time.perf_counter()
        square[0] @ square[1]
        settle()
        return time.perf_counter() - start

    def step():
        start, before = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            logits, _ = forward(ids, None)
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, args.vocab_size), ids[:, 1:].reshape(-1), ignore_index=-100)
        loss = loss + model.balance()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        settle()
        return time.perf_counter() - start, time.process_time() - before

    product(), step(), step()
    steps, products = [], []
    for _ in range(args.repeat):
        products += [product() for _ in range(3)]
        steps.append(step())
    seconds, used = (statistics.median(values) for values in zip(*steps))
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"what": "train", "rows": args.batch_size, "tokens_per_s": ids.numel() / seconds,
            "processor_seconds": used, "peak_memory_bytes": peak,
            "flops": 2 * 1536**3 / statistics.median(products)}


def grpo(model, args):
    """Whole steps as they are usually written: rollout, all log-probabilities of policy and reference, one update."""
    initialise(model)
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-7)
    group, new = args.completions // args.batch_size, args.new_tokens

    def logprobs(model, ids):
        logits = model(ids, None)[0][:, :-1]
        return torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None]).squeeze(2)[:, -new:]

    def step():
        start = time.perf_counter()
        prompts = torch.randint(0, args.vocab_size, (args.batch_size, args.prompt_tokens))
        ids, _ = rollout(model, prompts.repeat_interleave(group, 0), 1, new, 1.0)
        rolled = time.perf_counter() - start
        rewards = torch.tensor([len(set(row[-new:].tolist())) / new for row in ids]).view(args.batch_size, group)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).view(-1, 1)
        now = logprobs(model, ids)
        with torch.no_grad():
            held = logprobs(reference, ids)
        kl = torch.exp(held - now) - (held - now) - 1
        loss = (-torch.exp(now - now.detach()) * advantages + 0.1 * kl).mean()
        loss = loss + model.balance()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - start, rolled

    step()
    whole, rolled = (statistics.median(times) for times in zip(*(step() for _ in range(args.repeat))))
    return {"what": "grpo", "rows": args.completions, "step_s": whole, "rollout_tokens_per_s": args.completions * new / rolled}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--what", choices=["decode", "train", "grpo"], default="decode")
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--num-hidden-layers", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=6400)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--inner", type=int, default=None, help="width inside the feed-forward; minimind3's rule without it")
    parser.add_argument("--no-qk-norm", action="store_true")
    parser.add_argument("--experts", type=int, default=0, help="experts in place of one feed-forward")
    parser.add_argument("--experts-per-token", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--completions", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast, for --what train")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model, for --what train")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(42)
    if args.what != "decode":
        row = (train if args.what == "train" else grpo)(Model(args), args)
        print(json.dumps({"torch": torch.__version__, "threads": args.threads, "results": [row]}) if args.json
              else f"train {row['tokens_per_s']:.1f} tokens/s" if args.what == "train" else f"grpo {row['step_s']:.2f} s a step")
        return
    model = Model(args).eval()
    start = max(args.prompt_tokens // 16, 1)
    short, long = (torch.randint(0, args.vocab_size, (1, n)) for n in (start, args.prompt_tokens))
    rollout(model, short, 1, 4, 0.0)
    first = timed(lambda: rollout(model, short, 1, 1, 0.0), args.repeat)
    whole = timed(lambda: rollout(model, short, 1, args.new_tokens, 0.0), args.repeat)
    prefill = timed(lambda: model(long, None), args.repeat)
    many = timed(lambda: rollout(model, short, args.completions, args.new_tokens, 1.0), args.repeat)
    results = [
        {"what": "decode", "rows": 1, "tokens_per_s": (args.new_tokens - 1) / (whole - first)},
        {"what": "prefill", "rows": 1, "tokens_per_s": args.prompt_tokens / prefill},
        {"what": "rollout", "rows": args.completions, "tokens_per_s": args.completions * args.new_tokens / many},
    ]
    if args.json:
        print(json.dumps({"torch": torch.__version__, "threads": args.threads, "results": results}))
        return
    for row in results:
        print(f"{row['what']:<8} {row['rows']:>4} rows {row['tokens_per_s']:>10.1f} tokens/s")


if __name__ == "__main__":
    main()
