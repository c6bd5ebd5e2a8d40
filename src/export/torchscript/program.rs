//! The model as TorchScript source: one class a kind of module, each a few methods.
//!
//! Every line mirrors the Rust of the `model` room, so that both round alike; dtypes are numbers, as
//! TorchScript has them (4 int64, 6 float, 7 double). Doubles stay doubles where half types are widened.
//!
//! B batch, T tokens, S tokens seen, L layers, D hidden, H query heads, K kv heads, E head dim, V vocab.

use super::module_tree::Node;
use crate::model::{Era, ModelConfig, MoeConfig, rope};

/// A class: the same for every module of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name; equal names mean equal classes.
    pub name: &'static str,
    /// Its methods; empty for one that only holds others.
    pub source: String,
}

/// The class of the module at `path`.
pub fn class(path: &[&str], node: &Node, config: &ModelConfig) -> Class {
    let made = |name, source| Class { name, source };
    match *path {
        [] => made("MiniMindForCausalLM", causal_lm(config)),
        ["model"] => made("MiniMindModel", model(config)),
        [.., "embed_tokens"] => made("Embedding", EMBEDDING.to_owned()),
        [.., "layers"] => made("Layers", String::new()),
        [.., "experts"] => made("Experts", String::new()),
        [.., "shared_experts"] => made("SharedExperts", String::new()),
        [.., "layers", _] => made("MiniMindBlock", BLOCK.to_owned()),
        [.., "self_attn"] => made("Attention", attention(node, config)),
        [.., "mlp"] => match &config.moe {
            Some(moe) => made("MOEFeedForward", experts(moe, config)),
            None => made("FeedForward", FEED_FORWARD.to_owned()),
        },
        [.., "experts" | "shared_experts", _] => made("FeedForward", FEED_FORWARD.to_owned()),
        [.., "q_norm" | "k_norm" | "norm" | "input_layernorm" | "post_attention_layernorm"] => {
            made("RMSNorm", norm(config))
        }
        _ if node.has("bias") => made("LinearWithBias", LINEAR_WITH_BIAS.to_owned()),
        _ => made("Linear", LINEAR.to_owned()),
    }
}

const LINEAR: &str = "
def forward(self, x: Tensor) -> Tensor:
    return torch.linear(x, self.weight)
";

const LINEAR_WITH_BIAS: &str = "
def forward(self, x: Tensor) -> Tensor:
    return torch.linear(x, self.weight, self.bias)
";

const EMBEDDING: &str = "
def forward(self, ids: Tensor) -> Tensor:
    return torch.embedding(self.weight, ids)
";

const FEED_FORWARD: &str = "
def forward(self, x: Tensor) -> Tensor:
    return self.down_proj.forward(torch.silu(self.gate_proj.forward(x)) * self.up_proj.forward(x))
";

const BLOCK: &str = "
def feed(self, x: Tensor) -> Tensor:
    return x + self.mlp.forward(self.post_attention_layernorm.forward(x))

def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return self.feed(x + self.self_attn.forward(self.input_layernorm.forward(x), cos, sin))

