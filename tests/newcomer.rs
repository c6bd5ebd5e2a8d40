//! The first commands of someone who comes from MiniMind, and recipes as people write them: upstream's folders as they
//! lie, its tokenizers, its names, its interrupted runs; variables and `~`; data looked at before anything trains.

mod common;

use std::path::Path;

use common::home::{GREET, Home, generate, refused, told};
use common::succeed;
use minimind::data::tokenizer::builtin::BuiltinTokenizer;

#[test]
fn upstreams_layout_works_as_it_lies() {
    let home = Home::new();
    home.weights("out/full_sft_32.pth", "minimind3", 6400);
    home.weights("out2/full_sft_32.pth", "minimind2", 6400);
    home.weights("small/full_sft_32.pth", "minimind3", 700);
    let file = "out/full_sft_32.pth";
    // Nothing beside it: the program's own, by the weights' era, and said.
    assert!(generate(&home, file, &[]).contains("taken for minimind3's"));
    assert!(generate(&home, "out2/full_sft_32.pth", &[]).contains("taken for minimind2's"));
    assert!(generate(&home, file, &["--tokenizer", "minimind2"]).contains("minimind2 is MiniMind's own"));
    // Not MiniMind's vocabulary: nothing is guessed.
    let text =
        refused(&mut home.run(&[&["generate", "--model", "small/full_sft_32.pth"][..], &GREET].concat()));
    assert!(text.contains("no tokenizer was found") && text.contains("--tokenizer DIR"), "{text}");
    home.write("two.yaml", "stages:\n  - sft: {init: out2/full_sft_32.pth, data: {synthetic: true}}\n");
    assert!(told(&succeed(&mut home.run(&["validate", "two.yaml"]))).contains("taken for minimind2's"));
    home.write("none.yaml", "stages:\n  - sft: {init: small/full_sft_32.pth, data: {synthetic: true}}\n");
    assert!(refused(&mut home.run(&["validate", "none.yaml"])).contains("this stage needs a tokenizer"));
    // Upstream's own place.
    home.tokenizer("model", BuiltinTokenizer::MiniMind3);
    let text = generate(&home, file, &[]);
    assert!(
        text.contains("the tokenizer is the one in out/../model") && !text.contains("taken for"),
        "{text}"
    );
    // From inside the folder too.
    let output = home.run(&[&["generate", "--model", "full_sft_32.pth"][..], &GREET].concat());
    let mut output = output;
    let text = told(&succeed(output.current_dir(home.path("out"))));
    assert!(text.contains("the tokenizer is the one in ../model"), "{text}");
    // A recipe that starts from the weights finds it too.
    let recipe = |init: &str| {
        format!(
            "output: run-{init}\nstages:\n  - sft: {{init: {init}/full_sft_32.pth, data: {{synthetic: {{rows: 8}}}}, max_steps: 1}}\n"
        )
    };
    home.write("out.yaml", recipe("out"));
    assert!(
        told(&succeed(&mut home.run(&["run", "out.yaml"])))
            .contains("the tokenizer is the one in out/../model")
    );
    // Beside the weights wins over both.
    home.tokenizer("out", BuiltinTokenizer::MiniMind3);
    let text = generate(&home, file, &[]);
    assert!(!text.contains("tokenizer"), "{text}");
}

#[test]
fn exports_take_the_tokenizer_along() {
    let home = Home::new();
    home.weights("out/full_sft_32.pth", "minimind3", 6400);
    home.weights("small/full_sft_32.pth", "minimind3", 700);
    let export = |model: &str, out: &str| {
        told(&succeed(&mut home.run(&[
            "export",
            "huggingface",
            "--model",
            model,
            "--out",
            out,
            "--no-verify",
        ])))
    };
    assert!(export("out/full_sft_32.pth", "hf").contains("taken for minimind3's"));
    assert!(home.path("hf/tokenizer.json").is_file());
    assert!(export("small/full_sft_32.pth", "hf2").contains("the folder has none"));
    assert!(!home.path("hf2/tokenizer.json").exists());
}

#[test]
fn a_tokenizer_smaller_than_the_vocabulary_is_warned_of() {
    let home = Home::new();
    home.weights("out/full_sft_32.pth", "minimind3", 6400);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    let own = own.to_str().unwrap();
    let text = generate(&home, "out/full_sft_32.pth", &["--tokenizer", own]);
    assert!(text.contains("the tokenizer has 512 tokens") && text.contains("6400 rows"), "{text}");
    let recipe = format!(
        "output: run\ntokenizer: {own}\nstages:\n  - sft: {{init: out/full_sft_32.pth, data: {{synthetic: {{rows: 8}}}}, \
         epochs: 1, max_steps: 1}}\n  - eval: {{data: {{synthetic: {{rows: 4}}}}, limit: 4}}\n"
    );
    home.write("r.yaml", recipe);
    let text = told(&succeed(&mut home.run(&["run", "r.yaml"])));
    // Of the stage that starts from the file, and not of the one that goes on from that stage.
    assert_eq!(text.matches("the tokenizer has 512 tokens").count(), 1, "{text}");
}

