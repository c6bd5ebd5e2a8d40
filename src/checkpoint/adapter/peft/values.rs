//! Values of the keys in PEFT's `adapter_config.json`, and the faults of wrong ones.

use serde_json::Value as Json;

use super::pattern::Pattern;
use crate::checkpoint::adapter::detect::PEFT_CONFIG;
use crate::error::{Error, Result};

/// The fault of a key that is set and not computed here.
pub(super) fn unsupported(key: &str, why: &str) -> Error {
    Error::failed(format!("this adapter has `{key}` set, which is not supported"))
        .because(why.to_owned())
        .hint(
            "in Python, peft's merge_and_unload() and save_pretrained() make a model of it that is read here",
        )
}

/// The fault of a value of the wrong type.
pub(super) fn wrong_value(key: &str, value: &Json, want: &str) -> Error {
    Error::failed(format!("`{key}` in {PEFT_CONFIG} is {value}, expected {want}"))
}

/// A boolean; absent is false.
///
/// # Errors
/// It is something else.
pub(super) fn flag(config: &Json, key: &str) -> Result<bool> {
    match &config[key] {
        Json::Null => Ok(false),
        Json::Bool(on) => Ok(*on),
        other => Err(wrong_value(key, other, "true or false")),
    }
}

/// `rank_pattern` and `alpha_pattern`: an object of patterns and numbers, in the order of the file.
///
/// # Errors
/// It is no such object, or a key is no regular expression.
pub(super) fn patterns(config: &Json, key: &str) -> Result<Vec<(Pattern, f64)>> {
    let Some(map) = config[key].as_object() else {
        return if config[key].is_null() {
            Ok(Vec::new())
        } else {
            Err(wrong_value(key, &config[key], "an object"))
        };
    };
    let read = |(pattern, value): (&String, &Json)| {
        let number = value.as_f64().ok_or_else(|| wrong_value(key, value, "a number for each pattern"))?;
        Ok((Pattern::ending(key, pattern)?, number))
    };
    map.iter().map(read).collect()
}

/// The value of the first pattern that matches the module, as in peft.
///
/// # Errors
/// A match takes too many steps.
pub(super) fn first_match(patterns: &[(Pattern, f64)], module: &str) -> Result<Option<f64>> {
    for (pattern, value) in patterns {
        if pattern.matches(module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// A list of texts, or a single one.
///
/// # Errors
/// It is neither.
pub(super) fn texts(config: &Json, key: &str) -> Result<Vec<String>> {
    match &config[key] {
        Json::Null => Ok(Vec::new()),
        Json::String(text) => Ok(vec![text.clone()]),
        Json::Array(list) => {
            let text = |item: &Json| item.as_str().map(str::to_owned);
            let all: Option<Vec<String>> = list.iter().map(text).collect();
            all.ok_or_else(|| wrong_value(key, &config[key], "a list of texts"))
        }
        other => Err(wrong_value(key, other, "a list of texts")),
    }
}

/// A list of integers.
///
/// # Errors
/// It is no such list.
pub(super) fn integers(key: &str, value: &Json) -> Result<Vec<i64>> {
    let list = value.as_array().and_then(|list| list.iter().map(Json::as_i64).collect::<Option<Vec<i64>>>());
    list.ok_or_else(|| wrong_value(key, value, "a list of whole numbers"))
}

/// `layers_to_transform`: a layer or a list of them; `None` means all.
///
/// # Errors
/// It is neither.
pub(super) fn layers(value: &Json) -> Result<Option<Vec<i64>>> {
    match value {
        Json::Null => Ok(None),
        Json::Number(_) => match value.as_i64() {
            Some(layer) => Ok(Some(vec![layer])),
            None => Err(wrong_value("layers_to_transform", value, "whole numbers")),
        },
        _ => Ok(Some(integers("layers_to_transform", value)?).filter(|list| !list.is_empty())),
    }
}
