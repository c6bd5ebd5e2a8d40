//! Rows of every shape, there and back, and the faults of those that have none.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn plain() -> ReadOptions {
    ReadOptions::default()
}

fn chat(turns: &[(&str, &str)]) -> Value {
    turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

fn read_as(row: Value, format: DataFormat) -> Value {
    convert(row.clone(), format, &plain()).unwrap_or_else(|fault| panic!("{row}: {fault:?}"))
}

#[test]
fn every_shape_gives_the_same_conversation() {
    let wanted = chat(&[("user", "Say hi"), ("assistant", "Hi")]);
    for (shape, row) in [
        ("conversations", json!({"conversations": wanted})),
        ("messages", json!({"messages": wanted})),
        ("messages", json!({"conversation": wanted})),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Say hi"}]}, {"role": "assistant", "content": "Hi"}]}),
        ),
        (
            "sharegpt",
            json!({"conversations": [{"from": "human", "value": "Say hi"}, {"from": "gpt", "value": "Hi"}]}),
        ),
        (
            "alpaca",
            json!({"instruction": "Say hi", "input": "", "output": "Hi", "text": "### Instruction: Say hi"}),
        ),
        ("prompt-completion", json!({"prompt": "Say hi", "completion": "Hi"})),
        (
            "prompt-completion",
            json!({"prompt": [{"role": "user", "content": "Say hi"}], "completion": [{"role": "assistant", "content": "Hi"}]}),
        ),
        ("prompt-response", json!({"prompt": "Say hi", "response": "Hi"})),
        ("question-answer", json!({"question": "Say hi", "answer": "Hi"})),
        ("query-response", json!({"query": "Say hi", "response": "Hi"})),
        ("prompt-preference", json!({"prompt": "Say hi", "chosen": "Hi", "rejected": "No"})),
        ("unpaired", json!({"prompt": "Say hi", "completion": "Hi", "label": true})),
    ] {
        assert_eq!(shape_of(&row, DataFormat::Chat, &plain()).map(Shape::name), Some(shape), "{row}");
        assert_eq!(read_as(row.clone(), DataFormat::Chat)["conversations"], wanted, "{row}");
        let asked = &read_as(row.clone(), DataFormat::Prompts)["conversations"];
        assert_eq!(asked[0], wanted[0], "{row}");
    }
    let system = read_as(
        json!({"system": "Be brief.", "instruction": "Add", "input": "1 2", "output": "3", "history": [["a", "b"]]}),
        DataFormat::Chat,
    );
    assert_eq!(
        system["conversations"],
        chat(&[
            ("system", "Be brief."),
            ("user", "a"),
            ("assistant", "b"),
            ("user", "Add\n1 2"),
            ("assistant", "3")
        ])
    );
    let call = json!({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{\"name\": \"add\", \"arguments\": {}}"},
        {"from": "observation", "value": "3"}, {"from": "gpt", "value": "three"}], "tools": "[]"});
    let turns = read_as(call, DataFormat::Chat)["conversations"].clone();
    assert_eq!(turns[1]["tool_calls"][0]["name"], "add");
    assert_eq!(turns[2], json!({"role": "tool", "content": "3"}));
}

#[test]
fn every_form_of_preference_gives_the_same_pair() {
    let side = |answer: &str| chat(&[("user", "q"), ("assistant", answer)]);
    for row in [
        json!({"chosen": side("x"), "rejected": side("y")}),
        json!({"prompt": "q", "chosen": "x", "rejected": "y"}),
        json!({"prompt": "q", "chosen": side("x"), "rejected": side("y"), "score_chosen": 2.0, "score_rejected": 1.0}),
        json!({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "x"}], "rejected": [{"role": "assistant", "content": "y"}]}),
        json!({"question": "q", "chosen": "x", "rejected": "y"}),
        json!({"instruction": "q", "input": "", "chosen": "x", "rejected": "y"}),
        json!({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "x"}, "rejected": {"from": "gpt", "value": "y"}}),
        json!({"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y"}),
        json!({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "x", "rejected": "y"}),
    ] {
        let pair = read_as(row.clone(), DataFormat::Preference);
        assert_eq!((&pair["chosen"], &pair["rejected"]), (&side("x"), &side("y")), "{row}");
    }
}

