//! Tests over the whole room: order, padding, faults, caches, splits, the built-in world.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::jsonl::{self, Line, Lines};
use super::synthetic::{self, SyntheticKind};
use super::token_cache::{self, Encoded, TokenCache, TokenizedRow};
use super::token_file::TokenFile;
use super::*;

mod caches;
mod preferences;

fn lines(count: usize) -> impl Iterator<Item = crate::Result<Line>> {
    (0..count).map(|i| Ok(Line { number: i + 1, bytes: vec![b'x'; 1 + i * 7919 % 90] }))
}

/// Row `i` begins with `i`, so that a batch tells its rows.
fn encode(line: &Line) -> crate::Result<Encoded> {
    let n = line.bytes.len();
    let mut ids = vec![5; n + 1];
    ids[0] = line.number as u32 - 1;
    Ok(Encoded::Row(TokenizedRow { loss_mask: vec![true; n + 1], ids, loss_bytes: n }))
}

fn some_rows(dir: &Path, count: usize) -> Dataset {
    Dataset::cached(token_cache::build(&dir.join("a.rows"), lines(count), encode).unwrap(), false)
}

fn config(batch_size: usize, batching: Batching) -> DataLoaderConfig {
    DataLoaderConfig { batch_size, max_seq_len: 96, batching, shuffle: true, seed: 7, pad_id: 3 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_epoch_holds_every_row_once(count in 1usize..700, batch in 1usize..9, epoch in 0u64..4, bucket: bool) {
        let dir = tempfile::tempdir().unwrap();
        let batching = if bucket { Batching::Bucket } else { Batching::Pad };
        let loader = DataLoader::new(some_rows(dir.path(), count), config(batch, batching));
        prop_assert_eq!(loader.steps_per_epoch() as usize, count.div_ceil(batch));
        let mut seen: Vec<i64> = Vec::new();
        for i in 0..loader.steps_per_epoch() {
            seen.extend(loader.batch(epoch, i).unwrap().input_ids.column(0).iter());
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..count as i64).collect::<Vec<_>>());
    }
}

#[test]
fn a_seek_equals_reading_on() {
    let dir = tempfile::tempdir().unwrap();
    let rows = some_rows(dir.path(), 301);
    let reading = DataLoader::new(rows.clone(), config(4, Batching::Bucket));
    for epoch in 0..2 {
        for index in 0..reading.steps_per_epoch() {
            let batch = reading.batch(epoch, index).unwrap();
            if index % 17 == 3 {
                assert_eq!(
                    DataLoader::new(rows.clone(), config(4, Batching::Bucket)).batch(epoch, index).unwrap(),
                    batch
                );
            }
        }
    }
    assert_ne!(reading.batch_rows(0, 0).unwrap(), reading.batch_rows(1, 0).unwrap());
    assert!(reading.batch(0, reading.steps_per_epoch()).is_err());
}

#[test]
fn buckets_pad_less_and_padding_carries_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let rows = some_rows(dir.path(), 500);
    let bucket = DataLoader::new(rows.clone(), config(8, Batching::Bucket)).padding_stats();
    let pad = DataLoader::new(rows.clone(), config(8, Batching::Pad)).padding_stats();
    assert_eq!(bucket.real_tokens, pad.real_tokens);
    assert_eq!(pad.padded_tokens, 500 * 96);
    assert!(bucket.padded_tokens < pad.padded_tokens * 2 / 3, "{bucket:?} {pad:?}");
    let batch = DataLoader::new(rows, config(8, Batching::Pad)).batch(0, 0).unwrap();
    assert_eq!(batch.labels.dim(), (8, 96));
    assert_eq!(batch.labels.iter().filter(|l| **l != IGNORE_INDEX).count(), batch.real_tokens);
    assert_eq!(batch.loss_tokens, batch.real_tokens - 8);
    assert_eq!(batch.loss_bytes, batch.real_tokens - 8);
}

#[test]
fn without_shuffle_rows_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let still = DataLoaderConfig { shuffle: false, ..config(4, Batching::Bucket) };
    let loader = DataLoader::new(some_rows(dir.path(), 10), still);
    assert_eq!(loader.batch_rows(3, 1).unwrap(), [4, 5, 6, 7]);
    assert_eq!(loader.batch_rows(3, 2).unwrap(), [8, 9]);
}

