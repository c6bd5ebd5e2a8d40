//! How the server behaves, what a client cannot exceed, and where models come from.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::data::Tokenizer;
use crate::error::Result;
use crate::model::CausalLm;
use crate::native::Storage;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// The key that clients must send; `None` for none.
    pub api_key: Option<String>,
    /// Whether to listen beyond this machine without a key.
    pub insecure: bool,
    /// Origins whose pages may call; `*` for all.
    pub cors: Vec<String>,
    /// Sizes, counts and times that a request may not exceed.
    pub limits: Limits,
}

/// What a client cannot exceed. Each has a default ([`Limits::default`]) and most a flag of `minimind serve`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sequences decoded together, for each model.
    pub slots: usize,
    /// Generations that may wait for a slot, for each model.
    pub queue: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Tokens of a prompt and its answer together.
    pub context: usize,
    /// New tokens of an answer.
    pub new_tokens: usize,
    /// New tokens of a chat answer where the request names no number.
    pub default_new_tokens: usize,
    /// Choices of a prompt (`n`).
    pub choices: usize,
    /// Prompts or inputs of a request.
    pub prompts: usize,
    /// How many connections may be open at once.
    pub connections: usize,
    /// Time from a request to the end of its answer.
    pub request: Duration,
    /// Time for a request's headers.
    pub header: Duration,
    /// Time for a request's body.
    pub body: Duration,
    /// Time that a client may take no byte of its answer.
    pub write: Duration,
    /// Time that running requests have left when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots: 16,
            queue: 64,
            body_bytes: 4 << 20,
            context: 8192,
            new_tokens: 4096,
            default_new_tokens: 1024,
            choices: 16,
            prompts: 64,
            connections: 512,
            request: Duration::from_secs(600),
            header: Duration::from_secs(15),
            body: Duration::from_secs(30),
            write: Duration::from_secs(30),
            drain: Duration::from_secs(30),
        }
    }
}

/// Reads a model and its tokenizer.
pub type LoadModel = Box<dyn Fn() -> Result<LoadedModel> + Send + Sync>;

/// A model that was read.
#[derive(Debug)]
pub struct LoadedModel {
    /// The network with its weights.
    pub model: CausalLm,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tokens that end an answer.
    pub stop_ids: Vec<u32>,
    /// How its decoder stores the weights; `None` for as they are loaded.
    pub storage: Option<Storage>,
}

/// A model to serve.
pub struct ModelSource {
    /// The name that clients use.
    pub name: String,
    /// Where it comes from, for people.
    pub origin: String,
    /// The run's folder, if it is one: its report is shown.
    pub run: Option<PathBuf>,
    /// Loads the weights; called again for each reload.
    pub load: LoadModel,
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource")
            .field("name", &self.name)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
