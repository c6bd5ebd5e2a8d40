//! `minimind data show`: the first rows as they stand, or (with a tokenizer) as a model reads them, with the tokens
//! that carry loss in colour.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ReadArgs, is_tokens, kind_of, print_json};
use crate::cli::vocabulary;
use crate::data::jsonl::{self, RowError, RowFault};
use crate::data::source::SourceLines;
use crate::data::token_cache::TokenizedRow;
use crate::data::token_file::TokenFile;
use crate::data::tokenizer::StreamDecoder;
use crate::data::{DataFormat, IGNORE_INDEX, ReadOptions, Row, RowCheck, Tokenizer, shapes, source};
use crate::error::{Error, Result};
use crate::plan::environment;

/// Rows that are counted beyond those printed.
const COUNTED: usize = 1000;

/// Which rows are printed, and with what tokenizer.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A data file, a folder of them, a pattern, - for standard input, or a .safetensors file
    file: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    /// Folder with tokenizer.json: shows the text that a model reads, the tokens that carry loss in colour
    /// (in [brackets] where the output is no terminal; ↵ is a line end with loss), and how many they are
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Rows to print (tokens are counted over the first 1000 rows)
    #[arg(long, default_value_t = 3)]
    rows: usize,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

/// Prints the first rows; with a tokenizer, their tokens with the trained ones marked.
///
/// # Errors
/// The file or the tokenizer cannot be read, or one of the printed rows is bad.
pub fn run(args: Args) -> Result<()> {
    let options = args.read.options()?;
    match &args.tokenizer {
        None => plain(&args, &options),
        Some(dir) => masked(&args, &options, RowCheck::new(Some(vocabulary::load(dir)?))?),
    }
}

/// A text with a name (empty, or `chosen` and `rejected`): ids, and which of them carry loss.
struct Part {
    name: &'static str,
    ids: Vec<u32>,
    loss: Vec<bool>,
}

impl Part {
    /// The first token is predicted by nothing, so it carries no loss whatever its label.
    fn new(name: &'static str, ids: Vec<u32>, mut loss: Vec<bool>) -> Self {
        if let Some(first) = loss.first_mut() {
            *first = false;
        }
        Self { name, ids, loss }
    }

    fn loss_tokens(&self) -> usize {
        self.loss.iter().filter(|loss| **loss).count()
    }

    /// Pieces of text, each with or without loss.
    fn pieces(&self, tokenizer: &Tokenizer) -> Result<Vec<(bool, String)>> {
        let mut decoder = StreamDecoder::new(false);
        let mut pieces: Vec<(bool, String)> = Vec::new();
        let mut add = |loss: bool, text: String| match pieces.last_mut() {
            Some((last, piece)) if *last == loss => *piece += &text,
            _ if text.is_empty() => {}
            _ => pieces.push((loss, text)),
        };
        for (id, loss) in self.ids.iter().zip(&self.loss) {
            add(*loss, decoder.push(tokenizer, *id)?);
        }
        add(self.loss.last().is_some_and(|loss| *loss), decoder.finish(tokenizer)?);
        Ok(pieces)
    }

    fn text(&self, tokenizer: &Tokenizer, colour: bool) -> Result<String> {
        let (open, close) = if colour { ("\u{1b}[32m", "\u{1b}[0m") } else { ("[", "]") };
        let mut text = String::new();
        for (loss, piece) in self.pieces(tokenizer)? {
            if !loss {
                text += &piece;
                continue;
            }
            let body = piece.trim_end_matches('\n');
            let ends = piece.len() - body.len();
            text += &format!("{open}{body}{}{close}{}", "↵".repeat(ends), "\n".repeat(ends));
        }
        Ok(text)
    }

    fn json(&self, tokenizer: &Tokenizer) -> Result<Value> {
        let labels: Vec<i64> = self.labels().collect();
        let text = self.pieces(tokenizer)?.into_iter().map(|(_, piece)| piece).collect::<String>();
        Ok(json!({
            "text": text, "tokens": self.ids.len(), "loss_tokens": self.loss_tokens(),
            "input_ids": self.ids, "labels": labels,
        }))
    }

