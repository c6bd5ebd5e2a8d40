//! `report.html`: one page about a run that a person wants to look at.
//!
//! Self-contained: no request goes out, no script runs, and `maud` escapes everything that a file or a model wrote. Light and dark follow the reader's system. Next: `section` (a stage's part) and `svg`.

use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde_json::Value;

use super::document::{document, figures};
use super::folder::{Run, Stage};
use super::format::{compact, digits, duration, printable};
use super::{section, table};
use crate::atomic;
use crate::error::Result;

/// Writes `report.html` into the run's folder and returns its path.
///
/// # Errors
/// The folder is not a run's (input), or a file cannot be read or written.
pub fn write_report(run: &Path) -> Result<PathBuf> {
    let page = render(run)?;
    let path = run.join("report.html");
    atomic::write_bytes(&path, page.as_bytes())?;
    Ok(path)
}

/// The page of the run in `run`, as it stands now.
///
/// # Errors
/// The folder is not a run's (input), or a file cannot be read.
pub fn render(run: &Path) -> Result<String> {
    Ok(page(&Run::read(run)?).into_string())
}

fn page(run: &Run) -> Markup {
    document(
        &format!("{} – minimind report", run.name),
        &html! {
            (header(run))
            (stage_table(run))
            @for stage in &run.stages { (section::stage(stage)) }
            (reproduce(run))
        },
    )
}

