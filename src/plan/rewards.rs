//! `rewards:` of a stage, resolved: upstream's defaults filled, every number checked.
//!
//! Same rules as `resolve`. Next: `rollout::rewards`, which carries them out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::resolve::{Makes, Resolver, join};
use super::schema::*;
use super::types::Init;
use crate::rollout::rewards::*;
use crate::rollout::service::{Secret, ServiceConfig};

/// A service's keys as written; `http` rewards and `http` rollouts have them.
pub(super) struct ServiceKeys<'a> {
    pub(super) url: Option<&'a str>,
    pub(super) timeout_secs: Option<f64>,
    pub(super) retries: Option<i64>,
    pub(super) headers: Option<&'a BTreeMap<String, String>>,
    pub(super) api_key_env: Option<&'a str>,
}

// The stages that learn from rewards call these.
impl Resolver<'_> {
    /// The rewards of the stage at `stage`.
    pub(super) fn rewards(&mut self, stage: &[String], list: Option<&[Option<Reward>]>) -> Vec<RewardConfig> {
        let base = join(stage, "rewards");
        let mut planned: Vec<RewardConfig> = Vec::new();
        for (index, reward) in list.unwrap_or_default().iter().enumerate() {
            let element = join(&base, &index.to_string());
            let Some(reward) = reward else {
                if !self.recipe.aside.contains(&element) {
                    self.fault(
                        &element,
                        "a reward is empty",
                        format!("rewards: {}", REWARD_KINDS.join(", ")),
                    );
                }
                continue;
            };
            let at = join(&element, reward.kind);
            let Common { name, weight, on_error } = reward.common();
            let name = name.unwrap_or(reward.kind).to_owned();
            if planned.iter().any(|other| other.name == name) {
                self.fault(
                    &join(&at, "name"),
                    format!("two rewards are named `{name}`"),
                    "give one of them a `name` of its own",
                );
            }
            if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c)) {
                self.fault(
                    &join(&at, "name"),
                    format!("a reward cannot be named `{name}`"),
                    "use letters, digits, `-`, `_` and `.`",
                );
            }
            let on_error = match on_error {
                None => OnError::Stop,
                Some(NumberOrText::Text(word)) if word == "stop" => OnError::Stop,
                Some(NumberOrText::Number(value)) if value.is_finite() => OnError::Value(*value),
                Some(_) => {
                    self.fault(
                        &join(&at, "on_error"),
                        "`on_error` is neither `stop` nor a number",
                        "write stop, or the value to count instead",
                    );
                    OnError::Stop
                }
            };
            let weight = self.finite(&at, "weight", weight, 1.0);
            let kind = self.reward_kind(&at, reward);
            planned.push(RewardConfig { name, weight, on_error, kind });
        }
        planned
    }

    fn finite(&mut self, base: &[String], key: &str, value: Option<f64>, default: f64) -> f64 {
        self.real(base, key, value, "that is finite", f64::is_finite).unwrap_or(default)
    }

    fn reward_kind(&mut self, at: &[String], reward: &Reward) -> RewardKind {
        match &reward.body {
            RewardBody::Length(s) => {
                let d = LengthConfig::default();
                let (min, max) = self.bounds(at, (s.min, s.max), (d.min, d.max));
                let inside = self.finite(at, "inside", s.inside, d.inside);
                let outside = self.finite(at, "outside", s.outside, d.outside);
                RewardKind::Length(LengthConfig { min, max, inside, outside })
            }
            RewardBody::Format(s) => {
                let d = FormatConfig::default();
                let (min, max) = self.bounds(at, (s.min, s.max), (d.min, d.max));
                let style = match s.style {
                    None | Some(StyleName::Think) => FormatStyle::Think,
                    Some(StyleName::ThinkAnswer) => FormatStyle::ThinkAnswer,
                };
                RewardKind::Format(FormatConfig { style, min, max })
            }
            RewardBody::Repetition(s) => {
                let d = RepetitionConfig::default();
                let cap =
                    self.real(at, "cap", s.cap, "above 0", |v| v > 0.0 && v.is_finite()).unwrap_or(d.cap);
                RewardKind::Repetition(RepetitionConfig {
                    ngram: self.whole(at, "ngram", s.ngram, 1).unwrap_or(d.ngram),
                    cap,
                })
            }
            RewardBody::Regex(s) => self.regex_reward(at, s),
            RewardBody::Math(s) => {
                let d = MathConfig::default();
                let tolerance =
                    self.real(at, "tolerance", s.tolerance, "of at least 0", |v| v >= 0.0 && v.is_finite());
                let right = self.finite(at, "right", s.right, d.right);
                let wrong = self.finite(at, "wrong", s.wrong, d.wrong);
                RewardKind::Math(MathConfig {
                    field: s.field.clone(),
                    tolerance: tolerance.unwrap_or(d.tolerance),
                    right,
                    wrong,
                })
            }
            RewardBody::JsonTool(s) => {
                let d = JsonToolConfig::default();
                let right = self.finite(at, "right", s.right, d.right);
                let valid = self.finite(at, "valid", s.valid, d.valid);
                let wrong = self.finite(at, "wrong", s.wrong, d.wrong);
                RewardKind::JsonTool(JsonToolConfig {
                    field: s.field.clone().unwrap_or(d.field),
                    right,
                    valid,
                    wrong,
                })
            }
            RewardBody::Synthetic(s) => {
                let d = SyntheticReward::default();
                let right = self.finite(at, "right", s.right, d.right);
                let wrong = self.finite(at, "wrong", s.wrong, d.wrong);
                RewardKind::Synthetic(SyntheticReward { right, wrong })
            }
            RewardBody::Model(s) => self.model_reward(at, s),
            RewardBody::Http(s) => {
                let keys = ServiceKeys {
                    url: s.url.as_deref(),
                    timeout_secs: s.timeout_secs,
                    retries: s.retries,
                    headers: s.headers.as_ref(),
                    api_key_env: s.api_key_env.as_deref(),
                };
                let batch_size = self.whole(at, "batch_size", s.batch_size, 1).unwrap_or(64);
                RewardKind::Http(HttpRewardConfig { service: self.service(at, &keys), batch_size })
            }
            RewardBody::Command(s) => {
                let command = self.command(at, s.command.as_deref());
                let timeout_secs = self.seconds(at, s.timeout_secs, 60.0);
                RewardKind::Command(CommandRewardConfig { command, timeout_secs })
            }
        }
    }

    fn bounds(
        &mut self,
        at: &[String],
        given: (Option<i64>, Option<i64>),
        default: (usize, usize),
    ) -> (usize, usize) {
        let min = self.whole(at, "min", given.0, 0).unwrap_or(default.0);
        let max = self.whole(at, "max", given.1, 0).unwrap_or(default.1);
        if min > max {
            self.fault(
                &join(at, if given.1.is_some() { "max" } else { "min" }),
                format!("`min` {min} is above `max` {max}"),
                "no length is within them",
            );
        }
        (min, max)
    }

    fn regex_reward(&mut self, at: &[String], s: &RegexSection) -> RewardKind {
        let pattern = s.pattern.clone().unwrap_or_else(|| {
            self.missing(at, "pattern", "reward `regex` needs `pattern`", "for example pattern: '^\\d+$'");
            String::new()
        });
        if let Err(error) = regex::Regex::new(&pattern) {
            let said = error.to_string();
            let cause = said.lines().last().unwrap_or_default().trim();
            let cause = cause.strip_prefix("error: ").unwrap_or(cause).to_owned();
            self.fault(
                &join(at, "pattern"),
                format!("the pattern cannot be read: {cause}"),
                "the syntax is that of the Rust crate `regex`: no look-around, no back-references",
            );
        }
        let on = match s.on {
            Some(PartName::Completion) => Part::Completion,
            Some(PartName::Thinking) => Part::Thinking,
            None | Some(PartName::Answer) => Part::Answer,
        };
        let found = self.finite(at, "found", s.found, 1.0);
        let missing = self.finite(at, "missing", s.missing, 0.0);
        RewardKind::Regex(RegexConfig { pattern, on, found, missing })
    }

    fn model_reward(&mut self, at: &[String], s: &ModelRewardSection) -> RewardKind {
        let from = match &s.from {
            Some(given) if self.above.iter().any(|a| a.name == *given && matches!(a.makes, Makes::Score)) => {
                RewardSource::Stage(given.clone())
            }
            Some(given) => match self.init(&join(at, "from"), given) {
                Init::Stage(name) => RewardSource::Stage(name),
                Init::Path(path) => RewardSource::Path(path),
                Init::Scratch => {
                    self.fault(
                        &join(at, "from"),
                        "a fresh reward model knows nothing",
                        "name a reward stage above, a folder or a file",
                    );
                    RewardSource::Path(PathBuf::new())
                }
            },
            None => {
                self.missing(
                    at,
                    "from",
                    "reward `model` needs `from`",
                    "name a reward stage above, a Hugging Face folder, or a weight file",
                );
                RewardSource::Path(PathBuf::new())
            }
        };
        let tokenizer = s.tokenizer.as_ref().map(|folder| {
            if crate::data::tokenizer::load::file(Path::new(folder)).is_none() {
                self.fault(
                    &join(at, "tokenizer"),
                    format!("{folder} has no tokenizer.json"),
                    "name a folder that has",
                );
            }
            PathBuf::from(folder)
        });
        let share = |v: f64| (0.0..=1.0).contains(&v);
        RewardKind::Model(ModelRewardConfig {
            from,
            tokenizer,
            answer_share: self
                .real(at, "answer_share", s.answer_share, "between 0 and 1", share)
                .unwrap_or(1.0),
            clip: self.real(at, "clip", s.clip, "above 0", |v| v > 0.0 && v.is_finite()).unwrap_or(3.0),
            batch_size: self.whole(at, "batch_size", s.batch_size, 1).unwrap_or(8),
            max_seq_len: self.whole(at, "max_seq_len", s.max_seq_len, 2).unwrap_or(2048),
        })
    }

    /// A service's address and patience; a key is taken from the environment and stays out of the plan's file.
    pub(super) fn service(&mut self, at: &[String], keys: &ServiceKeys<'_>) -> ServiceConfig {
        let url = keys.url.unwrap_or_default();
        if keys.url.is_none() {
            self.missing(
                at,
                "url",
                "`url` is missing",
                "give the service's address: url: http://127.0.0.1:8000/score",
            );
        } else if !(url.starts_with("http://") || url.starts_with("https://")) {
            self.fault(
                &join(at, "url"),
                format!("`url` is `{url}`"),
                "an address begins with http:// or https://",
            );
        }
        let api_key = keys.api_key_env.and_then(|name| {
            let key = super::environment::secret(name);
            if key.is_none() {
                self.fault(
                    &join(at, "api_key_env"),
                    format!("the environment has no `{name}`"),
                    format!("export {name}=... before the run"),
                );
            }
            key.map(Secret)
        });
        ServiceConfig {
            url: url.to_owned(),
            timeout_secs: self.seconds(at, keys.timeout_secs, 60.0),
            retries: self.whole(at, "retries", keys.retries, 0).unwrap_or(3),
            headers: keys.headers.cloned().unwrap_or_default(),
            api_key,
        }
    }

    pub(super) fn seconds(&mut self, at: &[String], given: Option<f64>, default: f64) -> f64 {
        let fits = |v: f64| v > 0.0 && v <= 86_400.0;
        match self.real(at, "timeout_secs", given, "above 0, at most a day", fits) {
            Some(value) if fits(value) => value,
            _ => default,
        }
    }

    /// A program and its arguments.
    pub(super) fn command(&mut self, at: &[String], given: Option<&[Option<String>]>) -> Vec<String> {
        let command: Vec<String> = given.unwrap_or_default().iter().flatten().cloned().collect();
        if given.is_none() {
            self.missing(at, "command", "`command` is missing", "give a list: command: [python3, score.py]");
        } else if command.first().is_none_or(String::is_empty) {
            self.fault(
                &join(at, "command"),
                "`command` names no program",
                "give a list: command: [python3, score.py]",
            );
        }
        command
    }
}

#[cfg(test)]
#[path = "rewards_tests.rs"]
mod tests;
