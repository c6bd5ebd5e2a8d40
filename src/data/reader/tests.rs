//! Every kind of file in every packing gives the rows of its JSON-lines twin, and what is hostile stays bounded.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::data::config::TextSplit;
use crate::data::jsonl;

const PACKINGS: [&str; 5] = ["", ".gz", ".zst", ".xz", ".bz2"];

fn packed(bytes: &[u8], packing: &str) -> Vec<u8> {
    match packing {
        ".gz" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        ".zst" => zstd::stream::encode_all(bytes, 3).unwrap(),
        ".xz" => {
            let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        ".bz2" => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        _ => bytes.to_vec(),
    }
}

fn values(path: &Path, options: &ReadOptions) -> Result<Vec<Value>> {
    let value = |line: Result<Line>| {
        let line = line?;
        jsonl::parse(&line.bytes).map_err(|fault| fault.at(path, line.number))
    };
    open(path, options)?.map(value).collect()
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// What reading a file says, in one line.
fn said(path: &Path) -> String {
    match values(path, &ReadOptions::default()) {
        Ok(rows) => format!("{} rows", rows.len()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_kind_in_every_packing_gives_the_rows_of_its_twin() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["one, \"two\"\nthree é", "[1, 2]", "  四\t五 "];
    let twin: String = texts.iter().map(|text| format!("{}\n", serde_json::json!({"text": text}))).collect();
    let list = serde_json::to_string_pretty(&texts.map(|text| serde_json::json!({"text": text}))).unwrap();
    let cells = |text: &str| format!("\"{}\"\r\n", text.replace('"', "\"\""));
    let table: String = std::iter::once("text\r\n".into()).chain(texts.map(cells)).collect();
    let marked = texts.join("\n%%\n");
    let utf16: Vec<u8> = format!("\u{feff}{twin}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marker = ReadOptions { split: Some(TextSplit::Marker("%%".into())), ..ReadOptions::default() };
    let none = ReadOptions::default();
    let gbk = ReadOptions { encoding: Some("gbk".into()), ..ReadOptions::default() };
    let chinese = twin.replace('é', "是");
    let in_gbk = encoding_rs::GBK.encode(&chinese).0.into_owned();
    let wanted = values(&put(folder.path(), "twin.jsonl", twin.as_bytes()), &none).unwrap();
    assert_eq!(wanted.len(), 3);
    for (name, bytes, options) in [
        ("a.jsonl", twin.as_bytes(), &none),
        ("marked.ndjson", format!("\u{feff}{twin}").as_bytes(), &none),
        ("utf16.jsonl", &utf16, &none),
        ("lines.json", twin.as_bytes(), &none),
        ("list.json", list.as_bytes(), &none),
        ("object.json", format!("{{\"version\": 1, \"data\": {list}}}").as_bytes(), &none),
        ("a.csv", table.as_bytes(), &none),
        ("marked.csv", format!("\u{feff}{table}").as_bytes(), &none),
        ("a.tsv", table.as_bytes(), &none),
        ("a.txt", marked.as_bytes(), &marker),
        ("a.md", marked.as_bytes(), &marker),
        ("a.unknown", twin.as_bytes(), &none),
        ("list", list.as_bytes(), &none),
        ("gbk.jsonl", &in_gbk, &gbk),
    ] {
        for packing in PACKINGS {
            let path = put(folder.path(), &format!("{name}{packing}"), &packed(bytes, packing));
            let found = values(&path, options).unwrap_or_else(|e| panic!("{name}{packing}: {e}"));
            let wanted: Vec<Value> = match name {
                "gbk.jsonl" => chinese.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
                _ => wanted.clone(),
            };
            assert_eq!(found, wanted, "{name}{packing}");
        }
    }
}

#[test]
fn archives_of_several_members_are_read_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let row = b"{\"text\": \"a\"}\n";
    for packing in &PACKINGS[1..] {
        // The ending tells nothing: the first bytes do.
        let bytes =
            [packed(row, packing), packed(row, packing), packed(b"", packing), packed(row, packing)].concat();
        assert_eq!(said(&put(folder.path(), "a.jsonl", &bytes)), "3 rows", "{packing}");
        assert_eq!(said(&put(folder.path(), "a.jsonl", &packed(b"", packing))), "0 rows", "{packing}");
    }
}

#[test]
fn damaged_archives_are_faults_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..5000).map(|i| format!("{{\"text\": \"{}\"}}\n", i * 7919 % 10007)).collect();
    for packing in &PACKINGS[1..] {
        let whole = packed(rows.as_bytes(), packing);
        for cut in [11, whole.len() / 2, whole.len() - 1] {
            let path = put(folder.path(), "a.jsonl", &whole[..cut]);
            let fault = values(&path, &ReadOptions::default()).unwrap_err();
            assert!(fault.to_string().contains("archive is damaged or cut off"), "{packing} {cut}: {fault}");
            assert_eq!(fault.exit_code(), 2);
        }
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle..middle + 8].iter_mut().for_each(|byte| *byte ^= 0x5a);
        assert!(said(&put(folder.path(), "a.jsonl", &changed)).contains("error"), "{packing}");
    }
}

#[test]
fn what_unpacks_to_far_more_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // 1.2 GB of rows in some 100 kB.
    let mut writer = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    let rows = format!("{{\"text\": \"{}\"}}\n", "a".repeat((1 << 16) - 13)).repeat(16).into_bytes();
    for _ in 0..(1200 << 20) / rows.len() {
        writer.write_all(&rows).unwrap();
    }
    let bomb = put(folder.path(), "bomb.jsonl.zst", &writer.finish().unwrap());
    let mut number = 0;
    let fault = open(&bomb, &ReadOptions::default()).unwrap().find_map(|line| match line {
        Ok(line) => {
            number = line.number;
            None
        }
        Err(error) => Some(error.to_string()),
    });
    assert!(fault.as_ref().is_some_and(|f| f.contains("more than 1000 times its size")), "{fault:?}");
    assert!((16000..19000).contains(&number), "{number}");
    // A frame that asks for 2 GiB of window.
    let mut writer = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    writer.window_log(31).unwrap();
    writer.write_all(&rows).unwrap();
    let fault = said(&put(folder.path(), "long.jsonl.zst", &writer.finish().unwrap()));
    assert!(fault.contains("memory") && fault.contains("--long"), "{fault}");
}