#[test]
fn a_folder_with_several_weight_files_asks() {
    let home = Home::new();
    for name in ["pretrain_32", "full_sft_32"] {
        home.weights(&format!("out/{name}.pth"), "minimind3", 6400);
    }
    let text = refused(&mut home.run(&[&["generate", "--model", "out"][..], &GREET].concat()));
    assert!(text.contains("2 weight files: full_sft_32.pth, pretrain_32.pth"), "{text}");
    assert!(text.contains("such as out/"), "{text}");
    std::fs::remove_file(home.path("out/pretrain_32.pth")).unwrap();
    generate(&home, "out", &[]);
    // A recipe is told before it runs.
    home.weights("out/pretrain_32.pth", "minimind3", 6400);
    home.write("r.yaml", "tokenizer: minimind3\nstages:\n  - sft: {init: out, data: {synthetic: true}}\n");
    assert!(refused(&mut home.run(&["validate", "r.yaml"])).contains("2 weight files"));
}

const TINY: &str = "model: {preset: minimind3, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}\n\
    tokenizer: minimind3\nstages:\n  - pretrain: {data: {synthetic: {rows: 40}}, epochs: 1, batch_size: 8, max_steps: 2, max_seq_len: 64}\n";

#[test]
fn recipes_take_variables_and_the_home_folder() {
    let home = Home::new();
    home.write("env.yaml", format!("\u{feff}name: y\noutput: ${{BUGS_OUT}}/run\n{TINY}"));
    home.write("home.yaml", format!("name: y\noutput: ~/at_home\n{TINY}"));
    let text = refused(&mut home.run(&["validate", "env.yaml"]));
    assert!(text.contains("env.yaml:2:9: the variable `BUGS_OUT` is not set"), "{text}");
    succeed(home.run(&["run", "env.yaml"]).env("BUGS_OUT", "bugs"));
    assert!(home.path("bugs/run/pretrain_32.pth").is_file() && !home.path("${BUGS_OUT}").exists());
    let kept = std::fs::read_to_string(home.path("bugs/run/recipe.yaml")).unwrap();
    assert!(
        kept.contains("output: ${BUGS_OUT}/run") && kept.contains("# from the environment: BUGS_OUT"),
        "{kept}"
    );
    succeed(&mut home.run(&["run", "home.yaml"]));
    assert!(home.path("at_home/pretrain_32.pth").is_file() && !home.path("~").exists());
    // The recipe that was kept runs again, and finds everything done.
    let again = succeed(home.run(&["run", "bugs/run/recipe.yaml"]).env("BUGS_OUT", "bugs"));
    assert!(told(&again).contains("pretrain: done already"), "{}", told(&again));
}

