//! `tool_choice: required` or a named function: an answer that is tool calls and nothing else. The prompt opens the first
//! call; a grammar holds the rest to what the chat template writes.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::messages::{ToolChoice, Tools};
use crate::rollout::schema::is_finite;
use crate::rollout::tools::call_format::{Body, ID_MARK, ToolCallFormat};
use crate::rollout::{Constraint, Grammars};
use crate::serve::engine::handle::ModelHandle;
use crate::serve::error::ApiError;

/// The tool calls that a request forces.
#[derive(Debug)]
pub struct ForcedToolCall {
    /// What may be called: OpenAI's `function` objects.
    functions: Vec<Value>,
    /// Whether the answer may hold several calls.
    parallel: bool,
    /// The name of every call, where there is only one.
    pub name: Option<String>,
}

impl ForcedToolCall {
    /// The forced calls of a request; `None` where its `tool_choice` forces none.
    pub fn of(tools: &Tools) -> Option<Self> {
        let named = match &tools.choice {
            ToolChoice::Required => None,
            ToolChoice::Named(name) => Some(name.as_str()),
            ToolChoice::None | ToolChoice::Auto => return None,
        };
        let functions = tools.list.iter().map(|tool| &tool["function"]);
        let functions: Vec<Value> =
            functions.filter(|f| named.is_none_or(|name| f["name"] == *name)).cloned().collect();
        let mut names = functions.iter().map(|function| function["name"].as_str().unwrap_or_default());
        let name = names.next().filter(|first| names.all(|name| name == *first)).map(str::to_owned);
        // A named function is called once, as in vLLM.
        Some(Self { functions, parallel: tools.parallel && named.is_none(), name })
    }

    /// The constraint of one answer; the prompt ends with the call form's `open`.
    ///
    /// # Errors
    /// 400 for tools whose parameters cannot be made a grammar.
    pub fn constraint(&self, model: &ModelHandle) -> Result<Box<dyn Constraint + Send>, ApiError> {
        if let Some(function) = self.functions.iter().find(|function| !is_finite(&function["parameters"])) {
            let message = format!(
                "the parameters of `{}` demand themselves without end",
                function["name"].as_str().unwrap_or_default()
            );
            return Err(ApiError::param("tools", message));
        }
        let grammars = model.grammars()?;
        let grammar = self.grammar(&model.call_format, &|text| {
            grammars.literal(&model.tokenizer.encode(text).unwrap_or_default(), text)
        });
        grammars.lark(&grammar, !matches!(model.call_format.body, Body::Pairs { .. })).map_err(|error| {
            let why = error
                .cause()
                .map_or_else(|| error.what().to_owned(), |cause| format!("{}: {cause}", error.what()));
            // The engine shows its own grammar below; the request knows nothing of it.
            let why = why.lines().next().unwrap_or_default();
            let why = why.rsplit_once("failed to compile JSON schema: ").map_or(why, |(_, why)| why);
            ApiError::param("tools", format!("a call of these tools cannot be demanded: {why}"))
        })
    }

    /// In llguidance's dialect of Lark; `literal` writes a text, special tokens in it as such.
    fn grammar(&self, form: &ToolCallFormat, literal: &dyn Fn(&str) -> String) -> String {
        let more = match &form.between {
            Some(between) if self.parallel => format!(" ({} call)*", literal(between)),
            _ => String::new(),
        };
        let each: Vec<String> = (0..self.functions.len()).map(|i| format!("call_{i}")).collect();
        let mut grammar = format!("start: call{more} {}\ncall: {}\n", literal(&form.close), each.join(" | "));
        for (rule, function) in each.iter().zip(&self.functions) {
            // A name is letters, digits, `_` and `-` (`messages::tools`): it needs no escape.
            let name = literal(function["name"].as_str().unwrap_or_default());
            let parameters = parameters(function);
            let arguments = || {
                let schema = Grammars::fixed(&parameters, function["strict"] != true);
                format!("{rule}_arguments: %json {schema}\n")
            };
            let _ = match &form.body {
                Body::Json { head, middle, tail } => {
                    let parts: Vec<String> = tail.split(ID_MARK).map(literal).collect();
                    let tail = parts.join(&format!(" {rule}_id "));
                    let id = format!("{rule}_id: /[a-zA-Z0-9]{{9}}/\n");
                    write!(
                        grammar,
                        "{rule}: {} {name} {} {rule}_arguments {tail}\n{}{}",
                        literal(head),
                        literal(middle),
                        arguments(),
                        if parts.len() > 1 { id.as_str() } else { "" }
                    )
                }
                Body::Named { middle } => {
                    write!(grammar, "{rule}: {name} {} {rule}_arguments\n{}", literal(middle), arguments())
                }
                Body::Pairs { after_name, before_key, middle, after_value } => {
                    let (properties, required) = pairs(&parameters);
                    let mut parts = vec![name, literal(after_name)];
                    let mut rules = String::new();
                    for (i, (key, schema)) in properties.iter().enumerate() {
                        let pair = format!(
                            "{} {} {} {rule}_value_{i}",
                            literal(before_key),
                            literal(key),
                            literal(middle)
                        );
                        let optional = if required.contains(key) { "" } else { "?" };
                        parts.push(format!("({pair}){optional}"));
                        let text = TextValue { behind: after_value, end: &form.end_marker };
                        let _ = match value(schema, &parameters, literal, text) {
                            // What a terminal may not hold, a rule cannot say.
                            ValueRule::Terminal(value) => {
                                let terminal = format!("{rule}_value_{i}").to_uppercase();
                                writeln!(rules, "{rule}_value_{i}: {terminal}\n{terminal}: {value}")
                            }
                            ValueRule::Rule(value) => writeln!(rules, "{rule}_value_{i}: {value}"),
                        };
                    }
                    write!(grammar, "{rule}: {}\n{rules}", parts.join(" "))
                }
            };
        }
        grammar
    }
}

