//! Credit for unfinished pieces: as little as there can be, shared by several torrents of one process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use swarmfs::config::Fill;
use swarmfs::metainfo::{Geometry, PieceIndex, Request};
use swarmfs::node::{Limits, Node};
use swarmfs::sim::{NodeIndex, NodeSpec, Pattern};
use swarmfs::swarm::{
    Connected, Effect, HandleId, Input, Outgoing, PeerKey, ReadId, Receipt, Room, Setup, Swarm, TorrentKey,
};
use swarmfs::wire::{Message, PeerId};

use crate::common::{
    KIB, MIB, every_read_completes, figure, link, ms, over_seeds, reader, secs, seeds_of, world, worst_wait,
};

const PIECE: u64 = 64 * KIB;

#[test]
fn credit_for_two_pieces_is_enough_for_all_readers() {
    over_seeds(8, |seed| {
        let (mut world, geometry) = world(96, PIECE, seed);
        seeds_of(&mut world, &[MIB; 3]);
        let mounts: Vec<NodeIndex> = [Fill::None, Fill::Open, Fill::All]
            .into_iter()
            .map(|fill| {
                let mut readers = vec![reader(&geometry, Pattern::Random(20), 150 * KIB); 3];
                readers.push(reader(&geometry, Pattern::Sequential, 128 * KIB));
                let link = link(MIB, 4 * MIB, 10);
                world.add(NodeSpec { link, fill, assembly_bytes: 2 * PIECE, readers, ..NodeSpec::default() })
            })
            .collect();
        every_read_completes(&mut world, secs(300), &mounts);
        figure("credit for two pieces: worst wait", seed, worst_wait(&world, &mounts));
    });
}

/// What a torrent's only peer does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    /// Each block takes so long.
    Serves(Duration),
    /// It takes requests and never answers.
    Silent,
}

/// One torrent of the process.
struct Torrent {
    swarm: Swarm,
    server: Server,
    pending: BTreeSet<(PieceIndex, u32)>,
    /// When the server is done with what it was asked.
    busy: Instant,
    partial: BTreeMap<PieceIndex, (u32, BTreeSet<u32>)>,
    granted: u64,
    wakes: bool,
    /// What each handle waits for.
    reads: BTreeMap<ReadId, HandleId>,
    done: u32,
    failed: u32,
    worst: Duration,
    asked: BTreeMap<ReadId, Instant>,
    there: Vec<PieceIndex>,
}

/// Several torrents under one node, without a network: each has one peer.
struct Process {
    node: Node,
    torrents: Vec<Torrent>,
    geometry: Geometry,
    now: Instant,
    start: Instant,
    budget: u64,
    rng: StdRng,
    next_read: u64,
    /// Blocks on their way.
    blocks: BinaryHeap<Reverse<(Instant, usize, PieceIndex, u32)>>,
    timeout: Duration,
}

const PEER: PeerKey = PeerKey(1);

impl Process {
    fn new(seed: u64, budget: u64, timeout: Duration, torrents: &[(Server, Fill)]) -> Self {
        let now = Instant::now();
        let geometry = Geometry::new(64 * PIECE, PIECE).unwrap();
        let limits = Limits {
            peer_id: PeerId([9; 20]),
            upload_slots: 4,
            max_peers: 200,
            upload_limit: None,
            download_limit: None,
            upload: true,
            assembly_bytes: budget,
        };
        let torrent = |&(server, fill): &(Server, Fill)| {
            let setup = Setup { fill, seed, ..Setup::new(geometry) };
            Torrent {
                swarm: Swarm::new(setup, now),
                server,
                pending: BTreeSet::new(),
                busy: now,
                partial: BTreeMap::new(),
                granted: 0,
                wakes: false,
                reads: BTreeMap::new(),
                done: 0,
                failed: 0,
                worst: Duration::ZERO,
                asked: BTreeMap::new(),
                there: Vec::new(),
            }
        };
        let mut process = Self {
            node: Node::new(limits, seed, now),
            torrents: torrents.iter().map(torrent).collect(),
            geometry,
            now,
            start: now,
            budget,
            rng: StdRng::seed_from_u64(seed),
            next_read: 0,
            blocks: BinaryHeap::new(),
            timeout,
        };
        // All but one piece: two complete sides would part.
        let bits: Vec<u8> = [[0xff; 7].as_slice(), &[0xfe]].concat();
        for t in 0..torrents.len() {
            let addr = std::net::SocketAddr::from(([10, 0, 0, 1], 1_000));
            let connected = Connected { peer: PEER, addr, id: PeerId([1; 20]), fast: true, outgoing: true };
            process.input(t, Input::Connected(connected));
            process.input(t, Input::Message(PEER, &Message::Bitfield(bits.clone().into())));
            process.input(t, Input::Message(PEER, &Message::Unchoke));
        }
        process
    }