#[test]
fn texts_come_from_every_shape() {
    let text = |row: Value| read_as(row, DataFormat::Text)["text"].clone();
    assert_eq!(text(json!({"content": "a"})), "a");
    assert_eq!(text(json!({"raw_content": "ok then", "url": "x"})), "ok then");
    assert_eq!(text(json!({"prompt": "Once ", "completion": "upon"})), "Once upon");
    assert_eq!(text(json!({"instruction": "a", "output": "b"})), "a\nb");
    assert_eq!(text(json!({"instruction": "a", "output": "b", "text": "c"})), "c");
}

#[test]
fn answers_reach_the_rewards() {
    let gt = |row: Value, format| read_as(row, format)["gt"].clone();
    assert_eq!(gt(json!({"question": "q", "answer": "1+1\n#### 2"}), DataFormat::Agent), json!(["2"]));
    assert_eq!(
        gt(json!({"problem": "q", "solution": "so \\boxed{4}"}), DataFormat::Prompts),
        json!(["so \\boxed{4}"])
    );
    assert_eq!(
        gt(
            json!({"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "7"}}),
            DataFormat::Prompts
        ),
        json!(["7"])
    );
    let kept = json!({"conversations": [{"role": "user", "content": "q"}], "answer": "4"});
    assert_eq!(read_as(kept.clone(), DataFormat::Prompts), kept);
}

#[test]
fn a_row_in_minimind_s_keys_stays_to_the_bit() {
    for (row, format) in [
        (json!({"text": " a ", "meta": 1}), DataFormat::Text),
        (json!({"conversations": chat(&[("user", "a"), ("odd", "b")]), "tools": "[]"}), DataFormat::Chat),
        (
            json!({"chosen": chat(&[("user", "a"), ("assistant", "b")]), "rejected": chat(&[("user", "a")])}),
            DataFormat::Preference,
        ),
        (json!({"conversations": [], "gt": ["1"]}), DataFormat::Agent),
    ] {
        assert_eq!(read_as(row.clone(), format), row);
    }
}

#[test]
fn names_of_columns_and_what_is_missing() {
    let columns = |pairs: &[(&str, &str)]| ReadOptions {
        columns: pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        ..plain()
    };
    let german = columns(&[("prompt", "Frage"), ("response", "Antwort")]);
    let row = json!({"Frage": "a", "Antwort": "b", "text": "c"});
    assert_eq!(
        convert(row.clone(), DataFormat::Chat, &german).unwrap()["conversations"],
        chat(&[("user", "a"), ("assistant", "b")])
    );
    let none = convert(json!({"x": 1}), DataFormat::Chat, &german).unwrap_err().what;
    assert_eq!(none, "the row has no column `Frage` and `Antwort`; its keys are `x`");
    let fault = |row: Value, format| convert(row, format, &plain()).unwrap_err().what;
    assert_eq!(
        fault(json!({"question": "a", "id": 1}), DataFormat::Preference),
        "the row is of shape prompt, which has one answer, not a better and a worse one"
    );
    let odd = fault(json!({"q": "a", "output": "b"}), DataFormat::Chat);
    assert!(odd.contains("the keys `q` and `output`") && odd.contains("`instruction` is missing"), "{odd}");
    assert!(fault(json!({"text": "a"}), DataFormat::Chat).contains("shape text"));
    assert!(
        fault(json!({"prompt": "a", "completion": "b", "label": false}), DataFormat::Chat)
            .contains("`label` is false")
    );
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]});
    assert!(fault(image, DataFormat::Chat).contains("`messages[0].content[0]` is of type `image_url`"));
}

/// Words that no form gives a meaning.
fn words() -> impl Strategy<Value = String> {
    "[a-zé世<|{\"\\\\ ]{0,12}[a-z0-9]"
}

