//! Each fused op against the eager form in double precision, and against finite differences.

use super::*;

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true)
}

/// Values and gradients of the fused op and of the same arithmetic in eager double precision.
fn compare(
    inputs: &[Tensor],
    fused: &dyn Fn(&[Tensor]) -> Vec<Tensor>,
    eager: &dyn Fn(&[Tensor]) -> Vec<Tensor>,
) {
    let exact: Vec<Tensor> =
        inputs.iter().map(|t| t.detach().to_kind(Kind::Double).set_requires_grad(true)).collect();
    let (got, want) = (fused(inputs), eager(&exact));
    let mut losses = (Tensor::from(0f32), Tensor::from(0f64));
    for (g, w) in got.iter().zip(&want) {
        let apart = (g.to_kind(Kind::Double) - w).abs().max().double_value(&[]);
        assert!(apart < 5e-6, "values differ by {apart:e}");
        let pull = w.detach().randn_like();
        losses.0 += (g * pull.to_kind(Kind::Float)).sum(Kind::Float);
        losses.1 += (w * pull).sum(Kind::Double);
    }
    losses.0.backward();
    losses.1.backward();
    for (i, (a, b)) in inputs.iter().zip(&exact).enumerate() {
        let (a, b) = (a.grad().to_kind(Kind::Double), b.grad());
        let apart = ((&a - &b).abs().max() / b.abs().max().clamp_min(1.0)).double_value(&[]);
        assert!(apart < 1e-5, "gradient {i} differs by {apart:e}");
    }
}

fn eager_norm(x: &Tensor, w: &Tensor, eps: f64) -> Tensor {
    x * (x.square().mean_dim([-1i64].as_slice(), true, x.kind()) + eps).rsqrt() * w
}

#[test]
fn norms_equal_eager_ones_and_their_gradients_too() {
    tch::manual_seed(1);
    for d in [5, 16, 37, 512] {
        compare(
            &[random(&[3, 7, d]), random(&[d])],
            &|t| vec![rms_norm(&t[0], &t[1], 1e-5).unwrap()],
            &|t| vec![eager_norm(&t[0], &t[1], 1e-5)],
        );
        compare(
            &[random(&[41, d]), random(&[41, d]), random(&[d])],
            &|t| {
                let (sum, out) = add_rms_norm(&t[0], &t[1], &t[2], 1e-6).unwrap();
                vec![sum, out]
            },
            &|t| vec![&t[0] + &t[1], eager_norm(&(&t[0] + &t[1]), &t[2], 1e-6)],
        );
    }
}

/// `silu(gate) * up` by a feed-forward whose products only pick: x holds both side by side.
fn gate_alone(gate: &Tensor, up: &Tensor) -> Tensor {
    let n = gate.size()[1];
    let (one, none) =
        (Tensor::eye(n, (Kind::Float, Device::Cpu)), Tensor::zeros([n, n], (Kind::Float, Device::Cpu)));
    let pick = |a: &Tensor, b: &Tensor, dim: i64| Tensor::cat(&[a, b], dim);
    let x = pick(gate, up, 1);
    swiglu(&x, &pick(&one, &none, 1), &pick(&none, &one, 1), &pick(&one, &none, 0)).unwrap().narrow(1, 0, n)
}

#[test]
fn the_gate_equals_the_eager_one_far_out_too() {
    tch::manual_seed(2);
    let wide = (Tensor::randn([9, 77], (Kind::Float, Device::Cpu)) * 40).set_requires_grad(true);
    compare(&[wide, random(&[9, 77])], &|t| vec![gate_alone(&t[0], &t[1]) * 0.01], &|t| {
        vec![t[0].silu() * &t[1] * 0.01]
    });
}

#[test]
fn joined_products_equal_separate_ones() {
    tch::manual_seed(5);
    let no_bias = None::<&Tensor>;
    compare(
        &[random(&[2, 9, 12]), random(&[8, 12]), random(&[4, 12]), random(&[5, 12])],
        &|i| linears(&i[0], [&i[1], &i[2], &i[3]]).unwrap().into(),
        &|i| i[1..].iter().map(|w| i[0].linear(w, no_bias)).collect(),
    );
    // One of two is not asked for its gradient.
    let (x, w) = (random(&[3, 6]), random(&[2, 6]));
    let frozen = random(&[7, 6]).detach();
    let [a, b] = linears(&x, [&frozen, &w]).unwrap();
    (a.sum(Kind::Float) + b.square().sum(Kind::Float)).backward();
    assert!(!frozen.grad().defined() && w.grad().size() == [2, 6] && x.grad().size() == [3, 6]);
}

