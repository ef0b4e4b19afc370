//! The shell: tasks and sockets around the pure rooms. A [`Session`] holds the torrents; each torrent has one
//! `Mutex<Swarm>`, entered by whoever has news (peer tasks, FUSE threads, the timer) through one door that locks, lets
//! the swarm decide, unlocks, and only then carries out its effects. No code holds two locks, and none waits, replies or
//! does IO under one.

mod assembly;
mod awaited;
mod chunks;
mod connect;
mod content;
mod copy;
mod dial;
pub mod discovery;
mod due;
mod find;
mod handshake;
mod hashes;
mod http;
mod introduce;
mod keeper;
mod links;
mod listen;
mod metadata;
mod mounted;
mod network;
mod outbox;
mod peer;
mod reach;
mod reads;
mod sending;
mod serve;
mod session;
mod shared;
mod sources;
mod stream;
mod torrent;
mod untold;
mod utp;
mod webseed;

pub use chunks::Chunk;
pub use content::{Backing, Bytes, Content, Reply};
pub use find::Finding;
pub use http::{FetchError, fetch};
pub use network::Network;
pub use session::{AddOptions, LocalCopy, Session};
