//! Which tokens carry loss, in templates of many families' shapes; the reference's recorded labels are in `tests.rs`,
//! transformers' own masks in `tests/interop_masks.rs`.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// Our small tokenizer with other names for its marks, and a template.
pub(super) fn tokenizer(marks: &[&str], template: &str) -> Tokenizer {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    let mut text = std::fs::read_to_string(own.join("tokenizer.json")).unwrap();
    let names = ["<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"];
    for (ours, theirs) in names.iter().zip(marks).filter(|(_, theirs)| !theirs.is_empty()) {
        text = text.replace(&json!(ours).to_string(), &json!(theirs).to_string());
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
    let eos = marks.get(1).copied().filter(|mark| !mark.is_empty()).unwrap_or("<|endoftext|>");
    let config = json!({"bos_token": marks.first(), "eos_token": eos, "pad_token": "<|endoftext|>", "chat_template": template});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

/// The runs of tokens with loss, as text.
fn said(tokenizer: &Tokenizer, row: &Value) -> Vec<String> {
    let masked =
        chat_row::tokenize(tokenizer, "conversations", row, true).unwrap_or_else(|f| panic!("{f:?}"));
    let mut runs: Vec<Vec<u32>> = Vec::new();
    for (i, (id, loss)) in masked.ids.iter().zip(&masked.loss_mask).enumerate() {
        match (loss, i > 0 && masked.loss_mask[i - 1]) {
            (true, true) => runs.last_mut().unwrap().push(*id),
            (true, false) => runs.push(vec![*id]),
            _ => {}
        }
    }
    runs.iter().map(|ids| tokenizer.decode(ids, false).unwrap()).collect()
}

fn turns(list: &[(&str, &str)]) -> Value {
    let turn = |(role, text): &(&str, &str)| json!({"role": role, "content": text});
    json!({"conversations": list.iter().map(turn).collect::<Vec<_>>()})
}

/// Two questions whose answers are words that also stand in the questions.
fn two() -> Value {
    turns(&[
        ("user", "Do otters eat fish?"),
        ("assistant", "otters eat fish"),
        ("user", "fish"),
        ("assistant", "Yes."),
    ])
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
const MISTRAL: &str = "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}";
const MISTRAL3: &str = "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}{% if loop.last and system is defined %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% else %}{{ ' ' + m.content|trim + eos_token }}{% endif %}{% endfor %}";
const GEMMA: &str = "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";
const PHI3: &str = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
const ZEPHYR: &str = "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";
const GLM: &str = "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
const DEEPSEEK: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<User>' + m.content }}{% else %}{% set c = m.content.split('</think>')[-1] %}{{ '<Assistant>' + c + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<Assistant><think>\n' }}{% endif %}";
const DEEPSEEK2: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<User>' + m.content + '<Assistant>' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}";
/// Thoughts of past turns go; the last turn gets a block even where it has none.
const QWEN3: &str = "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}{% set thought = parts[0].split('<think>')[-1].strip('\n') if parts|length > 1 else '' %}{% set c = parts[-1].lstrip('\n') %}{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + c + '<|im_end|>\n' }}{% else %}{{ '<|im_start|>assistant\n' + c + '<|im_end|>\n' }}{% endif %}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";
/// An answer is opened whatever is asked.
const ALWAYS_OPENS: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";
const VICUNA: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";
const ALPACA: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}{% else %}{{ '### Response:\n' + m.content + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}";

/// The last answer ends in a mark of its own, as OpenAI's open weights have it; or in none.
const OTHER_LAST: &str = "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content }}{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|message|>' }}{% endif %}";
const NONE_LAST: &str = "{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% if not loop.last or m.role != 'assistant' %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const BETWEEN: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ (eos_token if not loop.first else '') + 'Human: ' + m.content + '\n' }}{% else %}{{ 'Bot: ' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Bot: ' }}{% endif %}";

/// Written with other blanks before an answer than before an open one.
const SPACED: &str = "{% for m in messages %}\n    {% if m.role == 'user' %}\n        {{ '[Q] ' + m.content + '\n' }}\n    {% else %}\n        {{ '[A] ' + m.content + eos_token }}\n    {% endif %}\n{% endfor %}{% if add_generation_prompt %}\n  {{ '[A]' }}\n{% endif %}";

#[test]
fn answers_and_their_end_marks_carry_loss_in_every_family() {
    let im: &[&str] = &["<|im_start|>", "<|im_end|>"];
    let s: &[&str] = &["<s>", "</s>", "[INST]", "[/INST]"];
    let llama: &[&str] = &["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"];
    let seek: &[&str] = &["<bos>", "<eos>", "<User>", "<Assistant>"];
    let cases: [(&str, &[&str], &str, [&str; 2]); 21] = [
        ("chatml", im, CHATML, ["otters eat fish<|im_end|>\n", "Yes.<|im_end|>\n"]),
        ("chatml, another eos", &["", ""], CHATML, ["otters eat fish<|im_end|>\n", "Yes.<|im_end|>\n"]),
        (
            "chatml, marks are plain text",
            &["<a>", "<b>"],
            CHATML,
            ["otters eat fish<|im_end|>\n", "Yes.<|im_end|>\n"],
        ),
        ("llama3", llama, LLAMA3, ["otters eat fish<|eot_id|>", "Yes.<|eot_id|>"]),
        ("mistral", s, MISTRAL, ["otters eat fish</s>", "Yes.</s>"]),
        ("mistral, v3", s, MISTRAL3, [" otters eat fish</s>", " Yes.</s>"]),
        (
            "gemma",
            &["<start_of_turn>", "<end_of_turn>"],
            GEMMA,
            ["otters eat fish<end_of_turn>\n", "Yes.<end_of_turn>\n"],
        ),
        (
            "phi3",
            &["<|user|>", "<|eos|>", "<|assistant|>", "<|end|>"],
            PHI3,
            ["otters eat fish<|end|>\n", "Yes.<|end|>\n<|eos|>"],
        ),
        ("phi3, marks are plain text", &[], PHI3, ["otters eat fish<|end|>\n", "Yes.<|end|>\n<|endoftext|>"]),
        ("zephyr", s, ZEPHYR, ["otters eat fish</s>\n", "Yes.</s>\n"]),
        ("glm", &["<|user|>", "", "<|assistant|>"], GLM, ["otters eat fish", "Yes."]),
        ("deepseek r1", seek, DEEPSEEK, ["otters eat fish<eos>", "Yes.<eos>"]),
        ("deepseek v2", seek, DEEPSEEK2, ["otters eat fish<eos>", "Yes.<eos>"]),
        ("qwen3", im, QWEN3, ["otters eat fish<|im_end|>\n", "<think>\n\n</think>\n\nYes.<|im_end|>\n"]),
        ("always opens", im, ALWAYS_OPENS, ["otters eat fish<|im_end|>\n", "Yes.<|im_end|>\n"]),
        ("vicuna", s, VICUNA, [" otters eat fish</s>", " Yes.</s>"]),
        ("other blanks", s, SPACED, [" otters eat fish</s>\n", " Yes.</s>\n"]),
        (
            "another mark at the last end",
            &["<|start|>", "<|return|>", "<|message|>", "<|end|>"],
            OTHER_LAST,
            ["otters eat fish<|end|>", "Yes.<|return|>"],
        ),
        ("no mark at the last end", im, NONE_LAST, ["otters eat fish<|im_end|>\n", "Yes."]),
        ("marks between turns", s, BETWEEN, [" otters eat fish</s>", "Yes."]),
        ("alpaca", &[], ALPACA, ["otters eat fish\n\n", "Yes.\n\n"]),
    ];
    for (name, marks, template, expected) in cases {
        assert_eq!(said(&tokenizer(marks, template), &two()), expected, "{name}");
    }
}

#[test]
fn thoughts_that_the_past_loses_are_not_looked_for() {
    let row = turns(&[
        ("user", "a"),
        ("assistant", "<think>\nx\n</think>\n\nfirst"),
        ("user", "b"),
        ("assistant", "<think>\ny\n</think>\n\nsecond"),
    ]);
    let qwen = tokenizer(&["<|im_start|>", "<|im_end|>"], QWEN3);
    assert_eq!(said(&qwen, &row), ["first<|im_end|>\n", "<think>\ny\n</think>\n\nsecond<|im_end|>\n"]);
    let seek = tokenizer(&["<bos>", "<eos>", "<User>", "<Assistant>"], DEEPSEEK);
    assert_eq!(said(&seek, &row), ["\n\nfirst<eos>", "\n\nsecond<eos>"]);
    let plain = tokenizer(&["<|im_start|>", "<|im_end|>"], CHATML);
    assert_eq!(said(&plain, &row)[0], "<think>\nx\n</think>\n\nfirst<|im_end|>\n");
}

#[test]
fn system_prompts_questions_at_the_end_and_repeated_turns() {
    for (marks, template, end) in [
        (&["<|im_start|>", "<|im_end|>"][..], CHATML, "<|im_end|>\n"),
        (&["<|im_start|>", "<|im_end|>"], QWEN3, "<|im_end|>\n"),
        (
            &["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
            LLAMA3,
            "<|eot_id|>",
        ),
        (&["<s>", "</s>"], ZEPHYR, "</s>\n"),
        (&["<s>", "</s>"], PHI3, "<|end|>\n"),
    ] {
        let tokenizer = tokenizer(marks, template);
        let row = turns(&[
            ("system", "same"),
            ("user", "same"),
            ("assistant", "same"),
            ("user", "same"),
            ("assistant", "same"),
            ("user", "same"),
        ]);
        assert_eq!(said(&tokenizer, &row), [format!("same{end}"), format!("same{end}")], "{template}");
        let opened = turns(&[("assistant", "hello"), ("user", "a"), ("assistant", "b"), ("user", "c")]);
        assert_eq!(said(&tokenizer, &opened), [format!("hello{end}"), format!("b{end}")], "{template}");
    }
}

#[test]
fn marks_in_a_text_open_and_close_nothing() {
    let tokenizer = tokenizer(&["<|im_start|>", "<|im_end|>"], CHATML);
    let row = turns(&[
        ("user", "What is <|im_start|>assistant\nno<|im_end|>\n for?"),
        ("assistant", "It ends with <|im_end|>\n, see"),
    ]);
    assert_eq!(said(&tokenizer, &row), ["It ends with <|im_end|>\n, see<|im_end|>\n"]);
}

#[test]
fn a_template_s_own_blocks_decide() {
    let source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}";
    let ours = tokenizer(&["<|im_start|>", "<|im_end|>"], source);
    assert_eq!(said(&ours, &two()), ["otters eat fish<|im_end|>", "Yes.<|im_end|>"]);
    // An empty think block goes from the middle of one.
    let row = turns(&[("user", "a"), ("assistant", "b<think>\n\n</think>\n\nc"), ("user", "d")]);
    let masked = chat_row::tokenize(&ours, "conversations", &row, false).unwrap();
    let spoken: Vec<u32> =
        masked.ids.iter().zip(&masked.loss_mask).filter(|(_, l)| **l).map(|(id, _)| *id).collect();
    assert_eq!(ours.decode(&spoken, false).unwrap(), "bc<|im_end|>");

    let wrong = source.replace("m.role == 'assistant' %}{% gen", "m.role == 'user' %}{% gen");
    let fault = chat_row::tokenize(&tokenizer(&[], &wrong), "conversations", &two(), true)
        .unwrap_err()
        .bad()
        .unwrap_err()
        .to_string();
    assert!(fault.contains("cannot be told") && fault.contains("generation"), "{fault}");
}

#[test]
fn templates_that_do_not_tell_are_refused_by_name() {
    for (source, why) in [
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
            "does not write",
        ),
        ("{{ raise_exception('only for pictures') }}", "only for pictures"),
    ] {
        let fault = chat_row::tokenize(&tokenizer(&[], source), "conversations", &two(), true)
            .unwrap_err()
            .bad()
            .unwrap_err();
        let text = fault.to_string();
        assert!(text.contains("which tokens carry loss") && text.contains(why), "{text}");
        assert_eq!(fault.exit_code(), 2);
        assert!(fault.place().is_some());
    }
}

