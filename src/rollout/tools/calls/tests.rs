//! Calls of every family, in templates that write them as the families' own do.

use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::data::Tokenizer;

/// A family's template and what it shows.
pub struct Family {
    pub name: &'static str,
    pub template: &'static str,
    pub open: &'static str,
    pub between: Option<&'static str>,
    pub close: &'static str,
    pub mark: &'static str,
    pub end: &'static str,
    /// Two calls as a model writes them: `add` with a and b, `now` without arguments.
    pub said: &'static str,
}

pub const FAMILIES: [Family; 7] = [
    Family {
        name: "hermes",
        template: "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}\
            {% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content if m.content }}{% for c in m.tool_calls %}\
            {{ '\n' if not loop.first or m.content }}<tool_call>\n{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}{{ c.function.arguments | tojson }}{{ '}' }}\n</tool_call>\
            {% endfor %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        open: "<tool_call>\n",
        between: Some("\n</tool_call>\n<tool_call>\n"),
        close: "\n</tool_call>",
        mark: "<tool_call>",
        end: "</tool_call>",
        said: "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": \"2\"}}\n</tool_call>\n<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>",
    },
    Family {
        name: "llama 3",
        template: "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' }}{% if m.tool_calls %}\
            {% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}{% set f = m.tool_calls[0].function %}\
            {{ '{\"name\": \"' + f.name + '\", ' }}{{ '\"parameters\": ' }}{{ f.arguments | tojson }}{{ '}' }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}",
        open: "",
        between: None,
        close: "",
        mark: "",
        end: "",
        said: "<|python_tag|>{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": \"2\"}}; {\"name\": \"now\", \"parameters\": {}}",
    },
    Family {
        name: "mistral, list",
        template: "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}{% elif m.tool_calls %}\
            {{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{% set out = c.function | tojson %}{{ out[:-1] }}\
            {% if c.id | length != 9 %}{{ raise_exception('ids of 9') }}{% endif %}{{ ', \"id\": \"' + c.id + '\"}' }}{{ ', ' if not loop.last else ']<|im_end|>' }}{% endfor %}\
            {% else %}{{ ' ' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}",
        open: "[TOOL_CALLS] [",
        between: Some(", "),
        close: "]",
        mark: "[TOOL_CALLS]",
        end: "",
        said: "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": \"2\"}}, {\"name\": \"now\", \"arguments\": {}, \"id\": \"abcdefghi\"}]",
    },
    Family {
        name: "mistral, arguments",
        template: "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content if m.content }}{% for c in m.tool_calls %}\
            {{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}{% endfor %}{{ '<|im_end|>' }}{% endif %}{% endfor %}",
        open: "[TOOL_CALLS]",
        between: Some("[TOOL_CALLS]"),
        close: "",
        mark: "[TOOL_CALLS]",
        end: "",
        said: "[TOOL_CALLS]add[ARGS]{\"a\": 1, \"b\": \"2\"}[TOOL_CALLS]now[ARGS]{}",
    },
    Family {
        name: "qwen3 coder",
        template: "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content if m.content }}{% for c in m.tool_calls %}{% set c = c.function %}\
            {{ '\n' if not loop.first }}{{ '<tool_call>\n<function=' + c.name + '>\n' }}{% for k, v in c.arguments | items %}{{ '<parameter=' + k + '>\n' }}\
            {{ v if v is string else v | tojson }}{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}\
            {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        open: "<tool_call>\n<function=",
        between: Some("\n</function>\n</tool_call>\n<tool_call>\n<function="),
        close: "\n</function>\n</tool_call>",
        mark: "<tool_call>",
        end: "</tool_call>",
        said: "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    },
    Family {
        name: "glm",
        template: "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{{ m.content if m.content }}{% for c in m.tool_calls %}{% set c = c.function %}\
            {{ '\n<tool_call>' + c.name }}\n{% for k, v in c.arguments.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v | tojson if v is not string else v }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}{% endfor %}\
            {% if add_generation_prompt %}<|assistant|>{% endif %}",
        open: "\n\n<tool_call>",
        between: Some("\n</tool_call>\n<tool_call>"),
        close: "\n</tool_call>",
        mark: "<tool_call>",
        end: "</tool_call>",
        said: "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>b</arg_key><arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
    },
    Family {
        name: "deepseek",
        template: "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}<|Assistant|>{{ m.content if m.content }}{% for c in m.tool_calls %}\
            {{ '<|calls_begin|>' if loop.first else '\n' }}{{ '<|call_begin|>function<|sep|>' + c.function.name + '\n```json\n' + c.function.arguments | tojson + '\n```<|call_end|>' }}{{ '<|calls_end|>' if loop.last }}{% endfor %}\
            {{ '<|im_end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|>{% endif %}",
        open: "<|calls_begin|><|call_begin|>function<|sep|>",
        between: Some("\n```<|call_end|>\n<|call_begin|>function<|sep|>"),
        close: "\n```<|call_end|><|calls_end|>",
        mark: "<|calls_begin|>",
        end: "<|calls_end|>",
        said: "<|calls_begin|><|call_begin|>function<|sep|>add\n```json\n{\"a\": 1, \"b\": \"2\"}\n```<|call_end|>\n<|call_begin|>function<|sep|>now\n```json\n{}\n```<|call_end|><|calls_end|>",
    },
];

/// Upstream's vocabulary with a template.
pub fn tokenizer(template: &str) -> Tokenizer {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(from, folder.path().join("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

/// Two tools: `add` of a whole number and a text, `now` of nothing.
pub fn tools() -> Vec<Value> {
    let add = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"]});
    [("add", add), ("now", Value::Null)]
        .map(|(name, parameters)| json!({"type": "function", "function": {"name": name, "parameters": parameters}}))
        .to_vec()
}

fn call(name: &str, arguments: Value) -> ToolCall {
    ToolCall { name: name.to_owned(), arguments, fault: None }
}

#[test]
fn markers_inside_json_strings_are_text() {
    let call = |text: &str| json!({"name": "note", "arguments": {"text": text}}).to_string();
    for said in [
        "</tool_call>",
        "<tool_call>",
        "\"</tool_call>",
        "a\\",
        "[TOOL_CALLS]",
        "\n</tool_call>\n<tool_call>\n{",
    ] {
        let text = format!("<tool_call>\n{}\n</tool_call><tool_call>{}</tool_call>", call(said), call("b"));
        let calls = ToolCallFormat::default().parse(&text, &[]);
        assert_eq!(calls.len(), 2, "{text}");
        assert_eq!((&calls[0].arguments["text"], &calls[0].fault), (&json!(said), &None), "{text}");
        assert_eq!(calls[1].arguments["text"], "b", "{text}");
    }
    let zero = ToolCallFormat::default()
        .parse(r#"<tool_call>{"name": "f", "arguments": {"a": [-0]}}</tool_call>"#, &[]);
    assert_eq!(zero[0].arguments.to_string(), r#"{"a":[0]}"#);
    let broken = "<tool_call>{\"name\": \"x}</tool_call>\n<tool_call>{\"name\": \"y\"}</tool_call>";
    let calls = ToolCallFormat::default().parse(broken, &[]);
    assert!(calls.len() == 2 && calls[0].fault.is_some() && calls[1].name == "y", "{calls:?}");
}

#[test]
fn every_family_is_read_back() {
    for family in FAMILIES {
        let form = ToolCallFormat::of(&tokenizer(family.template), &[]);
        let want = [call("add", json!({"a": 1, "b": "2"})), call("now", json!({}))];
        assert_eq!(form.parse(family.said, &tools()), want, "{}", family.name);
        let thought = format!("{}</think>\n\n{}", family.said, family.said);
        assert_eq!(form.parse(&thought, &tools()), want, "{}", family.name);
        assert_eq!(form.parse("Nothing to call.", &tools()), [], "{}", family.name);
    }
}

#[test]
fn calls_are_read_in_order() {
    let text = "Let me see.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n\
                <tool_call>{\"function\": {\"name\": \"b\", \"arguments\": \"{\\\"y\\\": [2]}\"}}</tool_call> done";
    let calls = ToolCallFormat::default().parse(text, &[]);
    assert_eq!(calls, [call("a", json!({"x": 1})), call("b", json!({"y": [2]}))]);
    assert!(
        ToolCallFormat::default()
            .parse("<tool_call>{\"name\": \"a\"}</tool_call></think> no", &[])
            .is_empty()
    );
}

#[test]
fn broken_calls_say_what_is_wrong() {
    let fault = |text: &str| ToolCallFormat::default().parse(text, &[])[0].fault.clone().unwrap();
    assert!(fault("<tool_call>{\"name\": \"a\"}").contains("not closed"));
    assert!(fault("<tool_call>{name: a}</tool_call>").contains("not JSON"));
    assert!(fault("<tool_call>1</tool_call>").contains("no `name`"));
    assert!(fault("<tool_call> </tool_call>").contains("not JSON"));
    assert!(fault("<tool_call>{\"name\": \"a\", \"arguments\": 3}</tool_call>").contains("not an object"));
    assert!(fault("<tool_call>{\"name\": \"a\", \"arguments\": \"{\"}</tool_call>").contains("not JSON"));
    // JSON that an answer may be without calling anything.
    let llama = ToolCallFormat::of(&tokenizer(FAMILIES[1].template), &[]);
    assert!(llama.parse("{\"city\": \"Oslo\"}", &[]).is_empty() && llama.parse("{", &[]).is_empty());
    assert!(llama.parse("{\"name\": \"add\", ", &[])[0].fault.is_some());
}

#[test]
fn values_take_their_declared_type() {
    let one = |text: &str, schema: Value| typed(text, Some(&schema));
    assert_eq!(one("12", json!({"type": "string"})), json!("12"));
    assert_eq!(one("12", json!({"type": ["string", "integer"]})), json!(12));
    assert_eq!(one("True", json!({"type": "boolean"})), json!(true));
    assert_eq!(one("[1, 2]", json!({"type": "array"})), json!([1, 2]));
    assert_eq!(one("1", json!({"enum": ["1", "2"]})), json!("1"));
    assert_eq!((typed("a b", None), typed("{\"x\": 1}", None)), (json!("a b"), json!({"x": 1})));
}

#[test]
fn a_call_that_is_cut_off_keeps_what_there_is() {
    let cut = |index: usize, text: &str| {
        ToolCallFormat::of(&tokenizer(FAMILIES[index].template), &[]).parse_truncated(text, &tools())
    };
    let some = |name: &str, arguments: &str| Some((name.to_owned(), arguments.to_owned()));
    assert_eq!(cut(0, "\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b"), some("add", "{\"a\": 1, \"b"));
    assert_eq!(cut(1, "{\"name\": \"add\", \"parameters\": {"), some("add", "{"));
    assert_eq!(cut(2, " [{\"name\": \"add\", "), some("add", ""));
    assert_eq!(cut(3, "add[ARGS]{\"a\""), some("add", "{\"a\""));
    assert_eq!(cut(4, "\n<function=add>\n<parameter=a>\n1\n</parameter>\n<par"), some("add", "{\"a\":1"));
    for (index, early) in [(0, "{\"name\": \"ad"), (3, "ad"), (4, "\n<function=ad"), (5, "ad")] {
        assert_eq!(cut(index, early), None, "{early}");
    }
}

/// Every family's form.
pub fn forms() -> &'static [ToolCallFormat] {
    static FORMS: OnceLock<Vec<ToolCallFormat>> = OnceLock::new();
    FORMS.get_or_init(|| FAMILIES.iter().map(|f| ToolCallFormat::of(&tokenizer(f.template), &[])).collect())
}

/// A call's name and arguments as a form writes them, without what stands around a turn's calls.
fn written(form: &ToolCallFormat, name: &str, arguments: &Value) -> String {
    match &form.body {
        Body::Json { head, middle, tail } => {
            format!(
                "{head}{name}{middle}{arguments}{}",
                tail.replace(super::super::call_format::ID_MARK, "abcdefghi")
            )
        }
        Body::Named { middle } => format!("{name}{middle}{arguments}"),
        Body::Pairs { after_name, before_key, middle, after_value } => {
            let pair =
                |(key, value): (&String, &Value)| format!("{before_key}{key}{middle}{value}{after_value}");
            let pairs: String = arguments.as_object().into_iter().flatten().map(pair).collect();
            format!("{name}{after_name}{pairs}")
        }
    }
}

/// Text with the markers of all families in it, and with what JSON escapes.
fn any_text() -> impl Strategy<Value = String> {
    let mut pieces: Vec<&'static str> =
        FAMILIES.iter().flat_map(|f| [f.open, f.close, f.mark, f.end]).collect();
    pieces.extend([
        "</think>",
        "<think>",
        "<|python_tag|>",
        "\"name\"",
        "\"",
        "\\",
        "{",
        "}]",
        "\n",
        "```json\n",
        "[ARGS]",
        "a",
        "é",
    ]);
    pieces.extend([
        "</parameter>",
        "</arg_value>",
        "<parameter=a>",
        "<tool_call>{\"name\": \"x\"}</tool_call>",
        "</tool_",
    ]);
    prop::collection::vec(prop::sample::select(pieces), 0..8).prop_map(|pieces| pieces.concat())
}

/// A family by its place, one or two calls in its form, and their arguments.
pub fn any_calls() -> impl Strategy<Value = (usize, String, Vec<Value>)> {
    let texts = prop::collection::vec(any_text(), 1..3);
    (0..FAMILIES.len(), texts).prop_map(|(which, texts)| {
        let form = &forms()[which];
        let taken = if form.between.is_some() { texts.len() } else { 1 };
        // Where a value stands between tags, its text is quoted in a list.
        let values: Vec<Value> = texts[..taken].iter().map(|text| json!({"a": 1, "b": [text]})).collect();
        let calls: Vec<String> = values.iter().map(|value| written(form, "add", value)).collect();
        let between = form.between.as_deref().unwrap_or_default();
        (which, format!("{}{}{}", form.open, calls.join(between), form.close), values)
    })
}

proptest! {
    #[test]
    fn an_argument_may_hold_any_marker((form, text, values) in any_calls(), thought in any::<bool>()) {
        let text = if thought { format!("Hm. {text} <tool_call>{{\"</think>\n{text}") } else { text };
        let want: Vec<ToolCall> = values.into_iter().map(|value| call("add", value)).collect();
        prop_assert_eq!(forms()[form].parse(&text, &[]), want, "{}", text);
    }
}
