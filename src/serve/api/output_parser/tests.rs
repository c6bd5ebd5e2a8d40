//! Answers taken apart, whole and cut anywhere.

use super::*;
use crate::rollout::tools::calls::tests::{any_calls, forms};
use proptest::prelude::*;

/// Pieces of one kind joined, whatever the cuts.
fn split(text: &str, cuts: &[usize], thinking: bool, tools: bool) -> (String, String, Vec<ParsedCall>) {
    let mode = if tools { ToolCallMode::Auto } else { ToolCallMode::None };
    let mut parser = OutputParser::new(mode, ToolSyntax::default());
    if thinking {
        parser = parser.in_thinking();
    }
    let chars: Vec<char> = text.chars().collect();
    let mut parts = Vec::new();
    let mut from = 0;
    for &cut in cuts {
        let to = (from + cut).min(chars.len());
        parts.extend(parser.push(&chars[from..to].iter().collect::<String>()));
        from = to;
    }
    parts.extend(parser.push(&chars[from..].iter().collect::<String>()));
    parts.extend(parser.finish(false));
    let (mut thought, mut said, mut calls) = (String::new(), String::new(), Vec::new());
    for part in parts {
        match part {
            OutputPart::Reasoning(text) => thought.push_str(&text),
            OutputPart::Content(text) => said.push_str(&text),
            OutputPart::Call(call) => calls.push(call),
        }
    }
    (thought, said, calls)
}

#[test]
fn thinking_content_and_calls_are_told_apart() {
    let (thought, said, calls) = split(
        "I add.\n</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"b\": 1, \"a\": 2}}\n</tool_call>\n<tool_call>{\"name\":\"x\"}</tool_call>",
        &[],
        true,
        true,
    );
    assert_eq!((thought.as_str(), said.as_str()), ("I add.", "Let me see."));
    let call = |name: &str, arguments: &str| ParsedCall { name: name.into(), arguments: arguments.into() };
    assert_eq!(calls, [call("add", "{\"b\":1,\"a\":2}"), call("x", "{}")]);
    assert_eq!(split("<think>\nhm\n</think>\nyes", &[3, 4], false, false).0, "hm");
    assert_eq!(split("a <think> b", &[], false, false).1, "a <think> b");
    // A marker in a JSON string is text; in a string that never ends it counts.
    let quoted = "<tool_call>{\"name\": \"x\", \"arguments\": {\"y\": \"</tool_call>\"}}</tool_call>";
    assert_eq!(split(quoted, &[40], false, true).2, [call("x", "{\"y\":\"</tool_call>\"}")]);
    let open = "<tool_call>{\"name\": \"x</tool_call> a <tool_call>{\"name\": \"x\"}</tool_call>";
    let (_, said, calls) = split(open, &[30], false, true);
    assert_eq!((said.as_str(), calls), ("<tool_call>{\"name\": \"x</tool_call> a ", vec![call("x", "{}")]));
    // A call that is none, one that is cut off, and one where no tool was offered stay text.
    assert_eq!(split("<tool_call>no</tool_call>", &[], false, true).1, "<tool_call>no</tool_call>");
    assert_eq!(split("<tool_call>{\"na", &[], false, true).1, "<tool_call>{\"na");
    assert_eq!(split("<tool_call>{\"name\":\"x\"}</tool_call>", &[], false, false).2, []);
    assert_eq!(split("a < b\n", &[2], false, true).1, "a < b\n");
    // A string that never closes hides no marker.
    let broken = "<tool_call>{\"name\": \"x}</tool_call>";
    assert_eq!(split(broken, &[], false, true).1, broken);
    let (_, content, calls) =
        split(&format!("{broken}\n<tool_call>{{\"name\":\"y\"}}</tool_call>"), &[], false, true);
    assert_eq!((content.as_str(), calls.len()), (broken, 1));
}

