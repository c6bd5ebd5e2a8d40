//! The words of faults: what a value is, what it may be, did-you-mean.
//!
//! Next: `check`, which finds them.

use serde_json::Value as Node;
use serde_yaml::Value;

/// The nearest of `known`, if it is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), k))
        .filter(|(distance, k)| *distance < word.len() && *distance <= (word.len().max(k.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// `did you mean ...`, or the list of what is allowed.
pub fn hint(word: &str, known: &[&str], label: &str) -> String {
    match nearest(word, known.iter().copied()) {
        Some(k) => format!("did you mean `{k}`?"),
        None if known.is_empty() => format!("there are no {label}"),
        None => format!("{label}: {}", known.join(", ")),
    }
}

/// `` in `data` of stage `sft` ``; nothing at the top.
pub fn section(path: &[String]) -> String {
    match path {
        [] => String::new(),
        [stages, _] if stages == "stages" => " in a stage".to_owned(),
        [stages, _, kind] if stages == "stages" => format!(" in stage `{kind}`"),
        [stages, _, kind, .., last] if stages == "stages" => format!(" in `{last}` of stage `{kind}`"),
        [.., last] => format!(" in `{last}`"),
    }
}

/// A value in a fault.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Mapping(_) => "a map".to_owned(),
        Value::Sequence(_) => "a list".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{}`", serde_yaml::to_string(other).unwrap_or_default().trim()),
    }
}

/// What to give instead of a number out of the range that `node` states; `None` where it is within. Numbers that are
/// not finite are within none.
pub fn range_hint(value: &Value, node: &Node) -> Option<String> {
    let bound = |key: &str| node.get(key).and_then(Node::as_f64);
    let (least, above) = (bound("minimum"), bound("exclusiveMinimum"));
    let (most, below) = (bound("maximum"), bound("exclusiveMaximum"));
    let number = value.as_f64()?;
    if super::shape::types(node) == ["integer"] {
        // As whole numbers, so that large ones are not rounded.
        let bound = |key: &str| node.get(key).and_then(Node::as_i64);
        let (whole, least, most) = (value.as_i64()?, bound("minimum"), bound("maximum"));
        return match (least, most) {
            (Some(least), _) if whole < least => Some(format!("give a whole number of at least {least}")),
            (_, Some(most)) if whole > most => Some(format!("give a whole number of at most {most}")),
            _ => None,
        };
    }
    let within = least.is_none_or(|bound| number >= bound)
        && above.is_none_or(|bound| number > bound)
        && most.is_none_or(|bound| number <= bound)
        && below.is_none_or(|bound| number < bound);
    if within && !number.is_nan() {
        return number.is_infinite().then(|| "give a number that is finite".to_owned());
    }
    let range = match (least, above, most, below) {
        (Some(least), _, Some(most), _) => format!("between {least} and {most}"),
        (Some(least), _, _, Some(below)) => format!("in [{least}, {below})"),
        (Some(least), _, _, _) => format!("of at least {least}"),
        (_, Some(above), Some(most), _) => format!("above {above}, up to {most}"),
        (_, Some(above), _, Some(below)) => format!("above {above}, below {below}"),
        (_, Some(above), _, _) => format!("above {above}"),
        (_, _, Some(most), _) => format!("of at most {most}"),
        (_, _, _, Some(below)) => format!("below {below}"),
        _ => "that is finite".to_owned(),
    };
    Some(format!("give a number {range}"))
}
