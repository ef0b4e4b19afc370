//! A scripted laboratory: one swarm, a virtual clock, peers with a rate and a character. It plays the engine (wakes,
//! grants, hashes) and checks on the way what must hold always.

mod background;
mod cost;
mod demand;
mod integrity;
mod memory;
mod model;
mod pace;
mod readahead;
mod superseed;
mod upload_only;
mod wanted;
mod web;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::metainfo::{BLOCK_LENGTH, Block};

pub(super) const BLOCK: u64 = BLOCK_LENGTH as u64;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// How a peer answers requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Character {
    /// At this many bytes a second, after this latency.
    Serves { rate: u64, latency: Duration },
    /// The same, with the n-th block of every piece wrong.
    Lies { rate: u64, block: u32 },
    /// The test answers for it, or nobody does.
    Scripted,
}

pub(super) struct Actor {
    pub(super) character: Character,
    /// Requests that it was sent and has not answered.
    pub(super) pending: Vec<Request>,
    /// Everything that it was sent.
    pub(super) sent: Vec<Outgoing>,
    free_at: Instant,
    /// Of a web seed: what each busy connection is still to bring.
    pub(super) runs: Vec<Vec<Request>>,
}

/// Connections of a web seed.
pub(super) const WEB: usize = 3;

pub(super) struct Lab {
    pub(super) swarm: Swarm,
    pub(super) now: Instant,
    pub(super) actors: BTreeMap<PeerKey, Actor>,
    pub(super) effects: Vec<Effect>,
    /// Bytes that the node still has.
    pub(super) budget: u64,
    pub(super) wanted: u64,
    pub(super) granted: u64,
    /// How often memory was granted.
    pub(super) grants: u32,
    /// Blocks kept of each unfinished piece: their sender, and whether they are wrong.
    pub(super) assembly: BTreeMap<PieceIndex, BTreeMap<u32, (PeerKey, bool)>>,
    pub(super) open_reads: BTreeMap<ReadId, Instant>,
    pub(super) answered: BTreeMap<ReadId, Result<(), ReadError>>,
    pub(super) fetched: BTreeSet<PieceIndex>,
    pub(super) room: usize,
    next_key: u64,
    next_read: u64,
}

pub(super) const H: HandleId = HandleId(1);

impl Lab {
    pub(super) fn new(pieces: u32, piece_length: u64, fill: Fill) -> Self {
        let total = u64::from(pieces) * piece_length;
        Self::with_files(piece_length, fill, std::iter::once(0..total).collect())
    }

    pub(super) fn with_files(piece_length: u64, fill: Fill, files: Vec<Range<u64>>) -> Self {
        let total = files.last().map_or(1, |f| f.end);
        let geometry = Geometry::new(total, piece_length).unwrap();
        Self::with_setup(Setup { files: files.into(), fill, ..Setup::new(geometry) })
    }

    pub(super) fn with_setup(setup: Setup) -> Self {
        let now = Instant::now();
        Self {
            swarm: Swarm::new(setup, now),
            now,
            actors: BTreeMap::new(),
            effects: Vec::new(),
            budget: 64 << 20,
            wanted: 0,
            granted: 0,
            grants: 0,
            assembly: BTreeMap::new(),
            open_reads: BTreeMap::new(),
            answered: BTreeMap::new(),
            fetched: BTreeSet::new(),
            room: 256 << 10,
            next_key: 0,
            next_read: 0,
        }
    }

    /// Connects a peer that has said nothing yet.
    pub(super) fn connect(&mut self, character: Character, fast: bool) -> PeerKey {
        self.next_key += 1;
        let peer = PeerKey(self.next_key);
        let addr = SocketAddr::from(([10, 0, 0, 1], u16::try_from(1_000 + self.next_key).unwrap()));
        let actor = Actor { character, pending: Vec::new(), sent: Vec::new(), free_at: self.now, runs: Vec::new() };
        self.actors.insert(peer, actor);
        self.input(Input::Connected(Connected { peer, addr, id: PeerId([1; 20]), fast, outgoing: true }));
        peer
    }

    /// A web seed.
    pub(super) fn web_seed(&mut self, character: Character) -> PeerKey {
        self.next_key += 1;
        let peer = PeerKey(self.next_key);
        let actor = Actor { character, pending: vec![], sent: vec![], free_at: self.now, runs: vec![] };
        self.actors.insert(peer, actor);
        self.input(Input::Web(peer, WebNews::Here));
        peer
    }

