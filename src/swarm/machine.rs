//! The state of one torrent, and the way of every input and timer to the file that deals with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bits::Bits;
use super::demand::{Read, Want};
use super::integrity::Failure;
use super::memory::Memory;
use super::overview;
use super::pace::Pace;
use super::peer::Peer;
use super::picker::Picker;
use super::pieces::Partial;
use super::presence::News;
use super::queue::{Queue, Rank};
use super::rates::Answers;
use super::readahead::{Handle, Trail};
use super::superseed::SuperSeed;
use super::timers::{Timer, Timers};
use super::{Candidate, CloseReason, Effect, HandleId, Input, PeerKey, ReadId, Setup, Totals};
use crate::config::Fill;
use crate::metainfo::{Geometry, PieceIndex};
use crate::wire::Message;

/// We stay interested this long after the last close: a slot that is given up costs 15 to 30 s to get back.
const KEEN: Duration = Duration::from_secs(60);
/// The background rests this long after an eviction: what it fetches would only push out what is read.
const EVICTION_REST: Duration = Duration::from_secs(30);

/// Timers that fire in one call: 200 peers may fall silent at once. The others follow at once, with the next timeout.
const DUE: usize = 16;

/// What one torrent decides; see the [module](super).
#[derive(Debug)]
pub struct Swarm {
    pub(super) geometry: Geometry,
    pub(super) files: Arc<[Range<u64>]>,
    pub(super) fill: Fill,
    pub(super) upload: bool,
    pub(super) super_seed: Option<SuperSeed>,
    pub(super) reqq: u32,
    pub(super) info_hash: [u8; 20],
    pub(super) rng: StdRng,
    pub(super) now: Instant,

    /// Pieces that are there, were ever verified, left the cache.
    pub(super) have: Bits,
    pub(super) ever: Bits,
    /// What [`Fill::All`] fetches, in order and apart; of these bytes, those that are still to come.
    pub(super) wanted: Vec<Range<u32>>,
    pub(super) wanted_left: u64,
    /// Pieces that it has no use for: not wanted, there, or evicted after they were there.
    pub(super) sated: Bits,
    pub(super) capacity: Option<u64>,
    pub(super) cache_memory: u64,
    pub(super) disk_busy: bool,
    pub(super) evicted: Bits,
    pub(super) last_eviction: Option<Instant>,
    pub(super) completed: bool,
    /// What peers are to be told of us (BEP 21).
    pub(super) upload_only: bool,
    /// Haves and dont-haves to tell, and the number of the first one.
    pub(super) log: VecDeque<News>,
    pub(super) log_start: u64,
    /// When peers were woken for it last.
    pub(super) told_news: Option<Instant>,

    pub(super) peers: BTreeMap<PeerKey, Peer>,
    /// Those of them that may be asked for something: they do not choke us, or allow some pieces.
    pub(super) askable: BTreeSet<PeerKey>,
    /// Of these peers, and of those that are gone and have blocks in unfinished pieces.
    pub(super) addresses: BTreeMap<PeerKey, SocketAddr>,
    pub(super) answers: Answers,
    pub(super) picker: Picker,

    pub(super) partials: BTreeMap<PieceIndex, Partial>,
    /// Attempts at pieces so far.
    pub(super) attempts: u32,
    pub(super) wants: BTreeMap<PieceIndex, Want>,
    pub(super) queue: Queue,
    /// Pieces with blocks that are late everywhere.
    pub(super) late: BTreeSet<PieceIndex>,
    pub(super) failures: BTreeMap<PieceIndex, Failure>,
    pub(super) memory: Memory,
    pub(super) pace: Pace,

    pub(super) reads: BTreeMap<ReadId, Read>,
    pub(super) arrivals: u64,
    /// Where the reads start that are answered now.
    pub(super) serving: u64,
    pub(super) sourceless: BTreeSet<PieceIndex>,
    pub(super) starving: bool,
    pub(super) starved_at: Option<Instant>,
    pub(super) starved_looked: Option<Instant>,
    pub(super) shutdown: bool,
    pub(super) handles: BTreeMap<HandleId, Handle>,
    pub(super) streams: u64,
    /// Where media files start.
    pub(super) media: BTreeSet<u64>,
    pub(super) trail: Option<Trail>,
    /// What the background fetches, in pieces.
    pub(super) regions: Vec<Range<u32>>,
    pub(super) keen_until: Option<Instant>,
    pub(super) keen: bool,

