//! The hubs, against a server on this machine that speaks their protocols: what is brought, what is gone on
//! with after a cut, what is refused, and that the cache needs no network.

mod common;
#[path = "hub/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::python::python;
use common::{minimind, succeed, variants};
use server::{Behaviour, COMMIT, Server, sha256};

common::needs::tests! {
    a_model_comes_in_pieces_and_is_there_without_the_hub: [],
    hugging_faces_library_loads_from_our_cache: [Python("torch, transformers")],
    bytes_that_do_not_match_are_not_kept: [],
    more_bytes_than_were_promised_are_not_read: [],
    refusals_are_told_in_words_and_tokens_stay_with_the_hub: [],
    modelscope_is_a_hub_too: [],
    a_recipe_names_rows_on_a_hub: [],
    a_data_set_s_split_comes_whole: [],
    the_conversion_is_read_where_own_files_cannot_be: [],
    a_recipe_names_a_data_set: [],
}

/// The program with a cache of its own and the test's hub.
fn at(server: &str, home: &Path) -> Command {
    let mut command = minimind();
    for name in
        ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", server).env("MODELSCOPE_DOMAIN", server).env("HF_HOME", home);
    command.env("XDG_CACHE_HOME", home.join("xdg")).env("NO_PROXY", "127.0.0.1");
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}

/// A model's folder as a repository's files.
fn model(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let folder = root.join("exported");
    let fixture =
        variants("weights_fp32.pth").into_iter().find(|f| f.ends_with("minimind3/dense")).expect("dense");
    let mut export = minimind();
    export
        .args(["export", "huggingface", "--max-shard-bytes", "40000", "--model"])
        .arg(fixture.join("weights_fp32.pth"));
    succeed(export.arg("--out").arg(&folder));
    let files = std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("a file").path());
    let mut all: BTreeMap<String, Vec<u8>> = files
        .map(|path| {
            (
                path.file_name().expect("a name").to_string_lossy().into_owned(),
                std::fs::read(&path).expect("bytes"),
            )
        })
        .collect();
    all.insert("README.md".into(), b"not needed".to_vec());
    all
}

fn repos(entries: &[(&str, BTreeMap<String, Vec<u8>>)]) -> Behaviour {
    let repos = entries.iter().map(|(name, files)| ((*name).to_owned(), files.clone())).collect();
    Behaviour { repos, ..Behaviour::default() }
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn a_model_comes_in_pieces_and_is_there_without_the_hub() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let wanted = model(root.path());
    let server = Server::start(repos(&[("models/o/n", wanted.clone())]));
    server.set(|b| (b.cut_after, b.busy) = (Some(9000), 2));
    let (code, out, err) = run(at(&server.url, &home).args(["pull", "o/n"]));
    assert_eq!(code, Some(0), "{err}");
    let snapshot = PathBuf::from(out.trim());
    assert_eq!(snapshot, home.join("hub/models--o--n/snapshots").join(COMMIT));
    for (name, bytes) in wanted.iter().filter(|(name, _)| *name != "README.md") {
        assert!(std::fs::read(snapshot.join(name)).expect(name) == *bytes, "{name}");
    }
    assert!(!snapshot.join("README.md").exists());
    assert!(files(&home).iter().all(|file| file.extension().is_none_or(|e| e != "incomplete")));
    let log = server.requests();
    let resumed =
        log.iter().filter(|line| line.starts_with("GET /storage/") && line.contains(" from 9000")).count();
    assert!(resumed > 0, "{log:?}");

    // Again: nothing but the list is asked for. With no hub at all: the cache does.
    succeed(at(&server.url, &home).args(["pull", "hf:o/n"]));
    assert!(server.requests().iter().all(|line| line.starts_with("GET /api/")), "only the list");
    let dead = "http://127.0.0.1:9";
    let generate = [
        "generate",
        "--ids",
        "1,2,3",
        "--greedy",
        "--max-new-tokens",
        "3",
        "--device",
        "cpu",
        "--model",
        "hf:o/n",
    ];
    succeed(at(dead, &home).args(generate));
    succeed(at(dead, &home).args(["inspect", "hf:o/n"]));
    let (code, _, err) = run(at(dead, &home).args(["pull", "o/n"]));
    assert!(code == Some(0) && err.contains("cannot be reached"), "{err}");
    let (code, _, err) = run(at(dead, &home).args(["pull", "o/other"]));
    assert!(code == Some(1) && err.contains("the hub cannot be reached for model o/other"), "{err}");
    let (code, _, err) = run(at(&server.url, &home).env("HF_HUB_OFFLINE", "1").args(["pull", "o/other"]));
    assert!(code == Some(1) && err.contains("not in the cache"), "{err}");
}

