//! Our Hugging Face folders in the transformers library, without remote code: the same logits (fp32, 1e-4),
//! the same greedy tokens, the same ids and prompts for the same text.

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::python::{python, script};
use common::{minimind, succeed, variants};
use minimind::checkpoint::load::{load_model, named_tensors};
use minimind::checkpoint::{convert, safetensors};
use minimind::data::Tokenizer;
use minimind::data::tokenizer::RenderOptions;
use minimind::model::{CausalLm, Mask};
use minimind::rollout::{GenerateConfig, generate};
use serde_json::json;
use tch::{Device, Kind, Tensor};

common::needs::tests! {
    the_library_loads_our_folders_and_computes_the_same: [Python("torch, transformers, safetensors")],
    a_model_goes_out_and_comes_back_bit_by_bit: [],
}

fn export(model: &Path, out: &Path, more: &[&str]) -> String {
    let mut command = minimind();
    command.args(["export", "huggingface", "--model"]).arg(model).arg("--out").arg(out).args(more);
    String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned()
}

/// What the library must find: logits of `[2, 40]` ids and a greedy completion.
fn expect(folder: &Path, model: &CausalLm) {
    let _no_grad = tch::no_grad_guard();
    let vocab = model.config().vocab_size;
    tch::manual_seed(5);
    let ids = Tensor::randint(vocab, [2, 40], (Kind::Int64, Device::Cpu));
    let logits = model.logits(&model.hidden(&ids, Mask::Causal, false).0).to_kind(Kind::Float);
    let prompt: Vec<u32> = (3..11).collect();
    let settings = GenerateConfig::greedy(12, &[]);
    let made = generate(model, &prompt, &settings, &mut |_| ControlFlow::Continue(())).expect("ids").ids;
    let whole = |ids: &[u32]| Tensor::from_slice(&ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>());
    let tensors: Vec<_> =
        [("ids", ids), ("logits", logits), ("prompt", whole(&prompt).unsqueeze(0)), ("greedy", whole(&made))]
            .into_iter()
            .map(|(name, t)| (name.to_owned(), convert::to_host(&t).expect("a host tensor")))
            .collect();
    safetensors::write(&folder.join("check.safetensors"), &tensors, HashMap::new()).expect("written");
}

fn loaded(path: &Path) -> CausalLm {
    load_model(path, None, Device::Cpu, Kind::Float).expect("loads").model
}

/// A run with a tokenizer of its own: the folder people would export.
fn trained(root: &Path) -> PathBuf {
    let recipe = root.join("r.yaml");
    let text = format!(
        "name: r\nruntime: {{device: cpu, precision: fp32}}\noutput: {}\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}}\n\
         stages:\n  - tokenizer: {{name: tok, data: {{synthetic: {{rows: 200}}}}, vocab_size: 400}}\n\
         \x20 - pretrain: {{init: scratch, data: {{synthetic: {{rows: 32}}}}, epochs: 1, batch_size: 8, accumulation_steps: 1, max_seq_len: 64, save_dtype: fp32}}\n",
        root.join("run").display()
    );
    std::fs::write(&recipe, text).expect("a recipe");
    succeed(minimind().arg("run").arg(&recipe));
    root.join("run")
}

fn texts(folder: &Path) {
    let tokenizer = Tokenizer::load(folder).expect("a tokenizer");
    let said = [
        "Hello, world!",
        "  two  spaces\n\nlines",
        "中文与 emoji 🙂",
        "<|im_start|>user\nhi<|im_end|>\n",
        "",
    ];
    let texts: Vec<_> =
        said.iter().map(|text| json!({"text": text, "ids": tokenizer.encode(text).expect("ids")})).collect();
    let options = RenderOptions::prompt();
    let chats: Vec<_> = [
        json!([{"role": "user", "content": "hi"}]),
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
               {"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]),
    ]
    .into_iter()
    .map(|messages| {
        let prompt = tokenizer.apply_chat_template(&messages, None, options.clone()).expect("a prompt");
        json!({"messages": messages, "prompt": prompt})
    })
    .collect();
    let all = json!({"texts": texts, "chats": chats}).to_string();
    std::fs::write(folder.join("texts.json"), all).expect("written");
}

fn the_library_loads_our_folders_and_computes_the_same() {
    let python = python();
    let root = tempfile::tempdir().expect("a folder");
    let out = root.path().join("folders");
    std::fs::create_dir(&out).expect("a folder");
    let mut made = 0;
    for fixture in variants("weights_fp32.pth") {
        let parts: Vec<_> = fixture.iter().rev().take(2).map(|p| p.to_string_lossy()).collect();
        let name = format!("{}-{}", parts[1], parts[0]);
        let weights = fixture.join("weights_fp32.pth");
        if name == "minimind2-moe" {
            // No class of the library computes it: MiniMind's layout, read back here.
            let folder = root.path().join("own");
            let said = export(&weights, &folder, &[]);
            assert!(said.contains("largest difference"), "{said}");
            let config = common::json(&folder.join("config.json"));
            assert_eq!(config["model_type"], "minimind");
            assert_eq!(loaded(&folder).config(), loaded(&weights).config());
            continue;
        }
        let plain = loaded(&weights);
        // Whole, in shards, in half precision, and with stretched positions.
        for (suffix, flags, model) in [
            ("", &[][..], &plain),
            ("-shards", &["--max-shard-bytes", "20000"], &plain),
            ("-fp16", &["--precision", "fp16"], &plain),
            ("-yarn", &["--yarn"], &loaded(&weights).with_yarn()),
        ] {
            let folder = out.join(format!("{name}{suffix}"));
            export(&weights, &folder, flags);
            expect(&folder, model);
            let back = loaded(&folder);
            assert_eq!(back.config().inference_rope_scaling, suffix == "-yarn");
            let index = folder.join("model.safetensors.index.json");
            assert_eq!(index.exists(), suffix == "-shards", "{}", index.display());
            made += 1;
        }
    }
    assert!(made >= 4, "{made} folders");
    let run = trained(root.path());
    let folder = out.join("run");
    export(&run, &folder, &[]);
    expect(&folder, &loaded(&run.join("pretrain_32.pth")));
    texts(&folder);
    let output = succeed(Command::new(&python).arg(script("huggingface.py")).arg(&out));
    print!("{}", String::from_utf8_lossy(&output.stdout));
    // The folder is a model here too, with its own tokenizer.
    assert!(named_tensors(&folder).expect("tensors").len() > 10);
    succeed(
        minimind()
            .args(["generate", "--prompt", "hi", "--max-new-tokens", "3", "--device", "cpu", "--model"])
            .arg(&folder),
    );
}

fn a_model_goes_out_and_comes_back_bit_by_bit() {
    let root = tempfile::tempdir().expect("a folder");
    for fixture in variants("weights_fp32.pth") {
        let weights = fixture.join("weights_fp32.pth");
        let folder = root.path().join("hf");
        export(&weights, &folder, &["--max-shard-bytes", "30000"]);
        let (old, new) = (loaded(&weights), loaded(&folder));
        assert_eq!(old.params().names(), new.params().names());
        for (a, b) in old.params().tensors().iter().zip(new.params().tensors()) {
            assert!(a.equal(b));
        }
        let config = |m: &CausalLm| minimind::model::ModelConfig { dropout: 0.0, ..m.config().clone() };
        assert_eq!(config(&old), config(&new), "{}", fixture.display());
    }
}