/// The schema of a function's arguments: an object of the declared keys, `{}` where none is declared.
fn parameters(function: &Value) -> Value {
    let mut parameters = function["parameters"].clone();
    if !parameters.is_object() {
        parameters = json!({});
    }
    parameters["type"] = "object".into();
    let open = ["properties", "additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf"];
    if !open.iter().any(|key| parameters.get(*key).is_some()) {
        parameters["properties"] = json!({});
    }
    if parameters["properties"] == json!({}) && parameters.get("additionalProperties").is_none() {
        parameters["additionalProperties"] = false.into();
    }
    parameters
}

/// The keys that a call may have and those that it must, gathered from all parts of a schema.
fn pairs(parameters: &Value) -> (Map<String, Value>, Vec<String>) {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    let mut parts = vec![parameters];
    // Schemas put together from more parts than this lead round in a circle.
    for _ in 0..100 {
        let Some(part) = parts.pop() else { break };
        parts.extend(part["allOf"].as_array().into_iter().flatten());
        parts.extend(part["$ref"].as_str().and_then(|to| parameters.pointer(to.strip_prefix('#')?)));
        for (key, schema) in part["properties"].as_object().into_iter().flatten() {
            properties.entry(key).or_insert_with(|| schema.clone());
        }
        let names = part["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        required.extend(names.map(str::to_owned));
    }
    for key in &required {
        properties.entry(key).or_insert_with(|| json!({}));
    }
    (properties, required)
}

/// What limits a value that stands as text: the text behind it, and the marker at the end of a call.
#[derive(Clone, Copy)]
struct TextValue<'a> {
    behind: &'a str,
    end: &'a str,
}

/// A value in a grammar: one expression, or a rule of several.
enum ValueRule {
    Terminal(String),
    Rule(String),
}

impl TextValue<'_> {
    /// One expression with what closes it: a text would take the line break before a tag for its own. It cannot quote:
    /// neither of its limits may stand in it.
    fn terminal(self, schema: &Value) -> String {
        let escape = |text: &str| regex::escape(text).replace('/', r"\/").replace('\n', r"\n");
        let close = escape(self.behind);
        if let Some(pattern) = schema["pattern"].as_str() {
            let (start, pattern) = pattern.strip_prefix('^').map_or(("[^<]*", pattern), |rest| ("", rest));
            let end = pattern.strip_suffix('$').filter(|rest| !rest.ends_with('\\'));
            let (end, pattern) = end.map_or(("[^<]*", pattern), |rest| ("", rest));
            let pattern = pattern.replace("\\/", "/").replace('/', r"\/");
            let limits = [self.behind.trim(), self.end].map(escape);
            let limits: Vec<String> = limits.into_iter().filter(|text| !text.is_empty()).collect();
            return format!(
                "/{start}({pattern}){end}{close}/ & ~/(?s:.*)({})(?s:.*){close}/",
                limits.join("|")
            );
        }
        let (least, most) = (schema["minLength"].as_u64().unwrap_or(0), schema["maxLength"].as_u64());
        let most = most.map_or(String::new(), |most| most.to_string());
        format!("/[^<]{{{least},{most}}}{close}/")
    }
}

