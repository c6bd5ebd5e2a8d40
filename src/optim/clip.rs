//! Global gradient norm and clipping, as `torch.nn.utils.clip_grad_norm_`.

use tch::{Kind, Tensor};

use crate::native::{foreach_norm, foreach_scale};

/// Where one launch a tensor would cost more than the work.
fn on_gpu(grads: &[Tensor]) -> bool {
    grads.first().is_some_and(|grad| grad.device().is_cuda())
}

/// The 2-norm over all gradients together; a scalar.
pub fn global_norm(grads: &[Tensor]) -> Tensor {
    if on_gpu(grads) {
        return foreach_norm(grads).expect("gradients have norms");
    }
    let norms: Vec<Tensor> = grads.iter().map(|g| g.norm_scalaropt_dtype(2.0, Kind::Float)).collect();
    Tensor::stack(&norms, 0).norm_scalaropt_dtype(2.0, Kind::Float)
}

/// Scales gradients of any shapes `[..]` in place so that their norm is at most `max_norm`; `norm` is theirs now.
pub fn clip_to_norm(grads: &[Tensor], norm: f64, max_norm: f64) {
    // PyTorch's 1e-6, so that the clipped norm is theirs to the last digit.
    let factor = max_norm / (norm + 1e-6);
    if factor < 1.0 && on_gpu(grads) {
        foreach_scale(grads, factor).expect("gradients are numbers");
    } else if factor < 1.0 {
        for grad in grads {
            let _ = grad.shallow_clone().g_mul_scalar_(factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_gradient_is_cut_and_a_short_one_left() {
        let grads = [Tensor::from_slice(&[3f32, 0.0]), Tensor::from_slice(&[4f32])];
        let norm = global_norm(&grads).double_value(&[]);
        assert!((norm - 5.0).abs() < 1e-6);
        clip_to_norm(&grads, norm, 10.0);
        assert_eq!(grads[1].double_value(&[0]), 4.0);
        clip_to_norm(&grads, norm, 1.0);
        assert!((global_norm(&grads).double_value(&[]) - 1.0).abs() < 1e-5);
    }
}
