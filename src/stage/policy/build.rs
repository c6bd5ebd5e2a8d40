//! Builds what a policy learns from: rollouts with their prompts, rewards and tools, and the reference.

use std::collections::BTreeSet;

use tch::Kind;

use super::batch::Attend;
use super::completions_log::CompletionsLog;
use super::experience::ExperienceMaker;
use super::generated::{GeneratedRollouts, RewardColumns};
use super::generator::Generator;
use super::guards::GuardState;
use super::multi_turn::MultiTurn;
use super::source::{RecordedRollouts, RolloutSource};
use crate::data::{PromptOptions, Prompts, Recorded, Tokenizer};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::plan::{GeneratedPlan, Method, PolicyConfig, RolloutPlan};
use crate::rollout::SamplingParams;
use crate::rollout::rewards::{RewardContext, Rewards};
use crate::rollout::tools::{ToolCallFormat, Tools};
use crate::stage::loading;
use crate::stage::session::Session;

/// Rollouts, reference and guards as planned.
///
/// # Errors
/// Prompts, recorded rollouts, tools, rewards or a reference that cannot be read or do not fit the policy.
pub fn experience_maker(
    session: &Session<'_>,
    config: &PolicyConfig,
    policy: &CausalLm,
) -> Result<ExperienceMaker> {
    Ok(ExperienceMaker {
        source: source(session, config, policy)?,
        reference: reference(session, config, policy)?,
        compute: session.stage.context.compute,
        pad: pad_id(config, session.tokenizer()),
        guard_plan: config.guards,
        guards: GuardState::default(),
        notes: Vec::new(),
    })
}

/// Where the plan takes rollouts from.
fn source(session: &Session<'_>, config: &PolicyConfig, policy: &CausalLm) -> Result<Box<dyn RolloutSource>> {
    let path = match &config.rollout {
        RolloutPlan::Replay { path } => path,
        RolloutPlan::Generated(rollout) => {
            return Ok(Box::new(generated(session, config, rollout, policy)?));
        }
    };
    let spo = matches!(config.method, Method::Spo(_));
    Ok(Box::new(RecordedRollouts {
        recorded: Recorded::open(path, !spo)?,
        ends: session.eos_token_ids()?.into_iter().map(i64::from).collect(),
        pad: pad_id(config, None),
        // Upstream's SPO passes no attention mask.
        attend: if spo { Attend::All } else { Attend::NotPadding },
    }))
}

/// Rollouts by the built-in engine or a server.
fn generated(
    session: &Session<'_>,
    config: &PolicyConfig,
    rollout: &GeneratedPlan,
    policy: &CausalLm,
) -> Result<GeneratedRollouts> {
    let context = session.stage.context;
    let tokenizer = session.tokenizer.clone().ok_or_else(|| {
        Error::input("prompts need a tokenizer").hint("set `tokenizer:` to a folder with tokenizer.json")
    })?;
    if rollout.server.is_some() && !context.ranks.is_single() {
        return Err(Error::input("a rollout server takes weights from one process, not from several ranks")
            .hint("use rollout.engine: native, or run with one process"));
    }
    let t = &config.train;
    let tools = config.agent.as_ref().map(|agent| Tools::new(&agent.tools)).transpose()?;
    let (prompts, heldout) = prompts(session, config, &tokenizer, tools.as_ref())?;
    let eos_ids = session.eos_token_ids()?;
    let calls = ToolCallFormat::of(&tokenizer, &eos_ids);
    let multi_turn = tools.zip(config.agent.as_ref()).map(|(tools, agent)| MultiTurn {
        tools,
        calls: calls.clone(),
        max_turns: agent.max_turns,
        max_total_len: agent.max_total_len,
    });
    let completion = multi_turn.as_ref().map_or(rollout.max_new_tokens, |turns| turns.max_total_len);
    check_length(t.max_seq_len + completion, policy)?;
    warn_of_temperature(rollout);
    let rewards = rewards(session, config, &calls)?;
    let &GeneratedPlan { max_new_tokens, temperature, top_p, top_k, .. } = rollout;
    Ok(GeneratedRollouts {
        generator: generator(session, rollout, &eos_ids),
        columns: rewards.names().into_iter().map(RewardColumns::new).collect(),
        heldout: heldout.map(|heldout| heldout.first(config.keys.heldout_limit)),
        heldout_sampling: SamplingParams {
            temperature: config.keys.heldout_temperature,
            ..SamplingParams::GREEDY
        },
        prompts,
        rewards,
        multi_turn,
        batch_size: t.batch_size,
        group_size: config.generations(),
        shuffle: t.data.shuffle,
        seed: context.plan.seed,
        max_new_tokens,
        sampling: SamplingParams { temperature, top_p, top_k, ..SamplingParams::GREEDY },
        eos_ids,
        resampling_rounds: match &config.method {
            Method::Grpo(grpo) => grpo.dynamic_sampling_rounds,
            _ => 0,
        },
        log: completions_log(session, config)?,
        tokenizer,
    })
}

