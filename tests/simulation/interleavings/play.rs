//! One run: the engine's threads as programs of small steps, around the real swarm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Instant;

use swarmfs::config::Fill;
use swarmfs::metainfo::{Geometry, PieceIndex, Request};
use swarmfs::swarm::{Connected, Effect, HandleId, Input, Outgoing, PeerKey, ReadId, Receipt, Room, Setup, Swarm};
use swarmfs::wire::{Message, PeerId};

use super::Case;
use crate::common::secs;

const BLOCK: u64 = 16 * 1024;
/// Steps after which a run counts as one that never ends.
const MAX_STEPS: usize = 5_000;

/// News for the swarm, as a thread keeps it until its turn.
#[derive(Clone, Debug)]
enum News {
    Open(HandleId),
    Read(ReadId, HandleId, Range<u64>),
    Hit(HandleId, Range<u64>),
    Withdraw(ReadId),
    Close(HandleId),
    Verified(PieceIndex),
    Evicted(PieceIndex),
    /// A piece is lost, and the read that found it so waits again.
    Lost(PieceIndex, ReadId, HandleId, Range<u64>),
    Grant(u64),
}

/// What a thread does in one step.
#[derive(Clone, Debug)]
enum Step {
    /// A read comes: from the cache, or parked.
    Try(HandleId, Range<u64>),
    /// What the cache has is pinned to a parked read.
    Pin(ReadId, PieceIndex),
    /// The swarm was told of a read that may have been withdrawn a moment before.
    Check(ReadId),
    /// In through the swarm's door; the effects are this thread's next steps.
    Tell(News),
    Carry(Effect),
    /// A read that is ready looks for its pieces, one after the other.
    Gather(ReadId, Parked, PieceIndex),
    /// It is parked once more.
    Again(ReadId, Parked, PieceIndex),
    /// Room for one piece is made: the victims are chosen.
    MakeRoom,
    Remove(PieceIndex),
    Insert(PieceIndex),
    PinAll(PieceIndex),
    Release(PieceIndex),
}

#[derive(Debug)]
enum Role {
    Reader { handle: HandleId, todo: VecDeque<Range<u64>>, waits: Option<ReadId>, state: Life },
    Peer { key: PeerKey, woken: bool, pending: VecDeque<Request> },
    Evictor { left: u32 },
    Killer { left: u32 },
}

#[derive(Debug, PartialEq)]
enum Life {
    Unopened,
    Open,
    Closed,
}

#[derive(Clone, Debug)]
struct Parked {
    handle: HandleId,
    bytes: Range<u64>,
    held: BTreeSet<PieceIndex>,
}

#[derive(Debug)]
struct Thread {
    role: Role,
    steps: VecDeque<Step>,
}

/// The cache as the engine has it: `staying` in order of use, `leaving` readable until it is removed.
#[derive(Debug, Default)]
struct Cache {
    staying: Vec<PieceIndex>,
    leaving: BTreeSet<PieceIndex>,
}

impl Cache {
    fn get(&mut self, piece: PieceIndex) -> bool {
        if let Some(at) = self.staying.iter().position(|&p| p == piece) {
            let piece = self.staying.remove(at);
            self.staying.push(piece);
            return true;
        }
        self.leaving.contains(&piece)
    }

    fn remove(&mut self, piece: PieceIndex) {
        self.staying.retain(|&p| p != piece);
        self.leaving.remove(&piece);
    }
}

pub(super) struct Play<'a> {
    case: &'a Case,
    swarm: Swarm,
    geometry: Geometry,
    now: Instant,
    start: Instant,
    cache: Cache,
    parked: BTreeMap<ReadId, Parked>,
    /// Pieces that a thread has in its hands.
    handled: Vec<PieceIndex>,
    partial: BTreeMap<PieceIndex, (u32, BTreeSet<u32>)>,
    threads: Vec<Thread>,
    answered: BTreeMap<ReadId, bool>,
    next_read: u64,
    looks: u32,
    fetched: u32,
    gone: u32,
    reads: u32,
}

