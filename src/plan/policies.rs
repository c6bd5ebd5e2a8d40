//! ppo, grpo, spo and agent stages, resolved: upstream's defaults, and sizes that must divide.
//!
//! Apart from `resolve` only for length; the rules are the same. Next: `policy`, what comes out.

use super::resolve::{Resolver, join};
use super::schema::*;
use super::types::*;
use crate::data::{DataConfig, DataSource};
use crate::loss::grpo::LengthNorm;
use crate::rollout::tools::{Table, ToolConfig, ToolKind};

/// What differs between the methods before the method's own keys.
struct Defaults {
    kind: &'static str,
    max_new_tokens: usize,
    thinking_ratio: f64,
}

const GRPO: Defaults = Defaults { kind: "grpo", max_new_tokens: 1024, thinking_ratio: 0.9 };
const AGENT: Defaults = Defaults { kind: "agent", max_new_tokens: 768, thinking_ratio: 0.0, ..GRPO };
const PPO: Defaults = Defaults { kind: "ppo", thinking_ratio: 0.0, ..GRPO };
const SPO: Defaults = Defaults { kind: "spo", max_new_tokens: 1536, thinking_ratio: 0.0 };

pub(super) fn positive(v: f64) -> bool {
    v > 0.0 && v.is_finite()
}

fn not_negative(v: f64) -> bool {
    v >= 0.0 && v.is_finite()
}

fn share(v: f64) -> bool {
    (0.0..=1.0).contains(&v)
}

