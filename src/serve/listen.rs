//! Connections: taken, timed, and drained at the end.
//!
//! Headers must come in time, a client must go on reading, and there are never more connections than allowed.
//! The first SIGTERM or Ctrl-C lets what runs finish, the second ends at once; SIGHUP reads the models again.

use std::net::TcpListener as StdListener;
use std::sync::Arc;

use axum::Router;
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
        // A place first: what cannot be served waits in the system's queue.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore stays open"),
            _ = stop.wait_for(|stop| *stop) => break,
        };
        tokio::select! {
            taken = listener.accept() => match taken {
                Ok((stream, _)) => connection(stream, place, &app, &graceful, &shared),
                Err(error) => {
                    // Out of files, most likely: give others time to end.
                    tracing::warn!("a connection was not taken: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    let limit = shared.settings.limits.drain;
    if tokio::time::timeout(limit, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end within {} s", limit.as_secs());
    }
    Ok(())
}

fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    app: &Router,
    graceful: &GracefulShutdown,
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
    let watched = graceful.watch(http.serve_connection(TokioIo::new(Box::pin(timed)), service));
    let metrics = Arc::clone(&shared.metrics);
    metrics.connections.add(1);
    tokio::spawn(async move {
        if let Err(error) = watched.await {
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
