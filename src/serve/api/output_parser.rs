//! Takes the text of an answer apart as it streams: reasoning, content and tool calls.
//!
//! It holds back only what may still become a tag, and the line breaks next to one. `rollout::tools::ToolCallFormat` knows
//! what a call looks like.

use std::sync::Arc;

use serde_json::Value;

use crate::rollout::tools::call_scan::Scan;
use crate::rollout::tools::calls::PYTHON_TAG;
use crate::rollout::tools::{ToolCall, ToolCallFormat};
use crate::serve::engine::stop_strings::partial_match;

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";

/// A tool call that the model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedCall {
    /// The tool's name.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPart {
    /// Text of a think block: `reasoning_content`.
    Reasoning(String),
    /// Text of the answer: `content`.
    Content(String),
    /// A tool call.
    Call(ParsedCall),
}

/// How calls are written: the model's form, and the tools, whose schemas distinguish texts from numbers.
#[derive(Debug, Clone, Default)]
pub struct ToolSyntax {
    /// How the model writes a tool call.
    pub form: Arc<ToolCallFormat>,
    /// The tools that are offered.
    pub tools: Arc<Vec<Value>>,
}

/// Which tool calls a parser looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolCallMode {
    /// None: there are no tools.
    None,
    /// Those that the model writes on its own.
    Auto,
    /// The answer is calls and nothing else, the first of them open already; all of one name where that is known.
    Forced {
        /// The name of every call.
        name: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Thinking,
    Content,
    Call,
}

/// Takes one answer apart.
#[derive(Debug, Clone)]
pub struct OutputParser {
    section: Section,
    mode: ToolCallMode,
    syntax: ToolSyntax,
    held: String,
    /// Nothing came since the last tag: line breaks are not content yet.
    after_tag: bool,
    /// No content came yet: a think block may still open.
    at_start: bool,
    /// All of the answer is here, and it was not cut off.
    complete: bool,
}

impl OutputParser {
    /// A parser at the start of an answer.
    pub fn new(mode: ToolCallMode, syntax: ToolSyntax) -> Self {
        let section = match mode {
            ToolCallMode::Forced { .. } => Section::Call,
            ToolCallMode::None | ToolCallMode::Auto => Section::Content,
        };
        Self { section, mode, syntax, held: String::new(), after_tag: true, at_start: true, complete: false }
    }

    /// For a prompt that opened a think block: the answer starts in it. Not where calls are forced.
    pub fn in_thinking(self) -> Self {
        Self { section: Section::Thinking, ..self }
    }

    /// For an answer that continues a text: its first line breaks belong to it.
    pub fn continuing(self) -> Self {
        Self { after_tag: false, at_start: false, ..self }
    }

    /// Whether ids of calls are short: some families' templates take nine letters and digits alone.
    pub fn has_short_call_ids(&self) -> bool {
        self.syntax.form.short_ids
    }

    /// Takes text; returns the parts that are certain.
    pub fn push(&mut self, text: &str) -> Vec<OutputPart> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// Ends the answer. `cut`: it was cut off, so that a call may break off in its middle.
    pub fn finish(&mut self, cut: bool) -> Vec<OutputPart> {
        let mut parts = Vec::new();
        // What began as JSON and never ended is none; of an answer that was cut off it may be.
        self.complete = !cut;
        while self.advance(&mut parts) {}
        let rest = std::mem::take(&mut self.held);
        match self.section {
            Section::Thinking => parts.extend(non_empty(OutputPart::Reasoning, rest.trim_end_matches('\n'))),
            // The start of the next call's tag.
            Section::Content if matches!(self.mode, ToolCallMode::Forced { .. }) => {}
            Section::Content => {
                let rest = if self.after_tag { rest.trim_start_matches('\n') } else { &rest };
                parts.extend(non_empty(OutputPart::Content, rest));
            }
            Section::Call => match self.last_calls(&rest, cut) {
                Some(calls) => parts.extend(calls.into_iter().map(OutputPart::Call)),
                None if !self.at_start && matches!(self.mode, ToolCallMode::Forced { .. }) => {}
                None => parts.extend(non_empty(
                    OutputPart::Content,
                    &format!("{}{rest}", self.syntax.form.start_marker),
                )),
            },
        }
        parts
    }

    /// The calls that the answer ends in. One that is broken off has what there is of its arguments; an answer that
    /// was not cut off is the model's own, and a call that it does not end stays text.
    fn last_calls(&self, rest: &str, cut: bool) -> Option<Vec<ParsedCall>> {
        let form = &self.syntax.form;
        let in_value = matches!(form.scan(rest, &[]), Scan::InValue(_));
        let of_mark = if in_value { 0 } else { partial_match(rest, &form.end_marker) };
        let inside = &rest[..rest.len() - of_mark];
        let whole = self.read_block(inside);
        let broken = || {
            // Of several the whole ones count.
            let block =
                if form.start_marker.is_empty() { form.bare_call(inside).unwrap_or(inside) } else { inside };
            let read = form.parse_block(block, &self.syntax.tools).into_iter().map_while(valid_call);
            let read: Vec<ParsedCall> = read.collect();
            if !read.is_empty() {
                return Some(read);
            }
            let (name, arguments) = form.parse_truncated(inside, &self.syntax.tools)?;
            Some(vec![ParsedCall { name, arguments }])
        };
        match &self.mode {
            ToolCallMode::Forced { name } => whole
                .or_else(broken)
                // A further call is left out before its name is whole.
                .or_else(|| {
                    Some(vec![ParsedCall {
                        name: name.clone().filter(|_| self.at_start)?,
                        arguments: String::new(),
                    }])
                }),
            _ if cut => whole.or_else(broken),
            _ => whole,
        }
    }

