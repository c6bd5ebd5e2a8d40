//! Which part of a rendered conversation each turn of the assistant is, for any template.
//!
//! A turn is what the conversation up to and with it has more than the prompt before it: from where the model begins to
//! write, to the end mark. Where a template writes the past otherwise (old thoughts go, tools stand before the last
//! question alone), the beginning of a text is not the text of the beginning; then other words in the turn's place show
//! where it stands, and the marks that a probe taught show how far it reaches. Next: [`super::mask`].

use std::ops::Range;

use serde_json::{Value, json};

use super::shown::{OTHER, Render};
use crate::data::jsonl::RowFault;
use crate::error::{Error, Result};

/// What thoughts begin with; a template that opens them in the prompt also writes them, and a model learns them.
const THOUGHTS: [&str; 4] = ["<think>", "<|think|>", "<thinking>", "<seed:think>"];

/// Turns that no template says by itself.
pub(super) const ASKED: [&str; 2] = ["zorvex one?", "zorvex three?"];
pub(super) const SAID: [&str; 2] = ["quibnal two.", "quibnal four."];

/// What a template writes around what the assistant says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// Between the end of a question and the answer: the question's end mark, and the answer's header.
    pub(super) prompt: String,
    /// Of that, what opens the answer: `<|im_start|>assistant\n`.
    pub(super) header: String,
    /// Thoughts that a prompt opens, or opens and closes.
    think: String,
    /// What stands between an opened answer and its words, often a blank.
    lead: String,
    /// The end mark with its line end: `<|im_end|>\n`.
    pub(super) end: String,
    /// The end mark of an answer that another turn follows, where the last answer has another one or none.
    pub(super) inner_end: String,
    /// What follows the last turn of a conversation.
    pub(super) trailing: String,
    /// Whether that is the opening of another answer.
    opens: bool,
}

/// The conversation that a template is asked about: two questions with their answers, or one.
pub(super) fn probe(turns: usize) -> Vec<Value> {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    ASKED.iter().zip(SAID).take(turns).flat_map(|(q, a)| [turn("user", q), turn("assistant", a)]).collect()
}

/// The text and how many questions it holds.
pub(super) fn probed(render: &Render) -> Result<(String, usize)> {
    let whole = render(&probe(2), None, false).map(|text| (text, 2));
    whole.or_else(|fault| render(&probe(1), None, false).map(|text| (text, 1)).map_err(|_| fault))
}

