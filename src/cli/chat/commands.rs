//! Lines that begin with `/`.

use std::path::Path;

use serde_json::{Value, json};

use super::{Session, usage};
use crate::atomic;
use crate::error::{Error, Place, Result};

/// What can be typed.
pub(super) const HELP: &str = "/system TEXT sets the system message, /reset forgets the conversation, /retry answers again, \
     /params shows or sets (temperature=0.7), /save FILE and /load FILE keep it as a line of training data, /quit leaves; \
     Ctrl-C stops an answer";

/// A parsed line.
#[derive(Debug, PartialEq)]
pub(super) enum Command<'a> {
    Nothing,
    Say(&'a str),
    System(&'a str),
    Reset,
    Retry,
    Params(&'a str),
    Save(&'a str),
    Load(&'a str),
    Help,
    Quit,
    Unknown(&'a str),
}

impl<'a> Command<'a> {
    /// Parses a line; what does not begin with `/` is said to the model.
    pub(super) fn read(line: &'a str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Command::Nothing;
        }
        if !line.starts_with('/') {
            return Command::Say(line);
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "/system" => Command::System(rest),
            "/reset" => Command::Reset,
            "/retry" => Command::Retry,
            "/params" => Command::Params(rest),
            "/save" => Command::Save(rest),
            "/load" => Command::Load(rest),
            "/help" => Command::Help,
            "/quit" | "/exit" => Command::Quit,
            _ => Command::Unknown(word),
        }
    }
}

/// Prints the error of a `/` command; the conversation continues, a script's too.
pub(super) fn obey(done: Result<()>) {
    if let Err(error) = done {
        eprintln!("{error}");
    }
}

/// `/params`: prints the settings, or sets those given as NAME=VALUE.
///
/// # Errors
/// A name is unknown or a value out of range; then no setting changes.
pub(super) fn params(session: &mut Session, text: &str) -> Result<()> {
    // All or nothing: a fault in one changes none.
    let mut config = session.config.clone();
    let mut thinking = session.thinking;
    for pair in text.split_whitespace() {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(usage(
                format!("`{pair}` is no setting"),
                "write NAME=VALUE, as in /params temperature=0.7",
            ));
        };
        let wrong = |range: &str| usage(format!("{name} is {value}"), &format!("give {range}"));
        let number = |low: f64, high: f64, range: &str| {
            value.parse().ok().filter(|n| (low..=high).contains(n)).ok_or_else(|| wrong(range))
        };
        let whole = |range: &str| value.parse().map_err(|_| wrong(range));
        let sampling = &mut config.sampling;
        match name {
            "temperature" => sampling.temperature = number(0.0, 100.0, "a number from 0 to 100")?,
            "top_p" => sampling.top_p = number(1e-9, 1.0, "a number above 0, up to 1")?,
            "repetition_penalty" => sampling.repetition_penalty = number(1e-3, 1e3, "a number above 0")?,
            "top_k" => sampling.top_k = whole("a whole number, 0 for all")? as usize,
            "seed" => sampling.seed = whole("a whole number")?,
            "max_new_tokens" => config.max_new_tokens = whole("a whole number")?.max(1) as usize,
            "thinking" => thinking = value.parse().map_err(|_| wrong("true or false"))?,
            _ => {
                return Err(usage(
                    format!("there is no setting `{name}`"),
                    "temperature, top_p, top_k, repetition_penalty, seed, max_new_tokens, thinking",
                ));
            }
        }
    }
    session.config = config;
    session.thinking = thinking;
    let s = &session.config.sampling;
    eprintln!(
        "[temperature={} top_p={} top_k={} repetition_penalty={} seed={} max_new_tokens={} thinking={thinking}]",
        s.temperature, s.top_p, s.top_k, s.repetition_penalty, s.seed, session.config.max_new_tokens
    );
    Ok(())
}

fn named(path: &str) -> Result<&Path> {
    if path.is_empty() {
        return Err(usage("no file is named", "write /save FILE or /load FILE"));
    }
    Ok(Path::new(path))
}

/// `/save FILE`: writes the conversation as one line of `sft` data.
///
/// # Errors
/// No file is named, or it cannot be written.
pub(super) fn save(session: &Session, path: &str) -> Result<()> {
    let path = named(path)?;
    let mut messages = Vec::new();
    messages.extend(session.system.as_ref().map(|text| json!({"role": "system", "content": text})));
    messages.extend(session.turns.iter().cloned());
    atomic::write_bytes(path, format!("{}\n", json!({"conversations": messages})).as_bytes())?;
    eprintln!("[{} messages in {}]", messages.len(), path.display());
    Ok(())
}

/// `/load FILE`: replaces the conversation by that of the file's first line.
///
/// # Errors
/// No file is named, it cannot be read, or its first line is no conversation; then the conversation stays.
pub(super) fn load(session: &mut Session, path: &str) -> Result<()> {
    let path = named(path)?;
    let text = crate::files::read_to_string(path).map_err(|e| Error::io("read the conversation", path, e))?;
    let row: Value = serde_json::from_str(text.lines().next().unwrap_or_default())
        .map_err(|e| Error::input("the first line is not JSON").at(Place::line(path, 1)).because(e))?;
    let sound = |m: &Value| m["role"].is_string() && m["content"].is_string();
    let Some(list) = row["conversations"].as_array().filter(|list| list.iter().all(sound)) else {
        return Err(Error::input("the first line is no conversation")
            .at(Place::line(path, 1))
            .hint("it needs {\"conversations\": [{\"role\": ..., \"content\": ...}]}, as /save writes it"));
    };
    let leads = list.first().is_some_and(|m| m["role"] == "system");
    session.system = leads.then(|| list[0]["content"].as_str().unwrap_or_default().to_owned());
    session.turns = list[usize::from(leads)..].to_vec();
    eprintln!("[{} messages from {}]", list.len(), path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(Command::read("  hello "), Command::Say("hello"));
        assert_eq!(Command::read("/system Be  brief. "), Command::System("Be  brief."));
        assert_eq!(Command::read("/systematic"), Command::Unknown("/systematic"));
        assert_eq!(Command::read("/exit"), Command::Quit);
        assert_eq!(Command::read(" "), Command::Nothing);
    }
}
