//! ppo, grpo and spo stages, resolved: upstream's defaults, and sizes that must divide.
//!
//! Apart from `resolve` only for length; the rules are the same. Next: `policy`, what comes out.

use std::path::PathBuf;

use super::resolve::{Resolver, join};
use super::types::*;
use crate::recipe::schema::*;

/// What differs between the methods before the method's own keys.
struct Defaults {
    kind: &'static str,
    accumulation_steps: i64,
    learning_rate: f64,
    max_seq_len: i64,
    max_new_tokens: usize,
    thinking_ratio: f64,
}

const GRPO: Defaults = Defaults {
    kind: "grpo",
    accumulation_steps: 1,
    learning_rate: 3e-7,
    max_seq_len: 768,
    max_new_tokens: 1024,
    thinking_ratio: 0.9,
};
const PPO: Defaults = Defaults { kind: "ppo", thinking_ratio: 0.0, ..GRPO };
const SPO: Defaults = Defaults {
    kind: "spo",
    accumulation_steps: 4,
    learning_rate: 1e-7,
    max_seq_len: 66,
    max_new_tokens: 1536,
    thinking_ratio: 0.0,
};

fn positive(v: f64) -> bool {
    v > 0.0 && v.is_finite()
}

fn not_negative(v: f64) -> bool {
    v >= 0.0 && v.is_finite()
}

fn share(v: f64) -> bool {
    (0.0..=1.0).contains(&v)
}