impl Frame {
    /// Learns it from a conversation of plain words; `tokens` are the tokenizer's added tokens.
    ///
    /// # Errors
    /// The template refuses such a conversation, or does not write the answers.
    pub(super) fn probe(render: &Render, tokens: &[String]) -> Result<Self> {
        let (text, turns) = probed(render)?;
        let missing = || Error::input("the template does not write what the assistant says");
        let after = |words: &str, from: usize| text[from..].find(words).map(|at| from + at + words.len());
        let said = after(SAID[0], 0).ok_or_else(missing)?;
        let begin = said - SAID[0].len();
        let asked = text[..begin].rfind(ASKED[0]).map(|at| at + ASKED[0].len());
        let asked =
            asked.ok_or_else(|| Error::input("the template does not write a question before its answer"))?;
        let between = &text[asked..begin];
        let (mut next, mut last) = (None, said);
        if turns == 2 {
            let again = after(ASKED[1], said).ok_or_else(missing)?;
            next = Some(&text[said..again - ASKED[1].len()]);
            last = after(SAID[1], again).ok_or_else(missing)?;
        }
        let tail = |prompt: bool| {
            let text = render(&probe(1)[..1], None, prompt).ok()?;
            text.rfind(ASKED[0]).map(|at| text[at + ASKED[0].len()..].to_owned())
        };
        let (closed, opened) = (tail(false), tail(true));

        let mut frame = Self::default();
        let at_end = closed.as_deref().unwrap_or_default();
        let mut header = None;
        let prompt = match opened.as_deref().or(closed.as_deref()) {
            None => between,
            Some(opened) if between.starts_with(opened) || opened.starts_with(between) => opened,
            Some(opened) => {
                // Other blanks around the same header.
                let from = whole_marks(common_start(at_end, opened), tokens).len();
                let words = opened[from..].trim();
                match between.find(words).filter(|_| !words.is_empty()) {
                    None => whole_marks(common_start(opened, between), tokens),
                    Some(at) => {
                        let end = at + words.len();
                        let same = common_start(&between[end..], &opened[opened.trim_end().len()..]).len();
                        header = Some(between[at..end + same].to_owned());
                        &between[..end + same]
                    }
                }
            }
        };
        let cut = THOUGHTS.iter().filter_map(|open| prompt.find(open)).min().unwrap_or(prompt.len());
        (frame.prompt, frame.think) = (prompt[..cut].to_owned(), prompt[cut..].to_owned());
        if !between.starts_with(&frame.prompt) {
            frame.prompt = between.to_owned();
        }
        let lead = between.strip_prefix(prompt).or_else(|| between.strip_prefix(&frame.prompt));
        frame.lead =
            lead.filter(|lead| !THOUGHTS.iter().any(|open| lead.contains(open))).unwrap_or("").to_owned();
        let header = header.map(|header: String| {
            let cut = THOUGHTS.iter().filter_map(|open| header.find(open)).min();
            header[..cut.unwrap_or(header.len())].to_owned()
        });
        frame.header = match (header, frame.prompt.strip_prefix(at_end)) {
            (Some(header), _) => header,
            (None, Some(header)) => header.to_owned(),
            (None, None) => {
                frame.prompt[whole_marks(common_start(at_end, &frame.prompt), tokens).len()..].to_owned()
            }
        };

        let rest = &text[last..];
        let end = match next {
            Some(next) if !next.starts_with(rest) => first_mark(common_start(next, rest), tokens),
            _ => rest,
        };
        (frame.end, frame.trailing) = (end.to_owned(), rest[end.len()..].to_owned());
        if let Some(next) = next.filter(|_| frame.end.trim().is_empty()) {
            // What stands before the next question, without what opens every question.
            let opening = text[..asked - ASKED[0].len()].chars().rev().zip(next.chars().rev());
            let opening: usize = opening.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
            let before = &next[frame.end.len()..(next.len() - opening).max(frame.end.len())];
            // The mark that closes a question is no part of the next one's opening either.
            let closing = first_mark(&next[frame.end.len()..], tokens);
            let same = !closing.trim().is_empty() && closing == first_mark(between, tokens);
            let before = if same { closing } else { before };
            if mark(before, tokens).is_some_and(|at| before[..at.start].trim().is_empty()) {
                first_mark(before, tokens).clone_into(&mut frame.inner_end);
            }
        }
        frame.opens = !frame.trailing.is_empty() && prompt.ends_with(&frame.trailing);
        Ok(frame)
    }

    /// Each turn of the assistant in `text`, the rendering of `messages`.
    pub(super) fn turns(
        &self,
        render: &Render,
        (field, messages): (&str, &[Value]),
        tools: Option<&Value>,
        text: &str,
    ) -> Result<Vec<Range<usize>>, RowFault> {
        let mut found: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m["role"] == "assistant") {
            let whole = Turn { render, messages, tools, text, i };
            let from = found.last().map_or(0, |turn| turn.end);
            let unknown = || {
                let role = message["role"].as_str().unwrap_or_default();
                RowFault::new(
                    format!(
                        "which tokens are `{field}[{i}]`, a turn of `{role}`, cannot be told from the chat template"
                    ),
                    "mark what the assistant says with {% generation %} ... {% endgeneration %} in the template, or set \
                     data.on_bad_row: skip",
                )
            };
            let start = self.start(&whole, from).ok_or_else(unknown)?;
            let end = self.end(&whole, start).ok_or_else(unknown)?;
            found.push(start..end);
        }
        Ok(found)
    }

    /// Where the model begins to write: where the prompt ends, before its thoughts.
    fn start(&self, turn: &Turn, from: usize) -> Option<usize> {
        if let Some(prompt) = turn.up_to(turn.i, true) {
            let without = prompt.strip_suffix(self.think.as_str()).unwrap_or(&prompt);
            if let Some(rest) = turn.text.strip_prefix(without).filter(|_| without.len() >= from) {
                // Some templates open no answer where there is no turn before it.
                let late = !without.ends_with(&self.header) && rest.starts_with(&self.header);
                return Some(without.len() + if late { self.header.len() } else { 0 });
            }
        }
        let words = turn.place()?.start;
        let before = turn.text.get(from..words)?;
        match before.rfind(&self.header).filter(|_| !self.header.is_empty()) {
            Some(at) => Some(from + at + self.header.len()),
            None => Some(from + before.strip_suffix(self.lead.as_str()).unwrap_or(before).len()),
        }
    }

    /// Where the turn ends: with its end mark.
    fn end(&self, turn: &Turn, start: usize) -> Option<usize> {
        let text = turn.text;
        let mut end = if turn.i + 1 == turn.messages.len() { Some(text.len()) } else { None };
        if let (None, Some(so_far)) = (end, turn.up_to(turn.i + 1, false)) {
            let closed = so_far.strip_suffix(self.trailing.as_str()).unwrap_or(&so_far);
            let fits = [so_far.as_str(), closed].into_iter().find(|so_far| text.starts_with(so_far));
            end = fits.map(str::len).filter(|end| *end >= start);
        }
        let mut end = match end {
            Some(end) => end,
            None => {
                let words = turn.place()?.end.max(start);
                words + text[words..].find(&self.end).map_or(0, |at| at + self.end.len())
            }
        };
        if self.opens && text[start..end].ends_with(&self.trailing) {
            end -= self.trailing.len();
        }
        if text[end..].starts_with(&self.inner_end) {
            end += self.inner_end.len();
        }
        // A blank before the next turn's first word is that word's.
        let follows = text[end..].chars().next().is_some_and(|c| !c.is_whitespace());
        Some(if follows { start + text[start..end].trim_end_matches(' ').len() } else { end })
    }
}