fn hugging_faces_library_loads_from_our_cache() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let server = Server::start(repos(&[("models/o/n", model(root.path()))]));
    succeed(at(&server.url, &home).args(["pull", "o/n"]));
    let script = "import sys; from transformers import AutoModelForCausalLM as A; \
                  print(type(A.from_pretrained('o/n', local_files_only=True)).__name__)";
    let mut command = Command::new(python());
    let output = succeed(command.args(["-c", script]).env("HF_HOME", &home).env_remove("HF_HUB_CACHE"));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "Qwen3ForCausalLM");
}

fn bytes_that_do_not_match_are_not_kept() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let bytes: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
    let small = b"{\"a\": 1}".to_vec();
    let repo = BTreeMap::from([("w.pth".to_owned(), bytes.clone()), ("config.json".to_owned(), small)]);
    let server = Server::start(repos(&[("models/o/n", repo)]));
    server.set(|b| b.corrupt = true);
    let (code, _, err) = run(at(&server.url, &home).args(["pull", "hf:o/n/w.pth"]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("is not what the hub promised") && err.contains(&sha256(&bytes)), "{err}");
    assert!(files(&home).is_empty(), "{:?}", files(&home));

    // A part from before is gone on with; where the hub cannot, it begins again.
    server.set(|b| b.corrupt = false);
    server.requests();
    let blobs = home.join("hub/models--o--n/blobs");
    for ignore in [false, true] {
        server.set(|b| b.ignore_ranges = ignore);
        std::fs::create_dir_all(&blobs).expect("a folder");
        let part = blobs.join(format!("{}.incomplete", sha256(&bytes)));
        std::fs::write(&part, &bytes[..70_000]).expect("a part");
        let out = succeed(at(&server.url, &home).args(["pull", "hf:o/n/w.pth"]));
        let path = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        assert!(std::fs::read(path).expect("the file") == bytes);
        assert!(
            server.requests().iter().any(|line| line.contains("/storage/") && line.contains(" from 70000"))
        );
        std::fs::remove_dir_all(home.join("hub")).expect("removed");
    }
    // A wrong part is found out by the hash, and the next try is right.
    server.set(|b| b.ignore_ranges = false);
    std::fs::create_dir_all(&blobs).expect("a folder");
    std::fs::write(blobs.join(format!("{}.incomplete", sha256(&bytes))), vec![7; 70_000]).expect("a part");
    let (code, _, err) = run(at(&server.url, &home).args(["pull", "hf:o/n/w.pth"]));
    assert!(code == Some(1) && err.contains("not what the hub promised"), "{err}");
    succeed(at(&server.url, &home).args(["pull", "hf:o/n/w.pth"]));
    succeed(at(&server.url, &home).args(["pull", "hf:o/n/config.json"]));
}

fn more_bytes_than_were_promised_are_not_read() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let repo = BTreeMap::from([("w.pth".to_owned(), b"2!".to_vec())]);
    let server = Server::start(repos(&[("models/o/n", repo)]));
    server.set(|b| b.flood = 1 << 30);
    let (code, _, err) = run(at(&server.url, &home).args(["pull", "hf:o/n/w.pth"]));
    assert!(code == Some(1) && err.contains("more than the 2 bytes that were promised"), "{err}");
    let kept: u64 = files(&home).iter().map(|file| std::fs::metadata(file).expect("a file").len()).sum();
    assert!(kept <= 2, "{kept}");
    // The rest of what was on the way; the system's buffers take some megabytes.
    let flooded = || server.behaviour.lock().expect("the behaviour").flooded.clone();
    assert!(flooded().load(std::sync::atomic::Ordering::SeqCst) < 64 << 20);
    server.set(|b| b.flood = 0);
    succeed(at(&server.url, &home).args(["pull", "hf:o/n/w.pth"]));
}

fn refusals_are_told_in_words_and_tokens_stay_with_the_hub() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let files = BTreeMap::from([("w.pth".to_owned(), vec![1; 100]), ("v.pth".to_owned(), vec![2; 100])]);
    let evil = BTreeMap::from([("../../../evil.pth".to_owned(), vec![1])]);
    let server = Server::start(repos(&[("models/o/n", files), ("models/o/evil", evil)]));
    let fails = |args: &[&str]| run(at(&server.url, &home).args(args));
    let (code, _, err) = fails(&["pull", "o/absent"]);
    assert!(
        code == Some(2) && err.contains("the hub has no model o/absent") && err.contains("hint:"),
        "{err}"
    );
    let (code, _, err) = fails(&["pull", "o/n/x.pth"]);
    assert!(code == Some(2) && err.contains("no file `x.pth`") && err.contains("w.pth"), "{err}");
    let (code, _, err) = fails(&["pull", "o/n"]);
    assert!(code == Some(2) && err.contains("hf:o/n/{v.pth,w.pth}"), "{err}");
    let (code, _, err) = fails(&["generate", "--ids", "1", "--model", "hf:o"]);
    assert_ne!(code, Some(0), "{err}");
    let (code, _, err) = fails(&["pull", "o/../n"]);
    assert!(code == Some(2) && err.contains("names nothing on a hub"), "{err}");
    assert_ne!(fails(&["pull", "o/evil"]).0, Some(0));
    assert!(!root.path().join("evil.pth").exists());

    server.set(|b| b.token = Some("secret-token".into()));
    let (code, _, err) = fails(&["pull", "o/n/w.pth"]);
    assert!(code == Some(1) && err.contains("401") && err.contains("HF_TOKEN"), "{err}");
    server.requests();
    succeed(at(&server.url, &home).env("HF_TOKEN", "secret-token").args(["pull", "o/n/w.pth"]));
    let log = server.requests();
    assert!(
        log.iter().any(|line| line.starts_with("HEAD /o/n/resolve/") && line.ends_with(" secret")),
        "{log:?}"
    );
    let stored: Vec<_> = log.iter().filter(|line| line.contains("/storage/")).collect();
    assert!(!stored.is_empty() && stored.iter().all(|line| !line.contains("secret")), "{log:?}");
}

