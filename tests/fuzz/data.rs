//! Mutated data files of every kind into their readers.

use super::*;

/// Columns: Parquet, and both of Arrow's forms.
#[test]
fn column_files() {
    fn rows(path: &Path) {
        let Ok(rows) = reader::open(path, &ReadOptions::default()) else { return };
        for line in rows.take(1000).map_while(Result::ok) {
            let _ = jsonl::parse(&line.bytes);
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data");
    let seeds = |names: &[&str]| -> Vec<Vec<u8>> {
        names.iter().map(|name| std::fs::read(folder.join(name)).expect("a seed")).collect()
    };
    let words: [&[u8]; 6] =
        [b"PAR1", b"\xff\xff\xff\x7f", b"\x15\x02", b"\x19\xfc", b"\0\0\0\0", b"\xff\xff\xff\xff\x0f"];
    fuzz(
        "a.parquet",
        &seeds(&["brotli.parquet", "gzip.parquet", "lz4.parquet", "json.parquet"]),
        &words,
        rows,
        as_it_is,
    );
    let words: [&[u8]; 4] =
        [b"ARROW1\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0\0\0\0\0\0\0\0"];
    fuzz("a.arrow", &seeds(&["feather.arrow", "stream.arrow", "types.arrow"]), &words, rows, as_it_is);
}

/// JSON, tables and texts, and each packing around JSON lines.
#[test]
fn text_files() {
    fn read(path: &Path, options: &ReadOptions) {
        let Ok(rows) = reader::open(path, options) else { return };
        for line in rows.take(1000).map_while(Result::ok) {
            let _ = jsonl::parse(&line.bytes);
        }
    }
    fn rows(path: &Path) {
        read(path, &ReadOptions::default());
    }
    fn divided(path: &Path) {
        for split in [TextSplit::Line, TextSplit::Paragraph, TextSplit::Marker("<|end|>".to_owned())] {
            read(path, &ReadOptions { split: Some(split), ..ReadOptions::default() });
        }
        read(path, &ReadOptions { encoding: Some("gb18030".to_owned()), ..ReadOptions::default() });
    }
    let json = [
        b"[{\"text\": \"one\\\"]\"},\n {\"text\": [1, {\"a\": null}]}]".to_vec(),
        b"{\"version\": 1, \"data\": [{\"a\": 1}, {\"a\": 2}], \"n\": {}}".to_vec(),
        b"{\n \"text\": \"one\"\n}\n{\"text\": \"two\"}".to_vec(),
    ];
    let words: [&[u8]; 8] = [b"[[[[[[[[", b"]", b"}", b"{\"a\":[{", b",", b"\"", b"\\", b"\xff\xfe"];
    fuzz("a.json", &json, &words, rows, as_it_is);
    let table = [b"id,text\r\n1,\"a \"\"b\"\"\nc\"\r\n\r\n2,\"[{\"\"role\"\": 1}]\"\n".to_vec()];
    let words: [&[u8]; 6] = [b"\"", b"\"\"", b",", b"\r", b"\n\n", b"\xef\xbb\xbf"];
    fuzz("a.csv", &table, &words, rows, as_it_is);
    let text = [b"one\ntwo\n\nthree <|end|>\r\n four".to_vec(), b"\xc4\xe3\xba\xc3\n\n<|end|>".to_vec()];
    let words: [&[u8]; 5] = [b"<|end|>", b"<|end", b"\n\n", b"\xfe\xff", b"\x81\x30"];
    fuzz("a.txt", &text, &words, divided, as_it_is);
    let lines = b"{\"text\": \"one, two and three\"}\n".repeat(40);
    let words: [&[u8]; 4] = [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xff\xff\xff\xff", b"BZh91AY&SY"];
    fuzz("a.packed.jsonl", &packed(&lines), &words, rows, as_it_is);
}

/// Bytes in each packing.
fn packed(bytes: &[u8]) -> Vec<Vec<u8>> {
    fn filled<W: Write>(mut writer: W, bytes: &[u8]) -> W {
        writer.write_all(bytes).expect("it is packed");
        writer
    }
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    let bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    vec![
        filled(gzip, bytes).finish().expect("gzip"),
        zstd::stream::encode_all(bytes, 3).expect("zstd"),
        filled(xz, bytes).finish().expect("xz"),
        filled(bzip2, bytes).finish().expect("bzip2"),
    ]
}
