//! The recorded prompts, ids and labels (where the fixtures are present), and tests that need no files.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Recorded cases and the tokenizer they were recorded with: always our own small one, whose numbers come from
/// `scripts/golden/tokenizer.py`; beside the full fixtures also the reference's two.
fn recorded(name: &str) -> Vec<(Tokenizer, Vec<Value>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (own, shared) = (root.join("tests/fixtures/tokenizer"), root.join("../shared"));
    let mut folders = vec![(own.clone(), own)];
    if shared.join("fixtures").is_dir() {
        let of =
            |era| (shared.join("upstream").join(era), shared.join("fixtures").join(era).join("tokenizer"));
        folders.extend(["minimind2", "minimind3"].map(of));
    } else {
        println!("the reference's tokenizers are not at {}", shared.display());
    }
    let read = |(tokenizer, cases): (PathBuf, PathBuf)| {
        let text = std::fs::read(cases.join(format!("{name}.json"))).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
        assert!(cases.len() >= 7);
        (Tokenizer::load(&tokenizer).unwrap(), cases)
    };
    folders.into_iter().map(read).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn trained(dir: &Path) -> Tokenizer {
    let texts = ["Hello world, hello there", "안녕하세요 세계", "你好，世界 你好", "🙂 smile 🙂🙃"];
    let report = train(texts.iter().map(|text| Ok((*text).to_owned())), 320, dir).unwrap();
    assert_eq!((report.vocab_size, report.texts), (320, 4));
    Tokenizer::load(dir).unwrap()
}

#[test]
fn recorded_encodings_match() {
    for (tokenizer, cases) in recorded("encodings") {
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(1), 2, 0));
        for case in cases {
            let expected = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap(), expected);
            assert_eq!(tokenizer.decode(&expected, false).unwrap(), case["decoded"]);
            assert_eq!(tokenizer.decode(&expected, true).unwrap(), case["decoded_skip_special"]);
            let mut stream = StreamDecoder::new(true);
            let mut text = String::new();
            for id in expected {
                text += &stream.push(&tokenizer, id).unwrap();
            }
            text += &stream.finish(&tokenizer).unwrap();
            assert_eq!(text, case["decoded_skip_special"]);
        }
    }
}

fn rendered(tokenizer: &Tokenizer, case: &Value) -> String {
    let options = RenderOptions {
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        open_thinking: case["open_thinking"].as_bool().unwrap(),
        ..RenderOptions::default()
    };
    let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
    tokenizer.apply_chat_template(&case["messages"], tools, options).unwrap()
}

#[test]
fn recorded_prompts_match() {
    for (tokenizer, cases) in recorded("chat_template") {
        for case in cases {
            let text = rendered(&tokenizer, &case);
            assert_eq!(text, case["rendered"]);
            assert_eq!(tokenizer.encode(&text).unwrap(), ids(&case["ids"]));
        }
    }
}

#[test]
fn recorded_labels_match() {
    for (tokenizer, cases) in recorded("sft_labels") {
        for case in cases {
            let text = remove_empty_think(render_conversation(&tokenizer, &case).unwrap(), false);
            assert_eq!(text, case["text"]);
            let masked = chat_row::tokenize(&tokenizer, "conversations", &case, false).unwrap();
            let mut got = masked.ids;
            got.truncate(case["max_length"].as_u64().unwrap() as usize);
            assert_eq!(got, ids(&case["input_ids"]));
            let labels: Vec<i64> = serde_json::from_value(case["labels"].clone()).unwrap();
            let label = |(id, loss): (&u32, &bool)| if *loss { i64::from(*id) } else { -100 };
            assert_eq!(got.iter().zip(&masked.loss_mask).map(label).collect::<Vec<_>>(), labels);
        }
    }
}