impl<'a> Play<'a> {
    pub(super) fn new(case: &'a Case) -> Self {
        let now = Instant::now();
        let pieces = case.readers.iter().flatten().map(|r| r.end).max().unwrap() + 1;
        let geometry = Geometry::new(pieces * case.blocks * BLOCK, case.blocks * BLOCK).unwrap();
        let setup = Setup { fill: Fill::None, ..Setup::new(geometry) };
        let mut play = Self {
            case,
            swarm: Swarm::new(setup, now),
            geometry,
            now,
            start: now,
            cache: Cache::default(),
            parked: BTreeMap::new(),
            handled: Vec::new(),
            partial: BTreeMap::new(),
            threads: Vec::new(),
            answered: BTreeMap::new(),
            next_read: 0,
            looks: 0,
            fetched: 0,
            gone: 0,
            reads: 0,
        };
        for (n, reads) in (0..).zip(&case.readers) {
            let length = case.blocks * BLOCK;
            let todo = reads.iter().map(|r| r.start * length..r.end * length).collect();
            play.thread(Role::Reader { handle: HandleId(n), todo, waits: None, state: Life::Unopened });
        }
        for n in 0..case.peers {
            play.thread(Role::Peer { key: PeerKey(n), woken: false, pending: VecDeque::new() });
        }
        play.thread(Role::Evictor { left: case.evictions });
        play.thread(Role::Killer { left: case.kills });
        // All but the last piece, which nobody reads: two complete sides would part.
        let mut bits = vec![0u8; usize::try_from(pieces.div_ceil(8)).unwrap()];
        (0..pieces - 1).for_each(|p| bits[usize::try_from(p / 8).unwrap()] |= 0x80 >> (p % 8));
        for n in 0..case.peers {
            let (peer, addr) = (PeerKey(n), std::net::SocketAddr::from(([10, 0, 0, 1], 1_000)));
            let connected = Connected { peer, addr, id: PeerId([1; 20]), fast: true, outgoing: true };
            play.swarm.handle(now, Input::Connected(connected));
            play.swarm.handle(now, Input::Message(peer, &Message::Bitfield(bits.clone().into())));
            play.swarm.handle(now, Input::Message(peer, &Message::Unchoke));
        }
        play.drain(0);
        while play.act(0) {}
        play
    }

    fn thread(&mut self, role: Role) {
        self.threads.push(Thread { role, steps: VecDeque::new() });
    }

    /// Threads that can take a step.
    fn able(&self) -> Vec<usize> {
        (0..self.threads.len()).filter(|&n| self.is_able(n)).collect()
    }

    fn is_able(&self, thread: usize) -> bool {
        let thread = &self.threads[thread];
        if !thread.steps.is_empty() {
            return true;
        }
        match &thread.role {
            Role::Reader { waits, state, .. } => {
                *state != Life::Closed && waits.is_none_or(|id| self.answered.contains_key(&id))
            }
            Role::Peer { woken, pending, .. } => *woken || !pending.is_empty(),
            Role::Evictor { left } => *left > 0 && self.victim().is_some(),
            Role::Killer { left } => *left > 0 && !self.parked.is_empty(),
        }
    }

    /// The piece used longest ago that nobody holds.
    fn victim(&self) -> Option<PieceIndex> {
        let held = |p: &PieceIndex| self.handled.contains(p) || self.parked.values().any(|r| r.held.contains(p));
        let gathering = |p: &PieceIndex| {
            self.threads
                .iter()
                .flat_map(|t| &t.steps)
                .any(|step| matches!(step, Step::Gather(_, read, _) | Step::Again(_, read, _) if read.held.contains(p)))
        };
        self.cache.staying.iter().copied().find(|p| !held(p) && !gathering(p))
    }

    /// The thread takes its next step of what it is in the middle of; false if it is in the middle of nothing.
    fn act(&mut self, n: usize) -> bool {
        let Some(step) = self.threads[n].steps.pop_front() else { return false };
        self.step(n, step);
        true
    }

