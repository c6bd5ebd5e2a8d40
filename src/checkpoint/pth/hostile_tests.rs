//! Files that mean harm or are broken: each is an error, none a panic.

use std::fs::File;
use std::io::{BufWriter, Write};

use proptest::prelude::*;

use super::pickler::Pickled;
use super::tests::sample_file;
use super::{archive, read};
use crate::checkpoint::host_tensor::Storage;
use crate::checkpoint::{DType, HostTensor, Value};

/// The fault of a file with this pickle and one storage of 16 bytes.
fn fault(pickle: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let mut pickled = Pickled { bytes: pickle.to_vec(), ..Pickled::default() };
    pickled.storages.push((Storage::owned(vec![0; 16]), 16));
    let mut out = BufWriter::new(File::create(&path).unwrap());
    archive::write(&mut out, &path, &pickled, &[]).unwrap();
    out.flush().unwrap();
    read(&path).unwrap_err().to_string()
}

fn tensor(key: &str, numel: i32, offset: i32, size: i32, stride: i32) -> Vec<u8> {
    let mut code =
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n".to_vec();
    let int = |code: &mut Vec<u8>, n: i32| {
        code.push(b'J');
        code.extend_from_slice(&n.to_le_bytes());
    };
    code.push(b'X');
    code.extend_from_slice(&(key.len() as u32).to_le_bytes());
    code.extend_from_slice(key.as_bytes());
    code.extend_from_slice(b"X\x03\0\0\0cpu");
    int(&mut code, numel);
    code.extend_from_slice(b"tQ");
    int(&mut code, offset);
    code.push(b'(');
    int(&mut code, size);
    code.extend_from_slice(b"t(");
    int(&mut code, stride);
    code.extend_from_slice(b"t\x89NtR.");
    code
}

