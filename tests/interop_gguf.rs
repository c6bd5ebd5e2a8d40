//! Our GGUF in llama.cpp, unpatched: the same tokens for the same text, the same greedy answer, the same
//! chat; and its bytes beside those of llama.cpp's own Python package.
//!
//! Needs a Python (MINIMIND_PYTHON, else python3) with xllamacpp, gguf and torch.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::python::{python, script};
use common::{fixtures, json, minimind, succeed, variants};
use minimind::checkpoint::gguf::{self, Vocabulary};
use minimind::checkpoint::{METADATA, pth};
use minimind::data::Tokenizer;
use minimind::data::tokenizer::RenderOptions;
use minimind::data::tokenizer::builtin::BuiltinTokenizer;
use minimind::model::config::preset;
use minimind::model::{CausalLm, Params};
use serde_json::{Value, json};
use tch::{Device, Kind};

common::needs::tests! {
    the_references_tokenizers_and_every_architecture: [Python("torch, gguf, xllamacpp")],
    the_fixtures_weights: [Python("torch, gguf, xllamacpp")],
    a_trained_model_answers_the_same: [Python("torch, gguf, xllamacpp")],
}

/// Words, spaces, digits, contractions, scripts, signs and special tokens: where rules for cutting differ.
const TEXTS: [&str; 14] = [
    "Hello, world! It's what they'd say; I'll see, you've won, we're done, I'm here, don't.",
    "  two  spaces\n\n\nand lines \t tabs\r\nwindows   ",
    "1234567890 3.14159 1,000,000 007 x2y3 2026-11-25",
    "你好，世界！今天天气怎么样？机器学习很有趣。",
    "Привет, мир! Καλημέρα κόσμε. مرحبا بالعالم שלום नमस्ते",
    "emoji 😀👩‍👩‍👧 ©®™ ½ ² Ⅷ ñ é e\u{301}",
    "fn main() { println!(\"{:?}\", x[0] + 1 == 2 && !y); } // ok",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<think>\nhm\n</think>\n\n<tool_call>{\"a\": 1}</tool_call><tool_response></tool_response>",
    "a<|im_end|>b <|im_start|> c<|endoftext|>",
    "don'T CAN'T 'S it’s",
    "\u{a0}\u{3000}\u{2003}wide spaces\u{200b}zero",
    "x",
    "https://example.org/a?b=c&d=%20#e_f-g",
];

/// A tokenizer of ours with 512 ids, for the fixtures' models.
fn small_tokenizer(folder: &Path) -> PathBuf {
    let (recipe, out) = (folder.join("tok.yaml"), folder.join("made"));
    let text = format!(
        "name: tok\noutput: {}\nstages:\n  - tokenizer: {{name: tok, data: {{synthetic: {{rows: 300}}}}, vocab_size: 512}}\n",
        out.display()
    );
    std::fs::write(&recipe, text).expect("a recipe");
    succeed(minimind().arg("run").arg(&recipe));
    out.join("tok")
}

/// A model with fresh weights and the reference's vocabulary, in a file of its own.
fn fresh_model(folder: &Path, name: &str) -> PathBuf {
    let mut stated = preset(name).expect("a preset");
    (stated.hidden_size, stated.num_hidden_layers) = (Some(64), Some(2));
    (stated.num_attention_heads, stated.num_key_value_heads) = (Some(4), Some(2));
    let config = stated.resolve().expect("a model");
    tch::manual_seed(7);
    let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).expect("weights"));
    let value = minimind::engine::resume::weights_value(&model, Kind::Float).expect("a tree");
    let path = folder.join(format!("{name}.pth"));
    let about = json!({"config": config.to_json()}).to_string();
    pth::write(&path, &value, &[(METADATA, about.as_bytes())]).expect("a file");
    path
}

fn export(model: &Path, tokenizer: &Path, precision: &str, out: &Path) {
    let mut command = minimind();
    command.args(["export", "gguf", "--precision", precision, "--model"]).arg(model);
    succeed(command.arg("--tokenizer").arg(tokenizer).arg("--out").arg(out));
}

/// The likeliest continuation by us.
fn greedy(model: &Path, ids: &[u32], new: usize) -> Vec<u32> {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let mut command = minimind();
    command.args([
        "generate",
        "--greedy",
        "--ignore-eos",
        "--json",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]);
    command.args(["--max-new-tokens", &new.to_string(), "--ids", &ids.join(","), "--model"]).arg(model);
    let said: Value = serde_json::from_slice(&succeed(&mut command).stdout).expect("JSON");
    numbers(&said["ids"])
}

