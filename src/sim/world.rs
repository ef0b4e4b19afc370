//! The world: its clock, its nodes, and what happens next.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::net::{Connection, End, Packet};
use super::node::{Figures, NodeSpec, SimNode, listens};
use super::queue::Queue;
use super::tracker::Tracker;
use crate::metainfo::{Geometry, PieceIndex};
use crate::node::{Place, Source};
use crate::swarm::{Swarm, TorrentKey};

/// A node of a [`World`], counted from 0 in the order of adding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub usize);

/// Every node has this one torrent.
pub(super) const TORRENT: TorrentKey = TorrentKey(0);
/// Requests that a node holds for a peer, as the engine says it.
pub(super) const REQQ: u32 = 2000;
/// The id under which every node takes lt_donthave.
pub(super) const DONTHAVE: u8 = 7;
/// The tracker's interval: short, so that long runs see churn.
const INTERVAL: Duration = Duration::from_secs(120);
/// The tracker's `min interval`.
pub(super) const MIN_INTERVAL: Duration = Duration::from_secs(30);
/// Timers in a row at one instant after which the pure code is spinning.
pub(super) const MAX_SPINS: u32 = 10_000;

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A node joins.
    Join(NodeIndex),
    /// A node is gone at once; its peers learn it only if told.
    Leave(NodeIndex, bool),
    /// A node's earliest deadline.
    Timer(NodeIndex),
    /// A node's announce to the tracker.
    Announce(NodeIndex),
    /// A dialled connection has gone to and fro.
    Dialled(NodeIndex, NodeIndex),
    /// The sender's link is done with these bytes.
    Sent(End, usize),
    /// Something is at the receiver's link.
    Reach(End, Packet),
    /// And is through it.
    Arrive(End, Packet),
    /// This end learns that the other has closed.
    Closed(End),
    /// A connection breaks, silently or not.
    Broken(usize, bool),
    /// A piece has been hashed.
    Hashed(NodeIndex, PieceIndex, u32),
    /// A reader goes on.
    Read(NodeIndex, usize),
}

/// A swarm of one torrent on a virtual clock.
#[derive(Debug)]
pub struct World {
    pub(super) base: Instant,
    pub(super) now: Instant,
    pub(super) geometry: Geometry,
    pub(super) queue: Queue<Event>,
    pub(super) nodes: Vec<SimNode>,
    pub(super) connections: Vec<Connection>,
    tracker: Tracker,
    pub(super) unfinished_readers: usize,
    pub(super) completed: usize,
    pub(super) rng: StdRng,
    /// What the rules forbid and has happened.
    pub violations: Vec<String>,
}

impl World {
    /// An empty world. `base` is where its clock starts; nothing depends on its value.
    #[must_use]
    pub fn new(base: Instant, geometry: Geometry, seed: u64) -> Self {
        Self {
            base,
            now: base,
            geometry,
            queue: Queue::new(),
            nodes: Vec::new(),
            connections: Vec::new(),
            tracker: Tracker::default(),
            unfinished_readers: 0,
            completed: 0,
            rng: StdRng::seed_from_u64(seed),
            violations: Vec::new(),
        }
    }

    /// Adds a node. Call it before [`World::run`], or with a `join` that is still to come.
    pub fn add(&mut self, spec: NodeSpec) -> NodeIndex {
        let index = NodeIndex(self.nodes.len());
        let join = (self.base + spec.join).max(self.now);
        self.unfinished_readers += spec.readers.len();
        self.nodes.push(SimNode::new(spec, self.geometry, join, &mut self.rng));
        self.queue.push(join, Event::Join(index));
        index
    }

    /// A node leaves at this time. If `silent`, its peers are not told, as when its power fails.
    pub fn leave(&mut self, after: Duration, node: NodeIndex, silent: bool) {
        self.queue.push((self.base + after).max(self.now), Event::Leave(node, silent));
    }

