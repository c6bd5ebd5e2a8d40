//! The door: parse the command line, carry one command out, turn an error into text and an exit code.

use std::process::ExitCode;

use clap::Parser;
use minimind::cli::Cli;

fn main() -> ExitCode {
    minimind::native::die_on_broken_pipe();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