impl Resolver<'_> {
    pub(super) fn grpo(&mut self, base: &[String], s: &GrpoSection, seed: u64) -> Option<StageConfig> {
        let method = self.group(base, s.group(), 6);
        let beta = method.beta;
        let common = s.common();
        let config = self.policy(base, &common, &GRPO, Method::Grpo(method), beta, seed)?;
        Some(StageConfig::Grpo(Box::new(config)))
    }

    pub(super) fn agent(&mut self, base: &[String], s: &AgentSection, seed: u64) -> Option<StageConfig> {
        let method = self.group(base, s.group(), 4);
        let beta = method.beta;
        let common = s.common();
        let mut config = self.policy(base, &common, &AGENT, Method::Grpo(method), beta, seed)?;
        let max_turns = self.whole(base, "max_turns", s.max_turns, 1).unwrap_or(3);
        let a_turn = match &config.rollout {
            RolloutPlan::Generated(plan) => plan.max_new_tokens,
            RolloutPlan::Replay { .. } => 0,
        };
        let max_total_len =
            self.whole(base, "max_total_len", s.max_total_len, 1).unwrap_or(max_turns * a_turn);
        if matches!(config.rollout, RolloutPlan::Generated(_)) {
            let given = common.max_seq_len.is_some();
            self.lengths(base, &mut config.train, max_total_len, "max_total_len", given);
        }
        let tools = match s.tools.as_deref() {
            Some(list) => self.tools(base, Some(list), seed),
            None => self.usual_tools(base, &config),
        };
        config.agent = Some(AgentPlan { tools, max_turns, max_total_len });
        Some(StageConfig::Agent(Box::new(config)))
    }

    /// Calculator, units and clock; for errands of the built-in world, which ask for its prices, lookup too.
    fn usual_tools(&mut self, base: &[String], config: &PolicyConfig) -> Vec<ToolConfig> {
        let world = |data: &DataConfig| match &data.source {
            DataSource::Synthetic(world) => Some(world.seed),
            DataSource::Paths(_) => None,
        };
        let (asked, held) = (world(&config.train.data), config.heldout.as_ref().and_then(world));
        if let (Some(asked), Some(held)) = (asked, held)
            && asked != held
        {
            self.fault(
                &join(base, "heldout"),
                format!("`heldout` asks of the world with seed {held}, `data` of that with seed {asked}: prices differ"),
                "give both the same seed, or say under `tools` whose prices `lookup` tells",
            );
        }
        let prices = asked.or(held).map(|seed| ToolConfig::new(ToolKind::Lookup(Table::World(seed))));
        ToolConfig::built_in().into_iter().chain(prices).collect()
    }

    /// The keys that grpo and agent share.
    fn group(&mut self, base: &[String], s: GroupSection, generations: usize) -> GrpoPlan {
        let num_generations =
            self.whole(base, "num_generations", s.num_generations, 1).unwrap_or(generations);
        if num_generations == 1 {
            self.fault(
                &join(base, "num_generations"),
                "`num_generations` is 1: an only completion has nothing to be compared with, its advantage is 0",
                "give at least 2, or use spo or ppo, which take one completion a prompt",
            );
        }
        let not = |v: Option<f64>, default: f64| v.unwrap_or(default);
        let epsilon = self.real(base, "epsilon", s.epsilon, "above 0, below 1", |v| v > 0.0 && v < 1.0);
        let epsilon = not(epsilon, 0.2);
        let rounds = self.whole(base, "dynamic_sampling_rounds", s.dynamic_sampling_rounds, 1).unwrap_or(3);
        let plan = GrpoPlan {
            cispo: s.loss_type != Some(LossTypeName::Grpo),
            num_generations,
            beta: not(self.real(base, "beta", s.beta, "of at least 0", not_negative), 0.1),
            epsilon,
            clip_higher: not(self.real(base, "clip_higher", s.clip_higher, "above 0", positive), epsilon),
            epsilon_high: not(self.real(base, "epsilon_high", s.epsilon_high, "above 0", positive), 5.0),
            length_normalization: match s.length_normalization {
                None | Some(LengthNormName::Row) => LengthNorm::Row,
                Some(LengthNormName::Token) => LengthNorm::Token,
                Some(LengthNormName::Constant) => LengthNorm::Constant,
            },
            scale_rewards: s.scale_rewards.unwrap_or(true),
            dynamic_sampling_rounds: if s.dynamic_sampling == Some(true) { rounds } else { 0 },
        };
        if s.clip_higher.is_some() && plan.cispo {
            self.fault(
                &join(base, "clip_higher"),
                "`clip_higher` is for `loss_type: grpo`",
                "set loss_type: grpo, or bound cispo's weight with epsilon_high",
            );
        }
        plan
    }

    pub(super) fn ppo(&mut self, base: &[String], s: &PpoSection, seed: u64) -> Option<StageConfig> {
        let mut number = |key: &str, value: Option<f64>, default: f64, range: &str, fits: fn(f64) -> bool| {
            self.real(base, key, value, range, fits).unwrap_or(default)
        };
        let (critic_learning_rate, clip_epsilon, vf_coef, kl_coef) = (
            number("critic_learning_rate", s.critic_learning_rate, 5e-7, "above 0", positive),
            number("clip_epsilon", s.clip_epsilon, 0.2, "above 0", positive),
            number("vf_coef", s.vf_coef, 0.5, "of at least 0", not_negative),
            number("kl_coef", s.kl_coef, 0.02, "of at least 0", not_negative),
        );
        let (gamma, lam, cliprange_value, early_stop_kl) = (
            number("gamma", s.gamma, 1.0, "between 0 and 1", share),
            number("lam", s.lam, 0.95, "between 0 and 1", share),
            number("cliprange_value", s.cliprange_value, 0.2, "above 0", positive),
            number("early_stop_kl", s.early_stop_kl, 0.25, "above 0", positive),
        );
        let critic = s.critic.as_ref().map(|given| self.init(&join(base, "critic"), given));
        let method = PpoPlan {
            critic,
            critic_learning_rate,
            clip_epsilon,
            vf_coef,
            kl_coef,
            gamma,
            lam,
            cliprange_value,
            ppo_update_iters: self.whole(base, "ppo_update_iters", s.ppo_update_iters, 1).unwrap_or(2),
            early_stop_kl,
            mini_batch_size: self.whole(base, "mini_batch_size", s.mini_batch_size, 1),
        };
        let mini = method.mini_batch_size;
        let common = s.common();
        let config = self.policy(base, &common, &PPO, Method::Ppo(method), kl_coef, seed)?;
        if let (Some(mini), RolloutPlan::Generated(_)) = (mini, &config.rollout)
            && !config.train.batch_size.is_multiple_of(mini)
        {
            let batch = config.train.batch_size;
            self.fault(
                &join(base, "mini_batch_size"),
                format!("`mini_batch_size` is {mini}, which does not divide `batch_size` {batch}"),
                "give a divisor, or leave it out: the whole step is one minibatch then",
            );
        }
        Some(StageConfig::Ppo(Box::new(config)))
    }

    pub(super) fn spo(&mut self, base: &[String], s: &SpoSection, seed: u64) -> Option<StageConfig> {
        let mut number = |key: &str, value: Option<f64>, default: f64, range: &str, fits: fn(f64) -> bool| {
            self.real(base, key, value, range, fits).unwrap_or(default)
        };
        let method = SpoPlan {
            beta: number("beta", s.beta, 0.02, "of at least 0", not_negative),
            constant_rho: s.rho_mode == Some(RhoModeName::Constant),
            rho_const: number("rho_const", s.rho_const, 0.9, "between 0 and 1", share),
            d_half: number("d_half", s.d_half, 0.06, "above 0", positive),
            clip_lower: number("clip_lower", s.clip_lower, 0.5, "from 0 up to, not with, 1", |v| {
                (0.0..1.0).contains(&v)
            }),
            clip_upper: number("clip_upper", s.clip_upper, 0.96, "between 0 and 1", share),
        };
        if method.clip_lower > method.clip_upper {
            self.fault(
                &join(base, "clip_lower"),
                format!("`clip_lower` {} is above `clip_upper` {}", method.clip_lower, method.clip_upper),
                "lower it",
            );
        }
        let beta = method.beta;
        let common = s.common();
        let config = self.policy(base, &common, &SPO, Method::Spo(method), beta, seed)?;
        Some(StageConfig::Spo(Box::new(config)))
    }

    #[allow(clippy::too_many_arguments)]
    fn policy(
        &mut self,
        base: &[String],
        s: &PolicySection,
        defaults: &Defaults,
        method: Method,
        kl_weight: f64,
        seed: u64,
    ) -> Option<PolicyConfig> {
        let rollout = self.rollout(base, s, defaults.max_new_tokens);
        let data = match &rollout {
            RolloutPlan::Replay { path } => {
                if s.data.is_some() {
                    let hint = "remove it, or use rollout.engine: native";
                    self.fault(&join(base, "data"), "recorded rollouts need no `data`", hint);
                }
                DataConfig::files(vec![path.clone()], DataFormat::Tokens)
            }
            RolloutPlan::Generated(_) => self.data(base, s.data.as_ref(), defaults.kind, seed, s.on_bad_row),
        };
        if !matches!(rollout, RolloutPlan::Replay { .. }) && data.format == DataFormat::Tokens {
            self.fault(
                &join(base, "data"),
                "prompts come as text, not as tokens",
                "give conversations in a .jsonl, or recorded rollouts with rollout: {engine: replay, path: FILE}",
            );
        }
        let mut train = self.train_config(&self.section(base), data)?;
        let reference = match &s.reference {
            Some(given) => Some(self.init(&join(base, "reference"), given)),
            None if kl_weight > 0.0 => Some(train.init.clone()),
            None => None,
        };
        if let (RolloutPlan::Generated(plan), false) = (&rollout, defaults.kind == "agent") {
            self.lengths(
                base,
                &mut train,
                plan.max_new_tokens,
                "rollout.max_new_tokens",
                s.max_seq_len.is_some(),
            );
        }
        let mut heldout_data = |section: &DataSection| {
            let agent = defaults.kind == "agent";
            let format = section.format.or(agent.then_some(FormatName::Agent));
            let section = DataSection { format, ..section.clone() };
            let mut data = self.data(&join(base, "heldout"), Some(&section), "eval", seed, s.on_bad_row);
            data.shuffle = false;
            data.format = if agent { DataFormat::Agent } else { DataFormat::Prompts };
            data
        };
        let heldout = s.heldout.as_ref().map(&mut heldout_data);
        let rewards = self.rewards(base, s.rewards.as_deref());
        let replay = matches!(rollout, RolloutPlan::Replay { .. });
        if !replay && rewards.is_empty() {
            self.missing(
                base,
                "rewards",
                format!("stage `{}` needs `rewards`", defaults.kind),
                "for example rewards: [{math: {}}, {length: {weight: 0.1}}]",
            );
        }
        if replay && !rewards.is_empty() {
            self.fault(&join(base, "rewards"), "recorded rollouts bring their rewards", "remove `rewards`");
        }
        Some(PolicyConfig {
            rewards,
            agent: None,
            reference,
            heldout,
            heldout_limit: self.whole(base, "heldout_limit", s.heldout_limit, 1).unwrap_or(100),
            heldout_temperature: self
                .real(base, "heldout_temperature", s.heldout_temperature, "at least 0", |v| v >= 0.0)
                .unwrap_or(0.0),
            thinking_ratio: self
                .ratio(base, "thinking_ratio", s.thinking_ratio)
                .unwrap_or(defaults.thinking_ratio),
            keep_completions: self.whole(base, "keep_completions", s.keep_completions, 0).unwrap_or(4),
            guards: self.guards(base, s.guards.as_ref()),
            train,
            rollout,
            method,
        })
    }

    /// A prompt and the `new` tokens after it, which `key` bounds, must fit the model's positions; prompts whose length
    /// the recipe leaves open get what is left.
    fn lengths(&mut self, base: &[String], train: &mut TrainConfig, new: usize, key: &str, given: bool) {
        let Some(most) = train.model.as_ref().map(|m| m.config.max_position_embeddings as usize) else {
            return;
        };
        if !given && most > new + 1 {
            train.max_seq_len = train.max_seq_len.min(most - new);
        }
        let both = train.max_seq_len + new;
        if train.max_seq_len <= most && both > most {
            self.fault(
                &join(base, "max_seq_len"),
                format!(
                    "prompts of {} and {new} new tokens are {both}, the model sees {most}",
                    train.max_seq_len
                ),
                format!("lower max_seq_len or {key}, or raise model.max_position_embeddings"),
            );
        }
    }

    fn guards(&mut self, base: &[String], section: Option<&GuardSection>) -> GuardPlan {
        let base = join(base, "guards");
        let g = section.cloned().unwrap_or_default();
        let mut guard = |key: &str, bound: Option<f64>, action: Option<GuardActionName>| {
            let bound = self.real(&base, key, bound, "above 0", positive)?;
            let action = match action {
                None | Some(GuardActionName::Warn) => GuardAction::Warn,
                Some(GuardActionName::Lower) => GuardAction::Lower,
                Some(GuardActionName::Stop) => GuardAction::Stop,
            };
            Some(Guard { bound, action })
        };
        GuardPlan {
            kl: guard("kl_above", g.kl_above, g.on_kl),
            reward: guard("reward_drop", g.reward_drop, g.on_reward),
            repetition: guard("repetition_above", g.repetition_above, g.on_repetition),
            window: self.whole(&base, "window", g.window, 1).unwrap_or(10),
        }
    }
}
