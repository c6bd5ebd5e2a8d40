//! Connections: taken, timed, and drained at the end.
//!
//! Headers must come in time, a client must go on reading, and there are never more connections than allowed.
//! The first SIGTERM or Ctrl-C lets what runs finish, and whoever comes meanwhile is told so ([`super::guard`]); the
//! second ends at once. SIGHUP reads the models again.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::Either;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

use super::routes;
use super::state::Shared;
use crate::error::{Error, Result};

/// Between the signal and the first connection that is closed: hyper would close one that was taken just before, and
/// whose request was not read yet, without an answer.
const SETTLE: Duration = Duration::from_millis(250);

/// Serves until told to stop.
pub async fn serve(listener: StdListener, shared: Arc<Shared>) -> Result<()> {
    let failed = |e: std::io::Error| Error::failed("cannot listen").because(e);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!("listening on http://{address}");
    signals(Arc::clone(&shared)).map_err(failed)?;

    let app = routes::router(Arc::clone(&shared));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(shared.settings.limits.connections));
    let mut stop = shared.stop.subscribe();
    loop {
        tokio::select! {
            taken = take(&listener, &places) => {
                if let Some((stream, place)) = taken {
                    connection(stream, place, &app, Some(&graceful), &shared);
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
            taken = take(&listener, &places) => {
                if let Some((stream, place)) = taken {
                    connection(stream, place, &app, None, &shared);
                }
            }
        }
    };
    if ended.is_err() {
        tracing::warn!("some requests did not end within {} s", limit.as_secs());
    }
    Ok(())
}

/// The next connection and its place; `None` where it was not taken.
async fn take(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // A place first: what cannot be served waits in the system's queue.
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore stays open");
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            // Out of files, most likely: give others time to end.
            tracing::warn!("a connection was not taken: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Serves a connection: as one whose requests are finished before the server ends (`graceful`), or for one answer.
fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    app: &Router,
    graceful: Option<&GracefulShutdown>,
    shared: &Arc<Shared>,
) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let limits = &shared.settings.limits;
    let mut timed = TimeoutStream::new(stream);
    timed.set_write_timeout(Some(limits.write));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(64 << 10);
    let service = TowerToHyperService::new(app.clone());
    http.keep_alive(graceful.is_some());
    let served = http.serve_connection(TokioIo::new(Box::pin(timed)), service);
    let served = match graceful {
        Some(graceful) => Either::Left(graceful.watch(served)),
        None => Either::Right(served),
    };
    let metrics = Arc::clone(&shared.metrics);
    metrics.connections.add(1);
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::debug!("a connection ended: {error}");
        }
        metrics.connections.add(-1);
        drop(place);
    });
}

fn signals(shared: Arc<Shared>) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = term.recv() => 15,
                _ = int.recv() => 2,
                _ = hup.recv() => {
                    tracing::info!("reading the models again");
                    shared.reload_all();
                    continue;
                }
            };
            if shared.is_stopping() {
                std::process::exit(128 + number);
            }
            tracing::info!("stopping: what runs is finished; once more to stop at once");
            shared.begin_stop();
        }
    });
    Ok(())
}