#[test]
fn code_is_refused_by_name() {
    let text = fault(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.");
    assert!(text.contains("names `os.system`") && text.contains("would run code"), "{text}");
    let text = fault(b"\x80\x04\x8c\x05posix\x8c\x06system\x93.");
    assert!(text.contains("`posix.system`"), "{text}");
    assert!(fault(b"\x80\x02cbuiltins\neval\n.").contains("builtins.eval"));
    assert!(fault(b"\x80\x02c__builtin__\neval\n.").contains("builtins.eval"));
    for (module, name) in [
        ("torch", "load"),
        ("torch", "hub"),
        ("torch._utils", "_import_dotted_name"),
        ("torch.storage", "_load_from_bytes"),
    ] {
        let text = fault(&[&b"\x80\x02"[..], format!("c{module}\n{name}\n.").as_bytes()].concat());
        assert!(text.contains(&format!("`{module}.{name}`")), "{text}");
    }
    let text = fault(b"\x80\x02N0.");
    assert!(text.contains("POP (0x30)"), "{text}");
}

#[test]
fn storages_stay_inside_the_file() {
    for (code, want) in [
        (tensor("0", 5, 0, 4, 1), "should hold"),
        (tensor("0", -1, 0, 4, 1), "should hold"),
        (tensor("0", 4, 1, 4, 1), "outside its storage"),
        (tensor("0", 4, 0, 4, 1_000_000), "outside its storage"),
        (tensor("0", 4, 0, i32::MAX, 0), "far larger"),
        (tensor("0", 4, -1, 1, 1), "negative"),
        (tensor("../../x", 4, 0, 4, 1), "is called"),
        (tensor("9", 4, 0, 4, 1), "missing"),
        (tensor("0", 4, 2, 2, -1), "negative"),
    ] {
        let text = fault(&code);
        assert!(text.contains(want), "{want}: {text}");
    }
}

#[test]
fn nesting_cycles_and_repetition_end() {
    let deep = [b"\x80\x02".to_vec(), vec![b']'; 100_000], vec![b'a'; 99_999], b".".to_vec()].concat();
    assert!(fault(&deep).contains("nested deeper"));
    // Seen while it is built, before the instruction that no file needs.
    let deep = [b"\x80\x02".to_vec(), vec![b']'; 100], vec![b'a'; 99], b"\xff.".to_vec()].concat();
    assert!(fault(&deep).contains("nested deeper"));
    let tuples = [b"\x80\x02N".to_vec(), vec![0x85; 100], b"\xff.".to_vec()].concat();
    assert!(fault(&tuples).contains("nested deeper"));
    assert!(
        fault(&[b"\x80\x02".to_vec(), vec![b'('; 1000], b"\xff.".to_vec()].concat())
            .contains("nested deeper")
    );
    // A list that holds itself.
    assert!(fault(b"\x80\x02]q\0h\0a.").contains("nested deeper"));
    // Each list holds the one before ten times.
    let mut laughs = b"\x80\x02]q\0".to_vec();
    for i in 0..30u8 {
        laughs.extend_from_slice(b"](");
        (0..10).for_each(|_| laughs.extend_from_slice(&[b'h', i]));
        laughs.extend_from_slice(&[b'e', b'q', i + 1]);
    }
    laughs.push(b'.');
    assert!(fault(&laughs).contains("too often"));
    for code in
        [&b""[..], b".", b"(", b"e", b"0", b"h\x01.", b"X\xff\xff\xff\xff", b"R.", b"}\x88s.", b"\x8a\xff"]
    {
        fault(code);
    }
}

/// What costs the file a few bytes each time and the reader much more is bounded.
#[test]
fn amplification_ends() {
    let text = |n: u32| [b"X".to_vec(), n.to_le_bytes().to_vec(), vec![b'a'; n as usize]].concat();
    let many = |head: Vec<u8>, again: &[u8], tail: &[u8]| {
        [b"\x80\x02".to_vec(), head, again.repeat(20_000), tail.to_vec()].concat()
    };
    // A long text turned into bytes again and again.
    let latin = [b"](".to_vec(), text(100_000), b"q\0X\x06\0\0\0latin1q\x01c_codecs\nencode\nq\x02".to_vec()]
        .concat();
    assert!(fault(&many(latin, b"h\x02h\0h\x01\x86R", b"e.")).contains("too often"));
    // A dict made from the same pairs again and again.
    let pairs = [
        b"](](".to_vec(),
        b"K\x01K\x02\x86".repeat(10_000),
        b"eq\0ccollections\nOrderedDict\nq\x01".to_vec(),
    ]
    .concat();
    assert!(fault(&many(pairs, b"h\x01h\0\x85R", b"e.")).contains("too often"));
    // One tensor under many names is as many tensors to whoever loads it.
    let mut named = tensor("0", 4, 0, 4096, 0);
    named.pop();
    named.splice(0..2, b"}(K\x00".iter().copied());
    named.extend(b"q\0");
    assert!(fault(&many(named, b"K\x01h\0", b"u.")).contains("far larger"));
    // A call and a shape with more parts than any has.
    assert!(fault(b"\x80\x02ctorch\nSize\n(KKKKKKKKKKKKKKKKKKKKtR.").contains("too many"));
}

/// The tree of a pickle with the legacy format's parts around it; 4 floats follow for each storage.
fn legacy(tree: &[u8], keys: &[u8], storages: &[(u64, usize)]) -> crate::error::Result<Value> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.".to_vec();
    file.extend(tree);
    file.extend(keys);
    for (count, bytes) in storages {
        file.extend(count.to_le_bytes());
        file.extend((0..*bytes).map(|i| i as u8));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    std::fs::write(&path, file).unwrap();
    read(&path)
}

/// A tensor of the legacy format: its storage has one part of a description more.
fn old_tensor(numel: i32) -> Vec<u8> {
    let mut code = tensor("0", numel, 0, 4, 1);
    let at = code.windows(2).position(|w| w == b"tQ").unwrap();
    code.insert(at, b'N');
    code
}

#[test]
fn the_legacy_format_is_held_against_the_file() {
    let keys = b"\x80\x02]X\x01\0\0\x000a.";
    let good = legacy(&old_tensor(4), keys, &[(4, 16)]).unwrap();
    assert_eq!(good.as_tensor().unwrap().bytes().unwrap()[..5], [0, 1, 2, 3, 4]);
    for (tree, keys, storages, want) in [
        (old_tensor(4), &keys[..], vec![(4, 12)], "ends before"),
        (old_tensor(4), keys, vec![], "ends before"),
        (old_tensor(4), keys, vec![(5, 20)], "expected 4"),
        (old_tensor(i32::MAX), keys, vec![(i32::MAX as u64, 16)], "ends before"),
        (old_tensor(3), keys, vec![(3, 12)], "outside its storage"),
        (old_tensor(4), b"\x80\x02].", vec![(4, 16)], "missing"),
        (old_tensor(4), b"\x80\x02]X\x01\0\0\x001a.", vec![(4, 16)], "no tensor uses"),
        (old_tensor(4), b"\x80\x02](X\x01\0\0\x000X\x01\0\0\x000e.", vec![(4, 16), (4, 16)], "one name"),
        (old_tensor(4), b"\x80\x02}.", vec![(4, 16)], "no list"),
        (b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.".to_vec(), keys, vec![], "os.system"),
        (b"\x80\x02".iter().copied().chain(vec![b']'; 300_000]).collect(), keys, vec![], "damaged"),
    ] {
        let text = legacy(&tree, keys, &storages).unwrap_err().to_string();
        assert!(text.contains(want), "{want}: {text}");
    }
}

/// What harmless files hold beside their tensors.
#[test]
fn plain_values_of_python_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    let value = |pickle: &[u8]| {
        let pickled = Pickled { bytes: [b"\x80\x02", pickle, b"."].concat(), ..Pickled::default() };
        let mut out = BufWriter::new(File::create(&path).unwrap());
        archive::write(&mut out, &path, &pickled, &[]).unwrap();
        out.flush().unwrap();
        format!("{:?}", read(&path).unwrap())
    };
    for (pickle, want) in [
        (&b"c__builtin__\nset\n](K\x01K\x02e\x85R"[..], "Set([Int(1), Int(2)])"),
        (b"cbuiltins\nset\n)R", "Set([])"),
        (b"\x8f(K\x01\x90", "Set([Int(1)])"),
        (b"(K\x01\x91", "Set([Int(1)])"),
        (b"ctorch\nfloat32\n", "Other(\"torch.float32\")"),
        (b"ctorch\nfloat8_e4m3fn\n", "Other(\"torch.float8_e4m3fn\")"),
        (b"ctorch\nbits8\n", "Other(\"torch.bits8\")"),
        (b"ctorch\ndevice\nX\x04\0\0\0cudaK\x01\x86R", "Other(\"cuda:1\")"),
        (b"ctorch.serialization\n_get_layout\nX\x0d\0\0\0torch.strided\x85R", "Other(\"torch.strided\")"),
        (b"ccollections\nCounter\n}X\x01\0\0\0aK\x02s\x85R", "Dict([(Str(\"a\"), Int(2))])"),
        (b"c__builtin__\ncomplex\nG?\xf0\0\0\0\0\0\0G@\0\0\0\0\0\0\0\x86R", "Complex(1.0, 2.0)"),
        (b"c__builtin__\nbytearray\nX\x02\0\0\0abX\x07\0\0\0latin-1\x86R", "Bytes([97, 98])"),
        (b"U\x02ab", "Str(\"ab\")"),
        (b"\x8b\x09\0\0\0\x01\0\0\0\0\0\0\0\0", "Int(1)"),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01", "Other(\"a whole number of 9 bytes\")"),
        (b"ctorch\nSize\n(K\x01K\x02t\x85R", "Tuple([Int(1), Int(2)])"),
    ] {
        assert_eq!(value(pickle), want);
    }
}

/// A byte a value, and each value many times a byte in memory.
#[test]
fn values_are_counted_while_they_are_made() {
    let many = |head: &[u8], again: u8, tail: &[u8]| {
        fault(&[b"\x80\x02", head, &vec![again; 2_000_000], tail].concat())
    };
    for (head, again, tail) in [
        (&b"]("[..], b'N', &b"e."[..]),
        (b"](", b']', b"e."),
        (b"(", b')', b"t."),
        (b"", b'}', b"."),
        // Kept under two million numbers.
        (b"N", 0x94, b"."),
    ] {
        let text = many(head, again, tail);
        assert!(text.contains("makes more than 51") && text.contains("values"), "{text}");
    }
    // One text under many names.
    let long = [b"](X\x00\x00\x01\x00".to_vec(), vec![b'a'; 65536], b"q\0".to_vec()].concat();
    assert!(
        fault(&[b"\x80\x02".to_vec(), long, b"h\0".repeat(10_000), b"e.".to_vec()].concat())
            .contains("too often")
    );
}

/// What an optimizer keeps of a hundred thousand parameters, each of one number: the most values by the byte.
#[test]
fn many_small_tensors_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many_resume.pth");
    let number = || {
        let storage = Storage::owned(vec![0; 4]);
        Value::Tensor(HostTensor::new(DType::F32, vec![1], vec![1], 0, storage).unwrap())
    };
    let state = |i| (Value::Int(i), Value::dict([("step", number())]));
    let state = Value::Dict((0..100_000).map(state).collect());
    super::write(&path, &Value::dict([("optimizer", Value::dict([("state", state)]))]), &[]).unwrap();
    let back = read(&path).unwrap();
    let back = back.get("optimizer").and_then(|o| o.get("state")).unwrap();
    assert_eq!(back.entries().len(), 100_000);
}

