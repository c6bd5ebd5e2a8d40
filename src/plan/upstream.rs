//! What MiniMind's scripts call otherwise, with the hint that says its name here.
//!
//! Every argument of its training scripts of both eras is either a key of ours or stands in [`ARGUMENTS`]; every
//! script and prefix of weights is either a kind or stands in [`SCRIPTS`]. Next: `recipe::check`, which asks.

/// Arguments, and what they are here.
pub const ARGUMENTS: [(&str, &str); 63] = [
    (
        "from_weight",
        "`from_weight` is `init` here: a stage above, a file such as out/pretrain_512.pth, or scratch",
    ),
    ("from_student_weight", "`from_student_weight` is `init` here: a stage above or a file"),
    ("from_teacher_weight", "`from_teacher_weight` is `teacher` here: a stage above or a file"),
    (
        "from_resume",
        "leave it out: a stopped run goes on by itself; `minimind run --resume must` demands it, never forbids it",
    ),
    ("data_path", "`data_path` is `data` here: data: FILE, or data: {path: FILE}"),
    ("save_dir", "`save_dir` is `output` here, at the top of the recipe"),
    ("out_dir", "`out_dir` is `output` here, at the top of the recipe"),
    ("save_weight", "`save_weight` is the stage's `name` here: name: full_sft writes full_sft_<hidden>.pth"),
    (
        "lora_name",
        "`lora_name` is the stage's `name` here: name: lora_identity writes lora_identity_<hidden>.pth",
    ),
    ("lora_rank", "`lora_rank` is `rank` of a lora stage here"),
    ("lora_alpha", "`lora_alpha` is `alpha` of a lora stage here"),
    (
        "dtype",
        "`dtype` is `runtime: {precision: bf16}` here, at the top of the recipe (auto, fp32, bf16 or fp16)",
    ),
    ("device", "`device` is `runtime: {device: cuda:0}` here, at the top of the recipe"),
    ("precision", "`precision` is `runtime: {precision: bf16}` here, at the top of the recipe"),
    ("threads", "`threads` is `runtime: {threads: 4}` here, at the top of the recipe"),
    ("num_workers", "leave it out: rows are tokenised once and then read from a cache"),
    ("use_compile", "leave it out: nothing has to be compiled first"),
    ("flash_attn", "leave it out: attention always takes the fast path"),
    ("use_wandb", "leave it out: metrics.jsonl, TensorBoard's files and report.html are always written"),
    ("wandb_project", "leave it out: metrics.jsonl, TensorBoard's files and report.html are always written"),
    ("use_swanlab", "leave it out: metrics.jsonl, TensorBoard's files and report.html are always written"),
    ("ddp", "leave it out: `minimind run RECIPE --nproc N` trains with N processes"),
    ("local_rank", "leave it out: `minimind run RECIPE --nproc N` trains with N processes"),
    (
        "student_hidden_size",
        "`student_hidden_size` is `model: {hidden_size: ...}` here: the student is the stage's model",
    ),
    (
        "student_num_layers",
        "`student_num_layers` is `model: {num_hidden_layers: ...}` here: the student is the stage's model",
    ),
    (
        "student_use_moe",
        "`student_use_moe` is `model: {use_moe: ...}` here: the student is the stage's model",
    ),
    (
        "teacher_hidden_size",
        "`teacher_hidden_size` is `teacher_model: {hidden_size: ...}` here; a file's shapes tell it too",
    ),
    (
        "teacher_num_layers",
        "`teacher_num_layers` is `teacher_model: {num_hidden_layers: ...}` here; a file's shapes tell it too",
    ),
    (
        "teacher_use_moe",
        "`teacher_use_moe` is `teacher_model: {use_moe: ...}` here; a file's shapes tell it too",
    ),
    ("reward_model_path", "`reward_model_path` is a reward here: rewards: [model: {from: FOLDER}]"),
    (
        "reasoning",
        "`reasoning: 1` is a reward here: rewards: [format: {}]; `thinking_ratio` opens the thinking",
    ),
    ("thinking_ratio", "`thinking_ratio` is a key of ppo, grpo, spo and agent stages"),
    ("update_old_actor_freq", "leave it out: rollouts are always drawn from the policy as it stands"),
    ("rollout_engine", "`rollout_engine` is `rollout: {engine: native}` here (native, http or replay)"),
    ("sglang_base_url", "`sglang_base_url` is `rollout: {engine: http, url: ...}` here"),
    ("sglang_model_path", "leave it out: `rollout: {engine: http, url: ...}` sends the stage's own tokens"),
    ("sglang_shared_path", "leave it out: `rollout: {update: ...}` says how the server gets new weights"),
    ("debug_mode", "`debug_mode` is `keep_completions: N` here: the report then shows N of them"),
    ("debug_interval", "`debug_interval` is `keep_completions: N` here: the report then shows N of them"),
    (
        "max_new_tokens",
        "`max_new_tokens` is `rollout: {max_new_tokens: ...}` here, in ppo, grpo, spo and agent stages",
    ),
    ("max_gen_len", "`max_gen_len` is a key of ppo, grpo, spo and agent stages"),
    ("top_p", "`top_p` is `rollout: {top_p: ...}` here, in ppo, grpo, spo and agent stages"),
    ("top_k", "`top_k` is `rollout: {top_k: ...}` here, in ppo, grpo, spo and agent stages"),
    (
        "temperature",
        "`temperature` is `rollout: {temperature: ...}` here, in ppo, grpo, spo and agent stages; distill has its own",
    ),
    ("D_half", "`D_half` is `d_half` here"),
    ("warmup_iters", "`warmup_iters` is `warmup_steps` here"),
    ("max_length", "`max_length` is `max_seq_len` here"),
    (
        "tokenizer_path",
        "`tokenizer_path` is `tokenizer` here: a folder, a tokenizer stage above, minimind2 or minimind3",
    ),
    ("model_path", "`model_path` is `init` here: a stage above or a file"),
    ("load_from", "`load_from` is `init` here (of eval and export: `from`): a stage above or a file"),
    ("weight", "`weight` is `init` here (of eval and export: `from`): a stage above or a file"),
    ("lora_weight", "`lora_weight` is `adapter` here: a lora stage above or a file"),
    ("dim", "`dim` is `model: {hidden_size: ...}` here"),
    ("n_layers", "`n_layers` is `model: {num_hidden_layers: ...}` here"),
    ("n_heads", "`n_heads` is `model: {num_attention_heads: ...}` here"),
    ("n_kv_heads", "`n_kv_heads` is `model: {num_key_value_heads: ...}` here"),
    ("historys", "leave it out: `minimind chat` remembers the conversation"),
    ("show_speed", "leave it out: `minimind chat` tells the speed"),
    ("num_train_epochs", "`num_train_epochs` is `epochs` here"),
    ("num_epochs", "`num_epochs` is `epochs` here"),
    ("lr", "`lr` is `learning_rate` here"),
    ("per_device_train_batch_size", "`per_device_train_batch_size` is `batch_size` here"),
    ("gradient_accumulation_steps", "`gradient_accumulation_steps` is `accumulation_steps` here"),
];

