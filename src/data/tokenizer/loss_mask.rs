//! Which tokens of a conversation carry loss: what the assistant says, its end mark included.
//!
//! Found from the chat template itself, once for a tokenizer, and checked on a conversation of plain words before any
//! row is trained on. Three ways give the same places where they apply: the template's own `{% generation %}` blocks;
//! the tokens that open and close every answer, looked for in the ids (upstream's way, and the fast one; only where it
//! agrees with the next on every probe, and in a row whose texts hold no such mark); rendering the conversation with
//! and without each turn ([`assistant_spans`](super::assistant_spans)).

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::assistant_spans::{AnswerMarkup, PROBE_ANSWERS, PROBE_QUESTIONS, probe_messages, render_probe};
use super::chat_row::{EMPTY_THINK, mask_between, template_fault};
use super::coverage::{TemplateCoverage, tool, tool_turns};
use super::openai_messages::parse_arguments;
use super::{ChatTemplate, RenderOptions, Tokenizer, generation_tags};
use crate::data::jsonl::{RowError, RowFault};
use crate::error::{Error, Result};

/// A conversation as ids with its loss mask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MaskedTokens {
    /// Token ids of the rendered text.
    pub ids: Vec<u32>,
    /// Whether the label at a place (the id itself) carries loss.
    pub loss_mask: Vec<bool>,
}

/// A text and its template's own blocks in it.
type Blocks = (String, Vec<Range<usize>>);

/// What has been found out about a template, each on first use.
#[derive(Debug, Default)]
pub(super) struct TemplateFacts {
    coverage: OnceLock<TemplateCoverage>,
    /// Whether the arguments of a call must be an object.
    argument_objects: OnceLock<bool>,
    rule: OnceLock<Result<MaskRule>>,
}

/// How the assistant's part of a rendered conversation is found.
#[derive(Debug)]
enum MaskRule {
    /// From the `{% generation %}` blocks, which this copy of the template marks.
    GenerationTags(Box<ChatTemplate>),
    /// By rendering the conversation with and without each turn.
    Rerender(AnswerMarkup),
    /// By the tokens around an answer; by rendering where a row is unusual.
    Delimiters(AnswerMarkup, Delimiters),
}

/// The ids that open and close an answer, and the text of each one's first token.
#[derive(Debug)]
struct Delimiters {
    open: Vec<u32>,
    close: Vec<u32>,
    texts: [String; 2],
}

impl Tokenizer {
    /// The template of a conversation with or without tools.
    fn masker(&self, tools: bool) -> Result<ChatMasker<'_>> {
        let index = self.template_index(tools)?;
        Ok(ChatMasker { tokenizer: self, template: &self.templates[index].1, facts: &self.facts[index] })
    }

    /// Tokens and loss mask of a conversation; faults call the messages `field`. Empty think blocks stay if `keep`.
    ///
    /// # Errors
    /// The row is bad: the template refuses it, or leaves part of it out. Or there is no template, or which tokens are
    /// the assistant's cannot be told from it.
    pub fn masked(
        &self,
        field: &str,
        messages: &[Value],
        tools: Option<&Value>,
        keep: bool,
    ) -> Result<MaskedTokens, RowError> {
        let masker = self.masker(tools.is_some())?;
        let rule = masker.rule()?;
        masker.masked(rule, (field, &masker.with_parsed_arguments(messages)), tools, keep)
    }

    /// Whether the template renders a system prompt.
    pub fn renders_system(&self) -> bool {
        self.masker(false).is_ok_and(|masker| masker.coverage().system)
    }

    /// The rendered text of a conversation, which holds all of it; faults call the messages `field`.
    ///
    /// # Errors
    /// The row is bad: the template refuses it, or leaves part of it out. Or there is no template.
    pub fn render_checked(
        &self,
        field: &str,
        messages: &[Value],
        tools: Option<&Value>,
    ) -> Result<String, RowError> {
        let masker = self.masker(tools.is_some())?;
        let render = masker.render();
        let messages = masker.with_parsed_arguments(messages);
        Ok(masker.coverage().render_checked(&render, (field, &messages), tools)?)
    }
}