#[test]
fn rows_of_300_mib_are_faults_in_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    for (name, head, tail) in [
        ("a.jsonl", "{\"text\": \"", "\"}\n"),
        ("a.json", "[{\"text\": \"", "\"}]"),
        ("b.json", "{\"data\": [{\"text\": \"", "\"}]}"),
        ("a.csv", "text\n\"", "\"\n"),
        ("a.txt", "", ""),
    ] {
        let path = put(folder.path(), name, head.as_bytes());
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        for _ in 0..300 {
            file.write_all(&[b'x'; 1 << 20]).unwrap();
        }
        file.write_all(tail.as_bytes()).unwrap();
        drop(file);
        let fault = said(&path);
        assert!(fault.contains("longer than 256 MiB"), "{name}: {fault}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn deep_nesting_and_other_encodings_are_faults_with_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for name in ["a.jsonl", "a.json"] {
        let fault = said(&put(folder.path(), name, deep.as_bytes()));
        assert!(fault.contains(&format!("{name}:1: not JSON: recursion limit")), "{fault}");
    }
    let fault = said(&put(folder.path(), "a.csv", format!("a\n\"{}\"\n", "[".repeat(100_000)).as_bytes()));
    assert_eq!(fault, "1 rows");
    for (name, bytes, wanted) in [
        (
            "a.jsonl",
            &b"{\"text\": \"a\"}\n{\"text\": \"caf\xe9\"}\n"[..],
            "a.jsonl:2: not UTF-8: byte 0xe9 in column 14",
        ),
        ("a.json", b"[{\"text\": \"a\"}, {\"text\": \"caf\xe9\"}]", "a.json:2: not UTF-8: byte 0xe9"),
        (
            "a.csv",
            b"text\na\ncaf\xe9\n",
            "a.csv:3: not UTF-8: byte 0xe9 in column 14 after `{\"text\": \"caf`",
        ),
        ("b.csv", b"caf\xe9\na\n", "b.csv:1: not UTF-8"),
        ("a.txt", b"one\ncaf\xe9\n", "a.txt:1: not UTF-8: byte 0xe9"),
    ] {
        let fault = said(&put(folder.path(), name, bytes));
        assert!(fault.contains(wanted) && fault.contains("encoding: gbk"), "{fault}");
    }
    let gbk = ReadOptions { encoding: Some("gbk".into()), ..ReadOptions::default() };
    let path = put(folder.path(), "gbk.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\x81\"}\n");
    let fault = values(&path, &gbk).unwrap_err().to_string();
    assert!(fault.contains("gbk.jsonl:2: the bytes that come here mean nothing in GBK"), "{fault}");
    let none = ReadOptions { encoding: Some("klingon".into()), ..ReadOptions::default() };
    assert!(values(&path, &none).unwrap_err().to_string().contains("no encoding is named `klingon`"));
}

#[test]
fn what_is_no_data_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let fault = said(&put(folder.path(), "a.png", b"\x89PNG\r\n"));
    assert!(fault.contains("tells no kind of data") && fault.contains(".jsonl, .ndjson, .json"), "{fault}");
    assert!(said(folder.path()).contains("a folder, not a file"));
    assert!(said(&folder.path().join("gone.csv")).contains("no such data file"));
    let text = ReadOptions { split: Some(TextSplit::Line), ..ReadOptions::default() };
    let path = put(folder.path(), "words", b"one\ntwo\n");
    assert_eq!(values(&path, &text).unwrap().len(), 2);
}