    /// Plays the task of a web seed.
    fn fetch(&mut self, peer: PeerKey) {
        let Some(actor) = self.actors.get(&peer) else { return };
        let (mut out, connections) = (Vec::new(), Connections { free: WEB - actor.runs.len(), total: WEB });
        self.swarm.runs(self.now, peer, connections, &mut out);
        let geometry = self.swarm.geometry;
        let Some(actor) = self.actors.get_mut(&peer) else { return };
        for work in out {
            match work {
                Fetch::Stop(request) => {
                    actor.pending.retain(|r| *r != request);
                    actor.runs.iter_mut().for_each(|run| run.retain(|r| *r != request));
                }
                Fetch::Run(run) => {
                    let at = |r: &Request| geometry.piece_offset(r.piece) + u64::from(r.begin);
                    for pair in run.windows(2) {
                        assert_eq!(at(&pair[0]) + u64::from(pair[0].length), at(&pair[1]), "a run has no gap");
                    }
                    assert!((1..=256).contains(&run.len()), "a run of {}", run.len());
                    assert!(run.iter().all(|r| !actor.pending.contains(r)), "asked for twice");
                    actor.pending.extend(&run);
                    actor.runs.push(run);
                }
            }
        }
        let before = actor.runs.len();
        actor.runs.retain(|run| !run.is_empty());
        assert!(before <= WEB, "more runs than connections");
        if actor.runs.len() < before {
            self.fetch(peer);
        }
    }

    /// A seed that has unchoked us.
    pub(super) fn seed(&mut self, character: Character) -> PeerKey {
        let peer = self.connect(character, true);
        self.says(peer, Message::HaveAll);
        self.says(peer, Message::Unchoke);
        peer
    }

    /// A peer with some pieces that may have unchoked us.
    pub(super) fn leecher(&mut self, character: Character, has: &[u32], unchokes: bool) -> PeerKey {
        let peer = self.connect(character, true);
        let mut bits = bits::Bits::none(self.swarm.geometry.pieces());
        has.iter().for_each(|&p| assert!(bits.insert(PieceIndex(p))));
        self.says(peer, Message::Bitfield(bits.to_wire().into()));
        if unchokes {
            self.says(peer, Message::Unchoke);
        }
        peer
    }

    pub(super) fn says(&mut self, peer: PeerKey, message: Message<'_>) {
        if message == Message::Choke
            && let Some(actor) = self.actors.get_mut(&peer)
        {
            actor.pending.clear();
        }
        if let Message::Reject(request) = &message
            && let Some(actor) = self.actors.get_mut(&peer)
        {
            actor.pending.retain(|r| r != request);
        }
        self.input(Input::Message(peer, &message));
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        self.swarm.handle(self.now, input);
        self.settle();
    }

    pub(super) fn open(&mut self) {
        let file = 0..self.swarm.geometry.total();
        self.input(Input::Open(H, file));
    }

    pub(super) fn read(&mut self, bytes: Range<u64>) -> ReadId {
        self.read_through(H, bytes, secs(60))
    }

    pub(super) fn read_through(&mut self, handle: HandleId, bytes: Range<u64>, within: Duration) -> ReadId {
        self.next_read += 1;
        let (id, deadline) = (ReadId(self.next_read), self.now + within);
        self.open_reads.insert(id, deadline);
        self.input(Input::Read { id, handle, bytes, deadline });
        id
    }

    /// Plays the engine until the swarm has nothing more to do at this instant.
    pub(super) fn settle(&mut self) {
        while let Some(effect) = self.swarm.poll() {
            match &effect {
                Effect::Wake(peer) => self.transmit(*peer),
                Effect::WantMemory(bytes) => self.wanted += bytes,
                Effect::WithdrawMemory(bytes) => self.wanted = self.wanted.saturating_sub(*bytes),
                Effect::ReturnMemory(bytes) => {
                    assert!(*bytes <= self.granted, "more is returned than was granted");
                    self.granted -= bytes;
                    self.budget += bytes;
                }
                Effect::ReadReady(id) => self.answer(*id, Ok(())),
                Effect::ReadFailed(id, error) => self.answer(*id, Err(*error)),
                Effect::Discard { piece, .. } => drop(self.assembly.remove(piece)),
                Effect::Digest(piece) => {
                    let blocks = self.swarm.geometry.blocks(*piece) as usize;
                    self.effects.push(effect.clone());
                    self.swarm.handle(self.now, Input::Digests(*piece, &vec![BlockDigest([0; 20]); blocks]));
                    continue;
                }
                Effect::Close(peer, _) | Effect::Ban(peer, ..) => drop(self.actors.remove(peer)),
                Effect::BadWebSeed(..) | Effect::Starved | Effect::Completed | Effect::WantRequests { .. } => {}
            }
            self.effects.push(effect);
            let grant = self.wanted.min(self.budget);
            if grant > 0 {
                self.budget -= grant;
                self.wanted -= grant;
                self.granted += grant;
                self.grants += 1;
                self.swarm.handle(self.now, Input::Grant(grant));
            }
            self.check();
        }
        self.check();
    }

