//! The disk store of `swarmfs mount`: what it keeps, what bounds it, and what a crash, a bad disk or a stranger may do.

#[path = "../support/mod.rs"]
mod support;

mod bad_disks;
mod budget;
mod common;
mod data;
mod restarts;
mod through;
mod tools;