fn numbers(list: &Value) -> Vec<u32> {
    list.as_array().expect("a list").iter().map(|n| n.as_u64().expect("an id") as u32).collect()
}

/// What llama.cpp says of a file.
fn llama(python: &str, file: &Path, questions: &Value) -> Value {
    let asked = file.with_extension("questions.json");
    std::fs::write(&asked, questions.to_string()).expect("questions");
    let output = succeed(Command::new(python).arg(script("gguf_llama.py")).arg(file).arg(&asked));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Exports a model in every precision and holds each against llama.cpp.
fn hold(python: &str, model: &Path, tokenizer: &Path, prompts: &[Vec<u32>], plain: &[&str]) {
    let words = Tokenizer::load(tokenizer).expect("a tokenizer");
    let chat = json!([{"role": "user", "content": "What is 2+2?"}]);
    let long = json!([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"}, {"role": "user", "content": "and now?"},
    ]);
    let options = RenderOptions::prompt();
    for precision in ["f32", "f16", "q8_0", "q4_0"] {
        let file = model.with_extension(format!("{precision}.gguf"));
        export(model, tokenizer, precision, &file);
        let read = succeed(Command::new(python).arg(script("gguf_reader.py")).arg(&file).arg(model));
        print!("{precision}: {}", String::from_utf8_lossy(&read.stdout));
        let questions =
            json!({"texts": TEXTS, "prompts": prompts, "chats": [chat, long], "max_new_tokens": 24});
        let said = llama(python, &file, &questions);
        let vocabulary =
            Vocabulary::of(&gguf::open(&file).expect("a GGUF")).expect("a tokenizer").expect("one");
        let inside = Tokenizer::from_vocabulary(&vocabulary, &file).expect("a tokenizer");
        for (text, theirs) in TEXTS.iter().zip(said["tokens"].as_array().expect("tokens")) {
            let ours = words.encode(text).expect("tokens");
            assert_eq!(ours, numbers(theirs), "llama.cpp cuts {text:?} otherwise");
            assert_eq!(ours, inside.encode(text).expect("tokens"), "from the GGUF: {text:?}");
            assert_eq!(words.decode(&ours, false).expect("text"), inside.decode(&ours, false).expect("text"));
        }
        for (messages, theirs) in
            [chat.clone(), long.clone()].iter().zip(said["rendered"].as_array().expect("prompts"))
        {
            let ours = words.apply_chat_template(messages, None, options.clone()).expect("a prompt");
            assert_eq!(Some(ours.as_str()), theirs.as_str(), "the chat template renders otherwise");
            assert_eq!(ours, inside.apply_chat_template(messages, None, options.clone()).expect("a prompt"));
        }
        let (mut same, mut all) = (0, 0);
        for (ids, theirs) in prompts.iter().zip(said["answers"].as_array().expect("answers")) {
            // llama.cpp ends at any token that ends a text by its name, and does not tell it.
            let answer = |ids: Vec<u32>| -> Vec<u32> {
                ids.into_iter().take_while(|id| ![words.eos_id(), words.pad_id()].contains(id)).collect()
            };
            let (ours, theirs) = (answer(greedy(&file, ids, 24)), answer(numbers(theirs)));
            if plain.contains(&precision) {
                assert_eq!(ours, theirs, "{} {precision}: another answer to {ids:?}", model.display());
                assert_eq!(ours, answer(greedy(model, ids, 24)), "the file's answer is not its source's");
            }
            same += ours.iter().zip(&theirs).filter(|(a, b)| a == b).count();
            all += ours.len();
        }
        println!("{} {precision}: {same} of {all} greedy tokens as llama.cpp's", model.display());
        // Quantised, llama.cpp rounds what goes into a product too, so near ties may fall otherwise.
        assert!(2 * same >= all, "{precision}: {same} of {all}");
    }
}

/// YaRN goes along: llama.cpp's own factor on the attention is taken back. Gives how many answers it changes.
fn stretched(python: &str, model: &Path, tokenizer: &Path) -> usize {
    if !model.exists() {
        return 0;
    }
    let file = model.with_extension("yarn.gguf");
    let mut command = minimind();
    command.args(["export", "gguf", "--yarn", "--precision", "f32", "--model"]).arg(model);
    succeed(command.arg("--tokenizer").arg(tokenizer).arg("--out").arg(&file));
    let long: Vec<Vec<u32>> =
        (1..=8).map(|k| (0..300).map(|i| (i * i * 37 + i * k + k * k * 11) % 512).collect()).collect();
    let questions = json!({"texts": [], "prompts": long, "chats": [], "max_new_tokens": 24});
    let answers = llama(python, &file, &questions);
    let mut moved = 0;
    for (ids, theirs) in long.iter().zip(answers["answers"].as_array().expect("answers")) {
        let (ours, theirs) = (greedy(&file, ids, 24), numbers(theirs));
        assert_eq!(ours[..theirs.len()], theirs[..], "another answer with YaRN");
        moved += usize::from(ours != greedy(model, ids, 24));
    }
    moved
}

fn prompts(vocab: u32) -> Vec<Vec<u32>> {
    (1..=4u32).map(|n| (0..n * 5).map(|i| (i * i * 37 + n * 101) % vocab).collect()).collect()
}

fn the_references_tokenizers_and_every_architecture() {
    let python = python();
    let folder = tempfile::tempdir().expect("a folder");
    for (name, standard) in [
        ("minimind2", BuiltinTokenizer::MiniMind2),
        ("minimind3", BuiltinTokenizer::MiniMind3),
        ("minimind3-moe", BuiltinTokenizer::MiniMind3),
    ] {
        let tokenizer = standard.folder(folder.path()).expect("the reference's own");
        hold(&python, &fresh_model(folder.path(), name), &tokenizer, &prompts(6400), &["f32"]);
    }
}

fn the_fixtures_weights() {
    let python = python();
    let folder = tempfile::tempdir().expect("a folder");
    let tokenizer = small_tokenizer(folder.path());
    let held = variants("weights_fp32.pth").into_iter().filter(|from| !from.ends_with("minimind2/moe"));
    for from in held {
        let parts: Vec<_> = from.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
        let variant = format!("{}/{}", parts[1], parts[0]);
        let here = folder.path().join(variant.replace('/', "-"));
        std::fs::create_dir_all(&here).expect("a folder");
        for file in ["weights_fp32.pth", "config.json"] {
            std::fs::copy(from.join(file), here.join(file)).expect("a copy");
        }
        let forward = json(&from.join("forward.json"));
        let mut asked = prompts(512);
        asked.push(numbers(&forward["greedy_prompt"]));
        hold(&python, &here.join("weights_fp32.pth"), &tokenizer, &asked, &["f32"]);
    }
    for name in ["minimind3-dense", "minimind2-dense"] {
        let file = folder.path().join(name).join("weights_fp32.pth");
        // The small copy of the fixtures holds one of the two.
        if file.exists() || name == "minimind3-dense" {
            stretched(&python, &file, &tokenizer);
        }
    }
    let moe = fixtures().join("minimind2/moe/weights_fp32.pth");
    if moe.exists() {
        let out = folder.path().join("none.gguf");
        let mut command = minimind();
        command
            .args(["export", "gguf", "--model"])
            .arg(&moe)
            .arg("--tokenizer")
            .arg(&tokenizer)
            .arg("--out")
            .arg(&out);
        let output = command.output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains("llama.cpp has no architecture"), "{text}");
        assert!(!out.exists());
    }
}