#[test]
fn bad_rows_are_named_by_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.jsonl");
    std::fs::write(
        &path,
        "{\"text\":\"ok\"}\n\nnot json\n{\"text\":3}\n{\"other\":1}\n{\"text\":\"\"}\n[1]\n",
    )
    .unwrap();
    let faults: Vec<String> = Lines::open(&path)
        .unwrap()
        .map(Result::unwrap)
        .filter_map(|l| {
            jsonl::parse(&l.bytes)
                .and_then(|r| prepare::check(&r, DataFormat::Text))
                .err()
                .map(|f| f.at(&path, l.number).to_string())
        })
        .collect();
    let wanted = [
        "3: not JSON",
        "4: field `text` is a number",
        "5: no field `text`",
        "6: field `text` is empty",
        "7: a JSON object is wanted",
    ];
    assert_eq!(faults.len(), wanted.len());
    for (fault, wanted) in faults.iter().zip(wanted) {
        assert!(fault.contains(&format!("bad.jsonl:{wanted}")), "{fault}");
    }
    // A prompt has no answer yet.
    let prompt = jsonl::parse(br#"{"conversations": [{"role": "user", "content": "a"}]}"#).unwrap();
    assert!(prepare::check(&prompt, DataFormat::Prompts).is_ok());
    assert!(prepare::check(&prompt, DataFormat::Chat).is_err());
    assert!(prepare::check(&prompt, DataFormat::Agent).unwrap_err().what.contains("`gt`"));
    let chat = jsonl::parse(
        br#"{"conversations":[{"role":"user","content":"a"},{"role":"assistant","content":7}]}"#,
    )
    .unwrap();
    assert!(chat::conversations(&chat).unwrap_err().what.contains("`conversations[1].content` is a number"));
}

fn write_tokens(path: &Path, shape: Vec<usize>, key: &str) {
    let count: usize = shape.iter().product();
    let ids: Vec<u8> = (0..count as i64).flat_map(i64::to_le_bytes).collect();
    let labels: Vec<u8> =
        (0..count as i64).flat_map(|i| (if i % 3 == 0 { IGNORE_INDEX } else { i }).to_le_bytes()).collect();
    let view =
        |bytes| safetensors::tensor::TensorView::new(safetensors::Dtype::I64, shape.clone(), bytes).unwrap();
    let data = [(key.to_owned(), view(&ids)), ("labels".to_owned(), view(&labels))];
    std::fs::write(path, safetensors::serialize(data, None).unwrap()).unwrap();
}

fn tokens_config(path: &Path, validation: Validation) -> DataConfig {
    DataConfig {
        source: DataSource::Paths(vec![path.to_owned()]),
        format: DataFormat::Tokens,
        shuffle: false,
        validation,
        batching: Batching::Bucket,
        on_bad_row: OnBadRow::Error,
        read: ReadOptions::default(),
        select: RowSelection::default(),
    }
}

fn context(dir: &Path) -> PrepareContext<'_> {
    PrepareContext {
        tokenizer: None,
        max_seq_len: 64,
        seed: 1,
        cache_dir: dir,
        system_prompt_ratio: 0.2,
        empty_think_ratio: 0.2,
    }
}

#[test]
fn a_token_file_gives_its_micro_batches_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    write_tokens(&path, vec![3, 2, 5], "input_ids");
    let prepared = prepare(&tokens_config(&path, Validation::Off), &context(dir.path())).unwrap();
    assert_eq!((prepared.facts.rows, prepared.facts.tokens, prepared.facts.longest), (6, 30, 5));
    let loader =
        DataLoader::new(prepared.train, DataLoaderConfig { shuffle: false, ..config(99, Batching::Pad) });
    assert_eq!(loader.steps_per_epoch(), 3);
    let batch = loader.batch(0, 1).unwrap();
    assert_eq!(batch.input_ids.iter().copied().collect::<Vec<_>>(), (10..20).collect::<Vec<_>>());
    assert_eq!(batch.labels[[0, 2]], IGNORE_INDEX);
    assert_eq!(batch.labels[[0, 1]], 11);
    write_tokens(&path, vec![3, 2, 5], "ids");
    assert!(TokenFile::open(&path).unwrap_err().to_string().contains("no tensor `input_ids`"));
}