    pub(super) timers: Timers,
    pub(super) effects: VecDeque<Effect>,
    /// Something became askable: idle peers are to be woken.
    pub(super) work: bool,
    pub(super) totals: Totals,
}

impl Swarm {
    /// A torrent with no peer and no reader.
    #[must_use]
    pub fn new(setup: Setup, now: Instant) -> Self {
        let pieces = setup.geometry.pieces();
        let mut have = if setup.complete { Bits::all(pieces) } else { Bits::none(pieces) };
        let there = setup.there.into_iter();
        let held: u64 = there.filter(|&p| have.insert(p)).map(|p| u64::from(setup.geometry.piece_length(p))).sum();
        let wanted = overview::in_order(setup.wanted, pieces);
        let sated = overview::sated(&have, &wanted, pieces);
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let super_seed = (setup.super_seed && have.full() && pieces > 0)
            .then(|| SuperSeed::new(pieces, rng.random_range(0..pieces)));
        let mut swarm = Self {
            geometry: setup.geometry,
            files: setup.files,
            fill: setup.fill,
            upload: setup.upload,
            super_seed,
            reqq: setup.reqq,
            info_hash: setup.info_hash,
            rng,
            now,
            ever: have.clone(),
            evicted: Bits::none(pieces),
            last_eviction: None,
            completed: have.full(),
            upload_only: false,
            have,
            wanted_left: overview::bytes_left(&setup.geometry, &sated),
            wanted,
            sated,
            capacity: setup.capacity,
            cache_memory: setup.memory,
            disk_busy: false,
            log: VecDeque::new(),
            log_start: 0,
            told_news: None,
            peers: BTreeMap::new(),
            askable: BTreeSet::new(),
            addresses: BTreeMap::new(),
            answers: Answers::default(),
            picker: Picker::new(pieces, setup.order),
            partials: BTreeMap::new(),
            attempts: 0,
            wants: BTreeMap::new(),
            queue: Queue::default(),
            late: BTreeSet::new(),
            failures: BTreeMap::new(),
            memory: Memory::default(),
            pace: Pace::default(),
            reads: BTreeMap::new(),
            arrivals: 0,
            serving: 0,
            sourceless: BTreeSet::new(),
            starving: false,
            starved_at: None,
            starved_looked: None,
            shutdown: false,
            handles: BTreeMap::new(),
            streams: 0,
            media: BTreeSet::new(),
            trail: None,
            regions: Vec::new(),
            keen_until: (setup.fill == Fill::Open).then(|| now + KEEN),
            keen: false,
            timers: Timers::default(),
            effects: VecDeque::new(),
            work: false,
            totals: Totals { held: if setup.complete { setup.geometry.total() } else { held }, ..Totals::default() },
        };
        swarm.upload_only = swarm.says_upload_only();
        swarm.refresh_regions();
        swarm.refresh_interest(now);
        swarm
    }

    /// Says which files are media, by their first bytes: players read the end of these after the head.
    pub fn know_media(&mut self, starts: impl IntoIterator<Item = u64>) {
        self.media = starts.into_iter().collect();
    }

