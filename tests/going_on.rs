//! What becomes of a stage that was made before: settings that only watch, other settings, more epochs. Every kind of training
//! stage, to the bit. Next: `going_on_broken`.

mod common;

use common::ground::{Ground, KINDS, copy, half, refused, run, said, same};
use common::{json, rows, succeed};

#[test]
fn every_kind_goes_on_with_settings_that_only_watch() {
    let ground = Ground::new(&[]);
    let whole = ground.path("whole");
    succeed(&mut run(&ground.recipe, &whole, &[]));
    for kind in KINDS {
        let output = ground.path(kind);
        std::fs::create_dir(&output).expect("a folder");
        let needed: &[&str] = match kind {
            "pretrain" => &["tok"],
            "sft" => &["tok", "pretrain", "pretrain_64.pth"],
            _ => &["tok", "sft", "sft_64.pth"],
        };
        needed.iter().for_each(|name| copy(&whole.join(name), &output.join(name)));
        half(&ground.recipe, &output, kind, &[]);
        let done = rows(&output.join(kind).join("metrics.jsonl")).len();
        assert!(
            done < rows(&whole.join(kind).join("metrics.jsonl")).len(),
            "{kind} was not stopped on its way"
        );

        // What decides the result stops it before anything is written.
        let lr = format!("stages.{kind}.learning_rate=0.002");
        let text = refused(&ground.recipe, &output, &["--only", kind, "--set", &lr]);
        assert!(text.contains("learning_rate 0.001 -> 0.002"), "{kind}: {text}");
        assert!(
            text.contains("--resume force") && text.contains(&format!("--from {kind}")),
            "{kind}: {text}"
        );

        let sets: Vec<String> =
            ["log_interval=3", "save_interval=7", "eval_interval=5", "keep_last=1", "on_nan=skip"]
                .iter()
                .map(|set| format!("stages.{kind}.{set}"))
                .collect();
        let mut more = vec!["--only", kind];
        sets.iter().for_each(|set| more.extend(["--set", set]));
        let ended = succeed(&mut run(&ground.recipe, &output, &more));
        let text = said(&ended);
        assert!(
            text.contains("resumes at micro-batch") && text.contains("log_interval 1 -> 3"),
            "{kind}: {text}"
        );
        let file = format!("{kind}_64.pth");
        assert!(same(&output.join(&file), &whole.join(&file)), "{kind}: the weights differ");
        let summary = json(&output.join(kind).join("summary.json"));
        let number = |key: &str| summary[key].as_f64().expect("a number");
        assert!(number("seconds") >= number("train_seconds"), "{kind}: {summary}");
        // Done, it stays done.
        let again = succeed(&mut run(&ground.recipe, &output, &["--only", kind]));
        assert!(
            said(&again).contains(&format!("{kind}: done already, skipped (its result does not depend on")),
            "{}",
            said(&again)
        );
    }
}

#[test]
fn what_differs_is_named_and_nothing_is_lost() {
    let ground = Ground::new(&["tok", "pretrain"]);
    let (recipe, output) = (&ground.recipe, ground.path("run"));
    half(recipe, &output, "sft", &[]);
    for (set, named) in [
        ("stages.sft.batch_size=5", "batch_size 4 -> 5"),
        ("stages.sft.grad_clip=0.5", "grad_clip 1.0 -> 0.5"),
        ("stages.sft.betas=[0.9, 0.95]", "betas [0.9,0.999] -> [0.9,0.95]"),
        ("stages.sft.schedule=cosine", "schedule constant -> cosine"),
        ("stages.sft.data.synthetic.rows=241", "data.synthetic.rows 240 -> 241"),
        ("stages.sft.data.shuffle=false", "data.shuffle true -> false"),
        ("seed=4", "seed 3 -> 4"),
        ("runtime.precision=bf16", "runtime.precision fp32 -> bf16"),
        ("stages.sft.epochs=0", "epochs"),
    ] {
        let text = refused(recipe, &output, &["--only", "sft", "--set", set]);
        assert!(text.contains(named), "{set}: {text}");
    }
    let must =
        refused(recipe, &output, &["--only", "sft", "--set", "stages.sft.dropout=0.2", "--resume", "must"]);
    assert!(must.contains("dropout 0.1 -> 0.2"), "{must}");

    // The first changed stage is the one that is named.
    let text = refused(
        recipe,
        &output,
        &["--set", "stages.pretrain.learning_rate=0.002", "--set", "stages.sft.learning_rate=0.002"],
    );
    assert!(text.contains("stage `pretrain` is done") && text.contains("--from pretrain"), "{text}");
}

