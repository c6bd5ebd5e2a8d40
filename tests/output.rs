//! Output that cannot be written and input that never ends: nothing panics, nothing hangs, and no work is lost.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::http::{get, post};
use common::served::model;
use common::{minimind, succeed};
use serde_json::json;

/// A device that takes no byte, as a full disk takes none.
fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").expect("Linux has it").into()
}

/// A pipe whose reader is gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn recipe(folder: &Path) -> PathBuf {
    let path = folder.join("out.yaml");
    let text = "name: out\nseed: 3\nruntime: {device: cpu, precision: fp32, threads: 1}\noutput: run\ntokenizer: tok\n\
        model: {preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}\n\
        stages:\n  - tokenizer: {name: tok, data: {synthetic: {rows: 200}}, vocab_size: 400}\n\
        \x20 - pretrain: {init: scratch, data: {synthetic: {rows: 64}}, epochs: 2, batch_size: 8, max_seq_len: 64, log_interval: 1, save_interval: 4}\n";
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

/// Waits for the end, at most so long.
fn end(child: &mut Child, secs: u64) -> ExitStatus {
    let until = Instant::now() + Duration::from_secs(secs);
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs to the end; the exit code and what was written to the piped ends.
fn ends(command: &mut Command) -> (Option<i32>, String, String) {
    let mut child = command.stdin(Stdio::null()).spawn().expect("it starts");
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut bytes).expect("it reads");
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = end(&mut child, 300);
    (status.code(), out.join().expect("text"), err.join().expect("text"))
}

#[test]
fn results_that_cannot_be_written_are_an_error_and_a_reader_that_left_is_none() {
    for args in [&["recipes", "list"][..], &["schema"], &["--help"], &["help", "run"]] {
        let (code, _, err) = ends(minimind().args(args).stdout(full()).stderr(Stdio::piped()));
        assert_eq!(code, Some(1), "{args:?}: {err}");
        assert!(!err.contains("panicked"), "{err}");
        let (code, _, err) = ends(minimind().args(args).stdout(closed()).stderr(Stdio::piped()));
        assert!(err.is_empty() && matches!(code, Some(0 | 141)), "{args:?}: {code:?} {err}");
    }
    let (code, _, err) = ends(minimind().args(["recipes", "list"]).stdout(full()).stderr(Stdio::piped()));
    assert!(code == Some(1) && err.contains("cannot write to standard output"), "{err}");
    // Where the message cannot be written there is still the code.
    for stderr in [full(), closed()] {
        let (code, ..) = ends(minimind().args(["validate", "/no/such.yaml"]).stdout(closed()).stderr(stderr));
        assert_eq!(code, Some(2));
    }
}