/// Readers differ in which of two records of one name they take.
#[test]
fn a_name_stands_for_one_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample_file(folder.path());
    let whole = std::fs::read(&path).unwrap();
    // As many bytes, so that the zip is whole but for the name.
    let (from, to) = (b"archive/data/1", b"archive/data/0");
    let mut bytes = whole.clone();
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + from.len()].copy_from_slice(to);
        }
    }
    std::fs::write(&path, &bytes).unwrap();
    let text = read(&path).unwrap_err().to_string();
    assert!(text.contains("two records are called `archive/data/0`"), "{text}");
    // Two roots: which is the checkpoint?
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for name in ["a/data.pkl", "b/data.pkl"] {
        zip.start_file(name, options).unwrap();
        zip.write_all(b"\x80\x02}.").unwrap();
    }
    std::fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
    let fault = read(&path).unwrap_err().to_string();
    assert!(fault.contains("two of its records are the `data.pkl`"), "{fault}");
}

/// Two records in the directory for the same bytes: the zip's way to look larger than it is.
#[test]
fn records_over_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample_file(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    // The directory's entries: signature, 38 bytes, the header's place, then the name.
    let entry = |name: &[u8]| {
        let found = bytes.windows(name.len()).rposition(|w| w == name).unwrap();
        assert_eq!(bytes[found - 46..found - 42], *b"PK\x01\x02");
        found - 4
    };
    let (a, b) = (entry(b"archive/data/0"), entry(b"archive/data/1"));
    let place: [u8; 4] = bytes[a..a + 4].try_into().unwrap();
    bytes[b..b + 4].copy_from_slice(&place);
    std::fs::write(&path, &bytes).unwrap();
    let fault = read(&path).unwrap_err();
    assert!(fault.to_string().contains("overlap") || fault.to_string().contains("damaged"), "{fault}");
}

