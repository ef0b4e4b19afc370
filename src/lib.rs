//! swarmfs mounts torrents as read-only directories and streams their bytes from the swarm while programs read them.
//!
//! # The map
//! Two halves and one seam: the pure half decides, the shell does. [`swarm::Input`] and [`swarm::Effect`] are the seam;
//! whoever has read them has read the architecture.
//!
//! | room | half | what it is |
//! |---|---|---|
//! | [`config`], [`error`] | | every knob once; one error variant per cause |
//! | [`metainfo`] | pure | .torrent files, magnet links, [`metainfo::Geometry`] (file, torrent, piece, block), [`metainfo::TorrentId`] |
//! | [`wire`] | pure | peer messages, handshakes, encryption, extensions, what trackers and web servers reply |
//! | [`swarm`] | pure | what one torrent decides: demand, picker, peers, integrity, and how it gets its metadata |
//! | [`node`] | pure | what the process decides over all torrents: upload slots, connections, dials, rates, memory |
//! | [`sim`] | pure | a deterministic swarm on a virtual clock that runs the real Node and Swarm |
//! | [`cache`] | shell | verified pieces: assembly, memory LRU, a user's own copy |
//! | [`create`] | shell | torrents made from files |
//! | [`engine`] | shell | tasks and sockets: session, torrent, peers, web seeds, what finds peers |
//! | [`fs`] | shell | the tree of inodes, FUSE, the mount and its end |
//! | [`proxy`] | | the SOCKS5 proxy that the user names |
//! | [`tracker`] | shell | the tracker: HTTP and UDP around a registry that is pure |
//! | [`status`] | | what a torrent is doing, as those who look on see it |
//! | [`cli`] | shell | one file per command |
//!
//! # The purity rule
//! The pure rooms use no runtime, socket, file, thread, global or clock: `now` and the random generator come in as
//! arguments, and they iterate ordered collections only, so that a run replays from its seed. CI checks it by grep.
//!
//! # A read, as a straight line
//! `fs::fuse` read, the byte range of its file, the cache: all there, so the reply is sent by the same thread. Else the
//! reply is parked, `Input::Read` becomes demand, the picker gives blocks to peers, a peer's task sends the requests and
//! puts what comes into a [`cache::PieceBuf`], which hashes as it fills. The last block makes a [`cache::Verified`]
//! piece, `Input::PieceVerified` yields `Effect::ReadReady`, and the parked reply is sent.

pub mod cache;
pub mod cli;
pub mod config;
pub mod create;
pub mod engine;
pub mod error;
pub mod fs;
pub mod metainfo;
pub mod node;
pub mod proxy;
pub mod sim;
pub mod status;
pub mod swarm;
pub mod tracker;
pub mod wire;

pub use config::Config;
pub use error::{Error, Result};
