//! `minimind validate`: every fault of every recipe at once, and of the first rows of its data.
//!
//! Faults go to stderr through the returned error (exit 2); sound recipes are named on stdout.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// The recipes to check.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipes to check.
    #[arg(required = true)]
    pub recipes: Vec<PathBuf>,
    /// Change a key first: `--set seed=7`, `--set stages.sft.learning_rate=1e-4`.
    #[arg(long = "set", value_name = "A.B=VALUE")]
    pub sets: Vec<String>,
}

/// Checks every recipe and the first rows of its data, and prints one line for each that is good.
///
/// # Errors
/// All faults of all recipes as one input error (exit code 2).
pub fn run(args: Args) -> Result<()> {
    let mut faults = Vec::new();
    for path in &args.recipes {
        let plan = crate::plan::load(path, &args.sets);
        match plan.and_then(|plan| crate::stage::preflight::check_data(&plan, None)) {
            Ok(()) => println!("{}: ok", path.display()),
            Err(fault) => faults.push(fault),
        }
    }
    Error::all(faults).map_or(Ok(()), Err)
}