    fn answer(&mut self, id: ReadId, how: Result<(), ReadError>) {
        let deadline = self.open_reads.remove(&id).expect("a read is answered once");
        assert!(self.now <= deadline, "{id:?} is answered late");
        self.answered.insert(id, how);
    }

    pub(super) fn transmit(&mut self, peer: PeerKey) {
        if self.swarm.peers.get(&peer).is_some_and(|p| p.web.is_some()) {
            return self.fetch(peer);
        }
        let mut out = Vec::new();
        self.swarm.transmit(self.now, peer, whole(self.room), &mut out);
        let Some(actor) = self.actors.get_mut(&peer) else { return };
        for outgoing in &out {
            match outgoing {
                Outgoing::Message(Message::Request(request)) => {
                    assert!(!actor.pending.contains(request), "{request:?} is asked for twice of {peer:?}");
                    actor.pending.push(*request);
                }
                Outgoing::Message(Message::Cancel(request)) => actor.pending.retain(|r| r != request),
                _ => {}
            }
        }
        assert!(actor.pending.len() <= 250, "too much is asked of {peer:?}");
        actor.sent.extend(out);
    }

    fn check(&self) {
        let unfinished: u64 = self.swarm.partials.keys().map(|&p| self.swarm.length(p)).sum();
        assert!(unfinished <= self.granted, "unfinished pieces take {unfinished} of {}", self.granted);
        let dropped = |piece: PieceIndex| {
            self.swarm.effects.iter().any(|e| matches!(e, Effect::Discard { piece: p, .. } if *p == piece))
        };
        for (piece, blocks) in self.assembly.iter().filter(|(p, _)| !dropped(**p)) {
            let known = self.swarm.partials.get(piece).map_or(0, |p| p.received() as usize);
            assert_eq!(known, blocks.len(), "{piece:?}");
        }
        for (&key, peer) in &self.swarm.peers {
            for asked in &peer.out {
                let partial = self.swarm.partials.get(&asked.block.piece);
                assert!(partial.is_some_and(|p| p.asked(asked.block.index, key)), "{asked:?} of {key:?} is not known");
            }
        }
        for (&piece, partial) in &self.swarm.partials {
            for (index, key) in partial.requests() {
                let out =
                    self.swarm.peers.get(&key).is_some_and(|p| p.out.iter().any(|a| a.block == Block { piece, index }));
                assert!(out, "{piece:?} block {index} waits for {key:?} in vain");
            }
        }
    }

    /// A block comes from a peer. The piece is hashed when it is whole.
    pub(super) fn deliver(&mut self, peer: PeerKey, request: Request) -> Receipt {
        let mut wrong = false;
        let block = self.swarm.geometry.block(request);
        if let Some(actor) = self.actors.get_mut(&peer) {
            actor.pending.retain(|r| *r != request);
            actor.runs.iter_mut().for_each(|run| run.retain(|r| *r != request));
            actor.runs.retain(|run| !run.is_empty());
            wrong = matches!(actor.character, Character::Lies { block: b, .. } if block.is_some_and(|k| k.index == b));
        }
        let receipt = self.swarm.receive(self.now, peer, request);
        if let (Receipt::Keep { .. }, Some(block)) = (receipt, block) {
            let blocks = self.assembly.entry(block.piece).or_default();
            assert!(blocks.insert(block.index, (peer, wrong)).is_none(), "{block:?} is kept twice");
            if blocks.len() == self.swarm.geometry.blocks(block.piece) as usize {
                let done = self.assembly.remove(&block.piece).unwrap();
                let digests: Vec<BlockDigest> = done
                    .values()
                    .map(|&(p, wrong)| BlockDigest([if wrong { u8::try_from(p.0).unwrap() } else { 0 }; 20]))
                    .collect();
                if done.values().any(|&(_, wrong)| wrong) {
                    self.swarm.handle(self.now, Input::PieceFailed(block.piece, &digests));
                } else {
                    self.fetched.insert(block.piece);
                    self.swarm.handle(self.now, Input::PieceVerified(block.piece));
                }
            }
        }
        self.settle();
        self.transmit(peer);
        self.settle();
        receipt
    }

