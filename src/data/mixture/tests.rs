//! Mixtures from files to batches: shares, repetition, exact seeks.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::MixturePart;
use crate::data::selection::Sample;
use crate::data::{
    Batching, DataConfig, DataFormat, DataLoader, DataLoaderConfig, DataSource, PrepareContext, PreparedData,
    ReadOptions, RowFilter, RowSelection, Tokenizer, Validation, prepare, tokenizer,
};

/// A tokenizer of bytes, so that tokens can be counted by hand.
fn bytes(folder: &Path) -> Tokenizer {
    let tok = folder.join("tok");
    tokenizer::train::train(std::iter::once(Ok("ab".to_owned())), 300, &tok).unwrap();
    Tokenizer::load(&tok).unwrap()
}

/// A file of `rows` rows, whose lengths go by `i`.
fn write(folder: &Path, name: &str, rows: usize, len: impl Fn(usize) -> usize) -> MixturePart {
    let path = folder.join(name).with_extension("jsonl");
    let lines: Vec<String> =
        (0..rows).map(|i| json!({"text": name[..1].repeat(len(i))}).to_string() + "\n").collect();
    std::fs::write(&path, lines.concat()).unwrap();
    MixturePart {
        name: name.to_owned(),
        weight: None,
        epochs: 1.0,
        source: DataSource::Paths(vec![path]),
        format: DataFormat::Text,
        read: ReadOptions::default(),
        select: RowSelection::default(),
    }
}

fn prepared(folder: &Path, parts: &[MixturePart], validation: Validation) -> PreparedData {
    let tokenizer = bytes(folder);
    let source = DataSource::Mixture(parts.to_vec());
    let config = DataConfig { source, shuffle: true, validation, ..DataConfig::default() };
    let ctx = PrepareContext {
        tokenizer: Some(&tokenizer),
        max_seq_len: 64,
        seed: 7,
        cache_dir: folder,
        system_prompt_ratio: 0.0,
        empty_think_ratio: 0.0,
    };
    prepare(&config, &ctx).unwrap()
}

fn loader(data: &PreparedData, batching: Batching, shuffle: bool) -> DataLoader {
    let config = DataLoaderConfig { batch_size: 8, max_seq_len: 64, batching, shuffle, seed: 3, pad_id: 0 };
    DataLoader::new(data.train.clone(), config)
}

/// Tokens of each part in an epoch.
fn tokens(loader: &DataLoader, epoch: u64) -> Vec<usize> {
    let mut sums = vec![0; loader.rows().parts().unwrap().len()];
    for index in 0..loader.steps_per_epoch() {
        let batch = loader.batch(epoch, index).unwrap();
        let parts = batch.parts.unwrap();
        assert_eq!(parts.iter().map(|(_, tokens)| tokens).sum::<usize>(), batch.real_tokens);
        parts.iter().for_each(|(part, tokens)| sums[*part] += tokens);
    }
    sums
}

#[test]
fn an_epoch_has_its_shares_of_tokens_however_rows_are_batched() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = [
        write(dir.path(), "a", 1500, |i| 1 + i * 7919 % 50),
        write(dir.path(), "b", 400, |i| 3 + i * 31 % 20),
        write(dir.path(), "c", 900, |_| 30),
    ];
    for (part, (weight, epochs)) in parts.iter_mut().zip([(0.5, 1.0), (0.2, 8.0), (0.3, 1.0)]) {
        (part.weight, part.epochs) = (Some(weight), epochs);
    }
    let data = prepared(dir.path(), &parts, Validation::Off);
    assert_eq!((data.facts.rows, data.facts.parts.len()), (2800, 3));
    for batching in [Batching::Bucket, Batching::Pad, Batching::Pack] {
        let loader = loader(&data, batching, true);
        for epoch in [0, 1, 5] {
            let sums = tokens(&loader, epoch);
            let total: usize = sums.iter().sum();
            for (sum, part) in sums.iter().zip(&parts) {
                let share = *sum as f64 / total as f64;
                assert!((share - part.weight.unwrap()).abs() < 0.01, "{batching:?} {epoch} {sums:?}");
            }
        }
        // Any batch alone, from a loader that has read nothing before it.
        let (late, early) = (loader.batch(5, 7).unwrap(), loader.batch(0, 0).unwrap());
        assert_eq!(self::loader(&data, batching, true).batch(5, 7).unwrap(), late);
        assert_eq!(self::loader(&data, batching, true).batch(0, 0).unwrap(), early);
    }
    // The first part ends the epoch: it is passed once.
    let first = &data.facts.parts[0];
    assert_eq!((first.epoch_rows, first.passes, first.unused), (1500, 1.0, 0.0));
    assert!(data.facts.parts[1].passes > 2.0 && data.facts.parts[2].unused > 0.0, "{:?}", data.facts.parts);
}

#[test]
fn without_weights_every_row_comes_once_and_some_twice_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = [write(dir.path(), "a", 30, |i| 1 + i), write(dir.path(), "b", 20, |i| 31 + i % 20)];
    for (epochs, twice) in [(1.0, 1), (2.0, 2)] {
        parts[1].epochs = epochs;
        let data = prepared(dir.path(), &parts, Validation::Off);
        for (batching, shuffle) in [(Batching::Bucket, true), (Batching::Pad, false)] {
            let loader = loader(&data, batching, shuffle);
            let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
            for index in 0..loader.steps_per_epoch() {
                for row in loader.batch_rows(2, index).unwrap() {
                    *seen.entry(row).or_default() += 1;
                }
            }
            let want = (0..50).map(|row| (row, if row < 30 { 1 } else { twice })).collect();
            assert_eq!(seen, want);
        }
    }
}

#[test]
fn validation_rows_come_out_of_each_part() {
    let dir = tempfile::tempdir().unwrap();
    let parts = [write(dir.path(), "a", 30, |i| 1 + i), write(dir.path(), "b", 20, |i| 31 + i % 20)];
    let data = prepared(dir.path(), &parts, Validation::Share(0.1));
    let held = data.validation.unwrap();
    assert_eq!((data.facts.rows, held.len()), (45, 5));
    assert_eq!((0..5).map(|row| held.part_of(row)).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
    let path = dir.path().join("a.jsonl");
    let data = prepared(dir.path(), &parts, Validation::Path(path));
    assert_eq!((data.facts.rows, data.validation.unwrap().len()), (50, 30));
}

#[test]
fn parts_are_limited_filtered_and_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = [write(dir.path(), "a", 100, |i| 1 + i), write(dir.path(), "b", 20, |_| 5)];
    // Tokens: bos, the bytes, eos; rows of 3..=82 bytes of the first 90 are left, and one of four of these.
    parts[0].select = RowSelection {
        limit: Some(90),
        filter: RowFilter { min_tokens: Some(5), max_tokens: Some(84), ..RowFilter::default() },
        sample: Some(Sample { rows: 0.25, seed: 1 }),
    };
    parts[1].select.filter.regex = Some("^b{5}$".to_owned());
    let data = prepared(dir.path(), &parts, Validation::Off);
    let reasons: Vec<_> = data.facts.filtered.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(reasons, [("max_tokens", 8), ("min_tokens", 2)]);
    assert_eq!(data.facts.parts.iter().map(|part| part.rows).collect::<Vec<_>>(), [20, 20]);
    assert_eq!(data.facts.longest, 64, "rows are cut after they are filtered");
    // The cache remembers what was left out.
    assert_eq!(prepared(dir.path(), &parts, Validation::Off).facts, data.facts);
}
