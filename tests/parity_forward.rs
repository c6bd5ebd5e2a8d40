//! The model's forward pass against what the reference recorded: logits, left padding, losses, greedy
//! completion, YaRN. fp32, CPU; tolerance 2e-5.

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use common::{json, number, variants};
use minimind::checkpoint::load::{load_model, named_tensors};
use minimind::loss::cross_entropy::{Targets, mean};
use minimind::model::{CausalLm, Mask, ModelConfig, ModelOverrides, padded_causal_mask};
use minimind::rollout::{GenerateConfig, generate};
use ndarray::Array2;
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 2e-5;

fn config(fixture: &Path) -> ModelConfig {
    ModelOverrides::from_json(&json(&fixture.join("config.json"))).expect("keys").resolve().expect("a model")
}

fn model(fixture: &Path, config: &ModelConfig) -> CausalLm {
    load_model(&fixture.join("weights_fp32.pth"), Some(config), Device::Cpu, Kind::Float)
        .expect("loads")
        .model
}

fn farthest(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

fn host(t: &Tensor) -> Array2<i64> {
    let (rows, columns) = t.size2().expect("[B, T]");
    let mut flat = vec![0i64; (rows * columns) as usize];
    let n = flat.len();
    t.copy_data(&mut flat, n);
    Array2::from_shape_vec((rows as usize, columns as usize), flat).expect("[B, T]")
}

#[test]
fn logits_losses_and_left_padding() {
    for fixture in variants("forward.safetensors") {
        let recorded = json(&fixture.join("forward.json"));
        let tensors = named_tensors(&fixture.join("forward.safetensors")).expect("tensors");
        let model = model(&fixture, &config(&fixture));
        let _no_grad = tch::no_grad_guard();
        let ids = &tensors["input_ids"];
        let (hidden, _) = model.hidden(ids, Mask::Causal, false);
        let far = farthest(&model.logits(&hidden), &tensors["logits"]);
        let targets = Targets::new(&host(&tensors["labels"]), Device::Cpu);
        let loss = mean(&hidden, model.lm_head(), &targets).expect("a loss").double_value(&[]);
        let (trained, aux) = model.hidden(ids, Mask::Causal, true);
        let train_loss = mean(&trained, model.lm_head(), &targets).expect("a loss").double_value(&[]);
        let aux = aux.map_or(0.0, |a| a.double_value(&[]));

        let attention = &tensors["attention_mask"];
        let mask = padded_causal_mask(attention);
        let (padded, _) = model.hidden(ids, Mask::Additive(&mask), false);
        let real = attention.to_kind(Kind::Float).unsqueeze(-1);
        let padded_far =
            farthest(&(model.logits(&padded) * &real), &(&tensors["logits_left_padded"] * &real));

        println!("{}: logits {far:.1e}, left-padded {padded_far:.1e}", fixture.display());
        assert!(far <= TOLERANCE && padded_far <= TOLERANCE);
        for (got, key) in [(loss, "loss"), (train_loss, "train_mode_loss"), (aux, "train_mode_aux_loss")] {
            assert!((got - number(&recorded, key)).abs() <= TOLERANCE, "{key}: {got}");
        }
    }
}

#[test]
fn greedy_completion() {
    for fixture in variants("forward.json") {
        let recorded = json(&fixture.join("forward.json"));
        let list = |key: &str| -> Vec<u32> { serde_json::from_value(recorded[key].clone()).expect("ids") };
        let model = model(&fixture, &config(&fixture));
        let want = list("greedy_completion");
        let settings = GenerateConfig::greedy(want.len(), &[]);
        let all = &mut |_| ControlFlow::Continue(());
        assert_eq!(generate(&model, &list("greedy_prompt"), &settings, all).expect("ids").ids, want);
    }
}

#[test]
fn yarn_over_2300_tokens() {
    for fixture in variants("yarn.safetensors") {
        let tensors = named_tensors(&fixture.join("yarn.safetensors")).expect("tensors");
        let model = model(&fixture, &config(&fixture)).with_yarn();
        let _no_grad = tch::no_grad_guard();
        let ids = &tensors["input_ids"];
        let (_, t) = ids.size2().expect("[B, T]");
        let (hidden, _) = model.hidden(ids, Mask::Causal, false);
        let far = farthest(&model.logits(&hidden.narrow(1, t - 8, 8)), &tensors["logits_last8"]);
        println!("{}: {far:.1e}", fixture.display());
        assert!(far <= TOLERANCE, "{far}");
    }
}
