//! Each mixed-precision op, its kernels run on the CPU, against the eager form in double precision: in fp32 closely, in
//! bf16 within its rounding.

use super::*;

const NO_BIAS: Option<&Tensor> = None;

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Values and gradients of `fused` (given the inputs and the kind of products) and of `eager` in double precision.
fn compare(
    what: &str,
    inputs: &[Tensor],
    narrow: usize,
    fused: &dyn Fn(&[Tensor], Kind) -> Vec<Tensor>,
    eager: &dyn Fn(&[Tensor]) -> Vec<Tensor>,
) {
    for (kind, near) in [(Kind::Float, 2e-5), (Kind::BFloat16, 3e-2)] {
        // The first `narrow` inputs are of the products' kind; the yardstick sees them as they are then.
        let given: Vec<Tensor> = inputs
            .iter()
            .enumerate()
            .map(|(i, t)| {
                (if i < narrow { t.to_kind(kind) } else { t.shallow_clone() }).copy().set_requires_grad(true)
            })
            .collect();
        let exact: Vec<Tensor> =
            given.iter().map(|t| t.detach().to_kind(Kind::Double).set_requires_grad(true)).collect();
        let (got, want) = (fused(&given, kind), eager(&exact));
        let mut losses = (Tensor::from(0f64), Tensor::from(0f64));
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            let apart = ((g.to_kind(Kind::Double) - w).abs().max() / w.abs().max()).double_value(&[]);
            assert!(apart < near, "{what}, {kind:?}: value {i} differs by {apart:e}");
            let pull = w.detach().randn_like();
            losses.0 += (g.to_kind(Kind::Double) * &pull).sum(Kind::Double);
            losses.1 += (w * pull).sum(Kind::Double);
        }
        losses.0.backward();
        losses.1.backward();
        for (i, (a, b)) in given.iter().zip(&exact).enumerate() {
            assert_eq!(a.grad().kind(), a.kind(), "{what}: gradient {i}");
            let (a, b) = (a.grad().to_kind(Kind::Double), b.grad());
            let apart = ((&a - &b).norm() / b.norm()).double_value(&[]);
            assert!(apart < near, "{what}, {kind:?}: gradient {i} differs by {apart:e}");
        }
    }
}

fn eager_norm(x: &Tensor, w: &Tensor, eps: f64) -> Tensor {
    x * (x.square().mean_dim([-1i64].as_slice(), true, x.kind()) + eps).rsqrt() * w
}

#[test]
fn norms_add_what_is_due_and_keep_the_stream_wide() {
    tch::manual_seed(1);
    for (n, d) in [(3, 4), (70, 96), (41, 768)] {
        compare(
            "norm",
            &[random(&[n, d]), random(&[d])],
            0,
            &|t, kind| vec![rms_norm(&t[0], &t[1], 1e-5, kind).unwrap()],
            &|t| vec![eager_norm(&t[0], &t[1], 1e-5)],
        );
        // y first: what a block gives is of the products' kind, the stream and the weight fp32.
        compare(
            "add and norm",
            &[random(&[n, d]), random(&[n, d]), random(&[d])],
            1,
            &|t, kind| {
                let (sum, out) = add_rms_norm(&t[1], &t[0], &t[2], 1e-6, kind).unwrap();
                assert_eq!((sum.kind(), out.kind()), (Kind::Float, kind));
                vec![sum, out]
            },
            &|t| vec![&t[1] + &t[0], eager_norm(&(&t[1] + &t[0]), &t[2], 1e-6)],
        );
        compare(
            "add and norm, wide",
            &[random(&[n, d]), random(&[n, d]), random(&[d])],
            1,
            &|t, _| {
                let (sum, out) = add_rms_norm(&t[1], &t[0], &t[2], 1e-6, Kind::Float).unwrap();
                vec![sum, out]
            },
            &|t| vec![&t[1] + &t[0], eager_norm(&(&t[1] + &t[0]), &t[2], 1e-6)],
        );
    }
    // A model in bf16 altogether, and a stream whose norm is not looked at.
    let [x, y, w] =
        [&[5, 8][..], &[5, 8], &[8]].map(|s| random(s).to_kind(Kind::BFloat16).set_requires_grad(true));
    let (sum, out) = add_rms_norm(&x, &y, &w, 1e-6, Kind::BFloat16).unwrap();
    assert_eq!((sum.kind(), out.kind()), (Kind::BFloat16, Kind::BFloat16));
    sum.sum(Kind::Float).backward();
    assert_eq!(y.grad().to_kind(Kind::Float).sum(Kind::Float).double_value(&[]), 40.0);
}

