//! Rows that hold several documents side by side: each attends to itself alone, and its positions start at 0.
//!
//! B batch, T tokens, H heads, E head dim.

use tch::{Device, Tensor};

use crate::native::to_device;

/// Where the documents of a batch lie.
#[derive(Debug)]
pub struct Packing {
    /// Tokens of each document, row after row; they add up to B * T.
    lengths: Vec<i64>,
    /// Place of each token in its document, `[B * T]`.
    positions: Tensor,
    /// Where each begins and the last ends, `[documents + 1]` in int32; where a GPU's kernel is to read them.
    ends: Option<Tensor>,
    /// No document has more tokens.
    longest: i64,
}

impl Packing {
    /// From the documents' lengths, row by row.
    pub fn new(rows: &[Vec<usize>], device: Device) -> Self {
        let lengths: Vec<i64> = rows.iter().flatten().map(|n| *n as i64).collect();
        let positions: Vec<i64> = lengths.iter().flat_map(|n| 0..*n).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ends = device.is_cuda().then(|| to_device(Tensor::from_slice(&ends(&lengths)), device));
        Self { lengths, positions: to_device(Tensor::from_slice(&positions), device), ends, longest }
    }

    /// The same for a GPU, with as many documents as `documents`, those beyond the last empty, and each as long as its
    /// row may be: batches of one shape differ in what the tensors hold alone.
    pub fn padded(rows: &[Vec<usize>], documents: usize, device: Device) -> Self {
        let made = Self::new(rows, device);
        let mut ends = ends(&made.lengths);
        ends.resize(documents + 1, ends.last().copied().unwrap_or(0));
        let longest = rows.first().map_or(0, |row| row.iter().sum::<usize>()) as i64;
        Self { ends: Some(to_device(Tensor::from_slice(&ends), device)), longest, ..made }
    }

    /// The same in tensors of its own.
    pub fn copy(&self) -> Self {
        let ends = self.ends.as_ref().map(Tensor::copy);
        Self { lengths: self.lengths.clone(), positions: self.positions.copy(), ends, longest: self.longest }
    }

    /// Takes over what another of as many tokens and documents holds.
    pub fn take(&mut self, other: &Self) {
        self.lengths.clone_from(&other.lengths);
        self.positions.copy_(&other.positions);
        if let (Some(own), Some(other)) = (&mut self.ends, &other.ends) {
            own.copy_(other);
        }
    }

    /// For a GPU's one kernel for all lengths: where each document begins and the last ends, `[documents + 1]` in int32,
    /// and the length that none exceeds. `None` on the CPU.
    pub fn ends(&self) -> Option<(&Tensor, i64)> {
        Some((self.ends.as_ref()?, self.longest))
    }

    /// Place of each token in its document, `[B * T]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// Tokens of each document, row after row.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// `each` over every document's queries, keys and values: `[1, H, B * T, E]` in and out.
    pub fn apart(&self, qkv: [&Tensor; 3], each: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor) -> Tensor {
        // `split`'s backward is one `cat`; a `narrow` for each document would fill the whole with zeros each time.
        let [q, k, v] = qkv.map(|x| x.split_with_sizes(&self.lengths, 2));
        let parts: Vec<Tensor> = q.iter().zip(&k).zip(&v).map(|((q, k), v)| each(q, k, v)).collect();
        Tensor::cat(&parts, 2)
    }
}

/// Where each document begins and the last ends.
fn ends(lengths: &[i64]) -> Vec<i32> {
    let mut end = 0;
    let ends = lengths.iter().map(|n| {
        end += *n as i32;
        end
    });
    std::iter::once(0).chain(ends).collect()
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::model::{Mask, tiny};

    #[test]
    fn packings_of_one_shape_differ_in_what_they_hold() {
        let rows = [vec![2, 3], vec![5]];
        let mut packing = Packing::padded(&rows, 4, Device::Cpu).copy();
        let ends = |p: &Packing| Vec::<i32>::try_from(p.ends.as_ref().unwrap()).unwrap();
        assert_eq!((ends(&packing), packing.longest), (vec![0, 2, 5, 10, 10], 5));
        packing.take(&Packing::padded(&[vec![1, 4], vec![2, 3]], 4, Device::Cpu));
        assert_eq!((ends(&packing), packing.longest), (vec![0, 1, 5, 7, 10], 5));
        assert_eq!(Vec::<i64>::try_from(&packing.positions).unwrap(), [0, 0, 1, 2, 3, 0, 1, 0, 1, 2]);
    }

    /// Packed documents give the logits and the gradients that each gives alone.
    #[test]
    fn a_document_sees_itself_alone() {
        for preset in ["minimind3", "minimind2-small", "minimind3-moe"] {
            tch::manual_seed(11);
            let model = tiny(preset, 2, 97);
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
