//! Accepts connections, limits their time, and drains them at the end.
//!
//! Headers must come in time, a client must go on reading, and there are never more connections than allowed, nor than
//! the system has files for; where they run short, idle ones are closed ([`super::connection`]). The first SIGTERM or
//! Ctrl-C lets what runs finish, and requests that come meanwhile get 503 ([`super::access`]); the second ends at once,
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

use super::connection::ConnectionTable;
use super::routes;
use super::socket::WatchedSocket;
use crate::error::{Error, Result};
use crate::serve::state::AppState;

/// Between the signal and the first connection that is closed: hyper would close one that was taken just before, and
/// whose request was not read yet, without an answer.
const SETTLE_TIME: Duration = Duration::from_millis(250);
/// Open files that are kept for other things than connections: models that are read again, reports.
const RESERVED_FILES: usize = 16;
/// Connections that are accepted however few files there are.
const MIN_CONNECTIONS: usize = 4;
/// Between two looks for an idle connection while a new one waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Between two warnings of one kind.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts and serves connections until the server stops, and then finishes what runs.
///
/// # Errors
/// A listener or signal handlers that the system refuses.
pub async fn serve(listener: StdListener, state: Arc<AppState>) -> Result<()> {
    let failed = |e: std::io::Error| Error::failed("cannot listen").because(e);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let signals = Signals::install().map_err(failed)?;
    let mut acceptor = Acceptor::new(listener, state.settings.limits.connections);
    tracing::info!("listening on http://{address}");
    // On this thread: no request can keep it from seeing a signal.
    tokio::select! {
        done = accept_all(&mut acceptor, &state) => done,
        never = signals.handle(&state) => match never {},
    }
}

async fn accept_all(acceptor: &mut Acceptor, state: &Arc<AppState>) -> Result<()> {
    let app = routes::router(Arc::clone(state));
    let graceful = GracefulShutdown::new();
    let mut stop = state.stop.subscribe();
    loop {
        tokio::select! {
            accepted = acceptor.accept() => {
                if let Some(accepted) = accepted {
                    serve_connection(accepted, &app, Some(&graceful), state, &acceptor.table);
                }
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    // Load balancers and clients that come now get an answer; none of them holds up the end.
    let limit = state.settings.limits.drain;
    let drained = async {
        tokio::time::sleep(SETTLE_TIME).await;
        tokio::time::timeout(limit, graceful.shutdown()).await
    };
    tokio::pin!(drained);
    let ended = loop {
        tokio::select! {
            ended = &mut drained => break ended,
            accepted = acceptor.accept() => {
                if let Some(accepted) = accepted {
                    serve_connection(accepted, &app, None, state, &acceptor.table);
                }
            }
        }
    };
    if ended.is_err() {
        tracing::warn!("some requests did not end within {} s", limit.as_secs());
    }
    Ok(())
}

/// Accepts connections, within the number allowed.
struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    table: Arc<ConnectionTable>,
    /// One that was accepted and has no permit yet.
    waiting: Option<TcpStream>,
    not_accepted: LogThrottle,
    evicted: LogThrottle,
}

/// A connection, and its place among those allowed.
struct Accepted {
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
}

impl Acceptor {
    fn new(listener: TcpListener, wanted: usize) -> Self {
        let most = most_connections(wanted);
        if most < wanted {
            tracing::warn!(
                "{most} connections at once, not {wanted}: the system lets this process open few files (ulimit -n)"
            );
        }
        Self {
            listener,
            permits: Arc::new(Semaphore::new(most)),
            table: Arc::default(),
            waiting: None,
            not_accepted: LogThrottle::default(),
            evicted: LogThrottle::default(),
        }
    }

    /// The next connection; `None` where the system did not give it.
    async fn accept(&mut self) -> Option<Accepted> {
        if self.waiting.is_none() {
            match self.listener.accept().await {
                Ok((stream, _)) => self.waiting = Some(stream),
                Err(error) => {
                    // Out of files, most likely: give others time to end, and let an idle one end now.
                    self.not_accepted
                        .log(|times| tracing::warn!("connections were not taken ({times}): {error}"));
                    self.table.evict_idle();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    return None;
                }
            }
        }
        loop {
            let permit = match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    if self.table.evict_idle() {
                        self.evicted.log(|times| {
                            tracing::warn!("idle connections were closed to make room for others ({times})");
                        });
                    }
                    // One ends, or one was idle for long enough meanwhile.
                    match tokio::time::timeout(POLL_INTERVAL, Arc::clone(&self.permits).acquire_owned()).await
                    {
                        Ok(Ok(permit)) => permit,
                        _ => continue,
                    }
                }
            };
            return self.waiting.take().map(|stream| Accepted { stream, permit });
        }
    }
}

