//! A model over HTTP: OpenAI's interface, and a page to talk to it.
//!
//! A request's way: [`guard`] (who may), [`body`] and [`fields`] (what is asked), [`messages`] and [`ask`],
//! [`worker`] (the thread that owns the model) over [`queue`] and [`engine`], [`answer`] and [`assemble`] (tokens to text),
//! [`split`] (thinking, tool calls), [`reply`] or [`completions`] (JSON), [`stream`] (server-sent events).
//! Models come from closures that the command line makes; this room knows no flag and no environment.

pub mod answer;
pub mod ask;
pub mod assemble;
pub mod body;
pub mod chat;
pub mod completions;
pub mod demand;
pub mod engine;
pub mod fault;
pub mod fields;
pub mod format;
pub mod guard;
pub mod listen;
pub mod messages;
pub mod metrics;
pub mod page;
pub mod prompt;
pub mod queue;
pub mod reply;
pub mod routes;
pub mod seat;
pub mod split;
pub mod state;
pub mod stream;
pub mod tools;
pub mod worker;

use std::fmt;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::native::Storage;
use state::Shared;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// What clients must show; `None` for nothing.
    pub api_key: Option<String>,
    /// Whether clients without a key are taken from everywhere.
    pub insecure: bool,
    /// Pages of other origins that may call; `*` for all.
    pub cors: Vec<String>,
    /// The limits.
    pub limits: Limits,
}

/// What a client cannot exceed.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Generations decoded together, for each model.
    pub slots: usize,
    /// Generations that may wait, for each model.
    pub queue: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Tokens of a prompt and its answer together.
    pub context: usize,
    /// New tokens of an answer.
    pub new_tokens: usize,
    /// New tokens of a chat answer that names no number.
    pub default_new_tokens: usize,
    /// Answers to a prompt.
    pub choices: usize,
    /// Prompts or inputs of a request.
    pub prompts: usize,
    /// Open connections.
    pub connections: usize,
    /// From a request to the end of its answer.
    pub request: Duration,
    /// For a request's headers.
    pub header: Duration,
    /// For a request's body.
    pub body: Duration,
    /// Without a byte taken by the client.
    pub write: Duration,
    /// For what runs when the server is told to stop.
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
pub type Load = Box<dyn Fn() -> Result<Loaded> + Send + Sync>;

/// A model that was read.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub model: CausalLm,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
    /// How its decoder stores the weights, where it is not as they are loaded.
    pub storage: Option<Storage>,
}

/// A model to serve.
pub struct Source {
    /// The name that clients use.
    pub name: String,
    /// Where it comes from, for people.
    pub origin: String,
    /// The run's folder, if it is one: its report is shown.
    pub run: Option<PathBuf>,
    /// Reads it.
    pub load: Load,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// The address is not safe or not free, or a model cannot be read at the start.
pub fn run(settings: Settings, sources: Vec<Source>) -> Result<()> {
    if !settings.host.is_loopback() && settings.api_key.is_none() && !settings.insecure {
        return Err(Error::input(format!(
            "{} can be reached from other machines, and there is no key",
            settings.host
        ))
        .hint("give --api-key KEY, listen on 127.0.0.1, or say --insecure"));
    }
    let address = (settings.host, settings.port);
    let listener = TcpListener::bind(address).map_err(|e| {
        Error::input(format!("cannot listen on {}:{}", settings.host, settings.port))
            .because(e)
            .hint("choose another --port; 0 takes one that is free")
    })?;
    let (reloads, asked) = channel();
    let shared = Arc::new(Shared::new(settings, &sources, reloads));
    let loader = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("loader".to_owned())
        .spawn(move || loader.run_loader(&sources, &asked))
        .map_err(|e| Error::failed("cannot start a thread").because(e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .map_err(|e| Error::failed("cannot start the server's threads").because(e))?;
    let served = runtime.block_on(listen::serve(listener, Arc::clone(&shared)));
    // What still blocks (a load) is left behind.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match shared.take_fatal() {
        Some(error) => Err(error),
        None => served,
    }
}

/// Seconds since 1970.
fn now_secs() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
