//! Beside other people's programs.

#[path = "../support/mod.rs"]
mod support;

mod create;
mod encryption;
mod get;
mod harness;
mod leechers;
mod swarm;
mod tracker;
mod web_seeds;
