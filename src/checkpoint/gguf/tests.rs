//! Models through the file and back, and the block arithmetic against numbers worked out by hand.

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind};

use super::*;
use crate::checkpoint::{convert, gguf::ggml_type::floats};
use crate::checkpoint::{load_model, read_weights};
use crate::model::config::preset;
use crate::model::{CausalLm, Params};

/// A small model of a preset, its weights by upstream's names.
pub fn model(name: &str) -> (ModelConfig, HashMap<String, HostTensor>) {
    let mut stated = preset(name).unwrap();
    (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(64), Some(2), Some(70));
    (stated.num_attention_heads, stated.num_key_value_heads) = (Some(4), Some(2));
    let config = stated.resolve().unwrap();
    let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
    let names = model.params().names().iter().cloned();
    let hosts = convert::borrow_all(model.params().tensors().iter()).unwrap();
    (config, names.zip(hosts).collect())
}

pub fn words() -> Vocabulary {
    let tokens: Vec<String> = (0..60).map(|n| format!("t{n}")).collect();
    let mut kinds = vec![TokenKind::Normal; tokens.len()];
    (kinds[0], kinds[1], kinds[3]) = (TokenKind::Control, TokenKind::Control, TokenKind::UserDefined);
    let merges = vec![("t".to_owned(), "1".to_owned())];
    let template = Some("{{ messages }}".to_owned());
    let (bos, eos, pad, unknown) = (Some(1), Some(2), Some(0), None);
    Vocabulary {
        tokens,
        kinds,
        merges,
        pre: "gpt-2".to_owned(),
        bos,
        eos,
        pad,
        unknown,
        add_bos: false,
        template,
    }
}

pub fn write_model(
    path: &Path,
    name: &str,
    file_type: FileType,
) -> (ModelConfig, HashMap<String, HostTensor>) {
    let (config, weights) = model(name);
    let contents =
        Contents { config: &config, vocabulary: Some(&words()), eos_token_ids: &[], name, file_type };
    write(path, &contents, &weights).unwrap();
    (config, weights)
}

#[test]
fn models_come_back_under_every_file_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    for name in ["minimind2", "minimind3", "minimind3-moe"] {
        // The error of a weight relative to the largest of its block: none, 2^-11, half of 1/127, of 1/8.
        for (file_type, within) in [
            (FileType::F32, 0.0),
            (FileType::F16, 5e-4),
            (FileType::Bf16, 4e-3),
            (FileType::Q8_0, 4.5e-3),
            (FileType::Q4_0, 0.126),
        ] {
            let (config, weights) = write_model(&path, name, file_type);
            let back = load_model(&path, None, Device::Cpu, Kind::Float).unwrap();
            let mut read_back = back.model.config().clone();
            if let (Some(ours), Some(theirs)) = (&mut read_back.moe, &config.moe) {
                // What only training needs is not said by a GGUF.
                (ours.aux_loss_coef, ours.seq_aux) = (theirs.aux_loss_coef, theirs.seq_aux);
            }
            assert_eq!(read_back, config);
            for (name, before) in &weights {
                let (a, b) = (convert::to_tensor(before).unwrap(), back.model.params().get(name));
                let worst = (&a - b).abs().max().double_value(&[]);
                let bound = a.abs().max().double_value(&[]) * within;
                assert!(worst <= bound, "{name}: {worst} > {bound}");
            }
        }
    }
}

#[test]
fn the_tokenizer_and_the_head_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    write_model(&path, "minimind3", FileType::Q8_0);
    let file = open(&path).unwrap();
    let mut want = words();
    for id in 60..70 {
        want.tokens.push(format!("[PAD{id}]"));
        want.kinds.push(TokenKind::Unused);
    }
    assert_eq!(Vocabulary::of(&file).unwrap().unwrap(), want);
    let json = file.to_json();
    assert_eq!(json["general.architecture"], "qwen3");
    assert_eq!(json["tokenizer.ggml.tokens"]["elements"], 70);
    assert_eq!(json["qwen3.attention.layer_norm_rms_epsilon"], 1e-6);
    let embedding = &file.tensors()[0];
    assert_eq!((embedding.name.as_str(), &embedding.shape[..]), ("token_embd.weight", &[70, 64][..]));
    assert!(is_gguf(&path) && !is_gguf(folder.path()));
    let err = super::write(
        &path,
        &Contents {
            config: &model("minimind2-moe").0,
            vocabulary: None,
            eos_token_ids: &[],
            name: "x",
            file_type: FileType::F32,
        },
        &HashMap::new(),
    );
    assert!(err.unwrap_err().to_string().contains("shared experts"));
}

