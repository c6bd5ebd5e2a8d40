//! The thread that owns a model: it takes orders, steps the engine, and hands out what was generated.
//!
//! Handlers hold a [`Live`] and get events through a channel of their own. A channel whose reader went away, or does
//! not read, is a cancelled request: its slot is free before the next step. When the last [`Live`] is dropped (the
//! model was swapped, the server ends), the thread finishes what it has and leaves. Where it has to leave before
//! that, it says so, and the model is read again.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc::UnboundedReceiver, mpsc::UnboundedSender, oneshot};

use super::engine::{Engine, Room};
use super::fault::Fault;
use super::metrics::Metrics;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelConfig};
use crate::rollout::tools::CallForm;
use crate::rollout::{DecoderConfig, GenerateRequest, Grammars, ScoredToken, TokenEvent};

/// A special token's text is at most so long; the tokenizer does not tell.
const SPECIAL_BYTES: usize = 64;

/// Memory of events that a request's reader may be behind; an answer of the usual length fits in several times.
const UNREAD_BYTES: usize = 4 << 20;

/// What a handler sends to the thread.
#[derive(Debug)]
enum Command {
    Generate { id: u64, group: u64, order: GenerateRequest, open: Open },
    Cancel(u64),
    Embed(Embedding),
}

/// A model at work.
#[derive(Debug)]
pub struct Live {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
    /// How it writes tool calls.
    pub calls: Arc<CallForm>,
    /// Its architecture.
    pub config: ModelConfig,
    /// Where it came from, for people.
    pub origin: String,
    /// Seconds since 1970 when it was loaded.
    pub created: u64,
    /// Tokens that it sees, prompt and answer together.
    pub context: usize,
    /// Bytes of the longest token: a text of N bytes has N / `longest` tokens at least.
    longest: usize,
    /// Made when the first request wants one.
    grammars: OnceLock<Grammars>,
    commands: Sender<Command>,
    next: AtomicU64,
    in_flight: Arc<AtomicUsize>,
}

impl Live {
    /// Starts the thread.
    pub fn start(
        model: CausalLm,
        (tokenizer, ends): (Tokenizer, Vec<u32>),
        origin: String,
        room: Room,
        decoder: DecoderConfig,
        metrics: Arc<Metrics>,
        died: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let config = model.config().clone();
        let context = decoder.positions.unwrap_or(config.max_position_embeddings as usize);
        let longest = tokenizer.token_bytes().iter().flatten().map(Vec::len).max().unwrap_or(1);
        let (commands, orders) = channel();
        let (ready, started) = channel();
        std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || {
                let engine = match Engine::new(&model, room, decoder) {
                    Ok(engine) => engine,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                drop(ready.send(Ok(())));
                // Whatever happens there, nobody goes on asking a thread that is gone.
                let ended = catch_unwind(AssertUnwindSafe(|| work(engine, &orders, metrics)));
                if !matches!(ended, Ok(Ended::NotWanted)) {
                    died();
                }
            })
            .map_err(|e| Error::failed("cannot start the model's thread").because(e))?;
        started.recv().unwrap_or_else(|_| Err(gone()))?;
        Ok(Self {
            calls: Arc::new(CallForm::of(&tokenizer, &ends)),
            tokenizer,
            ends,
            config,
            origin,
            created: super::now_secs(),
            context,
            longest: longest.max(SPECIAL_BYTES),
            grammars: OnceLock::new(),
            commands,
            next: AtomicU64::new(0),
            in_flight: Arc::default(),
        })
    }

    /// Grammars over the model's vocabulary.
    pub fn grammars(&self) -> Result<&Grammars> {
        if let Some(grammars) = self.grammars.get() {
            return Ok(grammars);
        }
        let made = Grammars::new(&self.tokenizer.token_bytes(), &self.ends)?;
        Ok(self.grammars.get_or_init(|| made))
    }

    /// Refuses a text that cannot fit, before anything is made of it.
    pub fn fits(&self, bytes: usize, param: &str) -> std::result::Result<(), Fault> {
        let least = bytes / self.longest;
        if least <= self.context { Ok(()) } else { Err(Fault::too_long(param, least, true, self.context)) }
    }