    fn input(&mut self, t: usize, input: Input<'_>) {
        self.torrents[t].swarm.handle(self.now, input);
        self.settle(t);
    }

    /// A reader makes a read of up to three pieces.
    fn read(&mut self, t: usize, handle: HandleId) {
        let total = self.geometry.total() - PIECE;
        let start = self.rng.random_range(0..total - 1);
        let bytes = start..(start + self.rng.random_range(1..3 * PIECE)).min(total);
        let id = ReadId(self.next_read);
        self.next_read += 1;
        let torrent = &mut self.torrents[t];
        torrent.reads.insert(id, handle);
        torrent.asked.insert(id, self.now);
        let deadline = self.now + self.timeout;
        self.input(t, Input::Read { id, handle, bytes, deadline });
    }

    fn settle(&mut self, t: usize) {
        loop {
            while let Some(effect) = self.torrents[t].swarm.poll() {
                self.effect(t, effect);
            }
            if !std::mem::take(&mut self.torrents[t].wakes) {
                return;
            }
            self.transmit(t);
        }
    }

    fn hand_out(&mut self, t: usize, grants: Vec<(TorrentKey, u64)>) {
        for (other, granted) in grants {
            let other = usize::try_from(other.0).unwrap();
            self.grant(other, granted);
            if other != t {
                self.settle(other);
            }
        }
    }

    fn effect(&mut self, t: usize, effect: Effect) {
        let key = TorrentKey(u32::try_from(t).unwrap());
        match effect {
            Effect::Wake(_) => self.torrents[t].wakes = true,
            Effect::WantMemory(bytes) => {
                let granted = self.node.reserve(key, bytes);
                self.grant(t, granted);
            }
            Effect::WithdrawMemory(bytes) => {
                let grants = self.node.withdraw(key, bytes);
                self.hand_out(t, grants);
            }
            Effect::ReturnMemory(bytes) => {
                assert!(bytes <= self.torrents[t].granted, "more is returned than was granted");
                self.torrents[t].granted -= bytes;
                let grants = self.node.release(key, bytes);
                self.hand_out(t, grants);
            }
            Effect::ReadReady(id) => self.answered(t, id, true),
            Effect::ReadFailed(id, _) => self.answered(t, id, false),
            Effect::Discard { piece, attempt } => {
                if self.torrents[t].partial.get(&piece).is_some_and(|(at, _)| *at <= attempt) {
                    self.torrents[t].partial.remove(&piece);
                }
            }
            // A silent peer is closed in the end.
            Effect::Starved | Effect::Completed | Effect::Close(..) => {}
            other => panic!("{other:?} is no part of this"),
        }
        let granted: u64 = self.torrents.iter().map(|torrent| torrent.granted).sum();
        assert!(granted <= self.budget, "{granted} bytes are granted");
    }

    fn grant(&mut self, t: usize, bytes: u64) {
        if bytes > 0 {
            self.torrents[t].granted += bytes;
            self.torrents[t].swarm.handle(self.now, Input::Grant(bytes));
        }
    }

    fn answered(&mut self, t: usize, id: ReadId, done: bool) {
        let (now, torrent) = (self.now, &mut self.torrents[t]);
        torrent.reads.remove(&id).expect("a read is answered once");
        let waited = now - torrent.asked.remove(&id).expect("a read was asked");
        assert!(waited <= self.timeout, "a read was answered {waited:?} after it was made");
        torrent.worst = torrent.worst.max(waited);
        if done {
            torrent.done += 1;
        } else {
            torrent.failed += 1;
        }
    }

    fn transmit(&mut self, t: usize) {
        let (now, torrent) = (self.now, &mut self.torrents[t]);
        let mut out = Vec::new();
        torrent.swarm.transmit(now, PEER, Room { total: 1 << 20, payload: 0 }, &mut out);
        for outgoing in out {
            match outgoing {
                Outgoing::Message(Message::Request(r)) => {
                    assert!(torrent.pending.insert((r.piece, r.begin)), "{r:?} is asked for twice");
                    if let Server::Serves(takes) = torrent.server {
                        torrent.busy = torrent.busy.max(now) + takes;
                        self.blocks.push(Reverse((torrent.busy, t, r.piece, r.begin)));
                    }
                }
                Outgoing::Message(Message::Cancel(r)) => drop(torrent.pending.remove(&(r.piece, r.begin))),
                _ => {}
            }
        }
    }

