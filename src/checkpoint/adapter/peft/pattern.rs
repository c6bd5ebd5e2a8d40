//! Regular expressions on module names, as peft matches them with Python's `re`.
//!
//! Look-arounds and backreferences are common there, so the engine is one that has them; a match that takes too many
//! steps is refused. Next: `config`, which holds the patterns.

use fancy_regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// Steps that one name may take.
const MAX_STEPS: usize = 100_000;

/// A pattern of a key in `adapter_config.json`.
#[derive(Debug)]
pub struct Pattern {
    key: String,
    text: String,
    regex: Regex,
}

impl Pattern {
    fn new(key: &str, text: &str, regex: &str) -> Result<Self> {
        // Python's `$` and `\Z` at a name's end are the same, for names hold no lines.
        let regex = RegexBuilder::new(&regex.replace(r"\Z", r"\z")).backtrack_limit(MAX_STEPS).build();
        let regex = regex.map_err(|e| {
            Error::failed(format!("`{key}` holds a pattern that cannot be read: `{}`", text.escape_debug()))
                .because(e)
        })?;
        Ok(Self { key: key.to_owned(), text: text.to_owned(), regex })
    }

    /// Matches the whole name (`re.fullmatch`).
    ///
    /// # Errors
    /// `text` is no regular expression.
    pub fn whole(key: &str, text: &str) -> Result<Self> {
        Self::new(key, text, &format!(r"\A(?:{text})\z"))
    }

    /// Matches the name or what follows one of its dots (`get_pattern_key`).
    ///
    /// # Errors
    /// `text` is no regular expression.
    pub fn ending(key: &str, text: &str) -> Result<Self> {
        Self::new(key, text, &format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    /// Finds the number after the first match of the pattern (`layers_pattern`).
    ///
    /// # Errors
    /// `text` is no regular expression.
    pub fn layer(key: &str, text: &str) -> Result<Self> {
        // Without a pattern of the user's, any name will do, but not the first of all.
        let before = if text == "[^.]*" { r".*?\." } else { r"(?:^|.*?\.)" };
        Self::new(key, text, &format!(r"\A{before}(?:{text})\.(?P<idx>\d+)\."))
    }

    fn failed(&self, error: fancy_regex::Error) -> Error {
        Error::failed(format!("the pattern `{}` of `{}` cannot be used", self.text.escape_debug(), self.key))
            .because(error)
    }

    /// Whether it matches.
    ///
    /// # Errors
    /// The match takes too many steps.
    pub fn matches(&self, module: &str) -> Result<bool> {
        self.regex.is_match(module).map_err(|e| self.failed(e))
    }

    /// The layer index that it finds.
    ///
    /// # Errors
    /// The match takes too many steps.
    pub fn layer_index(&self, module: &str) -> Result<Option<i64>> {
        let found = self.regex.captures(module).map_err(|e| self.failed(e))?;
        Ok(found.and_then(|found| found.name("idx")?.as_str().parse().ok()))
    }
}

/// Whether `module` is `name`, or ends in it after a dot.
pub fn ends_in(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_python() {
        let fits =
            |text: &str, name: &str| Pattern::ending("alpha_pattern", text).unwrap().matches(name).unwrap();
        let v = "model.layers.1.self_attn.v_proj";
        assert!(fits(r"layers\.1\.self_attn\.v_proj", v) && fits("v_proj", v) && fits(v, v));
        assert!(fits(r".*1\..*v_proj|x", v) && fits("^model.*", v) && fits("[kv]_proj", v));
        assert!(!fits("_proj", v) && !fits("v_pro", v) && !fits(r"layers\.1", v) && !fits("^v_proj", "a.b"));
        assert!(fits(r"(?!.*lm_head).*_proj", v) && fits(r"(v)_proj\Z", v));
        let whole = |text: &str| Pattern::whole("target_modules", text).unwrap().matches(v).unwrap();
        assert!(whole(r".*\.(q|v)_proj") && whole(r"^(?!.*lm_head).*proj$") && !whole("v_proj"));
        let layer = |text: &str, name: &str| {
            Pattern::layer("layers_pattern", text).unwrap().layer_index(name).unwrap()
        };
        assert_eq!(layer("[^.]*", "model.layers.3.experts.7.up_proj"), Some(3));
        assert_eq!(layer("[^.]*", "layers.3.mlp.up_proj"), None);
        assert_eq!(layer("layers", "layers.3.mlp.up_proj"), Some(3));
        assert_eq!(layer("blocks", v), None);
        let fault = Pattern::ending("rank_pattern", "a(b").unwrap_err().to_string();
        assert!(fault.contains("`rank_pattern`") && fault.contains("a(b"), "{fault}");
        let slow = Pattern::ending("rank_pattern", r"(?=(a+)+b)(a|aa)+\1$").unwrap();
        assert!(
            slow.matches(&"a".repeat(60)).is_ok_and(|fits| !fits) || slow.matches(&"a".repeat(60)).is_err()
        );
        assert!(ends_in(v, "v_proj") && ends_in(v, v) && !ends_in(v, "_proj"));
    }
}
