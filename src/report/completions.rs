//! The table of what a policy wrote last and what it was worth.

use std::fmt::Write;

use serde_json::Value;

use super::folder::Stage;
use super::format::escape;

/// The table of a stage's `completions`, if it has any.
pub(crate) fn table(stage: &Stage, out: &mut String) {
    let rows = stage.summary.get("completions").and_then(Value::as_array).filter(|rows| !rows.is_empty());
    let Some(rows) = rows else { return };
    out.push_str(
        "<h3>Completions</h3><div class=\"scroll\"><table class=\"facts\"><thead>\
         <tr><th>step</th><th>reward</th><th>prompt</th><th>completion</th></tr></thead><tbody>",
    );
    for row in rows {
        let text = |key: &str| escape(row.get(key).and_then(Value::as_str).unwrap_or_default());
        let reward = row.get("reward").and_then(Value::as_f64).unwrap_or(f64::NAN);
        let parts = row.get("rewards").and_then(Value::as_object).into_iter().flatten();
        let parts: Vec<String> =
            parts.map(|(name, value)| format!("{name} {:.2}", value.as_f64().unwrap_or(f64::NAN))).collect();
        let _ = write!(
            out,
            "<tr><td>{}</td><td title=\"{}\">{reward:.2}</td><td class=\"wide\" dir=\"auto\">{}</td>\
             <td class=\"wide\" dir=\"auto\">{}</td></tr>",
            row.get("step").cloned().unwrap_or_default(),
            escape(&parts.join(", ")),
            text("prompt"),
            text("completion"),
        );
    }
    out.push_str("</tbody></table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_wrote_is_shown_as_text() {
        let row = serde_json::json!({"step": 3, "prompt": "1 + 1?", "completion": "<b>2</b>", "reward": 1.5, "rewards": {"math": 1.5}});
        let summary = serde_json::json!({"completions": [row]});
        let stage = Stage { name: "grpo".into(), kind: "grpo".into(), summary, rows: Vec::new() };
        let mut out = String::new();
        table(&stage, &mut out);
        assert!(
            out.contains("&lt;b&gt;2&lt;/b&gt;") && out.contains("math 1.50") && out.contains(">1.50<"),
            "{out}"
        );
    }
}