    /// The next block that a serving peer sends, and when.
    fn next_block(&self) -> Option<(Instant, PeerKey, Request)> {
        let next = |(&key, actor): (&PeerKey, &Actor)| {
            let &request = actor.pending.first()?;
            let (rate, latency) = match actor.character {
                Character::Serves { rate, latency } => (rate, latency),
                Character::Lies { rate, .. } => (rate, ms(1)),
                Character::Scripted => return None,
            };
            let sent = self.swarm.peers.get(&key)?.out.iter().map(|a| a.sent).min()?;
            let takes = Duration::from_micros(u64::from(request.length) * 1_000_000 / rate);
            Some((actor.free_at.max(sent + latency) + takes, key, request))
        };
        self.actors.iter().filter_map(next).min()
    }

    /// Lets time pass, peers serve and timers fire.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// The same until something holds; true if it does.
    pub(super) fn run_until(&mut self, end: Instant, holds: impl Fn(&Self) -> bool) -> bool {
        let mut at_once = 0;
        while !holds(self) {
            let block = self.next_block();
            let timer = self.swarm.next_timeout();
            let next = [block.map(|(at, ..)| at), timer].into_iter().flatten().min();
            let Some(next) = next.filter(|&at| at <= end) else {
                self.now = end;
                return holds(self);
            };
            at_once = if next > self.now { 0 } else { at_once + 1 };
            assert!(at_once < 10_000, "busy loop at one instant");
            self.now = next.max(self.now);
            match block {
                Some((at, peer, request)) if at <= self.now => {
                    if let Some(actor) = self.actors.get_mut(&peer) {
                        actor.free_at = at;
                    }
                    self.deliver(peer, request);
                }
                _ => self.input(Input::Timeout),
            }
        }
        true
    }

    /// Runs until a read is answered; how.
    pub(super) fn wait(&mut self, id: ReadId) -> Result<(), ReadError> {
        let end = self.now + secs(61);
        assert!(self.run_until(end, |lab| lab.answered.contains_key(&id)), "{id:?} is never answered");
        self.answered[&id]
    }

    /// Time that a read took.
    pub(super) fn timed(&mut self, bytes: Range<u64>) -> Duration {
        let began = self.now;
        let id = self.read(bytes);
        assert_eq!(self.wait(id), Ok(()));
        self.now - began
    }

    pub(super) fn count(&self, is: impl Fn(&Effect) -> bool) -> usize {
        self.effects.iter().filter(|e| is(e)).count()
    }

    pub(super) fn banned(&self) -> Vec<PeerKey> {
        let banned = self.effects.iter().filter_map(|e| if let Effect::Ban(p, ..) = e { Some(*p) } else { None });
        banned.collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn closed(&self, peer: PeerKey) -> Option<CloseReason> {
        self.effects.iter().find_map(|e| match e {
            Effect::Close(p, reason) if *p == peer => Some(*reason),
            _ => None,
        })
    }

    pub(super) fn messages(&self, peer: PeerKey) -> Vec<Message<'static>> {
        let Some(actor) = self.actors.get(&peer) else { return Vec::new() };
        let messages = actor.sent.iter();
        messages.filter_map(|o| if let Outgoing::Message(m) = o { Some(m.clone()) } else { None }).collect()
    }

    /// True if the swarm awaits an answer to this request.
    pub(super) fn requested(&self, peer: PeerKey, request: Request) -> bool {
        let block = self.swarm.geometry.block(request);
        self.swarm.peers.get(&peer).is_some_and(|p| p.out.iter().any(|asked| Some(asked.block) == block))
    }

    pub(super) fn pending(&self, peer: PeerKey) -> Vec<Request> {
        self.actors.get(&peer).map(|a| a.pending.clone()).unwrap_or_default()
    }
}

pub(super) fn serves(rate: u64) -> Character {
    Character::Serves { rate, latency: ms(10) }
}

/// A setup of a seed or a leecher without files.
pub(super) fn setup(pieces: u32, piece_length: u64, complete: bool, fill: Fill) -> Setup {
    let geometry = Geometry::new(u64::from(pieces) * piece_length, piece_length).unwrap();
    Setup { complete, fill, ..Setup::new(geometry) }
}

/// Room without an upload limit.
fn whole(total: usize) -> Room {
    Room { total, payload: total }
}
