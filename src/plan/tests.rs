//! Defaults are upstream's; costs add up.

use std::path::Path;

use super::*;

fn plan(text: &str) -> Plan {
    let (recipe, faults) = crate::recipe::reader::parse(Path::new("r.yaml"), text, &[], shape()).unwrap();
    resolve::finish(&recipe, faults).unwrap_or_else(|e| panic!("{e}"))
}

const LIFE: &str = "\
stages:
  - tokenizer: {data: {synthetic: true}}
  - pretrain: {data: {synthetic: true}}
  - sft: {data: {synthetic: true}}
  - eval: {data: {synthetic: true}}
";

#[test]
fn defaults_are_upstreams() {
    let plan = plan(LIFE);
    assert_eq!((plan.name.as_str(), plan.seed), ("r", 42));
    assert_eq!(plan.output, Path::new("checkpoints/r"));
    let StageConfig::Tokenizer(t) = &plan.stages[0].config else { panic!() };
    assert_eq!(t.vocab_size, 6400);
    let StageConfig::Pretrain(p) = &plan.stages[1].config else { panic!() };
    let StageConfig::Sft(s) = &plan.stages[2].config else { panic!() };
    let row =
        |c: &TrainConfig| (c.epochs, c.batch_size, c.accumulation_steps, c.learning_rate, c.max_seq_len);
    assert_eq!(row(p), (2, 32, 8, 5e-4, 340));
    assert_eq!(row(s), (2, 16, 1, 1e-5, 768));
    for c in [p, s] {
        assert_eq!(
            (c.grad_clip, c.adamw.weight_decay, c.adamw.betas, c.adamw.eps),
            (1.0, 0.01, (0.9, 0.999), 1e-8)
        );
        assert_eq!(
            (c.intervals.log_interval, c.intervals.save_interval, c.schedule),
            (100, 1000, ScheduleKind::Upstream)
        );
        assert_eq!((c.save_dtype, c.system_prompt_ratio, c.empty_think_ratio), (SaveDtype::Fp16, 0.2, 0.2));
        assert_eq!(c.model.as_ref().unwrap().config.hidden_size, 768);
        assert_eq!(c.tokenizer, Some(TokenizerSource::Stage("tokenizer".into())));
    }
    assert_eq!((&p.init, &s.init), (&Init::Scratch, &Init::Stage("pretrain".into())));
    assert_eq!((p.data.format, s.data.format), (DataFormat::Text, DataFormat::Chat));
    let StageConfig::Eval(e) = &plan.stages[3].config else { panic!() };
    assert_eq!((&e.init, e.max_seq_len), (&Init::Stage("sft".into()), 768));
    assert!(
        matches!(&e.data.source, DataSource::Synthetic(s) if s.split == SyntheticSplit::Heldout && s.seed == 42)
    );
}

#[test]
fn an_agent_has_the_tools_that_its_errands_ask_for() {
    let text = |more: &str| format!("{LIFE}  - agent: {{init: sft, {more}, rewards: [{{math: {{}}}}]}}\n");
    let tools = |more: &str| {
        let StageConfig::Agent(config) = plan(&text(more)).stages.remove(4).config else { panic!() };
        let tools = config.agent.unwrap().tools;
        crate::rollout::tools::Tools::new(&tools).unwrap().names().join(" ")
    };
    let errands = "calculate_math unit_converter get_current_time lookup";
    assert_eq!(tools("data: {synthetic: {seed: 7}}"), errands);
    assert_eq!(tools("data: {path: tests/cmd/bad.jsonl}"), errands.replace(" lookup", ""));
    assert_eq!(tools("data: {synthetic: true}, tools: [clock: {}]"), "get_current_time");
    for (more, want) in [
        ("data: {synthetic: true}, tools: []", "`tools` is empty"),
        ("data: {synthetic: {seed: 7}}, heldout: {synthetic: true}", "prices differ"),
    ] {
        let (recipe, faults) =
            crate::recipe::reader::parse(Path::new("r.yaml"), &text(more), &[], shape()).unwrap();
        let fault = resolve::finish(&recipe, faults).unwrap_err().to_string();
        assert!(fault.contains(want), "{fault}");
    }
}