#[test]
fn data_is_looked_at_before_anything_trains() {
    let home = Home::new();
    home.write("text.jsonl", "{\"text\": \"a\"}\n".repeat(60));
    let pair = |prompt: &str| {
        format!(
            "{{\"chosen\": [{{\"role\": \"user\", \"content\": \"{prompt}\"}}, {{\"role\": \"assistant\", \"content\": \"yes\"}}], \
             \"rejected\": [{{\"role\": \"user\", \"content\": \"{prompt}\"}}, {{\"role\": \"assistant\", \"content\": \"no\"}}]}}\n"
        )
    };
    home.write("pairs.jsonl", format!("{}\n{}{}", pair("a"), pair("b"), pair(&"long ".repeat(200))));
    home.write("story.txt", "Once upon a time\nthere was\n");
    let recipe = |name: &str, stage: &str| {
        home.write(name, format!("output: out-{name}\n{TINY}{stage}"));
    };
    recipe("sft.yaml", "  - sft: {data: text.jsonl}\n");
    recipe("list.yaml", "  - sft: {data: [text.jsonl]}\n");
    recipe("story.yaml", "  - lora: {data: {path: story.txt}}\n");
    recipe("dpo.yaml", "  - dpo: {data: pairs.jsonl, max_seq_len: 128}\n");
    recipe("skip.yaml", "  - dpo: {data: {path: pairs.jsonl, on_bad_row: skip}, max_seq_len: 128}\n");
    recipe("grpo.yaml", "  - grpo: {data: text.jsonl, rewards: [length: {}]}\n");
    recipe("held.yaml", "  - sft: {data: {synthetic: true, validation: text.jsonl}}\n");
    recipe("math.yaml", "  - eval: {data: text.jsonl, tasks: [math]}\n");
    for (name, wanted) in [
        ("sft.yaml", "text.jsonl:1: "),
        ("list.yaml", "text.jsonl:1: "),
        ("story.yaml", "story.txt:1: "),
        ("dpo.yaml", "pairs.jsonl:4: `chosen` has"),
        ("grpo.yaml", "text.jsonl:1: "),
        ("math.yaml", "text.jsonl:1: "),
    ] {
        for command in ["validate", "plan", "run"] {
            let text = refused(&mut home.run(&[command, name]));
            assert!(text.contains(wanted), "{command} {name}: {text}");
            assert!(!text.contains("/tmp/.tmp") || home.0.path().starts_with("/tmp/.tmp"), "{text}");
        }
        assert!(!home.path(&format!("out-{name}")).exists(), "{name} began");
    }
    assert!(told(&succeed(&mut home.run(&["validate", "skip.yaml"]))).contains("skip.yaml: ok"));
    // What only --only leaves out is not in the way.
    succeed(&mut home.run(&["run", "sft.yaml", "--only", "pretrain"]));
    // A tokenizer that a stage will train is not there yet; shapes are looked at all the same.
    let own = "output: o\nstages:\n  - tokenizer: {data: text.jsonl, vocab_size: 300}\n  - sft: {init: scratch, data: text.jsonl}\n";
    home.write("own.yaml", own);
    assert!(refused(&mut home.run(&["validate", "own.yaml"])).contains("text.jsonl:1: "));
}

#[test]
fn plan_reads_the_weights_it_starts_from() {
    let home = Home::new();
    home.weights("out/pretrain_32.pth", "minimind3", 6400);
    let recipe = |model: &str| {
        format!(
            "{model}output: run\ntokenizer: minimind3\nruntime: {{device: cpu}}\nstages:\n  - sft: {{init: out/pretrain_32.pth, data: {{synthetic: true}}}}\n  - dpo: {{data: {{synthetic: {{rows: 20}}}}}}\n"
        )
    };
    home.write("r.yaml", recipe(""));
    let plan = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&succeed(&mut home.run(&["plan", name, "--json"])).stdout).unwrap()
    };
    let costs = plan("r.yaml")["costs"].clone();
    // 6400 x 32, and one block.
    for stage in 0..2 {
        let total = costs[stage]["parameters"]["total"].as_u64().unwrap_or_else(|| panic!("{costs}"));
        assert!((204_800..230_000).contains(&total), "{costs}");
        assert!(costs[stage]["seconds"].is_number() && costs[stage]["peak_memory"].is_object(), "{costs}");
    }
    home.write("other.yaml", recipe("model: {preset: minimind3, hidden_size: 512}\n"));
    let other = plan("other.yaml");
    assert_eq!(other["costs"][0]["parameters"], costs[0]["parameters"]);
    let text = told(&succeed(&mut home.run(&["plan", "other.yaml"])));
    assert!(text.contains("`hidden_size` of the recipe's model is 512, that of these weights 32"), "{text}");
}