    /// The same of tokens.
    pub fn fits_tokens(&self, tokens: usize, param: &str) -> std::result::Result<(), Fault> {
        if tokens <= self.context { Ok(()) } else { Err(Fault::too_long(param, tokens, false, self.context)) }
    }

    /// Generations at work or waiting.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Takes `count` places among `most`, or says how many are taken.
    pub fn reserve(&self, count: usize, most: usize) -> std::result::Result<Vec<Place>, usize> {
        let take = |now: usize| (now + count <= most).then_some(now + count);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)?;
        Ok((0..count).map(|_| Place(Arc::clone(&self.in_flight))).collect())
    }

    fn send(&self, command: Command) {
        // Its reader lives as long as this sender; a thread that died drops the event channels, which handlers see.
        let _ = self.commands.send(command);
    }

    /// Asks for generations; their events come tagged with their number in `orders`.
    pub fn generate(self: &Arc<Self>, orders: Vec<GenerateRequest>, places: Vec<Place>) -> Running {
        let (to, events) = tokio::sync::mpsc::unbounded_channel();
        let first = self.next.fetch_add(orders.len() as u64, Ordering::SeqCst);
        let ids: Vec<u64> = (first..).take(orders.len()).collect();
        let unread = Arc::new(AtomicUsize::new(0));
        for (tag, ((order, &id), place)) in orders.into_iter().zip(&ids).zip(places).enumerate() {
            let open = Open { to: to.clone(), tag, unread: Arc::clone(&unread), _place: place };
            self.send(Command::Generate { id, group: first, order, open });
        }
        Running { events, ids, unread, live: Arc::clone(self) }
    }

    /// The mean of the last hidden state over the tokens of each input.
    pub async fn embed(&self, inputs: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>> {
        let (to, answer) = oneshot::channel();
        self.send(Command::Embed(Embedding { inputs, made: Vec::new(), to }));
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    Error::failed("the model's thread ended; it is started again")
}

fn behind_too_far() -> Error {
    Error::input("the answer was not read as fast as it was made, and was ended")
}

/// A place in the queue, given back when it is dropped: when its generation is done, read or not.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Generations that were asked for; dropping it cancels those that are not done.
#[derive(Debug)]
pub struct Running {
    events: UnboundedReceiver<(usize, TokenEvent)>,
    ids: Vec<u64>,
    unread: Arc<AtomicUsize>,
    live: Arc<Live>,
}

impl Running {
    /// The next event: the order's place and the event.
    pub async fn next(&mut self) -> (usize, TokenEvent) {
        let (tag, event) = self.events.recv().await.unwrap_or_else(|| (0, TokenEvent::Failed(gone())));
        // The end is not counted where it was sent without room.
        let bytes = bytes_of(&event);
        let _ = self
            .unread
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| Some(now.saturating_sub(bytes)));
        (tag, event)
    }

    /// Ends one of them early.
    pub fn cancel(&self, tag: usize) {
        self.live.send(Command::Cancel(self.ids[tag]));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for &id in &self.ids {
            self.live.send(Command::Cancel(id));
        }
    }
}

/// A generation that is not done: where its events go.
#[derive(Debug)]
struct Open {
    to: UnboundedSender<(usize, TokenEvent)>,
    tag: usize,
    /// Bytes of its request's events that were not read yet.
    unread: Arc<AtomicUsize>,
    _place: Place,
}

impl Open {
    /// Whether it was heard.
    fn say(&self, event: TokenEvent) -> bool {
        self.unread.fetch_add(bytes_of(&event), Ordering::SeqCst);
        self.to.send((self.tag, event)).is_ok()
    }

    /// Whether its reader is too far behind.
    fn is_behind(&self) -> bool {
        self.unread.load(Ordering::SeqCst) > UNREAD_BYTES
    }
}

/// What an event takes of memory, roughly.
fn bytes_of(event: &TokenEvent) -> usize {
    let of = |token: &ScoredToken| 64 + 8 * token.logprobs.as_ref().map_or(0, |l| l.top.len());
    match event {
        TokenEvent::Prompt(list) => list.iter().map(of).sum(),
        TokenEvent::Token(token) => of(token),
        TokenEvent::Done(_) | TokenEvent::Failed(_) => 64,
    }
}