#[test]
fn validation_rows_are_not_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    write_tokens(&path, vec![50, 4], "input_ids");
    let prepared = prepare(&tokens_config(&path, Validation::Share(0.2)), &context(dir.path())).unwrap();
    let firsts = |rows: &Dataset| (0..rows.len()).map(|i| rows.row(i).ids[0]).collect::<BTreeSet<_>>();
    let (train, held) = (firsts(&prepared.train), firsts(&prepared.validation.unwrap()));
    assert_eq!((train.len(), held.len()), (40, 10));
    assert!(train.is_disjoint(&held));
}

fn synth(seed: u64, split: SyntheticSplit, kind: SyntheticKind) -> Vec<serde_json::Value> {
    synthetic::rows(&SyntheticConfig { rows: None, seed, split, task: SyntheticTask::World }, kind).collect()
}

fn asked(rows: &[serde_json::Value]) -> BTreeSet<String> {
    rows.iter().map(|r| r["conversations"][0]["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn heldout_questions_are_never_trained() {
    for seed in [1, 42] {
        let train = synth(seed, SyntheticSplit::Train, SyntheticKind::Chat);
        let held = synth(seed, SyntheticSplit::Heldout, SyntheticKind::Chat);
        assert_eq!((train.len(), held.len()), (synthetic::TRAIN_ROWS, synthetic::HELDOUT_ROWS));
        assert_eq!(asked(&held).len(), held.len(), "every held-out question is another");
        assert!(asked(&train).is_disjoint(&asked(&held)));
        assert_eq!(train, synth(seed, SyntheticSplit::Train, SyntheticKind::Chat));
    }
}

#[test]
fn a_question_has_one_answer_and_sums_are_right() {
    let mut answers = HashMap::new();
    let all = synthetic::questions(42);
    for question in &all {
        assert!(
            answers.insert(question.ask.clone(), question.answer.clone()).is_none(),
            "{} twice",
            question.ask
        );
        let numbers: Vec<u64> =
            question.ask.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        let [a, b] = numbers[..] else { continue };
        let right = if question.ask.contains('+') {
            a + b
        } else if question.ask.contains("larger") || question.ask.contains("큰") {
            a.max(b)
        } else {
            a.min(b)
        };
        assert!(synthetic::verify(&right.to_string(), &question.answer));
    }
    let held = all.iter().filter(|q| q.heldout).count();
    let facts = all.iter().filter(|q| q.heldout && q.group == 0).count();
    assert!(facts * 8 > held, "{facts} facts of {held} held-out questions");
    assert!((synthetic::HELDOUT_ROWS..all.len() / 8).contains(&held), "{held} of {}", all.len());
}

#[test]
fn prose_says_every_heldout_fact_and_no_heldout_sum() {
    let text: String = synth(42, SyntheticSplit::Train, SyntheticKind::Text)
        .iter()
        .map(|r| r["text"].as_str().unwrap().to_owned() + "\n")
        .collect();
    for question in synthetic::questions(42).iter().filter(|q| q.heldout && q.ask.contains(" = ?")) {
        let shown = format!(" {}{}.", question.ask.trim_end_matches('?'), question.answer);
        assert!(!text.contains(&shown), "{shown}");
    }
    // Each fact's entity and value stand in one sentence somewhere.
    let sentences: BTreeSet<&str> = text.split(['.', '\n']).collect();
    for question in synthetic::questions(42).iter().filter(|q| q.group == 0 && q.heldout) {
        let words: Vec<&str> = question.ask.split([' ', '?', '.']).collect();
        let stated = sentences.iter().any(|s| {
            let said: Vec<&str> = s.split(' ').collect();
            s.contains(&question.answer) && words.iter().any(|w| w.len() > 2 && said.contains(w))
        });
        assert!(stated, "{}", question.ask);
    }
}

fn world_config(split: SyntheticSplit, validation: Validation) -> DataConfig {
    DataConfig {
        source: DataSource::Synthetic(SyntheticConfig {
            rows: Some(400),
            seed: 5,
            split,
            task: SyntheticTask::World,
        }),
        format: DataFormat::Text,
        shuffle: true,
        validation,
        batching: Batching::Bucket,
        on_bad_row: OnBadRow::Error,
        read: ReadOptions::default(),
        select: RowSelection::default(),
    }
}

fn world_tokenizer(dir: &Path) -> Tokenizer {
    let texts = synth(5, SyntheticSplit::Train, SyntheticKind::Text);
    let texts = texts.iter().take(500).map(|r| Ok(r["text"].as_str().unwrap().to_owned()));
    tokenizer::train::train(texts, 600, dir).unwrap();
    Tokenizer::load(dir).unwrap()
}

#[test]
fn text_and_chat_rows_are_cached_and_a_broken_cache_is_remade() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = world_tokenizer(&dir.path().join("tok"));
    let caches = dir.path().join("cache");
    let ctx = PrepareContext { tokenizer: Some(&tokenizer), ..context(&caches) };
    let config = world_config(SyntheticSplit::Train, Validation::Off);
    let chats = DataConfig { format: DataFormat::Chat, ..config.clone() };

    let text = prepare(&config, &ctx).unwrap();
    let row = text.train.row(0);
    assert_eq!(
        (row.ids[0], *row.ids.last().unwrap()),
        (tokenizer.bos_id().unwrap().into(), tokenizer.eos_id().into())
    );
    assert_eq!(row.labels, row.ids);
    assert!(text.facts.longest <= 64 && text.facts.loss_tokens == text.facts.tokens - 400);

    let chat = prepare(&chats, &ctx).unwrap();
    assert_ne!(chat.facts.content_hash, text.facts.content_hash);
    let answers = synthetic::rows(
        &SyntheticConfig {
            rows: Some(400),
            seed: 5,
            split: SyntheticSplit::Train,
            task: SyntheticTask::World,
        },
        SyntheticKind::Chat,
    );
    for (i, answer) in answers.enumerate().take(50) {
        let row = chat.train.row(i);
        let spoken: Vec<u32> = row.labels.iter().filter(|l| **l != IGNORE_INDEX).map(|l| *l as u32).collect();
        if row.ids.len() < 64 {
            let said = tokenizer.decode(&spoken, true).unwrap();
            assert!(said.trim().ends_with(answer["answer"].as_str().unwrap()), "{said}");
        }
    }

    let files = || std::fs::read_dir(&caches).unwrap().map(|e| e.unwrap().path()).collect::<BTreeSet<_>>();
    let before = files();
    assert_eq!(before.len(), 2);
    let when = |p: &PathBuf| std::fs::metadata(p).unwrap().modified().unwrap();
    let times: Vec<_> = before.iter().map(when).collect();
    assert_eq!(prepare(&chats, &ctx).unwrap().facts, chat.facts);
    assert_eq!(before.iter().map(when).collect::<Vec<_>>(), times, "used again, not remade");
    for path in &before {
        let whole = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap(); // the old rows are still mapped
        std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
    }
    assert_eq!(prepare(&chats, &ctx).unwrap().facts, chat.facts);
}

#[test]
fn a_bad_row_stops_or_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = world_tokenizer(&dir.path().join("tok"));
    let path = dir.path().join("two.jsonl");
    std::fs::write(&path, "{\"text\":\"a b c\"}\n{\"txt\":1}\n").unwrap();
    let caches = dir.path().join("cache");
    let ctx = PrepareContext { tokenizer: Some(&tokenizer), ..context(&caches) };
    let mut config = DataConfig { format: DataFormat::Text, ..tokens_config(&path, Validation::Off) };
    let fault = prepare(&config, &ctx).unwrap_err();
    assert!(fault.to_string().contains("two.jsonl:2: no field `text`"), "{fault}");
    assert_eq!(fault.exit_code(), 2);
    config.on_bad_row = OnBadRow::Skip;
    let facts = prepare(&config, &ctx).unwrap().facts;
    assert_eq!((facts.rows, facts.skipped_rows), (1, 1));
}
