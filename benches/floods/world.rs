//! The swarm under test, driven as the engine drives it: news under one lock, the effects carried out after it, and what
//! 200 scripted peers say and send.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use swarmfs::config::Fill;
use swarmfs::metainfo::{BLOCK_LENGTH, Geometry, PieceIndex, Request};
use swarmfs::swarm::{Connected, Effect, HandleId, Input, Outgoing, PeerKey, ReadId, Receipt, Room, Setup, Swarm};
use swarmfs::wire::{Message, PeerId};

use crate::record::Record;

pub(crate) const PEERS: u64 = 200;
/// Messages that the engine judges under one lock.
const MESSAGES: usize = 256;
/// What a peer's socket takes at once, as in the engine.
const ROOM: usize = 16 * (BLOCK_LENGTH as usize + 13) + 16 * 1024;
/// Blocks that one socket read brings.
const BLOCKS: usize = 16;
/// Time between two turns of the traffic.
const TURN: Duration = Duration::from_micros(500);
/// Memory for unfinished pieces, bytes.
const MEMORY: u64 = 64 << 20;
/// Pieces at the start of the file that useless peers do not have.
const NEAR: u32 = 1 << 18;
const READ: u64 = 128 << 10;
const HANDLE: HandleId = HandleId(1);

/// What a scenario's swarm is like.
pub(crate) struct Shape {
    /// Bytes of a piece.
    pub(crate) piece: u64,
    pub(crate) fill: Fill,
    /// Nobody has what is read.
    pub(crate) useless: bool,
}

/// A random bitfield for each peer.
pub(crate) fn bitfields(pieces: u32) -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut bitfield = |_| {
        let mut bits = vec![0; (pieces as usize).div_ceil(8)];
        rng.fill(&mut bits[..]);
        bits
    };
    (0..PEERS).map(&mut bitfield).collect()
}

/// A peer: what it was asked for and has not sent.
#[derive(Default)]
struct Far {
    asked: VecDeque<Request>,
}

