//! Text as it streams: stop strings are found across tokens, thinking and tool calls are told from content.
//!
//! Both parts hold back only what may still become a mark: `StopFinder` the start of a stop string,
//! `Splitter` the start of a tag and the line breaks beside it.

use std::sync::Arc;

use serde_json::Value;

use crate::rollout::tools::calls::PYTHON_TAG;
use crate::rollout::tools::{CallForm, ToolCall};

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";

/// Bytes at the end of `text` that may be the start of `mark`.
fn partial(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&n| text.as_bytes()[text.len() - n..] == mark.as_bytes()[..n] && mark.is_char_boundary(n))
        .unwrap_or(0)
}

/// Looks for stop strings; what it gives out never holds one.
#[derive(Debug, Clone)]
pub struct StopFinder {
    stops: Vec<String>,
    held: String,
}

impl StopFinder {
    /// Looks for `stops`; empty ones are left out.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    /// Takes text; gives what is safe to show, and whether a stop string ended it.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        // A search looks at the whole stop string first, which may be megabytes long.
        let fit = self.stops.iter().filter(|stop| stop.len() <= self.held.len());
        if let Some(at) = fit.filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| partial(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back when the text ended without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// A call of a tool that the model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which tool.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Thinking.
    Reasoning(String),
    /// What is said.
    Content(String),
    /// A tool call.
    Call(Call),
}

/// How calls are read: the model's form, and the tools, which tell what is text and what a number.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    /// The form.
    pub form: Arc<CallForm>,
    /// The tools that are offered.
    pub tools: Arc<Vec<Value>>,
}

/// Which calls a splitter looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// None: there are no tools.
    NoCalls,
    /// Those that the model writes.
    Calls,
    /// The answer is calls and nothing else, the first of them open already; all of one name where that is known.
    Demanded {
        /// The name.
        name: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Thinking,
    Content,
    Call,
}

/// Splits an answer into its pieces.
#[derive(Debug, Clone)]
pub struct Splitter {
    place: Place,
    reading: Reading,
    calls: Calls,
    held: String,
    /// Nothing but tags was said since the last one: line breaks are not content yet.
    fresh: bool,
    /// No content was given out yet: a think block may still open.
    start: bool,
}

impl Splitter {
    /// A splitter at the start of an answer; `thinking`: the prompt opened a think block.
    pub fn new(thinking: bool, reading: Reading, calls: Calls) -> Self {
        let place = match (&reading, thinking) {
            (Reading::Demanded { .. }, _) => Place::Call,
            (_, true) => Place::Thinking,
            (_, false) => Place::Content,
        };
        Self { place, reading, calls, held: String::new(), fresh: true, start: true }
    }

    /// The same for an answer that goes on with a text: its first line breaks belong to it.
    pub fn going_on(self) -> Self {
        Self { fresh: false, start: false, ..self }
    }

    /// Whether the model is thinking.
    pub fn is_thinking(&self) -> bool {
        self.place == Place::Thinking
    }

