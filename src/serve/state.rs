//! What all handlers share: settings, models by name, counters, and the way to the loader.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::{oneshot, watch};

use super::ask::AskLimits;
use super::body::Bodies;
use super::engine::Room;
use super::fault::Fault;
use super::metrics::Metrics;
use super::worker::{Live, Place};
use super::{Loaded, Settings, Source};
use crate::error::{Error, Result};
use crate::rollout::DecoderConfig;
use crate::rollout::tools::Tools;

/// A model by name.
#[derive(Debug)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The run's folder it came from, if it did.
    pub run: Option<PathBuf>,
    live: RwLock<Option<Arc<Live>>>,
}

impl Slot {
    /// The model, once it is loaded.
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// Asks for models to be read again: one by name, or all.
#[derive(Debug)]
pub struct Reload {
    name: Option<String>,
    to: Option<oneshot::Sender<Result<Vec<String>>>>,
    /// Whether its thread has died: without it the server cannot go on.
    must: bool,
}

/// What all handlers share.
#[derive(Debug)]
pub struct Shared {
    /// The settings.
    pub settings: Settings,
    /// The models, in the order given; the first is the default.
    pub slots: Vec<Slot>,
    /// The built-in tools.
    pub tools: Tools,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The room for all bodies together.
    pub bodies: Bodies,
    /// Becomes true when the server shall end.
    pub stop: watch::Sender<bool>,
    stopping: AtomicBool,
    fatal: Mutex<Option<Error>>,
    reloads: Sender<Reload>,
}

impl Shared {
    /// The state at the start, with no model loaded.
    pub fn new(settings: Settings, sources: &[Source], reloads: Sender<Reload>) -> Self {
        let slot = |s: &Source| Slot { name: s.name.clone(), run: s.run.clone(), live: RwLock::new(None) };
        Self {
            bodies: Bodies::new(settings.limits.body_bytes),
            settings,
            slots: sources.iter().map(slot).collect(),
            tools: Tools::built_in(),
            metrics: Arc::default(),
            stop: watch::Sender::new(false),
            stopping: AtomicBool::new(false),
            fatal: Mutex::new(None),
            reloads,
        }
    }

    /// The model that a request names; the first where it names none.
    pub fn model(&self, name: Option<&str>) -> Result<(String, Arc<Live>), Fault> {
        let slot = match name {
            None => &self.slots[0],
            Some(name) => self.slots.iter().find(|s| s.name == name).ok_or_else(|| {
                let known: Vec<&str> = self.slots.iter().map(|s| s.name.as_str()).collect();
                let shown: String = name.chars().take(80).collect();
                Fault::not_found(format!("there is no model `{shown}`; there is {}", known.join(", ")))
                    .code("model_not_found")
            })?,
        };
        let live =
            slot.live().ok_or_else(|| Fault::unavailable(format!("`{}` is still loading", slot.name)))?;
        Ok((slot.name.clone(), live))
    }

    /// The limits for a model's settings.
    pub fn ask_limits(&self, live: &Live, zero_tokens: bool) -> AskLimits {
        AskLimits {
            choices: self.settings.limits.choices,
            new_tokens: self.settings.limits.new_tokens,
            vocab_size: live.config.vocab_size as usize,
            zero_tokens,
        }
    }

    /// Tokens that a model sees, prompt and answer together.
    pub fn context(&self, live: &Live) -> usize {
        live.context
    }

    /// New tokens that still fit behind a prompt; a prompt that leaves no room is refused.
    pub fn room(&self, live: &Live, prompt_tokens: usize, param: &str) -> Result<usize, Fault> {
        let context = self.context(live);
        match context.checked_sub(prompt_tokens) {
            Some(room @ 1..) => Ok(room),
            _ => Err(Fault::too_long(param, prompt_tokens, false, context)),
        }
    }