/// A value that stands as text between two tags, with the text behind it; what it refers to is in `root`.
fn value(schema: &Value, root: &Value, literal: &dyn Fn(&str) -> String, text: TextValue<'_>) -> ValueRule {
    let close = literal(text.behind);
    let target = schema["$ref"].as_str().and_then(|to| root.pointer(to.strip_prefix('#')?));
    let schema = target.filter(|target| target.get("$ref").is_none()).unwrap_or(schema);
    let known = schema["enum"].as_array().filter(|known| !known.is_empty()).cloned();
    if let Some(known) = known.or_else(|| schema.get("const").map(|only| vec![only.clone()])) {
        let word = |value: &Value| value.as_str().map_or_else(|| literal(&value.to_string()), literal);
        let words: Vec<String> = known.iter().map(word).collect();
        return ValueRule::Rule(format!("({}) {close}", words.join(" | ")));
    }
    let json = || {
        let mut schema = schema.clone();
        for key in ["$defs", "definitions"] {
            if let (Some(map), Some(defs)) = (schema.as_object_mut(), root.get(key)) {
                map.entry(key).or_insert_with(|| defs.clone());
            }
        }
        shorten(&mut schema);
        format!("%json {}", Grammars::fixed(&schema, true))
    };
    let composed = ["anyOf", "oneOf", "allOf", "$ref"].into_iter().any(|key| schema.get(key).is_some());
    let bounded = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
    let bounded = bounded.into_iter().any(|key| schema.get(key).is_some());
    let value = match schema.get("type").map(|kind| kind.as_str().unwrap_or_default()) {
        None if composed => json(),
        None | Some("string") => return ValueRule::Terminal(text.terminal(schema)),
        Some("integer") if !bounded => "/-?(0|[1-9][0-9]{0,14})/".to_owned(),
        Some("number") if !bounded => r"/-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?/".to_owned(),
        Some(_) => json(),
    };
    ValueRule::Rule(format!("{value} {close}"))
}

/// Bounds whole numbers that have none: between tags nothing else keeps them short.
fn shorten(schema: &mut Value) {
    const MOST: i64 = 999_999_999_999_999;
    const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    match schema {
        Value::Object(map) => {
            map.iter_mut()
                .filter(|(key, _)| !["enum", "const"].contains(&key.as_str()))
                .for_each(|(_, v)| shorten(v));
            let mut given = BOUNDS.iter().filter_map(|key| map.get(*key)?.as_f64());
            let far = given.any(|bound| bound.abs() >= 1e15);
            if !far && map.get("type").is_some_and(|kind| kind == "integer") {
                for (bound, other, most) in
                    [("minimum", "exclusiveMinimum", -MOST), ("maximum", "exclusiveMaximum", MOST)]
                {
                    if !map.contains_key(other) {
                        map.entry(bound).or_insert_with(|| most.into());
                    }
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> String {
        json!(text).to_string()
    }

    impl ValueRule {
        fn into_text(self) -> String {
            match self {
                Self::Terminal(text) | Self::Rule(text) => text,
            }
        }
    }

    #[test]
    fn the_keys_of_a_call_come_from_every_part_of_a_schema() {
        let parameters = json!({
            "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {}}, "required": ["b"]}],
            "required": ["c"],
            "$defs": {"a": {"properties": {"a": {"type": "null"}}, "allOf": [{"$ref": "#/$defs/a"}]}},
        });
        let (properties, mut required) = pairs(&parameters);
        required.sort();
        required.dedup();
        let mut keys: Vec<&str> = properties.keys().map(String::as_str).collect();
        keys.sort();
        assert_eq!((keys, required), (vec!["a", "b", "c"], vec!["b".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn a_value_in_a_tag_follows_its_schema() {
        let text = TextValue { behind: "</p>", end: "</c>" };
        let root = json!({"$defs": {"n": {"type": "integer"}, "two": {"$ref": "#/$defs/n"}}});
        for (schema, rule) in [
            (json!({"const": "a"}), r#"("a") "</p>""#),
            (json!({"type": "string", "const": "a"}), r#"("a") "</p>""#),
            (json!({"enum": ["a", 3]}), r#"("a" | "3") "</p>""#),
            (json!({"$ref": "#/$defs/n"}), r#"/-?(0|[1-9][0-9]{0,14})/ "</p>""#),
            (
                json!({"type": "string", "pattern": "^a/b$"}),
                r"/(a\/b)<\/p>/ & ~/(?s:.*)(<\/p>|<\/c>)(?s:.*)<\/p>/",
            ),
            (
                json!({"type": "string", "pattern": r"a\$"}),
                r"/[^<]*(a\$)[^<]*<\/p>/ & ~/(?s:.*)(<\/p>|<\/c>)(?s:.*)<\/p>/",
            ),
            (json!({"type": "string"}), r"/[^<]{0,}<\/p>/"),
        ] {
            let got = value(&schema, &root, &literal, text).into_text();
            assert_eq!(got.replace("\\<", "<").replace("\\>", ">"), rule, "{schema}");
        }
        for schema in
            [json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), json!({"$ref": "#/$defs/two"})]
        {
            let rule = value(&schema, &root, &literal, text).into_text();
            assert!(rule.starts_with("%json {") && rule.contains("$defs"), "{rule}");
            assert!(rule.contains("\"maximum\":999999999999999"), "{rule}");
        }
    }
}
