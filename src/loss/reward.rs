//! A reward model's loss: the Bradley-Terry likelihood that the chosen answer beats the rejected one.
//!
//! `-log sigmoid(s_c - s_r)`, a pair's mean (arXiv 1706.03741, 2203.02155). Only differences are learned, so
//! scores may drift; `center` adds `center (s_c + s_r)^2` that keeps them around zero (arXiv 2312.09244).
//!
//! P pairs.

use tch::{Kind, Tensor};

/// The mean loss of scores `[P]`, a scalar with a graph.
pub fn bradley_terry(chosen: &Tensor, rejected: &Tensor, center: f64) -> Tensor {
    let loss = -(chosen - rejected).log_sigmoid().mean(Kind::Float);
    if center == 0.0 { loss } else { loss + (chosen + rejected).square().mean(Kind::Float) * center }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_the_likelihood_of_the_order() {
        let (chosen, rejected) = (Tensor::from_slice(&[2f32, 0.5]), Tensor::from_slice(&[1f32, 1.5]));
        let each = |d: f64| (1.0 + (-d).exp()).ln();
        let want = (each(1.0) + each(-1.0)) / 2.0;
        assert!((bradley_terry(&chosen, &rejected, 0.0).double_value(&[]) - want).abs() < 1e-6);
        let centred = want + 0.1 * (9.0 + 4.0) / 2.0;
        assert!((bradley_terry(&chosen, &rejected, 0.1).double_value(&[]) - centred).abs() < 1e-6);
    }
}
