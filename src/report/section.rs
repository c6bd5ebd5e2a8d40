//! A stage's part of the page: its charts, samples, facts and notes.
//!
//! Which columns are drawn is decided here: the loss with its validation, then rate, speed and gradient,
//! then whatever else the stage logs. Next: `svg`, the drawing.

use std::fmt::Write;

use serde_json::Value;

use super::folder::Stage;
use super::format::{compact, duration, escape};
use super::svg::{Series, chart, smoothed};

/// Columns that say where a row stands, or only repeat the clock.
const NOT_DRAWN: [&str; 5] = ["stage", "epoch", "step", "tokens", "elapsed_s"];
/// From here on a line is smoothed.
const MANY_POINTS: usize = 80;
/// Columns with a title of their own, in the order they are drawn.
const TITLED: [(&str, &str); 3] =
    [("lr", "Learning rate"), ("tokens_per_s", "Tokens per second"), ("grad_norm", "Gradient norm")];

/// Peak memory by phase, in one chart.
const PEAKS: [(&str, &str); 4] = [
    ("rollout_peak_mb", "rollout"),
    ("reference_peak_mb", "reference"),
    ("backward_peak_mb", "forward and back"),
    ("update_peak_mb", "update"),
];

/// The section of one stage.
pub(crate) fn stage(stage: &Stage) -> String {
    let facts = [
        (stage.kind != stage.name).then(|| stage.kind.clone()),
        Some(stage.status().to_owned()),
        stage.number("seconds").map(duration),
        stage.number("parameters").map(|p| format!("{} parameters", compact(p))),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let mut out = format!(
        "<section id=\"{}\"><h2>{} <small>{}</small></h2>",
        anchor(&stage.name),
        escape(&stage.name),
        escape(&facts.join(", "))
    );
    charts(stage, &mut out);
    samples(stage, &mut out);
    super::completions::table(stage, &mut out);
    if let Some(data) = stage.summary.get("data").filter(|d| !is_empty(d)) {
        out.push_str("<h3>Data</h3><div class=\"scroll\"><table class=\"facts\"><tbody>");
        rows("", data, &mut out);
        out.push_str("</tbody></table></div>");
    }
    let notes: Vec<&str> = stage
        .summary
        .get("notes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !notes.is_empty() {
        out.push_str("<h3>Notes</h3><ul class=\"notes\">");
        for note in notes {
            let _ = write!(out, "<li>{}</li>", escape(note));
        }
        out.push_str("</ul>");
    }
    out + "</section>\n"
}

/// A name fit for an `id`.
pub(crate) fn anchor(name: &str) -> String {
    let safe: String = name.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("stage-{safe}")
}

/// The CSS class of a status.
pub(crate) fn tone(status: &str) -> &'static str {
    match status {
        "done" | "skipped" | "reused" | "finished" | "complete" => "ok",
        "failed" | "error" | "stopped" => "bad",
        _ => "off",
    }
}

/// Whether a metric is the loss on held-out rows.
pub(crate) fn is_validation(name: &str) -> bool {
    name.contains("loss") && (name.starts_with("val") || name.starts_with("eval") || name.ends_with("_val"))
}

fn charts(stage: &Stage, out: &mut String) {
    if stage.rows.is_empty() {
        return;
    }
    let columns = stage.columns();
    out.push_str("<div class=\"charts\">");
    let loss = stage.series("loss");
    let validation = columns.iter().find(|c| is_validation(c));
    if !loss.is_empty() || validation.is_some() {
        let mut lines = lines("train", loss);
        let points = validation.map(|name| stage.series(name)).unwrap_or_default();
        lines.push(Series { name: "validation".to_owned(), class: "s1", points });
        out.push_str(&chart("Loss", &lines));
    }
    let titled = TITLED.iter().filter(|(name, _)| columns.iter().any(|c| c == name));
    let others = columns.iter().filter(|c| {
        let known = NOT_DRAWN.contains(&c.as_str()) || *c == "loss" || Some(*c) == validation;
        !known && TITLED.iter().chain(&PEAKS).all(|(name, _)| name != c)
    });
    let all = titled.map(|&(name, title)| (name, title)).chain(others.map(|c| (c.as_str(), c.as_str())));
    for (name, title) in all {
        let points = stage.series(name);
        // A column that was zero throughout (aux_loss of a dense model) tells nothing.
        if points.iter().any(|p| p.1 != 0.0) {
            out.push_str(&chart(title, &lines(title, points)));
        }
    }
    let peaks = PEAKS.iter().map(|&(column, name)| (name, stage.series(column)));
    let peaks: Vec<Series> = peaks
        .filter(|(_, points)| !points.is_empty())
        .zip(["s0", "s1", "s2", "s3"])
        .map(|((name, points), class)| Series { name: name.to_owned(), class, points })
        .collect();
    if !peaks.is_empty() {
        out.push_str(&chart("Peak memory, MB", &peaks));
    }
    out.push_str("</div>");
}

/// A column's line; of many points a smoothed one over the faint rows.
fn lines(name: &str, points: Vec<(f64, f64)>) -> Vec<Series> {
    let main = |points| Series { name: name.to_owned(), class: "s0", points };
    // The rate is set, not measured: there is no noise to smooth.
    if points.len() < MANY_POINTS || name == TITLED[0].1 {
        return vec![main(points)];
    }
    let smooth = main(smoothed(&points));
    vec![Series { name: "rows".to_owned(), class: "raw", points }, smooth]
}

fn samples(stage: &Stage, out: &mut String) {
    let samples = stage.summary.get("samples").and_then(Value::as_array).filter(|s| !s.is_empty());
    let Some(samples) = samples else { return };
    out.push_str("<h3>Samples before and after</h3>");
    for sample in samples {
        let text = |key: &str| sample.get(key).and_then(Value::as_str);
        let answers: Vec<(&str, &str)> = [("before", text("before")), ("after", text("after"))]
            .into_iter()
            .filter_map(|(k, v)| Some((k, v?)))
            .collect();
        let one = if answers.len() == 1 { " one" } else { "" };
        let _ = write!(
            out,
            "<div class=\"sample\"><div class=\"prompt\" dir=\"auto\">{}</div><div class=\"pair{one}\">",
            escape(text("prompt").unwrap_or_default())
        );
        for (key, answer) in answers {
            let shown = if answer.trim().is_empty() { "(nothing)" } else { answer };
            let _ = write!(
                out,
                "<div class=\"{key}\"><span>{key}</span><p dir=\"auto\">{}</p></div>",
                escape(shown)
            );
        }
        out.push_str("</div></div>");
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|o| o.is_empty())
}

/// Facts as rows; nested names are joined by a space.
fn rows(prefix: &str, value: &Value, out: &mut String) {
    if let Value::Object(map) = value {
        for (key, value) in map {
            let name = if prefix.is_empty() {
                key.replace('_', " ")
            } else {
                format!("{prefix} {}", key.replace('_', " "))
            };
            rows(&name, value, out);
        }
        return;
    }
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            items.iter().map(plain).collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), grouped),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    };
    let _ = write!(out, "<tr><td>{}</td><td class=\"wide\">{}</td></tr>", escape(prefix), escape(&text));
}

/// `1234567` as `1 234 567` (thin spaces).
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}