/// Trained weights have clear winners, so half precision must not change an answer.
fn a_trained_model_answers_the_same() {
    let python = python();
    let folder = tempfile::tempdir().expect("a folder");
    let (recipe, out) = (folder.path().join("small.yaml"), folder.path().join("run"));
    let text = format!(
        "name: small\nruntime: {{device: cpu, precision: fp32}}\noutput: {}\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2}}\n\
         stages:\n  - tokenizer: {{name: tok, data: {{synthetic: {{rows: 300}}}}, vocab_size: 512}}\n\
         \x20 - pretrain: {{init: scratch, data: {{synthetic: {{rows: 400}}}}, epochs: 2, batch_size: 8, accumulation_steps: 1, learning_rate: 3.0e-3, max_seq_len: 64}}\n\
         \x20 - export: {{from: pretrain, formats: [gguf], precision: q8_0}}\n",
        out.display()
    );
    std::fs::write(&recipe, text).expect("a recipe");
    succeed(minimind().arg("run").arg(&recipe));
    assert!(out.join("export/pretrain_64.gguf").exists() && out.join("export/Modelfile").exists());
    let tokenizer = out.join("tok");
    let words = Tokenizer::load(&tokenizer).expect("a tokenizer");
    let asked: Vec<Vec<u32>> =
        ["The ", "What is", "A cat", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"]
            .iter()
            .map(|text| words.encode(text).expect("tokens"))
            .collect();
    hold(&python, &out.join("pretrain_64.pth"), &tokenizer, &asked, &["f32", "f16"]);
    // Fresh weights answer one thing whatever they are asked; these listen to where a token stands.
    let moved = stretched(&python, &out.join("pretrain_64.pth"), &tokenizer);
    assert_ne!(moved, 0, "YaRN changes nothing here, so this tests nothing");
}
