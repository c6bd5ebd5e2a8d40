//! Faults at their places, flags, anchors, and no panic whatever the text.

use std::path::Path;

use proptest::prelude::*;

use super::reader::parse;
use crate::plan::shape;

const GOOD: &str = include_str!("../../recipes/quickstart.yaml");

fn faults(text: &str, sets: &[&str]) -> Vec<String> {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    match parse(Path::new("r.yaml"), text, &sets, shape()) {
        Ok((recipe, faults)) => {
            let all = crate::plan::resolve::finish(&recipe, faults).err();
            all.map_or(Vec::new(), |e| {
                e.to_string().split("error: ").skip(1).map(|s| s.trim_end().to_owned()).collect()
            })
        }
        Err(error) => vec![error.to_string().trim_start_matches("error: ").to_owned()],
    }
}

const BAD: &str = "\
name: bad
sede: 42
runtime: {device: cuda:x, precision: fp64}
model:
  preset: minimind9
  hidden_size: wide
stages:
  - pretrain:
      data: {synthetic: true, shufle: no, batching: pak}
      tokenizer: tok
      batch_size: 0
      learning_rate: -1
      epochs: many
      schedule: cosin
  - agent: {init: pretrain}
  - stf: {}
  - sft:
      init: pretrian
      data: {synthetic: true}
      grad_clpi: 1.0
      save_dtype: fp17
      samples: [a, [b]]
";

#[test]
fn every_fault_of_a_bad_recipe_stands_at_its_place() {
    let found = faults(BAD, &[]);
    for wanted in [
        "r.yaml:2:1: unknown key `sede`\nhint: did you mean `seed`?",
        "r.yaml:3:19: `device` is `cuda:x`",
        "r.yaml:3:38: `precision` in `runtime` is `fp64`",
        "r.yaml:5:11: unknown preset `minimind9`\nhint: did you mean `minimind2`?",
        "r.yaml:6:16: `hidden_size` in `model` is `wide`, expected a whole number",
        "r.yaml:9:31: unknown key `shufle` in `data` of stage `pretrain`\nhint: did you mean `shuffle`?",
        "r.yaml:9:53: `batching` in `data` of stage `pretrain` is `pak`, expected one of: bucket, pad, pack",
        "r.yaml:10:18: `tokenizer: tok` is no tokenizer stage above",
        "r.yaml:11:19: `batch_size` is 0\nhint: give a whole number of at least 1",
        "r.yaml:12:22: `learning_rate` is -1\nhint: give a number above 0",
        "r.yaml:13:15: `epochs` in stage `pretrain` is `many`, expected a whole number",
        "r.yaml:14:17: `schedule` in stage `pretrain` is `cosin`",
        "r.yaml:15:5: stage `agent` needs `rewards`",
        "r.yaml:16:5: unknown stage kind `stf`\nhint: did you mean `sft`?",
        "r.yaml:18:13: `init: pretrian` is no stage above and no file\nhint: did you mean `pretrain`?",
        "r.yaml:20:7: unknown key `grad_clpi` in stage `sft`\nhint: did you mean `grad_clip`?",
        "r.yaml:21:19: `save_dtype` in stage `sft` is `fp17`",
        "r.yaml:22:20: an element of `samples` in stage `sft` is a list, expected a text",
    ] {
        assert!(
            found.iter().any(|f| f.starts_with(wanted)),
            "missing {wanted}\nfound:\n{}",
            found.join("\n")
        );
    }
    assert!(found.iter().any(|f| f.starts_with("r.yaml:17:5: this stage needs a tokenizer")));
    assert_eq!(found.len(), 20, "{}", found.join("\n"));
    assert!(
        found[0].starts_with("r.yaml:2:1") && found[19].starts_with("r.yaml:22:20"),
        "in the file's order"
    );
}

#[test]
fn flags_are_applied_and_checked() {
    assert!(
        faults(GOOD, &["seed=7", "stages.sft.learning_rate=1e-4", "stages.tok.vocab_size=600"]).is_empty()
    );
    let (recipe, _) = parse(Path::new("r.yaml"), GOOD, &["stages.1.epochs=3".into()], shape()).unwrap();
    assert!(recipe.text.contains("epochs: 3") && recipe.text.starts_with("# --set stages.1.epochs=3"));
    let found = faults(
        GOOD,
        &["stages.sft.epochs=x", "stages.sfd.epochs=1", "sed=1", "stages.sft.batch_size=0", "none"],
    );
    for wanted in [
        "--set stages.sft.epochs: `epochs` in stage `sft` is `x`, expected a whole number",
        "--set stages.sfd.epochs: no stage `sfd`\nhint: did you mean `sft`?",
        "--set sed: unknown key `sed`\nhint: did you mean `seed`?",
        "--set stages.sft.batch_size: `batch_size` is 0",
        "--set none: no `=`",
    ] {
        assert!(found.iter().any(|f| f.starts_with(wanted)), "missing {wanted}\n{}", found.join("\n"));
    }
}