/// Keys of `model`, which upstream's scripts take beside the others.
const MODEL: [&str; 18] = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "inference_rope_scaling",
    "use_moe",
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_shared_experts",
    "aux_loss_alpha",
    "router_aux_loss_coef",
];

/// Keys of a stage that one may look for at the top.
const STAGE: [&str; 12] = [
    "epochs",
    "batch_size",
    "learning_rate",
    "accumulation_steps",
    "max_seq_len",
    "grad_clip",
    "log_interval",
    "save_interval",
    "data",
    "init",
    "beta",
    "num_generations",
];

/// Scripts and prefixes of weights, the stage that does the same, and what else to say.
pub const SCRIPTS: [(&str, &str, &str); 14] = [
    ("train_tokenizer", "tokenizer", ""),
    ("train_pretrain", "pretrain", ""),
    ("full_sft", "sft", "; name: full_sft gives upstream's file name"),
    ("train_lora", "lora", ""),
    ("rlhf", "dpo", "; name: rlhf gives upstream's older file name"),
    ("train_dpo", "dpo", ""),
    ("distillation", "distill", "; name: full_dist gives upstream's file name"),
    ("full_dist", "distill", "; name: full_dist gives upstream's file name"),
    ("distill_reason", "reason", ""),
    ("ppo_actor", "ppo", "; name: ppo_actor gives upstream's file name"),
    ("cispo", "grpo", " with loss_type: cispo, its default"),
    ("eval_llm", "eval", "; to talk to a model: minimind chat --model FILE"),
    ("convert_model", "export", "; for one file: minimind export huggingface --model FILE --out FOLDER"),
    ("eval_toolcall", "eval", ""),
];