/// One message of a rendered conversation.
struct Turn<'a> {
    render: &'a Render<'a>,
    messages: &'a [Value],
    tools: Option<&'a Value>,
    text: &'a str,
    i: usize,
}

impl Turn<'_> {
    fn up_to(&self, count: usize, prompt: bool) -> Option<String> {
        (self.render)(&self.messages[..count], self.tools, prompt).ok()
    }

    /// Where its words stand: what differs with other words in their place.
    fn place(&self) -> Option<Range<usize>> {
        let mut others = self.messages.to_vec();
        others[self.i] = json!({"role": others[self.i]["role"], "content": OTHER});
        let mut other = (self.render)(&others, self.tools, false).ok();
        if other.as_deref().is_none_or(|other| other == self.text) {
            // Another form of message is refused: other words in its own form.
            others[self.i] = self.messages[self.i].clone();
            for key in ["content", "reasoning_content", "tool_calls"] {
                others[self.i].get_mut(key).map(rename);
            }
            other = (self.render)(&others, self.tools, false).ok();
        }
        let other = other.filter(|other| other != self.text)?;
        let start = common_start(self.text, &other).len();
        let same = |(a, b): &(char, char)| a == b;
        let after = self.text[start..].chars().rev().zip(other[start..].chars().rev()).take_while(same);
        let after: usize = after.map(|(c, _)| c.len_utf8()).sum();
        Some(start..self.text.len() - after)
    }
}

/// Other words in each text, ids and types of calls left as they are.
fn rename(value: &mut Value) {
    match value {
        Value::String(text) => OTHER.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(rename),
        Value::Object(map) => {
            map.iter_mut()
                .filter(|(key, _)| *key != "id" && *key != "type")
                .for_each(|(_, value)| rename(value));
        }
        _ => {}
    }
}

fn common_start<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map(|((at, _), _)| at);
    &a[..same.unwrap_or(a.len().min(b.len()))]
}

/// The first mark in `text`: an added token, or what is written like one (`<...>`).
fn mark(text: &str, tokens: &[String]) -> Option<Range<usize>> {
    let written = text.match_indices('<').find_map(|(at, _)| {
        let inside = text[at + 1..].split(['<', '>']).next()?;
        let closed = text[at + 1 + inside.len()..].starts_with('>');
        let plain = !inside.is_empty() && !inside.contains(char::is_whitespace);
        (closed && plain).then(|| at..at + inside.len() + 2)
    });
    let added = tokens.iter().filter_map(|token| text.find(token.as_str()).map(|at| at..at + token.len()));
    added.chain(written).min_by_key(|at| (at.start, usize::MAX - at.end))
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// The text up to the end of its first mark and the blanks behind it; without a mark, its leading blanks.
fn first_mark<'a>(text: &'a str, tokens: &[String]) -> &'a str {
    let end = mark(text, tokens).map_or(0, |at| at.end);
    &text[..end + blanks(&text[end..])]
}

/// The text up to the end of its last whole mark and the blanks behind it.
fn whole_marks<'a>(text: &'a str, tokens: &[String]) -> &'a str {
    let mut end = 0;
    while let Some(next) = mark(&text[end..], tokens) {
        end += next.end;
    }
    &text[..end + blanks(&text[end..])]
}
