//! Announces, and the tracker.

#[path = "../support/mod.rs"]
mod support;

mod http;
mod server;
mod udp;
