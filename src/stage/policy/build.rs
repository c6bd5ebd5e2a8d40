//! What a policy learns from and holds on to, made from the plan: rollouts, rewards, tools, the reference.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tch::Kind;

use super::batch::Attend;
use super::generator::Generator;
use super::native::{Columns, Native};
use super::source::{Replay, Source};
use super::table::Table;
use super::turns::Turns;
use crate::data::{PromptOptions, Prompts, Recorded, Tokenizer};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::plan::{GeneratedPlan, Method, PolicyConfig, RolloutPlan};
use crate::rollout::SamplingParams;
use crate::rollout::rewards::{RewardContext, Rewards};
use crate::rollout::tools::{CallForm, Tools};
use crate::stage::context::Context;
use crate::stage::inputs;

/// Where the plan takes rollouts from.
pub fn source(
    context: &Context<'_>,
    config: &PolicyConfig,
    tokenizer: Option<&Arc<Tokenizer>>,
    policy: &CausalLm,
    folder: &Path,
) -> Result<Box<dyn Source>> {
    let path = match &config.rollout {
        RolloutPlan::Replay { path } => path,
        RolloutPlan::Generated(rollout) => {
            let tokenizer = tokenizer.ok_or_else(|| {
                Error::input("prompts need a tokenizer")
                    .hint("set `tokenizer:` to a folder with tokenizer.json")
            })?;
            return native(context, config, rollout, Arc::clone(tokenizer), policy, folder);
        }
    };
    let spo = matches!(config.method, Method::Spo(_));
    Ok(Box::new(Replay {
        recorded: Recorded::open(path, !spo)?,
        ends: ends(context, config, tokenizer.map(AsRef::as_ref))?.into_iter().map(i64::from).collect(),
        pad: pad_id(config, None),
        // Upstream's SPO passes no attention mask.
        attend: if spo { Attend::All } else { Attend::NotPadding },
    }))
}

/// Says which tools rows show that the stage cannot carry out: a call of one is answered with an error.
fn warn_of_missing(tools: &Tools, rows: &Prompts, which: &str) {
    let (names, mut missing, mut count) = (tools.names(), BTreeSet::new(), 0);
    for row in 0..rows.len() {
        let absent = rows.tool_names(row).filter(|name| !names.contains(name));
        let mut seen = 0;
        missing.extend(absent.inspect(|_| seen += 1));
        count += usize::from(seen > 0);
    }
    if count == 0 {
        return;
    }
    let shown: Vec<String> =
        missing.iter().take(10).map(|name| format!("`{}`", name.escape_debug())).collect();
    let more = match missing.len() - shown.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    tracing::warn!(
        "{count} of {} rows of `{which}` show tools that this stage does not have: {}{more}; add them under `tools`",
        rows.len(),
        shown.join(", "),
    );
}

