//! A deterministic swarm: a virtual clock, links, and nodes that run the real Node and Swarm.
#![forbid(unsafe_code)]