pub(crate) struct World<'a> {
    shape: &'a Shape,
    bitfields: &'a [Vec<u8>],
    geometry: Geometry,
    swarm: Swarm,
    now: Instant,
    record: Record,
    rng: StdRng,
    far: BTreeMap<PeerKey, Far>,
    next_key: u64,
    wakes: VecDeque<PeerKey>,
    effects: VecDeque<Effect>,
    memory: u64,
    wanted: u64,
    /// Blocks of unfinished pieces, with the attempt.
    blocks: BTreeMap<PieceIndex, (u32, u32)>,
    verified: Vec<PieceIndex>,
    next_read: u64,
    /// Reads that wait, and those in order among them.
    reads: BTreeMap<ReadId, bool>,
    position: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(shape: &'a Shape, bitfields: &'a [Vec<u8>]) -> Self {
        let geometry = Geometry::new(u64::from(Geometry::MAX_PIECES) * shape.piece, shape.piece).expect("a geometry");
        let now = Instant::now();
        let setup = Setup { fill: shape.fill, reqq: 2000, ..Setup::new(geometry) };
        Self {
            shape,
            bitfields,
            geometry,
            swarm: Swarm::new(setup, now),
            now,
            record: Record::default(),
            rng: StdRng::seed_from_u64(2),
            far: BTreeMap::new(),
            next_key: 0,
            wakes: VecDeque::new(),
            effects: VecDeque::new(),
            memory: MEMORY,
            wanted: 0,
            blocks: BTreeMap::new(),
            verified: Vec::new(),
            next_read: 0,
            reads: BTreeMap::new(),
            position: 0,
        }
    }

    /// All that happens, and what it took.
    pub(crate) fn run(mut self) -> Record {
        self.record.phase = "start";
        for _ in 0..2_000 {
            let piece = self.piece();
            self.news("verified", Input::PieceVerified(piece));
        }
        self.news("open", Input::Open(HANDLE, 0..self.geometry.total()));
        (0..4).for_each(|_| self.read_on());
        self.carry_out();

        self.record.phase = "bitfields";
        for _ in 0..PEERS {
            self.connect();
            self.turns(20);
        }
        self.until_counted();

        self.record.phase = "traffic";
        self.turns(4_000);

        self.record.phase = "haves";
        self.flood(4, |world, _| (0..MESSAGES).map(|_| Message::Have(world.piece())).collect());
        self.record.phase = "chokes";
        self.flood(4, |_, _| (0..MESSAGES / 2).flat_map(|_| [Message::Choke, Message::Unchoke]).collect());
        self.record.phase = "interest";
        self.flood(2, |_, _| (0..MESSAGES / 2).flat_map(|_| [Message::NotInterested, Message::Interested]).collect());
        self.record.phase = "allowed-fast";
        self.flood(1, |world, _| (0..MESSAGES).map(|_| Message::AllowedFast(world.piece())).collect());
        self.record.phase = "rejects";
        self.flood(4, |world, key| {
            let asked = world.far.get_mut(&key).map(|far| far.asked.drain(..far.asked.len().min(MESSAGES)));
            asked.into_iter().flatten().map(Message::Reject).collect()
        });
        self.record.phase = "dont-haves";
        self.dont_haves();
        self.until_counted();
        self.record.phase = "requests";
        self.requests();
        self.record.phase = "evictions";
        self.evictions();
        self.record.phase = "seeks";
        self.seeks();
        self.record.phase = "churn";
        for key in self.keys() {
            self.disconnect(key);
            self.turns(2);
            self.connect();
            self.turns(20);
        }
        self.until_counted();
        self.record.phase = "silence";
        self.silence();
        self.record.phase = "end";
        for key in self.keys() {
            self.disconnect(key);
            self.settle();
        }
        self.until_counted();
        self.reads.clear();
        self.news("shutdown", Input::Shutdown);
        self.record
    }

    fn keys(&self) -> Vec<PeerKey> {
        self.far.keys().copied().collect()
    }

    fn piece(&mut self) -> PieceIndex {
        PieceIndex(self.rng.random_range(0..self.geometry.pieces()))
    }

    /// The engine's one door.
    fn lock<R>(&mut self, what: &'static str, news: impl FnOnce(&mut Swarm, Instant, &mut Record) -> R) -> R {
        let start = Instant::now();
        let result = news(&mut self.swarm, self.now, &mut self.record);
        while let Some(effect) = self.swarm.poll() {
            self.effects.push_back(effect);
        }
        let _ = self.swarm.next_timeout();
        self.record.lock(what, start.elapsed());
        result
    }

    /// One input under one lock, and what follows from it.
    fn news(&mut self, what: &'static str, input: Input<'_>) {
        self.tell(what, input);
        self.carry_out();
    }

    fn tell(&mut self, what: &'static str, input: Input<'_>) {
        self.lock(what, |swarm, now, record| record.call(what, || swarm.handle(now, input)));
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.effects.pop_front() {
            match effect {
                Effect::Wake(peer) => self.wakes.push_back(peer),
                Effect::WantMemory(bytes) => self.wanted += bytes,
                Effect::WithdrawMemory(bytes) => self.wanted = self.wanted.saturating_sub(bytes),
                Effect::ReturnMemory(bytes) => self.memory += bytes,
                Effect::ReadReady(id) | Effect::ReadFailed(id, _) => {
                    if self.reads.remove(&id) == Some(true) {
                        self.read_on();
                    }
                }
                Effect::Close(peer, _) | Effect::Ban(peer, ..) => drop(self.far.remove(&peer)),
                Effect::Discard { piece, attempt } => {
                    if self.blocks.get(&piece).is_some_and(|&(a, _)| a <= attempt) {
                        self.blocks.remove(&piece);
                    }
                }
                Effect::Digest(_)
                | Effect::WantRequests { .. }
                | Effect::BadWebSeed(..)
                | Effect::Starved
                | Effect::Completed => {}
            }
            let grant = self.wanted.min(self.memory);
            if grant > 0 {
                (self.wanted, self.memory) = (self.wanted - grant, self.memory - grant);
                self.tell("grant", Input::Grant(grant));
            }
        }
    }

    /// What a peer says, as its task hears it: under one lock, with a transmit.
    fn says(&mut self, what: &'static str, peer: PeerKey, messages: &[Message<'_>]) {
        for messages in messages.chunks(MESSAGES) {
            let mut out = Vec::new();
            self.lock(what, |swarm, now, record| {
                for message in messages {
                    record.call(kind(message), || swarm.handle(now, Input::Message(peer, message)));
                }
                transmit(swarm, now, record, peer, &mut out);
            });
            if let (Some(far), Some(Message::Choke)) = (self.far.get_mut(&peer), messages.last()) {
                far.asked.clear();
            }
            self.hears(peer, out);
            self.carry_out();
        }
    }

    /// The peer is sent something.
    fn hears(&mut self, peer: PeerKey, out: Vec<Outgoing>) {
        let Some(far) = self.far.get_mut(&peer) else { return };
        for outgoing in out {
            match outgoing {
                Outgoing::Message(Message::Request(request)) => far.asked.push_back(request),
                Outgoing::Message(Message::Cancel(request)) => far.asked.retain(|&asked| asked != request),
                _ => {}
            }
        }
    }

    /// The tasks that were woken take what there is for their peers.
    fn settle(&mut self) {
        while let Some(peer) = self.wakes.pop_front() {
            let mut out = Vec::new();
            self.lock("wake", |swarm, now, record| transmit(swarm, now, record, peer, &mut out));
            self.hears(peer, out);
            self.carry_out();
        }
    }

    /// The timer's task, once if it is due.
    fn timer(&mut self) {
        if self.swarm.next_timeout().is_some_and(|at| at <= self.now) {
            self.news("timeout", Input::Timeout);
        }
    }

    fn until_counted(&mut self) {
        while self.swarm.next_timeout().is_some_and(|at| at <= self.now) {
            self.timer();
            self.settle();
        }
    }

    /// Time passes: the timer, one peer's blocks, whoever was woken.
    fn turns(&mut self, count: u32) {
        for _ in 0..count {
            self.now += TURN;
            self.timer();
            self.settle();
            let able: Vec<PeerKey> =
                self.far.iter().filter(|(_, far)| !far.asked.is_empty()).map(|(&k, _)| k).collect();
            if !able.is_empty() {
                let peer = able[self.rng.random_range(0..able.len())];
                self.blocks(peer);
            }
            self.settle();
        }
    }

    /// One socket read of blocks.
    fn blocks(&mut self, peer: PeerKey) {
        let Some(far) = self.far.get_mut(&peer) else { return };
        let requests: Vec<Request> = far.asked.drain(..far.asked.len().min(BLOCKS)).collect();
        let (mut kept, mut out) = (Vec::new(), Vec::new());
        self.lock("blocks", |swarm, now, record| {
            for request in requests {
                if let Receipt::Keep { attempt } = record.call("receive", || swarm.receive(now, peer, request)) {
                    kept.push((request.piece, attempt));
                }
            }
            transmit(swarm, now, record, peer, &mut out);
        });
        self.hears(peer, out);
        self.carry_out();
        for (piece, attempt) in kept {
            let entry = self.blocks.entry(piece).or_insert((attempt, 0));
            if entry.0 != attempt {
                *entry = (attempt, 0);
            }
            entry.1 += 1;
            if entry.1 == self.geometry.blocks(piece) {
                self.blocks.remove(&piece);
                self.verified.push(piece);
                self.news("verified", Input::PieceVerified(piece));
            }
        }
    }

    /// The next read in order, from the cache or not.
    fn read_on(&mut self) {
        let bytes = self.position..self.position + READ;
        self.position = bytes.end;
        self.read(bytes, true);
    }

    fn read(&mut self, bytes: Range<u64>, in_order: bool) {
        self.next_read += 1;
        let (id, deadline) = (ReadId(self.next_read), self.now + Duration::from_secs(60));
        self.reads.insert(id, in_order);
        self.tell("read", Input::Read { id, handle: HANDLE, bytes, deadline });
    }

    /// A peer comes and says what it has; it chokes nobody.
    fn connect(&mut self) {
        self.next_key += 1;
        let (key, port) = (PeerKey(self.next_key), u16::try_from(self.next_key % 60_000).unwrap_or(0));
        let addr = SocketAddr::from(([10, 0, 0, 1], port));
        let connected = Connected { peer: key, addr, id: PeerId([1; 20]), fast: true, outgoing: true };
        self.far.insert(key, Far::default());
        self.news("connected", Input::Connected(connected));
        self.settle();
        let bitfields = self.bitfields;
        let mut bits = std::borrow::Cow::Borrowed(&bitfields[(key.0 % PEERS) as usize][..]);
        if self.shape.useless {
            bits.to_mut()[..NEAR as usize / 8].fill(0);
        }
        self.says("says bitfield", key, &[Message::Bitfield(bits)]);
        self.says("says unchoke", key, &[Message::Unchoke, Message::Interested]);
        self.settle();
    }

    fn disconnect(&mut self, key: PeerKey) {
        if self.far.remove(&key).is_some() {
            self.news("disconnected", Input::Disconnected(key));
        }
    }

    /// Every peer says something, again and again.
    fn flood(&mut self, times: u32, what: impl Fn(&mut Self, PeerKey) -> Vec<Message<'static>>) {
        for _ in 0..times {
            for key in self.keys() {
                let messages = what(self, key);
                self.says("says 256 messages", key, &messages);
                self.turns(2);
            }
        }
    }

    /// Dont-haves, and seeds that lack one piece, have it, lack it.
    fn dont_haves(&mut self) {
        for key in self.keys() {
            let pieces: Vec<PieceIndex> = (0..MESSAGES).map(|_| self.piece()).collect();
            self.lock("says 256 messages", |swarm, now, record| {
                for &piece in &pieces {
                    record.call("dont-have", || swarm.handle(now, Input::DontHave(key, piece)));
                }
            });
            self.carry_out();
            self.turns(2);
        }
        for key in self.keys().into_iter().take(4) {
            self.disconnect(key);
            self.next_key += 1;
            let key = PeerKey(self.next_key);
            let addr = SocketAddr::from(([10, 0, 0, 2], u16::try_from(key.0 % 60_000).unwrap_or(0)));
            let connected = Connected { peer: key, addr, id: PeerId([1; 20]), fast: true, outgoing: true };
            self.far.insert(key, Far::default());
            self.news("connected", Input::Connected(connected));
            self.says("says have-all", key, &[Message::HaveAll, Message::Unchoke]);
            let piece = self.piece();
            self.lock("says 256 messages", |swarm, now, record| {
                for _ in 0..MESSAGES / 2 {
                    record.call("dont-have of a seed", || swarm.handle(now, Input::DontHave(key, piece)));
                    let have = Message::Have(piece);
                    record.call("have of a seed", || swarm.handle(now, Input::Message(key, &have)));
                }
            });
            self.carry_out();
            self.turns(2);
        }
    }

    /// Unchoked peers that ask without end and read nothing, and take it back.
    fn requests(&mut self) {
        let keys: Vec<PeerKey> = self.keys().into_iter().take(5).collect();
        self.news("unchoked", Input::Unchoked(&keys));
        let held: Vec<PieceIndex> = self.verified.iter().copied().filter(|&piece| self.swarm.has(piece)).collect();
        if held.is_empty() {
            return;
        }
        let request = |n: usize| {
            let piece = held[n % held.len()];
            let begin = u32::try_from(n / held.len()).unwrap_or(0) % self.geometry.blocks(piece) * BLOCK_LENGTH;
            Request { piece, begin, length: (self.geometry.piece_length(piece) - begin).min(BLOCK_LENGTH) }
        };
        let requests: Vec<Request> = (0..8 * MESSAGES).map(request).collect();
        for ask in [true, true, false] {
            for &key in &keys {
                // Its socket is full: nothing is transmitted.
                for requests in requests.chunks(MESSAGES) {
                    self.lock("says 256 messages", |swarm, now, record| {
                        for &request in requests.iter().rev() {
                            let message = if ask { Message::Request(request) } else { Message::Cancel(request) };
                            record.call(kind(&message), || swarm.handle(now, Input::Message(key, &message)));
                        }
                    });
                    self.effects.clear();
                }
            }
        }
        for &key in &keys {
            for &request in &requests {
                self.swarm.handle(self.now, Input::Message(key, &Message::Request(request)));
            }
        }
        self.carry_out();
    }

    /// What has come leaves the cache.
    fn evictions(&mut self) {
        let pieces: Vec<PieceIndex> = self.verified.drain(..).take(2_000).collect();
        for piece in pieces {
            self.news("evicted", Input::Evicted(piece));
            self.turns(1);
        }
        self.news("unchoked", Input::Unchoked(&[]));
        self.settle();
    }

    /// Reads at random places wait by the hundred, beside those in order.
    fn seeks(&mut self) {
        for _ in 0..300 {
            let at = self.rng.random_range(0..self.geometry.total() - READ);
            self.read(at..at + READ, false);
            self.carry_out();
            self.turns(2);
        }
    }

    /// Nobody sends anything for half a minute.
    fn silence(&mut self) {
        for _ in 0..300 {
            self.now += Duration::from_millis(100);
            self.until_counted();
        }
    }
}

fn transmit(swarm: &mut Swarm, now: Instant, record: &mut Record, peer: PeerKey, out: &mut Vec<Outgoing>) {
    let room = Room { total: ROOM, payload: ROOM };
    record.call("transmit", || swarm.transmit(now, peer, room, out));
}

fn kind(message: &Message<'_>) -> &'static str {
    match message {
        Message::Bitfield(_) => "bitfield",
        Message::Have(_) => "have",
        Message::HaveAll => "have-all",
        Message::Choke => "choke",
        Message::Unchoke => "unchoke",
        Message::Request(_) => "request",
        Message::Cancel(_) => "cancel",
        Message::Reject(_) => "reject",
        Message::AllowedFast(_) => "allowed-fast",
        Message::Interested => "interested",
        Message::NotInterested => "not interested",
        _ => "message",
    }
}
