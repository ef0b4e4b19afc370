//! What one torrent decides. [`Swarm`] takes news ([`Input`]) with the time, and answers with what is to be done
//! ([`Effect`]); what a peer is to be sent waits in that peer's state until its task has room ([`Swarm::transmit`]).
//! Payload never enters: blocks are coordinates here. Every mutation is followed by polling effects until `None`, then
//! [`Swarm::next_timeout`] says when [`Input::Timeout`] is due.
#![forbid(unsafe_code)]

mod bits;
mod demand;
mod download;
mod integrity;
mod machine;
mod memory;
mod metadata;
mod overview;
mod pace;
mod peer;
mod picker;
mod pieces;
mod presence;
mod queue;
mod rates;
mod readahead;
mod reader;
mod requests;
mod stride;
mod striping;
mod superseed;
#[cfg(test)]
mod tests;
mod timers;
mod transmit;
mod upload;
mod upload_only;
mod web;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Fill;
use crate::metainfo::{Geometry, PieceIndex, Request};
use crate::wire::{ExtendedHandshake, Message, PeerId};

pub use machine::Swarm;
pub use metadata::{MetadataEffect, MetadataFetch};
pub use overview::{Cell, Sources};
pub use web::{Connections, Fetch, WebNews};

/// A torrent in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TorrentKey(pub u32);

/// A connection, unique in the process and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u64);

/// A parked read, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// An open file, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(pub u64);

/// SHA-1 of one 16 KiB block: names the liar when a piece failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDigest(pub [u8; 20]);

/// In which order the background is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The pieces that the fewest peers have, at random among equals.
    #[default]
    RarestFirst,
    /// From the first piece to the last. For experiments: it shows what rarest-first is good for.
    InOrder,
    /// At random. For experiments.
    Random,
}

/// What a swarm is made from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The torrent's sizes.
    pub geometry: Geometry,
    /// The byte range of every file in torrent order, hidden ones and empty ones left out: read-ahead crosses from one
    /// to the next.
    pub files: Arc<[Range<u64>]>,
    /// True if every piece is there already (a seed).
    pub complete: bool,
    /// Otherwise, the pieces that are there already: in a copy or from an earlier session.
    pub there: Vec<PieceIndex>,
    /// What is fetched that nobody asked for.
    pub fill: Fill,
    /// The pieces that [`Fill::All`] fetches; none is all of them.
    pub wanted: Option<Vec<Range<u32>>>,
    /// In which order they are fetched.
    pub order: Order,
    /// Bytes of pieces that the cache holds; none if they stay for good, in a copy on disk. What is fetched ahead must not
    /// push out what is about to be read.
    pub capacity: Option<u64>,
    /// Of these, bytes that memory holds: what is fetched ahead of a reader lies there, whatever becomes of it later.
    pub memory: u64,
    /// False if nobody gets anything (`--no-upload`): choked peers get no allowed-fast set either.
    pub upload: bool,
    /// Peers are shown one piece at a time, as if there were no others (BEP 16). For who is complete from the start.
    pub super_seed: bool,
    /// Requests that we hold for one peer at the most; advertised as `reqq` (BEP 10).
    pub reqq: u32,
    /// The info-hash as the wire names it, for the allowed-fast set (BEP 6).
    pub info_hash: [u8; 20],
    /// Seeds the random ties.
    pub seed: u64,
}

impl Setup {
    /// A torrent of one file of which nothing is there, without a bound on the cache and with any info-hash and seed: what
    /// simulations begin with.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            files: std::iter::once(0..geometry.total()).collect(),
            complete: false,
            there: Vec::new(),
            fill: Fill::default(),
            wanted: None,
            order: Order::default(),
            capacity: Some(u64::MAX),
            memory: u64::MAX,
            upload: true,
            super_seed: false,
            reqq: 500,
            info_hash: [7; 20],
            seed: 1,
        }
    }
}

/// A new connection whose handshakes are done.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Its key.
    pub peer: PeerKey,
    /// Its remote address.
    pub addr: SocketAddr,
    /// The id it gave.
    pub id: PeerId,
    /// Both sides have the fast extension (BEP 6).
    pub fast: bool,
    /// True if we dialled.
    pub outgoing: bool,
}

