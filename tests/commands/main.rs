//! The commands as a user calls them, but for mounts.

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod create;
mod free_riders;
mod get;
mod seed;
mod urls;
mod verify;
