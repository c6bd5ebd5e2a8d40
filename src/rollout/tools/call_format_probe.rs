//! Finds how a model writes tool calls from its chat template: a probe conversation with a call is rendered, and the
//! text around the call's name and arguments is the format.

use serde_json::{Value, json};

use super::call_format::{Body, ID_MARK, ToolCallFormat};
use crate::data::Tokenizer;
use crate::data::tokenizer::{RenderOptions, eos_token_ids};

/// Names that no text of a template holds.
const NAMES: [&str; 2] = ["probe_tool_7", "other_tool_8"];
const KEYS: [&str; 2] = ["first_key7", "second_key7"];
const TEXT: &str = "First value7";
const NUMBER: i64 = 7070;
/// Nine letters and digits, which every family takes.
const IDS: [&str; 2] = ["callid007", "callid008"];

impl ToolCallFormat {
    /// The form of a tokenizer's chat template; `named` are the end marks that the model's files name. A template that
    /// shows no call, or one in a way that is not known, gets the form that its text hints at, else Hermes's.
    pub fn of(tokenizer: &Tokenizer, named: &[u32]) -> Self {
        let ends: Vec<String> = eos_token_ids(Some(tokenizer), named)
            .iter()
            .filter_map(|id| tokenizer.decode(&[*id], false).ok())
            .collect();
        let probe = Probe { tokenizer, ends };
        let mut form = probe.learn().unwrap_or_else(|| {
            let source = tokenizer.chat_template_source().unwrap_or_default();
            if source.contains("<parameter=") { Self::tagged() } else { Self::default() }
        });
        form.short_ids = probe.wants_short_ids();
        form
    }
}

struct Probe<'a> {
    tokenizer: &'a Tokenizer,
    ends: Vec<String>,
}

/// Calls as a template rendered them: what is around them, and each call itself.
struct RenderedCalls {
    open: String,
    cores: Vec<String>,
    between: Option<String>,
    close: String,
}

impl Probe<'_> {
    fn render(&self, answer: Option<Value>, prompt: bool) -> Option<String> {
        let mut messages = vec![json!({"role": "user", "content": "Question7"})];
        messages.extend(answer);
        let properties = json!({KEYS[0]: {"type": "string"}, KEYS[1]: {"type": "integer"}});
        let tool = |name: &str| {
            let parameters = json!({"type": "object", "properties": properties});
            json!({"type": "function", "function": {"name": name, "description": "Probe.", "parameters": parameters}})
        };
        let tools = Value::from(NAMES.map(tool).to_vec());
        let options = RenderOptions { add_generation_prompt: prompt, ..RenderOptions::default() };
        let rendered = self.tokenizer.render_chat(&messages, Some(&tools), &options, false);
        rendered.or_else(|_| self.tokenizer.render_chat(&messages, None, &options, false)).ok()
    }

    fn calls(count: usize, id: Option<&str>) -> Value {
        let call = |i: usize| {
            let arguments = json!({KEYS[0]: TEXT, KEYS[1]: NUMBER});
            json!({"id": id.unwrap_or(IDS[i]), "type": "function", "function": {"name": NAMES[i], "arguments": arguments}})
        };
        json!({"role": "assistant", "content": null, "tool_calls": (0..count).map(call).collect::<Vec<_>>()})
    }

    fn wants_short_ids(&self) -> bool {
        let long = Self::calls(1, Some("call_0123456789abcdef01234567"));
        self.tokenizer.has_chat_template()
            && self.render(Some(long), false).is_none()
            && self.render(Some(Self::calls(1, None)), false).is_some()
    }

    /// What an assistant's turn with `count` calls adds to the conversation, up to its end mark.
    fn turn(&self, count: usize) -> Option<String> {
        let whole = self.render(Some(Self::calls(count, None)), false)?;
        let start = whole.find(NAMES[0]).filter(|at| *at > 0)?;
        // The tools come before the question: the turn's own name is the last but for a second call's.
        let start = whole.rfind(NAMES[0]).unwrap_or(start);
        let prompt = self.render(None, true).unwrap_or_default();
        let shared = whole.bytes().zip(prompt.bytes()).take_while(|(a, b)| a == b).count().min(start);
        let mut shared = (0..=shared).rev().find(|at| whole.is_char_boundary(*at))?;
        if shared < prompt.len() {
            // The two part inside a tag or a word: the turn begins where that does.
            let before = &whole[..shared];
            shared = before.rfind(['\n', '>', ']']).map_or(0, |at| at + 1);
        }
        let mut turn = &whole[shared..];
        if let Some(header) = self.header()
            && let Some(rest) = turn.strip_prefix(header.as_str())
        {
            turn = rest;
        }
        let name = turn.rfind(NAMES[count - 1])?;
        let marks = self.ends.iter().filter(|mark| !mark.is_empty());
        let end = marks
            .filter_map(|mark| turn[name..].find(mark.as_str()))
            .min()
            .map_or(turn.len(), |at| name + at);
        Some(turn[..end].trim_end().to_owned())
    }

    /// What stands before an assistant's content, where the prompt does not end with it.
    fn header(&self) -> Option<String> {
        const ANSWER: &str = "Answer7";
        let question = self.render(None, false)?;
        let answered = self.render(Some(json!({"role": "assistant", "content": ANSWER})), false)?;
        let (header, _) = answered.strip_prefix(question.as_str())?.split_once(ANSWER)?;
        Some(header.to_owned())
    }

    fn learn(&self) -> Option<ToolCallFormat> {
        if !self.tokenizer.has_chat_template() {
            return None;
        }
        let one = self.turn(1)?;
        json_form(&one, self.turn(2))
            .or_else(|| named_form(&one, self.turn(2)))
            .or_else(|| pairs_form(&one, self.turn(2)))
    }
}

