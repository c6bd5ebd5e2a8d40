//! The same data in every shape and every kind of file: the same token ids and loss as plain JSON lines in MiniMind's keys.

use std::io::Write;
use std::path::{Path, PathBuf};

use minimind::data::{DataConfig, DataFormat, PrepareContext, Tokenizer, prepare};
use serde_json::{Value, json};

const ASKED: [&str; 3] = ["Say hi", "What do otters eat,\nand \"why\"?", "水獭吃什么？"];
const BETTER: [&str; 3] = ["Hi", "Fish; it is there.", "鱼。"];
const WORSE: [&str; 3] = ["Go away", "Stones", "石头"];

fn turn(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

fn said(from: &str, text: &str) -> Value {
    json!({"from": from, "value": text})
}

/// The shapes of a format; the first is MiniMind's own. Row `i` of each says the same.
fn shapes(format: DataFormat, i: usize) -> Vec<(&'static str, Value)> {
    let (ask, better, worse) = (ASKED[i], BETTER[i], WORSE[i]);
    let turns = json!([turn("user", ask), turn("assistant", better)]);
    let others = json!([turn("user", ask), turn("assistant", worse)]);
    match format {
        DataFormat::Text => vec![
            ("text", json!({"text": format!("{ask}{better}")})),
            ("content", json!({"content": format!("{ask}{better}")})),
            ("raw_content", json!({"raw_content": format!("{ask}{better}")})),
            ("prompt-completion", json!({"prompt": ask, "completion": better})),
        ],
        DataFormat::Chat => vec![
            ("conversations", json!({"conversations": turns})),
            ("messages", json!({"messages": turns})),
            ("sharegpt", json!({"conversations": [said("human", ask), said("gpt", better)]})),
            ("alpaca", json!({"instruction": ask, "input": "", "output": better})),
            ("prompt-completion", json!({"prompt": ask, "completion": better})),
            ("prompt-completion of turns", json!({"prompt": [turns[0]], "completion": [turns[1]]})),
            ("prompt-response", json!({"prompt": ask, "response": better})),
            ("question-answer", json!({"question": ask, "answer": better})),
            ("query-response", json!({"query": ask, "response": better})),
            ("unpaired", json!({"prompt": ask, "completion": better, "label": true})),
            ("prompt-preference", json!({"prompt": ask, "chosen": better, "rejected": worse})),
        ],
        _ => vec![
            ("preference", json!({"chosen": turns, "rejected": others})),
            ("prompt-preference", json!({"prompt": ask, "chosen": better, "rejected": worse})),
            ("of turns", json!({"prompt": [turns[0]], "chosen": [turns[1]], "rejected": [others[1]]})),
            ("text before turns", json!({"prompt": ask, "chosen": turns, "rejected": others})),
            (
                "sharegpt-preference",
                json!({"conversations": [said("human", ask)], "chosen": said("gpt", better), "rejected": said("gpt", worse)}),
            ),
            (
                "alpaca-preference",
                json!({"instruction": ask, "input": "", "chosen": better, "rejected": worse}),
            ),
            (
                "text-preference",
                json!({"chosen": format!("\n\nHuman: {ask}\n\nAssistant: {better}"),
                       "rejected": format!("\n\nHuman: {ask}\n\nAssistant: {worse}")}),
            ),
        ],
    }
}

/// Ids and loss of every row as a stage has them.
fn trained(path: &Path, format: DataFormat, tokenizer: &Tokenizer) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let context = PrepareContext {
        tokenizer: Some(tokenizer),
        max_seq_len: 128,
        seed: 1,
        cache_dir: folder.path(),
        system_prompt_ratio: 0.0,
        empty_think_ratio: 0.0,
    };
    let data = DataConfig::files(vec![path.to_owned()], format);
    let rows = prepare(&data, &context).unwrap_or_else(|fault| panic!("{}: {fault}", path.display())).train;
    assert_eq!(rows.len(), 3, "{}", path.display());
    let one =
        |i| if rows.is_preference() { format!("{:?}", rows.pair(i)) } else { format!("{:?}", rows.row(i)) };
    (0..rows.len()).map(one).collect()
}

fn write(path: &Path, bytes: &[u8]) -> PathBuf {
    std::fs::write(path, bytes).expect("a file is written");
    path.to_owned()
}

fn table(rows: &[Value], delimiter: u8) -> Vec<u8> {
    let mut out = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    let keys: Vec<&String> = rows[0].as_object().expect("an object").keys().collect();
    out.write_record(&keys).expect("a record");
    for row in rows {
        let cells = keys.iter().map(|key| match &row[key.as_str()] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        out.write_record(cells).expect("a record");
    }
    out.into_inner().expect("bytes")
}

/// The rows in every kind of file.
fn files(folder: &Path, rows: &[Value]) -> Vec<PathBuf> {
    let lines: Vec<u8> = rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes();
    let list = Value::from(rows.to_vec());
    let mut files = vec![
        write(&folder.join("a.jsonl"), &lines),
        write(&folder.join("a.json"), serde_json::to_string_pretty(&list).expect("JSON").as_bytes()),
        write(&folder.join("a.csv"), &table(rows, b',')),
        write(&folder.join("a.tsv"), &table(rows, b'\t')),
        write(&folder.join("a.jsonl.zst"), &zstd::encode_all(&lines[..], 3).expect("zstd")),
    ];
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&lines).expect("gzip");
    files.push(write(&folder.join("a.jsonl.gz"), &gz.finish().expect("gzip")));
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz.write_all(&lines).expect("bzip2");
    files.push(write(&folder.join("a.jsonl.bz2"), &bz.finish().expect("bzip2")));
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&lines).expect("xz");
    files.push(write(&folder.join("a.jsonl.xz"), &xz.finish().expect("xz")));
    #[cfg(feature = "parquet")]
    files.extend(columns::files(folder, rows));
    files
}