    /// The thread takes a step.
    fn go(&mut self, n: usize) {
        if self.act(n) {
            return;
        }
        let mut next = VecDeque::new();
        match &mut self.threads[n].role {
            Role::Reader { handle, todo, waits, state } => {
                *waits = None;
                if *state == Life::Unopened {
                    *state = Life::Open;
                    next.push_back(Step::Tell(News::Open(*handle)));
                } else if let Some(bytes) = todo.pop_front() {
                    next.push_back(Step::Try(*handle, bytes));
                } else {
                    *state = Life::Closed;
                    next.push_back(Step::Tell(News::Close(*handle)));
                }
            }
            Role::Peer { key, woken, pending } => {
                let key = *key;
                if std::mem::take(woken) {
                    self.transmit(n, key);
                } else if let Some(request) = pending.pop_front() {
                    *woken = true;
                    self.receive(n, key, request);
                }
                return;
            }
            Role::Evictor { left } => {
                *left -= 1;
                self.evict(&mut next);
            }
            Role::Killer { left } => {
                *left -= 1;
                if let Some((id, _)) = self.parked.pop_first() {
                    self.answer(id, false);
                    next.push_back(Step::Tell(News::Withdraw(id)));
                }
            }
        }
        self.threads[n].steps = next;
        self.act(n);
    }

    fn evict(&mut self, next: &mut VecDeque<Step>) {
        if let Some(victim) = self.victim() {
            self.gone += 1;
            self.cache.staying.retain(|&p| p != victim);
            self.cache.leaving.insert(victim);
            next.extend([Step::Tell(News::Evicted(victim)), Step::Remove(victim)]);
        }
    }

    fn transmit(&mut self, n: usize, key: PeerKey) {
        let mut out = Vec::new();
        self.swarm.transmit(self.now, key, Room { total: 1 << 20, payload: 1 << 20 }, &mut out);
        if let Role::Peer { pending, .. } = &mut self.threads[n].role {
            for outgoing in out {
                match outgoing {
                    Outgoing::Message(Message::Request(request)) => {
                        assert!(!pending.contains(&request), "{request:?} is asked for twice");
                        pending.push_back(request);
                    }
                    Outgoing::Message(Message::Cancel(request)) => pending.retain(|r| *r != request),
                    _ => {}
                }
            }
        }
        self.drain(n);
    }

    fn receive(&mut self, n: usize, key: PeerKey, request: Request) {
        let receipt = self.swarm.receive(self.now, key, request);
        self.drain(n);
        let Receipt::Keep { attempt } = receipt else { return };
        let (piece, block) = (request.piece, request.begin / 16_384);
        let (at, blocks) = self.partial.entry(piece).or_insert_with(|| (attempt, BTreeSet::new()));
        if *at != attempt {
            (*at, *blocks) = (attempt, BTreeSet::new());
        }
        assert!(blocks.insert(block), "block {block} of {piece:?} is kept twice");
        if blocks.len() == usize::try_from(self.case.blocks).unwrap() {
            self.partial.remove(&piece);
            self.handled.push(piece);
            self.fetched += 1;
            let verified = [
                Step::MakeRoom,
                Step::Insert(piece),
                Step::PinAll(piece),
                Step::Tell(News::Verified(piece)),
                Step::Release(piece),
            ];
            self.threads[n].steps.extend(verified);
        }
    }

