//! Chat requests against transformers' `apply_chat_template`: every field of a message reaches the template, arguments as
//! objects, keyword arguments, and the message that is continued.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use common::succeed;
use minimind::data::Tokenizer;
use minimind::serve::api::fields::Fields;
use minimind::serve::api::prompt::Prompt;
use serde_json::{Value, json};

common::needs::tests! {
    prompts_are_those_of_transformers: [Python("torch, transformers, jinja2")],
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}\
    {{ reasoning_effort }}{% for d in documents or [] %}[{{ d.title }}]{% endfor %}";
const FIELDS: &str = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}";
const PARTS: &str = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endif %}{% endfor %}";
const TRIMS: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} (end){% endfor %}";
const REFUSES: &str = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{{ m.content }}{% endfor %}";

/// Templates that reach every field; also those of the cases beside the checkout, where they are.
fn templates() -> Vec<String> {
    let mut all: Vec<String> = [CHATML, PARTS, TRIMS, REFUSES].map(str::to_owned).to_vec();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/templates");
    let files = std::fs::read_dir(folder).into_iter().flatten();
    all.extend(files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("text")));
    all
}

fn conversations() -> Vec<Value> {
    let user = |text: &str| json!({"role": "user", "content": text});
    let call = |id: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}});
    vec![
        json!([user("hello")]),
        json!([{"role": "system", "content": "Be brief."}, user("a")]),
        json!([user("a"), {"role": "assistant", "content": " b "}, user("c")]),
        json!([user("a"), user("b")]),
        json!([user("add"), {"role": "assistant", "content": "", "tool_calls": [call("callid007", json!("{\"b\": [1, 2.5], \"a\": \"é <x>\", \"n\": null}"))]},
               {"role": "tool", "tool_call_id": "callid007", "name": "add", "content": "3"}, user("and now?")]),
        json!([user("add"), {"role": "assistant", "content": "", "tool_calls": [call("callid007", json!({"a": 1}))]}]),
        json!([user("add"), {"role": "assistant", "content": "", "tool_calls": [call("short", json!("{}"))]},
               {"role": "tool", "tool_call_id": "short", "content": "3"}]),
        json!([user("think"), {"role": "assistant", "content": "b", "reasoning_content": "hm", "mood": {"calm": true}}]),
    ]
}

/// Requests as the other side reads them.
fn cases() -> Vec<Value> {
    let tool = json!({"type": "function", "function": {"name": "add", "description": "Adds.", "parameters":
        {"type": "object", "properties": {"a": {"type": "integer", "description": "one"}, "b": {"type": ["string", "null"]}}, "required": ["a"]}}});
    let mut cases = Vec::new();
    let mut add =
        |template: &str, messages: &Value, tools: Value, kwargs: Value, prompt: bool, go_on: bool| {
            cases.push(json!({"template": template, "messages": messages, "tools": tools, "kwargs": kwargs,
            "add_generation_prompt": prompt, "continue_final_message": go_on}));
        };
    for template in templates() {
        for messages in conversations() {
            for tools in [Value::Null, json!([tool])] {
                add(&template, &messages, tools, json!({}), true, false);
            }
            add(
                &template,
                &messages,
                Value::Null,
                json!({"enable_thinking": false, "reasoning_effort": "low", "x": [1]}),
                false,
                false,
            );
        }
    }
    let turns =
        |content: Value| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]);
    for template in [CHATML, TRIMS, PARTS] {
        for said in ["Once upon", " a time ", "a", ""] {
            add(template, &turns(json!(said)), Value::Null, json!({}), false, true);
        }
    }
    let parts = json!([{"type": "text", "text": "x"}, {"type": "text", "text": "y "}]);
    add(PARTS, &turns(parts.clone()), Value::Null, json!({}), false, true);
    add(PARTS, &turns(parts), Value::Null, json!({}), true, false);
    add(
        CHATML,
        &turns(json!("b")),
        Value::Null,
        json!({"documents": [{"title": "t", "text": "x"}]}),
        true,
        false,
    );
    add(FIELDS, &conversations()[4], json!([tool]), json!({}), true, false);
    cases
}

fn prompts_are_those_of_transformers() {
    let python = python();
    let root = tempfile::tempdir().expect("a folder");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), root.path().join(name)).expect("copied");
    }
    let cases = cases();
    std::fs::write(root.path().join("cases.json"), Value::from(cases.clone()).to_string()).expect("written");
    let output = succeed(Command::new(python).arg(script("conversation.py")).arg(root.path()));
    let theirs: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(theirs.len(), cases.len());
    let (mut texts, mut errors) = (0, 0);
    for (case, want) in cases.iter().zip(&theirs) {
        std::fs::write(root.path().join("chat_template.jinja"), case["template"].as_str().expect("text"))
            .expect("written");
        let tokenizer = Tokenizer::load(root.path()).expect("a tokenizer");
        let mut body = case.clone();
        body["chat_template_kwargs"] = body["kwargs"].take();
        let template = body.as_object_mut().expect("an object").remove("template");
        let fields = Fields::read(body.to_string().as_bytes()).expect("a body");
        match (Prompt::read(&fields, &tokenizer, false), want["text"].as_str()) {
            (Ok(prompt), Some(text)) => {
                assert_eq!(prompt.text, text, "{body}\n{template:?}");
                texts += 1;
            }
            (Err(fault), None) => {
                let (said, theirs) =
                    (fault.body()["error"]["message"].to_string(), want["error"].as_str().expect("text"));
                // The template's own sentence; what the engines say themselves differs.
                for own in ["alternate", "one call at a time", "ids of 9", "result ids of 9", "roles"] {
                    assert_eq!(said.contains(own), theirs.contains(own), "{said} {theirs}");
                }
                errors += 1;
            }
            // Where Python raises on what is undefined or null, this program may have a text to give.
            (Ok(prompt), None) if !want["error"].as_str().expect("text").contains("alternate") => {
                println!("rendered here alone: {:?} ({})", prompt.text, want["error"]);
            }
            (ours, _) => panic!("{body}\n{template:?}\nours: {ours:?}\ntheirs: {want}"),
        }
    }
    println!("{texts} texts and {errors} refusals are the same");
    assert!(texts > 60 && errors > 5, "{texts} {errors}");
}
