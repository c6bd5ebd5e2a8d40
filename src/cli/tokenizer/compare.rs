//! `minimind tokenizer compare`: several tokenizers on the same texts.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::checkpoint::tokenizer_folder;
use crate::cli::{pull, vocabulary};
use crate::data::tokenizer::builtin::BuiltinTokenizer;
use crate::data::tokenizer::compare::{self, Comparison, Found, RARE_USES, Sizes};
use crate::data::{DataConfig, DataFormat, Tokenizer, source};
use crate::error::{Error, Place, Result};

/// Languages that the table names; the rest is one line.
const LANGUAGES: usize = 8;

/// Which tokenizers, and which texts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tokenizers: folders with tokenizer.json, runs, models, minimind2 and minimind3 (built in), hf:OWNER/NAME
    #[arg(required = true, num_args = 1..)]
    tokenizers: Vec<String>,
    /// Files with rows of any shape
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Read at most so many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// The model's width, for the parameters of its embedding
    #[arg(long, default_value_t = 512, value_name = "N")]
    hidden_size: usize,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

/// Encodes the texts with every tokenizer and prints what came out.
///
/// # Errors
/// A tokenizer or a file cannot be read; the files hold no text.
pub fn run(args: Args) -> Result<()> {
    let load = |name: &String| Ok((name.clone(), Tokenizer::load(&folder(name)?)?));
    let tokenizers = args.tokenizers.iter().map(load).collect::<Result<Vec<_>>>()?;
    let texts = source::texts(&DataConfig::files(args.data.clone(), DataFormat::Text))?;
    let found = compare::compare(texts.take(args.limit.unwrap_or(usize::MAX)), &tokenizers)?;
    if found.all.bytes == 0 {
        let fault = Error::input("there is no text to compare the tokenizers on");
        return Err(fault.at(Place::file(&args.data[0])).hint("name a file with rows"));
    }
    if args.json {
        let mut value = json!(found);
        for tokenizer in value["tokenizers"].as_array_mut().into_iter().flatten() {
            let size = tokenizer["vocab_size"].as_u64().unwrap_or_default();
            tokenizer["embedding_parameters"] = json!(size * args.hidden_size as u64);
        }
        println!("{value}");
    } else {
        print!("{}", table(&found, args.hidden_size));
    }
    Ok(())
}

/// The folder of a tokenizer that the user names in one of the ways that models are named in.
fn folder(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if BuiltinTokenizer::named(path).is_some() || tokenizer_folder::tokenizer_file(path).is_some() {
        return vocabulary::named(path);
    }
    if crate::hub::reference::is_reference(name) && !path.exists() {
        return pull::tokenizer(name);
    }
    if path.is_file() && path.file_name().is_some_and(|file| file == "tokenizer.json") {
        return Ok(path.parent().unwrap_or(Path::new(".")).to_owned());
    }
    // A run: what its tokenizer stage left, else what its model names.
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut stages: Vec<_> = entries.filter(|p| tokenizer_folder::tokenizer_file(p).is_some()).collect();
    stages.sort();
    match stages.as_slice() {
        [one] => return Ok(one.clone()),
        [_, _, ..] => {
            let names: Vec<_> = stages.iter().map(|stage| stage.display().to_string()).collect();
            return Err(Error::input(format!("there are several tokenizers: {}", names.join(", ")))
                .at(Place::file(path))
                .hint("name one of them"));
        }
        [] => {}
    }
    tokenizer_folder::find(&pull::locate(name)?)?.ok_or_else(|| {
        Error::input(format!("`{name}` has no tokenizer"))
            .hint("name a folder with tokenizer.json, minimind2 or minimind3")
    })
}

fn table(found: &Comparison, hidden_size: usize) -> String {
    let Sizes { texts, bytes, characters } = found.all;
    let tokenizers = &found.tokenizers;
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(tokenizers.iter().map(|one| short(&one.name)));
    let mut line = |name: &str, cell: &dyn Fn(&Found) -> String| {
        rows.push(std::iter::once(name.to_owned()).chain(tokenizers.iter().map(cell)).collect());
    };
    line("vocabulary", &|one| one.vocab_size.to_string());
    let embedding = format!("embedding at hidden {hidden_size}");
    line(&embedding, &|one| format!("{:.2}M", (one.vocab_size * hidden_size) as f64 / 1e6));
    line("tokens", &|one| one.tokens.to_string());
    line("bytes/token", &|one| per(bytes, one.tokens));
    line("characters/token", &|one| per(characters, one.tokens));
    for (what, groups, of) in [
        ("language", &found.languages, (|one| &one.by_language) as fn(&Found) -> &_),
        ("domain", &found.domains, |one| &one.by_domain),
    ] {
        let mut sorted: Vec<_> = groups.iter().collect();
        sorted.sort_by_key(|(_, sizes)| std::cmp::Reverse(sizes.bytes));
        for (name, sizes) in sorted.iter().take(LANGUAGES) {
            let tokens = |one: &Found| of(one).get(*name).copied().unwrap_or(0);
            let name = format!("  {what} {name} ({})", percent(sizes.bytes, bytes));
            line(&name, &|one| per(sizes.characters, tokens(one)));
        }
        let more = &sorted[sorted.len().min(LANGUAGES)..];
        if !more.is_empty() {
            let sum = |size: &dyn Fn(&Sizes) -> u64| more.iter().map(|(_, sizes)| size(sizes)).sum::<u64>();
            let name = format!("  {} more ({})", more.len(), percent(sum(&|s| s.bytes), bytes));
            let tokens = |one: &Found| more.iter().filter_map(|(name, _)| of(one).get(*name)).sum();
            line(&name, &|one| per(sum(&|s| s.characters), tokens(one)));
        }
    }
    line("unknown", &|one| percent(one.unknown, one.tokens));
    line("parts of characters", &|one| percent(one.parts, one.tokens));
    line("unused ids", &|one| {
        format!("{} ({})", one.unused, percent(one.unused as u64, one.vocab_size as u64))
    });
    line(&format!("used 1 to {RARE_USES} times"), &|one| one.rare.to_string());
    line("MB/s", &|one| format!("{:.1}", one.mb_per_s));
    let head = format!(
        "{texts} texts, {bytes} bytes, {characters} characters; encoded on {} threads\n\n",
        found.threads
    );
    head + &aligned(&rows)
}

/// The end of a long path.
fn short(name: &str) -> String {
    const MOST: usize = 24;
    let length = name.chars().count();
    if length <= MOST {
        name.to_owned()
    } else {
        format!("…{}", name.chars().skip(length - MOST + 1).collect::<String>())
    }
}

fn per(amount: u64, tokens: u64) -> String {
    if tokens == 0 { "-".to_owned() } else { format!("{:.3}", amount as f64 / tokens as f64) }
}

fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    if part > 0 && share < 0.01 { "<0.01%".to_owned() } else { format!("{share:.2}%") }
}

/// Columns side by side: names to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = format!("{:1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}
