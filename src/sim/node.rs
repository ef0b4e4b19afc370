//! A node of the simulation: the real Swarm and Node, and models of what the engine has around them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::ledger::Ledger;
use super::link::{Link, Pipe};
use super::loss::Loss;
use super::pieces::{Partial, Store};
use super::reader::{Reader, ReaderSpec};
use super::world::{NodeIndex, REQQ};
use crate::config::Fill;
use crate::metainfo::{Geometry, PieceIndex};
use crate::node::{Limits, Node};
use crate::swarm::{HandleId, Order, PeerKey, ReadId, Setup, Swarm};
use crate::wire::PeerId;

/// How a node treats its peers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour {
    /// As the rules say.
    Honest,
    /// It never sends a block that it was asked for.
    Silent,
    /// Each block that it sends is wrong with this probability.
    Liar(f64),
    /// It uploads nothing (`--no-upload`).
    FreeRider,
}

/// What a node is made from.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its link.
    pub link: Link,
    /// How it loses its peers; none: it does not.
    pub loss: Option<Loss>,
    /// How it treats its peers.
    pub behaviour: Behaviour,
    /// It has everything from the start.
    pub seed: bool,
    /// And shows its peers one piece at a time (BEP 16).
    pub super_seed: bool,
    /// When it joins, from the start of the simulation.
    pub join: Duration,
    /// It leaves this long after it is complete.
    pub leave_after: Option<Duration>,
    /// Pieces that its memory cache holds.
    pub cache_pieces: usize,
    /// Bytes of unfinished pieces, as [`crate::node::Limits::assembly_bytes`].
    pub assembly_bytes: u64,
    /// What it fetches unasked.
    pub fill: Fill,
    /// In which order it fetches that.
    pub order: Order,
    /// Regular upload slots.
    pub upload_slots: usize,
    /// Upload limit, bytes per second.
    pub upload_limit: Option<u64>,
    /// How long its reads wait.
    pub read_timeout: Duration,
    /// Its programs.
    pub readers: Vec<ReaderSpec>,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            link: Link::LAN,
            loss: None,
            behaviour: Behaviour::Honest,
            seed: false,
            super_seed: false,
            join: Duration::ZERO,
            leave_after: None,
            cache_pieces: usize::MAX,
            assembly_bytes: 64 << 20,
            fill: Fill::Open,
            order: Order::default(),
            upload_slots: 4,
            upload_limit: None,
            read_timeout: Duration::from_secs(60),
            readers: Vec::new(),
        }
    }
}

/// What has become of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Reads answered with their bytes.
    pub reads_done: u64,
    /// Bytes that they gave.
    pub read_bytes: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// The longest that a read waited.
    pub worst_wait: Duration,
    /// When the last read failed, from the start of the simulation.
    pub last_failure: Option<Duration>,
    /// Requests sent.
    pub asked: u64,
    /// Of these, for a block that somebody else had been asked for and had not sent.
    pub asked_again: u64,
    /// Payload bytes that came and were kept.
    pub kept: u64,
    /// Payload bytes that came and were dropped.
    pub dropped: u64,
    /// Payload bytes sent.
    pub sent: u64,
    /// Pieces that failed their hash.
    pub failed_pieces: u64,
    /// Liars that it banned.
    pub banned: u64,
    /// Pieces that left the cache.
    pub evicted: u64,
    /// Blocks that were promised and no longer there.
    pub unserved: u64,
    /// When every piece had been there once, from the start of the simulation.
    pub completed: Option<Duration>,
}

/// A read that waits.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) reader: usize,
    pub(super) bytes: Range<u64>,
    pub(super) deadline: Instant,
    /// Pieces of it that are there, held until it is answered.
    pub(super) held: BTreeSet<PieceIndex>,
}

