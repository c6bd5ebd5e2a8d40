//! Python's string methods that cut a text: `split`, `rsplit`, `partition`, `rpartition`. Next: `text`, the others.

use super::call::Given;
use super::eval::Engine;
use super::lexer::is_space;
use super::text::{text_of, texts};
use super::value::{Text, Value};
use super::{Res, failed};

/// `split(sep, maxsplit)`, or `rsplit` where `from_right`.
pub(super) fn split(engine: &Engine, this: &Text, from_right: bool, given: &Given) -> Res<Value> {
    let [separator, most] = given.bind("split", ["sep", "maxsplit"], 0)?;
    let most = most.map_or(Ok(-1), |most| most.index())?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let separator = match &separator {
        None | Some(Value::None) => {
            let found = this.split(is_space).filter(|word| !word.is_empty());
            engine.spend_pieces(found.take(most).count())?;
            return texts(this, words(this, from_right, most));
        }
        Some(value) => text_of(value)?,
    };
    if separator.is_empty() {
        return Err(failed("empty separator"));
    }
    engine.spend_pieces(this.matches(separator).take(most).count())?;
    let limit = most.saturating_add(1);
    let mut parts: Vec<&str> = match from_right {
        false => this.splitn(limit, separator).collect(),
        true => this.rsplitn(limit, separator).collect(),
    };
    if from_right {
        parts.reverse();
    }
    texts(this, parts)
}

/// `split` at whitespace.
fn words(text: &str, from_right: bool, most: usize) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest =
        if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        if found.len() == most {
            found.push(if from_right { rest.trim_end_matches(is_space) } else { rest });
            break;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut else {
            found.push(rest);
            break;
        };
        let width = rest[at..].chars().next().map_or(1, char::len_utf8);
        let (before, after) = (&rest[..at], &rest[at + width..]);
        if from_right {
            found.push(after);
            rest = before.trim_end_matches(is_space);
        } else {
            found.push(before);
            rest = after.trim_start_matches(is_space);
        }
    }
    if from_right {
        found.reverse();
    }
    found
}

/// `partition(separator)`, or `rpartition` where `from_right`.
pub(super) fn partition(this: &Text, from_right: bool, separator: &str) -> Res<Value> {
    if separator.is_empty() {
        return Err(failed("empty separator"));
    }
    let cut = if from_right { this.rsplit_once(separator) } else { this.split_once(separator) };
    let parts = match (cut, from_right) {
        (Some((before, after)), _) => [before, separator, after],
        (None, false) => [&**this, "", ""],
        (None, true) => ["", "", &**this],
    };
    Value::tuple(parts.into_iter().map(|part| Value::text(part, this.markup)).collect())
}