fn native(
    context: &Context<'_>,
    config: &PolicyConfig,
    rollout: &GeneratedPlan,
    tokenizer: Arc<Tokenizer>,
    policy: &CausalLm,
    folder: &Path,
) -> Result<Box<dyn Source>> {
    let &GeneratedPlan { ref server, max_new_tokens, temperature, top_p, top_k } = rollout;
    let t = &config.train;
    if server.is_some() && !context.ranks.is_single() {
        return Err(Error::input(
            "a server of rollouts takes weights from one process, not from several ranks",
        )
        .hint("use rollout.engine: native, or run with one process"));
    }
    let tools = config.agent.as_ref().map(|agent| Tools::new(&agent.tools)).transpose()?;
    let options = prompt_options(config, context.plan.seed, tools.as_ref());
    let (prompts, share) = Prompts::load(&t.data, &tokenizer, &options)?;
    let heldout = match &config.heldout {
        Some(data) => Some(Prompts::load(data, &tokenizer, &options)?.0),
        None => share,
    };
    if let Some(tools) = tools.as_ref().filter(|_| context.ranks.is_rank0()) {
        warn_of_missing(tools, &prompts, "data");
        if let Some(heldout) = &heldout {
            warn_of_missing(tools, heldout, "heldout");
        }
    }
    let eos_ids = ends(context, config, Some(&tokenizer))?;
    let calls = CallForm::of(&tokenizer, &eos_ids);
    let turns = tools.zip(config.agent.as_ref()).map(|(tools, agent)| Turns {
        tools,
        calls: calls.clone(),
        max_turns: agent.max_turns,
        max_total: agent.max_total_len,
    });
    let longest = t.max_seq_len + turns.as_ref().map_or(max_new_tokens, |turns| turns.max_total);
    let positions = policy.config().max_position_embeddings as usize;
    if longest > positions {
        return Err(Error::input(format!(
            "prompts and completions reach {longest} tokens, the model sees {positions}"
        ))
        .hint("lower max_seq_len or rollout.max_new_tokens"));
    }
    let tokenizer_folder = t.tokenizer.as_ref().map(|source| inputs::tokenizer_folder(context, source));
    if temperature != 1.0 || top_p < 1.0 || top_k > 0 {
        // Upstream's arithmetic, which the fixtures hold: every log-probability is at temperature 1.
        tracing::warn!(
            "completions are drawn with temperature {temperature}, top_p {top_p} and top_k {top_k}, and learned from as if with 1, 1 and 0"
        );
    }
    let rewards = Rewards::new(
        &config.rewards,
        &RewardContext {
            run: &context.plan.output,
            device: context.device,
            kind: Kind::Float,
            calls: Some(&calls),
        },
    )?;
    let columns = rewards.names().into_iter().map(Columns::new).collect();
    Ok(Box::new(Native {
        generator: match server {
            Some(plan) => Generator::server(plan, folder, tokenizer_folder.as_deref(), &eos_ids),
            None => Generator::Native,
        },
        columns,
        heldout: heldout.map(|heldout| heldout.first(config.heldout_limit)),
        measured: SamplingParams { temperature: config.heldout_temperature, ..SamplingParams::GREEDY },
        prompts,
        rewards,
        turns,
        batch_size: t.batch_size,
        group: config.generations(),
        shuffle: t.data.shuffle,
        seed: context.plan.seed,
        max_new_tokens,
        sampling: SamplingParams { temperature, top_p, top_k, ..SamplingParams::GREEDY },
        eos_ids,
        rounds: match &config.method {
            Method::Grpo(grpo) => grpo.dynamic_sampling_rounds,
            _ => 0,
        },
        table: match context.ranks.is_rank0() {
            true => Table::open(folder, config.keep_completions, t.log_interval as u64)?,
            false => Table::none(),
        },
        tokenizer,
    }))
}

/// How a stage's prompts are read.
pub fn prompt_options(config: &PolicyConfig, seed: u64, tools: Option<&Tools>) -> PromptOptions {
    PromptOptions {
        max_tokens: config.train.max_seq_len,
        seed,
        thinking_ratio: config.thinking_ratio,
        system_prompt_ratio: 0.0,
        tools: tools.map(Tools::schemas),
    }
}

/// The tokens that end a completion: the recipe's one, or those of the start weights and the tokenizer.
pub fn ends(context: &Context<'_>, config: &PolicyConfig, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    match config.train.eos_token_id {
        Some(id) => Ok(vec![id as u32]),
        None => inputs::ends(context, &config.train.init, tokenizer),
    }
}

/// The recipe's, the tokenizer's, or that of upstream's tokenizers.
pub fn pad_id(config: &PolicyConfig, tokenizer: Option<&Tokenizer>) -> i64 {
    let own = tokenizer.map(|t| i64::from(t.pad_id()));
    config.train.pad_token_id.or(own).unwrap_or(0)
}

/// The reference, which must read what the policy writes.
pub fn reference(
    context: &Context<'_>,
    config: &PolicyConfig,
    tokenizer: Option<&Tokenizer>,
    policy: &CausalLm,
) -> Result<Option<CausalLm>> {
    let Some(init) = &config.reference else { return Ok(None) };
    let model = inputs::model(context, init, config.train.model.as_ref(), tokenizer, 0.0)?;
    let shape = |m: &CausalLm| (m.config().vocab_size, m.config().hidden_size, m.config().num_hidden_layers);
    if shape(&model) != shape(policy) {
        let words = |m: &CausalLm| {
            let (v, d, l) = shape(m);
            format!("{v} tokens, width {d}, {l} layers")
        };
        let what = format!("the reference has {}, the policy {}", words(&model), words(policy));
        return Err(Error::input(what)
            .hint("name weights of the same shape, or leave `reference` out: the start weights"));
    }
    model.params().set_requires_grad(false);
    Ok(Some(model))
}
