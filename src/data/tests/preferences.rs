//! Preference rows, from JSON lines, token files and the built-in world.

use super::*;

fn pairs_of(dir: &Path, tokenizer: &Tokenizer, rows: &str) -> crate::Result<PreparedData> {
    let path = dir.join("pairs.jsonl");
    std::fs::write(&path, rows).unwrap();
    let config = DataConfig { format: DataFormat::Preference, ..tokens_config(&path, Validation::Off) };
    prepare(&config, &PrepareContext { tokenizer: Some(tokenizer), ..context(dir) })
}

#[test]
fn preferences_are_pairs_with_one_prompt_and_bad_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = world_tokenizer(&dir.path().join("tok"));
    let side = |ask: &str, say: &str| {
        format!(r#"[{{"role":"user","content":"{ask}"}},{{"role":"assistant","content":"{say}"}}]"#)
    };
    let row = |a: &str, b: &str| format!("{{\"chosen\":{a},\"rejected\":{b}}}\n");
    let good = row(&side("7 + 5?", "12"), &side("7 + 5?", "13, I am told"));
    let rows = pairs_of(dir.path(), &tokenizer, &good.repeat(3)).unwrap().train;
    assert!(rows.is_preference() && rows.len() == 3);
    let pair = rows.pair(0);
    let spoken = |row: &Row| {
        let ids: Vec<u32> = row.labels.iter().filter(|l| **l != IGNORE_INDEX).map(|l| *l as u32).collect();
        tokenizer.decode(&ids, true).unwrap()
    };
    // The empty think block stays in both or goes from both.
    let texts = [spoken(&pair.chosen), spoken(&pair.rejected)];
    let bare = texts.each_ref().map(|text| text.trim_start_matches(tokenizer::chat_row::EMPTY_THINK).trim());
    assert_eq!(bare, ["12", "13, I am told"]);
    assert_eq!(texts[0].contains("<think>"), texts[1].contains("<think>"));
    let all = [pair.clone(), rows.pair(1)];
    let settings = DataLoaderConfig { shuffle: false, ..config(2, Batching::Bucket) };
    let batch = preference::batch(&DataLoader::new(rows, settings), 0, 0).unwrap();
    let lens: Vec<usize> =
        all.iter().map(|p| p.chosen.ids.len()).chain(all.iter().map(|p| p.rejected.ids.len())).collect();
    assert!(lens[2] > lens[0]);
    assert_eq!(batch.input_ids.dim(), (4, lens.iter().max().unwrap().next_multiple_of(8)));
    assert_eq!(batch.last, lens.iter().map(|n| *n as i64 - 1).collect::<Vec<_>>());
    assert_eq!(batch.input_ids[[0, lens[0]]], 3);
    assert_eq!(batch.mask.row(2).sum() as usize, all[0].rejected.loss_tokens());
    assert_eq!(batch.real_tokens, lens.iter().sum::<usize>());

    let long = "word ".repeat(200);
    for (bad, wanted) in [
        (row(&side("a", "b"), &side("c", "d")), "do not share a prompt: turn 0 differs"),
        (row(&side("a", "b"), &side("a", "b")), "are the same"),
        (row(&side("a", "b"), r#"[{"role":"user","content":"a"}]"#), "`rejected` ends with a turn of `user`"),
        (row(r#"[{"role":"assistant","content":"b"}]"#, &side("a", "b")), "an answer but no prompt"),
        (row(&side("a", "b"), "7"), "field `rejected` is a number, not a list"),
        (format!("{{\"chosen\":{}}}\n", side("a", "b")), "no field `rejected`"),
        (row(&side(&long, "b"), &side(&long, "c")), "of its answer none is left in max_seq_len 64"),
    ] {
        let fault = pairs_of(dir.path(), &tokenizer, &(good.clone() + &bad)).unwrap_err();
        let text = fault.to_string();
        assert!(text.contains("pairs.jsonl:2: ") && text.contains(wanted), "{text}\nwanted {wanted}");
        assert_eq!(fault.exit_code(), 2);
    }
}

#[test]
fn token_files_hold_pairs_and_labels_may_be_the_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.safetensors");
    let ids: Vec<u8> = (0..12i64).flat_map(i64::to_le_bytes).collect();
    let mask: Vec<u8> = (0..12u8).map(|i| u8::from(i % 3 == 1)).collect();
    let write = |columns: &[(&str, bool)]| {
        let view = |mask_only: bool| {
            let (dtype, bytes) =
                if mask_only { (safetensors::Dtype::U8, &mask) } else { (safetensors::Dtype::I64, &ids) };
            safetensors::tensor::TensorView::new(dtype, vec![2, 2, 3], bytes).unwrap()
        };
        let data: Vec<_> = columns.iter().map(|(name, mask)| ((*name).to_owned(), view(*mask))).collect();
        std::fs::write(&path, safetensors::serialize(data, None).unwrap()).unwrap();
    };
    write(&[("input_ids", false)]);
    assert_eq!(TokenFile::open(&path).unwrap().row(1), (vec![3, 4, 5], vec![3, 4, 5]));
    write(&[("input_ids", false), ("lables", false)]);
    assert!(TokenFile::open(&path).unwrap_err().to_string().contains("no tensor `labels`"));
    let whole =
        [("chosen_ids", false), ("chosen_mask", true), ("rejected_ids", false), ("rejected_mask", true)];
    write(&whole[..3]);
    assert!(TokenFile::open(&path).unwrap_err().to_string().contains("no tensor `rejected_mask`"));
    write(&whole);
    let prepared = prepare(&tokens_config(&path, Validation::Off), &context(dir.path())).unwrap();
    assert!(prepared.train.is_preference());
    assert_eq!((prepared.facts.rows, prepared.facts.tokens, prepared.facts.loss_tokens), (4, 24, 8));
    let loader =
        DataLoader::new(prepared.train, DataLoaderConfig { shuffle: false, ..config(9, Batching::Pad) });
    let batch = preference::batch(&loader, 0, 1).unwrap();
    assert_eq!(batch.input_ids.row(1).to_vec(), [9, 10, 11]);
    assert_eq!((batch.mask.row(1).to_vec(), batch.last.clone()), (vec![0, 1, 0], vec![1; 4]));
}

#[test]
fn the_worlds_preferences_are_right_against_wrong() {
    for split in [SyntheticSplit::Train, SyntheticSplit::Heldout] {
        let rows = synth(42, split, SyntheticKind::Preference);
        let chats = synth(42, split, SyntheticKind::Chat);
        for (row, chat) in rows.iter().zip(&chats).take(2000) {
            preference::sides(row).unwrap();
            assert_eq!(row["chosen"], chat["conversations"]);
            assert_ne!(row["rejected"][1]["content"], row["answer"]);
        }
    }
}
