//! The packed decoder against the model it was packed from.

use tch::{Kind, Tensor};

use super::packing::pack_network;
use crate::model::rope_scaling::RopeScaling;
use crate::model::{Adapter, CausalLm, Era, Mask, ModelConfig, ModelOverrides, Params};
use crate::native::{Network, PAGE, StepTokens, Storage};

/// Fresh weights of two layers.
pub(super) fn tiny(era: Era, moe: bool, (hidden, vocab, positions): (i64, i64, i64)) -> CausalLm {
    let config = ModelOverrides {
        era: Some(era),
        hidden_size: Some(hidden),
        num_hidden_layers: Some(2),
        num_attention_heads: Some(4),
        num_key_value_heads: Some(2),
        vocab_size: Some(vocab),
        max_position_embeddings: Some(positions),
        use_moe: Some(moe),
        ..ModelOverrides::default()
    }
    .resolve()
    .unwrap();
    tch::manual_seed(3);
    CausalLm::new(&config, Params::init(&config, tch::Device::Cpu).unwrap())
}

pub(super) fn model(era: Era, moe: bool, hidden: i64) -> CausalLm {
    tiny(era, moe, (hidden, 77, 256))
}

fn all_models() -> Vec<CausalLm> {
    let mut all = Vec::new();
    for era in [Era::MiniMind2, Era::MiniMind3] {
        // 40: heads of 10, inputs that are no multiple of anything; 160: more than a block of int8.
        for hidden in [40, 160] {
            all.extend([model(era, false, hidden), model(era, true, hidden)]);
        }
    }
    all.push(biased());
    all
}

/// A model of another family: biases, and rotary positions stretched as its config states.
fn biased() -> CausalLm {
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original: 64.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.2,
    };
    let plain = model(Era::MiniMind3, false, 40).config().clone();
    let config = ModelConfig { qkv_bias: true, o_bias: true, rope_scaling: Some(yarn), ..plain };
    CausalLm::new(&config, Params::init(&config, tch::Device::Cpu).unwrap())
}

fn ids(n: usize) -> Vec<i32> {
    (0..n as i32).map(|i| (i * 31 + 7) % 77).collect()
}

/// Logits of every token of one sequence, computed in chunks.
fn logits(net: &mut Network, ids: &[i32], chunks: &[usize]) -> Vec<f32> {
    let mut cache = net.cache(ids.len().div_ceil(PAGE)).unwrap();
    let pages: Vec<i32> = (0..cache.count() as i32).rev().collect();
    let mut all = Vec::new();
    let mut done = 0;
    for &n in chunks {
        let positions: Vec<i32> = (done as i32..(done + n) as i32).collect();
        let rows: Vec<i32> = (0..n as i32).collect();
        let tokens = StepTokens {
            ids: &ids[done..done + n],
            positions: &positions,
            starts: &[0, n as i32],
            pages: &pages,
            max_pages: pages.len(),
            output_rows: &rows,
        };
        let mut out = vec![0.0; n * net.sizes().vocab];
        net.step(&mut cache, &tokens, &mut out, &mut []).unwrap();
        all.extend(out);
        done += n;
    }
    all
}

fn reference(model: &CausalLm, ids: &[i32]) -> Vec<f32> {
    let _no_grad = tch::no_grad_guard();
    let input = Tensor::from_slice(ids).to_kind(Kind::Int64).view([1, -1]);
    let (hidden, _) = model.hidden(&input, Mask::Causal, false);
    let flat = model.logits(&hidden).to_kind(Kind::Float).reshape([-1]);
    Vec::<f32>::try_from(&flat).unwrap()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most })
}

#[test]
fn logits_are_the_models_and_chunks_change_no_bit() {
    for model in all_models() {
        let mut net = pack_network(&model, Storage::F32, 2, 256).unwrap();
        let ids = ids(111);
        let whole = logits(&mut net, &ids, &[111]);
        let far = farthest(&whole, &reference(&model, &ids));
        assert!(far < 2e-5, "{:?}: {far}", model.config());
        let chunks = logits(&mut net, &ids, &[1, 1, 30, 3, 64, 7, 5]);
        assert!(whole == chunks);
        let mut one = pack_network(&model, Storage::F32, 1, 256).unwrap();
        assert!(whole == logits(&mut one, &ids, &[111]));
    }
}

