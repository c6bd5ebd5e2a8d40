//! Mutated files into every reader: none may panic, run long or take memory that the file did not bring.
//!
//! Valid seeds of each format are cut, spliced, flipped and given lying numbers by a generator with a fixed
//! seed, so a finding comes back. A few thousand inputs a format run always; in full:
//! `MINIMIND_FUZZ=1000000 cargo test --test fuzz -- --nocapture`. What was wrong with an input is printed,
//! and the input kept in the temporary folder.

mod common;
#[path = "fuzz/data.rs"]
mod data;

use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::dice::Dice;
use minimind::checkpoint::gguf::{self, FileType, TokenKind, Vocabulary};
use minimind::checkpoint::{convert, load_model, named_tensors, pth, safetensors};
use minimind::data::{ReadOptions, TextSplit, Tokenizer, jsonl, reader};
use minimind::export::Source;
use minimind::export::torchscript::{self, WeightForm};
use minimind::model::config::preset;
use minimind::model::{CausalLm, ModelConfig, Params};
use tch::{Device, Kind};
use zip::write::SimpleFileOptions;

/// Inputs a format where nothing else is asked.
const FEW: u64 = 2000;
/// An input that computes this many times as long as the slowest of the unchanged files is a finding, however fast the machine
/// and busy its neighbours are.
const SLOW: u32 = 1000;
/// What an unchanged file counts for at least: below it, clocks tell little.
const LEAST: Duration = Duration::from_millis(5);
/// Memory that mutated files of a few kilobytes may cost beyond what the seeds did.
const MOST_BYTES: u64 = 1 << 30;

type Reader = fn(&Path);

