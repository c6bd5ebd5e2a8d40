//! The thread that owns a model: takes commands, steps the engine, and sends events to the requests they belong to.
//!
//! A request whose reader went away, or does not read, is cancelled: its slot is free before the next step. When the
//! last [`super::handle::ModelHandle`] is dropped (the model was swapped, the server ends), the thread finishes what it
//! has and leaves. Where it has to leave before that, the model is loaded again.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::engine_core::EngineCore;
use super::queue::QueuePermit;
use crate::error::{Error, Result};
use crate::rollout::{GenerateRequest, ScoredToken, TokenEvent};
use crate::serve::metrics::Metrics;

/// Memory of events that a request's reader may be behind; an answer of the usual length fits in several times.
const MAX_UNREAD_BYTES: usize = 4 << 20;

/// What a handle sends to the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Starts a generation under an id; `group` is the id of its HTTP request's first.
    Generate {
        id: u64,
        group: u64,
        request: GenerateRequest,
        active: ActiveRequest,
    },
    Cancel(u64),
    Embed(EmbedRequest),
}

/// A generation that is not done: where its events go.
#[derive(Debug)]
pub(super) struct ActiveRequest {
    pub to: UnboundedSender<(usize, TokenEvent)>,
    /// Its index among the generations of its HTTP request.
    pub index: usize,
    /// Bytes of its HTTP request's events that were not read yet.
    pub unread: Arc<AtomicUsize>,
    pub _permit: QueuePermit,
}

impl ActiveRequest {
    /// Sends an event; `false` where its reader has gone away.
    fn send(&self, event: TokenEvent) -> bool {
        self.unread.fetch_add(event_bytes(&event), Ordering::SeqCst);
        self.to.send((self.index, event)).is_ok()
    }

    /// Whether its reader is too far behind.
    fn is_behind(&self) -> bool {
        self.unread.load(Ordering::SeqCst) > MAX_UNREAD_BYTES
    }
}

/// What an event takes of memory, roughly.
pub(super) fn event_bytes(event: &TokenEvent) -> usize {
    let of = |token: &ScoredToken| 64 + 8 * token.logprobs.as_ref().map_or(0, |l| l.top.len());
    match event {
        TokenEvent::Prompt(tokens) => tokens.iter().map(of).sum(),
        TokenEvent::Token(token) => of(token),
        TokenEvent::Done(_) | TokenEvent::Failed(_) => 64,
    }
}

/// Inputs to embed, one between two steps.
#[derive(Debug)]
pub(super) struct EmbedRequest {
    pub inputs: Vec<Vec<u32>>,
    pub vectors: Vec<Vec<f32>>,
    pub to: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

/// The thread's state.
struct Worker<'m> {
    engine: EngineCore<'m>,
    active: HashMap<u64, ActiveRequest>,
    embeddings: VecDeque<EmbedRequest>,
    metrics: Arc<Metrics>,
    /// What this thread has added to the gauges: running and waiting generations.
    reported: (i64, i64),
}

/// Why the thread left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WorkerExit {
    /// The last handle was dropped.
    NotWanted,
    /// It could not begin anew after a fault.
    Broken,
}

/// Runs the thread until all handles are gone, or a failure ends it.
pub(super) fn run(engine: EngineCore<'_>, commands: &Receiver<Command>, metrics: Arc<Metrics>) -> WorkerExit {
    let mut worker =
        Worker { engine, active: HashMap::new(), embeddings: VecDeque::new(), metrics, reported: (0, 0) };
    loop {
        // Without work, wait for some; with work, take what has come and continue.
        if worker.engine.is_idle() && worker.embeddings.is_empty() {
            worker.report_gauges();
            match commands.recv() {
                Ok(command) => worker.execute(command),
                Err(_) => return WorkerExit::NotWanted,
            }
        }
        while let Ok(command) = commands.try_recv() {
            worker.execute(command);
        }
        worker.embed_one();
        if worker.engine.is_idle() {
            continue;
        }
        // A fault inside libtorch unwinds; it must end the requests, not the server.
        let fault = match catch_unwind(AssertUnwindSafe(|| worker.engine.step())) {
            Ok(Ok(events)) => {
                worker.deliver(events);
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => Some(Error::failed("the model failed in a step")),
        };
        if let Some(error) = fault
            && !worker.restart(&error)
        {
            // Requests from now on fail with `thread_ended`, until the model was loaded again.
            worker.report_gauges();
            return WorkerExit::Broken;
        }
        worker.report_gauges();
    }
}

impl Worker<'_> {
    fn execute(&mut self, command: Command) {
        match command {
            Command::Generate { id, group, request, active } => {
                match self.engine.submit(id, group, request) {
                    Ok(()) => drop(self.active.insert(id, active)),
                    Err(error) => drop(active.send(TokenEvent::Failed(error))),
                }
            }
            Command::Cancel(id) => self.cancel(id),
            Command::Embed(request) => self.embeddings.push_back(request),
        }
    }

    /// Embeds one input: many inputs must not hold the answers up.
    fn embed_one(&mut self) {
        let Some(mut request) = self.embeddings.pop_front().filter(|request| !request.to.is_closed()) else {
            return;
        };
        let vector = match request.inputs.get(request.vectors.len()) {
            None => Ok(None),
            Some(ids) => catch_unwind(AssertUnwindSafe(|| self.engine.embed(ids)))
                .unwrap_or_else(|_| Err(Error::failed("the model failed on an input")))
                .map(Some),
        };
        match vector {
            Ok(Some(vector)) => {
                request.vectors.push(vector);
                self.embeddings.push_back(request);
            }
            // Whoever asked may have gone away meanwhile.
            Ok(None) => drop(request.to.send(Ok(request.vectors))),
            Err(error) => drop(request.to.send(Err(error))),
        }
    }

    fn cancel(&mut self, id: u64) {
        if self.active.remove(&id).is_some() {
            self.engine.cancel(id);
            self.metrics.cancelled.inc();
        }
    }

    fn deliver(&mut self, events: Vec<(u64, TokenEvent)>) {
        for (id, event) in events {
            let Some(active) = self.active.get(&id) else { continue };
            if matches!(event, TokenEvent::Token(_)) {
                self.metrics.generated_tokens.inc();
            }
            let is_last = matches!(event, TokenEvent::Done(_) | TokenEvent::Failed(_));
            let is_behind = !is_last && active.is_behind();
            let is_read = active.send(if is_behind { TokenEvent::Failed(too_far_behind()) } else { event });
            if is_last {
                self.active.remove(&id);
            } else if !is_read || is_behind {
                self.cancel(id);
            }
        }
    }

    /// Fails what is in flight and starts over; whether that worked.
    fn restart(&mut self, error: &Error) -> bool {
        tracing::error!("{error}");
        for (_, active) in self.active.drain() {
            self.metrics.failed.inc();
            active.send(TokenEvent::Failed(error.clone()));
        }
        match self.engine.reset() {
            Ok(()) => true,
            Err(again) => {
                tracing::error!("{again}");
                false
            }
        }
    }

    /// Several models share the gauges: each thread adds its changes.
    fn report_gauges(&mut self) {
        let running = self.engine.running() as i64;
        let now = (running, self.active.len() as i64 - running);
        self.metrics.running.add(now.0 - self.reported.0);
        self.metrics.waiting.add(now.1 - self.reported.1);
        self.reported = now;
    }
}

/// Why a request fails whose thread has ended.
pub(super) fn thread_ended() -> Error {
    Error::failed("the model's thread ended; it is started again")
}

fn too_far_behind() -> Error {
    Error::input("the answer was not read as fast as it was made, and was ended")
}