fn rotated(x: &Tensor, norm: Option<(&Tensor, f64)>, cos: &Tensor, sin: &Tensor, start: i64) -> Tensor {
    let (_, t, _, e) = x.size4().unwrap();
    let x = norm.map_or_else(|| x.shallow_clone(), |(w, eps)| eager_norm(x, w, eps));
    let rows = |table: &Tensor| table.narrow(0, start, t).unsqueeze(1);
    let (first, second) = (x.narrow(-1, 0, e / 2), x.narrow(-1, e / 2, e / 2));
    x * rows(cos) + Tensor::cat(&[second.neg(), first], -1) * rows(sin)
}

/// One token a row, to the place in the caches that lies on the device; then attention over what they hold.
fn one_token_a_row((cos, sin): (&Tensor, &Tensor), sizes: Heads) {
    let Heads { start, heads: h, kv_heads: kv, head_dim: e, .. } = sizes;
    let (b, capacity) = (3, 9);
    let caches = || (random(&[b, kv, capacity, e]), random(&[b, kv, capacity, e]));
    let ((keys, values), place) = (caches(), Tensor::from_slice(&[start + 2]));
    let before = keys.copy();
    let into = Caches { keys: &keys, values: &values, place: &place };
    let joined = random(&[b, (h + 2 * kv) * e]);
    let q = rope_into_cache(&joined, None, (cos, sin), into, Heads { length: 1, ..sizes }).unwrap();
    let part = |from: i64, n: i64| joined.narrow(1, from * e, n * e).reshape([b, 1, n, e]);
    let held = |cache: &Tensor| cache.narrow(2, start + 2, 1).transpose(1, 2);
    for (made, want) in [(q.shallow_clone(), part(0, h)), (held(&keys), part(h, kv))] {
        let apart = (made - rotated(&want, None, cos, sin, start + 2)).abs().max();
        assert!(apart.double_value(&[]) < 1e-5);
    }
    assert_eq!(held(&values), part(h + kv, kv));
    assert_eq!(keys.narrow(2, 0, start + 2), before.narrow(2, 0, start + 2));
    let seen = |cache: &Tensor| cache.narrow(2, 0, start + 3).repeat_interleave_self_int(h / kv, 1, None);
    let want = Tensor::scaled_dot_product_attention(
        &q.transpose(1, 2),
        &seen(&keys),
        &seen(&values),
        None::<&Tensor>,
        0.0,
        false,
        None,
        false,
    );
    let got = attend_cached(&q, into).unwrap().view([b, h, 1, e]);
    assert!((&got - want).abs().max().double_value(&[]) < 1e-5);
    // The same with a place for each row, one of which stands elsewhere.
    let places = Tensor::from_slice(&[start + 2, start, start + 2]);
    let apart = Caches { place: &places, ..into };
    let _ = rope_into_cache(&joined, None, (cos, sin), apart, Heads { length: 1, ..sizes }).unwrap();
    let own = rotated(&part(h, kv).narrow(0, 1, 1), None, cos, sin, start).squeeze();
    assert!((keys.select(0, 1).select(1, start).squeeze() - own).abs().max().double_value(&[]) < 1e-5);
    let again = attend_cached(&q, apart).unwrap().view([b, h, 1, e]);
    assert!((again.select(0, 0) - got.select(0, 0)).abs().max().double_value(&[]) < 1e-6);
    assert!((again.select(0, 1) - got.select(0, 1)).abs().max().double_value(&[]) > 1e-3);
}

#[test]
fn heads_are_multiplied_normed_and_rotated() {
    tch::manual_seed(2);
    for (h, kv, e, start) in [(4, 2, 8, 0), (2, 2, 16, 3), (6, 1, 96, 0)] {
        let (b, t, d) = (2, 5, 12);
        let angles = random(&[9, e / 2]);
        let twice = Tensor::cat(&[&angles, &angles], -1);
        let (cos, sin) = (twice.cos(), twice.sin());
        let sizes = Heads { length: t, start, heads: h, kv_heads: kv, head_dim: e };
        for normed in [true, false] {
            let mut inputs = vec![random(&[b, t, d])];
            inputs.extend([h, kv, kv].map(|n| random(&[n * e, d])));
            if normed {
                inputs.extend([random(&[e]), random(&[e])]);
            }
            compare(
                "heads",
                &inputs,
                1,
                &|i, _| {
                    let norms = normed.then(|| (&i[4], &i[5], 1e-6));
                    qkv_rope(&i[0], [&i[1], &i[2], &i[3]], norms, (&cos, &sin), sizes).unwrap().into()
                },
                &|i| {
                    let split = |w: &Tensor, n: i64| i[0].linear(w, NO_BIAS).view([b, t, n, e]);
                    let norm = |at: usize| normed.then(|| (&i[at], 1e-6));
                    let (cos, sin) = (cos.to_kind(Kind::Double), sin.to_kind(Kind::Double));
                    vec![
                        rotated(&split(&i[1], h), norm(4), &cos, &sin, start),
                        rotated(&split(&i[2], kv), norm(5), &cos, &sin, start),
                        split(&i[3], kv),
                    ]
                },
            );
        }
        one_token_a_row((&cos, &sin), sizes);
    }
    let short = (random(&[4, 8]), random(&[4, 8]));
    let sizes = Heads { length: 5, start: 0, heads: 1, kv_heads: 1, head_dim: 8 };
    let w = random(&[8, 4]);
    assert!(qkv_rope(&random(&[5, 4]), [&w, &w, &w], None, (&short.0, &short.1), sizes).is_err());
}

