//! The decoder's network behind types that cannot be misused: weights, a paged cache of keys and values, one step
//! over the tokens of many sequences. `rollout::packing` builds it from a model.
//!
//! N tokens of a step, D hidden, H query heads, K kv heads, E head dim, I inner width, V vocab.

use super::abi;
use super::packed::{PAGE, PackedMatrix, ThreadPool};
use crate::error::{Error, Result};
use crate::native::buffer::Buffer;

/// Sizes of a network.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Sizes {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inner: usize,
    pub vocab: usize,
    pub positions: usize,
    /// Routed experts; 0 for a dense model.
    pub routed: usize,
    pub top_k: usize,
    pub shared: usize,
    pub renormalise: bool,
    pub eps: f32,
}

/// One block's weights.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct LayerWeights {
    /// Queries, keys, values, `[H * E + 2 * K * E, D]`.
    pub qkv: PackedMatrix,
    pub o: PackedMatrix,
    pub norm_in: Vec<f32>,
    pub norm_post: Vec<f32>,
    /// Per-head norms of queries and keys.
    pub qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    pub router: Option<PackedMatrix>,
    /// Gate and up in turns, and down: one, or all experts, the shared ones last.
    pub ffns: Vec<(PackedMatrix, PackedMatrix)>,
}

/// All weights.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Weights {
    /// `[V, D]`.
    pub embedding: Vec<f32>,
    pub layers: Vec<LayerWeights>,
    pub norm: Vec<f32>,
    pub head: PackedMatrix,
    /// Cosines and sines, `[positions, E / 2]` each.
    pub rope: (Vec<f32>, Vec<f32>),
}

/// A network ready to step.
#[derive(Debug)]
pub struct Network {
    sizes: Sizes,
    weights: Weights,
    raw: abi::Model,
    // What `raw` points to.
    _layers: Vec<abi::Layer>,
    _ffns: Vec<Vec<abi::Ffn>>,
    pool: ThreadPool,
    scratch: Buffer<f32>,
}

// SAFETY: the raw pointers lead into memory that the value owns and never moves (heap blocks of its own fields).
unsafe impl Send for Network {}

/// Keys and values in pages of [`PAGE`] positions.
#[derive(Debug)]
pub struct KvPages {
    arena: Buffer<f32>,
    pages: usize,
    page_floats: usize,
    layer_floats: usize,
    head_floats: usize,
    layers: usize,
}

impl KvPages {
    /// Copies a page's content to another.
    pub fn copy_page(&mut self, from: usize, to: usize) {
        let n = self.page_floats;
        self.arena.copy_within(from * n..(from + 1) * n, to * n);
    }

    /// Pages there are.
    pub fn count(&self) -> usize {
        self.pages
    }
}

/// The tokens of one step; those of a sequence stand side by side, at positions that follow each other.
#[derive(Debug, Clone, Copy)]
pub struct StepTokens<'a> {
    /// Ids, `[N]`.
    pub ids: &'a [i32],
    /// Positions, `[N]`.
    pub positions: &'a [i32],
    /// First token of each sequence, and N.
    pub starts: &'a [i32],
    /// Page tables, `[sequences, max_pages]`. A page that a sequence writes to stands in no other's table.
    pub pages: &'a [i32],
    /// Columns of `pages`.
    pub max_pages: usize,
    /// Tokens whose output is wanted.
    pub output_rows: &'a [i32],
}

impl Network {
    /// Checks every size and takes the weights over.
    ///
    /// # Errors
    /// A weight of another shape than `sizes` says.
    pub fn new(sizes: Sizes, weights: Weights, pool: ThreadPool) -> Result<Self> {
        check(&sizes, &weights)?;
        let ffns: Vec<Vec<abi::Ffn>> = weights
            .layers
            .iter()
            .map(|l| l.ffns.iter().map(|(g, d)| abi::Ffn { gate_up: g.raw(), down: d.raw() }).collect())
            .collect();
        let norm = |w: Option<&Vec<f32>>| w.map_or(std::ptr::null(), |w| w.as_ptr());
        let layers: Vec<abi::Layer> = weights
            .layers
            .iter()
            .zip(&ffns)
            .map(|(l, ffns)| abi::Layer {
                qkv: l.qkv.raw(),
                o: l.o.raw(),
                norm_in: l.norm_in.as_ptr(),
                norm_post: l.norm_post.as_ptr(),
                q_norm: norm(l.qk_norm.as_ref().map(|n| &n.0)),
                k_norm: norm(l.qk_norm.as_ref().map(|n| &n.1)),
                router: l.router.as_ref().unwrap_or(&l.o).raw(),
                ffns: ffns.as_ptr(),
            })
            .collect();
        let raw = abi::Model {
            layers: layers.len() as i32,
            hidden: sizes.hidden as i32,
            heads: sizes.heads as i32,
            kv_heads: sizes.kv_heads as i32,
            head_dim: sizes.head_dim as i32,
            inner: sizes.inner as i32,
            vocab: sizes.vocab as i32,
            routed: sizes.routed as i32,
            top_k: sizes.top_k as i32,
            shared: sizes.shared as i32,
            renormalise: i32::from(sizes.renormalise),
            eps: sizes.eps,
            embedding: weights.embedding.as_ptr(),
            norm: weights.norm.as_ptr(),
            cos: weights.rope.0.as_ptr(),
            sin: weights.rope.1.as_ptr(),
            layer: layers.as_ptr(),
            head: weights.head.raw(),
        };
        let scratch = Buffer::zeroed(1)?;
        Ok(Self { sizes, weights, raw, _layers: layers, _ffns: ffns, pool, scratch })
    }

