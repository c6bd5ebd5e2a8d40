//! Rewards and tools from a recipe's text to a plan, faults at their places.

use std::path::Path;

use super::*;
use crate::recipe::reader::parse;
use crate::rollout::tools::{Table, ToolConfig, ToolKind};

/// Plans the rewards and tools of a stage written below `stages: - agent:`; gives the faults as text.
fn planned(text: &str) -> (Vec<RewardConfig>, Vec<ToolConfig>, String) {
    let indented: String = text.lines().map(|line| format!("      {line}\n")).collect();
    let whole = format!("stages:\n  - agent:\n{indented}");
    let (recipe, faults) = parse(Path::new("r.yaml"), &whole, &[], crate::plan::shape()).unwrap();
    let mut resolver = Resolver { recipe: &recipe, faults, above: Vec::new(), below: Vec::new(), seed: 7 };
    let s = resolver.section(&["stages", "0", "agent"].map(str::to_owned));
    let (rewards, tools) = (resolver.rewards(&s), resolver.tools(&s));
    let faults = resolver.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    (rewards, tools, faults)
}

#[test]
fn defaults_are_upstreams() {
    let (rewards, tools, faults) = planned(
        "rewards:\n  - length:\n  - format: {weight: 2, on_error: 0.5}\n  - repetition: {}\n  - math: {name: sum, on_error: stop}\n\
         tools:\n  - calculator: {name: calc}\n  - lookup:\n",
    );
    assert_eq!(faults, "");
    assert_eq!(rewards[0], RewardConfig::new(RewardKind::Length(LengthConfig::default())));
    assert_eq!((rewards[1].weight, rewards[1].on_error), (2.0, OnError::Value(0.5)));
    assert_eq!(rewards[2].kind, RewardKind::Repetition(RepetitionConfig { ngram: 3, cap: 0.5 }));
    assert_eq!((rewards[3].name.as_str(), rewards[3].on_error), ("sum", OnError::Stop));
    assert_eq!((tools[0].name.as_deref(), &tools[0].kind), (Some("calc"), &ToolKind::Calculator));
    assert_eq!(tools[1].kind, ToolKind::Lookup(Table::World(7)));
}

#[test]
fn faults_stand_at_their_lines() {
    let (_, _, faults) = planned(
        "rewards:\n  - length: {min: 9, max: 3}\n  - regex: {pattern: \"(\"}\n  - regex: {}\n  - math: {on_error: maybe}\n\
         \x20 - http: {url: nowhere, timeout_secs: 0}\n  - http: {name: h2, url: http://a, api_key_env: NO_SUCH_VARIABLE_HERE}\n\
         \x20 - command: {command: []}\n  - model: {}\n  -\n\
         tools:\n  - clock:\n  - clock:\n  - lookup: {file: none.csv}\n  - command: {parameters: {type: array}}\n",
    );
    for part in [
        "r.yaml:4:33: `min` 9 is above `max` 3",
        "r.yaml:5:28: the pattern cannot be read",
        "r.yaml:6:11: two rewards are named `regex`",
        "reward `regex` needs `pattern`",
        "r.yaml:7:28: `on_error` is neither `stop` nor a number",
        "r.yaml:8:23: `url` is `nowhere`",
        "`timeout_secs` is 0",
        "the environment has no `NO_SUCH_VARIABLE_HERE`",
        "`command` names no program",
        "reward `model` needs `from`",
        "a reward is empty",
        "two tools have one name",
        "none.csv is neither .json nor .jsonl",
        "tool `command` needs `name`",
        "`parameters` is not a JSON Schema",
    ] {
        assert!(faults.contains(part), "{part} is not in\n{faults}");
    }
}