impl Resolver<'_> {
    pub(super) fn grpo(
        &mut self,
        base: &[String],
        s: &GrpoSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
        let num_generations = self.whole(base, "num_generations", s.num_generations, 1).unwrap_or(6);
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
        let method = GrpoPlan {
            cispo: s.loss_type != Some(LossTypeName::Grpo),
            num_generations,
            beta: not(self.real(base, "beta", s.beta, "of at least 0", not_negative), 0.1),
            epsilon,
            clip_higher: not(self.real(base, "clip_higher", s.clip_higher, "above 0", positive), epsilon),
            epsilon_high: not(self.real(base, "epsilon_high", s.epsilon_high, "above 0", positive), 5.0),
            length_normalization: match s.length_normalization {
                None | Some(LengthNormName::Row) => LengthNormPlan::Row,
                Some(LengthNormName::Token) => LengthNormPlan::Token,
                Some(LengthNormName::Constant) => LengthNormPlan::Constant,
            },
            scale_rewards: s.scale_rewards.unwrap_or(true),
            dynamic_sampling_rounds: if s.dynamic_sampling == Some(true) { rounds } else { 0 },
        };
        if s.clip_higher.is_some() && method.cispo {
            self.fault(
                &join(base, "clip_higher"),
                "`clip_higher` is for `loss_type: grpo`",
                "set loss_type: grpo, or bound cispo's weight with epsilon_high",
            );
        }
        let beta = method.beta;
        let common = s.common();
        let config = self.policy(base, &common, &GRPO, Method::Grpo(method), beta, seed, below);
        StageConfig::Grpo(Box::new(config))
    }

    pub(super) fn ppo(
        &mut self,
        base: &[String],
        s: &PpoSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
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
        let critic = s.critic.as_ref().map(|given| self.init(&join(base, "critic"), given, below));
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
        let config = self.policy(base, &common, &PPO, Method::Ppo(method), kl_coef, seed, below);
        if let (Some(mini), RolloutPlan::Native { .. }) = (mini, &config.rollout)
            && !config.train.batch_size.is_multiple_of(mini)
        {
            let batch = config.train.batch_size;
            self.fault(
                &join(base, "mini_batch_size"),
                format!("`mini_batch_size` is {mini}, which does not divide `batch_size` {batch}"),
                "give a divisor, or leave it out: the whole step is one minibatch then",
            );
        }
        StageConfig::Ppo(Box::new(config))
    }

    pub(super) fn spo(
        &mut self,
        base: &[String],
        s: &SpoSection,
        seed: u64,
        below: &[String],
    ) -> StageConfig {
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
        let config = self.policy(base, &common, &SPO, Method::Spo(method), beta, seed, below);
        StageConfig::Spo(Box::new(config))
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
        below: &[String],
    ) -> PolicyConfig {
        let rollout = self.rollout(base, s, defaults);
        let t = &s.train;
        let data = match &rollout {
            RolloutPlan::Replay { path } => {
                if t.data.is_some() {
                    let hint = "remove it, or use rollout.engine: native";
                    self.fault(&join(base, "data"), "recorded rollouts need no `data`", hint);
                }
                DataConfig::files(vec![path.clone()], DataFormat::Tokens)
            }
            RolloutPlan::Native { .. } => self.data(base, t.data.as_ref(), defaults.kind, seed, t.on_bad_row),
        };
        if !matches!(rollout, RolloutPlan::Replay { .. }) && data.format == DataFormat::Tokens {
            self.fault(
                &join(base, "data"),
                "prompts come as text, not as tokens",
                "give conversations in a .jsonl, or recorded rollouts with rollout: {engine: replay, path: FILE}",
            );
        }
        let section = TrainSection {
            epochs: t.epochs.or(Some(1)),
            batch_size: t.batch_size.or(Some(2)),
            accumulation_steps: t.accumulation_steps.or(Some(defaults.accumulation_steps)),
            learning_rate: t.learning_rate.or(Some(defaults.learning_rate)),
            max_seq_len: t.max_seq_len.or(Some(defaults.max_seq_len)),
            log_interval: t.log_interval.or(Some(1)),
            save_interval: t.save_interval.or(Some(10)),
            ..t.clone()
        };
        let train = self.train_config(base, defaults.kind, &section, data, below);
        let reference = match &s.reference {
            Some(given) => Some(self.init(&join(base, "reference"), given, below)),
            None if kl_weight > 0.0 => Some(train.init.clone()),
            None => None,
        };
        self.lengths(base, &train, &rollout);
        let mut heldout_data = |section: &DataSection| {
            let mut data = self.data(&join(base, "heldout"), Some(section), "eval", seed, t.on_bad_row);
            data.shuffle = false;
            data
        };
        let heldout = s.heldout.as_ref().map(&mut heldout_data);
        PolicyConfig {
            reference,
            heldout,
            heldout_limit: self.whole(base, "heldout_limit", s.heldout_limit, 1).unwrap_or(100),
            thinking_ratio: self
                .ratio(base, "thinking_ratio", s.thinking_ratio)
                .unwrap_or(defaults.thinking_ratio),
            keep_completions: self.whole(base, "keep_completions", s.keep_completions, 0).unwrap_or(4),
            guards: self.guards(base, s.guards.as_ref()),
            train,
            rollout,
            method,
        }
    }

    /// Prompt and completion together must fit the model's positions.
    fn lengths(&mut self, base: &[String], train: &TrainConfig, rollout: &RolloutPlan) {
        let RolloutPlan::Native { max_new_tokens, .. } = rollout else { return };
        let Some(most) = train.model.as_ref().map(|m| m.config.max_position_embeddings as usize) else {
            return;
        };
        let both = train.max_seq_len + max_new_tokens;
        if train.max_seq_len <= most && both > most {
            self.fault(
                &join(base, "max_seq_len"),
                format!(
                    "prompts of {} and {max_new_tokens} new tokens are {both}, the model sees {most}",
                    train.max_seq_len
                ),
                "lower max_seq_len or rollout.max_new_tokens, or raise model.max_position_embeddings",
            );
        }
    }

    fn rollout(&mut self, base: &[String], s: &PolicySection, defaults: &Defaults) -> RolloutPlan {
        let own = join(base, "rollout");
        let r = s.rollout.clone().unwrap_or_default();
        if r.engine == Some(EngineName::Replay) {
            let Some(path) = r.path else {
                self.missing(
                    &own,
                    "path",
                    "replay needs the recorded rollouts",
                    "give rollout: {engine: replay, path: FILE.safetensors}",
                );
                return RolloutPlan::Replay { path: PathBuf::new() };
            };
            self.file(&join(&own, "path"), &path);
            return RolloutPlan::Replay { path: PathBuf::from(path) };
        }
        if r.path.is_some() {
            self.fault(
                &join(&own, "path"),
                "`path` is for recorded rollouts",
                "add engine: replay, or remove it",
            );
        }
        let mut lengths = Vec::new();
        for (at, key, value) in [
            (&own[..], "max_new_tokens", r.max_new_tokens),
            (&own[..], "max_gen_len", r.max_gen_len),
            (base, "max_gen_len", s.max_gen_len),
        ] {
            lengths.extend(self.whole(at, key, value, 1).map(|n| (join(at, key), n)));
        }
        if let [(_, first), .., (path, last)] = &lengths[..]
            && first != last
        {
            let what = format!("most new tokens are given twice: {first} and {last}");
            self.fault(&path.clone(), what, "keep rollout.max_new_tokens");
        }
        RolloutPlan::Native {
            max_new_tokens: lengths.first().map_or(defaults.max_new_tokens, |(_, n)| *n),
            temperature: self.real(&own, "temperature", r.temperature, "above 0", positive).unwrap_or(1.0),
            top_p: self
                .real(&own, "top_p", r.top_p, "above 0, up to 1", |v| v > 0.0 && v <= 1.0)
                .unwrap_or(1.0),
            top_k: self.whole(&own, "top_k", r.top_k, 0).unwrap_or(0),
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
