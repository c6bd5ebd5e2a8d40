//! A stage's part of the page: its charts, samples, facts and notes.
//!
//! Which columns are drawn is decided here: the loss with its validation, then rate, speed and gradient,
//! then whatever else the stage logs. Next: `svg`, the drawing.

use maud::{Markup, html};
use serde_json::Value;

use super::completions;
use super::folder::Stage;
use super::format::{compact, duration, printable};
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
pub(crate) fn stage(stage: &Stage) -> Markup {
    let facts = [
        (stage.kind != stage.name).then(|| stage.kind.clone()),
        Some(stage.status().to_owned()),
        stage.number("seconds").map(duration),
        stage.number("parameters").map(|p| format!("{} parameters", compact(p))),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let data = stage.summary.get("data").filter(|d| !is_empty(d));
    let notes = stage.summary.get("notes").and_then(Value::as_array).into_iter().flatten();
    let notes: Vec<&str> = notes.filter_map(Value::as_str).collect();
    html! {
        section id=(anchor(&stage.name)) {
            h2 { (printable(&stage.name)) " " small { (printable(&facts.join(", "))) } }
            (charts(stage))
            (samples(stage))
            (completions::table(stage))
            @if let Some(data) = data {
                h3 { "Data" }
                div.scroll { table.facts { tbody { (rows("", data)) } } }
            }
            @if !notes.is_empty() {
                h3 { "Notes" }
                ul.notes { @for note in notes { li { (printable(note)) } } }
            }
        }
    }
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

fn charts(stage: &Stage) -> Markup {
    if stage.rows.is_empty() {
        return Markup::default();
    }
    let columns = stage.columns();
    let loss = stage.series("loss");
    let validation = columns.iter().find(|c| is_validation(c));
    let has_loss = !loss.is_empty() || validation.is_some();
    let mut losses = lines("train", loss);
    let points = validation.map(|name| stage.series(name)).unwrap_or_default();
    losses.push(Series { name: "validation".to_owned(), class: "s1", points });
    let titled = TITLED.iter().filter(|(name, _)| columns.iter().any(|c| c == name));
    let others = columns.iter().filter(|c| {
        let known = NOT_DRAWN.contains(&c.as_str()) || *c == "loss" || Some(*c) == validation;
        !known && TITLED.iter().chain(&PEAKS).all(|(name, _)| name != c)
    });
    let all = titled.map(|&(name, title)| (name, title)).chain(others.map(|c| (c.as_str(), c.as_str())));
    // A column that was zero throughout (aux_loss of a dense model) tells nothing.
    let all =
        all.map(|(name, title)| (title, stage.series(name))).filter(|(_, p)| p.iter().any(|p| p.1 != 0.0));
    let peaks = PEAKS.iter().map(|&(column, name)| (name, stage.series(column)));
    let peaks: Vec<Series> = peaks
        .filter(|(_, points)| !points.is_empty())
        .zip(["s0", "s1", "s2", "s3"])
        .map(|((name, points), class)| Series { name: name.to_owned(), class, points })
        .collect();
    html! {
        div.charts {
            @if has_loss { (chart("Loss", &losses)) }
            @for (title, points) in all { (chart(title, &lines(title, points))) }
            @if !peaks.is_empty() { (chart("Peak memory, MB", &peaks)) }
        }
    }
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

fn samples(stage: &Stage) -> Markup {
    let samples = stage.summary.get("samples").and_then(Value::as_array).filter(|s| !s.is_empty());
    let Some(samples) = samples else { return Markup::default() };
    html! {
        h3 { "Samples before and after" }
        @for sample in samples { (sample_block(sample)) }
    }
}

fn sample_block(sample: &Value) -> Markup {
    let text = |key: &str| sample.get(key).and_then(Value::as_str);
    let answers = [("before", text("before")), ("after", text("after"))];
    let answers: Vec<(&str, &str)> = answers.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
    html! {
        div.sample {
            div.prompt dir="auto" { (printable(text("prompt").unwrap_or_default())) }
            div.pair.one[answers.len() == 1] {
                @for (key, answer) in answers {
                    div class=(key) {
                        span { (key) }
                        p dir="auto" { @if answer.trim().is_empty() { "(nothing)" } @else { (printable(answer)) } }
                    }
                }
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|o| o.is_empty())
}

/// Facts as rows; nested names are joined by a space.
fn rows(prefix: &str, value: &Value) -> Markup {
    if let Value::Object(map) = value {
        let name = |key: &str| format!("{prefix} {}", key.replace('_', " ")).trim_start().to_owned();
        return html! { @for (key, value) in map { (rows(&name(key), value)) } };
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
    html! { tr { td { (printable(prefix)) } td.wide { (printable(&text)) } } }
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
