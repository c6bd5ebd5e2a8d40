//! A request's JSON object, read field by field: a wrong type or range is a 400 that names the field.
//!
//! `null` counts as absent, as clients send it. Fields that nothing asks for are left alone: clients send
//! many that other servers know.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::serve::error::ApiError;

/// The object of a body.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

fn wrong(name: &str, wanted: &str, value: &Value) -> ApiError {
    let shown: String = value.to_string().chars().take(60).collect();
    ApiError::param(name, format!("`{name}` must be {wanted}, not {shown}"))
}

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 for a body that is not a JSON object.
    pub fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ApiError::bad_request("the body must be a JSON object")),
            Err(error) => Err(ApiError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    /// Reads the fields of an object of a request.
    pub fn of(map: Map<String, Value>) -> Self {
        Self(map)
    }

    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| wrong(name, wanted, value))
    }

    /// A string.
    ///
    /// # Errors
    /// 400 for a field of another type.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// True or false.
    ///
    /// # Errors
    /// 400 for a field of another type.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// An array.
    ///
    /// # Errors
    /// 400 for a field of another type.
    pub fn list(&self, name: &str) -> Result<Option<&Vec<Value>>, ApiError> {
        self.typed(name, "an array", Value::as_array)
    }

    /// An object.
    ///
    /// # Errors
    /// 400 for a field of another type.
    pub fn object(&self, name: &str) -> Result<Option<&Map<String, Value>>, ApiError> {
        self.typed(name, "an object", Value::as_object)
    }

    /// A number within a range.
    ///
    /// # Errors
    /// 400 for a field of another type or outside the range.
    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.typed(name, &wanted, |value| value.as_f64().filter(|n| range.contains(n)))
    }

    /// A whole number within a range; `3.0` is one.
    ///
    /// # Errors
    /// 400 for a field of another type or outside the range.
    pub fn whole(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let wanted = match *range.end() {
            i64::MAX if *range.start() == i64::MIN => "a whole number".to_owned(),
            i64::MAX => format!("a whole number from {}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        self.typed(name, &wanted, |value| as_whole(value).filter(|n| range.contains(n)))
    }

    /// A string or an array of at most `most` strings; empty where the field is absent.
    ///
    /// # Errors
    /// 400 for a field of another type.
    pub fn texts(&self, name: &str, most: usize) -> Result<Vec<String>, ApiError> {
        let wanted = format!("a string or an array of at most {most} strings");
        let read = |value: &Value| match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) if items.len() <= most => {
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        Ok(self.typed(name, &wanted, read)?.unwrap_or_default())
    }

    /// An array of token ids; empty where the field is absent.
    ///
    /// # Errors
    /// 400 for a field of another type.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>, ApiError> {
        Ok(self.typed(name, "an array of token ids", token_ids)?.unwrap_or_default())
    }
}

/// A whole number, also when written as `3.0`.
fn as_whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64))
}

/// Reads an array of token ids; `None` for anything else.
pub fn token_ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(id.as_i64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn types_and_ranges_are_checked_and_null_is_absent() {
        let f = fields(r#"{"t": 9, "n": 2.0, "s": null, "b": "yes", "stop": ["a", 3], "ids": [1, -2]}"#);
        assert_eq!(f.whole("n", 1..=4).unwrap(), Some(2));
        assert_eq!(f.text("s").unwrap(), None);
        let said = f.number("t", 0.0..=2.0).unwrap_err().body();
        assert_eq!(said["error"]["param"], "t");
        assert_eq!(said["error"]["message"], "`t` must be a number from 0 to 2, not 9");
        assert!(f.flag("b").is_err() && f.texts("stop", 4).is_err() && f.ids("ids").is_err());
        assert!(Fields::read(b"[]").is_err() && Fields::read(b"{").is_err());
    }
}
