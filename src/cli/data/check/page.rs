//! The findings as a page with plots, in the style of `report.html`.

use maud::{Markup, html};

use super::Report;
use super::print::{batching, rows};
use crate::data::hygiene::survey::{Findings, Found, TokenFindings};
use crate::data::language;
use crate::report::bars::{Bar, histogram, lying};
use crate::report::document::{document, figures};
use crate::report::format::{compact, digits, printable};

/// Languages that are drawn.
const DRAWN: usize = 12;

/// The page.
pub fn page(report: &Report) -> Markup {
    let found = &report.findings;
    let files: Vec<String> = report.files.iter().map(|file| file.display().to_string()).collect();
    let title = match &files[..] {
        [one] => one.clone(),
        several => format!("{} and {} more", several[0], several.len() - 1),
    };
    let mut top = vec![
        ("Rows", compact(report.rows as f64)),
        ("Cannot be used", compact(report.faults as f64)),
        (
            if found.lengths.unit == "tokens" { "Tokens" } else { "Characters" },
            compact(found.lengths.total as f64),
        ),
        ("Repeats", compact((found.exact_duplicates.rows + found.near_duplicates.rows) as f64)),
    ];
    if let Some(tokens) = &found.tokens {
        top.push(("Tokens with loss", percent(tokens.loss_share)));
    }
    let shapes: Vec<String> = found.shapes.iter().map(|(name, rows)| format!("{name} {rows}")).collect();
    let body = html! {
        h1 { (printable(&title)) }
        p.soft { (report.kind) " rows; shapes: " (printable(&shapes.join(", "))) }
        (figures(&top))
        h2 { "Rows" }
        div.charts {
            (lengths(found))
            (languages(found))
            @if let Some(tokens) = &found.tokens { (padding(tokens)) }
        }
        h2 { "Findings" }
        (table(found))
        (examples("Exact duplicates", "like", &found.exact_duplicates))
        (examples("Near duplicates", "like", &found.near_duplicates))
        @if let Some(overlap) = &found.overlap { (examples("Overlap", "held out", &overlap.found)) }
        (examples("Odd characters", "", &found.odd_characters))
        @if files.len() > 1 {
            h3 { "Files" }
            ul.notes { @for file in &files { li { (printable(file)) } } }
        }
    };
    document(&format!("{title} – minimind data check"), &body)
}

fn percent(share: f64) -> String {
    format!("{}%", digits(100.0 * share, 3))
}

fn lengths(found: &Findings) -> Markup {
    let lengths = &found.lengths;
    let bars: Vec<Bar> = lengths
        .histogram
        .iter()
        .map(|bar| Bar {
            name: compact(f64::from(bar.from)),
            value: bar.rows as f64,
            title: format!("{} to {} {}: {}", bar.from, bar.to - 1, lengths.unit, rows(bar.rows)),
        })
        .collect();
    let note = format!("median {}, 90% up to {}, longest {}", lengths.median, lengths.p90, lengths.max);
    histogram(&format!("Rows by length, {}", lengths.unit), &note, &bars)
}

fn languages(found: &Findings) -> Markup {
    let mut all: Vec<(&String, usize)> = found.languages.iter().map(|(code, rows)| (code, *rows)).collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let bars: Vec<Bar> = all
        .iter()
        .take(DRAWN)
        .map(|(code, count)| Bar {
            name: language::name_of(code).to_owned(),
            value: *count as f64,
            title: format!("{code}: {}", rows(*count)),
        })
        .collect();
    let rest: usize = all.iter().skip(DRAWN).map(|(_, count)| count).sum();
    let note = if rest > 0 { format!("{} in other languages", rows(rest)) } else { String::new() };
    lying("Rows by language", &note, &bars)
}

fn padding(tokens: &TokenFindings) -> Markup {
    let bars: Vec<Bar> = tokens
        .padding
        .iter()
        .map(|padding| Bar {
            name: batching(padding.batching),
            value: 100.0 * padding.waste,
            title: format!("{} tokens computed an epoch", padding.padded_tokens),
        })
        .collect();
    let note = format!("batches of {}, max_seq_len {}", tokens.batch_size, tokens.max_seq_len);
    lying("Padding, % of what is computed", &note, &bars)
}

fn table(found: &Findings) -> Markup {
    let share = |count: usize| {
        let all: usize = found.shapes.values().sum();
        percent(count as f64 / all.max(1) as f64)
    };
    let mut lines = vec![
        (
            "Exact duplicates".to_owned(),
            found.exact_duplicates.rows,
            "the same but for case and blanks".to_owned(),
        ),
        (
            "Near duplicates".to_owned(),
            found.near_duplicates.rows,
            format!("Jaccard similarity {} or more", found.near_threshold),
        ),
    ];
    if let Some(overlap) = &found.overlap {
        let held =
            format!("{} of {} held-out rows were found", overlap.held_out_rows_seen, overlap.held_out_rows);
        lines.push((
            "Overlap".to_owned(),
            overlap.found.rows,
            format!("{} words in a row; {held}", overlap.words),
        ));
    }
    lines.push(("Odd characters".to_owned(), found.odd_characters.rows, String::new()));
    for (kind, count) in &found.odd_kinds {
        lines.push((
            format!("– {}", kind.replace('_', " ")),
            count.rows,
            format!("{} characters", count.characters),
        ));
    }
    if let Some(tokens) = &found.tokens {
        let cut = format!("at {} tokens; {} tokens are lost", tokens.max_seq_len, tokens.tokens_cut);
        lines.push(("Cut".to_owned(), tokens.rows_cut, cut));
        lines.push((
            "Without loss".to_owned(),
            tokens.rows_without_loss,
            "nothing is learned from them".to_owned(),
        ));
    }
    html! {
        div.scroll {
            table {
                thead { tr { th { "Finding" } th.n { "Rows" } th.n { "Share" } th { "" } } }
                tbody {
                    @for (name, count, note) in lines {
                        tr { td { (name) } td.n { (count) } td.n { (share(count)) } td.wide { (note) } }
                    }
                }
            }
        }
    }
}

fn examples(title: &str, relation: &str, found: &Found) -> Markup {
    html! {
        @if found.rows > 0 {
            h3 { (title) ", the first rows" }
            ul.notes {
                @for example in &found.examples {
                    li {
                        (printable(&example.row))
                        @if !relation.is_empty() { " – " (relation) " " (printable(&example.of)) }
                    }
                }
            }
        }
    }
}