    /// Its sizes.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Its threads.
    pub fn pool(&mut self) -> &mut ThreadPool {
        &mut self.pool
    }

    /// Bytes of weights that a token reads: of the experts, those it visits.
    pub fn bytes_per_token(&self) -> usize {
        let visits = if self.sizes.routed > 0 { self.sizes.top_k + self.sizes.shared } else { 1 };
        let layer = |l: &LayerWeights| {
            let (gate_up, down) = &l.ffns[0];
            l.qkv.bytes() + l.o.bytes() + visits * (gate_up.bytes() + down.bytes())
        };
        self.weights.layers.iter().map(layer).sum::<usize>() + self.weights.head.bytes()
    }

    /// Multiplications and additions of matrix products that a token takes, the output layer not counted.
    pub fn operations_per_token(&self) -> usize {
        let s = &self.sizes;
        let visits = if s.routed > 0 { s.top_k + s.shared } else { 1 };
        let attention = s.hidden * (s.heads + s.kv_heads) * s.head_dim * 2;
        2 * self.weights.layers.len() * (attention + 3 * visits * s.hidden * s.inner + s.routed * s.hidden)
    }

    /// A cache of `pages` pages.
    ///
    /// # Errors
    /// Memory cannot be allocated.
    pub fn cache(&self, pages: usize) -> Result<KvPages> {
        let e = self.sizes.head_dim;
        let head_floats = e * PAGE + e.div_ceil(PAGE) * PAGE * PAGE;
        let layer_floats = head_floats * self.sizes.kv_heads;
        let layers = self.weights.layers.len();
        let page_floats = layer_floats * layers;
        let pages = pages.min(i32::MAX as usize);
        let arena = Buffer::zeroed(pages.saturating_mul(page_floats))?;
        Ok(KvPages { arena, pages, page_floats, layer_floats, head_floats, layers })
    }

    /// Runs one step: writes the new keys and values into the cache and fills `logits` (`[outputs, V]`) or `hidden`
    /// (`[outputs, D]`, after the last norm) for the rows asked for. Both may be empty. Returns how many rows of logits
    /// hold a NaN.
    ///
    /// # Errors
    /// Ids, positions or pages out of range, which is a fault of the caller; no memory.
    pub fn step(
        &mut self,
        cache: &mut KvPages,
        tokens: &StepTokens<'_>,
        logits: &mut [f32],
        hidden: &mut [f32],
    ) -> Result<usize> {
        let longest = self.validate(cache, tokens, logits.len(), hidden.len())?;
        let (n, outputs) = (tokens.ids.len() as i32, tokens.output_rows.len() as i32);
        let threads = self.pool.threads as i32;
        // SAFETY: a function of the model's sizes.
        let need = unsafe { abi::mm_scratch_floats(&self.raw, n, outputs, longest as i64, threads) } as usize;
        if self.scratch.len() < need {
            self.scratch = Buffer::zeroed(need + need / 2)?;
        }
        let or_null = |x: &mut [f32]| if x.is_empty() { std::ptr::null_mut() } else { x.as_mut_ptr() };
        let batch = abi::Batch {
            tokens: n,
            sequences: tokens.starts.len() as i32 - 1,
            max_pages: tokens.max_pages as i32,
            outputs,
            ids: tokens.ids.as_ptr(),
            positions: tokens.positions.as_ptr(),
            starts: tokens.starts.as_ptr(),
            pages: tokens.pages.as_ptr(),
            output_rows: tokens.output_rows.as_ptr(),
            logits: or_null(logits),
            hidden: or_null(hidden),
        };
        let raw_cache = abi::Cache {
            arena: cache.arena.as_mut_ptr(),
            page_floats: cache.page_floats as i64,
            layer_floats: cache.layer_floats as i64,
            head_floats: cache.head_floats as i64,
        };
        // SAFETY: `raw` points into memory this value owns, with shapes checked in `new`; every index of the batch
        // was checked above, the outputs have room, the scratch is as large as the kernels ask for, and cache and
        // pool are borrowed exclusively.
        let broken = unsafe {
            abi::mm_forward(
                &self.raw,
                &raw_cache,
                &batch,
                self.scratch.as_mut_ptr(),
                longest as i64,
                self.pool.handle,
            )
        };
        Ok(broken as usize)
    }

