//! Which part of a rendered conversation each turn of the assistant is, for any template.
//!
//! A turn is what the conversation up to and with it has more than the prompt before it: from where the model begins to
//! write, to the end mark. Where a template writes the past otherwise (old thoughts go, tools stand before the last
//! question alone), the beginning of a text is not the text of the beginning; then other words in the turn's place show
//! where it stands, and the marks that a probe taught show how far it reaches. Next: [`super::loss_mask`].

use std::ops::Range;

use serde_json::{Value, json};

use super::coverage::{PLACEHOLDER, Render};
use crate::data::jsonl::RowFault;
use crate::error::{Error, Result};

/// What thoughts begin with; a template that opens them in the prompt also writes them, and a model learns them.
const THINK_TAGS: [&str; 4] = ["<think>", "<|think|>", "<thinking>", "<seed:think>"];

/// Turns that no template says by itself.
pub(super) const PROBE_QUESTIONS: [&str; 2] = ["zorvex one?", "zorvex three?"];
pub(super) const PROBE_ANSWERS: [&str; 2] = ["quibnal two.", "quibnal four."];

/// What a template writes around what the assistant says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerMarkup {
    /// Between the end of a question and the answer: the question's end mark, and the answer's header.
    pub(super) generation_prompt: String,
    /// Of that, what opens the answer: `<|im_start|>assistant\n`.
    pub(super) assistant_header: String,
    /// Thoughts that a prompt opens, or opens and closes.
    think_prefix: String,
    /// What stands between an opened answer and its words, often a blank.
    content_prefix: String,
    /// The end mark with its line end: `<|im_end|>\n`.
    pub(super) end_marker: String,
    /// The end mark of an answer that another turn follows, where the last answer has another one or none.
    pub(super) inner_end_marker: String,
    /// What follows the last turn of a conversation.
    pub(super) trailing: String,
    /// Whether that is the opening of another answer.
    trailing_opens_answer: bool,
}

/// The first `turns` questions and answers of the conversation that templates are probed with.
pub(super) fn probe_messages(turns: usize) -> Vec<Value> {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    PROBE_QUESTIONS
        .iter()
        .zip(PROBE_ANSWERS)
        .take(turns)
        .flat_map(|(q, a)| [turn("user", q), turn("assistant", a)])
        .collect()
}

/// The text of the probe conversation and how many questions it holds: two, or one where the template takes no more.
///
/// # Errors
/// The template refuses both.
pub(super) fn render_probe(render: &Render) -> Result<(String, usize)> {
    let whole = render(&probe_messages(2), None, false).map(|text| (text, 2));
    whole.or_else(|fault| render(&probe_messages(1), None, false).map(|text| (text, 1)).map_err(|_| fault))
}

