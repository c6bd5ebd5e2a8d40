//! The findings as lines of text.

use super::Report;
use crate::data::hygiene::survey::{Findings, Found, TokenFindings};
use crate::data::language;

/// Columns of a line's name.
const NAME: usize = 18;
/// The longest bar, in characters.
const BAR: usize = 40;

/// Everything, a line a finding; nothing but the first line where no row can be used.
pub fn text(report: &Report) -> String {
    let mut lines =
        vec![format!("{} {} rows can be used, {} cannot", report.rows, report.kind, report.faults)];
    let found = &report.findings;
    if report.rows == 0 {
        return lines.remove(0);
    }
    let mut add = |name: &str, text: String| lines.push(format!("{name:<NAME$}{text}"));
    add("shapes", listed(found.shapes.iter().map(|(name, rows)| (name.clone(), *rows))));
    let lengths = &found.lengths;
    add(
        lengths.unit,
        format!(
            "{} in all; a row has {:.1}, half up to {}, 90% up to {}, 99% up to {}, the longest {}",
            lengths.total, lengths.mean, lengths.median, lengths.p90, lengths.p99, lengths.max
        ),
    );
    let most = lengths.histogram.iter().map(|bar| bar.rows).max().unwrap_or(0).max(1);
    for bar in lengths.histogram.iter().filter(|bar| bar.rows > 0) {
        let drawn = "█".repeat((bar.rows * BAR).div_ceil(most));
        add(
            "",
            format!("{:>7} to {:<7} {:>7} {drawn}", bar.from, bar.to - 1, bar.rows).trim_end().to_owned(),
        );
    }
    if let Some(tokens) = &found.tokens {
        token_lines(tokens, &mut add);
    }
    add("exact duplicates", examples(&found.exact_duplicates));
    let near = format!("similarity {} or more", found.near_threshold);
    add("near duplicates", format!("{} ({near})", examples(&found.near_duplicates)));
    if let Some(overlap) = &found.overlap {
        let (seen, all) = (overlap.held_out_rows_seen, overlap.held_out_rows);
        add(
            "overlap",
            format!("{} ({} words; {seen} of {all} held-out rows)", examples(&overlap.found), overlap.words),
        );
    }
    add("odd characters", odd(found));
    let mut languages: Vec<_> = found.languages.iter().collect();
    languages.sort_by_key(|(_, rows)| std::cmp::Reverse(**rows));
    add(
        "languages",
        listed(languages.into_iter().map(|(code, rows)| (language::name_of(code).to_owned(), *rows))),
    );
    lines.join("\n")
}

fn token_lines(tokens: &TokenFindings, add: &mut impl FnMut(&str, String)) {
    let TokenFindings { max_seq_len, rows_cut, tokens_cut, batch_size, .. } = tokens;
    add("cut", format!("{} at {max_seq_len} tokens, {tokens_cut} tokens are lost", rows(*rows_cut)));
    let none = rows(tokens.rows_without_loss);
    add("loss", format!("{} tokens, {:.1}%; {none} without", tokens.loss_tokens, 100.0 * tokens.loss_share));
    let padding = tokens.padding.iter().map(|p| format!("{} {:.1}%", batching(p.batching), 100.0 * p.waste));
    let padding = padding.collect::<Vec<_>>().join(", ");
    add("padding", format!("{padding} (of what batches of {batch_size} compute)"));
}

/// The name of a way of batching, as recipes have it.
pub fn batching(batching: crate::data::Batching) -> String {
    format!("{batching:?}").to_lowercase()
}

/// A number of rows.
pub fn rows(count: usize) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

fn listed(counts: impl Iterator<Item = (String, usize)>) -> String {
    counts.map(|(name, rows)| format!("{name} {rows}")).collect::<Vec<_>>().join(", ")
}

fn examples(found: &Found) -> String {
    let named =
        found.examples.iter().map(|e| format!("{} like {}", e.row, e.of)).collect::<Vec<_>>().join(", ");
    with_examples(found.rows, found.examples.len(), &named)
}

fn with_examples(count: usize, shown: usize, named: &str) -> String {
    match count {
        0 => "none".to_owned(),
        _ if count > shown => format!("{}: {named}, ...", rows(count)),
        _ => format!("{}: {named}", rows(count)),
    }
}

fn odd(found: &Findings) -> String {
    let shown = &found.odd_characters.examples;
    let named = shown.iter().map(|e| e.row.clone()).collect::<Vec<_>>().join(", ");
    let rows = with_examples(found.odd_characters.rows, shown.len(), &named);
    if found.odd_kinds.is_empty() {
        return rows;
    }
    format!(
        "{rows} ({})",
        listed(found.odd_kinds.iter().map(|(kind, c)| (kind.replace('_', " "), c.characters as usize)))
    )
}