/// What upstream calls otherwise is understood; what the recipe leaves open fits the model.
#[test]
fn upstreams_names_and_small_models() {
    let text = "\
model: {preset: minimind2-moe, n_routed_experts: 6, aux_loss_alpha: 0.25, max_position_embeddings: 256}
stages:
  - pretrain: {data: {path: t.safetensors, format: tokens}}
  - grpo: {rollout: {engine: replay, path: r.safetensors}, init: pretrain}
  - spo: {data: {synthetic: true}, init: pretrain, tokenizer: tests, rewards: [{length: {}}], rollout: {max_new_tokens: 56}}
";
    let (recipe, faults) = crate::recipe::reader::parse(Path::new("r.yaml"), text, &[], shape()).unwrap();
    let told = resolve::finish(&recipe, faults).unwrap_err().to_string();
    assert!(!told.contains("max_seq_len") && !told.contains("unknown key"), "{told}");
    let plan =
        plan(&text.lines().take(3).collect::<Vec<_>>().join("\n").replace("t.safetensors", "Cargo.toml"));
    let StageConfig::Pretrain(p) = &plan.stages[0].config else { panic!() };
    let model = p.model.as_ref().unwrap();
    let moe = model.config.moe.as_ref().unwrap();
    assert_eq!((moe.num_experts, moe.aux_loss_coef, p.max_seq_len), (6, 0.25, 256));
    assert_eq!((model.stated.num_experts, model.stated.num_attention_heads), (Some(6), None));
}

#[test]
fn costs_add_up() {
    let plan = plan(LIFE);
    let facts = Facts { rows: 100, tokens: 1000, padded_tokens: 1200, micro_batches_per_epoch: 10 };
    let costs = estimate(&plan, &Machine::detect(), &|_| Some(facts), 1e9);
    let pretrain = &costs[1];
    // Counted by hand: 8 layers of 768 with 8 and 4 heads of 96, inner 2432, 6400 tied rows.
    assert_eq!(pretrain.parameters.unwrap().total, 63_912_192);
    assert_eq!((pretrain.micro_batches, pretrain.updates), (Some(20), Some(4)));
    assert_eq!((pretrain.tokens, pretrain.padding_tokens), (Some(2000), Some(400)));
    let memory = pretrain.peak_memory.unwrap();
    assert_eq!(memory.optimizer, 8 * 63_912_192);
    assert_eq!(memory.total, memory.weights + memory.gradients + memory.optimizer + memory.activations);
    assert!(cost::table(&costs).lines().count() == 5);
}

#[test]
fn huge_sizes_cost_much_but_do_not_overflow() {
    let text = "\
model: {hidden_size: 1000000000, num_hidden_layers: 1000000000, num_attention_heads: 1000000000, head_dim: 1000000000,
        num_key_value_heads: 1000000000, vocab_size: 1000000000, intermediate_size: 1000000000}
stages:
  - tokenizer: {data: {synthetic: {rows: 1000000000}}}
  - pretrain: {data: {synthetic: {rows: 1000000000}, batching: pad}, epochs: 1000000000, batch_size: 1}
";
    let plan = plan(text);
    let costs = estimate(&plan, &Machine::detect(), &|stage| crate::cli::plan::count(&plan, stage), 1e9);
    assert!(costs[1].peak_memory.unwrap().total > 1 << 56 && cost::table(&costs).contains("pretrain"));
}

#[test]
fn embedded_recipes_are_found_and_copied_once() {
    use crate::cli::recipes::{Action, Args, find, run};
    assert!(find("recipes/quickstart.yaml").is_ok());
    assert_eq!(find("quikstart").unwrap_err().hint_text(), Some("did you mean `quickstart`?"));
    let folder = tempfile::tempdir().unwrap();
    let copy =
        || run(Args { action: Some(Action::Copy { name: "quickstart".into(), dest: folder.path().into() }) });
    copy().unwrap();
    assert_eq!(copy().unwrap_err().exit_code(), 2);
    assert!(load(&folder.path().join("quickstart.yaml"), &[]).is_ok());
}