    /// The calls of a block, if it holds nothing else.
    fn read_block(&self, block: &str) -> Option<Vec<ParsedCall>> {
        let form = &self.syntax.form;
        let block = if form.start_marker.is_empty() { form.bare_call(block)? } else { block };
        form.parse_block(block, &self.syntax.tools).into_iter().map(valid_call).collect()
    }

    /// Handles one tag, or returns what no tag can reach; whether there may be more to do.
    fn advance(&mut self, parts: &mut Vec<OutputPart>) -> bool {
        match self.section {
            Section::Thinking => self.parse_thinking(parts),
            Section::Content => self.parse_content(parts),
            Section::Call => self.parse_call(parts),
        }
    }

    fn parse_thinking(&mut self, parts: &mut Vec<OutputPart>) -> bool {
        if self.after_tag {
            self.skip_breaks();
        }
        if let Some(at) = self.held.find(END_THINK) {
            parts.extend(non_empty(OutputPart::Reasoning, self.held[..at].trim_end_matches('\n')));
            self.enter(Section::Content, at + END_THINK.len());
            return true;
        }
        let text = self.take_certain(&[END_THINK], true);
        parts.extend(non_empty(OutputPart::Reasoning, &text));
        false
    }

    fn parse_content(&mut self, parts: &mut Vec<OutputPart>) -> bool {
        if self.after_tag {
            self.skip_breaks();
        }
        if self.at_start && self.held.trim_start().starts_with(THINK) {
            let end = self.held.find(THINK).unwrap_or(0) + THINK.len();
            self.enter(Section::Thinking, end);
            return true;
        }
        let calls = self.mode != ToolCallMode::None;
        let mark = self.syntax.form.start_marker.clone();
        if calls && mark.is_empty() {
            let held = self.held.trim_start();
            if self.at_start && (held.starts_with('{') || held.starts_with(PYTHON_TAG)) {
                self.section = Section::Call;
                return false;
            }
            if self.at_start && PYTHON_TAG.starts_with(held) {
                return false;
            }
        } else if calls && let Some(at) = self.held.find(&mark) {
            parts.extend(non_empty(OutputPart::Content, self.held[..at].trim_end_matches('\n')));
            self.enter(Section::Call, at + mark.len());
            return true;
        }
        if self.at_start && THINK.starts_with(self.held.trim_start()) {
            return false;
        }
        let text = if calls { self.take_certain(&[&mark], true) } else { self.take_certain(&[], false) };
        self.at_start &= text.is_empty();
        parts.extend(non_empty(OutputPart::Content, &text));
        false
    }

    fn parse_call(&mut self, parts: &mut Vec<OutputPart>) -> bool {
        let form = Arc::clone(&self.syntax.form);
        // Without a mark at its end, a call ends with the next one, or with the answer.
        let end = if form.end_marker.is_empty() { &form.start_marker } else { &form.end_marker };
        if end.is_empty() || !self.held.contains(end) {
            return false;
        }
        let marker = if self.complete {
            form.first_marker(&self.held, &[end])
        } else {
            form.scan(&self.held, &[end]).marker()
        };
        let Some((at, _)) = marker else { return false };
        let inside = &self.held[..at];
        match self.read_block(inside) {
            Some(calls) => parts.extend(calls.into_iter().map(OutputPart::Call)),
            // What is no call is shown as it was written.
            None => {
                parts.push(OutputPart::Content(format!("{}{inside}{}", form.start_marker, form.end_marker)))
            }
        }
        self.at_start = false;
        let taken = if form.end_marker.is_empty() { at } else { at + form.end_marker.len() };
        self.enter(Section::Content, taken);
        true
    }

    fn enter(&mut self, section: Section, taken: usize) {
        self.held.drain(..taken);
        self.section = section;
        self.after_tag = true;
    }

    fn skip_breaks(&mut self) {
        let breaks = self.held.len() - self.held.trim_start_matches('\n').len();
        self.held.drain(..breaks);
    }

    /// Takes out what cannot be the start of a mark, nor (`breaks`) line breaks before one.
    fn take_certain(&mut self, marks: &[&str], breaks: bool) -> String {
        let keep = marks.iter().map(|mark| partial_match(&self.held, mark)).max().unwrap_or(0);
        let mut cut = self.held.len() - keep;
        if breaks {
            cut = self.held[..cut].trim_end_matches('\n').len();
        }
        let rest = self.held.split_off(cut);
        let text = std::mem::replace(&mut self.held, rest);
        self.after_tag &= text.is_empty();
        text
    }
}

/// A call that could be read.
fn valid_call(call: ToolCall) -> Option<ParsedCall> {
    match call.fault {
        None => Some(ParsedCall { name: call.name, arguments: call.arguments.to_string() }),
        Some(_) => None,
    }
}

fn non_empty(kind: fn(String) -> OutputPart, text: &str) -> Option<OutputPart> {
    (!text.is_empty()).then(|| kind(text.to_owned()))
}

#[cfg(test)]
mod tests;