/// Masks conversations of one template.
struct ChatMasker<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    facts: &'a TemplateFacts,
}

impl<'a> ChatMasker<'a> {
    fn render(&self) -> impl Fn(&[Value], Option<&Value>, bool) -> Result<String> + use<'a> {
        let (template, roles) = (self.template, &self.tokenizer.roles);
        move |messages, tools, prompt| {
            let options = RenderOptions { add_generation_prompt: prompt, ..RenderOptions::default() };
            template.render(&Value::from(messages), tools, options, roles)
        }
    }

    /// The messages with the arguments of their calls as objects where they are JSON in a text, as in OpenAI's form, and
    /// the template would put that text between quotes once more, or refuse it. Upstream's templates print it as it is.
    fn with_parsed_arguments<'m>(&self, messages: &'m [Value]) -> Cow<'m, [Value]> {
        let is_text =
            |call: &Value| call["function"]["arguments"].is_string() || call["arguments"].is_string();
        let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
        if !calls.into_iter().any(is_text) || !self.needs_argument_objects() {
            return Cow::Borrowed(messages);
        }
        let mut messages = messages.to_vec();
        let calls = messages.iter_mut().filter_map(|message| message.get_mut("tool_calls")?.as_array_mut());
        calls.flatten().for_each(parse_arguments);
        Cow::Owned(messages)
    }

    fn needs_argument_objects(&self) -> bool {
        *self.facts.argument_objects.get_or_init(|| {
            let render = self.render();
            let object = tool_turns("add", "3");
            let mut text = object.clone();
            text[1]["tool_calls"][0]["function"]["arguments"] = json!("{\"x\": 1}");
            match (render(&object, None, false), render(&text, None, false)) {
                (Ok(_), Ok(quoted)) => quoted.contains("\\\"x\\\""),
                (Ok(_), Err(_)) => true,
                (Err(_), _) => false,
            }
        })
    }

    fn coverage(&self) -> &'a TemplateCoverage {
        self.facts.coverage.get_or_init(|| TemplateCoverage::probe(&self.render()))
    }

    fn rule(&self) -> Result<&'a MaskRule> {
        let rule = self.facts.rule.get_or_init(|| {
            self.find_rule().map_err(|why| {
                let fault = Error::input("which tokens carry loss cannot be told from the chat template")
                    .because(why.what().to_owned() + &why.cause().map(|c| format!(": {c}")).unwrap_or_default())
                    .hint(
                        "mark what the assistant says with {% generation %} ... {% endgeneration %} in the template; \
                         `minimind data show --tokenizer DIR FILE` shows which tokens carry loss",
                    );
                match &self.tokenizer.place {
                    Some(place) => fault.at(place.clone()),
                    None => fault,
                }
            })
        });
        rule.as_ref().map_err(Clone::clone)
    }

    /// Finds the rule and holds it to a conversation of plain words.
    fn find_rule(&self) -> Result<MaskRule> {
        let render = self.render();
        let (text, turns) = render_probe(&render)?;
        let messages = probe_messages(turns);
        if let Some(source) = generation_tags::with_sentinels(self.template.source()) {
            let file = self.tokenizer.place.as_ref().map(|place| place.file.clone()).unwrap_or_default();
            let marked = Box::new(ChatTemplate::parse(&source, &file)?);
            let found = self.generation_spans(&marked, &messages, None);
            let (blocked, spans) = found.map_err(|fault| Error::input(fault.what))?;
            if blocked != text {
                return Err(Error::input("its {% generation %} blocks change the text"));
            }
            // A template may mark the last answer alone.
            let held = check_spans(&text, &spans, &PROBE_ANSWERS[turns - 1..turns]);
            held.map_err(|why| Error::input(format!("by its {{% generation %}} blocks {}", why.what())))?;
            return Ok(MaskRule::GenerationTags(marked));
        }
        let tokens = self.tokenizer.added_tokens();
        let markup = AnswerMarkup::probe(&render, &tokens)?;
        let spans = markup.assistant_spans(&render, ("messages", &messages), None, &text);
        check_spans(&text, &spans.map_err(|fault| Error::input(fault.what))?, &PROBE_ANSWERS[..turns])?;
        if markup.end_marker.trim().is_empty() && markup.trailing.trim().is_empty() {
            let last = if markup.inner_end_marker.is_empty() { "an" } else { "the last" };
            tracing::warn!(
                "the chat template writes no end mark after {last} answer: a model will not learn to stop{}",
                if markup.inner_end_marker.is_empty() { "" } else { " there" }
            );
        }
        let first =
            |text: &str| tokens.iter().filter(|token| text.starts_with(*token)).max_by_key(|t| t.len());
        let open = if markup.assistant_header.is_empty() {
            &markup.generation_prompt
        } else {
            &markup.assistant_header
        };
        let (Some(opens), Some(closes)) = (first(open), first(&markup.end_marker)) else {
            return Ok(MaskRule::Rerender(markup));
        };
        let marks = Delimiters {
            open: self.tokenizer.encode(open)?,
            close: self.tokenizer.encode(&markup.end_marker)?,
            texts: [opens.clone(), closes.clone()],
        };
        Ok(if self.delimiters_agree(&markup, &marks)? {
            MaskRule::Delimiters(markup, marks)
        } else {
            MaskRule::Rerender(markup)
        })
    }

    /// Whether marks and turns give the same tokens in conversations of each kind that the template takes.
    fn delimiters_agree(&self, markup: &AnswerMarkup, marks: &Delimiters) -> Result<bool> {
        let render = self.render();
        let system = json!({"role": "system", "content": "be brief"});
        let thinking: Vec<Value> = probe_messages(2)
            .into_iter()
            .map(|mut turn| {
                if let ("assistant", Some(said)) =
                    (turn["role"].as_str().unwrap_or(""), turn["content"].as_str())
                {
                    turn["content"] = json!(format!("<think>\nhm\n</think>\n\n{said}"));
                }
                turn
            })
            .collect();
        let with_system = [vec![system], probe_messages(2)].concat();
        let more = [probe_messages(2), vec![json!({"role": "user", "content": "and?"})]].concat();
        let kinds = [(probe_messages(2), false), (with_system, false), (thinking, false), (more, false)];
        for (messages, tools) in kinds.into_iter().chain([(tool_turns("add", "3"), true)]) {
            let tools = tools.then(|| json!([tool("add")]));
            let Ok(text) = render(&messages, tools.as_ref(), false) else { continue };
            for keep in [true, false] {
                let fast = self.mask_by_delimiters(marks, &messages, &text, keep)?;
                let spans = markup.assistant_spans(&render, ("messages", &messages), tools.as_ref(), &text);
                let slow = match spans {
                    Ok(spans) => Some(self.mask_by_spans(&text, &spans, keep)?),
                    Err(_) => None,
                };
                if fast.is_none() || fast != slow {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn masked(
        &self,
        rule: &MaskRule,
        turns: (&str, &[Value]),
        tools: Option<&Value>,
        keep: bool,
    ) -> Result<MaskedTokens, RowError> {
        let render = self.render();
        if let MaskRule::GenerationTags(marked) = rule {
            let (text, spans) = self.generation_spans(marked, turns.1, tools)?;
            self.coverage().check(&render, turns, tools, &text)?;
            return Ok(self.mask_by_spans(&text, &spans, keep)?);
        }
        let text = self.coverage().render_checked(&render, turns, tools)?;
        let markup = match rule {
            MaskRule::Delimiters(markup, delimiters) => {
                if let Some(masked) = self.mask_by_delimiters(delimiters, turns.1, &text, keep)? {
                    return Ok(masked);
                }
                markup
            }
            MaskRule::Rerender(markup) => markup,
            MaskRule::GenerationTags(_) => unreachable!("answered above"),
        };
        let spans = markup.assistant_spans(&render, turns, tools, &text)?;
        Ok(self.mask_by_spans(&text, &spans, keep)?)
    }

    /// The text of a conversation and the template's own blocks in it.
    fn generation_spans(
        &self,
        marked: &ChatTemplate,
        messages: &[Value],
        tools: Option<&Value>,
    ) -> Result<Blocks, RowFault> {
        let rendered =
            marked.render(&Value::from(messages), tools, RenderOptions::default(), &self.tokenizer.roles);
        let rendered = rendered.map_err(|error| template_fault(&error))?;
        generation_tags::take_sentinels(&rendered).ok_or_else(|| {
            RowFault::new(
                "the template's {% generation %} blocks do not open and close in turn",
                "close each with {% endgeneration %}, and put none inside another",
            )
        })
    }

    /// By the tokens around an answer; none where a text of the row holds a mark, or an answer has no mark.
    fn mask_by_delimiters(
        &self,
        marks: &Delimiters,
        messages: &[Value],
        text: &str,
        keep: bool,
    ) -> Result<Option<MaskedTokens>> {
        if messages.iter().any(|message| contains_any(message, &marks.texts)) {
            return Ok(None);
        }
        let ids = match keep || !text.contains(EMPTY_THINK) {
            true => self.tokenizer.encode(text)?,
            false => self.tokenizer.encode(&text.replace(EMPTY_THINK, ""))?,
        };
        let (loss, answers) = mask_between(&ids, &marks.open, &marks.close);
        let turns = messages.iter().filter(|message| message["role"] == "assistant").count();
        Ok((answers == turns).then_some(MaskedTokens { ids, loss_mask: loss }))
    }

    /// By places in the text: a token that holds part of one carries loss.
    fn mask_by_spans(&self, text: &str, spans: &[Range<usize>], keep: bool) -> Result<MaskedTokens> {
        let (text, spans) =
            if keep { (text.to_owned(), spans.to_vec()) } else { without_empty_think(text, spans) };
        let (ids, places) = self.tokenizer.encode_with_offsets(&text)?;
        let mut loss = vec![false; ids.len()];
        let mut spans = spans.iter().filter(|span| !span.is_empty()).peekable();
        for (loss, place) in loss.iter_mut().zip(&places) {
            while spans.next_if(|span| span.end <= place.start).is_some() {}
            *loss = spans.peek().is_some_and(|span| span.start < place.end);
        }
        Ok(MaskedTokens { ids, loss_mask: loss })
    }
}

/// Whether the places hold each of `said` whole, and nothing of what is asked.
fn check_spans(text: &str, spans: &[Range<usize>], said: &[&str]) -> Result<()> {
    for words in said {
        let at = text
            .find(words)
            .ok_or_else(|| Error::input("the template does not write what the assistant says"))?;
        if !spans.iter().any(|span| span.start <= at && at + words.len() <= span.end) {
            return Err(Error::input("an answer is not among what the assistant says"));
        }
    }
    let user = PROBE_QUESTIONS
        .iter()
        .flat_map(|words| text.match_indices(words).map(|(at, _)| at..at + words.len()));
    for asked in user {
        if spans.iter().any(|span| span.start < asked.end && asked.start < span.end) {
            return Err(Error::input("a question is among what the assistant says"));
        }
    }
    Ok(())
}

fn contains_any(value: &Value, marks: &[String]) -> bool {
    match value {
        Value::String(text) => marks.iter().any(|mark| text.contains(mark)),
        Value::Array(items) => items.iter().any(|item| contains_any(item, marks)),
        Value::Object(map) => map.values().any(|item| contains_any(item, marks)),
        _ => false,
    }
}

/// The text without its empty think blocks, and where the places are then.
fn without_empty_think(text: &str, spans: &[Range<usize>]) -> (String, Vec<Range<usize>>) {
    let gone: Vec<usize> = text.match_indices(EMPTY_THINK).map(|(at, _)| at).collect();
    let moved = |at: usize| {
        let before = gone.iter().map(|start| at.saturating_sub(*start).min(EMPTY_THINK.len()));
        at - before.sum::<usize>()
    };
    let spans = spans.iter().map(|span| moved(span.start)..moved(span.end)).collect();
    (text.replace(EMPTY_THINK, ""), spans)
}
