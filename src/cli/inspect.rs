//! `minimind inspect`.

use crate::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Carries the command out.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