/// Arguments that are a key of ours by another name: what is written under them is not missing.
const SAME: [(&str, &str); 9] = [
    ("from_weight", "init"),
    ("from_student_weight", "init"),
    ("from_teacher_weight", "teacher"),
    ("model_path", "init"),
    ("load_from", "init"),
    ("weight", "init"),
    ("data_path", "data"),
    ("tokenizer_path", "tokenizer"),
    ("lora_weight", "adapter"),
];

/// The key of ours that an unknown one stands for.
pub fn same(key: &str) -> Option<&'static str> {
    let plain = key.replace('-', "_");
    SAME.iter().find(|(name, _)| *name == plain).map(|(_, own)| *own)
}

/// What MiniMind calls a key of ours that stands in the section `within`.
pub fn names_of(key: &str, within: Option<&str>) -> Vec<&'static str> {
    let of = |(name, hint): &(&'static str, &'static str)| {
        // "`dtype` is `runtime: {precision: bf16}` here"
        let own = hint.strip_prefix(&format!("`{name}` is `"))?.split('`').next()?;
        let path: Vec<&str> = own.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        let mut path = path.into_iter().filter(|word| !word.is_empty());
        let (first, second) = (path.next()?, path.next());
        let found = match (own.contains('{'), second) {
            (true, Some(second)) => second == key && within == Some(first),
            (true, None) => false,
            (false, _) => first == key && within.is_none_or(|section| hint.contains(section)),
        };
        (found && *name != key).then_some(*name)
    };
    ARGUMENTS.iter().filter_map(of).collect()
}

/// The hint for an unknown key below `parent`, where upstream's users know it.
pub fn key(key: &str, parent: &[String]) -> Option<String> {
    let plain = key.replace('-', "_");
    let within = |name: &str| parent.iter().any(|step| step == name);
    if MODEL.contains(&plain.as_str()) && !within("model") {
        return Some(format!(
            "`{plain}` belongs in `model`: model: {{{plain}: ...}}, at the top or in a stage"
        ));
    }
    if parent.is_empty() && STAGE.contains(&plain.as_str()) {
        return Some(format!("`{plain}` belongs in a stage: `stages:`, then `- sft: {{{plain}: ...}}`"));
    }
    if plain == "seed" && !parent.is_empty() {
        return Some("`seed` stands at the top of the recipe".to_owned());
    }
    ARGUMENTS.iter().find(|(name, _)| *name == plain).map(|(_, hint)| (*hint).to_owned())
}