#[test]
fn training_is_deterministic_and_says_what_is_too_small() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (trained(a.path()), trained(b.path()));
    assert_eq!(one.fingerprint(), two.fingerprint());
    assert_eq!(
        (one.token_id("<think>"), one.token_id("<|buffer9|>"), one.token_id("!")),
        (Some(25), Some(35), Some(36))
    );
    let fault = train(std::iter::empty(), 291, a.path()).unwrap_err();
    assert_eq!(fault.exit_code(), 2);
    let small = train(std::iter::once(Ok("ab".to_owned())), 1000, b.path()).unwrap();
    assert_eq!(small.vocab_size, train::MIN_VOCAB_SIZE + 1);
}

#[test]
fn a_prompt_s_ids_are_those_of_the_whole_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let blank = "One\n\nTwo\n\n\n  three\n\n".repeat(50);
    train([Ok(blank.clone())].into_iter(), 400, dir.path()).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert!(tokenizer.encode(&blank).unwrap().len() < blank.len() * 2 / 3, "merges were learned");
    for answer in ["9", " nine", "\n", "<tool_call>\n"] {
        let start = "<think>\n\n</think>\n\n";
        let whole = tokenizer.encode(&format!("{start}{answer}")).unwrap();
        let start = tokenizer.encode(start).unwrap();
        assert!(whole.starts_with(&start), "{answer:?}: {start:?} {whole:?}");
    }
}

#[test]
fn a_split_emoji_is_never_shown_broken() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = trained(dir.path());
    let text = "a🦀é한<|im_end|>b";
    let mut stream = StreamDecoder::new(true);
    let mut pieces = String::new();
    for id in tokenizer.encode(text).unwrap() {
        let piece = stream.push(&tokenizer, id).unwrap();
        assert!(!piece.contains('\u{fffd}'));
        pieces += &piece;
    }
    assert_eq!(pieces + &stream.finish(&tokenizer).unwrap(), "a🦀é한b");
}

#[test]
fn templates_print_as_python_does() {
    let source = "{{ x | tojson }}|{{ y }}|{{ z }}|{% generation %}g{%- endgeneration %}\n{{ raise_exception('no') if stop }}";
    let template = ChatTemplate::parse(
        &source.replace("x |", "messages |").replace("y", "messages.y").replace("z", "messages.z"),
        Path::new("t"),
    )
    .unwrap();
    let render = |value: Value| template.render(&value, None, RenderOptions::default(), &BTreeMap::new());
    let text = render(json!({"y": 1e-5, "z": [null, true, "a'b"], "한": "<&\n"})).unwrap();
    assert_eq!(
        text,
        "{\"y\": 1e-05, \"z\": [null, true, \"a'b\"], \"한\": \"<&\\n\"}|1e-05|[None, True, \"a'b\"]|g"
    );
}