#[test]
fn the_feed_forward_equals_the_eager_one() {
    tch::manual_seed(6);
    let no_bias = None::<&Tensor>;
    compare(
        &[random(&[2, 11, 6]), random(&[17, 6]), random(&[17, 6]), random(&[6, 17])],
        &|i| vec![swiglu(&i[0], &i[1], &i[2], &i[3]).unwrap() * 0.1],
        &|i| {
            let inner = i[0].linear(&i[1], no_bias).silu() * i[0].linear(&i[2], no_bias);
            vec![inner.linear(&i[3], no_bias) * 0.1]
        },
    );
}

/// The slope of a fused op against `(f(x + h) - f(x - h)) / 2h`, along a random direction of each input.
#[test]
fn gradients_are_the_slopes_of_finite_differences() {
    tch::manual_seed(8);
    let table = Tensor::rand([9, 4], (Kind::Float, Device::Cpu)) * 6;
    let (cos, sin) = (table.cos(), table.sin());
    type Op<'a> = (&'a str, Vec<Tensor>, &'a dyn Fn(&[Tensor]) -> Tensor);
    let ops: [Op<'_>; 6] = [
        ("norm", vec![random(&[4, 6]), random(&[4, 6]), random(&[6])], &|i| {
            let (sum, out) = add_rms_norm(&i[0], &i[1], &i[2], 1e-6).unwrap();
            sum * 0.3 + out
        }),
        ("gate", vec![random(&[4, 6]), random(&[4, 6])], &|i| gate_alone(&i[0], &i[1])),
        ("rope", vec![random(&[1, 3, 2, 4]), random(&[4])], &|i| {
            norm_rope(&i[0], Some((&i[1], 1e-6)), (&cos, &sin), 2).unwrap()
        }),
        ("joined", vec![random(&[4, 6]), random(&[3, 6]), random(&[3, 6])], &|i| {
            let [a, b] = linears(&i[0], [&i[1], &i[2]]).unwrap();
            a * b
        }),
        ("mlp", vec![random(&[4, 6]), random(&[5, 6]), random(&[5, 6]), random(&[6, 5])], &|i| {
            swiglu(&i[0], &i[1], &i[2], &i[3]).unwrap()
        }),
        ("attention", vec![random(&[1, 5, 2, 16]), random(&[1, 5, 1, 16]), random(&[1, 5, 1, 16])], &|i| {
            attend(&i[0], &i[1], &i[2], &[2, 3]).unwrap()
        }),
    ];
    for (name, inputs, op) in ops {
        let pull = op(&inputs).detach().randn_like();
        let value = |i: &[Tensor]| (op(i) * &pull).sum(Kind::Double);
        value(&inputs).backward();
        for at in 0..inputs.len() {
            let way = inputs[at].detach().randn_like();
            let moved = |h: f64| {
                let mut there: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
                there[at] = &there[at] + &way * h;
                value(&there).double_value(&[])
            };
            let h = 1e-2;
            let slope = (moved(h) - moved(-h)) / (2.0 * h);
            let want = (inputs[at].grad() * way).sum(Kind::Double).double_value(&[]);
            assert!((slope - want).abs() < 4e-3 * (1.0 + want.abs()), "{name} {at}: {slope} {want}");
        }
    }
}

#[test]
fn other_types_do_not_fit() {
    let x = Tensor::zeros([2], (Kind::Float, Device::Cpu));
    assert!(fits(&[&x]) && !fits(&[&x, &x.to_kind(Kind::Double)]) && !fits(&[&x.narrow(0, 0, 0)]));
    let autocast = crate::native::AutocastGuard::new(Device::Cpu, Kind::BFloat16).unwrap();
    assert!(!fits(&[&x]));
    drop(autocast);
    assert!(fits(&[&x]));
    assert!(rms_norm(&x.to_kind(Kind::Double), &x, 1e-6).is_err());
    assert!(linears(&x, [&x]).is_err());
}

