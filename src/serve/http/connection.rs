//! What each connection is doing, so that an idle one can be closed where there are too many.
//!
//! Where connections run short, the one that has been idle the longest is closed; one whose request is at work never
//! is. Next: [`super::server`], [`super::socket`].

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response, Version};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// A connection is not closed before it was idle for so long: its request may be on the way.
const MIN_IDLE: Duration = Duration::from_millis(250);
/// The same for one that sends a body.
const MIN_RECEIVING: Duration = Duration::from_secs(5);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request is here, or not all of its head.
    Idle,
    /// A request's body is coming.
    Receiving,
    /// The request is at work.
    Working,
    /// Its answer is being sent.
    Answering,
}

/// One connection's state.
#[derive(Debug)]
pub struct ConnectionState {
    phase: Mutex<(Phase, Instant)>,
    /// Notified when the phase changes.
    changed: Notify,
    /// Notified when the connection must be closed.
    evicted: Notify,
    /// Whether its client understands `100 Continue` (HTTP/1.1).
    takes_continue: AtomicBool,
}

impl ConnectionState {
    fn new() -> Self {
        Self {
            phase: Mutex::new((Phase::Idle, Instant::now())),
            changed: Notify::new(),
            evicted: Notify::new(),
            takes_continue: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Phase, Instant)> {
        self.phase.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn set(&self, phase: Phase) {
        *self.lock() = (phase, Instant::now());
        self.changed.notify_one();
    }

    /// What it is doing now.
    pub(super) fn phase(&self) -> Phase {
        self.lock().0
    }

    /// Waits until the phase changes.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether its client understands `100 Continue` before the answer.
    pub(super) fn takes_continue(&self) -> bool {
        self.takes_continue.load(Ordering::SeqCst)
    }

    /// A request's head has come.
    pub fn request_begins<B>(&self, request: &Request<B>) {
        self.takes_continue.store(request.version() >= Version::HTTP_11, Ordering::SeqCst);
        self.set(Phase::Receiving);
    }

    /// All of the request's body has come.
    pub fn body_received(&self) {
        self.set(Phase::Working);
    }

    /// The answer begins; the connection is in use until the answer's body is dropped.
    pub fn answer_begins(self: &Arc<Self>, response: Response<Body>) -> Response<Body> {
        self.set(Phase::Answering);
        response.map(|body| Body::new(TrackedBody { body, connection: Arc::clone(self) }))
    }

    /// Waits until the connection must be closed to make room.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// What it is doing and for how long, where it may be closed.
    fn idle_time(&self, now: Instant) -> Option<(Phase, Duration)> {
        let (phase, since) = *self.lock();
        let time = now.saturating_duration_since(since);
        let is_idle = match phase {
            Phase::Idle => time >= MIN_IDLE,
            Phase::Receiving => time >= MIN_RECEIVING,
            Phase::Working | Phase::Answering => false,
        };
        is_idle.then_some((phase, time))
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub struct ConnectionTable(Mutex<Vec<Arc<ConnectionState>>>);

impl ConnectionTable {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<ConnectionState>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds a connection to the list, and returns its state.
    pub fn register(&self) -> Arc<ConnectionState> {
        let connection = Arc::new(ConnectionState::new());
        self.list().push(Arc::clone(&connection));
        connection
    }

    /// Takes a connection off.
    pub fn remove(&self, connection: &Arc<ConnectionState>) {
        self.list().retain(|other| !Arc::ptr_eq(other, connection));
    }

    /// Closes the connection that was idle the longest, else the one that has been sending a body the longest; whether
    /// there was one.
    pub fn evict_idle(&self) -> bool {
        let now = Instant::now();
        let mut list = self.list();
        let idle =
            list.iter().enumerate().filter_map(|(i, connection)| Some((i, connection.idle_time(now)?)));
        let longest = idle.max_by_key(|(_, (phase, time))| (*phase == Phase::Idle, *time));
        let Some((index, _)) = longest else { return false };
        // It is notified once.
        list.swap_remove(index).evicted.notify_one();
        true
    }
}

/// An answer's body: when it is dropped, the connection is idle.
struct TrackedBody {
    body: Body,
    connection: Arc<ConnectionState>,
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.connection.set(Phase::Idle);
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_connection_is_closed_and_no_other() {
        let table = ConnectionTable::default();
        let taken: Vec<Arc<ConnectionState>> = (0..4).map(|_| table.register()).collect();
        let ago = |secs: u64| Instant::now() - Duration::from_secs(secs);
        for (connection, state) in taken.iter().zip([
            (Phase::Answering, ago(90)),
            (Phase::Idle, ago(2)),
            (Phase::Idle, ago(3)),
            (Phase::Receiving, ago(60)),
        ]) {
            *connection.lock() = state;
        }
        let asked = |connection: &Arc<ConnectionState>| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let evicted = async { tokio::time::timeout(Duration::ZERO, connection.evicted()).await };
            runtime.block_on(evicted).is_ok()
        };
        for next in [2, 1, 3] {
            assert!(table.evict_idle());
            let found: Vec<usize> = (0..4).filter(|&i| asked(&taken[i])).collect();
            assert_eq!(found, [next]);
        }
        assert!(!table.evict_idle(), "a request at work keeps its connection");
        // One that has just come keeps it for a moment.
        table.register();
        assert!(!table.evict_idle());
        table.remove(&taken[0]);
        assert_eq!(table.list().len(), 1);
    }
}