fn header(run: &Run) -> Markup {
    let done = run.stages.iter().filter(|s| section::tone(s.status()) == "ok").count();
    let runtime = run.plan.get("runtime");
    let setting = |key: &str| runtime.and_then(|r| r.get(key)).and_then(Value::as_str);
    let facts = [
        run.plan.get("seed").map(|seed| format!("seed {seed}")),
        setting("device").map(|d| format!("device {d}")),
        setting("precision").map(|p| format!("precision {p}")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let sum = |key: &str| {
        let values: Vec<f64> = run.stages.iter().filter_map(|s| s.number(key)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>())
    };
    let parameters = run.stages.iter().filter_map(|s| s.number("parameters")).reduce(f64::max);
    let shown = [
        Some(("Stages done", format!("{done} of {}", run.stages.len()))),
        parameters.map(|p| ("Parameters", compact(p))),
        sum("tokens").map(|t| ("Tokens trained", compact(t))),
        sum("seconds").map(|s| ("Time", duration(s))),
        last_result(&run.stages),
    ];
    html! {
        h1 { (printable(&run.name)) }
        p.soft { (printable(&facts.join(", "))) }
        (figures(&shown.into_iter().flatten().collect::<Vec<_>>()))
    }
}

/// The loss of the last stage that has one: on held-out data where it was measured.
fn last_result(stages: &[Stage]) -> Option<(&'static str, String)> {
    stages.iter().rev().find_map(|stage| {
        let metrics = stage.metrics();
        let find = |validation: bool| {
            metrics
                .iter()
                .find(|(name, _)| if validation { section::is_validation(name) } else { name == "loss" })
        };
        let (title, (_, value)) =
            find(true).map(|m| ("Validation loss", m)).or_else(|| find(false).map(|m| ("Last loss", m)))?;
        Some((title, digits(*value, 4)))
    })
}

fn stage_table(run: &Run) -> Markup {
    html! {
        h2 { "Stages" }
        @if run.stages.is_empty() {
            p.none { "The plan has no stages." }
        } @else {
            div.scroll {
                table {
                    thead {
                        tr {
                            @for (column, title) in table::TITLES.iter().enumerate() {
                                th class=[(3..6).contains(&column).then_some("n")] { (title) }
                            }
                        }
                    }
                    tbody {
                        @for stage in &run.stages { (stage_row(stage)) }
                    }
                }
            }
        }
    }
}

fn stage_row(stage: &Stage) -> Markup {
    let cells = table::cells(stage);
    let results = stage.metrics();
    html! {
        tr {
            td { a href={ "#" (section::anchor(&stage.name)) } { (printable(&cells[0])) } }
            td { (printable(&cells[1])) }
            td class=(section::tone(stage.status())) { (printable(&cells[2])) }
            @for cell in &cells[3..6] { td.n { (cell) } }
            td.wide {
                @if results.is_empty() { "–" }
                @for (index, (name, value)) in results.iter().enumerate() {
                    @if index > 0 { ", " }
                    (printable(name)) " " b { (digits(*value, 4)) }
                }
            }
        }
    }
}

fn reproduce(run: &Run) -> Markup {
    let recipe = run.plan.get("recipe").and_then(Value::as_str).unwrap_or("recipe.yaml");
    let output = run.plan.get("output").and_then(Value::as_str).unwrap_or("RUN").trim_end_matches('/');
    let commands = format!(
        "minimind run {}\n# or from the run’s own copy, into another folder:\nminimind run {} --output {}",
        shell_word(recipe),
        shell_word(&format!("{output}/recipe.yaml")),
        shell_word(&format!("{output}-again"))
    );
    let plan = serde_json::to_string_pretty(&run.plan).unwrap_or_default();
    html! {
        h2 { "Run it again" }
        p {
            "The run’s own copy of the recipe holds every " code { "--set" }
            " that was given. The same recipe, data and seed give the same plan."
        }
        pre { (printable(&commands)) }
        @if !run.recipe.is_empty() {
            h2 { "Recipe" }
            pre { (printable(run.recipe.trim_end())) }
        }
        details {
            summary { "The plan, with every default filled" }
            pre { (printable(&plan)) }
        }
    }
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{console_table, markdown_table};

    fn plan(folder: &Path, text: &str) {
        std::fs::write(folder.join("plan.json"), text).unwrap();
    }

    #[test]
    fn a_folder_without_a_plan_is_the_users_mistake() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("nowhere")] {
            let fault = write_report(&path).unwrap_err();
            assert_eq!(fault.exit_code(), 2);
            assert!(fault.hint_text().unwrap().contains("output"));
        }
        assert!(!folder.path().join("report.html").exists());
    }

    #[test]
    fn a_run_that_has_not_started_has_a_report() {
        let folder = tempfile::tempdir().unwrap();
        plan(folder.path(), r#"{"name": "x", "stages": [{"name": "sft", "config": {"sft": {}}}]}"#);
        let page = std::fs::read_to_string(write_report(folder.path()).unwrap()).unwrap();
        assert!(page.contains("0 of 1") && page.contains("not run"));
        assert_eq!(markdown_table(folder.path()).unwrap().lines().count(), 3);
        plan(folder.path(), "{}");
        assert!(std::fs::read_to_string(write_report(folder.path()).unwrap()).unwrap().contains("no stages"));
    }

    #[test]
    fn what_models_and_files_say_stays_text() {
        let folder = tempfile::tempdir().unwrap();
        let evil = "<script>alert(1)</script>";
        let stage = serde_json::json!({"name": "s", "config": {evil: {}}});
        plan(
            folder.path(),
            &serde_json::json!({"name": evil, "recipe": evil, "stages": [stage]}).to_string(),
        );
        std::fs::write(folder.path().join("recipe.yaml"), evil).unwrap();
        std::fs::create_dir(folder.path().join("s")).unwrap();
        let summary = serde_json::json!({
            "kind": evil, "status": evil, "metrics": {evil: 1.0}, "data": {evil: evil}, "notes": [evil],
            "samples": [{"prompt": evil, "before": evil, "after": evil}],
        });
        std::fs::write(folder.path().join("s/summary.json"), summary.to_string()).unwrap();
        let row = serde_json::json!({"step": 1, "loss": 2.0, evil: 3.0});
        std::fs::write(folder.path().join("s/metrics.jsonl"), format!("{row}\n{{\"st")).unwrap();
        let page = std::fs::read_to_string(write_report(folder.path()).unwrap()).unwrap();
        assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() > 10);
        assert!(!page.contains("http://") && !page.contains("https://"));
        assert!(console_table(folder.path()).unwrap().starts_with("stage"));
    }
}
