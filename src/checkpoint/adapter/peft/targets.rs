//! Which modules PEFT puts an adapter on: `target_modules` and `exclude_modules`.

use serde_json::Value as Json;

use super::pattern::{Pattern, ends_in};
use super::values::texts;
use crate::error::Result;

/// A choice of modules.
#[derive(Debug)]
pub(super) enum Targets {
    /// Not stated, or `all-linear`.
    Any,
    /// Names, or the ends of names.
    Names(Vec<String>),
    /// A pattern for the whole name.
    Regex(Pattern),
}

impl Targets {
    /// Reads `key`; `None` where it chooses nothing.
    ///
    /// # Errors
    /// It is neither a text nor a list of texts, or is no regular expression.
    pub(super) fn read(config: &Json, key: &str) -> Result<Option<Self>> {
        match &config[key] {
            Json::String(text) if text.is_empty() && key == "exclude_modules" => Ok(None),
            Json::String(text) if text.eq_ignore_ascii_case("all-linear") && key == "target_modules" => {
                Ok(Some(Targets::Any))
            }
            Json::String(text) => Ok(Some(Targets::Regex(Pattern::whole(key, text)?))),
            _ => Ok(Some(texts(config, key)?).filter(|names| !names.is_empty()).map(Targets::Names)),
        }
    }

    /// Whether it chooses the module.
    ///
    /// # Errors
    /// A match takes too many steps.
    pub(super) fn choose(&self, module: &str) -> Result<bool> {
        match self {
            Self::Any => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| ends_in(module, name))),
            Self::Regex(pattern) => pattern.matches(module),
        }
    }
}
