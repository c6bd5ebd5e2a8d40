//! `rewards:` of a stage, resolved: what stands between keys, and what rewards refer to.
//!
//! Keys, ranges and defaults stand in `rollout::rewards`, which carries them out.

use super::resolve::{Makes, Resolver};
use super::schema::Element;
use super::types::Init;
use crate::recipe::Section;
use crate::rollout::rewards::*;
use crate::rollout::service::{Secret, ServiceConfig};

// The stages that learn from rewards call these.
impl<'a> Resolver<'a> {
    /// The rewards of a stage.
    pub(super) fn rewards(&mut self, stage: &Section<'_>) -> Vec<RewardConfig> {
        let mut planned: Vec<RewardConfig> = Vec::new();
        for s in self.one_keys(stage, "rewards") {
            let mut own = s.map.clone();
            if s.text("on_error").is_some_and(|word| word != "stop") {
                let hint = "write stop, or the value to count instead";
                self.fault(&s.at("on_error"), "`on_error` is neither `stop` nor a number", hint);
                own.remove("on_error");
            }
            let s = Section { map: &own, ..s };
            let kind = ("kind".to_owned(), s.key().into());
            let Some(Element(mut reward)) = self.read::<Element<RewardConfig>>(&s, &[kind]) else { continue };
            if !s.has("name") {
                reward.name = s.key().to_owned();
            }
            let name = &reward.name;
            if planned.iter().any(|other| other.name == *name) {
                self.fault(
                    &s.at("name"),
                    format!("two rewards are named `{name}`"),
                    "give one of them a `name` of its own",
                );
            }
            if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c)) {
                self.fault(
                    &s.at("name"),
                    format!("a reward cannot be named `{name}`"),
                    "use letters, digits, `-`, `_` and `.`",
                );
            }
            self.reward_kind(&s, &mut reward.kind);
            planned.push(reward);
        }
        planned
    }

    /// The maps below the one keys of a list; an element that was set aside has none.
    pub(super) fn one_keys(&self, s: &Section<'_>, list: &str) -> Vec<Section<'a>> {
        let kinds = s.list(list).iter().enumerate();
        let kinds = kinds.filter_map(|(index, element)| Some((index, element.as_object()?.keys().next()?)));
        kinds
            .map(|(index, kind)| {
                self.section(&[&s.path[..], &[list.into(), index.to_string(), kind.clone()]].concat())
            })
            .collect()
    }

    /// What a kind's own keys need beside their ranges.
    fn reward_kind(&mut self, s: &Section<'_>, kind: &mut RewardKind) {
        match kind {
            RewardKind::Length(c) => self.bounds(s, c.min, c.max),
            RewardKind::Format(c) => self.bounds(s, c.min, c.max),
            RewardKind::Regex(c) => self.pattern(s, &c.pattern),
            RewardKind::Model(c) => {
                c.from = self.reward_source(s);
                if let Some(folder) = c.tokenizer.as_deref()
                    && crate::data::tokenizer::load::file(folder).is_none()
                {
                    let what = format!("{} has no tokenizer.json", folder.display());
                    self.fault(&s.at("tokenizer"), what, "name a folder that has");
                }
            }
            RewardKind::Http(c) => c.service = self.service(s),
            RewardKind::Command(c) => self.command(s, &c.command),
            RewardKind::Repetition(_)
            | RewardKind::Math(_)
            | RewardKind::JsonTool(_)
            | RewardKind::Synthetic(_) => {}
        }
    }

    fn bounds(&mut self, s: &Section<'_>, min: usize, max: usize) {
        if min > max {
            self.fault(
                &s.at(if s.has("max") { "max" } else { "min" }),
                format!("`min` {min} is above `max` {max}"),
                "no length is within them",
            );
        }
    }

    fn pattern(&mut self, s: &Section<'_>, pattern: &str) {
        if !s.has("pattern") {
            let hint = "for example pattern: '^\\d+$'";
            self.missing(&s.path, "pattern", "reward `regex` needs `pattern`", hint);
        }
        if let Err(error) = regex::Regex::new(pattern) {
            let said = error.to_string();
            let cause = said.lines().last().unwrap_or_default().trim();
            let cause = cause.strip_prefix("error: ").unwrap_or(cause).to_owned();
            self.fault(
                &s.at("pattern"),
                format!("the pattern cannot be read: {cause}"),
                "the syntax is that of the Rust crate `regex`: no look-around, no back-references",
            );
        }
    }

    fn reward_source(&mut self, s: &Section<'_>) -> RewardSource {
        let Some(given) = s.text("from") else {
            self.missing(
                &s.path,
                "from",
                "reward `model` needs `from`",
                "name a reward stage above, a Hugging Face folder, or a weight file",
            );
            return RewardSource::default();
        };
        if self.above.iter().any(|a| a.name == given && matches!(a.makes, Makes::Score)) {
            return RewardSource::Stage(given.to_owned());
        }
        match self.init(&s.at("from"), given) {
            Init::Stage(name) => RewardSource::Stage(name),
            Init::Path(path) => RewardSource::Path(path),
            Init::Scratch => {
                self.fault(
                    &s.at("from"),
                    "a fresh reward model knows nothing",
                    "name a reward stage above, a folder or a file",
                );
                RewardSource::default()
            }
        }
    }

    /// A service's address and patience; a key is taken from the environment and stays out of the plan's file.
    pub(super) fn service(&mut self, s: &Section<'_>) -> ServiceConfig {
        let mut service: ServiceConfig = self.read(s, &[]).unwrap_or_default();
        let url = &service.url;
        if !s.has("url") {
            let hint = "give the service's address: url: http://127.0.0.1:8000/score";
            self.missing(&s.path, "url", "`url` is missing", hint);
        } else if !(url.starts_with("http://") || url.starts_with("https://")) {
            let hint = "an address begins with http:// or https://";
            self.fault(&s.at("url"), format!("`url` is `{url}`"), hint);
        }
        service.api_key = s.text("api_key_env").and_then(|name| {
            let key = super::environment::secret(name);
            if key.is_none() {
                self.fault(
                    &s.at("api_key_env"),
                    format!("the environment has no `{name}`"),
                    format!("export {name}=... before the run"),
                );
            }
            key.map(Secret)
        });
        service
    }

    /// A program and its arguments must be there.
    pub(super) fn command(&mut self, s: &Section<'_>, command: &[String]) {
        let hint = "give a list: command: [python3, score.py]";
        if !s.has("command") {
            self.missing(&s.path, "command", "`command` is missing", hint);
        } else if command.first().is_none_or(String::is_empty) {
            self.fault(&s.at("command"), "`command` names no program", hint);
        }
    }
}

#[cfg(test)]
#[path = "rewards_tests.rs"]
mod tests;