#[test]
fn heads_are_normed_and_turned_as_eager_ones() {
    tch::manual_seed(3);
    let (b, t, h, e, start) = (2, 5, 3, 12, 4);
    let angles = Tensor::rand([20, e / 2], (Kind::Double, Device::Cpu)) * 6;
    let both = |x: Tensor| Tensor::cat(&[&x, &x], -1);
    let (cos, sin) = (both(angles.cos()), both(angles.sin()));
    let (cos32, sin32) = (cos.to_kind(Kind::Float), sin.to_kind(Kind::Float));
    let turned = |x: &Tensor| {
        let (first, second) = (x.narrow(-1, 0, e / 2), x.narrow(-1, e / 2, e / 2));
        let row = |table: &Tensor| table.narrow(0, start, t).unsqueeze(1);
        x * row(&cos) + Tensor::cat(&[&second.neg(), &first], -1) * row(&sin)
    };
    compare(
        &[random(&[b, t, h, e]), random(&[e])],
        &|i| vec![norm_rope(&i[0], Some((&i[1], 1e-6)), (&cos32, &sin32), start).unwrap()],
        &|i| vec![turned(&eager_norm(&i[0], &i[1], 1e-6))],
    );
    compare(
        &[random(&[b, t, h, e])],
        &|i| vec![norm_rope(&i[0], None, (&cos32, &sin32), start).unwrap()],
        &|i| vec![turned(&i[0])],
    );
    let odd = random(&[1, 1, 1, 7]);
    assert!(norm_rope(&odd, None, (&cos32, &sin32), 0).is_err());
}

#[test]
fn gradients_do_not_depend_on_the_threads() {
    let before = tch::get_num_threads();
    let (x, w) = (random(&[200, 64]), random(&[64]));
    let qkv = [random(&[1, 150, 4, 16]), random(&[1, 150, 2, 16]), random(&[1, 150, 2, 16])];
    let grads = [1, 2, 3].map(|threads| {
        tch::set_num_threads(threads);
        let again = |t: &Tensor| t.detach().set_requires_grad(true);
        let (x, w) = (again(&x), again(&w));
        rms_norm(&x, &w, 1e-6).unwrap().sum(Kind::Float).backward();
        let [q, k, v] = [0, 1, 2].map(|i| again(&qkv[i]));
        attend(&q, &k, &v, &[20, 100, 30]).unwrap().square().sum(Kind::Float).backward();
        [x.grad(), w.grad(), q.grad(), k.grad(), v.grad()]
    });
    tch::set_num_threads(before);
    assert!(grads.iter().all(|all| all.iter().zip(&grads[0]).all(|(one, first)| one.equal(first))));
}

/// Each sequence by itself, in the arithmetic of the inputs; lengths add up to the rows' tokens.
fn eager_attention(q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[i64]) -> Tensor {
    let (heads, kv_heads, e) = (q.size()[2], k.size()[2], q.size()[3]);
    // [H, B T, E]
    let flat = |x: &Tensor| x.reshape([-1, x.size()[2], e]).transpose(0, 1);
    let group = |x: &Tensor| flat(x).repeat_interleave_self_int(heads / kv_heads, 0, None);
    let (queries, keys, values) = (flat(q), group(k), group(v));
    let mut start = 0;
    let made: Vec<Tensor> = lengths
        .iter()
        .map(|&n| {
            let [q, k, v] = [&queries, &keys, &values].map(|x| x.narrow(1, start, n));
            start += n;
            let unseen = Tensor::ones([n, n], (Kind::Bool, Device::Cpu)).triu(1);
            let scores =
                (q.matmul(&k.transpose(1, 2)) / (e as f64).sqrt()).masked_fill(&unseen, f64::NEG_INFINITY);
            scores.softmax(-1, q.kind()).matmul(&v)
        })
        .collect();
    Tensor::cat(&made, 1).transpose(0, 1).reshape(q.size())
}

