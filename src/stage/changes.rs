//! What has changed between the record of a stage and what it would be made from now, and what each change means.
//!
//! Settings are compared by key with the kinds that `plan::kinds` declares, files by hash. Next: `decision`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fingerprint::without_unset;
use super::legacy_records;
use super::record::{ARITHMETIC, FORMAT, Inputs};
use crate::error::Result;
use crate::plan::{Change, Init, Plan, Precision, SettingKind, StageConfig, TokenizerSource};
use crate::rollout::rewards::{RewardKind, RewardSource};

/// Names that older records lack: nothing is known of what they were.
const ADDED_LATER: [&str; 1] = ["chat template"];

/// Changes by what they mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// They change the result.
    pub result: Vec<Change>,
    /// They change the result, since an earlier stage of the recipe was made again.
    pub earlier_stage: Vec<Change>,
    /// They change only the length, or the number type of the weights.
    pub length: Vec<Change>,
    /// The result does not depend on them.
    pub harmless: Vec<Change>,
}

impl Changes {
    /// All changes between the record of a stage and `now`; `finished`, or in progress.
    ///
    /// # Errors
    /// Settings that cannot be written as JSON.
    pub fn between(
        plan: &Plan,
        config: &StageConfig,
        old: &Inputs,
        now: &Inputs,
        finished: bool,
    ) -> Result<Self> {
        let mut all = Self::default();
        if old.format > FORMAT {
            all.push(
                "format of the record",
                SettingKind::Result,
                &old.format.to_string(),
                &FORMAT.to_string(),
            );
        }
        if old.arithmetic != ARITHMETIC {
            let (old, now) = (old.arithmetic.to_string(), ARITHMETIC.to_string());
            all.push("arithmetic version", SettingKind::Result, &old, &now);
        }
        let settings = match &old.settings {
            Value::Null if old.named.contains_key(legacy_records::UNKNOWN) => {
                all.push(
                    legacy_records::UNKNOWN,
                    SettingKind::Result,
                    "known by its hash alone",
                    "this recipe's",
                );
                return Ok(all);
            }
            Value::Null => {
                if old.named.get(legacy_records::SETTINGS) != Some(&legacy_records::hash_of(config)?) {
                    all.push("settings", SettingKind::Result, "known by its hash alone", "this recipe's");
                }
                Vec::new()
            }
            known => config.changes(known, &now.settings),
        };
        let moved: BTreeSet<&str> =
            settings.iter().filter(|c| c.kind == SettingKind::Place).map(|c| c.key.as_str()).collect();
        all.named(plan, config, (old, now), finished, &moved);
        for change in settings.iter().filter(|c| c.kind != SettingKind::Place) {
            all.sort(change.clone());
        }
        // Another path alone is no change; other contents there are.
        let places = settings.iter().filter(|c| c.kind == SettingKind::Place);
        let different = !all.result.is_empty();
        all.result.extend(places.filter(|_| different).cloned());
        Ok(all)
    }

    /// Those that need `--resume force` or a new start: of the result, of earlier stages, of the length.
    pub fn that_matter(&self) -> impl Iterator<Item = &Change> {
        self.result.iter().chain(&self.earlier_stage).chain(&self.length)
    }

    fn named(
        &mut self,
        plan: &Plan,
        config: &StageConfig,
        (old, now): (&Inputs, &Inputs),
        finished: bool,
        moved: &BTreeSet<&str>,
    ) {
        let names: BTreeSet<&String> = old.named.keys().chain(now.named.keys()).collect();
        let elsewhere = get(old, "device") != get(now, "device");
        for name in names {
            let (before, after) = (get(old, name), get(now, name));
            let unknown = before.is_empty() && ADDED_LATER.contains(&name.as_str());
            if before == after
                || unknown
                || [legacy_records::SETTINGS, legacy_records::PROGRAM].contains(&name.as_str())
            {
                continue;
            }
            let (key, kind) = match name.as_str() {
                // A finished stage stays valid on another device; one in progress would resume with other bits.
                "device" if finished => ("runtime.device", SettingKind::Watch),
                "device" => ("runtime.device", SettingKind::Result),
                "precision" if finished && elsewhere && plan.runtime.precision == Precision::Auto => {
                    ("runtime.precision", SettingKind::Watch)
                }
                "precision" => ("runtime.precision", SettingKind::Result),
                "held-out data" => ("heldout (its rows)", SettingKind::Watch),
                "data" => ("data (its rows)", SettingKind::Result),
                "start weights" => ("init (the weights)", SettingKind::Result),
                other => (other, SettingKind::Result),
            };
            let (before, after) = (short(&before), short(&after));
            if kind == SettingKind::Result && comes_from_stage(config, name) && !setting_changed(name, moved)
            {
                self.earlier_stage.push(change(key, kind, &before, &after));
            } else {
                self.push(key, kind, &before, &after);
            }
        }
    }