    fn deliver(&mut self, t: usize, piece: PieceIndex, begin: u32) {
        let torrent = &mut self.torrents[t];
        if !torrent.pending.remove(&(piece, begin)) {
            return; // Taken back.
        }
        let length = (self.geometry.piece_length(piece) - begin).min(16_384);
        let receipt = torrent.swarm.receive(self.now, PEER, Request { piece, begin, length });
        torrent.wakes = true;
        if let Receipt::Keep { attempt } = receipt {
            let (at, blocks) = torrent.partial.entry(piece).or_insert_with(|| (attempt, BTreeSet::new()));
            if *at != attempt {
                (*at, *blocks) = (attempt, BTreeSet::new());
            }
            assert!(blocks.insert(begin), "a block is kept twice");
            if blocks.len() == usize::try_from(self.geometry.blocks(piece)).unwrap() {
                torrent.partial.remove(&piece);
                // The cache has room for eight pieces of each torrent.
                if torrent.there.len() == 8 {
                    let victim = torrent.there.remove(0);
                    torrent.swarm.handle(self.now, Input::Evicted(victim));
                }
                torrent.there.push(piece);
                torrent.swarm.handle(self.now, Input::PieceVerified(piece));
            }
        }
        self.settle(t);
    }

    /// Runs until each torrent has had so many reads answered, with so many readers at work in each.
    fn run(&mut self, readers: u64, reads: u32) {
        for t in 0..self.torrents.len() {
            for handle in (0..readers).map(HandleId) {
                self.input(t, Input::Open(handle, 0..self.geometry.total() - PIECE));
            }
        }
        let answered = |torrent: &Torrent| torrent.done + torrent.failed;
        while self.torrents.iter().any(|torrent| answered(torrent) < reads) {
            for t in 0..self.torrents.len() {
                for handle in (0..readers).map(HandleId) {
                    let waits = self.torrents[t].reads.values().any(|&h| h == handle);
                    if !waits && answered(&self.torrents[t]) < reads {
                        self.read(t, handle);
                    }
                }
            }
            let block = self.blocks.peek().map(|Reverse((at, ..))| *at);
            let timers = self.torrents.iter().filter_map(|torrent| torrent.swarm.next_timeout());
            let Some(next) = timers.chain(block).min() else {
                // Everything was answered at once.
                assert!(self.torrents.iter().all(|t| t.reads.is_empty()), "reads wait, and nothing will ever happen");
                continue;
            };
            self.now = self.now.max(next);
            assert!(self.now < self.start + secs(3_600), "it takes more than an hour");
            if let Some(&Reverse((at, t, piece, begin))) = self.blocks.peek()
                && at <= self.now
            {
                self.blocks.pop();
                self.deliver(t, piece, begin);
            } else {
                for t in 0..self.torrents.len() {
                    if self.torrents[t].swarm.next_timeout().is_some_and(|at| at <= self.now) {
                        self.input(t, Input::Timeout);
                    }
                }
            }
        }
    }
}

#[test]
fn torrents_that_share_credit_for_two_pieces_all_go_on() {
    over_seeds(20, |seed| {
        let fast = (Server::Serves(ms(5)), Fill::None);
        let slow = (Server::Serves(ms(40)), Fill::Open);
        let full = (Server::Serves(ms(10)), Fill::All);
        let mut process = Process::new(seed, 2 * PIECE, secs(60), &[fast, slow, full]);
        process.run(3, 40);
        let worst: Vec<Duration> = process.torrents.iter().map(|torrent| torrent.worst).collect();
        figure("three torrents share two pieces: worst waits", seed, &worst);
        for torrent in &process.torrents {
            assert_eq!(torrent.failed, 0, "a read failed: {worst:?}");
        }
    });
}

#[test]
fn a_torrent_whose_peer_is_silent_does_not_keep_the_credit() {
    over_seeds(20, |seed| {
        let torrents = [(Server::Silent, Fill::All), (Server::Serves(ms(5)), Fill::None), (Server::Silent, Fill::Open)];
        // A piece for each that is silent, to ask again, and two for the one that goes on.
        let mut process = Process::new(seed, 4 * PIECE, secs(30), &torrents);
        process.run(2, 30);
        figure("silent torrents: worst wait of the others", seed, process.torrents[1].worst);
        assert_eq!(process.torrents[1].failed, 0, "the worst waited {:?}", process.torrents[1].worst);
        assert_eq!(process.torrents[0].done + process.torrents[2].done, 0);
    });
}