def forward_cached(self, x: Tensor, cos: Tensor, sin: Tensor, past_k: Tensor, past_v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    y, k, v = self.self_attn.forward_cached(self.input_layernorm.forward(x), cos, sin, past_k, past_v)
    return (self.feed(x + y), k, v)

def forward_into(self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    return self.feed(x + self.self_attn.forward_into(self.input_layernorm.forward(x), cos, sin, keys, values, start))
";

fn norm(config: &ModelConfig) -> String {
    // minimind2 casts back before it multiplies, minimind3 after.
    let product = match config.era {
        Era::MiniMind2 => "(wide * scale).to(x.dtype) * self.weight",
        Era::MiniMind3 => "(wide * scale * self.weight).to(x.dtype)",
    };
    format!(
        "
def forward(self, x: Tensor) -> Tensor:
    wide = x if x.dtype == 7 else x.to(6)
    scale = torch.rsqrt(torch.mean(torch.square(wide), [-1], True) + {eps:?})
    return {product}
",
        eps = config.rms_norm_eps
    )
}

fn attention(node: &Node, config: &ModelConfig) -> String {
    let (h, k, e) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let normed = node.children.iter().any(|(name, _)| name == "q_norm");
    let norms = if normed { "q, k = self.q_norm.forward(q), self.k_norm.forward(k)" } else { "pass" };
    let groups = h / k;
    format!(
        "
def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.cat([-x[..., {half}:], x[..., :{half}]], -1)
    return x * cos + turned * sin

def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    b, t = x.size(0), x.size(1)
    q = self.q_proj.forward(x).view([b, t, {h}, {e}])
    k = self.k_proj.forward(x).view([b, t, {k}, {e}])
    v = self.v_proj.forward(x).view([b, t, {k}, {e}])
    {norms}
    q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
    return (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))

def repeat(self, x: Tensor) -> Tensor:
    b, s = x.size(0), x.size(2)
    return x.unsqueeze(2).expand([b, {k}, {groups}, s, {e}]).reshape([b, {h}, s, {e}])

def attend(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    b, t = q.size(0), q.size(2)
    k, v = {repeated}
    if t == 1:
        y = torch.scaled_dot_product_attention(q, k, v)
    elif start == 0:
        y = torch.scaled_dot_product_attention(q, k, v, None, 0.0, True)
    else:
        later = torch.full([t, start + t], float('-inf'), dtype=q.dtype, device=q.device)
        y = torch.scaled_dot_product_attention(q, k, v, torch.triu(later, start + 1))
    return self.o_proj.forward(y.transpose(1, 2).reshape([b, t, {width}]))

def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    q, k, v = self.project(x, cos, sin)
    return self.attend(q, k, v, 0)

def forward_cached(self, x: Tensor, cos: Tensor, sin: Tensor, past_k: Tensor, past_v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    q, k, v = self.project(x, cos, sin)
    k = torch.cat([past_k.to(k.dtype), k], 2)
    v = torch.cat([past_v.to(v.dtype), v], 2)
    return (self.attend(q, k, v, past_k.size(2)), k, v)

def forward_into(self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    q, k, v = self.project(x, cos, sin)
    end = start + x.size(1)
    keys[:, :, start:end].copy_(k.detach())
    values[:, :, start:end].copy_(v.detach())
    return self.attend(q, keys[:, :, :end], values[:, :, :end], start)
",
        half = e / 2,
        width = h * e,
        repeated = if groups == 1 { "k, v" } else { "self.repeat(k), self.repeat(v)" },
    )
}

fn experts(moe: &MoeConfig, config: &ModelConfig) -> String {
    let (d, top) = (config.hidden_size, moe.num_experts_per_tok);
    let share = if moe.renormalises(config.era) {
        "weight / (torch.sum(weight, [-1], True) + 1e-20)"
    } else {
        "weight"
    };
    let mut text = format!(
        "
def forward(self, x: Tensor) -> Tensor:
    flat = x.reshape([-1, {d}])
    scores = torch.softmax(self.gate.forward(flat), -1, 7 if x.dtype == 7 else 6)
    weight, chosen = torch.topk(scores, {top}, -1, True, False)
    weight = {share}
    y = torch.zeros_like(flat)
"
    );
    for expert in 0..moe.num_experts {
        text += &format!(
            "    hits = torch.nonzero(chosen == {expert})
    if hits.size(0) > 0:
        token, slot = hits[:, 0], hits[:, 1]
        out = getattr(self.experts, \"{expert}\").forward(torch.index_select(flat, 0, token))
        y = torch.index_add(y, 0, token, (out * weight[token, slot].unsqueeze(-1)).to(x.dtype))
"
        );
    }
    text += "    y = y.view_as(x)\n";
    for expert in 0..moe.n_shared_experts {
        text += &format!("    y = y + getattr(self.shared_experts, \"{expert}\").forward(x)\n");
    }
    text + "    return y\n"
}

fn model(config: &ModelConfig) -> String {
    // Each a double that is exactly the fp32 number of the model's own table.
    let freqs: Vec<String> =
        rope::frequencies(config).iter().map(|f| format!("{:?}", f64::from(*f))).collect();
    let factor = match rope::attention_factor(config) {
        1.0 => String::new(),
        factor => format!(" * {factor:?}"),
    };
    let layers = |call: &dyn Fn(i64) -> String| (0..config.num_hidden_layers).map(call).collect::<String>();
    format!(
        "
def rotary(self, start: int, x: Tensor) -> Tuple[Tensor, Tensor]:
    freqs = torch.tensor([{freqs}], dtype=6, device=x.device)
    positions = torch.arange(start, start + x.size(1), dtype=6, device=x.device)
    angles = torch.outer(positions, freqs)
    angles = torch.cat([angles, angles], -1).unsqueeze(1)
    return ((torch.cos(angles){factor}).to(x.dtype), (torch.sin(angles){factor}).to(x.dtype))

def forward(self, input_ids: Tensor) -> Tensor:
    x = self.embed_tokens.forward(input_ids)
    cos, sin = self.rotary(0, x)
{forward}    return self.norm.forward(x)

def forward_cached(self, input_ids: Tensor, past_k: Tensor, past_v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    x = self.embed_tokens.forward(input_ids)
    cos, sin = self.rotary(past_k.size(3), x)
{cached}    return (self.norm.forward(x), torch.stack([{keys}]), torch.stack([{values}]))

def forward_into(self, input_ids: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    x = self.embed_tokens.forward(input_ids)
    cos, sin = self.rotary(start, x)
{into}    return self.norm.forward(x)
",
        freqs = freqs.join(", "),
        forward = layers(&|i| format!("    x = getattr(self.layers, \"{i}\").forward(x, cos, sin)\n")),
        cached = layers(&|i| format!(
            "    x, k{i}, v{i} = getattr(self.layers, \"{i}\").forward_cached(x, cos, sin, past_k[{i}], past_v[{i}])\n"
        )),
        into = layers(&|i| format!(
            "    x = getattr(self.layers, \"{i}\").forward_into(x, cos, sin, keys[{i}], values[{i}], start)\n"
        )),
        keys = layers(&|i| format!("k{i}, ")).trim_end_matches(", "),
        values = layers(&|i| format!("v{i}, ")).trim_end_matches(", "),
    )
}

fn causal_lm(config: &ModelConfig) -> String {
    let (l, k, e) = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim);
    format!(
        "
def forward(self, input_ids: Tensor) -> Tensor:
    return self.lm_head.forward(self.model.forward(input_ids))

def forward_cached(self, input_ids: Tensor, past_k: Tensor, past_v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    x, new_k, new_v = self.model.forward_cached(input_ids, past_k, past_v)
    return (self.lm_head.forward(x), new_k, new_v)

def empty_cache(self, batch: int, tokens: int=0) -> Tensor:
    weight = self.lm_head.weight
    return torch.zeros([{l}, batch, {k}, tokens, {e}], dtype=weight.dtype, device=weight.device)

def choose(self, logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    if temperature <= 0.0:
        return torch.argmax(logits, -1, True)
    probs, order = torch.sort(torch.softmax(logits.to(6) / temperature, -1), -1, True)
    if top_k > 0:
        probs[:, top_k:] = 0.0
        probs = probs / torch.sum(probs, -1, True)
    if top_p < 1.0:
        before = torch.cumsum(probs, -1) - probs
        before[:, 0] = 0.0
        probs = torch.masked_fill(probs, (before >= top_p) & (before > 0.0), 0.0)
    return torch.gather(order, -1, torch.multinomial(probs, 1))

def generate(self, input_ids: Tensor, max_new_tokens: int, temperature: float=1.0, top_k: int=0, top_p: float=1.0) -> Tensor:
    b, t = input_ids.size(0), input_ids.size(1)
    keys = self.empty_cache(b, t + max_new_tokens)
    values = self.empty_cache(b, t + max_new_tokens)
    ids = input_ids
    step = input_ids
    start = 0
    for _ in range(max_new_tokens):
        x = self.model.forward_into(step, keys, values, start)
        start = start + step.size(1)
        step = self.choose(self.lm_head.forward(x[:, -1]).detach(), temperature, top_k, top_p)
        ids = torch.cat([ids, step], 1)
    return ids
"
    )
}
