//! Output that must be JSON of a given schema, or match a regular expression: the grammar engine is llguidance.
//! The caller brings the tokens' bytes (`data::Tokenizer::token_bytes`), for this room knows no text.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::request::Constraint;
use crate::error::{Error, Result};

/// White space between the parts of JSON: as people indent it. JSON allows any amount, in which a weak model never ends.
const WHITESPACE: &str = r"[ \t]{1,4}|\r?\n[ \t]{0,24}";

/// A vocabulary's grammars; one serves all requests.
pub struct Grammars {
    factory: ParserFactory,
    eos_id: u32,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("eos_id", &self.eos_id).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Of a vocabulary: the bytes of every token, `None` for one that stands for no text (such as an end mark).
    ///
    /// # Errors
    /// The engine does not take the vocabulary.
    pub fn new(tokens: &[Option<Vec<u8>>], eos_id: u32) -> Result<Self> {
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
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, eos_id), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let factory = ParserFactory::new_simple(&env)
            .map_err(|e| Error::failed("the grammar engine does not take this vocabulary").because(e))?;
        Ok(Self { factory, eos_id })
    }

    /// Text that is JSON of `schema` (a JSON Schema).
    ///
    /// # Errors
    /// A schema that is wrong or uses what the engine does not know.
    pub fn json(&self, schema: &Value) -> Result<Box<dyn Constraint + Send>> {
        let schema = with_options(schema, json!({"whitespace_pattern": WHITESPACE}));
        self.compile(TopLevelGrammar::from_json_schema(schema), "this JSON Schema")
    }

    /// A schema for [`Grammars::lark`] of JSON on one line, as a chat template's `tojson` writes it: at most one space,
    /// behind commas and colons. With `lenient` what the engine does not know is left out of the rule instead of refused.
    pub fn compact(schema: &Value, lenient: bool) -> Value {
        let options = json!({
            "item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": false, "lenient": lenient,
        });
        with_options(schema, options)
    }

    /// Text of a grammar in the engine's dialect of Lark, with `%json {...}` where a schema stands.
    ///
    /// # Errors
    /// A grammar that is wrong, or a schema in it that is or uses what the engine does not know.
    pub fn lark(&self, grammar: &str) -> Result<Box<dyn Constraint + Send>> {
        self.compile(TopLevelGrammar::from_lark(grammar.to_owned()), "this grammar")
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
        self.compile(TopLevelGrammar::from_regex(pattern), "this regular expression")
    }

    fn compile(&self, grammar: TopLevelGrammar, what: &str) -> Result<Box<dyn Constraint + Send>> {
        let parser = self
            .factory
            .create_parser(grammar)
            .map_err(|e| Error::input(format!("{what} cannot be followed: {e}")))?;
        Ok(Box::new(Guide { matcher: Matcher::new(Ok(parser)), eos_id: self.eos_id }))
    }
}

/// A schema with the engine's options, where it brings none.
fn with_options(schema: &Value, options: Value) -> Value {
    let mut schema = schema.clone();
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("x-guidance").or_insert(options);
    }
    schema
}

/// A text in the making.
struct Guide {
    matcher: Matcher,
    eos_id: u32,
}

fn lost(error: impl std::fmt::Display) -> Error {
    Error::failed("the grammar cannot go on from here").because(error)
}

impl Constraint for Guide {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(lost)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            // A model may have more rows than the tokenizer has tokens.
            if id >= allowed.len() || !allowed.is_allowed(id as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool> {
        if token == self.eos_id {
            return Ok(true);
        }
        self.matcher.consume_token(token).map_err(lost)?;
        Ok(self.matcher.is_stopped())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::sample::{Sampler, Sampling};

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
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
        let mut sampler = Sampler::new(&sampling, &[], 0);
        let mut text = Vec::new();
        for _ in 0..400 {
            // Quotes and braces are likely, so that texts end.
            let mut logits: Vec<f32> =
                (0..tokens.len()).map(|i| if b"\"}".contains(&(i as u8)) { 4.0 } else { 0.0 }).collect();
            let token = sampler.choose_among(&mut logits, Some(constraint.as_mut())).unwrap().token;
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
        let grammars = Grammars::new(&vocabulary(), 261).unwrap();
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
        // A model that likes nothing better than line breaks comes to an end all the same.
        let text = spaced(grammars.json(&json!({"enum": [[1, 2]]})).unwrap());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!([1, 2]));
        assert!(text.contains('\n'), "{text:?}");
        // On one line it has the spaces of Python's `json.dumps` and no other.
        let schema = Grammars::compact(&json!({"enum": [{"a": [1, 2], "b": {}}]}), false);
        let text = spaced(grammars.lark(&format!("start: %json {schema}\n")).unwrap());
        assert_eq!(text, r#"{"a": [1, 2], "b": {}}"#);
        let mut word = grammars.regex("(yes|no)!").unwrap();
        assert!(["yes!", "no!"].contains(&sample(&mut word, 1).unwrap().as_str()));
        assert!(sample(&mut grammars.json_object().unwrap(), 2).is_none_or(|t| t.starts_with('{')));
    }

    #[test]
    fn a_wrong_schema_is_said() {
        let grammars = Grammars::new(&vocabulary(), 261).unwrap();
        assert!(grammars.json(&json!({"type": "nonsense"})).is_err());
        assert!(grammars.regex("(").is_err());
    }
}