/// The hint for an unknown kind of stage, where it is a script or a prefix of upstream's.
pub fn script(kind: &str) -> Option<String> {
    let plain = kind.replace('-', "_");
    let plain = plain.strip_suffix(".py").unwrap_or(&plain);
    let bare = plain.strip_prefix("train_").unwrap_or(plain);
    let listed = SCRIPTS.iter().find(|(name, ..)| *name == plain || *name == bare);
    let own = super::KINDS.into_iter().find(|own| *own == bare).map(|own| (own, ""));
    let (stage, more) = listed.map(|(_, stage, more)| (*stage, *more)).or(own)?;
    Some(format!("`{kind}` is `{stage}` here{more}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::reader::parse;

    fn faults(text: &str) -> Vec<String> {
        let (_, faults) = parse(Path::new("r.yaml"), text, &[], crate::plan::shape()).unwrap();
        faults.iter().map(ToString::to_string).collect()
    }

    /// Every argument of the training scripts, by script, as `ArgumentParser` lists them.
    const TAKEN: [(&str, &str); 9] = [
        (
            "pretrain",
            "save_dir save_weight epochs batch_size learning_rate device dtype num_workers accumulation_steps grad_clip \
             log_interval save_interval hidden_size num_hidden_layers max_seq_len use_moe data_path from_weight from_resume \
             use_wandb wandb_project use_compile out_dir ddp local_rank warmup_iters",
        ),
        ("sft", "save_dir save_weight data_path from_weight max_seq_len use_moe use_compile epochs"),
        ("lora", "lora_name data_path from_weight save_dir hidden_size lora_rank"),
        ("dpo", "beta data_path from_weight save_weight max_seq_len"),
        (
            "distill",
            "student_hidden_size student_num_layers teacher_hidden_size teacher_num_layers student_use_moe teacher_use_moe \
             from_student_weight from_teacher_weight alpha temperature use_moe",
        ),
        (
            "ppo",
            "clip_epsilon vf_coef kl_coef reasoning update_old_actor_freq reward_model_path critic_learning_rate max_gen_len \
             thinking_ratio gamma lam cliprange_value ppo_update_iters early_stop_kl mini_batch_size rollout_engine \
             sglang_base_url sglang_model_path sglang_shared_path debug_mode debug_interval",
        ),
        (
            "grpo",
            "num_generations beta loss_type epsilon epsilon_high reasoning reward_model_path max_gen_len rollout_engine",
        ),
        ("spo", "beta rho_mode rho_const D_half clip_lower clip_upper reasoning max_gen_len"),
        (
            "agent",
            "num_generations beta loss_type epsilon epsilon_high max_gen_len max_total_len thinking_ratio debug_mode",
        ),
    ];

    #[test]
    fn every_argument_is_a_key_or_has_its_hint() {
        for (kind, arguments) in TAKEN {
            for argument in arguments.split_whitespace() {
                let found = faults(&format!("stages:\n  - {kind}: {{{argument}: null}}\n"));
                let Some(fault) = found.iter().find(|f| f.contains("unknown key")) else { continue };
                let hint = key(argument, &["stages".into(), "0".into(), kind.into()]);
                let hint = hint.unwrap_or_else(|| panic!("{argument} of {kind} has no hint: {fault}"));
                assert!(fault.ends_with(&format!("hint: {hint}")), "{fault}");
                assert!(fault.starts_with("error: r.yaml:2:"), "{fault}");
            }
        }
    }

    #[test]
    fn what_has_another_name_is_not_missing_too() {
        let text = "stages:\n  - sft: {from_weight: pretrain, data_path: x.jsonl, tokenizer_path: t}\n";
        let (recipe, faults) = parse(Path::new("r.yaml"), text, &[], crate::plan::shape()).unwrap();
        let told = crate::plan::resolve::finish(&recipe, faults).unwrap_err().to_string();
        assert_eq!(told.matches("error: ").count(), 3, "{told}");
    }

    #[test]
    fn hints_name_what_is_there() {
        for (name, hint) in ARGUMENTS {
            assert!(hint.contains(&format!("`{name}")) || hint.starts_with("leave it out: "), "{hint}");
        }
        for (written, wanted) in [
            ("stages:\n  - sft: {from_weight: pretrain}\n", "`from_weight` is `init` here"),
            ("stages:\n  - sft: {from-weight: pretrain}\n", "`from_weight` is `init` here"),
            ("save_dir: out\n", "`save_dir` is `output` here"),
            ("dtype: bfloat16\n", "`dtype` is `runtime: {precision: bf16}` here"),
            ("stages:\n  - pretrain: {hidden_size: 512}\n", "`hidden_size` belongs in `model`"),
            ("hidden_size: 512\n", "`hidden_size` belongs in `model`"),
            ("epochs: 2\n", "`epochs` belongs in a stage"),
            ("stages:\n  - full_sft: {}\n", "`full_sft` is `sft` here; name: full_sft gives"),
            ("stages:\n  - train_full_sft.py: {}\n", "`train_full_sft.py` is `sft`"),
            ("stages:\n  - train_grpo: {}\n", "`train_grpo` is `grpo` here"),
            ("stages:\n  - train_distillation: {}\n", "`train_distillation` is `distill`"),
            ("stages:\n  - train_distill_reason: {}\n", "`train_distill_reason` is `reason` here"),
            ("stages:\n  - train_ppo: {}\n", "`train_ppo` is `ppo` here"),
            ("stages:\n  - cispo: {}\n", "`cispo` is `grpo` here with loss_type: cispo"),
            ("stages:\n  - frob: {}\n", "kinds: tokenizer"),
            ("stages:\n  - sft: {learning_rat: 1}\n", "did you mean `learning_rate`?"),
        ] {
            let found = faults(written);
            assert!(found.iter().any(|f| f.contains(&format!("hint: {wanted}"))), "{written}{found:?}");
        }
    }
}
