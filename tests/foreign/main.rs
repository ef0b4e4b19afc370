//! Beside other people's programs.

#[path = "../support/mod.rs"]
mod support;

mod create;
mod discovery;
mod encryption;
mod get;
mod harness;
mod holepunch;
mod leechers;
mod magnets;
mod mixed;
mod network;
mod port_map;
mod reach;
mod swarm;
mod tracker;
mod utp;
mod web_seeds;
