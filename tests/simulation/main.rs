//! Scenarios on a virtual clock, each over several seeds. A failure prints its seed: `SWARMFS_SEED=n` runs that one only,
//! `SWARMFS_SEEDS=n` runs n times as many seeds.

mod cache;
mod choker;
mod churn;
mod common;
mod connections;
mod distribution;
mod faults;
mod interleavings;
mod liars;
mod memory;
mod reads;
mod requests;
mod superseed;
mod uploads;