#[test]
fn a_run_goes_on_whatever_becomes_of_its_output() {
    for (name, stdout, stderr, code) in [
        ("stderr is full", Stdio::piped(), full(), 0),
        ("stderr is closed", Stdio::piped(), closed(), 0),
        ("stdout is full", full(), Stdio::piped(), 1),
        ("stdout is closed", closed(), Stdio::piped(), 0),
        ("both are full", full(), full(), 1),
        ("both are closed", closed(), closed(), 0),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let recipe = recipe(folder.path());
        let mut command = minimind();
        command.current_dir(folder.path()).arg("run").arg(&recipe).stdout(stdout).stderr(stderr);
        let (ended, out, err) = ends(&mut command);
        assert_eq!(ended, Some(code), "{name}: {err}");
        assert!(!err.contains("panicked"), "{name}: {err}");
        for file in ["pretrain_64.pth", "pretrain_64_resume.pth", "report.html", "pretrain/done.json"] {
            assert!(folder.path().join("run").join(file).is_file(), "{name}: no {file}");
        }
        if name.starts_with("stderr") {
            assert_eq!(out.matches("the log on stderr cannot be written").count(), 1, "{name}: {out}");
        }
        if name == "stdout is full" {
            assert!(err.contains("cannot write to standard output"), "{err}");
        }
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_harms_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(folder.path());
    let line = format!("ulimit -f 40; exec {} run {}", env!("CARGO_BIN_EXE_minimind"), recipe.display());
    let mut limited = Command::new("sh");
    limited.current_dir(folder.path()).args(["-c", &line]).stdout(Stdio::null()).stderr(Stdio::piped());
    let (code, _, err) = ends(&mut limited);
    assert!(code == Some(1) && err.contains("ulimit -f"), "{code:?} {err}");
    let out = succeed(minimind().current_dir(folder.path()).arg("run").arg(&recipe));
    assert!(folder.path().join("run/pretrain_64.pth").is_file(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn memory_that_runs_out_is_an_error_and_harms_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(folder.path());
    // A table of four million tokens is more than what is left beside the program.
    let line = format!(
        "ulimit -v 3000000; exec {} run {} --set model.vocab_size=4000000",
        env!("CARGO_BIN_EXE_minimind"),
        recipe.display()
    );
    let mut limited = Command::new("sh");
    limited.current_dir(folder.path()).args(["-c", &line]).stdout(Stdio::null()).stderr(Stdio::piped());
    let (code, _, err) = ends(&mut limited);
    assert!(code == Some(1) && !err.contains("panicked"), "{code:?} {err}");
    assert!(err.contains("memory"), "{err}");
    succeed(minimind().current_dir(folder.path()).arg("run").arg(&recipe));
}

/// A server whose log goes to `stderr`; the address is chosen here, since the log may not tell it.
fn serve(stderr: Stdio, flags: &[&str]) -> (Child, String) {
    let model = model();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let child = minimind()
        .args(["serve", "--device", "cpu", "--port", &port.to_string(), "--model"])
        .arg(model)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .expect("it starts");
    let until = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(&address).is_err() || get(&address, "/health").status != 200 {
        assert!(Instant::now() < until, "it does not serve");
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, address)
}

/// Answers, reads its model again, and stops when it is told to.
fn is_alive_and_stops(mut child: Child, address: &str) {
    let body = json!({"messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0});
    assert_eq!(post(address, "/v1/chat/completions", &body).status, 200);
    common::signal(child.id(), "HUP");
    assert_eq!(post(address, "/admin/reload", &json!({})).json()["reloaded"], json!(["run"]));
    common::signal(child.id(), "TERM");
    assert_eq!(end(&mut child, 60).code(), Some(0));
}

#[test]
fn a_server_does_not_depend_on_its_log() {
    for stderr in [full(), closed()] {
        let (child, address) = serve(stderr, &[]);
        is_alive_and_stops(child, &address);
    }
    // A reader that dies after the first lines.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (child, address) = serve(writer.into(), &[]);
    let mut lines = BufReader::new(reader).lines();
    assert!(lines.next().expect("a line").expect("text").contains("listening"));
    drop(lines);
    is_alive_and_stops(child, &address);
    // One that stays and does not read: the pipe is full soon.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let (child, address) = serve(writer.into(), &["-vv", "--log-format", "json"]);
    for _ in 0..300 {
        assert_eq!(get(&address, "/health").status, 200);
    }
    is_alive_and_stops(child, &address);
    drop(reader);
}

#[test]
fn pipes_and_devices_are_no_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
    let data = folder.path().join("data.yaml");
    let text = |path: &Path| {
        format!(
            "name: d\noutput: run\nstages:\n  - tokenizer: {{data: {{path: {}}}, vocab_size: 400}}\n",
            path.display()
        )
    };
    let pipe = pipe.to_str().expect("text");
    for odd in [pipe, "/dev/zero"] {
        std::fs::write(&data, text(Path::new(odd))).expect("a recipe");
        let recipe = data.to_str().expect("text");
        for args in [
            &["validate", odd][..],
            &["plan", odd],
            &["run", odd],
            &["run", recipe],
            &["data", "check", odd],
            &["inspect", odd],
            &["generate", "--ids", "1", "--model", odd],
            &["tokenizer", "render", "--tokenizer", "/", "--messages", odd],
        ] {
            let mut command = minimind();
            command.current_dir(folder.path()).args(args).stdout(Stdio::null()).stderr(Stdio::piped());
            let (code, _, err) = ends(&mut command);
            assert!(matches!(code, Some(1 | 2)) && !err.contains("panicked"), "{args:?}: {code:?} {err}");
        }
        let (code, _, err) = ends(minimind().args(["validate", odd]).stderr(Stdio::piped()));
        assert!(code == Some(2) && err.contains(if odd == pipe { "named pipe" } else { "device" }), "{err}");
    }
    // Large, and no recipe.
    let sparse = folder.path().join("sparse.yaml");
    std::fs::File::create(&sparse).and_then(|file| file.set_len(1 << 40)).expect("a file");
    let (code, _, err) = ends(minimind().arg("validate").arg(&sparse).stderr(Stdio::piped()));
    assert!(code == Some(2) && err.contains("too large"), "{err}");
}

#[test]
fn a_name_steers_no_terminal() {
    let name = "odd\x1b]0;title\x07\u{202e}\n.yaml";
    let (code, _, err) = ends(minimind().args(["validate", name]).stderr(Stdio::piped()));
    assert_eq!(code, Some(2));
    assert!(err.contains(r"odd\x1b]0;title\x07\u{202e}\n.yaml"), "{err:?}");
    assert!(err.chars().all(|c| c == '\n' || !c.is_control()), "{err:?}");
}

/// What is left of a process: neither gone nor a zombie.
fn is_alive(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn what_a_reward_program_starts_ends_with_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let program =
        "sleep 1000 & echo $! > child; while read -r line; do echo x >> asked; sleep 0.2; echo 0.5; done";
    std::fs::write(folder.path().join("reward.sh"), program).expect("a program");
    let text = "name: g\nseed: 3\nruntime: {device: cpu, precision: fp32, threads: 1}\noutput: run\ntokenizer: tok\n\
        model: {preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}\n\
        stages:\n  - tokenizer: {name: tok, data: {synthetic: {rows: 200}}, vocab_size: 400}\n\
        \x20 - sft: {init: scratch, data: {synthetic: {rows: 16}, format: chat}, epochs: 1, batch_size: 8, max_seq_len: 96}\n\
        \x20 - grpo: {init: sft, data: {synthetic: {rows: 400}}, batch_size: 2, num_generations: 2, rollout: {max_new_tokens: 4},\n\
        \x20     rewards: [{command: {command: [sh, reward.sh]}}]}\n";
    std::fs::write(folder.path().join("g.yaml"), text).expect("a recipe");
    for signals in [&["KILL"][..], &["TERM"], &["INT", "INT"]] {
        for file in ["child", "asked"] {
            let _ = std::fs::remove_file(folder.path().join(file));
        }
        let mut run = minimind();
        run.current_dir(folder.path()).args(["run", "g.yaml"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut run = run.spawn().expect("it starts");
        let until = Instant::now() + Duration::from_secs(120);
        while !folder.path().join("asked").is_file() {
            assert!(
                Instant::now() < until && run.try_wait().expect("a state").is_none(),
                "no reward is asked for"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let child = std::fs::read_to_string(folder.path().join("child")).expect("an id").trim().to_owned();
        assert!(is_alive(&child), "{signals:?}");
        for name in signals {
            common::signal(run.id(), name);
        }
        end(&mut run, 120);
        let until = Instant::now() + Duration::from_secs(20);
        while is_alive(&child) {
            assert!(Instant::now() < until, "{signals:?}: {child} outlives the run");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