    fn step(&mut self, n: usize, step: Step) {
        let mut next = VecDeque::new();
        match step {
            Step::Try(handle, bytes) => {
                let pieces: Vec<PieceIndex> = self.geometry.pieces_of(bytes.clone()).collect();
                let id = ReadId(self.next_read);
                self.next_read += 1;
                self.reads += 1;
                if pieces.iter().all(|&piece| self.look(piece)) {
                    self.answer(id, true);
                    next.push_back(Step::Tell(News::Hit(handle, bytes)));
                } else {
                    if let Role::Reader { waits, .. } = &mut self.threads[n].role {
                        *waits = Some(id);
                    }
                    self.parked.insert(id, Parked { handle, bytes: bytes.clone(), held: BTreeSet::new() });
                    next.extend(pieces.into_iter().map(|piece| Step::Pin(id, piece)));
                    next.extend([Step::Tell(News::Read(id, handle, bytes)), Step::Check(id)]);
                }
            }
            Step::Pin(id, piece) => {
                if self.look(piece)
                    && let Some(read) = self.parked.get_mut(&id)
                {
                    read.held.insert(piece);
                }
            }
            Step::Tell(news) => {
                self.tell(news);
                self.drain(n);
                return;
            }
            Step::Carry(effect) => self.carry(effect, &mut next),
            Step::Gather(id, read, piece) => {
                if !read.held.contains(&piece) && !self.look(piece) {
                    next.push_back(Step::Again(id, read, piece));
                } else {
                    let rest = self.geometry.pieces_of(read.bytes.clone()).find(|&p| p > piece);
                    match rest {
                        // What was found is held until the read is answered.
                        Some(following) => {
                            let mut read = read;
                            read.held.insert(piece);
                            next.push_back(Step::Gather(id, read, following));
                        }
                        None => self.answer(id, true),
                    }
                }
            }
            Step::Again(id, read, piece) => {
                let (handle, bytes) = (read.handle, read.bytes.clone());
                self.parked.insert(id, read);
                next.extend([Step::Tell(News::Lost(piece, id, handle, bytes)), Step::Check(id)]);
            }
            Step::MakeRoom => {
                // Both are chosen under one lock.
                let surplus = (self.cache.staying.len() + 1).saturating_sub(self.case.cache);
                (0..surplus).for_each(|_| self.evict(&mut next));
            }
            Step::Check(id) => {
                if !self.parked.contains_key(&id) {
                    next.push_back(Step::Tell(News::Withdraw(id)));
                }
            }
            Step::Remove(piece) => {
                // It may have come again meanwhile, and is gone once more.
                self.gone += u32::from(self.cache.staying.contains(&piece));
                self.cache.remove(piece);
            }
            Step::Insert(piece) => {
                self.cache.remove(piece);
                self.cache.staying.push(piece);
            }
            Step::PinAll(piece) => {
                for read in self.parked.values_mut() {
                    if !self.geometry.within(piece, &read.bytes).is_empty() {
                        read.held.insert(piece);
                    }
                }
            }
            Step::Release(piece) => {
                let at = self.handled.iter().position(|&p| p == piece).unwrap();
                self.handled.swap_remove(at);
            }
        }
        self.push_front(n, next);
    }

    /// What a thread does next comes before what it has still to do.
    fn push_front(&mut self, n: usize, next: VecDeque<Step>) {
        for step in next.into_iter().rev() {
            self.threads[n].steps.push_front(step);
        }
    }

    /// A look into the cache.
    fn look(&mut self, piece: PieceIndex) -> bool {
        let there = self.cache.get(piece);
        self.looks += u32::from(there);
        if there && self.case.lost == Some(self.looks) {
            self.cache.remove(piece);
            self.gone += 1;
            return false;
        }
        there
    }

    fn tell(&mut self, news: News) {
        let (now, deadline) = (self.now, self.start + secs(60));
        match news {
            News::Open(handle) => self.swarm.handle(now, Input::Open(handle, 0..self.geometry.total())),
            News::Read(id, handle, bytes) => self.swarm.handle(now, Input::Read { id, handle, bytes, deadline }),
            News::Hit(handle, bytes) => self.swarm.handle(now, Input::Hit(handle, bytes)),
            News::Withdraw(id) => self.swarm.handle(now, Input::Withdraw(id)),
            News::Close(handle) => {
                self.swarm.handle(now, Input::Flush(handle));
                self.swarm.handle(now, Input::Close(handle));
            }
            News::Verified(piece) => self.swarm.handle(now, Input::PieceVerified(piece)),
            News::Evicted(piece) => self.swarm.handle(now, Input::Evicted(piece)),
            News::Lost(piece, id, handle, bytes) => {
                // It may be there again, and is fetched all the same.
                self.gone += u32::from(self.cache.staying.contains(&piece));
                self.swarm.handle(now, Input::Lost(piece));
                self.swarm.handle(now, Input::Read { id, handle, bytes, deadline });
            }
            News::Grant(bytes) => self.swarm.handle(now, Input::Grant(bytes)),
        }
    }

