//! Files whose heads lie: each is an error that says what is wrong, none costs memory or a panic.

use std::path::Path;

use super::tests::write_model;
use super::*;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A head with these counts.
fn head(tensors: u64, values: u64) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(tensors.to_le_bytes());
    out.extend(values.to_le_bytes());
    out
}

/// One tensor of that type, shape (innermost first) and offset, then `data` bytes.
fn tensor(name: &str, kind: u32, shape: &[u64], offset: u64) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, name);
    out.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

fn fault(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    let fault = open(&path).unwrap_err();
    assert_eq!(fault.exit_code(), 1);
    fault.to_string()
}

fn with(mut head: Vec<u8>, parts: &[Vec<u8>], data: usize) -> Vec<u8> {
    parts.iter().for_each(|part| head.extend(part));
    head.resize(head.len().next_multiple_of(32) + data, 0);
    head
}

#[test]
fn counts_and_lengths_are_held_against_the_file() {
    assert!(fault(b"GGU").contains("not a GGUF"));
    assert!(fault(b"GGUF\x01\0\0\0").contains("version 1"));
    assert!(fault(b"GGUF\0\0\0\x03").contains("big-endian"));
    for (tensors, values) in [(u64::MAX, 0), (0, u64::MAX), (1 << 40, 0), (0, 1 << 40)] {
        assert!(fault(&head(tensors, values)).contains("ends in the middle"));
    }
    // A key, a text and arrays longer than the file.
    let value = |kind: u32, rest: &[u8]| {
        let mut out = Vec::new();
        text(&mut out, "k");
        out.extend(kind.to_le_bytes());
        out.extend(rest);
        with(head(0, 1), &[out], 0)
    };
    let array = |kind: u32, count: u64| [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    assert!(fault(&value(8, &u64::MAX.to_le_bytes())).contains("ends in the middle"));
    assert!(fault(&value(9, &array(0, 1 << 50))).contains("ends in the middle"));
    assert!(fault(&value(9, &array(12, u64::MAX / 4))).contains("elements"));
    assert!(fault(&value(9, &array(8, 1 << 50))).contains("ends in the middle"));
    assert!(fault(&value(9, &array(9, 1))).contains("array is of type 9"));
    assert!(fault(&value(77, &[])).contains("type 77"));
    assert!(fault(&value(10, &u64::MAX.to_le_bytes())).contains("a number is"));
    assert!(fault(&value(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])).contains("UTF-8"));
}

#[test]
fn tensors_stay_inside_the_file_and_apart() {
    let one = |part: Vec<u8>| fault(&with(head(1, 0), &[part], 64));
    for (part, want) in [
        (tensor("t", 0, &[16, 2], 0), "past the end"),
        (tensor("t", 0, &[4], 1 << 60), "past the end"),
        (tensor("t", 0, &[4], u64::MAX - 8), "past the end"),
        (tensor("t", 0, &[4], 4), "not aligned"),
        (tensor("t", 0, &[1 << 40, 1 << 40], 0), "cannot have the shape"),
        (tensor("t", 0, &[0], 0), "cannot have the shape"),
        (tensor("t", 8, &[33], 0), "cannot have the shape"),
        (tensor("t", 99, &[4], 0), "is of type 99"),
        (tensor("t", 0, &[1; 5], 0), "5 dimensions"),
        (tensor("t", 0, &[], 0), "0 dimensions"),
    ] {
        let text = one(part);
        assert!(text.contains(want), "{want}: {text}");
    }
    let two = |a: Vec<u8>, b: Vec<u8>| fault(&with(head(2, 0), &[a, b], 64));
    assert!(two(tensor("a", 0, &[12], 0), tensor("b", 0, &[4], 32)).contains("overlap"));
    assert!(two(tensor("a", 0, &[4], 0), tensor("a", 0, &[4], 32)).contains("two tensors"));
    let mut align = Vec::new();
    text(&mut align, "general.alignment");
    align.extend(4u32.to_le_bytes());
    let all = |n: u32| fault(&with(head(0, 1), &[[align.clone(), n.to_le_bytes().to_vec()].concat()], 0));
    assert!(all(0).contains("alignment") && all(3).contains("alignment"));
}

/// Loads what was written after `change`; the fault.
fn changed(path: &Path, from: &[u8], to: &[u8]) -> String {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from).expect("it is there");
    bytes.splice(at..at + from.len(), to.iter().copied());
    let other = path.with_extension("changed.gguf");
    std::fs::write(&other, bytes).unwrap();
    let fault = crate::checkpoint::load_model(&other, None, tch::Device::Cpu, tch::Kind::Float).unwrap_err();
    fault.to_string()
}

#[test]
fn an_architecture_that_lies_about_the_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    write_model(&path, "minimind2", FileType::F32);
    let number = |key: &str, n: u32| [key.as_bytes(), &4u32.to_le_bytes(), &n.to_le_bytes()].concat();
    for (key, was) in [
        ("llama.block_count", 2),
        ("llama.embedding_length", 64),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("llama.attention.key_length", 16),
        ("llama.feed_forward_length", 192),
        ("llama.context_length", 32768),
    ] {
        // Three positions are few but possible.
        for n in [0, 3, 1 << 29, u32::MAX].into_iter().filter(|n| *n != 3 || !key.ends_with("context_length"))
        {
            let text = changed(&path, &number(key, was), &number(key, n));
            assert!(text.starts_with("error: "), "{key} = {n}: {text}");
        }
    }
    assert!(changed(&path, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0gemma").contains("`gemma`"));
    write_model(&path, "minimind3-moe", FileType::Q4_0);
    for n in [0, 1, 1 << 29, u32::MAX] {
        let text = changed(&path, &number("qwen3moe.expert_count", 4), &number("qwen3moe.expert_count", n));
        assert!(text.starts_with("error: "), "{n}: {text}");
    }
}