#[test]
fn attention_equals_the_eager_one() {
    tch::manual_seed(10);
    // Tiles are 96 tokens, kernels 12 or fewer rows and 16 columns: sizes around them, one token, documents in rows.
    let cases: [(i64, i64, i64, i64, &[i64]); 6] = [
        (2, 1, 4, 16, &[1, 1]),
        (2, 17, 4, 32, &[17, 17]),
        (1, 97, 2, 64, &[97]),
        (1, 205, 3, 80, &[205]),
        (2, 96, 6, 16, &[96, 5, 91]),
        (1, 300, 4, 48, &[1, 0, 193, 95, 11]),
    ];
    for (b, t, heads, e, lengths) in cases {
        for kv_heads in [1, heads] {
            let inputs =
                [random(&[b, t, heads, e]), random(&[b, t, kv_heads, e]), random(&[b, t, kv_heads, e])];
            compare(&inputs, &|i| vec![attend(&i[0], &i[1], &i[2], lengths).unwrap()], &|i| {
                vec![eager_attention(&i[0], &i[1], &i[2], lengths)]
            });
        }
    }
}

#[test]
fn attention_far_out_and_faults() {
    tch::manual_seed(12);
    // Scores of thousands: one key takes all, and nothing overflows.
    let wide =
        |shape: &[i64]| (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 60).set_requires_grad(true);
    let v = random(&[1, 130, 1, 16]);
    let (q, k) = (wide(&[1, 130, 1, 16]), wide(&[1, 130, 1, 16]));
    let got = attend(&q, &k, &v, &[130]).unwrap();
    let [q64, k64, v64] = [&q, &k, &v].map(|x| x.detach().to_kind(Kind::Double));
    let want = eager_attention(&q64, &k64, &v64, &[130]);
    assert!((got.to_kind(Kind::Double) - want).abs().max().double_value(&[]) < 1e-2);
    got.sum(Kind::Float).backward();
    assert!(
        q.grad().isfinite().all().int64_value(&[]) == 1 && k.grad().isfinite().all().int64_value(&[]) == 1
    );
    // What is not a number is not hidden.
    let bad = Tensor::full([1, 3, 1, 16], f64::NAN, (Kind::Float, Device::Cpu));
    let part = |n: i64| v.narrow(1, 0, n);
    assert!(attend(&bad, &part(3), &part(3), &[3]).unwrap().isnan().any().int64_value(&[]) == 1);
    // Lengths that do not fill, heads that do not divide, a width that does not fit.
    assert!(attend(&part(3), &part(3), &part(3), &[2]).is_err());
    assert!(attend(&part(3), &part(3), &part(3), &[4, -1]).is_err());
    let two = random(&[1, 3, 2, 16]);
    assert!(attend(&random(&[1, 3, 3, 16]), &two, &two, &[3]).is_err());
    let odd = random(&[1, 3, 1, 20]);
    assert!(!fits_head(20) && attend(&odd, &odd, &odd, &[3]).is_err());
}

#[test]
fn experts_equal_a_loop_over_them() {
    tch::manual_seed(9);
    let (n, d, inner, count) = (13, 6, 5, 4);
    for k in [1, 2] {
        // The last expert gets no token.
        let chosen = Tensor::rand([n, count - 1], (Kind::Float, Device::Cpu)).topk(k, -1, true, false).1;
        let mut inputs =
            vec![random(&[n, d]), Tensor::rand([n, k], (Kind::Float, Device::Cpu)).set_requires_grad(true)];
        for _ in 0..count {
            inputs.extend([random(&[inner, d]), random(&[inner, d]), random(&[d, inner])]);
        }
        let no_bias = None::<&Tensor>;
        compare(
            &inputs,
            &|i| {
                let weights: Vec<_> = i[2..].chunks(3).map(|w| (&w[0], &w[1], &w[2])).collect();
                vec![experts(&i[0], &i[1], &chosen, &weights).unwrap() * 0.1]
            },
            &|i| {
                let mut y = i[0].zeros_like();
                for (e, w) in i[2..].chunks(3).enumerate() {
                    let out = (i[0].linear(&w[0], no_bias).silu() * i[0].linear(&w[1], no_bias))
                        .linear(&w[2], no_bias);
                    let share = (chosen.eq(e as i64).to_kind(Kind::Double) * &i[1]).sum_dim_intlist(
                        [-1i64].as_slice(),
                        true,
                        Kind::Double,
                    );
                    y += out * share;
                }
                vec![y * 0.1]
            },
        );
        let wrong = chosen.full_like(count as f64);
        let weights: Vec<_> = inputs[2..].chunks(3).map(|w| (&w[0], &w[1], &w[2])).collect();
        assert!(experts(&inputs[0], &inputs[1], &wrong, &weights).is_err());
    }
}
