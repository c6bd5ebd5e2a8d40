//! Connections and routes: everything of the server that knows HTTP.
//!
//! [`server`] accepts [`connection`]s over [`socket`]s and drains them at the end; [`access`] decides who may call; [`body`]
//! reads what is sent; [`routes`] are the paths; [`page`] is the web page.

pub mod access;
pub mod body;
pub mod connection;
pub mod page;
pub mod routes;
pub mod server;
pub mod socket;