fn modelscope_is_a_hub_too() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let wanted = model(root.path());
    let rows = BTreeMap::from([("deep/rows.jsonl".to_owned(), b"{\"text\": \"a\"}\n".to_vec())]);
    let server = Server::start(repos(&[("models/o/n", wanted.clone()), ("datasets/o/d", rows.clone())]));
    server.set(|b| b.cut_after = Some(9000));
    let out = succeed(at(&server.url, &home).args(["pull", "ms:o/n"]));
    let snapshot = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    assert!(std::fs::read(snapshot.join("config.json")).expect("a config") == wanted["config.json"]);
    succeed(at("http://127.0.0.1:9", &home).args(["inspect", "ms:o/n"]));
    let out = succeed(at(&server.url, &home).args(["pull", "ms:o/d/deep/rows.jsonl"]));
    let path = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    assert!(std::fs::read(&path).expect("rows") == rows["deep/rows.jsonl"]);
    // A branch moves on: the next pull brings the new file.
    server.set(|b| {
        b.repos
            .insert("datasets/o/d".into(), BTreeMap::from([("deep/rows.jsonl".to_owned(), b"new".to_vec())]));
    });
    succeed(at(&server.url, &home).args(["pull", "ms:datasets/o/d/deep/rows.jsonl"]));
    assert_eq!(std::fs::read(&path).expect("rows"), b"new");
    server.set(|b| b.corrupt = true);
    server.set(|b| {
        b.repos.insert(
            "datasets/o/d".into(),
            BTreeMap::from([("deep/rows.jsonl".to_owned(), b"newer".to_vec())]),
        );
    });
    let (code, _, err) = run(at(&server.url, &home).args(["pull", "ms:datasets/o/d/deep/rows.jsonl"]));
    assert!(code == Some(1) && err.contains("not what the hub promised"), "{err}");
}

fn a_recipe_names_rows_on_a_hub() {
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().join("hf");
    let rows: String = (0..200).map(|i| format!("{{\"text\": \"row {i} of some words\"}}\n")).collect();
    let repo = BTreeMap::from([("rows.jsonl".to_owned(), rows.into_bytes())]);
    let server = Server::start(repos(&[("datasets/o/d", repo)]));
    let recipe = root.path().join("r.yaml");
    let text = format!(
        "name: r\noutput: {}\nstages:\n  - tokenizer: {{data: {{path: \"hf:o/d/rows.jsonl\"}}, vocab_size: 320}}\n",
        root.path().join("run").display()
    );
    std::fs::write(&recipe, &text).expect("a recipe");
    let (code, out, err) = run(at(&server.url, &home).arg("plan").arg(&recipe));
    assert!(code == Some(0) && out.contains("not in the cache yet: hf:o/d/rows.jsonl"), "{out}{err}");
    assert!(server.requests().is_empty(), "planning asks no hub");
    succeed(at(&server.url, &home).arg("run").arg(&recipe));
    assert!(root.path().join("run/tokenizer/tokenizer.json").exists());
    // Done is done, hub or no hub.
    succeed(at("http://127.0.0.1:9", &home).arg("run").arg(&recipe));
    let (_, out, _) = run(at(&server.url, &home).arg("plan").arg(&recipe));
    assert!(!out.contains("not in the cache"), "{out}");
    std::fs::write(&recipe, text.replace("hf:o/d/rows.jsonl", "hf:o//rows")).expect("a recipe");
    let (code, _, err) = run(at(&server.url, &home).arg("validate").arg(&recipe));
    assert!(code == Some(2) && err.contains("names nothing on a hub") && err.contains("r.yaml:4:"), "{err}");
}

fn data_set(files: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)).expect(name)
}

fn a_data_set_s_split_comes_whole() {
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

fn the_conversion_is_read_where_own_files_cannot_be() {
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

fn a_recipe_names_a_data_set() {
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