#[test]
fn force_goes_on_and_from_begins_anew() {
    let ground = Ground::new(&["tok", "pretrain"]);
    let (recipe, output) = (&ground.recipe, ground.path("run"));
    half(recipe, &output, "sft", &[]);
    // By force it goes on; the record says so, and the same recipe is content with it afterwards.
    let other = ["--only", "sft", "--set", "stages.sft.learning_rate=0.002"];
    let copied = ground.path("forced");
    copy(&output, &copied);
    let ended = succeed(&mut run(recipe, &copied, &[&other[..], &["--resume", "force"]].concat()));
    assert!(said(&ended).contains("resumes at micro-batch"), "{}", said(&ended));
    let record = json(&copied.join("sft/done.json"));
    assert_eq!(record["forced"][0]["changes"][0], "learning_rate 0.001 -> 0.002", "{record}");
    let again = succeed(&mut run(recipe, &copied, &other));
    assert!(said(&again).contains("sft: done already, skipped"), "{}", said(&again));
    // A finished one is kept as it is.
    let before = std::fs::read(copied.join("sft_64.pth")).expect("weights");
    let third = ["--only", "sft", "--set", "stages.sft.learning_rate=0.003"];
    refused(recipe, &copied, &third);
    succeed(&mut run(recipe, &copied, &[&third[..], &["--resume", "force"]].concat()));
    assert!(std::fs::read(copied.join("sft_64.pth")).expect("weights") == before);
    succeed(&mut run(recipe, &copied, &third));

    // From the stage on everything is made anew, and what was there is kept, twice.
    let first = std::fs::read(output.join("sft_64_resume.pth")).expect("a resume file");
    let from =
        ["--set", "stages.sft.learning_rate=0.002", "--set", "stages.sft.max_steps=4", "--from", "sft"];
    let mut short: Vec<String> = from.iter().map(|s| (*s).to_owned()).collect();
    for kind in &KINDS[2..] {
        short.extend(["--set".to_owned(), format!("stages.{kind}.max_steps=1")]);
    }
    let short: Vec<&str> = short.iter().map(String::as_str).collect();
    let ended = succeed(&mut run(recipe, &output, &short));
    assert!(
        said(&ended).contains("what was there is kept as sft_64_resume.prev.pth.old"),
        "{}",
        said(&ended)
    );
    assert!(std::fs::read(output.join("sft_64_resume.pth.old")).expect("the old one") == first);
    assert!(output.join("sft.old/metrics.jsonl").exists() && output.join("sft_64.pth.old").exists());
    let second = std::fs::read(output.join("sft_64_resume.pth")).expect("a resume file");
    succeed(&mut run(recipe, &output, &short));
    assert!(std::fs::read(output.join("sft_64_resume.pth.old")).expect("the old one") == first);
    assert!(std::fs::read(output.join("sft_64_resume.pth.old2")).expect("the second") == second);
    assert!(output.join("dpo.old").is_dir() && !output.join(".from.json").exists());
}

#[test]
fn more_epochs_go_on_from_the_end() {
    let ground = Ground::new(&["tok", "pretrain", "sft"]);
    let (recipe, output) = (&ground.recipe, ground.path("run"));
    let two = ["--set", "stages.pretrain.epochs=2"];
    let whole = ground.path("whole");
    std::fs::create_dir(&whole).expect("a folder");
    copy(&output.join("tok"), &whole.join("tok"));
    succeed(&mut run(recipe, &whole, &[&["--only", "pretrain"], &two[..]].concat()));
    let one = std::fs::read(output.join("pretrain_64.pth")).expect("weights");
    let old_sft = std::fs::read(output.join("sft_64.pth")).expect("weights");

    // Fewer are refused, here and after the longer run.
    let text = refused(recipe, &output, &["--only", "pretrain", "--set", "stages.pretrain.max_steps=50"]);
    assert!(text.contains("has done 114 micro-batches, and 50 are asked for"), "{text}");
    // A limit that does not bite changes nothing.
    let skipped = succeed(&mut run(
        recipe,
        &output,
        &["--only", "pretrain", "--set", "stages.pretrain.max_steps=5000"],
    ));
    assert!(said(&skipped).contains("pretrain: done already, skipped"), "{}", said(&skipped));

    let ended = succeed(&mut run(recipe, &output, &[&["--only", "pretrain"], &two[..]].concat()));
    let text = said(&ended);
    assert!(text.contains("resumes at micro-batch 114, now of 228 and not of 114"), "{text}");
    assert!(text.contains("learning rate is 1.000e-3"), "{text}");
    assert!(same(&output.join("pretrain_64.pth"), &whole.join("pretrain_64.pth")), "the weights differ");
    assert!(std::fs::read(output.join("pretrain_64.pth.old")).expect("a copy") == one);
    let steps = rows(&output.join("pretrain/metrics.jsonl")).len();
    assert_eq!(steps, rows(&whole.join("pretrain/metrics.jsonl")).len());
    refused(recipe, &output, &["--only", "pretrain"]);

    // What stands on it follows; its old files are kept.
    let ended = succeed(&mut run(recipe, &output, &[&["--only", "sft"], &two[..]].concat()));
    assert!(said(&ended).contains("what it starts from was made again"), "{}", said(&ended));
    assert!(std::fs::read(output.join("sft_64.pth.old")).expect("a copy") == old_sft);

    // Without its resume file it cannot go on, and says so.
    std::fs::remove_file(output.join("pretrain_64_resume.pth")).expect("removed");
    std::fs::remove_file(output.join("pretrain_64_resume.prev.pth")).expect("removed");
    let text = refused(recipe, &output, &["--only", "pretrain", "--set", "stages.pretrain.epochs=3"]);
    assert!(text.contains("its resume file is gone") && text.contains("--from pretrain"), "{text}");

    // One that is under way takes the new length; with the schedule's curve, which spans the new total.
    half(recipe, &output, "lora", &[]);
    let ended = succeed(&mut run(recipe, &output, &["--only", "lora", "--set", "stages.lora.epochs=2"]));
    assert!(
        said(&ended).contains("now of 120 and not of 60: the schedule is that of 120"),
        "{}",
        said(&ended)
    );
    assert_eq!(json(&output.join("lora/summary.json"))["steps"], 120);
}
