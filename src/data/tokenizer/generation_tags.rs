//! What a template itself marks as the assistant's: its `{% generation %}` blocks, as places in the rendered text.
//!
//! A second copy of the template writes a character that no text holds before and behind each block; taken out again
//! they leave the text and the blocks' places. Next: [`super::loss_mask`], which asks for them.

use std::ops::Range;

/// Stand before and behind a block. Unicode keeps both free for a program's own use: no text holds them.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// The template with a mark before and behind each of its generation blocks; `None` where it has none.
///
/// A tag becomes two, `{%- generation -%}` for one `{%- if true %}`, the mark and `{% if true -%}`, so that what the
/// tag does to the blanks around it stays as it is.
pub(super) fn with_sentinels(source: &str) -> Option<String> {
    let mut out = String::with_capacity(source.len() + 64);
    let (mut rest, mut blocks) = (source, 0);
    while let Some(start) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let comment = rest[start..].starts_with("{#");
        let Some(length) = rest[start..].find(if comment { "#}" } else { "%}" }) else { break };
        let (inside, after) = (&rest[start + 2..start + length], start + length + 2);
        let bare = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let tags = match bare {
            "generation" if !comment => Some(("if true", OPEN, "if true")),
            "endgeneration" if !comment => Some(("endif", CLOSE, "endif")),
            _ => None,
        };
        match tags {
            None => out.push_str(&rest[..after]),
            Some((first, mark, second)) => {
                let control = |c: Option<char>| match c {
                    Some(c @ ('-' | '+')) => c.to_string(),
                    _ => String::new(),
                };
                let (left, right) = (control(inside.chars().next()), control(inside.chars().next_back()));
                out.push_str(&rest[..start]);
                out.push_str(&format!("{{%{left} {first} %}}{mark}{{% {second} {right}%}}"));
                blocks += 1;
            }
        }
        rest = &rest[after..];
    }
    out.push_str(rest);
    (blocks > 0).then_some(out)
}

/// The text that the marked template rendered, its marks taken out, and where they stood; `None` where they do not
/// pair.
pub(super) fn take_sentinels(rendered: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(rendered.len());
    let (mut found, mut open) = (Vec::new(), None);
    for c in rendered.chars() {
        match (c, open) {
            (OPEN, None) => open = Some(text.len()),
            (CLOSE, Some(start)) => {
                found.push(start..text.len());
                open = None;
            }
            (OPEN | CLOSE, _) => return None,
            _ => text.push(c),
        }
    }
    open.is_none().then_some((text, found))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde_json::json;

    use super::super::{ChatTemplate, RenderOptions};
    use super::*;

    #[test]
    fn blocks_are_found_and_the_text_stays() {
        // Each way to write the blanks around a tag.
        for (open, close) in
            [("{% ", " %}"), ("{%- ", " -%}"), ("{%- ", "%}"), ("{%", " -%}"), ("{%+ ", " %}")]
        {
            let tag = |name: &str| format!("{open}{name}{close}");
            let source = format!(
                "{{# {{% generation %}} #}}\n{{% for m in messages %}}\n  [{{{{ m.role }}}}]\n  {}\n  {{{{ m.content }}}} \n  {}\n!\n{{% endfor %}}",
                tag("generation"),
                tag("endgeneration")
            );
            let render = |source: &str| {
                let template = ChatTemplate::parse(source, Path::new("t")).unwrap();
                let messages = json!([{"role": "a", "content": "Grüße"}, {"role": "b", "content": "c"}]);
                template.render(&messages, None, RenderOptions::default(), &BTreeMap::new()).unwrap()
            };
            let (text, found) = take_sentinels(&render(&with_sentinels(&source).unwrap())).unwrap();
            assert_eq!(text, render(&source), "{open}{close}");
            let said: Vec<&str> = found.iter().map(|at| text[at.clone()].trim()).collect();
            assert_eq!(said, ["Grüße", "c"]);
        }
        assert_eq!(with_sentinels("{# {% generation %} #}{{ x }}"), None);
        assert_eq!(take_sentinels("a\u{fdd0}b"), None);
    }
}
