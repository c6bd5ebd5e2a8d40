//! Connections: taken, timed, and drained at the end.
//!
//! Headers must come in time, a client must go on reading, and there are never more connections than allowed, nor than
//! the system has files for; where places run short, idle ones are closed ([`super::seat`]). The first SIGTERM or
//! Ctrl-C lets what runs finish, and whoever comes meanwhile is told so ([`super::guard`]); the second ends at once,
//! whatever the other threads do. SIGHUP reads the models again.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use axum::Router;
use futures_util::future::Either;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

use super::routes;
use super::seat::{Seats, Socket};
use super::state::Shared;
use crate::error::{Error, Result};

/// Between the signal and the first connection that is closed: hyper would close one that was taken just before, and
/// whose request was not read yet, without an answer.
const SETTLE: Duration = Duration::from_millis(250);
/// Files that are kept for other things than connections: models that are read again, reports.
const FILES: usize = 16;
/// Connections that are taken however few files there are.
const FEWEST: usize = 4;
/// Between looks for an idle connection while somebody waits for a place.
const LOOK: Duration = Duration::from_millis(50);
/// Between two warnings of one kind.
const SELDOM: Duration = Duration::from_secs(10);

/// Serves until told to stop.
pub async fn serve(listener: StdListener, shared: Arc<Shared>) -> Result<()> {
    let failed = |e: std::io::Error| Error::failed("cannot listen").because(e);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let signals = Signals::install().map_err(failed)?;
    let mut door = Door::new(listener, shared.settings.limits.connections);
    tracing::info!("listening on http://{address}");
    // On this thread: no request can keep it from hearing a signal.
    tokio::select! {
        done = take_all(&mut door, &shared) => done,
        never = signals.heed(&shared) => match never {},
    }
}