#[test]
fn anchors_and_merge_keys_count_once_and_where_they_are_written() {
    let text = "\
x:
  common: &c {batch_size: 0, epochs: 3}
stages:
  - tokenizer: {name: t, data: &d {synthetic: true}}
  - pretrain: {<<: *c, data: *d}
  - sft:
      <<: *c
      data: *d
      epochs: 1
";
    let found = faults(text, &[]);
    assert_eq!(found, ["r.yaml:2:27: `batch_size` is 0\nhint: give a whole number of at least 1"]);
}

#[test]
fn broken_texts_have_clear_faults() {
    for (text, wanted) in [
        ("", "r.yaml:1: the recipe is empty"),
        ("- a\n", "r.yaml:1: a recipe is a map of keys"),
        ("name: a\nname: b\n", "r.yaml:2:1: key `name` occurs twice in one map"),
        ("name: a\n\tseed: 1\n", "r.yaml:2"),
        ("name: [a\n", "r.yaml:"),
        ("<<: 3\n", "r.yaml:1:1: `<<` takes an alias"),
        ("stages:\n  - sft: {}\n    data: {}\n", "r.yaml:3:5: a stage has one key"),
        ("stages:\n  -\n", "r.yaml:2"),
        ("a: 1\n---\nb: 2\n", "r.yaml"),
        ("x: !a {b: 1}\n", "r.yaml:1:1: the recipe has no stages"),
        ("a: &a [*a]\n", "r.yaml:1:4: the recipe is not valid YAML"),
        (&"[".repeat(100_000), "r.yaml: the recipe is nested too deep"),
    ] {
        let found = faults(text, &[]);
        assert!(
            found.iter().any(|f| f.starts_with(wanted)),
            "{text:?}: missing {wanted}\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn built_in_recipes_are_sound_but_for_their_files() {
    assert_eq!(faults(GOOD, &[]), Vec::<String>::new());
    let (_, faults) =
        parse(Path::new("r.yaml"), include_str!("../../recipes/pretrain-sft-64m.yaml"), &[], shape())
            .unwrap();
    assert!(faults.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_text_makes_a_panic(cuts in prop::collection::vec((0usize..4000, 0usize..12, "[a-z0-9:,\\[\\]{}&*<!\"'| \n\t-]{0,6}"), 1..6)) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, length, new) in cuts {
            let at = at % text.len().max(1);
            let end = (at + length).min(text.len());
            text.splice(at.min(end)..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        let _ = faults(&text, &["stages.sft.epochs=2"]);
    }
}

#[test]
fn what_the_shape_leaves_free_keeps_its_nulls() {
    let text = "stages:\n  - agent:\n      tools:\n        - command: {name: a, parameters: {properties: {x: {enum: [a, null], default: null}}}}\n";
    let (recipe, faults) = parse(Path::new("r.yaml"), text, &[], shape()).expect("a tree");
    assert!(faults.is_empty(), "{faults:?}");
    let mut tree = recipe.tree;
    shape().drop_set_aside(shape().root(), &mut tree);
    let kept = tree.pointer("/stages/0/agent/tools/0/command/parameters/properties/x").expect("the property");
    assert_eq!(*kept, serde_json::json!({"enum": ["a", null], "default": null}));
}

#[test]
fn empty_headers_and_each_element_of_a_tuple_are_faults() {
    let stage = |keys: &str| format!("stages:\n  - ppo: {{{keys}}}\n");
    let found = faults(&stage("rollout: {headers: {X-A: , X-B: b}}"), &[]);
    assert!(found.iter().any(|f| f.contains("2:34") && f.contains("`X-A` in `headers`")), "{found:?}");
    let found = faults(&stage("betas: [a, b]"), &[]);
    assert!(found.iter().any(|f| f.contains("`a`")) && found.iter().any(|f| f.contains("`b`")), "{found:?}");
    let found = faults(&stage("learning_rate: .inf"), &[]);
    assert!(found.iter().any(|f| f.contains("give a number that is finite")), "{found:?}");
}
