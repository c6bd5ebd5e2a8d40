//! What handlers hold of a model: its tokenizer and limits, and the way to the thread that owns it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::engine_core::{EngineConfig, EngineCore};
use super::queue::QueuePermit;
use super::worker::{self, ActiveRequest, Command, EmbedRequest, WorkerExit, event_bytes, thread_ended};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::rollout::tools::ToolCallFormat;
use crate::rollout::{DecoderConfig, GenerateRequest, Grammars, TokenEvent};
use crate::serve::error::ApiError;
use crate::serve::metrics::Metrics;
use crate::serve::settings::LoadedModel;

/// The longest text of a special token; the tokenizer does not list them.
const MAX_SPECIAL_BYTES: usize = 64;

/// A model that is being served. Its thread ends when the last handle is dropped.
#[derive(Debug)]
pub struct ModelHandle {
    /// The tokenizer of its prompts and answers.
    pub tokenizer: Tokenizer,
    /// The tokens that end an answer.
    pub stop_ids: Vec<u32>,
    /// How it writes tool calls.
    pub call_format: Arc<ToolCallFormat>,
    /// The architecture of the model.
    pub config: ModelConfig,
    /// Where it came from, for people.
    pub origin: String,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
    /// Tokens of a prompt and its answer together.
    pub context: usize,
    /// Bytes of the longest token: a text of N bytes has at least N / `max_token_bytes` tokens.
    max_token_bytes: usize,
    /// Made when the first request needs one.
    grammars: OnceLock<Grammars>,
    commands: Sender<Command>,
    next_id: AtomicU64,
    in_flight: Arc<AtomicUsize>,
}

impl ModelHandle {
    /// Starts the model's thread. `on_death` runs where it ends while it is still wanted.
    ///
    /// # Errors
    /// Memory runs out for the packed weights or the cache, no thread.
    pub fn start(
        loaded: LoadedModel,
        origin: String,
        config: EngineConfig,
        metrics: Arc<Metrics>,
        on_death: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let LoadedModel { model, tokenizer, stop_ids, storage } = loaded;
        let model_config = model.config().clone();
        let context = (model_config.max_position_embeddings as usize).min(config.context);
        let decoder = DecoderConfig { storage, threads: None, positions: Some(context) };
        let longest = tokenizer.token_bytes().iter().flatten().map(Vec::len).max().unwrap_or(1);
        let (commands, received) = channel();
        let (ready, started) = channel();
        std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || {
                let engine = match EngineCore::new(&model, config, decoder) {
                    Ok(engine) => engine,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                drop(ready.send(Ok(())));
                // After any end of the thread, no caller waits for it.
                let exit = catch_unwind(AssertUnwindSafe(|| worker::run(engine, &received, metrics)));
                if !matches!(exit, Ok(WorkerExit::NotWanted)) {
                    on_death();
                }
            })
            .map_err(|e| Error::failed("cannot start the model's thread").because(e))?;
        started.recv().unwrap_or_else(|_| Err(thread_ended()))?;
        Ok(Self {
            call_format: Arc::new(ToolCallFormat::of(&tokenizer, &stop_ids)),
            tokenizer,
            stop_ids,
            config: model_config,
            origin,
            created: now_secs(),
            context,
            max_token_bytes: longest.max(MAX_SPECIAL_BYTES),
            grammars: OnceLock::new(),
            commands,
            next_id: AtomicU64::new(0),
            in_flight: Arc::default(),
        })
    }

    /// Grammars over the model's vocabulary.
    ///
    /// # Errors
    /// A vocabulary that grammars cannot be made over.
    pub fn grammars(&self) -> Result<&Grammars> {
        if let Some(grammars) = self.grammars.get() {
            return Ok(grammars);
        }
        let made = Grammars::new(&self.tokenizer.plain_token_bytes(), &self.stop_ids)?;
        Ok(self.grammars.get_or_init(|| made))
    }