/// A node at work.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) spec: NodeSpec,
    pub(super) id: PeerId,
    pub(super) alive: bool,
    /// It has been there and left.
    pub(super) left: bool,
    pub(super) swarm: Swarm,
    pub(super) node: Node,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    pub(super) store: Store,
    pub(super) partials: BTreeMap<PieceIndex, Partial>,
    /// Bytes of the pieces in `partials`.
    pub(super) assembling: u64,
    /// Bytes of unfinished pieces that the node has granted to the swarm.
    pub(super) granted: u64,
    /// Which end of a connection is ours.
    pub(super) peers: BTreeMap<PeerKey, usize>,
    pub(super) wakes: VecDeque<PeerKey>,
    /// Peers that wait for upload room, and until when.
    pub(super) throttled: BTreeMap<PeerKey, Instant>,
    pub(super) ledger: Ledger,
    /// Who of them was woken first the last time.
    pub(super) first_ready: Option<PeerKey>,
    pub(super) readers: Vec<Reader>,
    pub(super) reads: BTreeMap<ReadId, Parked>,
    pub(super) next_read: u64,
    pub(super) announced: Option<Instant>,
    /// The timer event that is under way.
    pub(super) armed: Option<Instant>,
    /// Timers in a row at the present instant.
    pub(super) spins: u32,
    pub(super) figures: Figures,
    /// Of every read that was answered or failed: when, from the start of the simulation, and how long it waited.
    pub(super) waits: Vec<(Duration, Duration)>,
}

impl SimNode {
    /// A node that joins at this time.
    pub(super) fn new(spec: NodeSpec, geometry: Geometry, join: Instant, rng: &mut StdRng) -> Self {
        let mut id = [0; 20];
        rng.fill(&mut id[..]);
        let upload = spec.behaviour != Behaviour::FreeRider;
        let capacity = (spec.cache_pieces as u64).saturating_mul(geometry.nominal_piece_length().into());
        let setup = Setup {
            complete: spec.seed,
            super_seed: spec.super_seed,
            fill: spec.fill,
            order: spec.order,
            capacity: Some(capacity),
            upload,
            reqq: REQQ,
            info_hash: [0; 20],
            seed: rng.random(),
            ..Setup::new(geometry)
        };
        let limits = Limits {
            peer_id: PeerId(id),
            upload_slots: spec.upload_slots,
            max_peers: 200,
            upload_limit: spec.upload_limit,
            download_limit: None,
            upload,
            assembly_bytes: spec.assembly_bytes,
        };
        let readers = spec.readers.iter().zip(0..);
        let readers = readers.map(|(reader, n)| Reader::new(reader.clone(), HandleId(n), rng.random())).collect();
        Self {
            id: PeerId(id),
            alive: false,
            left: false,
            swarm: Swarm::new(setup, join),
            node: Node::new(limits, rng.random(), join),
            up: Pipe::new(spec.link.up, join),
            down: Pipe::new(spec.link.down, join),
            store: if spec.seed { Store::Everything } else { Store::lru(spec.cache_pieces) },
            partials: BTreeMap::new(),
            assembling: 0,
            granted: 0,
            peers: BTreeMap::new(),
            wakes: VecDeque::new(),
            throttled: BTreeMap::new(),
            ledger: Ledger::default(),
            first_ready: None,
            readers,
            reads: BTreeMap::new(),
            next_read: 0,
            announced: None,
            armed: None,
            spins: 0,
            figures: Figures::default(),
            waits: Vec::new(),
            spec,
        }
    }
}

/// The port where every node listens.
pub(super) const PORT: u16 = 6881;

/// Where a node listens: a private address, so that no limit per address applies.
pub(super) fn listens(node: NodeIndex) -> SocketAddr {
    let number = u32::try_from(node.0).unwrap_or(u32::MAX) & 0x00ff_ffff;
    SocketAddr::new(Ipv4Addr::from(0x0a00_0000 | number).into(), PORT)
}

/// The node that listens at an address.
pub(super) fn at(addr: SocketAddr) -> Option<NodeIndex> {
    match addr {
        SocketAddr::V4(v4) if v4.ip().octets()[0] == 10 => {
            Some(NodeIndex((u32::from(*v4.ip()) & 0x00ff_ffff) as usize))
        }
        _ => None,
    }
}