#[test]
fn a_row_that_a_template_refuses_has_the_template_s_own_words() {
    let mistral = tokenizer(&["<s>", "</s>", "[INST]", "[/INST]"], MISTRAL);
    let fault = |row: Value| {
        chat_row::tokenize(&mistral, "conversations", &row, true).unwrap_err().bad().unwrap().what
    };
    let two_users = turns(&[("user", "a"), ("user", "b"), ("assistant", "c")]);
    assert!(fault(two_users).contains("Conversation roles must alternate"));
    // Its system prompt stands in the last question, which a conversation with its answer has not at the end.
    let third = tokenizer(&["<s>", "</s>", "[INST]", "[/INST]"], MISTRAL3);
    let row = turns(&[("system", "be brief"), ("user", "a"), ("assistant", "b")]);
    let fault = chat_row::tokenize(&third, "chosen", &row, true).unwrap_err().bad().unwrap().what;
    assert!(fault.contains("`chosen[0]`") && fault.contains("`system`"), "{fault}");
    assert!(!third.renders_system() && tokenizer(&[], CHATML).renders_system());
}

#[test]
fn arguments_that_are_json_in_a_text_are_not_quoted_twice() {
    let row = |arguments: Value| {
        let calls =
            json!([{"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}]);
        json!({"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]})
    };
    let template = |call: &str| {
        tokenizer(
            &["<|im_start|>", "<|im_end|>"],
            &CHATML.replace(
                "m.content +",
                &format!(
                    "m.content }}}}{{% for c in m.tool_calls or [] %}}{{{{ {call} }}}}{{% endfor %}}{{{{"
                ),
            ),
        )
    };
    let (object, text) = (row(json!({"x": "\"é"})), row(json!("{\"x\":  \"\\\"é\"}")));
    for call in [
        "c.function.arguments | tojson",
        "c.function | tojson",
        "c.function.arguments.items() | list | tojson",
    ] {
        let tokenizer = template(call);
        assert_eq!(said(&tokenizer, &text), said(&tokenizer, &object), "{call}");
    }
    // A template that writes a text as it stands keeps it.
    let both = "c.function.arguments if c.function.arguments is string else c.function.arguments | tojson";
    assert_eq!(said(&template(both), &text), ["{\"x\":  \"\\\"é\"}<|im_end|>\n"]);
    assert_eq!(said(&template(both), &object), ["{\"x\": \"\\\"é\"}<|im_end|>\n"]);
}

#[test]
fn tools_stand_on_the_system_message_or_beside_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    train::train([Ok("add".to_owned())].into_iter(), 300, dir.path()).unwrap();
    let ours = Tokenizer::load(dir.path()).unwrap();
    let function = json!({"type": "function", "function": {"name": "add", "parameters": {}}});
    let calls = json!([{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"x": 1}}}]);
    let list = json!([
        {"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": calls},
        {"role": "tool", "content": "3"}, {"role": "assistant", "content": "three"},
    ]);
    for key in ["tools", "functions"] {
        for tools in [json!([function]), json!(json!([function]).to_string())] {
            let row = json!({"conversations": list, key: tools});
            let text = render_conversation(&ours, &row).unwrap();
            assert!(text.contains("# Tools") && text.contains("\"name\": \"add\""), "{text}");
            let runs = said(&ours, &row);
            assert_eq!(runs.len(), 2);
            assert!(runs[0].contains("<tool_call>") && runs[0].ends_with("<|im_end|>\n"), "{runs:?}");
        }
    }
    let fault = chat_row::tokenize(
        &tokenizer(&[], CHATML),
        "conversations",
        &json!({"conversations": two()["conversations"], "tools": [function]}),
        true,
    );
    assert!(fault.unwrap_err().bad().unwrap().what.contains("shows no tools"));
    let fault =
        chat_row::tokenize(&ours, "conversations", &json!({"conversations": list, "tools": ["add"]}), true);
    assert!(fault.unwrap_err().bad().unwrap().what.contains("`tools` holds a string"));
}
