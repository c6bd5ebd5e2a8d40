//! Output that must be JSON of a given schema, or match a regular expression: the grammar engine is llguidance.
//!
//! JSON is held to one style, that of Python's `json.dumps`, with numbers of at most [`DIGITS`] digits: a weak model
//! that may add spaces or digits does so without end. The caller brings the tokens' bytes
//! (`data::Tokenizer::token_bytes`), for this room knows no text. Next: `grammar_constraint`, `schema`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

pub use super::grammar_constraint::DIGITS;
use super::grammar_constraint::{GrammarConstraint, NumberScan};
use super::request::Constraint;
use super::schema;
use crate::error::{Error, Result};

/// A vocabulary's grammars; one serves all requests.
pub struct Grammars {
    factory: ParserFactory,
    tokens: Arc<[Option<Vec<u8>>]>,
    ends: Vec<u32>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Of a vocabulary: the bytes of every token, `None` for one that stands for no text (such as an end mark). Any of
    /// `ends` ends an answer that is complete, and none of them is text.
    ///
    /// # Errors
    /// The engine does not take the vocabulary.
    pub fn new(tokens: &[Option<Vec<u8>>], ends: &[u32]) -> Result<Self> {
        let ends: Vec<u32> = ends.iter().copied().filter(|id| (*id as usize) < tokens.len()).collect();
        let tokens: Arc<[Option<Vec<u8>>]> = tokens
            .iter()
            .enumerate()
            .map(|(id, bytes)| bytes.clone().filter(|_| !ends.contains(&(id as u32))))
            .collect();
        let words: Vec<Vec<u8>> = tokens
            .iter()
            .enumerate()
            .map(|(id, bytes)| match bytes {
                Some(bytes) => bytes.clone(),
                None => {
                    // The engine's mark of a token that no text may produce.
                    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    word.extend(format!("<[{id}]>").bytes());
                    word
                }
            })
            .collect();
        let eos_id = ends.first().copied().unwrap_or_default();
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, eos_id), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let factory = ParserFactory::new_simple(&env)
            .map_err(|e| Error::failed("the grammar engine does not take this vocabulary").because(e))?;
        Ok(Self { factory, tokens, ends })
    }

    /// Text that is JSON of `schema` (a JSON Schema), on one line.
    ///
    /// # Errors
    /// A schema that is wrong, that no text follows, or that uses what the engine does not know.
    pub fn json(&self, schema: &Value) -> Result<Box<dyn Constraint + Send>> {
        if !schema::is_finite(schema) {
            return Err(Error::input("this JSON Schema cannot be followed: it demands itself without end"));
        }
        let schema = Self::fixed(schema, false);
        self.compile(TopLevelGrammar::from_json_schema(schema), "this JSON Schema", true)
    }

    /// A schema for [`Grammars::lark`] of JSON on one line, as Python's `json.dumps` and a chat template's `tojson` write it,
    /// of declared keys alone. With `lenient` what the engine does not know is left out of the rule instead of refused.
    pub fn fixed(schema: &Value, lenient: bool) -> Value {
        let options = json!({
            "item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false, "lenient": lenient,
        });
        let mut schema = match schema {
            // The engine's options need a place to stand.
            Value::Bool(true) => json!({}),
            other => schema::closed(other),
        };
        if let Some(schema) = schema.as_object_mut() {
            schema.entry("x-guidance").or_insert(options);
        }
        schema
    }

    /// Text of a grammar in the engine's dialect of Lark, with `%json {...}` where a schema stands; `numbers`: whether all
    /// that looks like a number outside quotes is one, and kept short.
    ///
    /// # Errors
    /// A grammar that is wrong, or a schema in it that is or uses what the engine does not know.
    pub fn lark(&self, grammar: &str, numbers: bool) -> Result<Box<dyn Constraint + Send>> {
        self.compile(TopLevelGrammar::from_lark(grammar.to_owned()), "this grammar", numbers)
    }

    /// A text in [`Grammars::lark`]; `ids` are its tokens, of which those that stand for no text are named themselves.
    pub fn literal(&self, ids: &[u32], text: &str) -> String {
        let bytes = |id: &u32| self.tokens.get(*id as usize).and_then(Option::as_ref);
        if ids.iter().all(|id| bytes(id).is_some()) {
            return json!(text).to_string();
        }
        let mut parts = Vec::new();
        for run in ids.chunk_by(|a, b| bytes(a).is_some() && bytes(b).is_some()) {
            let text: Vec<u8> = run.iter().filter_map(bytes).flatten().copied().collect();
            parts.push(match run {
                [id] if bytes(id).is_none() => format!("<[{id}]>"),
                _ => json!(String::from_utf8_lossy(&text)).to_string(),
            });
        }
        parts.join(" ")
    }

    /// Text that is a JSON object.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn json_object(&self) -> Result<Box<dyn Constraint + Send>> {
        self.json(&json!({"type": "object"}))
    }

    /// Text that a regular expression matches as a whole.
    ///
    /// # Errors
    /// An expression that is wrong or uses what the engine does not know.
    pub fn regex(&self, pattern: &str) -> Result<Box<dyn Constraint + Send>> {
        self.compile(TopLevelGrammar::from_regex(pattern), "this regular expression", false)
    }

    fn compile(
        &self,
        grammar: TopLevelGrammar,
        what: &str,
        numbers: bool,
    ) -> Result<Box<dyn Constraint + Send>> {
        let refused = |why: &dyn std::fmt::Display| Error::input(format!("{what} cannot be followed: {why}"));
        let made = catch_unwind(AssertUnwindSafe(|| self.factory.create_parser(grammar)));
        let parser = made.map_err(|_| refused(&"the grammar engine gave up"))?.map_err(|e| refused(&e))?;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar that allows no first token is an error of the request, reported before anything is generated.
        let first = matcher.compute_mask_or_eos().map_err(|e| refused(&e))?;
        if !(0..first.len()).any(|id| first.is_allowed(id as u32)) {
            return Err(refused(&"no text does"));
        }
        let numbers = numbers.then(NumberScan::default);
        let (tokens, ends) = (Arc::clone(&self.tokens), self.ends.clone());
        Ok(Box::new(GrammarConstraint { matcher, tokens, ends, numbers }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::sample::Sampler;
    use crate::rollout::types::SamplingParams;

    /// Every byte a token, then some longer ones, then the end mark.
    fn vocabulary() -> Vec<Option<Vec<u8>>> {
        let mut tokens: Vec<Option<Vec<u8>>> = (0..=255u8).map(|b| Some(vec![b])).collect();
        tokens.extend(["{\"", "\": ", "true", "name", "12"].map(|s| Some(s.as_bytes().to_vec())));
        tokens.push(None);
        tokens
    }

    /// Text sampled from noise within a constraint.
    fn sample(constraint: &mut Box<dyn Constraint + Send>, seed: u64) -> Option<String> {
        let tokens = vocabulary();
        let sampling = SamplingParams { temperature: 1.0, seed, ..SamplingParams::GREEDY };
        let mut sampler = Sampler::new(&sampling, &[], 0);
        let mut text = Vec::new();
        for _ in 0..400 {
            // Quotes and braces are likely, so that texts end.
            let mut logits: Vec<f32> =
                (0..tokens.len()).map(|i| if b"\"}".contains(&(i as u8)) { 4.0 } else { 0.0 }).collect();
            let token = sampler.sample_constrained(&mut logits, Some(constraint.as_mut())).unwrap().token;
            if let Some(bytes) = &tokens[token as usize] {
                text.extend(bytes);
            }
            if constraint.accept(token).unwrap() {
                return Some(String::from_utf8(text).unwrap());
            }
        }
        None
    }

    /// What a model writes that likes nothing better than white space.
    fn spaced(mut guide: Box<dyn Constraint + Send>) -> String {
        let (mut text, mut done) = (Vec::new(), false);
        while !done && text.len() < 400 {
            let mut logits = vec![0.0f32; 262];
            (logits[usize::from(b'\n')], logits[usize::from(b' ')]) = (9.0, 8.0);
            guide.mask(&mut logits).unwrap();
            let token = (0..262).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            text.extend(vocabulary()[token].iter().flatten());
            done = guide.accept(token as u32).unwrap();
        }
        assert!(done, "{text:?}");
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn noise_within_a_schema_is_json_of_that_schema() {
        let grammars = Grammars::new(&vocabulary(), &[261]).unwrap();
        let schema = json!({
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
            "required": ["name", "age", "kind"],
            "additionalProperties": false,
        });
        let mut ended = 0;
        for seed in 0..20 {
            let Some(text) = sample(&mut grammars.json(&schema).unwrap(), seed) else { continue };
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert!(value["name"].is_string() && value["age"].is_i64() | value["age"].is_number());
            assert!(["a", "b"].contains(&value["kind"].as_str().unwrap()));
            ended += 1;
        }
        assert!(ended > 5, "{ended}");
        // A model that likes nothing better than line breaks has no place for one.
        let schema = json!({"enum": [{"a": [1, 2], "b": {}}]});
        let style = r#"{"a": [1, 2], "b": {}}"#;
        assert_eq!(spaced(grammars.json(&schema).unwrap()), style);
        let lark = format!("start: %json {}\n", Grammars::fixed(&schema, false));
        assert_eq!(spaced(grammars.lark(&lark, true).unwrap()), style);
        let mut word = grammars.regex("(yes|no)!").unwrap();
        assert!(["yes!", "no!"].contains(&sample(&mut word, 1).unwrap().as_str()));
        assert!(sample(&mut grammars.json_object().unwrap(), 2).is_none_or(|t| t.starts_with('{')));
    }

    /// What a model writes that likes `loved` best.
    fn stubborn(mut guide: Box<dyn Constraint + Send>, loved: u8) -> String {
        let mut text = Vec::new();
        for _ in 0..300 {
            let mut logits: Vec<f32> = (0..262).map(|i| -(i as f32)).collect();
            logits[usize::from(loved)] = 9.0;
            guide.mask(&mut logits).unwrap();
            let token = (0..262).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            text.extend(vocabulary()[token].iter().flatten());
            if guide.accept(token as u32).unwrap() {
                return String::from_utf8(text).unwrap();
            }
        }
        panic!("no end: {}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn numbers_and_keys_come_to_an_end() {
        let grammars = Grammars::new(&vocabulary(), &[261]).unwrap();
        let object =
            |schema: Value| json!({"type": "object", "properties": {"n": schema}, "required": ["n"]});
        for schema in
            [json!({"type": "integer"}), json!({"type": "number"}), json!({"type": "integer", "minimum": 3})]
        {
            for loved in *b"9.e0" {
                let text = stubborn(grammars.json(&object(schema.clone())).unwrap(), loved);
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
                assert!(value["n"].is_number() && value.as_object().unwrap().len() == 1, "{text}");
                assert!(text.bytes().filter(u8::is_ascii_digit).count() <= DIGITS, "{text}");
            }
        }
        // Digits in a text are text, and those that a schema demands come.
        let text = object(json!({"type": "string", "minLength": 30, "maxLength": 30}));
        assert_eq!(
            stubborn(grammars.json(&text).unwrap(), b'7'),
            format!("{{\"n\": \"{}\"}}", "7".repeat(30))
        );
        let long = object(json!({"const": 1_234_567_890_123_456i64}));
        assert!(stubborn(grammars.json(&long).unwrap(), b'}').contains("1234567890123456"));
    }

    #[test]
    fn any_end_mark_ends_a_complete_text_and_none_is_text() {
        // The third mark is a letter.
        let grammars = Grammars::new(&vocabulary(), &[261, 260, u32::from(b'a')]).unwrap();
        let mut guide = grammars.json(&json!({"type": "integer"})).unwrap();
        let masked = |guide: &mut Box<dyn Constraint + Send>| {
            let mut logits = vec![0.0f32; 300];
            guide.mask(&mut logits).unwrap();
            [261, 260, 97].map(|id| logits[id] == 0.0)
        };
        assert_eq!(masked(&mut guide), [false; 3]);
        assert!(!guide.accept(u32::from(b'7')).unwrap());
        assert_eq!(masked(&mut guide), [true; 3]);
        assert!(guide.accept(260).unwrap());
        let mut word = grammars.regex("a*b").unwrap();
        assert_eq!(masked(&mut word), [false; 3]);
        assert_eq!(grammars.literal(&[98, 99, 260, 98], "bc12b"), "\"bc\" <[260]> \"b\"");
        assert_eq!(grammars.literal(&[98], "b\n"), "\"b\\n\"");
    }

    #[test]
    fn a_wrong_schema_is_said() {
        let grammars = Grammars::new(&vocabulary(), &[261]).unwrap();
        assert!(grammars.json(&json!({"type": "nonsense"})).is_err());
        for endless in [
            json!({"$ref": "#"}),
            json!({"enum": []}),
            json!(false),
            json!({"type": "integer", "minimum": 3, "maximum": 2}),
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
            json!({"$ref": "#/$defs/none"}),
            json!({"not": {}}),
            json!(3),
            json!([]),
        ] {
            let fault = grammars.json(&endless).err().unwrap_or_else(|| panic!("{endless} is taken"));
            assert_eq!(fault.exit_code(), 2, "{endless}: {fault}");
        }
        assert!(grammars.json(&json!(true)).is_ok());
        assert!(grammars.regex("(").is_err());
    }
}