#[test]
fn keyword_arguments_reach_the_template() {
    let source = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}\
                  {{ reasoning_effort }}{{ documents | length if documents }}{{ open_thinking }}{{ bos_token }}";
    let template = ChatTemplate::parse(source, Path::new("t")).unwrap();
    let roles = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    let render = |kwargs: &str| {
        let options = RenderOptions::prompt().with_kwargs(parse_kwargs(kwargs).unwrap());
        template.render(&json!([]), None, options, &roles).unwrap()
    };
    assert_eq!(render("{}"), "False<s>");
    assert_eq!(
        render(
            r#"{"enable_thinking": false, "reasoning_effort": "low", "documents": [{}, {}], "bos_token": "b"}"#
        ),
        "<think></think>low2Falseb"
    );
    assert_eq!(render(r#"{"open_thinking": true}"#), "True<s>");
    for wrong in ["[]", "{", r#"{"messages": []}"#] {
        assert_eq!(parse_kwargs(wrong).unwrap_err().exit_code(), 2);
    }
}

#[test]
fn a_templates_own_sentence_is_in_the_error() {
    let source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system turns here!') }}{% endif %}{{ m.content + 1 }}{% endfor %}";
    let template = ChatTemplate::parse(source, Path::new("folder/chat_template.jinja")).unwrap();
    let render = |role: &str| {
        let messages = json!([{"role": role, "content": "x"}]);
        template.render(&messages, None, RenderOptions::default(), &BTreeMap::new()).unwrap_err()
    };
    let fault = render("system");
    assert_eq!(fault.what(), "the chat template refuses the conversation: No system turns here!");
    assert!(fault.to_string().contains("folder/chat_template.jinja"), "{fault}");
    let fault = render("user");
    assert!(fault.what().contains("line 1: can only concatenate str (not \"int\") to str"), "{fault}");
    let fault = ChatTemplate::parse("a\n{% if %}", Path::new("t.jinja")).unwrap_err().to_string();
    assert!(fault.contains("t.jinja:2: ") && fault.contains("Expected an expression"), "{fault}");
    let messages = json!([{"role": "system", "content": "x"}]);
    let raised =
        template.try_render(&messages, None, &RenderOptions::default(), &BTreeMap::new()).unwrap_err();
    assert_eq!((raised.kind, &*raised.message), (TemplateFaultKind::Raised, "No system turns here!"));
}

#[test]
fn messages_reach_the_template_as_transformers_gives_them() {
    let template = ChatTemplate::parse("{{ messages | tojson }}", Path::new("t")).unwrap();
    let messages = json!([
        {"role": "user", "content": null, "x": {"y": null}},
        {"role": "assistant", "reasoning": "why", "tool_calls": [{"id": "1", "function": {"arguments": {"a": 1}}}]},
    ]);
    assert_eq!(
        template.render(&messages, None, RenderOptions::default(), &BTreeMap::new()).unwrap(),
        r#"[{"role": "user", "x": {"y": null}}, {"thinking": "why", "role": "assistant", "reasoning": "why", "tool_calls": [{"id": "1", "function": {"arguments": {"a": 1}}}], "reasoning_content": "why"}]"#
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_comes_back(text in "\\PC{0,40}") {
        thread_local! {
            static TOKENIZER: Tokenizer = trained(tempfile::tempdir().unwrap().path());
        }
        TOKENIZER.with(|tokenizer| {
            let ids = tokenizer.encode(&text).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
            let mut stream = StreamDecoder::new(false);
            let mut pieces = String::new();
            for id in ids {
                pieces += &stream.push(tokenizer, id).unwrap();
            }
            assert_eq!(pieces + &stream.finish(tokenizer).unwrap(), text);
        });
    }
}

#[test]
fn what_a_training_may_choose() {
    let dir = tempfile::tempdir().unwrap();
    let texts =
        || ["ﬁne ﬁne ﬁne cafe\u{301}", "ab ab ab ab <|tool|>"].map(|text| Ok(text.to_owned())).into_iter();
    let options = TrainOptions {
        vocab_size: 400,
        special_tokens: vec!["<|tool|>".to_owned()],
        min_frequency: 4,
        normalizer: Normalizer::Nfkc,
    };
    train_with(texts(), &options, dir.path()).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.token_id("<|tool|>"), Some(36));
    assert_eq!(tokenizer.encode("a<|tool|>").unwrap()[1], 36);
    assert_eq!(tokenizer.decode(&tokenizer.encode("ﬁ").unwrap(), false).unwrap(), "fi");
    // ` a`, ` ab` and ` f` or the like come four times or more; nothing rarer is merged.
    assert!(tokenizer.token_id("ab").is_some() && tokenizer.token_id("Ġfine").is_none());
    for (tokens, word) in
        [(vec![""], "empty"), (vec!["<think>"], "there already"), (vec!["a", "a"], "there already")]
    {
        let special_tokens = tokens.into_iter().map(str::to_owned).collect();
        let fault =
            train_with(texts(), &TrainOptions { special_tokens, ..options.clone() }, dir.path()).unwrap_err();
        assert!(fault.exit_code() == 2 && fault.what().contains(word), "{fault}");
    }
    let fault = train_with(texts(), &TrainOptions { vocab_size: 292, ..options }, dir.path()).unwrap_err();
    assert!(fault.to_string().contains("use 293 or more"), "{fault}");
}