/// News for a swarm.
#[derive(Debug)]
pub enum Input<'a> {
    /// A peer is here. Its bitfield (or have-all, have-none) is queued as the first thing to send.
    Connected(Connected),
    /// The peer that was just [`Input::Connected`] has been told that we have nothing, before there was metadata.
    Greeted(PeerKey),
    /// A peer's extension handshake (BEP 10), the first or a later one: `reqq`, `upload_only`, the ids of lt_donthave and
    /// upload_only. What it does not name stays as it was.
    Extended(PeerKey, &'a ExtendedHandshake),
    /// A message other than `piece` and `extended`. A protocol violation yields [`Effect::Close`].
    Message(PeerKey, &'a Message<'a>),
    /// The peer no longer has this piece (BEP 54).
    DontHave(PeerKey, PieceIndex),
    /// The peer wants nothing of anybody from now on, or does again (BEP 21).
    UploadOnly(PeerKey, bool),
    /// News of a web seed (BEP 19).
    Web(PeerKey, WebNews<'a>),
    /// A peer is gone; its blocks go back to the picker at once.
    Disconnected(PeerKey),
    /// Which connected peers are unchoked from now on; all others are choked (the node's rechoke).
    Unchoked(&'a [PeerKey]),

    /// A file was opened. Demand of this handle is for `file`, a range of torrent bytes.
    Open(HandleId, Range<u64>),
    /// A read that the cache could not answer waits for these torrent bytes.
    Read {
        /// Its id, answered by [`Effect::ReadReady`] or [`Effect::ReadFailed`] exactly once.
        id: ReadId,
        /// The handle it came through.
        handle: HandleId,
        /// Torrent bytes; not empty, inside the handle's file.
        bytes: Range<u64>,
        /// When it fails.
        deadline: Instant,
    },
    /// A read that the cache answered: read-ahead advances.
    Hit(HandleId, Range<u64>),
    /// The reader of a parked read is gone; nothing is answered any more.
    Withdraw(ReadId),
    /// FLUSH: read-ahead and fill of this handle stop until its next read.
    Flush(HandleId),
    /// The last close of the handle.
    Close(HandleId),

    /// The piece passed its hash and is in the cache.
    PieceVerified(PieceIndex),
    /// The piece failed its hash; the digests of its blocks in order.
    PieceFailed(PieceIndex, &'a [BlockDigest]),
    /// The digests of a verified piece's blocks, as [`Effect::Digest`] asked.
    Digests(PieceIndex, &'a [BlockDigest]),
    /// The piece is about to leave the cache. Entered before the bytes go.
    Evicted(PieceIndex),
    /// The piece was thought to be there and is not. Demand for it starts again.
    Lost(PieceIndex),
    /// This attempt at a piece cannot be put together here (a full disk under a large piece): it is begun anew after a
    /// while, and nobody is to blame.
    Unassembled {
        /// The piece.
        piece: PieceIndex,
        /// The attempt.
        attempt: u32,
    },
    /// A block that [`Outgoing::Piece`] promised could not be read: the peer gets a reject (BEP 6) or is choked.
    Unserved(PeerKey, Request),
    /// The node allows this many more bytes of unfinished pieces.
    Grant(u64),
    /// What has come waits for a slow disk, or does so no more: the background rests meanwhile, reads do not.
    DiskBusy(bool),
    /// The torrent's share of what the cache holds, bytes.
    Capacity(u64),
    /// The node's download limit allows us to ask for this many more bytes of blocks.
    MayAsk(u64),

    /// [`Swarm::next_timeout`] has passed.
    Timeout,
    /// Every waiting read fails now, and every later one.
    Shutdown,
}

/// What is to be done. All of them commute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// [`Swarm::transmit`], or [`Swarm::runs`], has something for this peer.
    Wake(PeerKey),
    /// Every byte of this read is in a verified piece.
    ReadReady(ReadId),
    /// The read fails.
    ReadFailed(ReadId, ReadError),
    /// Close this connection.
    Close(PeerKey, CloseReason),
    /// The peer was proved to have sent wrong bytes of this piece: close it and refuse its address.
    Ban(PeerKey, SocketAddr, PieceIndex),
    /// A web seed was proved to have sent wrong bytes of this piece: these torrent bytes are asked of it no more.
    BadWebSeed(PeerKey, PieceIndex, Range<u64>),
    /// Hash the blocks of this verified piece and answer with [`Input::Digests`]: an earlier copy failed.
    Digest(PieceIndex),
    /// Drop what has come of this piece; it will be begun anew or not at all.
    Discard {
        /// The piece.
        piece: PieceIndex,
        /// The attempt that ends.
        attempt: u32,
    },
    /// Unfinished pieces need this many bytes more than granted; answered by [`Input::Grant`], now or later.
    WantMemory(u64),
    /// There is more to ask for than the download limit has allowed; answered by [`Input::MayAsk`], now or later. It
    /// comes a second time if it becomes urgent meanwhile.
    WantRequests {
        /// A read waits for it.
        urgent: bool,
    },
    /// This many granted bytes are given back.
    ReturnMemory(u64),
    /// This many bytes that were wanted are wanted no more; if they have been granted meanwhile, they come back.
    WithdrawMemory(u64),
    /// A read waits and no peer can serve it: dial now, announce as soon as the tracker allows.
    Starved,
    /// Every piece has been verified once: `completed` goes to the trackers.
    Completed,
}

/// Why a read fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Its deadline passed: the first piece that it lacked, and who could have sent it.
    #[error("nobody delivered piece {} in time: {_1}", _0.0)]
    Deadline(PieceIndex, Sources),
    /// It overlaps what failed on this handle, or a piece that has had no source for a whole deadline.
    #[error("it has no source")]
    NoSource,
    /// The session ends.
    #[error("the mount is closing")]
    Shutdown,
}

/// Why we close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// A message that breaks the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// Both sides are seeds, or have all that they want (BEP 21).
    #[error("both sides are complete")]
    BothSeeds,
    /// Nothing useful for too long.
    #[error("idle")]
    Idle,
}

/// What a peer is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A message, whole.
    Message(Message<'static>),
    /// A block whose bytes the engine reads from the cache or the data.
    Piece(Request),
}

/// What a peer's socket has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub total: usize,
    /// Of these, what blocks may take: that much is left of the upload limit.
    pub payload: usize,
}