#[test]
fn end_marks_have_three_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let (config, weights) = model("minimind3");
    let words = words();
    let contents = Contents {
        config: &config,
        vocabulary: Some(&words),
        eos_token_ids: &[7, 2, 9, 11],
        name: "x",
        file_type: FileType::F32,
    };
    super::write(&path, &contents, &weights).unwrap();
    // The tokenizer's own first; of more than two others the rest has no key.
    assert_eq!(crate::checkpoint::eos::token_ids(&path).unwrap(), [2, 7, 9]);
}

#[test]
fn llamas_heads_are_interleaved_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let (config, weights) = write_model(&path, "minimind2", FileType::F32);
    let file = open(&path).unwrap();
    let entry = file.tensors().iter().find(|e| e.name == "blk.0.attn_q.weight").unwrap();
    let theirs = file.storage(entry).unwrap();
    let ours = floats(&weights["model.layers.0.self_attn.q_proj.weight"]).unwrap();
    let row = |n: usize| ours[n * 64..(n + 1) * 64].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let half = config.head_dim as usize / 2;
    // Their second row is the first row of our first head's second half.
    assert_eq!(theirs.bytes()[64 * 4..2 * 64 * 4], row(half));
    let back = read_weights(&path).unwrap();
    assert_eq!(floats(&back.tensors["model.layers.0.self_attn.q_proj.weight"]).unwrap(), ours);
}

#[test]
fn blocks_are_ggmls() {
    let q8 = GgmlType::of(8).unwrap();
    let mut weights = vec![0f32; 32];
    (weights[0], weights[1], weights[2]) = (127.0, -1.5, 0.4);
    let mut out = Vec::new();
    q8.encode(&weights, &mut out).unwrap();
    // Scale 1.0; halves go away from zero.
    assert_eq!(out[..5], [0x00, 0x3c, 127, -2i8 as u8, 0]);
    assert_eq!(q8.decode(&out).unwrap()[..3], [127.0, -2.0, 0.0]);
    let q4 = GgmlType::of(2).unwrap();
    (weights[0], weights[1], weights[2], weights[16]) = (-8.0, 7.0, 100.0, 3.4);
    weights[2] = 0.0;
    out.clear();
    q4.encode(&weights, &mut out).unwrap();
    // Scale 1.0; the first byte holds weight 0 (-8 is 0) and weight 16 (3 is 11), the second weight 1 (15).
    assert_eq!(out[..4], [0x00, 0x3c, 0xb0, 0x8f]);
    assert_eq!(q4.decode(&out).unwrap()[..2], [-8.0, 7.0]);
    assert_eq!(q4.decode(&out).unwrap()[16], 3.0);
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        weights[5] = bad;
        assert!(q8.encode(&weights, &mut out).is_err() && q4.encode(&weights, &mut out).is_err());
        assert!(GgmlType::of(1).unwrap().encode(&weights, &mut out).is_err());
    }
    // One block of q6_k: low bits 1, high bits 2, scale 3, over all 0.5: (1 + 32 - 32) * 3 * 0.5.
    let mut block = vec![0x11; 128];
    block.extend([0b1010_1010; 64]);
    block.extend([3; 16]);
    block.extend([0x00, 0x38]);
    assert_eq!(GgmlType::of(14).unwrap().decode(&block).unwrap(), vec![1.5; 256]);
    let fault = GgmlType::of(16).unwrap().decode(&[0; 66]).unwrap_err();
    assert!(fault.what().contains("iq2_xxs") && fault.hint_text().unwrap().contains("llama-quantize"));
}
