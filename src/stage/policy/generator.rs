//! What continues the prompts of a step: the built-in generator, or a server that is given the policy first.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::Result;
use crate::export::huggingface::{FolderContents, SpecialIds, write_model};
use crate::export::huggingface_tokenizer;
use crate::model::CausalLm;
use crate::plan::{ServerPlan, UpdatePlan};
use crate::rollout::http::HttpEngine;
use crate::rollout::{Completion, CompletionConfig, generate_completions};

/// Where completions come from.
pub enum Generator {
    /// The built-in generator.
    Native,
    /// A server.
    Server(Box<Server>),
}

/// A server with the folder that it reads the policy from.
pub struct Server {
    engine: HttpEngine,
    update: UpdatePlan,
    folder: PathBuf,
    tokenizer: Option<PathBuf>,
    ids: Option<SpecialIds>,
    ends: Vec<u32>,
}

/// Generates completions for one step.
#[derive(Clone, Copy)]
pub enum Completer<'a> {
    /// The policy itself.
    Native(&'a CausalLm),
    /// A server with the weights it has.
    Server(&'a HttpEngine),
}

impl Generator {
    /// A server as planned; `<folder>/policy` is where it finds the weights,
    /// `ends` are the marks that the folder names.
    pub fn server(plan: &ServerPlan, folder: &Path, tokenizer: Option<&Path>, ends: &[u32]) -> Self {
        Self::Server(Box::new(Server {
            engine: HttpEngine::new(&plan.engine),
            update: plan.update,
            folder: folder.join("policy"),
            tokenizer: tokenizer.map(Path::to_owned),
            ids: None,
            ends: ends.to_vec(),
        }))
    }

    /// Hands the policy over; whether the next completions are certain to be sampled from it.
    ///
    /// # Errors
    /// The folder cannot be written, or the server does not take it.
    pub fn refresh(&mut self, policy: &CausalLm) -> Result<bool> {
        let Self::Server(server) = self else { return Ok(true) };
        if server.update == UpdatePlan::None {
            return Ok(false);
        }
        let ids = match (server.ids.take(), &server.tokenizer) {
            (Some(ids), _) => ids,
            (None, None) => SpecialIds::default(),
            (None, Some(from)) => {
                huggingface_tokenizer::write(from, &server.folder, policy.config().max_position_embeddings)?
            }
        };
        let ids = server.ids.insert(SpecialIds { ends: server.ends.clone(), ..ids });
        let metadata = json!({});
        let kind = tch::Kind::Float;
        let contents = FolderContents { kind, ids, max_shard_bytes: u64::MAX, metadata: &metadata };
        write_model(policy, &contents, &server.folder)?;
        match server.update {
            UpdatePlan::Sglang => server.engine.update_weights(&server.folder)?,
            UpdatePlan::Reload => server.engine.reload()?,
            UpdatePlan::Folder | UpdatePlan::None => return Ok(false),
        }
        Ok(true)
    }

    /// What generates the completions of a step.
    pub fn completer<'a>(&'a self, policy: &'a CausalLm) -> Completer<'a> {
        match self {
            Self::Native => Completer::Native(policy),
            Self::Server(server) => Completer::Server(&server.engine),
        }
    }
}

impl Completer<'_> {
    /// `per` answers to each prompt, a prompt's side by side.
    ///
    /// # Errors
    /// As [`generate_completions`] and [`HttpEngine::generate_completions`].
    pub fn generate_completions(
        self,
        prompts: &[Vec<u32>],
        per: usize,
        config: &CompletionConfig,
    ) -> Result<Vec<Completion>> {
        match self {
            Self::Native(policy) => generate_completions(policy, prompts, per, config),
            Self::Server(engine) => engine.generate_completions(prompts, per, config),
        }
    }
}