    fn push(&mut self, key: &str, kind: SettingKind, old: &str, new: &str) {
        self.sort(change(key, kind, old, new));
    }

    fn sort(&mut self, change: Change) {
        match change.kind {
            SettingKind::Result | SettingKind::Place => self.result.push(change),
            SettingKind::Watch => self.harmless.push(change),
            SettingKind::Length => self.length.push(change),
        }
    }
}

/// Changes in a line, the first eight of them.
pub fn in_words(changes: &[Change]) -> String {
    const MOST: usize = 8;
    let mut shown: Vec<String> = changes.iter().take(MOST).map(ToString::to_string).collect();
    if changes.len() > MOST {
        shown.push(format!("and {} more", changes.len() - MOST));
    }
    shown.join(", ")
}

fn change(key: &str, kind: SettingKind, old: &str, new: &str) -> Change {
    let value = |text: &str| (!text.is_empty()).then(|| Value::from(text));
    Change { key: key.to_owned(), kind, old: value(old), new: value(new) }
}

/// A value as it is compared: without the index of a GPU, and without the unset fields of a struct.
fn get(inputs: &Inputs, name: &str) -> String {
    let value = inputs.named.get(name).map_or("", String::as_str);
    match name {
        "device" => value.split(':').next().unwrap_or_default().to_owned(),
        _ if name.starts_with("stated ") => without_unset(value),
        _ => value.to_owned(),
    }
}

/// A hash shortened for people; other values as they are.
fn short(value: &str) -> String {
    let hash = value.len() >= 64 && value.bytes().take(64).all(|b| b.is_ascii_hexdigit());
    if hash { value[..8].to_owned() } else { value.to_owned() }
}

/// Whether an earlier stage of the recipe made the input called `name`.
fn comes_from_stage(config: &StageConfig, name: &str) -> bool {
    let stage = |init: Option<&Init>| matches!(init, Some(Init::Stage(_)));
    let training = config.training();
    let (init, tokenizer) = match config {
        StageConfig::Eval(c) => (Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Export(c) => (Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Merge(c) => (c.init.as_ref(), c.tokenizer.as_ref()),
        _ => (training.map(|c| &c.init), training.and_then(|c| c.tokenizer.as_ref())),
    };
    match name {
        "start weights" => stage(init),
        "tokenizer" | "chat template" => matches!(tokenizer, Some(TokenizerSource::Stage(_))),
        _ => {
            let policy = match config {
                StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
                    Some(c)
                }
                _ => None,
            };
            let others = policy.map(|c| c.others()).unwrap_or_default();
            let read = config.also_reads().into_iter().chain(others);
            let scored = policy.into_iter().flat_map(|c| &c.rewards).any(|reward| {
                name.strip_prefix("reward ") == Some(reward.name.as_str())
                    && matches!(&reward.kind, RewardKind::Model(m) if matches!(m.from, RewardSource::Stage(_)))
            });
            scored || read.into_iter().any(|(what, init)| what == name && stage(Some(init)))
        }
    }
}

/// Whether the setting behind the input called `name` is among those whose path has `moved`.
fn setting_changed(name: &str, moved: &BTreeSet<&str>) -> bool {
    let key = match name {
        "start weights" => "init",
        "chat template" => "tokenizer",
        other if other.starts_with("reward ") => "rewards.",
        other => other,
    };
    let inside = format!("{}.", key.trim_end_matches('.'));
    moved.iter().any(|place| *place == key || place.starts_with(&inside))
}
