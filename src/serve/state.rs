//! What all handlers share: settings, models by name, metrics, and the way to the loader.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::{oneshot, watch};

use super::body::BodyBudget;
use super::engine::engine_core::EngineConfig;
use super::engine::handle::ModelHandle;
use super::engine::queue::QueuePermit;
use super::error::ApiError;
use super::metrics::Metrics;
use super::settings::{ModelSource, Settings};
use crate::error::{Error, Result};
use crate::rollout::tools::Tools;

/// A model by name, loaded or not yet.
#[derive(Debug)]
pub struct ModelEntry {
    /// The name under which clients ask for it (`model` of a request).
    pub name: String,
    /// The run's folder it came from, if it did.
    pub run: Option<PathBuf>,
    handle: RwLock<Option<Arc<ModelHandle>>>,
}

impl ModelEntry {
    /// The model, once it is loaded.
    pub fn handle(&self) -> Option<Arc<ModelHandle>> {
        self.handle.read().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// Asks the loader to read models again: one by name, or all.
#[derive(Debug)]
pub struct Reload {
    name: Option<String>,
    reply: Option<oneshot::Sender<Result<Vec<String>>>>,
    /// Whether the model's thread has died: without it the server stops.
    is_required: bool,
}

/// What all handlers share.
#[derive(Debug)]
pub struct AppState {
    /// What the command line set: limits, keys, origins.
    pub settings: Settings,
    /// The models, in the order given; the first is the default.
    pub models: Vec<ModelEntry>,
    /// The built-in tools.
    pub tools: Tools,
    /// The counters and gauges of `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The memory for all bodies together.
    pub body_budget: BodyBudget,
    /// Becomes true when the server shall stop.
    pub stop: watch::Sender<bool>,
    stopping: AtomicBool,
    fatal: Mutex<Option<Error>>,
    reloads: Sender<Reload>,
}

impl AppState {
    /// The state at the start, with no model loaded.
    pub fn new(settings: Settings, sources: &[ModelSource], reloads: Sender<Reload>) -> Self {
        let entry = |source: &ModelSource| ModelEntry {
            name: source.name.clone(),
            run: source.run.clone(),
            handle: RwLock::new(None),
        };
        Self {
            body_budget: BodyBudget::new(settings.limits.body_bytes),
            settings,
            models: sources.iter().map(entry).collect(),
            tools: Tools::built_in(),
            metrics: Arc::default(),
            stop: watch::Sender::new(false),
            stopping: AtomicBool::new(false),
            fatal: Mutex::new(None),
            reloads,
        }
    }

    /// The model that a request names, with its name; the first where it names none.
    ///
    /// # Errors
    /// 404 for a name that is not served, 503 while the model is loading.
    pub fn model(&self, name: Option<&str>) -> Result<(String, Arc<ModelHandle>), ApiError> {
        let entry = match name {
            None => &self.models[0],
            Some(name) => self.models.iter().find(|m| m.name == name).ok_or_else(|| {
                let known: Vec<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
                let start: String = name.chars().take(80).collect();
                ApiError::not_found(format!("there is no model `{start}`; there is {}", known.join(", ")))
                    .code("model_not_found")
            })?,
        };
        let handle = entry
            .handle()
            .ok_or_else(|| ApiError::unavailable(format!("`{}` is still loading", entry.name)))?;
        Ok((entry.name.clone(), handle))
    }

    /// Places in the queue for `count` generations.
    ///
    /// # Errors
    /// 429 where the queue is full, 503 while the server stops, 400 for more than could ever be taken.
    pub fn reserve(&self, model: &ModelHandle, count: usize) -> Result<Vec<QueuePermit>, ApiError> {
        if self.is_stopping() {
            return Err(ApiError::stopping());
        }
        let limits = &self.settings.limits;
        let most = limits.slots + limits.queue;
        if count > most {
            // It would be refused for ever.
            return Err(ApiError::bad_request(format!(
                "{count} answers are asked for at once; this server takes {most}"
            )));
        }
        model.reserve(count, most).map_err(|taken| {
            self.metrics.rejected.inc();
            ApiError::queue_full(taken)
        })
    }

    /// Whether the server is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Begins the stop: what runs is finished, nothing new is taken.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop.send_replace(true);
    }

    /// Why the server had to end, if it had to.
    pub fn take_fatal(&self) -> Option<Error> {
        self.fatal.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// Asks for all models to be read again, without waiting.
    pub fn reload_all(&self) {
        self.send(Reload { name: None, reply: None, is_required: false });
    }

    /// Has models read again: one by name, or all. Returns their names once they serve.
    ///
    /// # Errors
    /// A model that cannot be read; the one before it keeps serving.
    pub async fn reload(&self, name: Option<String>) -> Result<Vec<String>> {
        let (reply, answer) = oneshot::channel();
        self.send(Reload { name, reply: Some(reply), is_required: false });
        answer.await.unwrap_or_else(|_| Err(Error::failed("the loader ended")))
    }

    fn send(&self, reload: Reload) {
        let _ = self.reloads.send(reload);
    }

    /// Reads a model and puts it in the place of the one before it.
    fn load(&self, index: usize, source: &ModelSource) -> Result<()> {
        // A fault inside libtorch unwinds, and must not end the loader.
        let loaded = catch_unwind(AssertUnwindSafe(|| (source.load)()));
        let failed = |_| Err(Error::failed(format!("reading the model `{}` failed", source.name)));
        let loaded = loaded.unwrap_or_else(failed)?;
        let limits = &self.settings.limits;
        let config = EngineConfig {
            context: limits.context,
            slots: limits.slots,
            new_tokens: limits.new_tokens,
            default_new_tokens: limits.default_new_tokens,
        };
        let (reloads, name) = (self.reloads.clone(), source.name.clone());
        let on_death = move || {
            tracing::error!("the thread of model `{name}` ended; the model is read again");
            let _ = reloads.send(Reload { name: Some(name), reply: None, is_required: true });
        };
        let origin = source.origin.clone();
        let handle = ModelHandle::start(loaded, origin, config, Arc::clone(&self.metrics), on_death)?;
        // Requests that hold the old one are finished by it; it leaves when the last of them is done.
        *self.models[index].handle.write().unwrap_or_else(|e| e.into_inner()) = Some(Arc::new(handle));
        self.metrics.loads.inc();
        tracing::info!("model `{}` is ready: {}", source.name, source.origin);
        Ok(())
    }

    /// The loader's thread: reads every model once, then again when asked. One at a time.
    pub fn run_loader(&self, sources: &[ModelSource], reloads: &Receiver<Reload>) {
        let done = catch_unwind(AssertUnwindSafe(|| self.load_all(sources, reloads)));
        if let Err(error) = done.unwrap_or_else(|_| Err(Error::failed("the loader's thread ended"))) {
            // A server without its loader stops.
            *self.fatal.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
            self.begin_stop();
        }
    }

    fn load_all(&self, sources: &[ModelSource], reloads: &Receiver<Reload>) -> Result<()> {
        for (index, source) in sources.iter().enumerate() {
            self.load(index, source)?;
        }
        while let Ok(Reload { name, reply, is_required }) = reloads.recv() {
            let mut loaded = Ok(Vec::new());
            for (index, source) in sources.iter().enumerate() {
                if name.as_ref().is_none_or(|n| *n == source.name) {
                    match self.load(index, source) {
                        Ok(()) => {
                            loaded.iter_mut().for_each(|l: &mut Vec<String>| l.push(source.name.clone()))
                        }
                        Err(error) if is_required => return Err(error),
                        Err(error) => {
                            // The model loaded before keeps serving.
                            tracing::error!("model `{}` was not swapped\n{error}", source.name);
                            loaded = Err(error);
                            break;
                        }
                    }
                }
            }
            if let Some(reply) = reply {
                let _ = reply.send(loaded);
            }
        }
        Ok(())
    }
}
