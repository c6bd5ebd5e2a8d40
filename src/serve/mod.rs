//! A model over HTTP: OpenAI's interface, and a page to talk to it.
//!
//! Three folders. [`http`]: connections, who may call, bodies, routes, the page. [`api`]: what a request asks and how an
//! answer looks in JSON. [`engine`]: the thread that owns a model, and the text of what it generates. All of them use
//! [`error`], [`settings`], [`metrics`], and above the engine [`state`].
//! A request goes through `http::server`, `http::access`, `http::routes`, `api::chat` or `api::completions`,
//! `engine::handle`, `engine::worker`, and back through `engine::output`, `api::reply` and `api::stream`.
//! Models come from closures that the command line makes; this room knows no flag and no environment.

pub mod api;
pub mod body;
pub mod engine;
pub mod error;
pub mod http;
pub mod metrics;
pub mod settings;
pub mod state;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::error::{Error, Result};
pub use settings::{Limits, LoadModel, LoadedModel, ModelSource, Settings};
use state::AppState;

/// Serves the models of `sources` until a signal ends it; the first is the default.
///
/// # Errors
/// The address is not safe or not free, or a model cannot be read at the start.
pub fn run(settings: Settings, sources: Vec<ModelSource>) -> Result<()> {
    if !settings.host.is_loopback() && settings.api_key.is_none() && !settings.insecure {
        return Err(Error::input(format!(
            "{} can be reached from other machines, and there is no key",
            settings.host
        ))
        .hint("give --api-key KEY, listen on 127.0.0.1, or say --insecure"));
    }
    let address = (settings.host, settings.port);
    let listener = TcpListener::bind(address).map_err(|e| {
        Error::input(format!("cannot listen on {}:{}", settings.host, settings.port))
            .because(e)
            .hint("choose another --port; 0 takes one that is free")
    })?;
    let (reloads, reload_requests) = channel();
    let state = Arc::new(AppState::new(settings, &sources, reloads));
    let loader = Arc::clone(&state);
    std::thread::Builder::new()
        .name("loader".to_owned())
        .spawn(move || loader.run_loader(&sources, &reload_requests))
        .map_err(|e| Error::failed("cannot start a thread").because(e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .map_err(|e| Error::failed("cannot start the server's threads").because(e))?;
    let served = runtime.block_on(http::server::serve(listener, Arc::clone(&state)));
    // What still blocks (a load) is left behind.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match state.take_fatal() {
        Some(error) => Err(error),
        None => served,
    }
}