/// Inputs whose embeddings are being made, one between two steps.
#[derive(Debug)]
struct Embedding {
    inputs: Vec<Vec<u32>>,
    made: Vec<Vec<f32>>,
    to: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

/// The thread's state.
struct Worker<'m> {
    engine: Engine<'m>,
    open: HashMap<u64, Open>,
    embeddings: VecDeque<Embedding>,
    metrics: Arc<Metrics>,
    /// What this thread has added to the gauges.
    shown: (i64, i64),
}

/// Why the thread left.
enum Ended {
    /// The last [`Live`] was dropped.
    NotWanted,
    /// It could not begin anew after a fault.
    Broken,
}

fn work(engine: Engine<'_>, commands: &Receiver<Command>, metrics: Arc<Metrics>) -> Ended {
    let mut worker =
        Worker { engine, open: HashMap::new(), embeddings: VecDeque::new(), metrics, shown: (0, 0) };
    loop {
        // Without work, wait for some; with work, take what has come and go on.
        if worker.engine.is_idle() && worker.embeddings.is_empty() {
            worker.show();
            match commands.recv() {
                Ok(command) => worker.take(command),
                Err(_) => return Ended::NotWanted,
            }
        }
        while let Ok(command) = commands.try_recv() {
            worker.take(command);
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
            && !worker.begin_anew(&error)
        {
            // Requests from now on are told that the thread has ended, until the model was read again.
            worker.show();
            return Ended::Broken;
        }
        worker.show();
    }
}

impl Worker<'_> {
    fn take(&mut self, command: Command) {
        match command {
            Command::Generate { id, group, order, open } => match self.engine.submit(id, group, order) {
                Ok(()) => {
                    self.open.insert(id, open);
                }
                Err(error) => {
                    open.say(TokenEvent::Failed(error));
                }
            },
            Command::Cancel(id) => self.cancel(id),
            Command::Embed(embedding) => self.embeddings.push_back(embedding),
        }
    }

    /// Makes one embedding: many inputs must not hold the answers up.
    fn embed_one(&mut self) {
        let Some(mut work) = self.embeddings.pop_front().filter(|work| !work.to.is_closed()) else { return };
        let made = match work.inputs.get(work.made.len()) {
            None => Ok(None),
            Some(ids) => catch_unwind(AssertUnwindSafe(|| self.engine.embed(ids)))
                .unwrap_or_else(|_| Err(Error::failed("the model failed on an input")))
                .map(Some),
        };
        match made {
            Ok(Some(vector)) => {
                work.made.push(vector);
                self.embeddings.push_back(work);
            }
            // Whoever asked may have gone away meanwhile.
            Ok(None) => drop(work.to.send(Ok(work.made))),
            Err(error) => drop(work.to.send(Err(error))),
        }
    }

    fn cancel(&mut self, id: u64) {
        if self.open.remove(&id).is_some() {
            self.engine.cancel(id);
            self.metrics.cancelled.add(1);
        }
    }

    fn deliver(&mut self, events: Vec<(u64, TokenEvent)>) {
        for (id, event) in events {
            let Some(open) = self.open.get(&id) else { continue };
            if matches!(event, TokenEvent::Token(_)) {
                self.metrics.generated_tokens.add(1);
            }
            let last = matches!(event, TokenEvent::Done(_) | TokenEvent::Failed(_));
            let behind = !last && open.is_behind();
            let heard = open.say(if behind { TokenEvent::Failed(behind_too_far()) } else { event });
            if last {
                self.open.remove(&id);
            } else if !heard || behind {
                self.cancel(id);
            }
        }
    }

    /// Fails what is in flight and starts over; whether that worked.
    fn begin_anew(&mut self, error: &Error) -> bool {
        tracing::error!("{error}");
        for (_, open) in self.open.drain() {
            self.metrics.failed.add(1);
            open.say(TokenEvent::Failed(error.clone()));
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
    fn show(&mut self) {
        let running = self.engine.running() as i64;
        let now = (running, self.open.len() as i64 - running);
        self.metrics.running.add(now.0 - self.shown.0);
        self.metrics.waiting.add(now.1 - self.shown.1);
        self.shown = now;
    }
}
