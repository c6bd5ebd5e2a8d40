//! The table of what a policy wrote last and what it was worth.

use maud::{Markup, html};
use serde_json::Value;

use super::folder::Stage;
use super::format::printable;

/// The table of a stage's `completions`, if it has any.
pub(crate) fn table(stage: &Stage) -> Markup {
    let rows = stage.summary.get("completions").and_then(Value::as_array).filter(|rows| !rows.is_empty());
    let Some(rows) = rows else { return Markup::default() };
    html! {
        h3 { "Completions" }
        div.scroll {
            table.facts {
                thead { tr { th { "step" } th { "reward" } th { "prompt" } th { "completion" } } }
                tbody { @for row in rows { (completion(row)) } }
            }
        }
    }
}

fn completion(row: &Value) -> Markup {
    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    let reward = row.get("reward").and_then(Value::as_f64).unwrap_or(f64::NAN);
    let parts = row.get("rewards").and_then(Value::as_object).into_iter().flatten();
    let parts: Vec<String> =
        parts.map(|(name, value)| format!("{name} {:.2}", value.as_f64().unwrap_or(f64::NAN))).collect();
    html! {
        tr {
            td { (row.get("step").cloned().unwrap_or_default().to_string()) }
            td title=(printable(&parts.join(", "))) { (format!("{reward:.2}")) }
            td.wide dir="auto" { (printable(text("prompt"))) }
            td.wide dir="auto" { (printable(text("completion"))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_wrote_is_shown_as_text() {
        let row = serde_json::json!({"step": 3, "prompt": "1 + 1?", "completion": "<b>2</b>", "reward": 1.5, "rewards": {"math": 1.5}});
        let summary = serde_json::json!({"completions": [row]});
        let stage = Stage { name: "grpo".into(), kind: "grpo".into(), summary, rows: Vec::new() };
        let out = table(&stage).into_string();
        assert!(
            out.contains("&lt;b&gt;2&lt;/b&gt;") && out.contains("math 1.50") && out.contains(">1.50<"),
            "{out}"
        );
    }
}