    /// Runs until nothing is left to happen, until `done` says so, or to the end of `limit` on the virtual clock. `done`
    /// is asked after every event. Returns whether `done` was met.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.base + limit;
        while self.queue.next_at().is_some_and(|at| at <= end) {
            if let Some((at, event)) = self.queue.pop() {
                self.now = at;
                self.happen(event);
            }
            if done(self) {
                return true;
            }
        }
        self.now = self.now.max(end);
        false
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.base
    }

    /// Events that have happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.queue.popped()
    }

    /// What has become of a node.
    #[must_use]
    pub fn figures(&self, node: NodeIndex) -> Figures {
        self.nodes[node.0].figures
    }

    /// A node's reads in the order of their answers: when each was answered or failed, from the start of the simulation,
    /// and how long it waited.
    #[must_use]
    pub fn waits(&self, node: NodeIndex) -> &[(Duration, Duration)] {
        &self.nodes[node.0].waits
    }

    /// A node's swarm, to look at.
    #[must_use]
    pub fn swarm(&self, node: NodeIndex) -> &Swarm {
        &self.nodes[node.0].swarm
    }

    /// Readers that have not come to their end, of all nodes.
    #[must_use]
    pub fn unfinished_readers(&self) -> usize {
        self.unfinished_readers
    }

    /// Nodes, seeds apart, that have had every piece.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.completed
    }

    /// Readers of a node that have not come to their end.
    #[must_use]
    pub fn readers_left(&self, node: NodeIndex) -> usize {
        self.nodes[node.0].readers.iter().filter(|reader| !reader.finished).count()
    }

    /// Payload bytes that went from one node to another so far: (from, to, bytes), once for each connection there was.
    pub fn transfers(&self) -> impl Iterator<Item = (NodeIndex, NodeIndex, u64)> + '_ {
        self.connections
            .iter()
            .flat_map(|c| [(c.nodes[0], c.nodes[1], c.flows[0].payload), (c.nodes[1], c.nodes[0], c.flows[1].payload)])
    }

    pub(super) fn since_start(&self) -> Duration {
        self.now - self.base
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Join(node) => self.join(node),
            Event::Leave(node, silent) => self.depart(node, silent),
            Event::Timer(node) => self.timer(node),
            Event::Announce(node) => {
                if self.nodes[node.0].alive {
                    self.announce(node);
                    self.queue.push(self.now + INTERVAL, Event::Announce(node));
                    self.settle(node);
                }
            }
            Event::Dialled(from, to) => self.dialled(from, to),
            Event::Sent(end, bytes) => {
                self.flow(end).unsent -= bytes;
                self.room(end);
            }
            Event::Reach(end, packet) => self.reach(end, packet),
            Event::Arrive(end, packet) => self.arrive(end, packet),
            Event::Closed(end) => self.closed(end),
            Event::Broken(connection, silent) => self.broken(connection, silent),
            Event::Hashed(node, piece, attempt) => self.hashed(node, piece, attempt),
            Event::Read(node, reader) => self.read(node, reader),
        }
    }

    fn join(&mut self, index: NodeIndex) {
        if self.nodes[index.0].alive {
            return;
        }
        if self.nodes[index.0].left {
            self.revive(index);
        }
        let node = &mut self.nodes[index.0];
        node.alive = true;
        for (n, reader) in node.readers.iter().enumerate() {
            self.queue.push(self.now + reader.spec.start, Event::Read(index, n));
        }
        self.tracker.add(index);
        self.queue.push(self.now, Event::Announce(index));
    }

    fn depart(&mut self, index: NodeIndex, silent: bool) {
        let node = &mut self.nodes[index.0];
        if !std::mem::replace(&mut node.alive, false) {
            return;
        }
        node.left = true;
        self.unfinished_readers -= node.readers.iter().filter(|reader| !reader.finished).count();
        self.tracker.remove(index);
        self.drop_connections(index, silent);
    }

    /// The tracker names some peers to a node.
    pub(super) fn announce(&mut self, index: NodeIndex) {
        let addrs: Vec<_> = self.tracker.some(&mut self.rng, index).map(listens).collect();
        let node = &mut self.nodes[index.0];
        node.announced = Some(self.now);
        node.node.add_candidates(self.now, TORRENT, &addrs, Source::Tracker(Place::Private));
    }
}