/// How many inputs: MINIMIND_FUZZ, else few.
fn inputs() -> u64 {
    std::env::var("MINIMIND_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(FEW)
}

/// What this thread has computed; where the system does not tell, the time that has gone by, which a busy
/// machine stretches.
fn busy(start: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn memory() -> u64 {
    minimind::native::peak_memory_bytes().unwrap_or(0)
}

/// Feeds mutations of `seeds` to `read`, through `finish` (a checksum put right, a container put around).
fn fuzz(name: &str, seeds: &[Vec<u8>], words: &[&[u8]], read: Reader, finish: fn(Vec<u8>) -> Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    let put = |bytes: &[u8]| std::fs::write(&path, bytes).expect("an input is written");
    let start = Instant::now();
    let mut usual = LEAST;
    for seed in seeds {
        put(&finish(seed.clone()));
        let began = busy(start);
        read(&path);
        usual = usual.max(busy(start) - began);
    }
    let before = memory();
    let mut dice = Dice::new(7);
    let mut findings = Vec::new();
    for n in 0..inputs() {
        let mut bytes = dice.pick(seeds).clone();
        for _ in 0..=dice.below(6) {
            dice.change(&mut bytes, words);
        }
        let bytes = finish(bytes);
        put(&bytes);
        let began = busy(start);
        let panicked = catch_unwind(AssertUnwindSafe(|| read(&path))).is_err();
        if n % 100_000 == 99_999 {
            println!("{name}: {} inputs in {:.0?}", n + 1, start.elapsed());
        }
        if panicked || busy(start) - began > usual * SLOW {
            let kept: PathBuf = std::env::temp_dir().join(format!("minimind-fuzz-{n}-{name}"));
            std::fs::write(&kept, &bytes).expect("a finding is kept");
            findings.push(format!(
                "input {n} ({}): {}",
                if panicked { "panic" } else { "slow" },
                kept.display()
            ));
        }
    }
    let cost = memory() - before;
    println!(
        "{name}: {} inputs in {:.0?}, {} findings, {cost} bytes more at the peak",
        inputs(),
        start.elapsed(),
        findings.len()
    );
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(cost < MOST_BYTES, "{name}: {cost} bytes");
}

fn as_it_is(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// A model of a few kilobytes.
fn model(name: &str) -> CausalLm {
    let mut stated = preset(name).expect("a preset");
    (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(16), Some(1), Some(40));
    (stated.num_attention_heads, stated.num_key_value_heads) = (Some(2), Some(1));
    (stated.intermediate_size, stated.moe_intermediate_size) = (Some(32), Some(32));
    let config = stated.resolve().expect("a small model");
    let params = Params::init(&config, Device::Cpu).expect("weights");
    CausalLm::new(&config, params)
}

fn metadata(config: &ModelConfig) -> String {
    serde_json::json!({"config": config.to_json()}).to_string()
}

const MODELS: [&str; 4] = ["minimind2", "minimind2-moe", "minimind3", "minimind3-moe"];

/// Files that `write` makes for some models.
fn files(models: &[&str], write: impl Fn(&Path, &CausalLm, usize)) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("seed");
    let made = models.iter().enumerate().map(|(i, name)| {
        write(&path, &model(name), i);
        std::fs::read(&path).expect("a seed")
    });
    made.collect()
}

fn pth_files() -> Vec<Vec<u8>> {
    files(&MODELS, |path, model, i| {
        let value = minimind::engine::resume::weights_value(model, Kind::Half).expect("a tree");
        let text = metadata(model.config());
        let extra: &[(&str, &[u8])] = if i % 2 == 0 { &[("minimind.json", text.as_bytes())] } else { &[] };
        pth::write(path, &value, extra).expect("a seed");
    })
}

fn read_model(path: &Path) {
    let _ = load_model(path, None, Device::Cpu, Kind::Float);
    let _ = named_tensors(path);
}

/// What pickles are made of, and what they must not be.
const PICKLE: [&[u8]; 35] = [
    b"(",
    b"t",
    b"R",
    b"Q",
    b"]",
    b"}",
    b"e",
    b"u",
    b"a",
    b"s",
    b"\x85R",
    b"\x86R",
    b"q\x00",
    b"h\x00",
    b"\x94",
    b"0",
    b".",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nSize\n",
    b"c_codecs\nencode\n",
    b"ctorch\nFloatStorage\n",
    b"cos\nsystem\n",
    b"J\xff\xff\xff\x7f",
    b"c__builtin__\nset\n",
    b"ccollections\nCounter\n",
    b"ctorch\nfloat8_e4m3fn\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"c__builtin__\nbytearray\n",
    b"\x8f",
    b"\x90",
    b"\x81",
];

#[test]
fn checkpoints() {
    let words: [&[u8]; 6] =
        [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"../", b"archive/data/0", b"data.pkl"];
    fuzz("a.pth", &pth_files(), &words, read_model, as_it_is);
}

/// TorchScript, whose weights are read and whose program is not.
#[test]
fn scripts() {
    let seeds = files(&MODELS, |path, model, i| {
        let value = minimind::engine::resume::weights_value(model, Kind::Float).expect("a tree");
        pth::write(path, &value, &[("minimind.json", metadata(model.config()).as_bytes())]).expect("weights");
        let source = Source::open(path, None, None).expect("a source");
        let form = if i == 3 { WeightForm::Constants } else { WeightForm::Parameters };
        torchscript::write(&source, minimind::export::Precision::Fp32, form, path).expect("a seed");
    });
    fn read(path: &Path) {
        let _ = pth::read_script(path);
        read_model(path);
    }
    let words: [&[u8]; 6] = [
        b"PK\x03\x04",
        b"PK\x01\x02",
        b"constants.pkl",
        b"def forward(self",
        b"class ",
        b"code/__torch__.py",
    ];
    fuzz("a.pt", &seeds, &words, read, as_it_is);
}

/// The pickle of a checkpoint as it is mutated, then the zip around it with checksums that are right.
#[test]
fn pickles() {
    fn pickle(file: &[u8]) -> Vec<u8> {
        let mut zip = zip::ZipArchive::new(Cursor::new(file)).expect("a zip");
        let mut out = Vec::new();
        std::io::copy(&mut zip.by_name("archive/data.pkl").expect("a pickle"), &mut out).expect("it is read");
        out
    }
    fn wrap(pickle: Vec<u8>) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .with_alignment(64);
        let mut put = |name: &str, bytes: &[u8]| {
            zip.start_file(format!("a/{name}"), options).expect("a record");
            zip.write_all(bytes).expect("a record");
        };
        put("data.pkl", &pickle);
        (0..20).for_each(|n| put(&format!("data/{n}"), &[n as u8; 2560]));
        zip.finish().expect("a zip").into_inner()
    }
    let mut seeds: Vec<Vec<u8>> = pth_files().iter().map(|file| pickle(file)).collect();
    seeds.push(b"\x80\x02}q\x00(X\x01\0\0\0aq\x01]q\x02(K\x01h\x01G?\xf0\0\0\0\0\0\0\x88NeX\x01\0\0\0b(h\x02h\x02tu.".to_vec());
    fuzz("a.pickle.pth", &seeds, &PICKLE, read_model, wrap);
}

/// The format from before PyTorch 1.6: pickles, then numbers.
#[test]
fn legacy_files() {
    let mut one = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    one.extend(b"\x80\x02}(X\x11\0\0\0model.norm.weightctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n");
    one.extend(
        b"X\x01\0\0\x000X\x03\0\0\0cpuK\x10NtQK\0K\x10\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRu.",
    );
    one.extend(b"\x80\x02]X\x01\0\0\x000a.\x10\0\0\0\0\0\0\0");
    one.extend([7; 64]);
    fuzz("a.legacy.pth", &[one], &PICKLE, read_model, as_it_is);
}

#[test]
fn safetensors_files() {
    let seeds = files(&MODELS, |path, model, _| {
        let hosts = convert::borrow_all(model.params().tensors().iter()).expect("tensors");
        let tensors: Vec<_> = model.params().names().iter().cloned().zip(hosts).collect();
        let text = HashMap::from([("minimind.json".to_owned(), metadata(model.config()))]);
        safetensors::write(path, &tensors, text).expect("a seed");
    });
    let words: [&[u8]; 8] = [
        b"\"shape\":[",
        b"data_offsets",
        b"999999999999",
        b"-1",
        b"{",
        b"[[[[[[[[",
        b"\"F32\"",
        b"__metadata__",
    ];
    fuzz("a.safetensors", &seeds, &words, read_model, as_it_is);
}

#[test]
fn gguf_files() {
    let words: Vec<String> = (33..=60u8).map(|c| char::from(c).to_string()).collect();
    let mut kinds = vec![TokenKind::Normal; words.len()];
    kinds[1] = TokenKind::Control;
    let vocabulary = Vocabulary {
        merges: vec![("!".to_owned(), "#".to_owned())],
        tokens: words.into_iter().chain(["!#".to_owned()]).collect(),
        kinds: kinds.into_iter().chain([TokenKind::Normal]).collect(),
        pre: "gpt-2".to_owned(),
        bos: Some(1),
        eos: Some(2),
        pad: Some(0),
        unknown: None,
        add_bos: false,
        template: Some("{% for m in messages %}{{ m.content }}{% endfor %}".to_owned()),
    };
    let seeds = files(&["minimind2", "minimind3", "minimind3-moe", "minimind3-moe"], |path, model, i| {
        let hosts = convert::borrow_all(model.params().tensors().iter()).expect("tensors");
        let weights = model.params().names().iter().cloned().zip(hosts).collect();
        let file_type = [FileType::F16, FileType::Q8_0, FileType::Q4_0, FileType::F32][i];
        let contents = gguf::Contents {
            config: model.config(),
            vocabulary: Some(&vocabulary),
            eos_token_ids: &[2],
            name: "seed",
            file_type,
        };
        gguf::write(path, &contents, &weights).expect("a seed");
    });
    fn read(path: &Path) {
        if let Ok(file) = gguf::open(path) {
            let _ = file.to_json();
            if let Ok(Some(vocabulary)) = Vocabulary::of(&file) {
                let _ = Tokenizer::from_vocabulary(&vocabulary, path);
            }
        }
        read_model(path);
    }
    let words: [&[u8]; 6] =
        [b"GGUF", b"\x08\0\0\0", b"\x09\0\0\0", b"llama", b"blk.0.", b"general.alignment"];
    fuzz("a.gguf", &seeds, &words, read, as_it_is);
}

#[test]
fn rows_and_recipes() {
    fn rows(path: &Path) {
        let Ok(lines) = jsonl::Lines::open(path) else { return };
        for line in lines.map_while(Result::ok) {
            if let Ok(row) = jsonl::parse(&line.bytes) {
                let _ = minimind::data::prepare::check(&row, minimind::data::DataFormat::Chat);
                let _ = minimind::data::prepare::check(&row, minimind::data::DataFormat::Text);
            }
        }
    }
    let seeds = [
        br#"{"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\u00e9"}]}"#.to_vec(),
        b"{\"text\": \"one\"}\n\n{\"text\": \"two\"}\r\n".to_vec(),
    ];
    let words: [&[u8]; 6] = [b"\"role\":", b"[[[[[[[[[[[[", b"{\"a\":", b"\\ud800", b"1e999", b"\xff\xfe"];
    fuzz("a.jsonl", &seeds, &words, rows, as_it_is);

    fn recipe(path: &Path) {
        let _ = minimind::recipe::read(path, &[], minimind::plan::shape(), &|_| None);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read(entry.expect("a recipe").path()).expect("a recipe")
    };
    let seeds: Vec<Vec<u8>> = std::fs::read_dir(folder).expect("recipes").map(read).collect();
    assert!(seeds.len() > 1);
    let words: [&[u8]; 8] = [b"&a ", b"*a", b"<<: ", b"- ", b"{", b"[[[[[[[[", b"!!binary ", b"\n  "];
    fuzz("a.yaml", &seeds, &words, recipe, as_it_is);
}
