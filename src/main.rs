//! The door: parse the command line, carry one command out, turn an error into text and an exit code.

use std::process::ExitCode;

use clap::Parser;
use minimind::cli::{self, Cli};
use minimind::terminal;

fn main() -> ExitCode {
    minimind::native::faults_of_writing_are_errors();
    let done = match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(said) => return cli::usage(&said),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell(format_args!("{error}"));
            ExitCode::from(error.exit_code())
        }
    };
    cli::logging::flush();
    code
}