    /// Checks every index; returns the length of the longest sequence.
    fn validate(&self, cache: &KvPages, t: &StepTokens<'_>, logits: usize, hidden: usize) -> Result<usize> {
        let n = t.ids.len();
        let fault = |what: &str| Err(Error::failed(format!("a step of the decoder has {what}")));
        let sequences = t.starts.len().saturating_sub(1);
        if cache.layers != self.weights.layers.len() || n == 0 || n > 1 << 20 || t.positions.len() != n {
            return fault("no tokens or another model's cache");
        }
        let whole = t.starts.first() == Some(&0) && t.starts.last() == Some(&(n as i32));
        if !whole || t.starts.windows(2).any(|w| w[0] >= w[1]) || t.pages.len() != sequences * t.max_pages {
            return fault("sequences that are not its tokens");
        }
        if t.ids.iter().any(|&id| id < 0 || id as usize >= self.sizes.vocab) {
            return fault("an id outside the vocabulary");
        }
        let mut longest = 0;
        for (q, w) in t.starts.windows(2).enumerate() {
            let positions = &t.positions[w[0] as usize..w[1] as usize];
            let last = positions[positions.len() - 1];
            if positions[0] < 0 || positions.windows(2).any(|p| p[1] != p[0] + 1) {
                return fault("positions that do not follow each other");
            }
            let pages = last as usize / PAGE + 1;
            if last as usize >= self.sizes.positions || pages > t.max_pages {
                return fault("a position beyond the model or the pages");
            }
            let table = &t.pages[q * t.max_pages..q * t.max_pages + pages];
            if table.iter().any(|&p| p < 0 || p as usize >= cache.pages) {
                return fault("a page outside the cache");
            }
            longest = longest.max(last as usize + 1);
        }
        let outputs = t.output_rows.len();
        if t.output_rows.iter().any(|&row| row < 0 || row as usize >= n)
            || !(logits == 0 || logits == outputs * self.sizes.vocab)
            || !(hidden == 0 || hidden == outputs * self.sizes.hidden)
        {
            return fault("outputs without room");
        }
        Ok(longest)
    }
}

fn check(s: &Sizes, w: &Weights) -> Result<()> {
    let fits = |n: usize| n > 0 && n < 1 << 24;
    let all = [s.hidden, s.heads, s.kv_heads, s.head_dim, s.inner, s.vocab, s.positions];
    let half = s.positions * (s.head_dim / 2);
    let mut right = all.iter().all(|&n| fits(n))
        && s.heads.is_multiple_of(s.kv_heads)
        && s.head_dim.is_multiple_of(2)
        && s.top_k <= s.routed
        && (s.routed > 0) == (s.top_k > 0)
        && w.embedding.len() == s.vocab * s.hidden
        && w.norm.len() == s.hidden
        && w.head.is(s.vocab, s.hidden)
        && w.rope.0.len() == half
        && w.rope.1.len() == half;
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let experts = if s.routed > 0 { s.routed + s.shared } else { 1 };
    for l in &w.layers {
        right &= l.qkv.is(q + 2 * kv, s.hidden)
            && l.o.is(s.hidden, q)
            && l.norm_in.len() == s.hidden
            && l.norm_post.len() == s.hidden
            && l.qk_norm.as_ref().is_none_or(|(a, b)| a.len() == s.head_dim && b.len() == s.head_dim)
            && l.router.as_ref().map_or(s.routed == 0, |r| r.is(s.routed, s.hidden))
            && l.ffns.len() == experts
            && l.ffns.iter().all(|(gate_up, down)| {
                gate_up.is(2 * s.inner.next_multiple_of(PAGE), s.hidden) && down.is(s.hidden, s.inner)
            })
            // The kernels read all experts as the first is stored.
            && l.ffns.iter().all(|(g, d)| (g.storage, d.storage) == (l.ffns[0].0.storage, l.ffns[0].1.storage));
    }
    if right { Ok(()) } else { Err(Error::failed("a weight does not have the shape the decoder expects")) }
}