#[test]
fn damage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample_file(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let mut faults = Vec::new();
    let mut put = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let fault = read(&path).unwrap_err().to_string();
        faults.push(fault.clone());
        fault
    };
    for cut in [1, 30, whole.len() / 2, whole.len() - 1] {
        put(&whole[..cut]);
    }
    let mut flipped = whole.clone();
    let at = flipped.windows(8).position(|w| w == b"_rebuild").unwrap();
    flipped[at] ^= 1;
    assert!(put(&flipped).contains("checksum"));
    let renamed: Vec<u8> = String::from_utf8_lossy(b"archive/version").bytes().collect();
    let mut tricked = whole.clone();
    for at in 0..tricked.len() - renamed.len() {
        if tricked[at..].starts_with(&renamed) {
            tricked[at..at + renamed.len()].copy_from_slice(b"../hive/version");
        }
    }
    assert!(put(&tricked).contains("is called"));
    assert!(put(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("damaged"));
    assert!(put(b"\x80\x04K\x01.").contains("not one of torch.save"));
    put(b"");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let folder = tempfile::tempdir().unwrap();
        let path = sample_file(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, to) in flips {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        std::fs::write(&path, &bytes).unwrap();
        let _ = read(&path);
    }

    #[test]
    fn random_pickles_never_panic(mut code in prop::collection::vec(prop::sample::select(
        b"(}])tdluesaqrhNJKMGXcRQb.\x85\x86\x87\x88\x89\x8a\x00\x01\x02".to_vec()), 0..60)) {
        code.push(b'.');
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pth");
        let mut out = BufWriter::new(File::create(&path).unwrap());
        archive::write(&mut out, &path, &Pickled { bytes: code, ..Pickled::default() }, &[]).unwrap();
        out.flush().unwrap();
        let _ = read(&path);
    }
}