    /// Takes text; gives the pieces that are certain.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.advance(&mut pieces) {}
        pieces
    }

    /// Ends the answer. `cut`: it was cut off, so that a call may break off in its middle.
    pub fn finish(&mut self, cut: bool) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.held);
        let mut pieces = Vec::new();
        match self.place {
            Place::Thinking => pieces.extend(piece(Piece::Reasoning, rest.trim_end_matches('\n'))),
            // The start of the next call's tag.
            Place::Content if matches!(self.reading, Reading::Demanded { .. }) => {}
            Place::Content => {
                let rest = if self.fresh { rest.trim_start_matches('\n') } else { &rest };
                pieces.extend(piece(Piece::Content, rest));
            }
            Place::Call => match self.last_calls(&rest, cut) {
                Some(calls) => pieces.extend(calls.into_iter().map(Piece::Call)),
                None if !self.start && matches!(self.reading, Reading::Demanded { .. }) => {}
                None => pieces.extend(piece(Piece::Content, &format!("{}{rest}", self.calls.form.mark))),
            },
        }
        pieces
    }

    /// The calls that the answer ends in. One that is broken off has what there is of its arguments; an answer that
    /// was not cut off is the model's own, and a call that it does not end stays text.
    fn last_calls(&self, rest: &str, cut: bool) -> Option<Vec<Call>> {
        let form = &self.calls.form;
        let inside = &rest[..rest.len() - partial(rest, &form.end)];
        let whole = self.read(inside);
        let broken = || {
            // Of several the whole ones count.
            let block = if form.mark.is_empty() { form.whole_text(inside).unwrap_or(inside) } else { inside };
            let read = form.read(block, &self.calls.tools).into_iter().map_while(sound);
            let read: Vec<Call> = read.collect();
            if !read.is_empty() {
                return Some(read);
            }
            let (name, arguments) = form.read_cut(inside, &self.calls.tools)?;
            Some(vec![Call { name, arguments }])
        };
        match &self.reading {
            Reading::Demanded { name } => whole
                .or_else(broken)
                // Of a further one nothing was said before its name is whole.
                .or_else(|| {
                    Some(vec![Call { name: name.clone().filter(|_| self.start)?, arguments: String::new() }])
                }),
            _ if cut => whole.or_else(broken),
            _ => whole,
        }
    }

    /// The calls of a block, if it holds nothing else.
    fn read(&self, block: &str) -> Option<Vec<Call>> {
        let form = &self.calls.form;
        let block = if form.mark.is_empty() { form.whole_text(block)? } else { block };
        form.read(block, &self.calls.tools).into_iter().map(sound).collect()
    }

    /// Handles one mark, or gives out what no mark can reach; whether there may be more to do.
    fn advance(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.place {
            Place::Thinking => self.think(pieces),
            Place::Content => self.content(pieces),
            Place::Call => self.call(pieces),
        }
    }

    fn think(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if self.fresh {
            self.skip_breaks();
        }
        if let Some(at) = self.held.find(END_THINK) {
            pieces.extend(piece(Piece::Reasoning, self.held[..at].trim_end_matches('\n')));
            self.go(Place::Content, at + END_THINK.len());
            return true;
        }
        let said = self.safe(&[END_THINK], true);
        pieces.extend(piece(Piece::Reasoning, &said));
        false
    }

    fn content(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if self.fresh {
            self.skip_breaks();
        }
        if self.start && self.held.trim_start().starts_with(THINK) {
            let end = self.held.find(THINK).unwrap_or(0) + THINK.len();
            self.go(Place::Thinking, end);
            return true;
        }
        let calls = self.reading != Reading::NoCalls;
        let mark = self.calls.form.mark.clone();
        if calls && mark.is_empty() {
            let held = self.held.trim_start();
            if self.start && (held.starts_with('{') || held.starts_with(PYTHON_TAG)) {
                self.place = Place::Call;
                return false;
            }
            if self.start && PYTHON_TAG.starts_with(held) {
                return false;
            }
        } else if calls && let Some(at) = self.held.find(&mark) {
            pieces.extend(piece(Piece::Content, self.held[..at].trim_end_matches('\n')));
            self.go(Place::Call, at + mark.len());
            return true;
        }
        if self.start && THINK.starts_with(self.held.trim_start()) {
            return false;
        }
        let said = if calls { self.safe(&[&mark], true) } else { self.safe(&[], false) };
        self.start &= said.is_empty();
        pieces.extend(piece(Piece::Content, &said));
        false
    }

    fn call(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let form = Arc::clone(&self.calls.form);
        // Without a mark at its end, a call ends with the next one, or with the answer.
        let end = if form.end.is_empty() { &form.mark } else { &form.end };
        let Some(at) = self.held.find(end).filter(|_| !end.is_empty()) else { return false };
        let inside = &self.held[..at];
        match self.read(inside) {
            Some(calls) => pieces.extend(calls.into_iter().map(Piece::Call)),
            // What is no call is shown as it was written.
            None => pieces.push(Piece::Content(format!("{}{inside}{}", form.mark, form.end))),
        }
        self.start = false;
        let taken = if form.end.is_empty() { at } else { at + form.end.len() };
        self.go(Place::Content, taken);
        true
    }

    fn go(&mut self, place: Place, taken: usize) {
        self.held.drain(..taken);
        self.place = place;
        self.fresh = true;
    }

    fn skip_breaks(&mut self) {
        let breaks = self.held.len() - self.held.trim_start_matches('\n').len();
        self.held.drain(..breaks);
    }

    /// Takes out what cannot be the start of a mark, nor (`breaks`) line breaks before one.
    fn safe(&mut self, marks: &[&str], breaks: bool) -> String {
        let keep = marks.iter().map(|mark| partial(&self.held, mark)).max().unwrap_or(0);
        let mut cut = self.held.len() - keep;
        if breaks {
            cut = self.held[..cut].trim_end_matches('\n').len();
        }
        let rest = self.held.split_off(cut);
        let said = std::mem::replace(&mut self.held, rest);
        self.fresh &= said.is_empty();
        said
    }
}

