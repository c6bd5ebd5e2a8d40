//! Our template engine beside Jinja2 as transformers sets it up, on random pieces of templates.
//!
//! A fixed seed each time; `MINIMIND_JINJA_SEEDS=1,2,3` tries others.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use minimind::data::tokenizer::{ChatTemplate, RenderOptions};
use serde_json::Value;

common::needs::tests! {
    random_pieces_render_as_jinja2_renders_them: [Python("transformers, jinja2")],
}

const PIECES: &str = "1500";

fn random_pieces_render_as_jinja2_renders_them() {
    let python = python();
    let seeds = std::env::var("MINIMIND_JINJA_SEEDS").unwrap_or_else(|_| "20261130".to_owned());
    for seed in seeds.split(',') {
        let made = Command::new(&python).arg(script("jinja_pieces.py")).args([seed, PIECES]).output();
        let made = made.expect("the other side runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let cases: Value = serde_json::from_slice(&made.stdout).expect("its JSON");
        let kwargs = cases["variables"].as_object().expect("variables").clone();
        let options = RenderOptions::prompt().with_kwargs(kwargs);
        let pieces = cases["pieces"].as_array().expect("pieces");
        let mut wrong = Vec::new();
        for piece in pieces {
            let template = piece["template"].as_str().expect("a template");
            let got = ChatTemplate::parse(template, Path::new("piece")).and_then(|parsed| {
                let tools = Some(&cases["tools"]);
                parsed.render(&cases["messages"], tools, options.clone(), &BTreeMap::new())
            });
            if got.as_ref().ok().map(String::as_str) != piece["expected"].as_str() {
                wrong.push(format!("{template}\n  wanted {}\n  got {got:?}", piece["expected"]));
            }
        }
        let count = pieces.len();
        assert!(wrong.is_empty(), "seed {seed}: {} of {count}:\n{}", wrong.len(), wrong.join("\n"));
        println!("seed {seed}: {count} pieces alike");
    }
}