#[test]
fn an_interrupted_run_of_upstreams_is_no_start() {
    let shared = common::fixtures().join("minimind3/dense");
    let home = Home::new();
    for name in ["pretrain_32.pth", "pretrain_32_resume.pth"] {
        home.write(&format!("up/{name}"), std::fs::read(shared.join("resume").join(name)).unwrap());
    }
    let rows = shared.join("train_batches.safetensors");
    let stage = |init: &str| {
        format!(
            "output: runs/goes-on\nmodel: {{config: {}}}\nruntime: {{device: cpu, precision: fp32}}\nstages:\n  - pretrain: {{name: pretrain, init: {init}, \
             data: {{path: {}, shuffle: false}}, epochs: 1, accumulation_steps: 2, learning_rate: 0.005, max_seq_len: 24, log_interval: 1}}\n",
            shared.join("config.json").display(),
            rows.display(),
        )
    };
    home.write("r.yaml", stage("up/pretrain_32_resume.pth"));
    let text = refused(&mut home.run(&["validate", "r.yaml"]));
    for part in [
        "r.yaml:5:38: `up/pretrain_32_resume.pth` is where a run stopped",
        "name the stage `pretrain`, copy the file to runs/goes-on/pretrain_32_resume.pth",
        "`init: weights:up/pretrain_32_resume.pth`",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // From its weights, as a new run.
    home.write("new.yaml", stage("weights:up/pretrain_32_resume.pth"));
    let text = told(&succeed(&mut home.run(&[
        "run",
        "new.yaml",
        "--output",
        "runs/new",
        "--set",
        "stages.pretrain.max_steps=1",
    ])));
    assert!(!text.contains("resum"), "{text}");
    // And on with it, as the README says.
    home.write("on.yaml", stage("scratch"));
    let text = refused(&mut home.run(&["run", "on.yaml", "--resume", "must"]));
    assert!(text.contains("has no checkpoint to resume from"), "{text}");
    assert!(!home.path("runs/goes-on/recipe.yaml").exists(), "nothing is written by a refusal");
    home.write(
        "runs/goes-on/pretrain_32_resume.pth",
        std::fs::read(home.path("up/pretrain_32_resume.pth")).unwrap(),
    );
    // A stage below it is new, and begins.
    let more = stage("scratch").replace("name: pretrain", "name: below");
    let more = more.lines().last().expect("a stage");
    home.write("on.yaml", format!("{}{more}\n", stage("scratch")));
    succeed(&mut home.run(&["run", "on.yaml", "--resume", "must"]));
    assert!(home.path("runs/goes-on/below/done.json").exists());
    let first = &common::rows(&home.path("runs/goes-on/pretrain/metrics.jsonl"))[0];
    assert!(common::number(first, "step") > 1.0, "{first}");
}

#[test]
fn sums_in_words_are_answered_and_limits_hold() {
    let home = Home::new();
    home.weights("out/full_sft_32.pth", "minimind3", 6400);
    let turn = "{\"role\": \"user\", \"content\": \"1 + 1?\"}";
    home.write(
        "gt.jsonl",
        format!("{{\"conversations\": [{turn}, {{\"role\": \"assistant\", \"content\": \"\"}}], \"gt\": [\"2\"]}}\n").repeat(5),
    );
    home.write("gsm8k.jsonl", "{\"question\": \"1 + 1?\", \"answer\": \"1 + 1 = 2 #### 2\"}\n".repeat(5));
    home.write(
        "chat.jsonl",
        format!("{{\"conversations\": [{turn}, {{\"role\": \"assistant\", \"content\": \"2\"}}]}}\n")
            .repeat(2)
            + "not JSON at all\n",
    );
    let eval = |data: &str| {
        let arguments = [
            "eval",
            "--model",
            "out/full_sft_32.pth",
            "--data",
            data,
            "--limit",
            "2",
            "--max-new-tokens",
            "4",
            "--json",
        ];
        let output = succeed(&mut home.run(&arguments));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (value["metrics"].clone(), told(&output))
    };
    for data in ["gt.jsonl", "gsm8k.jsonl"] {
        let (metrics, text) = eval(data);
        assert_eq!(metrics["questions"], 2, "{metrics}");
        assert!(metrics["math_accuracy"].is_number() && text.contains("measured as math"), "{text}");
    }
    // A pipe is read once, whatever is asked of it.
    let mut piped = home.run(&[
        "eval",
        "--model",
        "out/full_sft_32.pth",
        "--data",
        "-",
        "--limit",
        "1",
        "--max-new-tokens",
        "4",
    ]);
    let text = told(&succeed(piped.stdin(std::fs::File::open(home.path("gt.jsonl")).unwrap())));
    assert!(text.contains("math_accuracy"), "{text}");
    // The third row cannot be read: it is not, within the limit.
    let (metrics, _) = eval("chat.jsonl");
    assert!(metrics["loss"].is_number(), "{metrics}");
    home.write("r.yaml", "output: o\ntokenizer: minimind3\nstages:\n  - eval: {from: out/full_sft_32.pth, data: gt.jsonl, limit: 3, max_new_tokens: 4}\n");
    let text = told(&succeed(&mut home.run(&["run", "r.yaml"])));
    assert!(text.contains("math_accuracy") && text.contains("questions 3"), "{text}");
}

#[test]
fn a_smaller_vocabulary_than_asked_is_said() {
    let home = Home::new();
    home.write("t.jsonl", "{\"text\": \"the cat sat\"}\n".repeat(9));
    home.write(
        "r.yaml",
        "output: o\nmodel: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}\nstages:\n  \
         - tokenizer: {data: t.jsonl, vocab_size: 600}\n  - pretrain: {data: t.jsonl, epochs: 1, max_seq_len: 32}\n",
    );
    let text = told(&succeed(&mut home.run(&["plan", "r.yaml"])));
    assert!(text.contains("parameters are the most that there can be"), "{text}");
    let text = told(&succeed(&mut home.run(&["run", "r.yaml", "--only", "tokenizer"])));
    assert!(text.contains("vocab_size is 600, but the text has merges for"), "{text}");
}
