//! A deterministic swarm: a virtual clock, links, and nodes that run the real Node and Swarm.
//!
//! [`World`] is one value. Its clock jumps from event to event, in order of time and then of cause, so a run replays
//! from its seed. Each node is driven exactly as the engine drives it: an input, then every effect, then what its peers'
//! sockets have room for. No payload moves: a block is its coordinates and, if a liar sent it, the liar's name. What the
//! rules forbid (a block kept twice or asked for twice too soon, a read answered twice, an honest peer banned) is collected in
//! [`World::violations`].
#![forbid(unsafe_code)]

mod drive;
mod ledger;
mod link;
mod loss;
mod net;
mod node;
mod pieces;
mod queue;
mod reader;
mod reads;
mod tracker;
mod world;

pub use link::Link;
pub use loss::Loss;
pub use node::{Behaviour, Figures, NodeSpec};
pub use reader::{Pattern, ReaderSpec};
pub use world::{NodeIndex, World};
