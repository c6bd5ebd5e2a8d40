//! The costs of a plan as a table for people. Next: `cost`, which computes them.

use super::StageCost;

/// The costs as a table for people.
pub fn table(costs: &[StageCost]) -> String {
    let head = [
        "stage",
        "kind",
        "parameters",
        "active",
        "rows",
        "tokens",
        "padding",
        "micro-batches",
        "updates",
        "memory",
        "time",
    ];
    let dash = || "-".to_owned();
    let number = |n: Option<u64>| n.map_or_else(dash, short);
    let rows: Vec<Vec<String>> = costs
        .iter()
        .map(|c| {
            vec![
                c.name.clone(),
                c.kind.to_owned(),
                number(c.parameters.map(|p| p.total)),
                number(c.parameters.map(|p| p.active)),
                number(c.examples),
                number(c.tokens),
                number(c.padding_tokens),
                number(c.micro_batches),
                number(c.updates),
                c.peak_memory
                    .map_or_else(dash, |m| format!("{:.2} GiB", m.total as f64 / (1u64 << 30) as f64)),
                c.seconds.map_or_else(dash, time),
            ]
        })
        .collect();
    let width =
        |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([head[i].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, w))| if i < 2 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let head = head.map(str::to_owned);
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect()
}

fn short(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1}k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.2}B", n as f64 / 1e9),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}