impl AnswerMarkup {
    /// Learns it from a conversation of plain words; `tokens` are the tokenizer's added tokens.
    ///
    /// # Errors
    /// The template refuses such a conversation, or does not write the answers.
    pub(super) fn probe(render: &Render, tokens: &[String]) -> Result<Self> {
        let (text, turns) = render_probe(render)?;
        let missing = || Error::input("the template does not write what the assistant says");
        let after = |words: &str, from: usize| text[from..].find(words).map(|at| from + at + words.len());
        let said = after(PROBE_ANSWERS[0], 0).ok_or_else(missing)?;
        let begin = said - PROBE_ANSWERS[0].len();
        let asked = text[..begin].rfind(PROBE_QUESTIONS[0]).map(|at| at + PROBE_QUESTIONS[0].len());
        let asked =
            asked.ok_or_else(|| Error::input("the template does not write a question before its answer"))?;
        let between = &text[asked..begin];
        let (mut next, mut last) = (None, said);
        if turns == 2 {
            let again = after(PROBE_QUESTIONS[1], said).ok_or_else(missing)?;
            next = Some(&text[said..again - PROBE_QUESTIONS[1].len()]);
            last = after(PROBE_ANSWERS[1], again).ok_or_else(missing)?;
        }
        let tail = |prompt: bool| {
            let text = render(&probe_messages(1)[..1], None, prompt).ok()?;
            text.rfind(PROBE_QUESTIONS[0]).map(|at| text[at + PROBE_QUESTIONS[0].len()..].to_owned())
        };
        let (closed, opened) = (tail(false), tail(true));

        let mut markup = Self::default();
        let at_end = closed.as_deref().unwrap_or_default();
        let mut header = None;
        let prompt = match opened.as_deref().or(closed.as_deref()) {
            None => between,
            Some(opened) if between.starts_with(opened) || opened.starts_with(between) => opened,
            Some(opened) => {
                // Other blanks around the same header.
                let from = through_last_marker(common_prefix(at_end, opened), tokens).len();
                let words = opened[from..].trim();
                match between.find(words).filter(|_| !words.is_empty()) {
                    None => through_last_marker(common_prefix(opened, between), tokens),
                    Some(at) => {
                        let end = at + words.len();
                        let same = common_prefix(&between[end..], &opened[opened.trim_end().len()..]).len();
                        header = Some(between[at..end + same].to_owned());
                        &between[..end + same]
                    }
                }
            }
        };
        let cut = THINK_TAGS.iter().filter_map(|open| prompt.find(open)).min().unwrap_or(prompt.len());
        (markup.generation_prompt, markup.think_prefix) =
            (prompt[..cut].to_owned(), prompt[cut..].to_owned());
        if !between.starts_with(&markup.generation_prompt) {
            markup.generation_prompt = between.to_owned();
        }
        let lead = between.strip_prefix(prompt).or_else(|| between.strip_prefix(&markup.generation_prompt));
        markup.content_prefix =
            lead.filter(|lead| !THINK_TAGS.iter().any(|open| lead.contains(open))).unwrap_or("").to_owned();
        let header = header.map(|header: String| {
            let cut = THINK_TAGS.iter().filter_map(|open| header.find(open)).min();
            header[..cut.unwrap_or(header.len())].to_owned()
        });
        markup.assistant_header = match (header, markup.generation_prompt.strip_prefix(at_end)) {
            (Some(header), _) => header,
            (None, Some(header)) => header.to_owned(),
            (None, None) => markup.generation_prompt
                [through_last_marker(common_prefix(at_end, &markup.generation_prompt), tokens).len()..]
                .to_owned(),
        };

        let rest = &text[last..];
        let end = match next {
            Some(next) if !next.starts_with(rest) => through_first_marker(common_prefix(next, rest), tokens),
            _ => rest,
        };
        (markup.end_marker, markup.trailing) = (end.to_owned(), rest[end.len()..].to_owned());
        if let Some(next) = next.filter(|_| markup.end_marker.trim().is_empty()) {
            // What stands before the next question, without what opens every question.
            let opening = text[..asked - PROBE_QUESTIONS[0].len()].chars().rev().zip(next.chars().rev());
            let opening: usize = opening.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
            let before = &next[markup.end_marker.len()..(next.len() - opening).max(markup.end_marker.len())];
            // The mark that closes a question is no part of the next one's opening either.
            let closing = through_first_marker(&next[markup.end_marker.len()..], tokens);
            let same = !closing.trim().is_empty() && closing == through_first_marker(between, tokens);
            let before = if same { closing } else { before };
            if first_marker(before, tokens).is_some_and(|at| before[..at.start].trim().is_empty()) {
                through_first_marker(before, tokens).clone_into(&mut markup.inner_end_marker);
            }
        }
        markup.trailing_opens_answer = !markup.trailing.is_empty() && prompt.ends_with(&markup.trailing);
        Ok(markup)
    }

    /// The byte range of each assistant turn in `text`, the rendering of `messages`.
    ///
    /// # Errors
    /// A turn whose range cannot be told from the template.
    pub(super) fn assistant_spans(
        &self,
        render: &Render,
        (field, messages): (&str, &[Value]),
        tools: Option<&Value>,
        text: &str,
    ) -> Result<Vec<Range<usize>>, RowFault> {
        let mut found: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m["role"] == "assistant") {
            let whole = AssistantTurn { render, messages, tools, text, i };
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
    fn start(&self, turn: &AssistantTurn, from: usize) -> Option<usize> {
        if let Some(prompt) = turn.render_prefix(turn.i, true) {
            let without = prompt.strip_suffix(self.think_prefix.as_str()).unwrap_or(&prompt);
            if let Some(rest) = turn.text.strip_prefix(without).filter(|_| without.len() >= from) {
                // Some templates open no answer where there is no turn before it.
                let late =
                    !without.ends_with(&self.assistant_header) && rest.starts_with(&self.assistant_header);
                return Some(without.len() + if late { self.assistant_header.len() } else { 0 });
            }
        }
        let words = turn.content_span()?.start;
        let before = turn.text.get(from..words)?;
        match before.rfind(&self.assistant_header).filter(|_| !self.assistant_header.is_empty()) {
            Some(at) => Some(from + at + self.assistant_header.len()),
            None => Some(from + before.strip_suffix(self.content_prefix.as_str()).unwrap_or(before).len()),
        }
    }

    /// Where the turn ends: with its end mark.
    fn end(&self, turn: &AssistantTurn, start: usize) -> Option<usize> {
        let text = turn.text;
        let mut end = if turn.i + 1 == turn.messages.len() { Some(text.len()) } else { None };
        if let (None, Some(so_far)) = (end, turn.render_prefix(turn.i + 1, false)) {
            let closed = so_far.strip_suffix(self.trailing.as_str()).unwrap_or(&so_far);
            let fits = [so_far.as_str(), closed].into_iter().find(|so_far| text.starts_with(so_far));
            end = fits.map(str::len).filter(|end| *end >= start);
        }
        let mut end = match end {
            Some(end) => end,
            None => {
                let words = turn.content_span()?.end.max(start);
                words + text[words..].find(&self.end_marker).map_or(0, |at| at + self.end_marker.len())
            }
        };
        if self.trailing_opens_answer && text[start..end].ends_with(&self.trailing) {
            end -= self.trailing.len();
        }
        if text[end..].starts_with(&self.inner_end_marker) {
            end += self.inner_end_marker.len();
        }
        // A blank before the next turn's first word is that word's.
        let follows = text[end..].chars().next().is_some_and(|c| !c.is_whitespace());
        Some(if follows { start + text[start..end].trim_end_matches(' ').len() } else { end })
    }
}

/// One message of a rendered conversation.
struct AssistantTurn<'a> {
    render: &'a Render<'a>,
    messages: &'a [Value],
    tools: Option<&'a Value>,
    text: &'a str,
    i: usize,
}