#[cfg(feature = "parquet")]
mod columns {
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BooleanArray, ListArray, RecordBatch, StringArray, StructArray};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::{Field, Fields, Schema};
    use serde_json::Value;

    /// Values of one kind as a column.
    fn column(values: &[&Value]) -> ArrayRef {
        match values[0] {
            Value::Bool(_) => Arc::new(BooleanArray::from_iter(values.iter().map(|value| value.as_bool()))),
            Value::Array(_) => {
                let lists: Vec<&Vec<Value>> = values.iter().filter_map(|value| value.as_array()).collect();
                let inner = column(&lists.iter().flat_map(|list| list.iter()).collect::<Vec<_>>());
                let field = Arc::new(Field::new("item", inner.data_type().clone(), true));
                let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.len()));
                Arc::new(ListArray::new(field, offsets, inner, None))
            }
            Value::Object(first) => {
                let parts: Vec<(Field, ArrayRef)> = first
                    .keys()
                    .map(|key| {
                        let part =
                            column(&values.iter().map(|value| &value[key.as_str()]).collect::<Vec<_>>());
                        (Field::new(key, part.data_type().clone(), true), part)
                    })
                    .collect();
                let (fields, parts): (Vec<Field>, Vec<ArrayRef>) = parts.into_iter().unzip();
                Arc::new(StructArray::new(Fields::from(fields), parts, None))
            }
            _ => Arc::new(StringArray::from_iter(values.iter().map(|value| value.as_str()))),
        }
    }

    pub fn files(folder: &Path, rows: &[Value]) -> Vec<PathBuf> {
        let whole = column(&rows.iter().collect::<Vec<_>>());
        let whole = whole.as_any().downcast_ref::<StructArray>().expect("rows are objects");
        let batch = RecordBatch::from(whole);
        let schema: Arc<Schema> = batch.schema();
        let create = |name: &str| File::create(folder.join(name)).expect("a file");
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(create("a.parquet"), schema.clone(), None).expect("parquet");
        writer.write(&batch).expect("parquet");
        writer.close().expect("parquet");
        let mut writer =
            arrow_ipc::writer::FileWriter::try_new(create("file.arrow"), &schema).expect("arrow");
        writer.write(&batch).expect("arrow");
        writer.finish().expect("arrow");
        let mut writer =
            arrow_ipc::writer::StreamWriter::try_new(create("stream.arrow"), &schema).expect("arrow");
        writer.write(&batch).expect("arrow");
        writer.finish().expect("arrow");
        ["a.parquet", "file.arrow", "stream.arrow"].map(|name| folder.join(name)).into()
    }
}

#[test]
fn every_shape_in_every_kind_of_file_trains_the_same() {
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    let tokenizer = Tokenizer::load(&tokenizer).expect("the small tokenizer");
    for format in [DataFormat::Text, DataFormat::Chat, DataFormat::Preference] {
        let mut wanted: Option<Vec<String>> = None;
        for shape in 0..shapes(format, 0).len() {
            let named: Vec<(&str, Value)> = (0..3).map(|i| shapes(format, i)[shape].clone()).collect();
            let rows: Vec<Value> = named.iter().map(|(_, row)| row.clone()).collect();
            let folder = tempfile::tempdir().expect("a folder");
            for file in files(folder.path(), &rows) {
                let got = trained(&file, format, &tokenizer);
                let wanted = wanted.get_or_insert_with(|| got.clone());
                assert_eq!(got, *wanted, "{format:?}, {}, {}", named[0].0, file.display());
            }
        }
    }
}

#[test]
fn a_column_that_no_row_has_is_named_with_the_keys_there_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let row = json!({"Frage": "Say hi", "response": "Hi"});
    let path = write(&folder.path().join("a.jsonl"), format!("{row}\n").as_bytes());
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    let tokenizer = Tokenizer::load(&tokenizer).expect("the small tokenizer");
    let cache = tempfile::tempdir().expect("a folder");
    let context = PrepareContext {
        tokenizer: Some(&tokenizer),
        max_seq_len: 128,
        seed: 1,
        cache_dir: cache.path(),
        system_prompt_ratio: 0.0,
        empty_think_ratio: 0.0,
    };
    let mut data = DataConfig::files(vec![path], DataFormat::Chat);
    let name = |data: &mut DataConfig, name: &str, own: &str| {
        data.read.columns.insert(name.to_owned(), own.to_owned());
    };
    name(&mut data, "prompt", "Frage");
    assert_eq!(prepare(&data, &context).expect("rows").facts.rows, 1);
    name(&mut data, "system", "Regel");
    for _ in 0..2 {
        // Also where an earlier run has failed.
        let fault = prepare(&data, &context).expect_err("no row has a Regel").to_string();
        assert!(fault.contains("no row has the column `Regel`, which `columns` names as system"), "{fault}");
        assert!(fault.contains("Frage, response"), "{fault}");
    }
}
