//! The command line from outside: help, one success and the main faults of each command, by exit code,
//! stdout and stderr. `TRYCMD=overwrite cargo test --test cli` writes the snapshots anew; read the diff.

#[test]
fn commands_say_what_they_said() {
    let cases = trycmd::TestCases::new();
    cases.register_bin("minimind", std::path::Path::new(env!("CARGO_BIN_EXE_minimind")));
    cases.env("RUST_BACKTRACE", "0").case("tests/cmd/*.trycmd");
}