    fn labels(&self) -> impl Iterator<Item = i64> {
        self.ids.iter().zip(&self.loss).map(|(id, loss)| if *loss { i64::from(*id) } else { IGNORE_INDEX })
    }
}

/// The parts of a row as it lies in a cache.
fn parts(row: TokenizedRow, format: DataFormat) -> Vec<Part> {
    let TokenizedRow { mut ids, loss_mask: mut loss, loss_bytes } = row;
    if format != DataFormat::Preference {
        return vec![Part::new("", ids, loss)];
    }
    let rejected = Part::new("rejected", ids.split_off(loss_bytes), loss.split_off(loss_bytes));
    vec![Part::new("chosen", ids, loss), rejected]
}

fn masked(args: &Args, options: &ReadOptions, look: RowCheck) -> Result<()> {
    let Args { file, rows, json, .. } = args;
    let (rows, json) = (*rows, *json);
    let colour = std::io::stdout().is_terminal() && !environment::no_color();
    let mut printer =
        Printer { look, rows, json, colour, shown: Vec::new(), faults: Vec::new(), seen: [0; 4] };
    let counted = if json { rows } else { rows.max(COUNTED) };
    let (mut more, mut shapes) = (false, Shapes::new());
    if is_tokens(file) {
        let tokens = TokenFile::open(file)?;
        more = tokens.rows > counted;
        for row in 0..tokens.rows.min(counted) {
            let parts = if tokens.is_preference() {
                let pair = tokens.pair(row);
                let side = |name, row: Row| stored(name, row.ids, &row.labels);
                vec![side("chosen", pair.chosen), side("rejected", pair.rejected)]
            } else {
                let (ids, labels) = tokens.row(row);
                vec![stored("", ids, &labels)]
            };
            printer.row(row + 1, "tokens", &parts)?;
        }
    } else {
        let mut format = None;
        let shapes = &mut shapes;
        let SourceLines { files, lines } = super::rows(file, options)?;
        for (i, line) in lines.enumerate() {
            if i == counted {
                more = true;
                break;
            }
            let line = line?;
            let encoded = jsonl::parse(&line.bytes).map_err(RowError::Bad).and_then(|row| {
                format = format.or(shapes::format_of(&row, options));
                count_shape(shapes, &row, options);
                let known = format.unwrap_or(DataFormat::Text);
                printer.look.encode(&shapes::convert(row, known, options)?, known)
            });
            let known = format.unwrap_or(DataFormat::Text);
            let (place, number) = source::file_and_number(line.number);
            match encoded {
                Ok(row) => printer.row(number, kind_of(format), &parts(row, known))?,
                Err(error) => printer.fault(error.bad()?, &files[place], number),
            }
        }
    }
    if !json {
        print_shapes(&shapes);
    }
    printer.finish(more)
}

/// A row of a token file.
fn stored(name: &'static str, ids: Vec<i64>, labels: &[i64]) -> Part {
    let ids = ids.into_iter().map(|id| u32::try_from(id).unwrap_or(u32::MAX)).collect();
    Part::new(name, ids, labels.iter().map(|label| *label != IGNORE_INDEX).collect())
}

struct Printer {
    look: RowCheck,
    /// Rows to print; those after them are counted.
    rows: usize,
    json: bool,
    colour: bool,
    shown: Vec<Value>,
    faults: Vec<Error>,
    /// Rows, rows that cannot be used, tokens, tokens with loss.
    seen: [usize; 4],
}

