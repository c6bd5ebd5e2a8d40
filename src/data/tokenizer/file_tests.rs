//! Files of a tokenizer: SentencePiece models beside the library (`scripts/golden/spm_models.py`), added tokens,
//! begin marks, and files that mean ill.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A folder with our small tokenizer, its file changed, and other files beside it.
fn folder(config: Value, others: &[(&str, Value)], change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    let mut whole: Value = serde_json::from_slice(&bytes).unwrap();
    change(&mut whole);
    std::fs::write(dir.path().join("tokenizer.json"), whole.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    for (name, value) in others {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

#[test]
fn sentencepiece_models_give_the_librarys_ids() {
    let home = fixtures().join("sentencepiece");
    let cases: Value = serde_json::from_slice(&std::fs::read(home.join("cases.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for (name, case) in cases.as_object().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(home.join(format!("{name}.model")), dir.path().join("tokenizer.model")).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(json!(tokenizer.vocab_size()), case["size"], "{name}");
        assert_eq!(json!(tokenizer.bos_id().map_or(-1, i64::from)), case["bos"], "{name}");
        assert_eq!(json!(tokenizer.eos_id()), case["eos"], "{name}");
        for row in case["texts"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            if json!(ids) != row["ids"] {
                wrong.push(format!("{name}: {text:?}: ours {ids:?}, theirs {}", row["ids"]));
            }
            let theirs: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            let decoded = tokenizer.decode(&theirs, false).unwrap();
            // The library shows what it does not know as ` ⁇ `, we by its own name; of several spaces in front it
            // may leave out all, transformers one.
            if !theirs.contains(&0) && !text.starts_with('▁') && json!(decoded) != row["decoded"] {
                wrong.push(format!("{name}: {text:?} decoded: ours {decoded:?}, theirs {}", row["decoded"]));
            }
            let mut stream = StreamDecoder::new(false);
            let mut pieces = String::new();
            for id in &theirs {
                pieces += &stream.push(&tokenizer, *id).unwrap();
            }
            assert_eq!(pieces + &stream.finish(&tokenizer).unwrap(), decoded, "{name}: {text:?}");
        }
        // The same tokenizer as the library's own file.
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_json().unwrap()).unwrap();
        let again = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(
            again.encode("the otter <sep> swims").unwrap(),
            tokenizer.encode("the otter <sep> swims").unwrap()
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn broken_models_are_refused() {
    let good = std::fs::read(fixtures().join("sentencepiece/bpe_bytes.model")).unwrap();
    let mut broken: Vec<Vec<u8>> = vec![Vec::new(), b"not a model".to_vec(), vec![0xff; 64]];
    broken.extend([1, 7, 100, good.len() - 1].map(|length| good[..length].to_vec()));
    for (at, bytes) in broken.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.model"), &bytes).unwrap();
        // A model cut between two pieces may still be one; none of them may panic.
        let loaded = Tokenizer::load(dir.path());
        assert!(loaded.is_err() || at > 4, "{at}");
    }
}

#[test]
fn added_tokens_count_from_every_file() {
    let token = json!({"content": "<|extra|>", "lstrip": false, "normalized": false, "rstrip": false,
        "single_word": false, "special": true});
    let dir =
        folder(json!({"eos_token": "<|im_end|>", "added_tokens_decoder": {"9000": token}}), &[], |_| {});
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let size = tokenizer.vocab_size() as u32;
    assert_eq!(tokenizer.encode("a<|extra|>b").unwrap()[1], size - 1);
    assert_eq!(tokenizer.decode(&[size - 1], true).unwrap(), "");
    let older = [
        ("added_tokens.json", json!({"<|extra|>": 9000})),
        ("special_tokens_map.json", json!({"eos_token": "<|im_end|>"})),
    ];
    let dir = folder(json!({}), &older, |_| {});
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    let ids = tokenizer.encode("a<|extra|>b").unwrap();
    assert_eq!((ids.len(), ids[1], tokenizer.eos_id()), (3, size - 1, 2));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a<|extra|>b", "it is no special token there");
}

#[test]
fn no_begin_mark_is_invented() {
    let plain = json!({"bos_token": null, "eos_token": "<|im_end|>"});
    let tokenizer = Tokenizer::load(folder(plain, &[], |_| {}).path()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.bos_token(), tokenizer.prefix_id()), (None, None, 2));
    assert_eq!(
        tokenizer.encode_with_special_tokens("The otter").unwrap(),
        tokenizer.encode("The otter").unwrap()
    );
    let row = crate::data::text::encode(&tokenizer, "The otter", 64).unwrap();
    assert_eq!(row.ids[..row.ids.len() - 1], tokenizer.encode("The otter").unwrap());
    // MiniMind's own tokenizers begin a text with their mark, as its programs do.
    let own = Tokenizer::load(&fixtures().join("tokenizer")).unwrap();
    assert_eq!(own.encode_with_special_tokens("The otter").unwrap()[0], 1);
    assert_eq!(crate::data::text::encode(&own, "The otter", 64).unwrap().ids[0], 1);
    // The file's post-processor says what stands around a text.
    let processor = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}});
    let dir = folder(json!({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}), &[], |whole| {
        whole["post_processor"] = processor;
    });
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.encode_with_special_tokens("The otter").unwrap()[0], 0);
    assert_ne!(tokenizer.encode("The otter").unwrap()[0], 0);
}

#[test]
fn files_that_mean_ill_are_refused_by_name() {
    let doubling: Vec<Value> =
        vec![json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}); 40];
    let dir = folder(json!({}), &[], |whole| {
        whole["normalizer"] = json!({"type": "Sequence", "normalizers": doubling});
    });
    let fault = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(fault.contains("normalizer") && fault.contains("tokenizer.json"), "{fault}");
    let maps = [
        vec![0xff; 8],
        vec![8, 0, 0, 0, 0, 0xff, 0xff, 0x7f, 0, 0xff, 0xff, 0x7f],
        vec![0, 0, 0, 0],
        Vec::new(),
    ];
    for map in maps {
        use base64::Engine;
        let map = base64::engine::general_purpose::STANDARD.encode(map);
        let dir = folder(json!({}), &[], |whole| {
            whole["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": map});
        });
        let fault = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(fault.contains("map of characters"), "{fault}");
    }
    for pattern in [r"(a+)+(?!a)b", r"(?=x)(a|a)*$|(a|aa)+(?<!b)!", r"(.*)\1(.*)\2(.*)\3(.*)\4!"] {
        let split =
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let dir = folder(json!({}), &[], |whole| whole["pre_tokenizer"] = split);
        match Tokenizer::load(dir.path()) {
            Err(fault) => assert!(fault.to_string().contains("regular expression"), "{fault}"),
            // What is not refused must come to an end.
            Ok(tokenizer) => drop(tokenizer.encode(&"a".repeat(200))),
        }
    }
    let template = json!({"chat_template": "{{ messages | tojson(indent=1000000000) }}"});
    let dir = folder(template, &[], |_| {});
    let fault = Tokenizer::load(dir.path()).unwrap().apply_chat_template(
        &json!([{}]),
        None,
        RenderOptions::default(),
    );
    let fault = fault.unwrap_err().to_string();
    assert!(
        fault.contains("chat template was stopped") && fault.contains("tokenizer_config.json"),
        "{fault}"
    );
}