    /// The effects become the thread's next steps; those that only set a flag are done at once.
    fn drain(&mut self, n: usize) {
        let mut next = VecDeque::new();
        while let Some(effect) = self.swarm.poll() {
            match effect {
                Effect::Wake(key) => {
                    for thread in &mut self.threads {
                        if let Role::Peer { key: k, woken, .. } = &mut thread.role
                            && *k == key
                        {
                            *woken = true;
                        }
                    }
                }
                Effect::ReturnMemory(_) | Effect::WithdrawMemory(_) | Effect::Starved | Effect::Completed => {}
                other => next.push_back(Step::Carry(other)),
            }
        }
        self.push_front(n, next);
    }

    fn carry(&mut self, effect: Effect, next: &mut VecDeque<Step>) {
        match effect {
            Effect::ReadReady(id) => {
                if let Some(read) = self.parked.remove(&id) {
                    let first = self.geometry.pieces_of(read.bytes.clone()).next().unwrap();
                    next.push_back(Step::Gather(id, read, first));
                } else {
                    assert!(self.answered.contains_key(&id), "{id:?} is ready and unknown");
                }
            }
            Effect::ReadFailed(id, error) => panic!("{id:?} fails: {error}"),
            Effect::WantMemory(bytes) => next.push_back(Step::Tell(News::Grant(bytes))),
            Effect::Discard { piece, attempt } => {
                if self.partial.get(&piece).is_some_and(|(at, _)| *at <= attempt) {
                    self.partial.remove(&piece);
                }
            }
            other => panic!("{other:?} is no part of this"),
        }
    }

    fn answer(&mut self, id: ReadId, done: bool) {
        assert!(self.answered.insert(id, done).is_none(), "{id:?} is answered twice");
    }

    /// Plays to the end. `choose` is given how many threads could go on, and picks one, counted from the one that is at
    /// work.
    pub(super) fn run(mut self, choose: &mut dyn FnMut(usize) -> usize) -> Outcome {
        let (mut current, mut steps) = (0, 0);
        loop {
            let able = self.able();
            if able.is_empty() {
                if self.threads.iter().all(|t| !matches!(&t.role, Role::Reader { state, .. } if *state != Life::Closed))
                {
                    break;
                }
                // Nothing moves: time goes on.
                let next = self.swarm.next_timeout().expect("readers wait, and nothing will ever happen");
                self.now = self.now.max(next);
                assert!(self.now < self.start + secs(60), "readers wait for their deadline: {:#?}", self.threads);
                self.swarm.handle(self.now, Input::Timeout);
                self.drain(0);
                continue;
            }
            let first = able.iter().position(|&n| n >= current).unwrap_or(0);
            let chosen = choose(able.len());
            current = able[(first + chosen) % able.len()];
            self.go(current);
            steps += 1;
            assert!(steps < MAX_STEPS, "it goes on for ever: {:#?}", self.threads);
        }
        let waited = self.now - self.start;
        assert!(self.parked.is_empty() && self.answered.len() == usize::try_from(self.reads).unwrap());
        Outcome { steps, fetched: self.fetched, gone: self.gone, waited }
    }
}

/// What became of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) steps: usize,
    /// Pieces that were fetched.
    pub(super) fetched: u32,
    /// Pieces that were there and then were not, or were thought not to be.
    pub(super) gone: u32,
    /// Virtual time that passed.
    pub(super) waited: std::time::Duration,
}