impl Printer {
    fn row(&mut self, line: usize, kind: &str, parts: &[Part]) -> Result<()> {
        let Some(tokenizer) = self.look.tokenizer() else { return Ok(()) };
        let print = self.seen[0] + self.seen[1] < self.rows;
        self.seen[0] += 1;
        if self.json {
            let mut row = json!({"line": line, "kind": kind});
            for part in parts {
                match (part.json(tokenizer)?, part.name) {
                    (Value::Object(part), "") => {
                        row.as_object_mut().into_iter().for_each(|r| r.extend(part.clone()))
                    }
                    (part, name) => row[name] = part,
                }
            }
            self.shown.push(row);
        }
        for part in parts {
            let (tokens, loss) = (part.ids.len(), part.loss_tokens());
            self.seen[2] += tokens;
            self.seen[3] += loss;
            if print && !self.json {
                let name = if part.name.is_empty() { String::new() } else { format!("{}, ", part.name) };
                let text = part.text(tokenizer, self.colour)?;
                println!(
                    "line {line}: {name}{tokens} tokens, {loss} with loss\n{}\n",
                    text.trim_end_matches('\n')
                );
            }
        }
        Ok(())
    }

    fn fault(&mut self, fault: RowFault, file: &Path, line: usize) {
        if self.seen[0] + self.seen[1] < self.rows {
            if !self.json {
                println!("line {line}: cannot be used: {}\n", fault.what);
            }
            self.faults.push(fault.at(file, line));
        }
        self.seen[1] += 1;
    }

    fn finish(self, more: bool) -> Result<()> {
        if self.json {
            print_json(&self.shown)?;
        } else {
            let [rows, bad, tokens, loss] = self.seen;
            let first = if more { format!("the first {}: ", rows + bad) } else { String::new() };
            let bad = if bad > 0 {
                format!("; {bad} cannot be used, `minimind data check` names them")
            } else {
                String::new()
            };
            println!("{first}{rows} rows, {tokens} tokens, {loss} with loss{bad}");
        }
        Error::all(self.faults).map_or(Ok(()), Err)
    }
}

fn plain(args: &Args, options: &ReadOptions) -> Result<()> {
    let Args { file, rows, json, .. } = args;
    let (rows, json) = (*rows, *json);
    let mut shown = Vec::new();
    if is_tokens(file) {
        let tokens = TokenFile::open(file)?;
        for row in 0..tokens.rows.min(rows) {
            let (ids, labels) = tokens.row(row);
            shown.push(json!({"input_ids": ids, "labels": labels}));
        }
    } else {
        let SourceLines { files, lines } = super::rows(file, options)?;
        for line in lines.take(rows) {
            let line = line?;
            let (place, number) = source::file_and_number(line.number);
            shown.push(jsonl::parse(&line.bytes).map_err(|fault| fault.at(&files[place], number))?);
        }
    }
    if json {
        return print_json(&shown);
    }
    let mut shapes = BTreeMap::new();
    for row in shown {
        let format = shapes::format_of(&row, options);
        count_shape(&mut shapes, &row, options);
        let row = format.and_then(|format| shapes::convert(row.clone(), format, options).ok()).unwrap_or(row);
        if let Some(text) = row["text"].as_str().filter(|_| row.get("conversations").is_none()) {
            println!("{text}\n");
            continue;
        }
        let fields = ["conversations", "chosen", "rejected"].map(|field| (field, row[field].as_array()));
        if fields.iter().all(|(_, messages)| messages.is_none()) {
            println!("{row}\n");
        }
        for (field, messages) in fields {
            let Some(messages) = messages else { continue };
            if field != "conversations" {
                println!("[{field}]");
            }
            for message in messages {
                let role = message["role"].as_str().unwrap_or("?");
                println!("{role}: {}", message["content"].as_str().unwrap_or(""));
            }
            println!();
        }
    }
    print_shapes(&shapes);
    Ok(())
}

/// Rows by the name of their shape.
type Shapes = BTreeMap<&'static str, usize>;

fn count_shape(shapes: &mut Shapes, row: &Value, options: &ReadOptions) {
    if let Some(shape) = shapes::shape_of(row, DataFormat::Chat, options) {
        *shapes.entry(shape.name()).or_default() += 1;
    }
}

fn print_shapes(shapes: &Shapes) {
    let counts: Vec<String> = shapes.iter().map(|(name, rows)| format!("{name} {rows}")).collect();
    if !counts.is_empty() {
        println!("shapes: {}", counts.join(", "));
    }
}
