//! `minimind report`: the page and the table of a run.
//!
//! Writes `report.html` into the run's folder; stdout has its path and the table of results.
//! Next: `report::html`.

use std::path::PathBuf;

use crate::error::Result;
use crate::report;

/// The run, and how its results are printed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder: the recipe's `output`.
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Print one JSON value instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Writes `report.html` and prints its path with the results.
///
/// # Errors
/// RUN is not a run's folder, or its files cannot be read or written.
pub fn run(args: Args) -> Result<()> {
    let page = report::write_report(&args.run)?;
    if args.json {
        let run = report::folder::Run::read(&args.run)?;
        let stage = |s: &report::folder::Stage| {
            let metrics: serde_json::Map<_, _> =
                s.metrics().into_iter().map(|(k, v)| (k, v.into())).collect();
            serde_json::json!({
                "name": s.name, "kind": s.kind, "status": s.status(), "seconds": s.number("seconds"),
                "parameters": s.number("parameters"), "tokens": s.number("tokens"),
                "updates": s.number("updates"), "metrics": metrics,
            })
        };
        let stages: Vec<_> = run.stages.iter().map(stage).collect();
        println!("{}", serde_json::json!({"name": run.name, "report": page, "stages": stages}));
    } else {
        println!("{}\n\n{}", page.display(), report::console_table(&args.run)?.trim_end());
    }
    Ok(())
}
