//! The packed decoder against what the reference recorded: logits of whole, chunked and ragged batches, YaRN, 8 bits.
//! fp32 within 2e-5; the greedy completion is in `parity_forward`, which decodes through it.

mod common;

use std::path::Path;

use common::{json, variants};
use minimind::checkpoint::load::{load_model, named_tensors};
use minimind::model::{CausalLm, ModelOverrides};
use minimind::native::{Network, PAGE, StepTokens, Storage};
use minimind::rollout::packing::pack_network;
use tch::{Device, Kind, Tensor};

const TOLERANCE: f32 = 2e-5;

fn model(fixture: &Path) -> CausalLm {
    let config = ModelOverrides::from_json(&json(&fixture.join("config.json")))
        .expect("keys")
        .resolve()
        .expect("a model");
    load_model(&fixture.join("weights_fp32.pth"), Some(&config), Device::Cpu, Kind::Float)
        .expect("loads")
        .model
}

fn whole(t: &Tensor) -> Vec<i32> {
    Vec::<i64>::try_from(&t.reshape([-1])).expect("ids").into_iter().map(|id| id as i32).collect()
}

fn floats(t: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(&t.to_kind(Kind::Float).reshape([-1])).expect("numbers")
}

/// Logits of every token of ragged rows; `cut` tokens of each row in a first step, the rest in a second.
fn logits(net: &mut Network, rows: &[Vec<i32>], cut: usize) -> Vec<Vec<f32>> {
    let (vocab, longest) = (net.sizes().vocab, rows.iter().map(Vec::len).max().expect("rows"));
    let columns = longest.div_ceil(PAGE);
    let mut cache = net.cache(columns * rows.len()).expect("memory");
    let mut all = vec![Vec::new(); rows.len()];
    for (from, to) in [(0, cut), (cut, longest)] {
        let (mut ids, mut positions, mut starts, mut pages) = (Vec::new(), Vec::new(), vec![0], Vec::new());
        let mut whose = Vec::new();
        for (row, tokens) in rows.iter().enumerate() {
            let part = from.min(tokens.len())..to.min(tokens.len());
            if part.is_empty() {
                continue;
            }
            positions.extend(part.clone().map(|p| p as i32));
            ids.extend_from_slice(&tokens[part.clone()]);
            starts.push(ids.len() as i32);
            pages.extend((row * columns..(row + 1) * columns).map(|p| p as i32));
            whose.extend(part.map(|_| row));
        }
        if ids.is_empty() {
            continue;
        }
        let outputs: Vec<i32> = (0..ids.len() as i32).collect();
        let step = StepTokens {
            ids: &ids,
            positions: &positions,
            starts: &starts,
            pages: &pages,
            max_pages: columns,
            output_rows: &outputs,
        };
        let mut out = vec![0.0; ids.len() * vocab];
        assert_eq!(net.step(&mut cache, &step, &mut out, &mut []).expect("a step"), 0);
        whose.iter().zip(out.chunks(vocab)).for_each(|(&row, logits)| all[row].extend(logits));
    }
    all
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (x, y)| if (x - y).abs() > most { (x - y).abs() } else { most })
}

#[test]
fn logits_whole_chunked_and_ragged() {
    for fixture in variants("forward.safetensors") {
        let tensors = named_tensors(&fixture.join("forward.safetensors")).expect("tensors");
        let mut net = pack_network(&model(&fixture), Storage::F32, 2, 64).expect("packs");
        let (b, t) = tensors["input_ids"].size2().expect("[B, T]");
        let ids: Vec<Vec<i32>> =
            whole(&tensors["input_ids"]).chunks(t as usize).map(<[i32]>::to_vec).collect();
        let got = logits(&mut net, &ids, t as usize);
        let far = farthest(&got.concat(), &floats(&tensors["logits"]));
        assert!(far <= TOLERANCE, "{}: {far}", fixture.display());
        for cut in [1, 7, t as usize - 1] {
            assert!(logits(&mut net, &ids, cut) == got, "chunks change a bit");
        }
        // Left padding upstream is a shorter row here: positions count from its first token, which changes rounding alone.
        let mask = whole(&tensors["attention_mask"]);
        let recorded = floats(&tensors["logits_left_padded"]);
        let vocab = net.sizes().vocab;
        let skipped: Vec<usize> =
            mask.chunks(t as usize).map(|row| row.iter().filter(|&&m| m == 0).count()).collect();
        assert!(skipped.iter().any(|&n| n > 0));
        let ragged: Vec<Vec<i32>> = ids.iter().zip(&skipped).map(|(row, &n)| row[n..].to_vec()).collect();
        for (row, got) in logits(&mut net, &ragged, 3).iter().enumerate() {
            let want = &recorded[(row * t as usize + skipped[row]) * vocab..(row + 1) * t as usize * vocab];
            let far = farthest(got, want);
            assert!(far <= TOLERANCE, "{} row {row} of {b}: {far}", fixture.display());
        }
    }
}

#[test]
fn yarn_over_2300_tokens() {
    for fixture in variants("yarn.safetensors") {
        let tensors = named_tensors(&fixture.join("yarn.safetensors")).expect("tensors");
        let ids = whole(&tensors["input_ids"]);
        let mut net = pack_network(&model(&fixture).with_yarn(), Storage::F32, 2, ids.len()).expect("packs");
        let recorded = floats(&tensors["logits_last8"]);
        let got = logits(&mut net, std::slice::from_ref(&ids), 1000);
        let far = farthest(&got[0][got[0].len() - recorded.len()..], &recorded);
        assert!(far <= TOLERANCE, "{}: {far}", fixture.display());
    }
}

#[test]
fn narrow_storage_stays_near() {
    for fixture in variants("forward.safetensors") {
        let tensors = named_tensors(&fixture.join("forward.safetensors")).expect("tensors");
        let (_, t) = tensors["input_ids"].size2().expect("[B, T]");
        let ids: Vec<Vec<i32>> =
            whole(&tensors["input_ids"]).chunks(t as usize).map(<[i32]>::to_vec).collect();
        let want = floats(&tensors["logits"]);
        let size = (want.iter().map(|x| f64::from(x * x)).sum::<f64>() / want.len() as f64).sqrt();
        let model = model(&fixture);
        for (storage, bound) in [(Storage::F16, 2e-3), (Storage::Bf16, 2e-2), (Storage::Int8, 3e-2)] {
            let mut net = pack_network(&model, storage, 1, 64).expect("packs");
            let got = logits(&mut net, &ids, 5).concat();
            let sum: f64 = got.iter().zip(&want).map(|(a, b)| f64::from((a - b) * (a - b))).sum();
            let error = (sum / want.len() as f64).sqrt() / size;
            println!("{}: {storage:?} {error:.1e} of the logits' size", fixture.display());
            assert!(error > 0.0 && error < bound, "{storage:?}: {error}");
        }
    }
}