proptest! {
    #[test]
    fn conversations_come_back(
        system in prop::option::of(words()),
        rounds in prop::collection::vec((words(), words()), 1..4),
        label in any::<bool>(),
    ) {
        let trimmed = |text: &str| text.trim().to_owned();
        let mut turns: Vec<Value> = system.iter().map(|s| json!({"role": "system", "content": trimmed(s)})).collect();
        for (asked, said) in &rounds {
            turns.push(json!({"role": "user", "content": trimmed(asked)}));
            turns.push(json!({"role": "assistant", "content": trimmed(said)}));
        }
        let row = json!({"conversations": turns, "id": 7});
        let mut worse = turns.clone();
        *worse.last_mut().unwrap() = json!({"role": "assistant", "content": "no!"});
        let pair = json!({"chosen": turns, "rejected": worse, "id": 7});
        for shape in Shape::ALL {
            let (row, key) = match shape.format() {
                DataFormat::Preference => (&pair, "chosen"),
                DataFormat::Chat => (&row, "conversations"),
                _ => continue,
            };
            let mut own = row.clone();
            if shape == Shape::Unpaired {
                own["label"] = label.into();
            }
            let single = matches!(shape, Shape::PromptResponse | Shape::QuestionAnswer | Shape::QueryResponse);
            let written = match write(&own, shape) {
                Ok(written) => written,
                Err(_) => {
                    prop_assert!(single && turns.len() > 2 || shape == Shape::TextPreference && system.is_some(), "{shape:?} refuses {own}");
                    continue;
                }
            };
            prop_assert_eq!(shape_of(&written, shape.format(), &plain()), Some(shape), "{}", written);
            let format = if shape == Shape::Unpaired { DataFormat::Prompts } else { shape.format() };
            let back = convert(written.clone(), format, &plain()).unwrap();
            prop_assert_eq!(&back[key], &own[key], "{}", written);
            prop_assert_eq!(&back["id"], &own["id"]);
            if shape.format() == DataFormat::Preference {
                prop_assert_eq!(&back["rejected"], &own["rejected"]);
            }
        }
    }

    #[test]
    fn no_row_panics(row in any_json(), format in 0usize..5) {
        let formats = [DataFormat::Text, DataFormat::Chat, DataFormat::Preference, DataFormat::Prompts, DataFormat::Agent];
        let _ = convert(row.clone(), formats[format], &plain());
        for shape in Shape::ALL {
            let _ = write(&row, shape);
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = "(conversations|messages|from|value|role|content|chosen|rejected|prompt|completion|label|text|history|instruction|output|tool_calls)";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "(user|human|assistant|\n\nHuman: a)".prop_map(Value::from)
    ];
    let inner = leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(keys, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect()))
}

#[test]
fn shapes_are_counted_and_columns_must_be_somewhere() {
    let columns = [("prompt", "Frage"), ("response", "Antwort")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let options = ReadOptions { columns: columns.into(), ..ReadOptions::default() };
    let tally = Tally::default();
    let row = |text: &str| tally.parse(text.as_bytes(), DataFormat::Chat, &options);
    row(r#"{"Frage": "a", "response": "b"}"#).unwrap();
    let fault = tally.check_columns(&options).unwrap_err();
    assert_eq!(fault.what(), "no row has the column `Antwort`, which `columns` names as response");
    assert_eq!(fault.hint_text(), Some("the rows have Frage, response"));
    row(r#"{"Frage": "a", "Antwort": "b"}"#).unwrap();
    assert!(tally.check_columns(&options).is_ok());
    assert_eq!(tally.said().unwrap(), "prompt-response");
    let (mixed, none) = (Tally::default(), ReadOptions::default());
    let row = |text: &str| mixed.parse(text.as_bytes(), DataFormat::Chat, &none).unwrap();
    row(r#"{"instruction": "a", "input": "", "output": "b"}"#);
    row(r#"{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#);
    assert_eq!(mixed.said().unwrap(), "alpaca");
    row(r#"{"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1}"#);
    assert_eq!(mixed.said().unwrap(), "alpaca (1), prompt-preference (1); not read: score_chosen");
}
