//! Round trips, and the fixtures where they are at hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::{read, read_extra, write};
use crate::checkpoint::host_tensor::Storage;
use crate::checkpoint::{DType, HostTensor, Value, convert};

/// A tree with every kind of value.
pub fn sample() -> Value {
    let a = Tensor::arange(6, (Kind::BFloat16, Device::Cpu)).view([2, 3]);
    let turned = a.transpose(0, 1);
    let mut entries = Vec::new();
    let tensors = [&a, &a, &turned];
    for (i, host) in convert::borrow_all(tensors.into_iter()).unwrap().into_iter().enumerate() {
        entries.push((format!("t{i}"), Value::Tensor(host)));
    }
    for kind in [Kind::Float, Kind::Half, Kind::Int64, Kind::Bool, Kind::Uint8, Kind::Double] {
        let t = Tensor::ones([3], (kind, Device::Cpu));
        entries.push((format!("{kind:?}"), Value::Tensor(convert::to_host(&t).unwrap())));
    }
    entries.push(("scalar".into(), Value::Tensor(convert::to_host(&Tensor::from(2.5f32)).unwrap())));
    let storage = Storage::owned((0..8).collect());
    let strided = HostTensor::new(DType::U8, vec![3, 2], vec![1, 3], 1, storage).unwrap();
    entries.push(("strided".into(), Value::Tensor(strided)));
    entries.push(("bytes".into(), Value::Bytes(vec![0, 127, 128, 255])));
    entries.push(("text".into(), Value::Str("中文 \"x\"".into())));
    entries.push(("big".into(), Value::Int(1 << 40)));
    entries.push(("minus".into(), Value::Int(-3)));
    entries.push(("pair".into(), Value::Tuple(vec![Value::Float(0.9), Value::None])));
    entries.push(("list".into(), Value::List(vec![Value::Bool(true), Value::Bool(false)])));
    entries.push(("ints".into(), Value::Dict(vec![(Value::Int(7), Value::dict([("k", Value::Int(1))]))])));
    Value::dict(entries)
}

/// Writes the sample.
pub fn sample_file(folder: &Path) -> PathBuf {
    let path = folder.join("sample.pth");
    write(&path, &sample(), &[("minimind.json", b"{}")]).unwrap();
    path
}

/// libtorch's writer puts 76 bytes of ZIP64 records after the directory, so a first entry of 76 bytes must not
/// be taken for something before the archive.
#[test]
fn a_first_entry_as_long_as_the_zip64_records_is_not_skipped() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain.pth");
    write(&plain, &sample(), &[]).unwrap();
    let source = std::fs::read(&plain).unwrap();
    let mut old = zip::ZipArchive::new(std::io::Cursor::new(&source)).unwrap();
    let mut new = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let root = "a".repeat(30 - "/data.pkl".len());
    for i in 0..old.len() {
        let mut entry = old.by_index(i).unwrap();
        let name = entry.name().unwrap().replace("archive/", &format!("{root}/"));
        assert!(i > 0 || name.len() == 30, "{name}");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        new.start_file(name, options).unwrap();
        new.write_all(&bytes).unwrap();
    }
    let whole = new.finish().unwrap().into_inner();
    let (body, end) = whole.split_at(whole.len() - 22);
    let number = |at: usize| u32::from_le_bytes(end[at..at + 4].try_into().unwrap());
    let (entries, size, offset) = (u64::from(end[10]), u64::from(number(12)), u64::from(number(16)));
    let mut file = body.to_vec();
    file.extend(b"PK\x06\x06");
    file.extend(44u64.to_le_bytes());
    file.extend([0x1e, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([entries, entries, size, offset].iter().flat_map(|n| n.to_le_bytes()));
    file.extend(b"PK\x06\x07\0\0\0\0");
    file.extend((body.len() as u64).to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(end);
    let path = folder.path().join("long.pth");
    std::fs::write(&path, file).unwrap();
    assert_eq!(read(&path).unwrap().entries().len(), sample().entries().len());
}

#[test]
fn every_value_comes_back_and_bytes_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample_file(folder.path());
    let back = read(&path).unwrap();
    for ((key, want), (_, got)) in sample().entries().iter().zip(back.entries()) {
        match (want, got) {
            (Value::Tensor(want), Value::Tensor(got)) => {
                assert_eq!((want.dtype(), want.shape()), (got.dtype(), got.shape()), "{key:?}");
                assert_eq!(want.bytes().unwrap(), got.bytes().unwrap(), "{key:?}");
            }
            _ => assert_eq!(format!("{want:?}"), format!("{got:?}")),
        }
    }
    let storage = |key: &str| Arc::clone(back.get(key).unwrap().as_tensor().unwrap().storage());
    assert!(Arc::ptr_eq(&storage("t0"), &storage("t1")));
    assert_eq!(back.get("ints").unwrap().get_index(7).unwrap().get("k").unwrap().as_i64(), Some(1));
    assert_eq!(read_extra(&path, "minimind.json").unwrap().unwrap(), b"{}");
    assert!(read_extra(&path, "other.json").unwrap().is_none());
    let first = std::fs::read(&path).unwrap();
    sample_file(folder.path());
    assert_eq!(std::fs::read(&path).unwrap(), first);
    if let Ok(keep) = std::env::var("MINIMIND_KEEP_SAMPLE") {
        std::fs::copy(&path, keep).unwrap();
    }
    assert!(write(&path, &Value::None, &[("../x", b"")]).is_err());
}

#[test]
fn fixtures_of_the_reference_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut count = 0;
    for folder in
        ["minimind2/moe", "minimind2/tiny", "minimind3/dense", "minimind3/dense/resume", "minimind3/tiny"]
    {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "pth") {
                assert!(!read(&path).unwrap().entries().is_empty(), "{}", path.display());
                count += 1;
            }
        }
    }
    assert!(count >= 12, "{count}");
}
