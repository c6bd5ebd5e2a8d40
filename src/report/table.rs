//! The table of results, a row a stage: for the terminal and as Markdown.
//!
//! `minimind run` prints it at its end; the page shows the same cells. Next: `html`.

use std::path::Path;

use super::folder::{Run, Stage};
use super::format;
use crate::error::Result;

/// Column titles.
pub(crate) const TITLES: [&str; 7] = ["stage", "kind", "status", "time", "tokens", "updates", "results"];

/// The cells of one stage, in the order of [`TITLES`].
pub(crate) fn cells(stage: &Stage) -> [String; 7] {
    let number = |key: &str, show: fn(f64) -> String| stage.number(key).map_or_else(|| "–".to_owned(), show);
    let results = stage.metrics();
    let results: Vec<String> =
        results.iter().map(|(name, value)| format!("{name} {}", format::digits(*value, 4))).collect();
    [
        stage.name.clone(),
        stage.kind.clone(),
        stage.status().to_owned(),
        number("seconds", format::duration),
        number("tokens", format::compact),
        number("updates", format::compact),
        if results.is_empty() { "–".to_owned() } else { results.join(", ") },
    ]
}

/// The run's stages and results for a terminal, columns aligned.
///
/// # Errors
/// As [`Run::read`].
pub fn console_table(run: &Path) -> Result<String> {
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(Run::read(run)?.stages.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    Ok(rows.iter().map(line).collect())
}

/// The same as a Markdown table.
///
/// # Errors
/// As [`Run::read`].
pub fn markdown_table(run: &Path) -> Result<String> {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|").replace('\n', " ")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut out = line(&TITLES.map(str::to_owned));
    out.push_str(&line(&TITLES.map(|_| "---".to_owned())));
    for stage in &Run::read(run)?.stages {
        out.push_str(&line(&cells(stage)));
    }
    Ok(out)
}
