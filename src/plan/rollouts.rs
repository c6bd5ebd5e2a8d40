//! `rollout:` of a stage, resolved. Same rules as `resolve`. Next: `stage::policy`, which carries it out.

use std::path::PathBuf;

use super::policies::positive;
use super::policy::{GeneratedPlan, RolloutPlan, ServerPlan, UpdatePlan};
use super::resolve::{Resolver, join};
use super::rewards::ServiceKeys;
use super::schema::*;
use crate::rollout::http::{HttpEngineConfig, Protocol};

impl Resolver<'_> {
    pub(super) fn rollout(&mut self, base: &[String], s: &PolicySection, most: usize) -> RolloutPlan {
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
            return RolloutPlan::Replay { path: self.file(&join(&own, "path"), &path) };
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
        RolloutPlan::Generated(GeneratedPlan {
            server: self.server(&own, &r),
            max_new_tokens: lengths.first().map_or(most, |(_, n)| *n),
            temperature: self.real(&own, "temperature", r.temperature, "above 0", positive).unwrap_or(1.0),
            top_p: self
                .real(&own, "top_p", r.top_p, "above 0, up to 1", |v| v > 0.0 && v <= 1.0)
                .unwrap_or(1.0),
            top_k: self.whole(&own, "top_k", r.top_k, 0).unwrap_or(0),
        })
    }

    /// The server of `engine: http`; its keys are faults beside another engine.
    fn server(&mut self, own: &[String], r: &RolloutSection) -> Option<Box<ServerPlan>> {
        if r.engine != Some(EngineName::Http) {
            for (key, _) in server_keys(r).into_iter().filter(|(_, given)| *given) {
                let hint = "add engine: http, or remove it";
                self.fault(&join(own, key), format!("`{key}` is for rollouts from a server"), hint);
            }
            return None;
        }
        let whole = |v: Option<f64>| v.is_none_or(|v| v == 1.0);
        if !whole(r.temperature) || !whole(r.top_p) || r.top_k.is_some_and(|k| k != 0) {
            self.fault(
                &join(own, "engine"),
                "a server tells log-probabilities of the whole distribution at temperature 1 alone",
                "remove temperature, top_p and top_k, or use engine: native",
            );
        }
        let keys = ServiceKeys {
            url: r.url.as_deref(),
            timeout_secs: r.timeout_secs.or(Some(600.0)),
            retries: r.retries,
            headers: r.headers.as_ref(),
            api_key_env: r.api_key_env.as_deref(),
        };
        let protocol = match r.protocol {
            None | Some(ProtocolName::Sglang) => Protocol::Sglang,
            Some(ProtocolName::Openai) => Protocol::Openai,
        };
        let update = match (r.update, protocol) {
            (Some(UpdateName::Sglang), _) | (None, Protocol::Sglang) => UpdatePlan::Sglang,
            (Some(UpdateName::Folder), _) | (None, Protocol::Openai) => UpdatePlan::Folder,
            (Some(UpdateName::Reload), _) => UpdatePlan::Reload,
            (Some(UpdateName::None), _) => UpdatePlan::None,
        };
        let engine = HttpEngineConfig {
            service: self.service(own, &keys),
            protocol,
            model: r.model.clone(),
            batch_size: self.whole(own, "batch_size", r.batch_size, 1).unwrap_or(64),
        };
        Some(Box::new(ServerPlan { engine, update }))
    }
}

/// The keys of a server, and which of them are given.
fn server_keys(r: &RolloutSection) -> [(&'static str, bool); 9] {
    [
        ("url", r.url.is_some()),
        ("protocol", r.protocol.is_some()),
        ("model", r.model.is_some()),
        ("batch_size", r.batch_size.is_some()),
        ("update", r.update.is_some()),
        ("timeout_secs", r.timeout_secs.is_some()),
        ("retries", r.retries.is_some()),
        ("headers", r.headers.is_some()),
        ("api_key_env", r.api_key_env.is_some()),
    ]
}