async fn take_all(door: &mut Door, shared: &Arc<Shared>) -> Result<()> {
    let app = routes::router(Arc::clone(shared));
    let graceful = GracefulShutdown::new();
    let mut stop = shared.stop.subscribe();
    loop {
        tokio::select! {
            taken = door.take() => {
                if let Some((stream, place)) = taken {
                    connection(stream, place, &app, Some(&graceful), shared, &door.seats);
                }
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    // Balancers and clients that come now get an answer; none of them holds up the end.
    let limit = shared.settings.limits.drain;
    let drained = async {
        tokio::time::sleep(SETTLE).await;
        tokio::time::timeout(limit, graceful.shutdown()).await
    };
    tokio::pin!(drained);
    let ended = loop {
        tokio::select! {
            ended = &mut drained => break ended,
            taken = door.take() => {
                if let Some((stream, place)) = taken {
                    connection(stream, place, &app, None, shared, &door.seats);
                }
            }
        }
    };
    if ended.is_err() {
        tracing::warn!("some requests did not end within {} s", limit.as_secs());
    }
    Ok(())
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    seats: Arc<Seats>,
    /// One that was taken and has no place yet.
    waiting: Option<TcpStream>,
    refused: Seldom,
    shed: Seldom,
}

impl Door {
    fn new(listener: TcpListener, wanted: usize) -> Self {
        let places = most_connections(wanted);
        if places < wanted {
            tracing::warn!(
                "{places} connections at once, not {wanted}: the system lets this process open few files (ulimit -n)"
            );
        }
        Self {
            listener,
            places: Arc::new(Semaphore::new(places)),
            seats: Arc::default(),
            waiting: None,
            refused: Seldom::default(),
            shed: Seldom::default(),
        }
    }

    /// The next connection and its place; `None` where it was not taken.
    async fn take(&mut self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        if self.waiting.is_none() {
            match self.listener.accept().await {
                Ok((stream, _)) => self.waiting = Some(stream),
                Err(error) => {
                    // Out of files, most likely: give others time to end, and let an idle one end now.
                    self.refused.say(|times| tracing::warn!("connections were not taken ({times}): {error}"));
                    self.seats.shed();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    return None;
                }
            }
        }
        loop {
            let place = match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => place,
                Err(_) => {
                    if self.seats.shed() {
                        self.shed.say(|times| {
                            tracing::warn!("idle connections were closed to make room for others ({times})");
                        });
                    }
                    // A place comes free, or somebody was idle for long enough meanwhile.
                    match tokio::time::timeout(LOOK, Arc::clone(&self.places).acquire_owned()).await {
                        Ok(Ok(place)) => place,
                        _ => continue,
                    }
                }
            };
            return self.waiting.take().map(|stream| (stream, place));
        }
    }
}

/// What happens often and is said seldom.
#[derive(Debug, Default)]
struct Seldom {
    said: Option<Instant>,
    times: usize,
}

impl Seldom {
    /// Says it, with how often it happened since the last time, unless it was said just now.
    fn say(&mut self, say: impl FnOnce(usize)) {
        self.times += 1;
        if self.said.is_none_or(|at| at.elapsed() >= SELDOM) {
            self.said = Some(Instant::now());
            say(std::mem::take(&mut self.times));
        }
    }
}

/// Connections that there are files for, at most those `wanted`.
fn most_connections(wanted: usize) -> usize {
    let Some(files) = crate::native::most_open_files() else { return wanted };
    let open = std::fs::read_dir("/proc/self/fd").map_or(2 * FILES, Iterator::count);
    wanted.min(files.saturating_sub(open + FILES).max(FEWEST))
}

/// Serves a connection: as one whose requests are finished before the server ends (`graceful`), or for one answer.
fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    app: &Router,
    graceful: Option<&GracefulShutdown>,
    shared: &Arc<Shared>,
    seats: &Arc<Seats>,
) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let limits = &shared.settings.limits;
    let (socket, seat) = (Socket::new(stream), seats.sit());
    let mut timed = TimeoutStream::new(socket.clone());
    timed.set_write_timeout(Some(limits.write));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(64 << 10);
    // A client that closes its side may still read; `Socket::gone` finds those that do not.
    http.half_close(true);
    let (service, seated) = (TowerToHyperService::new(app.clone()), Arc::clone(&seat));
    let service = hyper::service::service_fn(move |mut request| {
        let seat = Arc::clone(&seated);
        seat.begins(&request);
        request.extensions_mut().insert(Arc::clone(&seat));
        let answer = service.call(request);
        async move { answer.await.map(|response| seat.answers(response)) }
    });
    http.keep_alive(graceful.is_some());
    let served = http.serve_connection(TokioIo::new(Box::pin(timed)), service);
    let served = match graceful {
        Some(graceful) => Either::Left(graceful.watch(served)),
        None => Either::Right(served),
    };
    let (metrics, seats) = (Arc::clone(&shared.metrics), Arc::clone(seats));
    metrics.connections.add(1);
    tokio::spawn(async move {
        tokio::select! {
            ended = served => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                }
            }
            () = seat.given_up() => tracing::debug!("an idle connection gave its place up"),
            () = socket.gone(&seat) => tracing::debug!("a client went away"),
        }
        seats.rise(&seat);
        metrics.connections.add(-1);
        drop(place);
    });
}

/// Signals as they come.
struct Signals {
    stop: [Signal; 2],
    reload: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            // In this order: the second one ends the process in its handler, however busy its threads are.
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&armed))?;
            flag::register(number, Arc::clone(&armed))?;
        }
        let listen = |number| signal(SignalKind::from_raw(number));
        Ok(Self { stop: [listen(SIGTERM)?, listen(SIGINT)?], reload: listen(SIGHUP)? })
    }

    async fn heed(self, shared: &Shared) -> std::convert::Infallible {
        let Self { stop: [mut term, mut int], mut reload } = self;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = reload.recv() => {
                    tracing::info!("reading the models again");
                    shared.reload_all();
                    continue;
                }
            }
            tracing::info!("stopping: what runs is finished; once more to stop at once");
            shared.begin_stop();
        }
    }
}
