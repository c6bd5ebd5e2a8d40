//! Token caches as files: whole, cut, written from several threads.

use super::*;

#[test]
fn a_cut_or_changed_cache_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rows");
    drop(token_cache::build(&path, lines(50), encode).unwrap());
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(TokenCache::open(&path).unwrap().rows(), 50);
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    assert!(TokenCache::open(&path).is_none());
    let mut changed = whole.clone();
    changed[100] ^= 1;
    std::fs::write(&path, changed).unwrap();
    assert!(TokenCache::open(&path).is_none());
    let names: Vec<PathBuf> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(names, [path], "nothing is left beside");
}

#[test]
fn a_cache_of_many_chunks_is_what_one_thread_would_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.rows");
    let some = |line: &Line| match line.number % 11 {
        3 => Ok(Encoded::Skipped),
        _ => encode(line),
    };
    let cache = token_cache::build(&path, lines(9000), some).unwrap();
    let (mut ids, mut index, mut tokens) = (Vec::new(), Vec::new(), 0u64);
    for line in lines(9000).map(Result::unwrap) {
        let Ok(Encoded::Row(row)) = some(&line) else { continue };
        tokens += row.ids.len() as u64;
        ids.extend(row.ids.iter().flat_map(|id| (id | 1 << 31).to_le_bytes()));
        index.extend(tokens.to_le_bytes());
        index.extend((row.loss_bytes as u32).to_le_bytes());
        index.extend((row.ids.len() as u32 - 1).to_le_bytes());
    }
    let file = std::fs::read(&path).unwrap();
    assert!(file[64..] == [ids, index].concat());
    let source: u64 = lines(9000).map(|line| line.unwrap().bytes.len() as u64 + 1).sum();
    assert_eq!((cache.rows(), cache.skipped, cache.source_bytes), (9000 - 818, 818, source));
}

#[test]
fn the_first_fault_in_the_order_of_rows_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let failed = |n: usize| crate::Error::input(format!("row {n}"));
    for (bad, unread, want) in [(5000, 6000, 5000), (6000, 5000, 5000), (10, 11, 10), (9001, 4097, 4097)] {
        let lines = lines(9000).map(|line| {
            let line = line?;
            if line.number == unread { Err(failed(unread)) } else { Ok(line) }
        });
        let path = dir.path().join("a.rows");
        let made = token_cache::build(&path, lines, |line: &Line| {
            if line.number >= bad { Err(failed(line.number)) } else { encode(line) }
        });
        assert_eq!(made.unwrap_err().what(), format!("row {want}"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