/// Logs what happens often at most once in a while.
#[derive(Debug, Default)]
struct LogThrottle {
    logged: Option<Instant>,
    times: usize,
}

impl LogThrottle {
    /// Calls `log` with how often it happened since the last time, unless that was just now.
    fn log(&mut self, log: impl FnOnce(usize)) {
        self.times += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            log(std::mem::take(&mut self.times));
        }
    }
}

/// Connections that there are files for, at most those `wanted`.
fn most_connections(wanted: usize) -> usize {
    let Some(files) = crate::native::most_open_files() else { return wanted };
    let open = std::fs::read_dir("/proc/self/fd").map_or(2 * RESERVED_FILES, Iterator::count);
    wanted.min(files.saturating_sub(open + RESERVED_FILES).max(MIN_CONNECTIONS))
}

/// Serves a connection: as one whose requests are finished before the server ends (`graceful`), or for one answer.
fn serve_connection(
    Accepted { stream, permit }: Accepted,
    app: &Router,
    graceful: Option<&GracefulShutdown>,
    state: &Arc<AppState>,
    table: &Arc<ConnectionTable>,
) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let limits = &state.settings.limits;
    let (socket, connection) = (WatchedSocket::new(stream), table.register());
    let mut timed = TimeoutStream::new(socket.clone());
    timed.set_write_timeout(Some(limits.write));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(64 << 10);
    // A client that closes its side may still read; `WatchedSocket::client_gone` finds those that do not.
    http.half_close(true);
    let (service, tracked) = (TowerToHyperService::new(app.clone()), Arc::clone(&connection));
    let service = hyper::service::service_fn(move |mut request| {
        let connection = Arc::clone(&tracked);
        connection.request_begins(&request);
        request.extensions_mut().insert(Arc::clone(&connection));
        let answer = service.call(request);
        async move { answer.await.map(|response| connection.answer_begins(response)) }
    });
    http.keep_alive(graceful.is_some());
    let served = http.serve_connection(TokioIo::new(Box::pin(timed)), service);
    let served = match graceful {
        Some(graceful) => Either::Left(graceful.watch(served)),
        None => Either::Right(served),
    };
    let (metrics, table) = (Arc::clone(&state.metrics), Arc::clone(table));
    metrics.connections.inc();
    tokio::spawn(async move {
        tokio::select! {
            ended = served => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                }
            }
            () = connection.evicted() => tracing::debug!("an idle connection was closed to make room"),
            () = socket.client_gone(&connection) => tracing::debug!("a client went away"),
        }
        table.remove(&connection);
        metrics.connections.dec();
        drop(permit);
    });
}

/// The signals that stop the server or have it read its models again.
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

    async fn handle(self, state: &AppState) -> std::convert::Infallible {
        let Self { stop: [mut term, mut int], mut reload } = self;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = reload.recv() => {
                    tracing::info!("reading the models again");
                    state.reload_all();
                    continue;
                }
            }
            tracing::info!("stopping: what runs is finished; once more to stop at once");
            state.begin_stop();
        }
    }
}
