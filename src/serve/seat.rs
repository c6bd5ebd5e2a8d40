//! The places of connections: who waits, who sends, who is answered; and clients that have gone away.
//!
//! Where places run short, whoever has been idle the longest gives its place up; a connection whose request is at
//! work never does. A client may close its own side and still wait for the answer (`nc -N`), which looks like one
//! that has gone away: what is sent to it tells the two apart. Next: [`super::listen`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response, Version};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// A connection keeps its place for so long, whoever waits: its request may be on the way.
const IDLE: Duration = Duration::from_millis(250);
/// The same for one that sends a body.
const SENDING: Duration = Duration::from_secs(5);
/// Between looks at a connection whose client has closed its side.
const LOOK: Duration = Duration::from_millis(100);
/// When such a client is sent something for the first time, and then again.
const FIRST_PROBE: Duration = Duration::from_secs(2);
const NEXT_PROBE: Duration = Duration::from_secs(10);
/// An answer before the answer, which every client must take and leave aside (RFC 9110, 15.2).
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// No request is here, or not all of its head.
    Idle,
    /// A request's body comes.
    Sending,
    /// The request is at work.
    Working,
    /// Its answer is on the way.
    Answering,
}

/// A connection's place.
#[derive(Debug)]
pub struct Seat {
    doing: Mutex<(Doing, Instant)>,
    begun: Notify,
    leave: Notify,
    /// Whether an answer before the answer would be understood.
    probes: AtomicBool,
}

impl Seat {
    fn new() -> Self {
        Self {
            doing: Mutex::new((Doing::Idle, Instant::now())),
            begun: Notify::new(),
            leave: Notify::new(),
            probes: AtomicBool::new(false),
        }
    }

    fn doing(&self) -> MutexGuard<'_, (Doing, Instant)> {
        self.doing.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn set(&self, doing: Doing) {
        *self.doing() = (doing, Instant::now());
        self.begun.notify_one();
    }

    /// A request's head has come.
    pub fn begins<B>(&self, request: &Request<B>) {
        self.probes.store(request.version() >= Version::HTTP_11, Ordering::SeqCst);
        self.set(Doing::Sending);
    }

    /// All of its body has come.
    pub fn works(&self) {
        self.set(Doing::Working);
    }

    /// Its answer begins; the place is in use until the answer's body is dropped.
    pub fn answers(self: &Arc<Self>, response: Response<Body>) -> Response<Body> {
        self.set(Doing::Answering);
        response.map(|body| Body::new(Answered { body, seat: Arc::clone(self) }))
    }

    /// Waits until the place must be given up.
    pub async fn given_up(&self) {
        self.leave.notified().await;
    }

    /// How long it has done nothing that keeps its place.
    fn spare(&self, now: Instant) -> Option<(Doing, Duration)> {
        let (doing, since) = *self.doing();
        let time = now.saturating_duration_since(since);
        let spare = match doing {
            Doing::Idle => time >= IDLE,
            Doing::Sending => time >= SENDING,
            Doing::Working | Doing::Answering => false,
        };
        spare.then_some((doing, time))
    }
}

/// All connections' places.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Vec<Arc<Seat>>>);

impl Seats {
    fn list(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes one.
    pub fn sit(&self) -> Arc<Seat> {
        let seat = Arc::new(Seat::new());
        self.list().push(Arc::clone(&seat));
        seat
    }

    /// Gives it back.
    pub fn rise(&self, seat: &Arc<Seat>) {
        self.list().retain(|other| !Arc::ptr_eq(other, seat));
    }

    /// Has whoever was idle the longest give its place up, else whoever sends a body for too long; whether there was
    /// one.
    pub fn shed(&self) -> bool {
        let now = Instant::now();
        let mut list = self.list();
        let spare = list.iter().enumerate().filter_map(|(i, seat)| Some((i, seat.spare(now)?)));
        let longest = spare.max_by_key(|(_, (doing, time))| (*doing == Doing::Idle, *time));
        let Some((index, _)) = longest else { return false };
        // It is asked once.
        list.swap_remove(index).leave.notify_one();
        true
    }
}

/// An answer's body, which keeps the connection's place.
struct Answered {
    body: Body,
    seat: Arc<Seat>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.seat.set(Doing::Idle);
    }
}

impl HttpBody for Answered {
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

/// A socket that can be looked at while it is used.
#[derive(Debug, Clone)]
pub struct Socket {
    stream: Arc<TcpStream>,
    /// Whether the server has begun to write something that is not out yet.
    unsent: Arc<AtomicBool>,
}

impl Socket {
    /// Wraps one.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), unsent: Arc::default() }
    }

    /// Waits until it is sure that the client of a request at work has gone away.
    pub async fn gone(&self, seat: &Seat) {
        loop {
            if !matches!(seat.doing().0, Doing::Working | Doing::Answering) {
                seat.begun.notified().await;
                continue;
            }
            match self.stream.peek(&mut [0]).await {
                Err(_) => return,
                // The next request is here already.
                Ok(1..) => tokio::time::sleep(LOOK).await,
                Ok(0) => return self.closed(seat).await,
            }
        }
    }

    /// The client has closed its side: waits until nothing reaches it any more.
    async fn closed(&self, seat: &Seat) {
        let mut probe = Instant::now() + FIRST_PROBE;
        loop {
            tokio::time::sleep(LOOK).await;
            if !matches!(self.stream.take_error(), Ok(None)) {
                return;
            }
            let can = seat.doing().0 == Doing::Working
                && seat.probes.load(Ordering::SeqCst)
                && !self.unsent.load(Ordering::SeqCst);
            if can && Instant::now() >= probe {
                probe = Instant::now() + NEXT_PROBE;
                // All of it or nothing: a part would spoil the answer.
                match self.stream.try_write(PROBE) {
                    Ok(sent) if sent < PROBE.len() => return,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.unsent.store(true, Ordering::SeqCst);
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match send(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when all that it has was written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unsent.store(false, Ordering::SeqCst);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Half of a socket cannot be shut behind a shared handle; dropping it closes both.
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_place_is_given_up_and_no_other() {
        let seats = Seats::default();
        let taken: Vec<Arc<Seat>> = (0..4).map(|_| seats.sit()).collect();
        let ago = |secs: u64| Instant::now() - Duration::from_secs(secs);
        for (seat, state) in taken.iter().zip([
            (Doing::Answering, ago(90)),
            (Doing::Idle, ago(2)),
            (Doing::Idle, ago(3)),
            (Doing::Sending, ago(60)),
        ]) {
            *seat.doing() = state;
        }
        let asked = |seat: &Arc<Seat>| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let given_up = async { tokio::time::timeout(Duration::ZERO, seat.given_up()).await };
            runtime.block_on(given_up).is_ok()
        };
        for next in [2, 1, 3] {
            assert!(seats.shed());
            let found: Vec<usize> = (0..4).filter(|&i| asked(&taken[i])).collect();
            assert_eq!(found, [next]);
        }
        assert!(!seats.shed(), "a request at work keeps its place");
        // One that has just come keeps it for a moment.
        seats.sit();
        assert!(!seats.shed());
        seats.rise(&taken[0]);
        assert_eq!(seats.list().len(), 1);
    }
}
