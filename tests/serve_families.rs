//! A server over untrained weights with the chat templates of other families: demanded calls in each family's form, JSON
//! that ends whatever the model would say, and what a request may tell the template.

mod common;

use common::random_folder;
use common::served::Server;
use serde_json::{Value, json};

const LLAMA: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' }}{% if m.tool_calls %}\
    {% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}{% set f = m.tool_calls[0].function %}\
    {{ '{\"name\": \"' + f.name + '\", ' }}{{ '\"parameters\": ' }}{{ f.arguments | tojson }}{{ '}' }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}";
const MISTRAL: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}{% elif m.tool_calls %}\
    {{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{% set out = c.function | tojson %}{{ out[:-1] }}\
    {% if c.id | length != 9 %}{{ raise_exception('ids of 9') }}{% endif %}{{ ', \"id\": \"' + c.id + '\"}' }}{{ ', ' if not loop.last else ']<|im_end|>' }}{% endfor %}\
    {% elif m.role == 'tool' %}{{ '[RESULT ' + m.tool_call_id + ' ' + m.content + ']' }}{% else %}{{ ' ' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}";
const ARGS: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content if m.content }}{% for c in m.tool_calls %}\
    {{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}{% endfor %}{{ '<|im_end|>' }}{% endif %}{% endfor %}";
const CODER: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content if m.content }}{% for c in m.tool_calls %}{% set c = c.function %}\
    {{ '\n' if not loop.first }}{{ '<tool_call>\n<function=' + c.name + '>\n' }}{% for k, v in c.arguments | items %}{{ '<parameter=' + k + '>\n' }}\
    {{ v if v is string else v | tojson }}{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const GLM: &str = "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{{ m.content if m.content }}{% for c in m.tool_calls %}{% set c = c.function %}\
    {{ '\n<tool_call>' + c.name }}\n{% for k, v in c.arguments.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v | tojson if v is not string else v }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

fn tools() -> Value {
    let parameters = json!({"type": "object", "required": ["a", "b"],
        "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 12}, "c": {"enum": ["x", "y"]}, "d": {"type": "string", "pattern": "^.{0,6}$"}}});
    json!([
        {"type": "function", "function": {"name": "add", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn asked(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 400, "temperature": 1.5, "seed": 7});
    more.as_object().expect("an object").iter().for_each(|(key, value)| body[key] = value.clone());
    body
}

/// A call's name, and its arguments, which must be what the tool declares.
fn sound(call: &Value) -> String {
    let text = call["function"]["arguments"].as_str().expect("arguments");
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let keys: Vec<&String> = value.as_object().expect("an object").keys().collect();
    match call["function"]["name"].as_str() {
        Some("add") => {
            assert!(value["a"].is_i64() && value["b"].is_string(), "{text}");
            assert!(keys.iter().all(|key| ["a", "b", "c", "d"].contains(&key.as_str())), "{text}");
        }
        Some("now") => assert_eq!(text, "{}"),
        other => panic!("{other:?}"),
    }
    call["function"]["name"].as_str().expect("a name").to_owned()
}

#[test]
fn a_demanded_call_has_the_form_of_the_family() {
    let root = tempfile::tempdir().expect("a folder");
    for (name, template) in [
        ("hermes", None),
        ("llama", Some(LLAMA)),
        ("mistral", Some(MISTRAL)),
        ("args", Some(ARGS)),
        ("coder", Some(CODER)),
        ("glm", Some(GLM)),
    ] {
        let folder = root.path().join(name);
        random_folder(&folder, template);
        let server = Server::start_with(&["--model", &folder.display().to_string()]);
        for parallel in [false, true] {
            let body = asked(
                json!({"tools": tools(), "tool_choice": "required", "parallel_tool_calls": parallel, "n": 4}),
            );
            for choice in server.chat(&body)["choices"].as_array().expect("choices") {
                assert_eq!(choice["message"]["content"], Value::Null, "{name}: {choice}");
                // Several calls one behind the other may run into the limit.
                if choice["finish_reason"] == "length" && parallel {
                    continue;
                }
                assert_eq!(choice["finish_reason"], "tool_calls", "{name}: {choice}");
                let calls = choice["message"]["tool_calls"].as_array().expect("calls");
                assert!(!calls.is_empty() && (parallel || calls.len() == 1), "{name}: {choice}");
                calls.iter().for_each(|call| drop(sound(call)));
                let id = calls[0]["id"].as_str().expect("an id");
                assert_eq!(id.len() == 9, name == "mistral", "{name}: {id}");
            }
        }
        let now = json!({"type": "function", "function": {"name": "now"}});
        let body = asked(json!({"tools": tools(), "tool_choice": now, "parallel_tool_calls": false}));
        let answer = server.chat(&body);
        assert_eq!(sound(&answer["choices"][0]["message"]["tool_calls"][0]), "now", "{name}");
        // A stream says the same.
        let chunks = server.stream("/v1/chat/completions", &body);
        let parts: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]["delta"]["tool_calls"][0]).collect();
        let said: String = parts.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
        assert_eq!(said, "{}", "{name}: {chunks:?}");
        assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "tool_calls");
        // The call and its result go back by the id.
        if name == "mistral" {
            let call = answer["choices"][0]["message"]["tool_calls"][0].clone();
            let mut told = asked(json!({}));
            let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "noon"});
            let said = json!({"role": "assistant", "content": null, "tool_calls": [call]});
            told["messages"].as_array_mut().expect("messages").extend([said, result]);
            let tokens = server.post("/tokenize", &told).json()["tokens"].clone();
            let text = server.post("/detokenize", &json!({"tokens": tokens})).json()["prompt"].to_string();
            let id = call["id"].as_str().expect("an id");
            assert!(
                text.contains(&format!("[RESULT {id} noon]")) && text.contains("\\\"arguments\\\": {}"),
                "{text}"
            );
        }
    }
}

#[test]
fn json_of_an_untrained_model_ends() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("m");
    random_folder(&folder, None);
    let server = Server::start_with(&["--model", &folder.display().to_string()]);
    let inner = json!({"type": "object", "properties": {"unit": {"type": "string", "maxLength": 10}, "exact": {"type": "boolean"}}, "required": ["unit"]});
    for schema in [
        json!({"type": "object", "properties": {"answer": {"type": "integer"}, "unit": {"type": "string", "maxLength": 20}}, "required": ["answer", "unit"]}),
        json!({"type": "object", "properties": {"x": {"type": "number"}, "of": inner, "list": {"type": "array", "items": {"type": "number"}, "maxItems": 3}}, "required": ["x", "of", "list"]}),
    ] {
        let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
        for seed in [1, 2] {
            let answer = server.chat(&asked(json!({"response_format": format, "n": 8, "seed": seed})));
            for choice in answer["choices"].as_array().expect("choices") {
                let text = choice["message"]["content"].as_str().expect("content");
                assert_eq!(choice["finish_reason"], "stop", "{text}");
                let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
                let keys = value
                    .as_object()
                    .expect("an object")
                    .keys()
                    .all(|key| schema["properties"].get(key).is_some());
                assert!(keys && !text.contains('\n'), "{text}");
            }
        }
    }
    for schema in [
        json!({"$ref": "#"}),
        json!({"type": "integer", "minimum": 2, "maximum": 1}),
        json!({"enum": []}),
        json!({"$ref": "#/$defs/x"}),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        json!({"pattern": "(", "type": "string"}),
    ] {
        let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
        let answer = server.post("/v1/chat/completions", &asked(json!({"response_format": format})));
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!("response_format")),
            "{schema}"
        );
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, "required": ["x"]}}});
        let answer =
            server.post("/v1/chat/completions", &asked(json!({"tools": [tool], "tool_choice": "required"})));
        let root = schema["$ref"] == "#";
        assert!(
            answer.status == 400 && answer.json()["error"]["param"] == "tools" || !root,
            "{schema}: {}",
            answer.text()
        );
        assert_ne!(answer.status, 500, "{schema}");
    }
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("m");
    let template = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}\
        {{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is false %}quiet quiet quiet quiet{% endif %}{% endif %}";
    random_folder(&folder, Some(template));
    let server = Server::start_with(&["--model", &folder.display().to_string()]);
    let two = json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]});
    let answer = server.post("/v1/chat/completions", &two);
    let error = answer.json()["error"].clone();
    assert_eq!(
        (answer.status, &error["param"], &error["type"]),
        (400, &json!("messages"), &json!("invalid_request_error"))
    );
    let sentence = "Conversation roles must alternate user/assistant";
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with(sentence)), "{error}");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !server.log().contains(sentence) {
        assert!(std::time::Instant::now() < end, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    let tokens = |more: Value| {
        let answer = server.chat(&asked(more));
        answer["usage"]["prompt_tokens"].as_u64().expect("a number")
    };
    let few = json!({"max_tokens": 1});
    let quiet = json!({"max_tokens": 1, "chat_template_kwargs": {"enable_thinking": false}});
    assert!(tokens(quiet) > tokens(few.clone()));
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "Once upon"}]);
    let go_on = json!({"messages": turns, "max_tokens": 1, "continue_final_message": true});
    let asked_text = |body: &Value| {
        let tokens = server.post("/tokenize", body).json()["tokens"].clone();
        server.post("/detokenize", &json!({"tokens": tokens})).json()["prompt"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(asked_text(&go_on), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nOnce upon");
    assert_eq!(
        tokens(go_on.clone()),
        server.post("/tokenize", &go_on).json()["count"].as_u64().expect("a number")
    );
    let mut both = go_on;
    both["add_generation_prompt"] = true.into();
    let answer = server.post("/v1/chat/completions", &both);
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("continue_final_message")));
}
