//! Rows that hold several documents side by side: each attends to itself alone, and its positions start at 0.
//!
//! B batch, T tokens, H heads, E head dim.

use tch::{Device, Tensor};

use crate::error::Result;
use crate::native::mixed;

/// Where the documents of a batch lie.
#[derive(Debug)]
pub struct Packing {
    /// Tokens of each document, row after row; they add up to B * T.
    lengths: Vec<i64>,
    /// Place of each token in its document, `[B * T]`.
    positions: Tensor,
    /// Where each begins and the last ends, `[documents + 1]` in int32; on a GPU alone.
    ends: Option<Tensor>,
}

impl Packing {
    /// From the documents' lengths, row by row.
    pub fn new(rows: &[Vec<usize>], device: Device) -> Self {
        let lengths: Vec<i64> = rows.iter().flatten().map(|n| *n as i64).collect();
        let positions: Vec<i64> = lengths.iter().flat_map(|n| 0..*n).collect();
        let ends = device.is_cuda().then(|| {
            let mut end = 0;
            let ends = lengths.iter().map(|n| {
                end += *n as i32;
                end
            });
            let all: Vec<i32> = std::iter::once(0).chain(ends).collect();
            Tensor::from_slice(&all).to_device(device)
        });
        Self { lengths, positions: Tensor::from_slice(&positions).to_device(device), ends }
    }

    /// Causal attention of each document to itself by a GPU's one kernel for all lengths: `[B * T, H, E]` and twice
    /// `[B * T, K, E]` in bf16 -> `[B * T, H, E]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let ends = self.ends.as_ref().expect("a packing on a GPU");
        mixed::documents(q, k, v, ends, self.lengths.iter().copied().max().unwrap_or(0))
    }

    /// Place of each token in its document, `[B * T]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// `each` over every document's queries, keys and values: `[1, H, B * T, E]` in and out.
    pub fn apart(&self, qkv: [&Tensor; 3], each: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor) -> Tensor {
        // `split` goes back as one `cat`; a `narrow` for each document would fill the whole with zeros each time.
        let [q, k, v] = qkv.map(|x| x.split_with_sizes(&self.lengths, 2));
        let parts: Vec<Tensor> = q.iter().zip(&k).zip(&v).map(|((q, k), v)| each(q, k, v)).collect();
        Tensor::cat(&parts, 2)
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::model::{CausalLm, Mask, Params, config};

    fn tiny(preset: &str) -> CausalLm {
        let mut overrides = config::preset(preset).unwrap();
        (overrides.hidden_size, overrides.num_hidden_layers) = (Some(32), Some(2));
        (overrides.vocab_size, overrides.num_attention_heads) = (Some(97), Some(4));
        let config = overrides.resolve().unwrap();
        tch::manual_seed(11);
        CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap())
    }

    /// Packed documents give the logits and the gradients that each gives alone.
    #[test]
    fn a_document_sees_itself_alone() {
        for preset in ["minimind3", "minimind2-small", "minimind3-moe"] {
            let model = tiny(preset);
            model.params().set_requires_grad(true);
            let rows = [vec![5, 1, 7, 3], vec![9, 7]];
            let ids = Tensor::from_slice(&(0..32).map(|i| (i * i * 31 + 7) % 97).collect::<Vec<i64>>())
                .view([2, 16]);
            let packing = Packing::new(&rows, Device::Cpu);
            let embedding = &model.params().trained().1[0];
            let logits = model.logits(&model.hidden(&ids, Mask::Documents(&packing), false).0);
            let together =
                Tensor::f_run_backward(&[logits.square().sum(Kind::Float)], &[embedding], false, false)
                    .unwrap();
            let mut alone = embedding.zeros_like();
            for (row, lengths) in rows.iter().enumerate() {
                let mut start = 0;
                for length in lengths {
                    let part = |x: &Tensor| x.narrow(0, row as i64, 1).narrow(1, start, *length as i64);
                    let single = model.logits(&model.hidden(&part(&ids), Mask::Causal, false).0);
                    let apart = (part(&logits) - &single).abs().max().double_value(&[]);
                    assert!(apart < 1e-5, "{preset}: {length} tokens at {start} differ by {apart:e}");
                    alone += &Tensor::f_run_backward(
                        &[single.square().sum(Kind::Float)],
                        &[embedding],
                        false,
                        false,
                    )
                    .unwrap()[0];
                    start += *length as i64;
                }
            }
            let apart = (&together[0] - &alone).abs().max() / alone.abs().max();
            assert!(apart.double_value(&[]) < 1e-5, "{preset}: gradients differ by {apart:?}");
            // Without the packing a later document does see the earlier one.
            let leaking = model.logits(&model.hidden(&ids, Mask::Causal, false).0);
            assert!((leaking - logits).abs().max().double_value(&[]) > 1e-3);
        }
    }
}