    /// Checks that a text of so many bytes can fit at all, before it is tokenised.
    ///
    /// # Errors
    /// 400, naming the field `param`.
    pub fn check_text_bytes(&self, bytes: usize, param: &str) -> std::result::Result<(), ApiError> {
        let least = bytes / self.max_token_bytes;
        if least <= self.context {
            Ok(())
        } else {
            Err(ApiError::prompt_too_long_at_least(param, least, self.context))
        }
    }

    /// Checks that so many tokens fit.
    ///
    /// # Errors
    /// 400, naming the field `param`.
    pub fn check_tokens(&self, tokens: usize, param: &str) -> std::result::Result<(), ApiError> {
        if tokens <= self.context {
            Ok(())
        } else {
            Err(ApiError::prompt_too_long(param, tokens, self.context))
        }
    }

    /// New tokens that still fit behind a prompt, at least one.
    ///
    /// # Errors
    /// 400, naming the field `param`, where the prompt leaves no room.
    pub fn room_for_new_tokens(
        &self,
        prompt_tokens: usize,
        param: &str,
    ) -> std::result::Result<usize, ApiError> {
        match self.context.checked_sub(prompt_tokens) {
            Some(room @ 1..) => Ok(room),
            _ => Err(ApiError::prompt_too_long(param, prompt_tokens, self.context)),
        }
    }

    /// Takes `count` places among the `most` generations that may run or wait.
    ///
    /// # Errors
    /// The number of places in use, where there are not enough left.
    pub fn reserve(&self, count: usize, most: usize) -> std::result::Result<Vec<QueuePermit>, usize> {
        QueuePermit::acquire(&self.in_flight, count, most)
    }

    fn send(&self, command: Command) {
        // Its reader lives as long as this sender; a thread that died drops the event channels, which handlers see.
        let _ = self.commands.send(command);
    }

    /// Starts the generations of one HTTP request; their events come with their index in `requests`.
    pub fn generate(
        self: &Arc<Self>,
        requests: Vec<GenerateRequest>,
        permits: Vec<QueuePermit>,
    ) -> EventStream {
        let (to, events) = tokio::sync::mpsc::unbounded_channel();
        let first = self.next_id.fetch_add(requests.len() as u64, Ordering::SeqCst);
        let ids: Vec<u64> = (first..).take(requests.len()).collect();
        let unread = Arc::new(AtomicUsize::new(0));
        for (index, ((request, &id), permit)) in requests.into_iter().zip(&ids).zip(permits).enumerate() {
            let active =
                ActiveRequest { to: to.clone(), index, unread: Arc::clone(&unread), _permit: permit };
            self.send(Command::Generate { id, group: first, request, active });
        }
        EventStream { events, ids, unread, model: Arc::clone(self) }
    }

    /// The mean of the last hidden state over the tokens of each input: `[D]` each.
    ///
    /// # Errors
    /// A model that fails on an input, a thread that ended.
    pub async fn embed(&self, inputs: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>> {
        let (to, answer) = oneshot::channel();
        self.send(Command::Embed(EmbedRequest { inputs, vectors: Vec::new(), to }));
        answer.await.unwrap_or_else(|_| Err(thread_ended()))
    }
}

/// Seconds since the Unix epoch, for `created` of an answer.
pub fn now_secs() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The events of one HTTP request's generations. Dropping it cancels those that are not done.
#[derive(Debug)]
pub struct EventStream {
    events: UnboundedReceiver<(usize, TokenEvent)>,
    ids: Vec<u64>,
    unread: Arc<AtomicUsize>,
    model: Arc<ModelHandle>,
}

impl EventStream {
    /// The next event with its generation's index.
    pub async fn next(&mut self) -> (usize, TokenEvent) {
        let (index, event) =
            self.events.recv().await.unwrap_or_else(|| (0, TokenEvent::Failed(thread_ended())));
        // The end is not counted where it was sent without room.
        let bytes = event_bytes(&event);
        let _ = self
            .unread
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| Some(now.saturating_sub(bytes)));
        (index, event)
    }

    /// Ends one of the generations early.
    pub fn cancel(&self, index: usize) {
        self.model.send(Command::Cancel(self.ids[index]));
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        for &id in &self.ids {
            self.model.send(Command::Cancel(id));
        }
    }
}