/// A call that could be read.
fn sound(call: ToolCall) -> Option<Call> {
    match call.fault {
        None => Some(Call { name: call.name, arguments: call.arguments.to_string() }),
        Some(_) => None,
    }
}

fn piece(kind: fn(String) -> Piece, text: &str) -> Option<Piece> {
    (!text.is_empty()).then(|| kind(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(list: &[&str]) -> StopFinder {
        StopFinder::new(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_stop_string_over_tokens_is_found_and_never_shown() {
        let mut finder = stops(&["###", "END"]);
        assert_eq!(finder.push("a#"), ("a".to_owned(), false));
        assert_eq!(finder.push("#b#"), ("##b".to_owned(), false));
        assert_eq!(finder.push("##x"), (String::new(), true));
        let mut finder = stops(&["세계"]);
        assert_eq!(finder.push("안녕 세"), ("안녕 ".to_owned(), false));
        assert_eq!(finder.push("상"), ("세상".to_owned(), false));
        assert_eq!(finder.finish(), "");
    }

    /// Pieces of one kind joined, whatever the cuts.
    fn split(text: &str, cuts: &[usize], thinking: bool, tools: bool) -> (String, String, Vec<Call>) {
        let reading = if tools { Reading::Calls } else { Reading::NoCalls };
        let mut splitter = Splitter::new(thinking, reading, Calls::default());
        let chars: Vec<char> = text.chars().collect();
        let mut pieces = Vec::new();
        let mut from = 0;
        for &cut in cuts {
            let to = (from + cut).min(chars.len());
            pieces.extend(splitter.push(&chars[from..to].iter().collect::<String>()));
            from = to;
        }
        pieces.extend(splitter.push(&chars[from..].iter().collect::<String>()));
        pieces.extend(splitter.finish(false));
        let (mut thought, mut said, mut calls) = (String::new(), String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => thought.push_str(&text),
                Piece::Content(text) => said.push_str(&text),
                Piece::Call(call) => calls.push(call),
            }
        }
        (thought, said, calls)
    }

    #[test]
    fn thinking_content_and_calls_are_told_apart() {
        let (thought, said, calls) = split(
            "I add.\n</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"b\": 1, \"a\": 2}}\n</tool_call>\n<tool_call>{\"name\":\"x\"}</tool_call>",
            &[],
            true,
            true,
        );
        assert_eq!((thought.as_str(), said.as_str()), ("I add.", "Let me see."));
        let call = |name: &str, arguments: &str| Call { name: name.into(), arguments: arguments.into() };
        assert_eq!(calls, [call("add", "{\"b\":1,\"a\":2}"), call("x", "{}")]);
        assert_eq!(split("<think>\nhm\n</think>\nyes", &[3, 4], false, false).0, "hm");
        assert_eq!(split("a <think> b", &[], false, false).1, "a <think> b");
        // A call that is none, one that is cut off, and one where no tool was offered stay text.
        assert_eq!(split("<tool_call>no</tool_call>", &[], false, true).1, "<tool_call>no</tool_call>");
        assert_eq!(split("<tool_call>{\"na", &[], false, true).1, "<tool_call>{\"na");
        assert_eq!(split("<tool_call>{\"name\":\"x\"}</tool_call>", &[], false, false).2, []);
        assert_eq!(split("a < b\n", &[2], false, true).1, "a < b\n");
    }

    #[test]
    fn a_call_that_is_cut_off_keeps_its_name_and_what_there_is_of_its_arguments() {
        let end = |reading: Reading, cut: bool, text: &str| {
            let mut splitter = Splitter::new(false, reading, Calls::default());
            [splitter.push(text), splitter.finish(cut)].concat()
        };
        let call = |name: &str, arguments: &str| {
            Piece::Call(Call { name: name.into(), arguments: arguments.into() })
        };
        let content = |text: &str| Piece::Content(text.to_owned());
        let demanded = |name: Option<&str>| Reading::Demanded { name: name.map(str::to_owned) };
        for (inside, arguments) in [
            (r#"{"name": "add", "arguments": {"a": 1, "b"#, r#"{"a": 1, "b"#),
            (r#"{"name": "add", "arg"#, ""),
            (r#"{"name": "add""#, ""),
            (r#"{"name": "add", "arguments": {"a": 1}"#, r#"{"a": 1}"#),
            ("{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_", r#"{"a":1}"#),
        ] {
            assert_eq!(end(demanded(None), true, inside), [call("add", arguments)], "{inside}");
            let written = format!("I ask.\n<tool_call>\n{inside}");
            let said = [content("I ask."), call("add", arguments)];
            assert_eq!(end(Reading::Calls, true, &written), said, "{written}");
        }
        // Before its name is whole it stays text, unless there is one name alone.
        let early = "{\"name\": \"ad";
        assert_eq!(end(demanded(Some("add")), true, early), [call("add", "")]);
        assert_eq!(end(demanded(None), true, early), [content("<tool_call>{\"name\": \"ad")]);
        let written = format!("<tool_call>{early}");
        assert_eq!(end(Reading::Calls, true, &written), [content(&written)]);
        // So does one that the model itself leaves open.
        let open = r#"<tool_call>{"name": "add", "arguments": {"a": 1"#;
        assert_eq!(end(Reading::Calls, false, open), [content(open)]);
        // The start of a further call's tag is no content of a demanded answer.
        for two in [
            "{\"name\": \"add\"}\n</tool_call>\n<tool_call>",
            "{\"name\": \"add\"}\n</tool_call>\n<tool_call>\n{\"na",
        ] {
            assert_eq!(end(demanded(Some("add")), true, two), [call("add", "{}")], "{two}");
            assert_eq!(end(demanded(None), true, two), [call("add", "{}")], "{two}");
        }
        let two = "{\"name\": \"add\"}\n</tool_call>\n<tool_";
        assert_eq!(end(demanded(None), true, two), [call("add", "{}")]);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            text in "(<think>|</think>|<tool_call>|</tool_call>|[a<\n{}é])*",
            cuts in prop::collection::vec(1usize..5, 0..20),
            thinking in any::<bool>(),
            tools in any::<bool>(),
        ) {
            prop_assert_eq!(split(&text, &cuts, thinking, tools), split(&text, &[], thinking, tools));
        }

        #[test]
        fn what_is_shown_holds_no_stop(text in "[ab#é]{0,40}", cuts in prop::collection::vec(1usize..4, 0..20)) {
            let mut finder = stops(&["#a", "b##", "é"]);
            let chars: Vec<char> = text.chars().collect();
            let (mut shown, mut from, mut ended) = (String::new(), 0, false);
            for cut in cuts.into_iter().chain([chars.len()]) {
                let to = (from + cut).min(chars.len());
                let (part, stop) = finder.push(&chars[from..to].iter().collect::<String>());
                shown.push_str(&part);
                ended = stop;
                if ended { break }
                from = to;
            }
            if !ended { shown.push_str(&finder.finish()); }
            for stop in ["#a", "b##", "é"] { prop_assert!(!shown.contains(stop)); }
            prop_assert!(text.starts_with(&shown) && (ended || shown == text));
        }
    }
}