/// The reward functions; `calls` is how the policy writes tool calls.
fn rewards(session: &Session<'_>, config: &PolicyConfig, calls: &ToolCallFormat) -> Result<Rewards> {
    let context = session.stage.context;
    let context = RewardContext {
        run: &context.plan.output,
        device: context.device,
        kind: Kind::Float,
        calls: Some(calls),
    };
    Rewards::new(&config.rewards, &context)
}

/// Training prompts, and held-out ones where the recipe names a file or a share of them.
fn prompts(
    session: &Session<'_>,
    config: &PolicyConfig,
    tokenizer: &Tokenizer,
    tools: Option<&Tools>,
) -> Result<(Prompts, Option<Prompts>)> {
    let context = session.stage.context;
    let options = prompt_options(config, context.plan.seed, tools);
    let (prompts, share) = Prompts::load(&config.train.data, tokenizer, &options)?;
    let heldout = match &config.heldout {
        Some(data) => Some(Prompts::load(data, tokenizer, &options)?.0),
        None => share,
    };
    if let Some(tools) = tools.filter(|_| context.ranks.is_rank0()) {
        warn_of_missing_tools(tools, &prompts, "data");
        if let Some(heldout) = &heldout {
            warn_of_missing_tools(tools, heldout, "heldout");
        }
    }
    Ok((prompts, heldout))
}

/// What continues prompts: the built-in engine, or the planned server.
fn generator(session: &Session<'_>, rollout: &GeneratedPlan, eos_ids: &[u32]) -> Generator {
    let Some(server) = &rollout.server else { return Generator::Native };
    let tokenizer = session.config.tokenizer.as_ref();
    let folder = tokenizer.map(|source| loading::tokenizer_folder(session.stage.context, source));
    Generator::server(server, session.stage.folder, folder.as_deref(), eos_ids)
}

/// Rank 0 logs completions.
fn completions_log(session: &Session<'_>, config: &PolicyConfig) -> Result<CompletionsLog> {
    if !session.stage.context.ranks.is_rank0() {
        return Ok(CompletionsLog::none());
    }
    let interval = config.train.intervals.log_interval;
    CompletionsLog::open(session.stage.folder, config.keys.keep_completions, interval)
}

/// Checks that the policy has positions for the longest rows, in tokens.
fn check_length(longest: usize, policy: &CausalLm) -> Result<()> {
    let positions = policy.config().max_position_embeddings as usize;
    if longest > positions {
        return Err(Error::input(format!(
            "prompts and completions reach {longest} tokens, the model sees {positions}"
        ))
        .hint("lower max_seq_len or rollout.max_new_tokens"));
    }
    Ok(())
}

/// Warns that sampling settings other than temperature 1 are not part of the log-probabilities learned from.
fn warn_of_temperature(rollout: &GeneratedPlan) {
    let &GeneratedPlan { temperature, top_p, top_k, .. } = rollout;
    if temperature != 1.0 || top_p < 1.0 || top_k > 0 {
        // Upstream's arithmetic, which the fixtures hold: every log-probability is at temperature 1.
        tracing::warn!(
            "completions are sampled with temperature {temperature}, top_p {top_p} and top_k {top_k}, and learned from as if with 1, 1 and 0"
        );
    }
}

/// Warns of tools that rows show to the policy and the stage cannot run: a call of one is answered with an error.
fn warn_of_missing_tools(tools: &Tools, rows: &Prompts, which: &str) {
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

/// How a stage's prompts are read.
pub fn prompt_options(config: &PolicyConfig, seed: u64, tools: Option<&Tools>) -> PromptOptions {
    PromptOptions {
        max_tokens: config.train.max_seq_len,
        seed,
        thinking_ratio: config.keys.thinking_ratio,
        system_prompt_ratio: 0.0,
        tools: tools.map(Tools::schemas),
    }
}

/// The recipe's padding id, the tokenizer's, or that of upstream's tokenizers.
fn pad_id(config: &PolicyConfig, tokenizer: Option<&Tokenizer>) -> i64 {
    let own = tokenizer.map(|t| i64::from(t.pad_id()));
    config.train.pad_token_id.or(own).unwrap_or(0)
}

/// The reference model, of the policy's shape; its parameters get no gradients.
fn reference(session: &Session<'_>, config: &PolicyConfig, policy: &CausalLm) -> Result<Option<CausalLm>> {
    let Some(init) = &config.reference else { return Ok(None) };
    let (context, plan) = (session.stage.context, config.train.model.as_ref());
    let model = loading::model(context, init, plan, session.tokenizer(), 0.0)?;
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