impl AssistantTurn<'_> {
    fn render_prefix(&self, count: usize, prompt: bool) -> Option<String> {
        (self.render)(&self.messages[..count], self.tools, prompt).ok()
    }

    /// Where its words stand: what differs with other words in their place.
    fn content_span(&self) -> Option<Range<usize>> {
        let mut others = self.messages.to_vec();
        others[self.i] = json!({"role": others[self.i]["role"], "content": PLACEHOLDER});
        let mut other = (self.render)(&others, self.tools, false).ok();
        if other.as_deref().is_none_or(|other| other == self.text) {
            // Another form of message is refused: other words in its own form.
            others[self.i] = self.messages[self.i].clone();
            for key in ["content", "reasoning_content", "tool_calls"] {
                others[self.i].get_mut(key).map(replace_texts);
            }
            other = (self.render)(&others, self.tools, false).ok();
        }
        let other = other.filter(|other| other != self.text)?;
        let start = common_prefix(self.text, &other).len();
        let same = |(a, b): &(char, char)| a == b;
        let after = self.text[start..].chars().rev().zip(other[start..].chars().rev()).take_while(same);
        let after: usize = after.map(|(c, _)| c.len_utf8()).sum();
        Some(start..self.text.len() - after)
    }
}

/// Other words in each text, ids and types of calls left as they are.
fn replace_texts(value: &mut Value) {
    match value {
        Value::String(text) => PLACEHOLDER.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(replace_texts),
        Value::Object(map) => {
            map.iter_mut()
                .filter(|(key, _)| *key != "id" && *key != "type")
                .for_each(|(_, value)| replace_texts(value));
        }
        _ => {}
    }
}

fn common_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let same = a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map(|((at, _), _)| at);
    &a[..same.unwrap_or(a.len().min(b.len()))]
}

/// The first mark in `text`: an added token, or what is written like one (`<...>`).
fn first_marker(text: &str, tokens: &[String]) -> Option<Range<usize>> {
    let written = text.match_indices('<').find_map(|(at, _)| {
        let inside = text[at + 1..].split(['<', '>']).next()?;
        let closed = text[at + 1 + inside.len()..].starts_with('>');
        let plain = !inside.is_empty() && !inside.contains(char::is_whitespace);
        (closed && plain).then(|| at..at + inside.len() + 2)
    });
    let added = tokens.iter().filter_map(|token| text.find(token.as_str()).map(|at| at..at + token.len()));
    added.chain(written).min_by_key(|at| (at.start, usize::MAX - at.end))
}

fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// The text up to the end of its first mark and the blanks behind it; without a mark, its leading blanks.
fn through_first_marker<'a>(text: &'a str, tokens: &[String]) -> &'a str {
    let end = first_marker(text, tokens).map_or(0, |at| at.end);
    &text[..end + leading_space(&text[end..])]
}

/// The text up to the end of its last whole mark and the blanks behind it.
fn through_last_marker<'a>(text: &'a str, tokens: &[String]) -> &'a str {
    let mut end = 0;
    while let Some(next) = first_marker(&text[end..], tokens) {
        end += next.end;
    }
    &text[..end + leading_space(&text[end..])]
}