#[test]
fn a_call_that_is_cut_off_keeps_its_name_and_what_there_is_of_its_arguments() {
    let end = |mode: ToolCallMode, cut: bool, text: &str| {
        let mut parser = OutputParser::new(mode, ToolSyntax::default());
        [parser.push(text), parser.finish(cut)].concat()
    };
    let call = |name: &str, arguments: &str| {
        OutputPart::Call(ParsedCall { name: name.into(), arguments: arguments.into() })
    };
    let content = |text: &str| OutputPart::Content(text.to_owned());
    let demanded = |name: Option<&str>| ToolCallMode::Forced { name: name.map(str::to_owned) };
    for (inside, arguments) in [
        (r#"{"name": "add", "arguments": {"a": 1, "b"#, r#"{"a": 1, "b"#),
        (r#"{"name": "add", "arg"#, ""),
        (r#"{"name": "add""#, ""),
        (r#"{"name": "add", "arguments": {"a": 1}"#, r#"{"a": 1}"#),
        (r#"{"name": "add", "arguments": {"a": "</tool_call></tool"#, r#"{"a": "</tool_call></tool"#),
        ("{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_", r#"{"a":1}"#),
    ] {
        assert_eq!(end(demanded(None), true, inside), [call("add", arguments)], "{inside}");
        let written = format!("I ask.\n<tool_call>\n{inside}");
        let parts = [content("I ask."), call("add", arguments)];
        assert_eq!(end(ToolCallMode::Auto, true, &written), parts, "{written}");
    }
    // Before its name is whole it stays text, unless there is one name alone.
    let early = "{\"name\": \"ad";
    assert_eq!(end(demanded(Some("add")), true, early), [call("add", "")]);
    assert_eq!(end(demanded(None), true, early), [content("<tool_call>{\"name\": \"ad")]);
    let written = format!("<tool_call>{early}");
    assert_eq!(end(ToolCallMode::Auto, true, &written), [content(&written)]);
    // So does one that the model itself leaves open.
    let open = r#"<tool_call>{"name": "add", "arguments": {"a": 1"#;
    assert_eq!(end(ToolCallMode::Auto, false, open), [content(open)]);
    // The start of a further call's tag is no content of a demanded answer.
    for two in [
        "{\"name\": \"add\"}\n</tool_call>\n<tool_call>",
        "{\"name\": \"add\"}\n</tool_call>\n<tool_call>\n{\"na",
    ] {
        assert_eq!(end(demanded(Some("add")), true, two), [call("add", "{}")], "{two}");
        assert_eq!(end(demanded(None), true, two), [call("add", "{}")], "{two}");
    }
    let two = "{\"name\": \"add\"}\n</tool_call>\n<tool_";
    assert_eq!(end(demanded(None), true, two), [call("add", "{}")]);
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        text in "(<think>|</think>|<tool_call>|</tool_call>|[a<\n{}é\"\\\\])*",
        cuts in prop::collection::vec(1usize..5, 0..20),
        thinking in any::<bool>(),
        tools in any::<bool>(),
    ) {
        prop_assert_eq!(split(&text, &cuts, thinking, tools), split(&text, &[], thinking, tools));
    }

    #[test]
    fn an_argument_is_read_back_whole(
        (form, text, values) in any_calls(),
        cuts in prop::collection::vec(1usize..9, 0..80),
        thought in any::<bool>(),
    ) {
        let syntax = ToolSyntax { form: Arc::new(forms()[form].clone()), tools: Arc::default() };
        let mut parser = OutputParser::new(ToolCallMode::Auto, syntax);
        let mut chars: Vec<char> = text.chars().collect();
        if thought {
            parser = parser.in_thinking();
            chars = "Hm. <tool_call>{\"</think>".chars().chain(chars).collect();
        }
        let mut calls = Vec::new();
        let mut rest = chars.as_slice();
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            calls.extend(parser.push(&now.iter().collect::<String>()));
            rest = later;
        }
        calls.extend(parser.finish(false));
        let calls: Vec<Value> = calls.into_iter().filter_map(|part| match part {
            OutputPart::Call(call) => Some(serde_json::from_str(&call.arguments).unwrap()),
            OutputPart::Reasoning(_) => None,
            OutputPart::Content(text) => Some(text.into()),
        }).collect();
        prop_assert_eq!(calls, values, "{}", text);
    }
}