/// What waits after [`Swarm::transmit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// A block that the peer asked for, for [`Room::payload`].
    pub payload: bool,
    /// We, for so many blocks that this peer was asked for.
    pub answers: usize,
}

/// The verdict on a block that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It was asked for and is new: its bytes belong into the piece.
    Keep {
        /// Which attempt at the piece: [`Effect::Discard`] names it when it ends.
        attempt: u32,
    },
    /// A duplicate, too late or never asked for: drop the bytes.
    Drop,
}

/// One peer as the node's rechoke sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The peer.
    pub peer: PeerKey,
    /// It wants something of ours.
    pub interested: bool,
    /// We want something of its: it could give back what it gets.
    pub wanted: bool,
    /// We have it unchoked now.
    pub unchoked: bool,
    /// Payload bytes it has sent us in all.
    pub received: u64,
    /// Payload bytes we have sent it in all.
    pub sent: u64,
    /// When it connected.
    pub connected: Instant,
    /// It has been silent while our requests wait.
    pub snubbed: bool,
    /// It holds every piece, or all that it wants (BEP 21), so it has no use for a slot.
    pub seed: bool,
}

/// Figures of a swarm, for trackers, `status` and xattrs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Payload bytes received.
    pub downloaded: u64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Payload bytes received that were of no use (duplicates, failed pieces).
    pub wasted: u64,
    /// Bytes of pieces that are there.
    pub held: u64,
    /// Connected peers.
    pub peers: u32,
    /// Connected peers that hold everything.
    pub seeds: u32,
    /// Web seeds that are not resting after a failure; they are not among the peers.
    pub web_seeds: u32,
    /// Reads that wait.
    pub waiting: u32,
}
