//! Data sets: splits and subsets, the hub's own conversion, names in recipes.

use super::*;

fn data_set(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)).expect(name)
}

pub fn a_data_set_s_split_comes_whole() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let row = |word: &str| format!("{{\"text\": \"{}\"}}\n", word.repeat(1000)).into_bytes();
    let readme = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/*.jsonl\n  - split: test\n    path: held.jsonl\n- config_name: other\n  data_files: other.parquet\n---\n";
    let (types, one) = (fixture("types.parquet"), row("one "));
    let repo = data_set(&[
        ("README.md", readme),
        ("main/b.jsonl", &row("two ")),
        ("main/a.jsonl", &one),
        ("held.jsonl", &row("held ")),
        ("other.parquet", &types),
        ("picture.png", b"png"),
    ]);
    let server = Server::start(repos(&[("datasets/o/d", repo)]));
    server.set(|b| b.cut_after = Some(2000));
    let snapshot = home.join("hub/datasets--o--d/snapshots").join(COMMIT);
    let pulled = |server: &str, args: &[&str]| {
        let (code, out, err) = run(at(server, &home).arg("pull").args(args));
        assert_eq!(code, Some(0), "{args:?}: {err}");
        out.lines()
            .map(|line| line.replace(&format!("{}/", snapshot.display()), ""))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let fault = |args: &[&str]| {
        let (code, _, err) = run(at(&server.url, &home).arg("pull").args(args));
        assert_eq!(code, Some(2), "{args:?}: {err}");
        err
    };
    // Two subsets and no default among them.
    let err = fault(&["hf:o/d"]);
    assert!(err.contains("several subsets") && err.contains("main, other"), "{err}");
    assert_eq!(pulled(&server.url, &["hf:o/d", "--subset", "main"]), "main/a.jsonl main/b.jsonl");
    assert_eq!(std::fs::read(snapshot.join("main/a.jsonl")).expect("rows"), one);
    assert!(!snapshot.join("held.jsonl").exists() && !snapshot.join("picture.png").exists());
    let log = server.requests();
    assert!(log.iter().any(|line| line.contains("GET /storage/") && line.contains(" from 2000")), "{log:#?}");
    assert_eq!(pulled(&server.url, &["hf:datasets/o/d?subset=main&split=test"]), "held.jsonl");
    assert_eq!(pulled(&server.url, &["hf:o/d", "--subset", "other"]), "other.parquet");
    assert_eq!(std::fs::read(snapshot.join("other.parquet")).expect("columns"), types);
    // What is here needs no hub, under any of its names.
    assert_eq!(
        pulled("http://127.0.0.1:9", &["hf:datasets/o/d", "--subset", "main"]),
        "main/a.jsonl main/b.jsonl"
    );
    // A folder of it, and a file.
    assert_eq!(pulled(&server.url, &["hf:o/d/main"]), "main/a.jsonl main/b.jsonl");
    assert_eq!(pulled(&server.url, &["hf:o/d/held.jsonl"]), "held.jsonl");
    let err = fault(&["hf:o/d", "--subset", "main", "--split", "dev"]);
    assert!(err.contains("no split `dev`") && err.contains("train, test"), "{err}");
    let err = fault(&["hf:o/d/nowhere"]);
    assert!(err.contains("no file `nowhere`"), "{err}");
    // ModelScope's data sets have the same form.
    let out = succeed(at(&server.url, &home).args(["pull", "ms:o/d", "--subset", "main"]));
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 2);
}

pub fn the_conversion_is_read_where_own_files_cannot_be() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let parquet = fixture("types.parquet");
    let own = data_set(&[("d.py", b"import datasets"), ("data.zip", b"PK"), ("notes.txt", b"not data")]);
    let converted = data_set(&[
        ("main/train/0000.parquet", &parquet),
        ("main/partial-test/0000.parquet", &parquet),
        ("x/train/0.parquet", &fixture("gzip.parquet")),
    ]);
    let server = Server::start(repos(&[
        ("datasets/o/d", own.clone()),
        ("datasets/o/d@parquet", converted),
        ("datasets/o/zip", data_set(&[("data.zip", b"PK")])),
    ]));
    let pull = |args: &[&str]| run(at(&server.url, &home).arg("pull").args(args));
    let (code, out, err) = pull(&["hf:o/d", "--subset", "main"]);
    assert_eq!(code, Some(0), "{err}");
    let path = PathBuf::from(out.trim());
    assert!(path.ends_with(format!("snapshots/{}/main/train/0000.parquet", server::CONVERTED)), "{out}");
    assert_eq!(std::fs::read(&path).expect("columns"), parquet);
    let (_, _, err) = pull(&["hf:o/d"]);
    assert!(err.contains("several subsets") && err.contains("main, x"), "{err}");
    let (code, _, err) = pull(&["hf:o/d", "--subset", "main", "--split", "test"]);
    assert!(code == Some(0) && err.contains("only the beginning of this split"), "{err}");
    let (code, _, err) = pull(&["hf:o/zip"]);
    assert!(code == Some(2) && err.contains("the hub converted none"), "{err}");
    // Bytes that are not what was promised are not kept here either.
    server.set(|b| b.corrupt = true);
    let (code, _, err) = pull(&["hf:o/d", "--subset", "x"]);
    assert!(code == Some(1) && err.contains("not what the hub promised"), "{err}");
}

pub fn a_recipe_names_a_data_set() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let rows = |words: &str| -> Vec<u8> {
        (0..100).flat_map(|i| format!("{{\"text\": \"row {i} of {words}\"}}\n").into_bytes()).collect()
    };
    let readme = b"---\nconfigs:\n- config_name: a\n  data_files: a/*\n- config_name: b\n  data_files: [{split: test, path: b.jsonl}]\n---\n";
    let repo = data_set(&[
        ("README.md", readme),
        ("a/1.jsonl", &rows("some words")),
        ("a/2.jsonl", &rows("other words")),
        ("b.jsonl", &rows("the rest")),
    ]);
    let server = Server::start(repos(&[("datasets/o/d", repo)]));
    let recipe = root.path().join("r.yaml");
    let write = |data: &str| {
        let text = format!(
            "name: r\noutput: {}\nstages:\n  - tokenizer: {{data: {{{data}}}, vocab_size: 320}}\n",
            root.path().join("run").display()
        );
        std::fs::write(&recipe, text).expect("a recipe");
    };
    write("path: \"hf:o/d\", subset: a");
    let (code, out, err) = run(at(&server.url, &home).arg("plan").arg(&recipe));
    assert!(code == Some(0) && out.contains("not in the cache yet: hf:datasets/o/d?subset=a;"), "{out}{err}");
    assert!(server.requests().is_empty(), "planning asks no hub");
    succeed(at(&server.url, &home).arg("run").arg(&recipe));
    let plan = std::fs::read_to_string(root.path().join("run/plan.json")).expect("a plan");
    let place = |file: &str| plan.find(file).unwrap_or_else(|| panic!("{file} is not in {plan}"));
    assert!(place("a/1.jsonl") < place("a/2.jsonl") && !plan.contains("b.jsonl"));
    // Done is done, hub or no hub.
    succeed(at("http://127.0.0.1:9", &home).arg("run").arg(&recipe));
    // The only split is taken, whatever its name; a subset that is not there is a fault of the run.
    write("path: \"hf:o/d\", subset: b");
    succeed(at(&server.url, &home).args(["run", "--resume", "never"]).arg(&recipe));
    write("path: \"hf:o/d\", subset: b, split: test");
    let (code, out, err) = run(at(&server.url, &home).args(["plan", "--json"]).arg(&recipe));
    assert!(code == Some(0) && out.contains("hf:datasets/o/d?subset=b&split=test"), "{out}{err}");
    let shown = succeed(at(&server.url, &home).args(["data", "stats", "hf:o/d?subset=b&split=test"]));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("100"), "{shown:?}");
    let (_, out, _) = run(at(&server.url, &home).args(["plan", "--json"]).arg(&recipe));
    assert!(out.contains("b.jsonl") && !out.contains("hf:"), "{out}");
    write("path: \"hf:o/d?split=dev\", subset: a");
    let (code, _, err) = run(at(&server.url, &home).arg("run").arg(&recipe));
    assert!(code == Some(2) && err.contains("no split `dev`"), "{err}");
    // A folder of save_to_disk.
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/splits");
    write(&format!("path: {}, split: test", saved.display()));
    let (code, out, err) = run(at(&server.url, &home).args(["plan", "--json"]).arg(&recipe));
    assert!(code == Some(0) && out.contains("test/data-00000-of-00001.arrow"), "{out}{err}");
}