fn form(shown: RenderedCalls, body: Body) -> ToolCallFormat {
    ToolCallFormat::new(&shown.open, shown.between.as_deref(), &shown.close, body)
}

/// Where the calls stand: `span` finds one of a name.
fn shown(
    one: &str,
    two: Option<String>,
    span: impl Fn(&str, &str) -> Option<(usize, usize)>,
) -> Option<RenderedCalls> {
    let (start, end) = span(one, NAMES[0])?;
    let mut shown = RenderedCalls {
        open: one[..start].to_owned(),
        cores: vec![one[start..end].to_owned()],
        between: None,
        close: one[end..].to_owned(),
    };
    if let Some(two) = two
        && let (Some(first), Some(second)) = (span(&two, NAMES[0]), span(&two, NAMES[1]))
        && first.1 <= second.0
    {
        shown.between = Some(two[first.1..second.0].to_owned());
    }
    Some(shown)
}

/// The JSON value that begins at `at`, and where it ends.
fn value_at(text: &str, at: usize) -> Option<(Value, usize)> {
    let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, at + values.byte_offset()))
}

fn is_arguments(value: &Value) -> bool {
    *value == json!({KEYS[0]: TEXT, KEYS[1]: NUMBER})
}

/// Where a text holds exactly the arguments as JSON, from `from` on.
fn arguments_at(text: &str, from: usize) -> Option<(usize, usize)> {
    text[from..].match_indices('{').find_map(|(at, _)| {
        let (value, end) = value_at(text, from + at)?;
        is_arguments(&value).then_some((from + at, end))
    })
}

fn json_form(one: &str, two: Option<String>) -> Option<ToolCallFormat> {
    let span = |text: &str, name: &str| {
        text.match_indices('{').find_map(|(at, _)| {
            let (value, end) = value_at(text, at)?;
            let arguments = ["arguments", "parameters"].iter().any(|key| is_arguments(&value[*key]));
            (value["name"] == name && arguments).then_some((at, end))
        })
    };
    let shown = shown(one, two, span)?;
    let core = &shown.cores[0];
    let name = core.find(NAMES[0])?;
    let after = name + NAMES[0].len();
    let (start, end) = arguments_at(core, after)?;
    let body = Body::Json {
        head: core[..name].to_owned(),
        middle: core[after..start].to_owned(),
        tail: core[end..].replace(IDS[0], ID_MARK),
    };
    Some(form(shown, body))
}

