//! The hubs, against a server on this machine that speaks their protocols: what is brought, what is gone on
//! with after a cut, what is refused, and that the cache needs no network.

mod common;
#[path = "hub/data_sets.rs"]
mod data_sets;
#[path = "hub/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::python::python;
use common::{minimind, succeed, variants};
use data_sets::{
    a_data_set_s_split_comes_whole, a_recipe_names_a_data_set,
    the_conversion_is_read_where_own_files_cannot_be,
};
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