#[test]
fn rows_of_a_step_do_not_see_each_other() {
    for model in all_models() {
        for storage in [Storage::F32, Storage::Bf16, Storage::F16, Storage::Int8] {
            let mut net = pack_network(&model, storage, 2, 256).unwrap();
            // Seven sequences of different lengths: prompts in one step, then one token each.
            let lengths = [3usize, 40, 1, 65, 32, 33, 9];
            let mut cache = net.cache(lengths.len() * 4).unwrap();
            let pages: Vec<i32> = (0..lengths.len() as i32 * 4).collect();
            let flat: Vec<i32> = lengths.iter().flat_map(|&n| ids(n)).collect();
            let positions: Vec<i32> = lengths.iter().flat_map(|&n| 0..n as i32).collect();
            let mut starts = vec![0];
            lengths.iter().for_each(|&n| starts.push(starts[starts.len() - 1] + n as i32));
            let lasts: Vec<i32> = starts[1..].iter().map(|end| end - 1).collect();
            let tokens = StepTokens {
                ids: &flat,
                positions: &positions,
                starts: &starts,
                pages: &pages,
                max_pages: 4,
                output_rows: &lasts,
            };
            let mut first = vec![0.0; lengths.len() * 77];
            net.step(&mut cache, &tokens, &mut first, &mut []).unwrap();
            let next: Vec<i32> = (0..7).collect();
            let at: Vec<i32> = lengths.iter().map(|&n| n as i32).collect();
            let ones: Vec<i32> = (0..=7).collect();
            let tokens = StepTokens {
                ids: &next,
                positions: &at,
                starts: &ones,
                pages: &pages,
                max_pages: 4,
                output_rows: &next,
            };
            let mut second = vec![0.0; lengths.len() * 77];
            net.step(&mut cache, &tokens, &mut second, &mut []).unwrap();
            for (row, &n) in lengths.iter().enumerate() {
                let mut alone = ids(n);
                alone.push(row as i32);
                let want = logits(&mut net, &alone, &[n, 1]);
                assert!(want[(n - 1) * 77..n * 77] == first[row * 77..(row + 1) * 77]);
                assert!(want[n * 77..] == second[row * 77..(row + 1) * 77]);
            }
        }
    }
}

#[test]
fn narrow_storage_is_as_near_as_its_rounding() {
    for model in all_models() {
        let ids = ids(50);
        let want = reference(&model, &ids);
        let spread = want.iter().map(|x| x * x).sum::<f32>().sqrt() / (want.len() as f32).sqrt();
        let error = |storage| {
            let got = logits(&mut pack_network(&model, storage, 1, 256).unwrap(), &ids, &[50]);
            let sum: f32 = got.iter().zip(&want).map(|(a, b)| (a - b) * (a - b)).sum();
            (sum / want.len() as f32).sqrt() / spread
        };
        let (half, bf16, int8) = (error(Storage::F16), error(Storage::Bf16), error(Storage::Int8));
        println!(
            "{:?} moe {}: fp16 {half:.1e} bf16 {bf16:.1e} int8 {int8:.1e}",
            model.config().era,
            model.config().moe.is_some()
        );
        // Relative to the logits' spread. A router that is near a tie may choose another expert.
        let slack = if model.config().moe.is_some() { 20.0 } else { 1.0 };
        assert!(half < 1e-3 * slack && bf16 < 8e-3 * slack && int8 < 1.5e-2 * slack);
        assert!(half > 0.0 && bf16 > half && int8 > half);
    }
}

#[test]
fn steps_that_make_no_sense_are_refused() {
    let model = model(Era::MiniMind2, false, 40);
    let mut net = pack_network(&model, Storage::F32, 1, 256).unwrap();
    let mut cache = net.cache(2).unwrap();
    let good = StepTokens {
        ids: &[1, 2],
        positions: &[0, 1],
        starts: &[0, 2],
        pages: &[0, 1],
        max_pages: 2,
        output_rows: &[1],
    };
    let mut out = vec![0.0; 77];
    net.step(&mut cache, &good, &mut out, &mut []).unwrap();
    for bad in [
        StepTokens { ids: &[1, 77], ..good },
        StepTokens { positions: &[0, 2], ..good },
        StepTokens { positions: &[63, 64], ..good },
        StepTokens { pages: &[2, 1], ..good },
        StepTokens { starts: &[0, 1], ..good },
        StepTokens { output_rows: &[2], ..good },
        StepTokens { output_rows: &[0, 1], ..good },
    ] {
        assert!(net.step(&mut cache, &bad, &mut out, &mut []).is_err());
    }
}

#[test]
fn an_adapter_decodes_as_it_trains() {
    let model = model(Era::MiniMind3, false, 40);
    let adapter = Adapter::fresh(model.config(), &["all-linear".to_owned()], 4, tch::Device::Cpu).unwrap();
    for tensor in adapter.tensors() {
        // B begins at zero: something that is felt.
        let _ = tensor.shallow_clone().f_normal_(0.0, 0.1).unwrap();
    }
    let bare = reference(&model, &ids(20));
    let adapted = model.with_adapter(adapter.scaled(0.5, 0.0));
    let want = reference(&adapted, &ids(20));
    let got = logits(&mut pack_network(&adapted, Storage::F32, 1, 64).unwrap(), &ids(20), &[20]);
    assert!(farthest(&bare, &want) > 1e-2);
    let far = farthest(&got, &want);
    assert!(far < 2e-5, "{far}");
}

#[test]
fn biases_are_added_where_a_model_has_them() {
    let config = ModelOverrides {
        era: Some(Era::MiniMind2),
        hidden_size: Some(40),
        num_hidden_layers: Some(2),
        num_attention_heads: Some(4),
        num_key_value_heads: Some(2),
        vocab_size: Some(77),
        max_position_embeddings: Some(64),
        qkv_bias: Some(true),
        o_bias: Some(true),
        mlp_bias: Some(true),
        tie_word_embeddings: Some(false),
        ..ModelOverrides::default()
    }
    .resolve()
    .unwrap();
    tch::manual_seed(4);
    let model = CausalLm::new(&config, Params::init(&config, tch::Device::Cpu).unwrap());
    assert!(model.params().names().iter().any(|name| name.ends_with("up_proj.bias")));
    let got = logits(&mut pack_network(&model, Storage::F32, 2, 64).unwrap(), &ids(33), &[32, 1]);
    let far = farthest(&got, &reference(&model, &ids(33)));
    assert!(far < 2e-5, "{far}");
}