fn named_form(one: &str, two: Option<String>) -> Option<ToolCallFormat> {
    let span = |text: &str, name: &str| {
        let at = text.find(name)?;
        Some((at, arguments_at(text, at)?.1))
    };
    let shown = shown(one, two, span)?;
    let core = &shown.cores[0];
    let (start, _) = arguments_at(core, 0)?;
    let middle = core[NAMES[0].len()..start].to_owned();
    // With nothing between them, where the name ends could not be seen.
    (!middle.trim().is_empty()).then(|| form(shown, Body::Named { middle }))
}

fn pairs_form(one: &str, two: Option<String>) -> Option<ToolCallFormat> {
    let number = NUMBER.to_string();
    let parts = |text: &str, name: &str| {
        let mut places = Vec::new();
        let mut from = text.find(name)?;
        for part in [name, KEYS[0], TEXT, KEYS[1], number.as_str()] {
            let at = from + text[from..].find(part)?;
            places.push((at, at + part.len()));
            from = at + part.len();
        }
        Some(places)
    };
    let found = parts(one, NAMES[0])?;
    let gap = |i: usize| &one[found[i].1..found[i + 1].0];
    let (first, middle, next) = (gap(0), gap(1), gap(2));
    // Quoted values, as Python calls have them, are not read.
    if middle.contains(['"', '\'']) || middle != gap(3) || middle.is_empty() {
        return None;
    }
    let alike = first.bytes().rev().zip(next.bytes().rev()).take_while(|(a, b)| a == b).count();
    let alike = next.get(next.len() - alike..)?;
    // The end of the tag before it is not its own.
    let tag = alike.find('<').map_or(0, |at| alike[..at].trim_end().len());
    let before_key = &alike[tag..];
    let shared = before_key.len();
    let after_value = next[..next.len() - shared].to_owned();
    if before_key.trim().is_empty() || after_value.trim().is_empty() {
        return None;
    }
    let body = Body::Pairs {
        after_name: first[..first.len() - shared].to_owned(),
        before_key: before_key.to_owned(),
        middle: middle.to_owned(),
        after_value: after_value.clone(),
    };
    let span = |text: &str, name: &str| {
        let places = parts(text, name)?;
        let end = places[4].1;
        text[end..].starts_with(&after_value).then_some((places[0].0, end + after_value.len()))
    };
    Some(form(shown(one, two, span)?, body))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::rollout::tools::calls::tests::{FAMILIES, tokenizer};

    #[test]
    fn every_family_shows_its_form() {
        for family in FAMILIES {
            let form = ToolCallFormat::of(&tokenizer(family.template), &[]);
            assert_eq!(
                (form.open.as_str(), form.close.as_str()),
                (family.open, family.close),
                "{}",
                family.name
            );
            assert_eq!(form.between.as_deref(), family.between, "{}", family.name);
            assert_eq!(
                (form.start_marker.as_str(), form.end_marker.as_str()),
                (family.mark, family.end),
                "{}",
                family.name
            );
            assert_eq!(form.short_ids, family.name.starts_with("mistral, list"), "{}", family.name);
        }
    }

    #[test]
    fn without_a_call_in_the_template_its_text_decides() {
        let plain = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
        assert_eq!(ToolCallFormat::of(&tokenizer(plain), &[]), ToolCallFormat::default());
        let hint = "{% for m in messages %}{% for c in m.tool_calls %}{% for k, v in c.function.arguments|items %}{{ '<parameter=' + k + '>' }}{{ v }}{% endfor %}{% endfor %}{% endfor %}";
        assert_eq!(ToolCallFormat::of(&tokenizer(hint), &[]), ToolCallFormat::tagged());
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        assert_eq!(ToolCallFormat::of(&Tokenizer::load(&ours).unwrap(), &[]), ToolCallFormat::default());
    }
}