    /// Takes news. Poll effects afterwards.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        // A peer may say hundreds of things under one lock: a step with each of them would hold it for milliseconds.
        let counts = match input {
            Input::Message(_, message) => matches!(message, Message::Bitfield(_)),
            Input::DontHave(..) | Input::UploadOnly(..) => false,
            _ => true,
        };
        match input {
            Input::Connected(connected) => self.connected(now, &connected),
            Input::Greeted(peer) => self.greeted(peer),
            Input::Extended(peer, handshake) => self.extended(now, peer, handshake),
            Input::Message(peer, message) => self.message(now, peer, message),
            Input::DontHave(peer, piece) => self.peer_lost(now, peer, piece),
            Input::UploadOnly(peer, upload_only) => self.peer_gives_only(now, peer, upload_only),
            Input::Web(peer, news) => self.web_news(now, peer, &news),
            Input::Disconnected(peer) => self.gone(now, peer),
            Input::Unchoked(list) => self.unchoke(now, list),
            Input::Open(handle, file) => self.open(now, handle, file),
            Input::Read { id, handle, bytes, deadline } => self.read(now, id, handle, bytes, deadline),
            Input::Hit(handle, bytes) => self.touch(now, handle, &bytes),
            Input::Withdraw(id) => drop(self.remove_read(now, id)),
            Input::Flush(handle) => self.flush(now, handle),
            Input::Close(handle) => self.close_handle(now, handle),
            Input::PieceVerified(piece) => self.verified(now, piece),
            Input::PieceFailed(piece, digests) => self.failed(now, piece, digests),
            Input::Digests(piece, digests) => self.compare(now, piece, digests),
            Input::Evicted(piece) => self.evict(now, piece),
            Input::Lost(piece) => self.lost(now, piece),
            Input::Unassembled { piece, attempt } => self.unassembled(now, piece, attempt),
            Input::Unserved(peer, request) => self.unserved(now, peer, request),
            Input::Grant(bytes) => self.grant(bytes),
            Input::DiskBusy(busy) => self.set_disk_busy(busy),
            Input::Capacity(bytes) => self.set_capacity(bytes),
            Input::MayAsk(bytes) => self.may_ask(bytes),
            Input::Timeout => {}
            Input::Shutdown => self.end(now),
        }
        for _ in 0..DUE {
            let Some(timer) = self.timers.pop(now) else { break };
            self.due(now, timer);
        }
        if counts {
            self.count_step();
        }
        self.settle(now);
    }

    fn due(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Read(id) => self.read_due(now, id),
            Timer::Peer(peer) => self.peer_due(now, peer),
            Timer::Piece(piece) => self.piece_due(now, piece),
            Timer::Interest => self.refresh_interest(now),
            Timer::News => self.wake_for_news(now),
            Timer::Starved => self.look_for_starved(now),
            Timer::Memory => self.memory_due(now),
            Timer::Trail => self.trail_due(now),
            Timer::Shown => self.shown_due(now),
        }
    }

    /// Peers learn whether we only give and what they may ask a super-seed for, memory is asked for or given back, and idle peers are woken if there is something
    /// new to ask for.
    pub(super) fn settle(&mut self, now: Instant) {
        self.check_upload_only(now);
        self.show_pieces(now);
        self.balance(now);
        if std::mem::take(&mut self.work) {
            self.wake_idle(now);
        }
    }

    /// What is to be done next; none if nothing is.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Input::Timeout`] is due; it may be now. None: not before something else happens.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.picker.jobs.is_empty() { self.timers.next() } else { Some(self.now) }
    }

    /// True if the piece is there.
    #[must_use]
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.have.has(piece)
    }

    /// Which attempt at a piece is under way, if one is.
    #[must_use]
    pub fn attempt(&self, piece: PieceIndex) -> Option<u32> {
        self.partials.get(&piece).map(|partial| partial.attempt)
    }

    /// True if every piece is there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.have.full()
    }

    /// Every peer as the rechoke sees it, in order of their keys.
    #[must_use]
    pub fn candidates(&self, _now: Instant) -> Vec<Candidate> {
        let candidate = |(&peer, p): (&PeerKey, &Peer)| Candidate {
            peer,
            interested: p.interested,
            wanted: self.interested_in(p),
            unchoked: p.unchoked,
            received: p.received,
            sent: p.sent,
            connected: p.connected,
            snubbed: p.snubbed,
            seed: p.gives_only(),
        };
        self.peers.iter().filter(|(_, p)| p.web.is_none()).map(candidate).collect()
    }

    /// The figures of this torrent.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let web = self.peers.values().filter(|p| p.web.is_some());
        Totals {
            peers: count(self.peers.len() - web.clone().count()),
            web_seeds: count(web.filter(|p| !p.choking).count()),
            seeds: self.picker.seeds(),
            waiting: count(self.reads.len()),
            ..self.totals
        }
    }

    /// Bytes of a piece.
    pub(super) fn length(&self, piece: PieceIndex) -> u64 {
        u64::from(self.geometry.piece_length(piece))
    }

    /// The peers that may be asked for something.
    pub(super) fn servers(&self) -> impl Iterator<Item = (PeerKey, &Peer)> + '_ {
        self.askable.iter().filter_map(|key| Some((*key, self.peers.get(key)?)))
    }

    /// The peer's task is to call [`Swarm::transmit`].
    pub(super) fn wake(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key).filter(|p| !p.woken) {
            peer.woken = true;
            self.effects.push_back(Effect::Wake(key));
        }
    }

    /// Closes a connection: it is gone from now on.
    pub(super) fn close(&mut self, now: Instant, key: PeerKey, reason: CloseReason) {
        if self.peers.contains_key(&key) {
            self.effects.push_back(Effect::Close(key, reason));
            self.gone(now, key);
        }
    }

    /// How urgent a piece is now; none if nobody wants it.
    pub(super) fn rank(&self, piece: PieceIndex) -> Option<Rank> {
        if let Some(want) = self.wants.get(&piece) {
            if let Some(turn) = want.reads.iter().map(|&(turn, _)| turn).min() {
                return Some(Rank::Read(turn));
            }
            if let Some(due) = want.ahead.iter().map(|&(_, due)| due).min() {
                return Some(Rank::Ahead(due));
            }
        }
        (self.background() && !self.evicted.has(piece) && self.regions.iter().any(|r| r.contains(&piece.0)))
            .then_some(Rank::Background)
    }

    /// True if the background is at work at all.
    pub(super) fn background(&self) -> bool {
        !self.regions.is_empty() && self.rest_ends().is_none_or(|end| self.now >= end)
    }

    /// When the background goes on, or went on, after the last eviction.
    pub(super) fn rest_ends(&self) -> Option<Instant> {
        self.last_eviction.map(|at| at + EVICTION_REST)
    }

    /// Puts a piece where it belongs in the queue; to be called whenever what it depends on has changed.
    pub(super) fn refile(&mut self, now: Instant, piece: PieceIndex) {
        let rank = if self.have.has(piece) { None } else { self.rank(piece) };
        let filed = match (rank, self.partials.get(&piece)) {
            (None, _) => None,
            (Some(_), None) if self.resting(now, piece) => None,
            // What the background begins comes from the picker, but for pieces that failed.
            (Some(rank @ Rank::Background), None) if self.must_be_solo(piece) => Some((rank, 0)),
            (Some(Rank::Background), None) => {
                self.picker.restore(piece);
                self.work = true;
                None
            }
            (Some(rank), None) => Some((rank, self.length(piece))),
            (Some(rank), Some(p)) => {
                (p.open() > 0 || (p.has_late() && matches!(rank, Rank::Read(_)))).then_some((rank, 0))
            }
        };
        self.work |= filed.is_some();
        self.queue.put(piece, filed);
        let late = rank.is_some() && self.partials.get(&piece).is_some_and(Partial::has_late);
        if late {
            self.late.insert(piece)
        } else {
            self.late.remove(&piece)
        };
        if let Some(partial) = self.partials.get_mut(&piece) {
            if rank.is_some() {
                partial.idle = None;
            } else if partial.idle.is_none() && !partial.complete() {
                partial.idle = Some(now);
                self.abandon(now, piece);
            }
        }
    }

    /// Decides anew whether we are interested in those who have what we lack.
    pub(super) fn refresh_interest(&mut self, now: Instant) {
        if self.keen_until.is_some_and(|until| until <= now) {
            self.keen_until = None;
        }
        if let Some(until) = self.keen_until {
            self.timers.set(Timer::Interest, until);
        }
        let keen = !self.handles.is_empty() || self.keen_until.is_some();
        if std::mem::replace(&mut self.keen, keen) != keen {
            let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
            keys.into_iter().for_each(|key| self.check_interest(key));
        }
    }

    /// The last handle was closed.
    pub(super) fn last_close(&mut self, now: Instant) {
        self.keen_until = Some(now + KEEN);
        self.refresh_interest(now);
    }

    /// True if we are interested in this peer.
    pub(super) fn interested_in(&self, peer: &Peer) -> bool {
        (peer.useful > 0 && (self.keen || !self.wants.is_empty())) || (peer.wanted > 0 && self.fill == Fill::All)
    }

    /// Wakes the peer if it has to be told of our interest or its end.
    pub(super) fn check_interest(&mut self, key: PeerKey) {
        if self.peers.get(&key).is_some_and(|p| p.web.is_none() && self.interested_in(p) != p.said_interested) {
            self.wake(key);
        }
    }
}