    /// Places for `count` generations, or 429.
    pub fn reserve(&self, live: &Live, count: usize) -> Result<Vec<Place>, Fault> {
        if self.is_stopping() {
            return Err(Fault::stopping());
        }
        let limits = &self.settings.limits;
        let most = limits.slots + limits.queue;
        if count > most {
            // It would be refused for ever.
            return Err(Fault::bad(format!(
                "{count} answers are asked for at once; this server takes {most}"
            )));
        }
        live.reserve(count, most).map_err(|busy| {
            self.metrics.rejected.add(1);
            Fault::busy(busy)
        })
    }

    /// Whether the server is on its way out.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Begins the end: what runs is finished, nothing new is taken.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop.send_replace(true);
    }

    /// Why the server had to end, if it had to.
    pub fn take_fatal(&self) -> Option<Error> {
        self.fatal.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// Asks for models to be read again, without waiting.
    pub fn reload_all(&self) {
        self.send(Reload { name: None, to: None, must: false });
    }

    /// Has models read again; their names when they serve.
    pub async fn reload(&self, name: Option<String>) -> Result<Vec<String>> {
        let (to, answer) = oneshot::channel();
        self.send(Reload { name, to: Some(to), must: false });
        answer.await.unwrap_or_else(|_| Err(Error::failed("the loader ended")))
    }

    fn send(&self, reload: Reload) {
        let _ = self.reloads.send(reload);
    }

    fn load(&self, index: usize, source: &Source) -> Result<()> {
        // A fault inside libtorch unwinds, and must not end the loader.
        let loaded = catch_unwind(AssertUnwindSafe(|| (source.load)()));
        let failed = |_| Err(Error::failed(format!("reading the model `{}` failed", source.name)));
        let Loaded { model, tokenizer, ends, storage } = loaded.unwrap_or_else(failed)?;
        let limits = &self.settings.limits;
        let positions = (model.config().max_position_embeddings as usize).min(limits.context);
        let origin = source.origin.clone();
        let decoder = DecoderConfig { storage, threads: None, positions: Some(positions) };
        let room = Room {
            slots: limits.slots,
            new_tokens: limits.new_tokens,
            default_new_tokens: limits.default_new_tokens,
        };
        let (reloads, name) = (self.reloads.clone(), source.name.clone());
        let died = move || {
            tracing::error!("the thread of model `{name}` ended; the model is read again");
            let _ = reloads.send(Reload { name: Some(name), to: None, must: true });
        };
        let text = (tokenizer, ends);
        let live = Live::start(model, text, origin, room, decoder, Arc::clone(&self.metrics), died)?;
        // Requests that hold the old one are finished by it; it leaves when the last of them is done.
        *self.slots[index].live.write().unwrap_or_else(|e| e.into_inner()) = Some(Arc::new(live));
        self.metrics.loads.add(1);
        tracing::info!("model `{}` is ready: {}", source.name, source.origin);
        Ok(())
    }

    /// The loader's thread: reads every model once, then again when asked. One at a time.
    pub fn run_loader(&self, sources: &[Source], reloads: &Receiver<Reload>) {
        let done = catch_unwind(AssertUnwindSafe(|| self.load_all(sources, reloads)));
        if let Err(error) = done.unwrap_or_else(|_| Err(Error::failed("the loader's thread ended"))) {
            // Half a server is none.
            *self.fatal.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
            self.begin_stop();
        }
    }

    fn load_all(&self, sources: &[Source], reloads: &Receiver<Reload>) -> Result<()> {
        for (index, source) in sources.iter().enumerate() {
            self.load(index, source)?;
        }
        while let Ok(Reload { name, to, must }) = reloads.recv() {
            let mut loaded = Ok(Vec::new());
            for (index, source) in sources.iter().enumerate() {
                if name.as_ref().is_none_or(|n| *n == source.name) {
                    match self.load(index, source) {
                        Ok(()) => {
                            loaded.iter_mut().for_each(|l: &mut Vec<String>| l.push(source.name.clone()))
                        }
                        Err(error) if must => return Err(error),
                        Err(error) => {
                            // What served before goes on serving.
                            tracing::error!("model `{}` was not swapped\n{error}", source.name);
                            loaded = Err(error);
                            break;
                        }
                    }
                }
            }
            if let Some(to) = to {
                let _ = to.send(loaded);
            }
        }
        Ok(())
    }
}
