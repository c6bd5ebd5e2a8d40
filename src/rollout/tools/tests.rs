//! Tools by their answers, faults included.

use serde_json::json;

use super::*;

fn command(script: &str, timeout_secs: f64) -> ToolConfig {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let kind = ToolKind::Command { command, parameters: json!({"type": "object"}), timeout_secs };
    ToolConfig { name: Some("own".into()), description: Some("Says.".into()), kind }
}

#[test]
fn built_in_tools_answer() {
    let tools = Tools::built_in();
    assert_eq!(tools.call("calculate_math", &json!({"expression": "37 * 46"})), "1702");
    let ask = |value: Value| {
        tools.call("unit_converter", &json!({"value": value, "from_unit": "km", "to_unit": "m"}))
    };
    assert_eq!([ask(json!(5)), ask(json!("-0.5"))], ["5000", "-500"]);
    let time = tools.call("get_current_time", &json!({"utc_offset": "-03:30"}));
    assert!(time.contains(" -03:30, ") && time.starts_with("20"), "{time}");
    assert!(tools.call("get_current_time", &json!({})).contains("+00:00"));
    assert_eq!(tools.schemas()[0]["function"]["parameters"]["required"], json!(["expression"]));
}

#[test]
fn what_is_wrong_with_a_call_is_told_to_the_model() {
    let tools = Tools::built_in();
    let fault = |name: &str, arguments: Value| {
        let answer: Value = serde_json::from_str(&tools.call(name, &arguments)).unwrap();
        answer["error"].as_str().unwrap().to_owned()
    };
    assert!(fault("nothing", json!({})).contains("calculate_math, unit_converter"));
    assert!(fault("calculate_math", json!({})).contains("`expression` is missing"));
    assert!(fault("calculate_math", json!({"expression": []})).contains("not a text"));
    assert!(fault("calculate_math", json!({"expression": "1/0"})).contains("zero"));
    assert!(
        fault("unit_converter", json!({"value": "x", "from_unit": "m", "to_unit": "m"}))
            .contains("not a number")
    );
    assert!(fault("get_current_time", json!({"utc_offset": "noon"})).contains("+08:00"));
    let calls = ToolCallFormat::default().parse(
        "<tool_call>{</tool_call><tool_call>{\"name\": \"calculate_math\", \"arguments\": {\"expression\": \"1+1\"}}</tool_call>",
        &[],
    );
    let messages = tools.messages(&calls, 8);
    assert!(messages[0]["content"].as_str().unwrap().contains("not JSON"));
    assert_eq!(messages[1], json!({"role": "tool", "content": "2"}));
    assert_eq!(tools.messages(&calls, 1).len(), 1);
}

#[test]
fn tables_are_read_and_their_faults_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Tools::new(&[ToolConfig::new(ToolKind::Lookup(Table::File(path)))])
    };
    let json = file("a.json", r#"{"Paris": "France", "Answer": 42}"#).unwrap();
    assert_eq!(json.call("lookup", &json!({"key": " paris "})), "France");
    assert_eq!(json.call("lookup", &json!({"key": "answer"})), "42");
    assert!(json.call("lookup", &json!({"key": "Rome"})).contains("nothing is known of `Rome`"));
    let rows = file("b.jsonl", "{\"key\": \"a\", \"value\": 1}\n").unwrap();
    assert_eq!(rows.call("lookup", &json!({"key": "A"})), "1");
    assert!(file("c.json", "[1]").unwrap_err().to_string().contains("one JSON object"));
    assert!(file("d.jsonl", "{\"key\": \"a\"}").unwrap_err().to_string().contains("d.jsonl:1"));
    let world = Tools::new(&[ToolConfig::new(ToolKind::Lookup(Table::World(42)))]).unwrap();
    let (good, price) = synthetic::prices(42)[3];
    assert_eq!(world.call("lookup", &json!({"key": good})), price.to_string());
}

#[test]
fn the_built_in_worlds_errands_are_answered_as_they_say() {
    use crate::data::{SyntheticConfig, SyntheticSplit, SyntheticTask};
    let configs =
        [ToolKind::Calculator, ToolKind::Units, ToolKind::Lookup(Table::World(9))].map(ToolConfig::new);
    let tools = Tools::new(&configs).unwrap();
    let world = SyntheticConfig {
        rows: Some(300),
        seed: 9,
        split: SyntheticSplit::Train,
        task: SyntheticTask::Tools,
    };
    let mut calls = 0;
    for row in synthetic::rows(&world, synthetic::SyntheticKind::Chat) {
        let turns = row["conversations"].as_array().unwrap();
        for pair in turns.windows(2).filter(|pair| pair[1]["role"] == "tool") {
            let asked: Value = serde_json::from_str(pair[0]["tool_calls"].as_str().unwrap()).unwrap();
            assert_eq!(tools.answer(&ToolCall::from_json(&asked[0])), pair[1]["content"].as_str().unwrap());
            calls += 1;
        }
    }
    assert!(calls >= 300);
}

#[test]
fn programs_get_json_and_have_a_limit() {
    let tools = |script: &str, limit| Tools::new(&[command(script, limit)]).unwrap();
    let said = tools("read line; echo \"got $line\"; echo twice", 5.0).call("own", &json!({"a": 1}));
    assert_eq!(said, "got {\"a\":1}\ntwice");
    assert!(tools("sleep 20", 0.1).call("own", &json!({})).contains("within 0.1 seconds"));
    assert!(tools("echo bad >&2; exit 1", 5.0).call("own", &json!({})).contains("failed"));
    let long = tools("yes | head -c 100000", 5.0).call("own", &json!({}));
    assert!(long.len() < 5000 && long.ends_with("[cut here]"));
    assert!(
        Tools::new(&[command("true", 1.0), command("true", 1.0)])
            .unwrap_err()
            .to_string()
            .contains("two tools")
    );
}
