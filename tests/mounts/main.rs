//! `swarmfs mount` beside scripted peers: what it reads, and what it makes of those that are bad, slow or gone.

#[path = "../support/mod.rs"]
mod support;

mod churn;
mod dead_swarm;
mod discovery;
mod hostile_peers;
mod magnets;
mod ordinary_user;
mod reads;