#[test]
fn products_and_the_feed_forward_equal_the_eager_ones() {
    tch::manual_seed(3);
    compare(
        "product",
        &[random(&[2, 7, 12]), random(&[9, 12])],
        1,
        &|i, _| vec![linear(&i[0], &i[1]).unwrap()],
        &|i| vec![i[0].linear(&i[1], NO_BIAS)],
    );
    compare(
        "feed-forward",
        &[random(&[2, 11, 8]), random(&[20, 8]), random(&[20, 8]), random(&[8, 20])],
        1,
        &|i, _| vec![swiglu(&i[0], &i[1], &i[2], &i[3]).unwrap()],
        &|i| {
            let inner = i[0].linear(&i[1], NO_BIAS).silu() * i[0].linear(&i[2], NO_BIAS);
            vec![inner.linear(&i[3], NO_BIAS)]
        },
    );
    let (x, w) = (random(&[3, 12]), random(&[9, 12]));
    assert!(
        (linear_few(&x, &w, Kind::Float).unwrap() - x.matmul(&w.tr())).abs().max().double_value(&[]) < 1e-5
    );
    let half = linear_few(&x.to_kind(Kind::BFloat16), &w.to_kind(Kind::BFloat16), Kind::Float).unwrap();
    assert!((half - x.matmul(&w.tr())).abs().max().double_value(&[]) < 0.1);
    assert!(linear_few(&random(&[5, 12]), &w, Kind::Float).is_err());
    let both = random(&[6, 16]);
    let want = both.narrow(1, 0, 8).silu() * both.narrow(1, 8, 8);
    assert!((silu_mul(&both).unwrap() - want).abs().max().double_value(&[]) < 1e-5);
}

#[test]
fn the_cross_entropy_is_that_of_the_counted_rows() {
    tch::manual_seed(4);
    let tokens = Tensor::from_slice(&[3i64, -100, 0, 19, 7]);
    let counted = Tensor::from_slice(&[0i64, 2, 3, 4]);
    let weights = Tensor::from_slice(&[1f32, 5.0, 2.0, 1.0, 0.5]);
    // A vocabulary whose logits a lane keeps, and one that is read again.
    for (weigh, vocab) in [(false, 20), (true, 20), (true, 100)] {
        compare(
            "cross-entropy",
            &[random(&[5, 8]), random(&[vocab, 8]) * 4],
            0,
            &|i, kind| {
                let weights = weigh.then_some(&weights);
                let entropy =
                    CrossEntropy { hidden: &i[0], lm_head: &i[1], tokens: &tokens, weights, dtype: kind };
                let (loss, scaled, each) = entropy.sum_with_grad(&Tensor::from(0.5f32)).unwrap();
                assert!(!loss.requires_grad() && entropy.sum().unwrap().0.equal(&loss));
                assert!(!each.requires_grad() && each.double_value(&[1]) == 0.0 && each.size() == [5]);
                assert!((each.sum(Kind::Float) - &loss).abs().double_value(&[]) < 1e-4);
                vec![scaled]
            },
            &|i| {
                let logits = i[0].linear(&i[1], NO_BIAS).index_select(0, &counted);
                let each = logits.cross_entropy_loss(
                    &tokens.index_select(0, &counted),
                    None::<&Tensor>,
                    tch::Reduction::None,
                    -100,
                    0.0,
                );
                let weights = weights.index_select(0, &counted).to_kind(Kind::Double);
                vec![(if weigh { each * weights } else { each }).sum(Kind::Double) * 0.5]
            },
        );
    }
    // A logit that is not a number is not hidden.
    let hidden = Tensor::full([1, 4], f64::NAN, (Kind::Float, Device::Cpu));
    let (lm_head, tokens) = (random(&[8, 4]), Tensor::from_slice(&[2i64]));
    let entropy = CrossEntropy {
        hidden: &hidden,
        lm_head: &lm_head,
        tokens: &tokens,
        weights: None,
        dtype: Kind::Float,
    };
    assert!(entropy.sum().unwrap().0.double_value(&[]).is_nan());
}
