//! Variables and the home folder in the values of a recipe.

use std::path::Path;

use crate::recipe::reader::parse_with;

fn variable(name: &str) -> Option<String> {
    let set = [("HOME", "/home/a"), ("OUT", "/data/runs"), ("N", "7"), ("EMPTY", ""), ("RATE", "1e-3")];
    set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
}

fn read(text: &str, sets: &[&str]) -> (crate::recipe::Recipe, Vec<String>) {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let (recipe, faults) =
        parse_with(Path::new("r.yaml"), text, &sets, crate::plan::shape(), &variable).unwrap();
    (recipe, faults.iter().map(|f| f.to_string().replace("error: ", "")).collect())
}

#[test]
fn variables_and_the_home_folder_are_put_in() {
    for (written, output) in [
        ("${OUT}/run", "/data/runs/run"),
        ("\"${OUT}/run\"", "/data/runs/run"),
        ("'${OUT}/${N}'", "/data/runs/7"),
        ("${NONE:-here}/run", "here/run"),
        ("${EMPTY:-here}/run", "here/run"),
        ("a${EMPTY}b", "ab"),
        ("a${EMPTY-x}b", "ab"),
        ("${NONE-x}", "x"),
        ("${NONE:-}x", "x"),
        ("${NONE:-${OUT}/b}", "/data/runs/b"),
        ("${NONE:-${NEITHER:-c}}", "c"),
        ("${NONE:-a: b, c #1}", "a: b, c #1"),
        ("$${OUT}/run", "${OUT}/run"),
        ("$OUT/$$", "$OUT/$$"),
        ("~/run", "/home/a/run"),
        ("\"~\"", "/home/a"),
        ("${NONE:-~/x}", "/home/a/x"),
        ("./~/x", "./~/x"),
        ("a~b", "a~b"),
        ("${N}", "7"),
    ] {
        for text in [format!("output: {written}\n"), format!("{{name: a, output: {written}}}\n")] {
            let (recipe, faults) = read(&text, &[]);
            assert_eq!(recipe.tree["output"].as_str(), Some(output), "{text} {faults:?}");
        }
        let (recipe, faults) = read("name: a\n", &[&format!("output={written}")]);
        assert_eq!(recipe.tree["output"].as_str(), Some(output), "--set {written} {faults:?}");
    }
}

#[test]
fn numbers_stay_numbers_and_texts_texts() {
    let text = "seed: ${N}\nname: ${N}\nstages:\n  - sft: {batch_size: ${BS:-8}, learning_rate: \"${RATE}\", \
                samples: [\"~/not a path\", \"${N}\"]}\n";
    let (recipe, faults) = read(text, &[]);
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!((recipe.tree["seed"].as_i64(), recipe.tree["name"].as_str()), (Some(7), Some("7")));
    let sft = &recipe.tree["stages"][0]["sft"];
    assert_eq!((sft["batch_size"].as_i64(), sft["learning_rate"].as_f64()), (Some(8), Some(1e-3)));
    assert_eq!(sft["samples"], serde_json::json!(["~/not a path", "7"]));
}

#[test]
fn faults_stand_where_the_variable_stands() {
    for (text, wanted) in [
        (
            "name: a\noutput: ${NONE}/run\n",
            "r.yaml:2:9: the variable `NONE` is not set\nhint: set it (export NONE=...)",
        ),
        ("name: a\noutput: x/${OUT}/${NONE}\n", "r.yaml:2:18: the variable `NONE` is not set"),
        ("# ${OUT}\nname: a # ${X}\noutput: \"é ${NONE}\"\n", "r.yaml:3:12: the variable `NONE` is not set"),
        ("{name: a, output: ${NONE}}\n", "r.yaml:1:19: the variable `NONE` is not set"),
        ("output: ${A B}\n", "r.yaml:1:9: `${A B}` is neither"),
        ("output: ${A:?x}\n", "r.yaml:1:9: `${A:?x}` is neither"),
        ("output: ${}\n", "r.yaml:1:9: `${}` names no variable"),
        ("output: a${OUT\n", "r.yaml:1:10: `${` without its `}`"),
        ("output: ~bob/x\n", "r.yaml:1:9: `~bob`: another user's home folder is not looked up"),
        ("${OUT}: 1\n", "r.yaml:1:1: the key `${OUT}` is not expanded"),
        ("x: {o: &o \"${NONE}/a\"}\noutput: *o\nseed: ${N}\n", "r.yaml:1:12: the variable `NONE` is not set"),
        ("seed: ${OUT}\n", "r.yaml:1:7: `seed` is `/data/runs`, expected a whole number"),
        // What stands behind an expanded value is where it was.
        ("{output: ${OUT}, sed: 1}\n", "r.yaml:1:18: unknown key `sed`"),
    ] {
        let (_, faults) = read(text, &[]);
        assert!(faults.iter().any(|f| f.starts_with(wanted)), "{text}\n{wanted}\n{}", faults.join("\n"));
    }
    // One fault is enough for one value.
    let text = "stages:\n  - sft: {init: ~bob/x, data: \"${NONE}\", epochs: ${NONE}, tokenizer: a/${NONE}}\n";
    let (recipe, faults) = read(text, &[]);
    let told = crate::plan::resolve::finish(&recipe, Vec::new()).err().map(|e| e.to_string());
    assert_eq!((faults.len(), told), (4, None));
    let (_, faults) = read("name: a\n", &["output=${NONE}"]);
    assert!(faults[0].starts_with("--set output: the variable `NONE` is not set"), "{faults:?}");
    let (_, faults) = read("x: {a: \"${NONE}\"}\nname: a\n", &[]);
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn what_is_kept_holds_no_value_of_the_environment() {
    let text = "name: a\noutput: ${OUT}/run\n";
    let (recipe, _) = read(text, &[]);
    assert!(recipe.text.ends_with(text) && recipe.text.contains("# from the environment: OUT\n"));
    let (recipe, _) = read(text, &["seed=${N}"]);
    assert!(
        recipe.text.contains("output: ${OUT}/run") && recipe.text.contains("seed: ${N}"),
        "{}",
        recipe.text
    );
    assert!(recipe.text.contains("# from the environment: N, OUT\n"), "{}", recipe.text);
    assert_eq!(read("name: a\n", &[]).0.text, "name: a\n");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let (recipe, faults) = read("\u{feff}name: a\nsed: 1\n", &[]);
    assert_eq!(recipe.tree["name"].as_str(), Some("a"));
    assert!(faults[0].starts_with("r.yaml:2:1: unknown key `sed`"), "{faults:?}");
    let (_, faults) = read("\u{feff}sed: 1\n", &[]);
    assert!(faults[0].starts_with("r.yaml:1:1: unknown key"), "{faults:?}");
    assert!(read("\u{feff}# note\r\nname: a\r\n", &[]).1.is_empty());
}
