//! What is known of one peer, and what it is to be sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::bits::Bits;
use super::rates::{Answers, Pipeline, Rate, Trip};
use super::web::Connections;
use crate::metainfo::{BLOCK_LENGTH, Block, PieceIndex, Request};
use crate::wire::Message;

/// What a peer has.
#[derive(Debug)]
pub(super) enum Has {
    /// Nothing that we know of.
    Nothing,
    /// Some pieces.
    Some(Bits),
    /// Every piece: a seed holds no bitfield.
    All,
}

impl Has {
    /// True if it has this piece.
    pub(super) fn has(&self, piece: PieceIndex) -> bool {
        match self {
            Self::Nothing => false,
            Self::Some(bits) => bits.has(piece),
            Self::All => true,
        }
    }
}

/// A request that is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) block: Block,
    pub(super) sent: Instant,
    pub(super) late: bool,
    /// Nothing else was out: the time that it takes is a round trip.
    pub(super) alone: bool,
}

/// A piece that the peer rejected: not asked for until then, and how often that was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) until: Instant,
    pub(super) times: u32,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) fast: bool,
    pub(super) connected: Instant,
    pub(super) last_heard: Instant,
    pub(super) last_sent: Instant,
    /// Armed for this instant in the swarm's timers.
    pub(super) armed: Option<Instant>,

    /// What it has, and how many of these we lack.
    pub(super) has: Has,
    pub(super) useful: u32,
    /// Of these, what the fill wants.
    pub(super) wanted: u32,
    /// It was a seed and lost something: its bitfield is kept, full or not.
    pub(super) was_seed: bool,
    /// Pieces below this one count in the availability.
    pub(super) counted: u32,
    /// It has said what it has: a bitfield is out of place from now on.
    pub(super) told: bool,
    /// It has said its extension handshake (BEP 10).
    pub(super) extended: bool,
    /// It wants nothing of anybody (BEP 21), the id by which it takes that of us, and what it was told.
    pub(super) upload_only: bool,
    pub(super) upload_only_id: Option<u8>,
    pub(super) said_upload_only: bool,
    pub(super) reqq: u32,
    pub(super) donthave: Option<u8>,

    /// It chokes us.
    pub(super) choking: bool,
    /// Pieces that we may ask for while choked (BEP 6).
    pub(super) allowed: BTreeSet<PieceIndex>,
    /// Requests that are out, oldest first.
    pub(super) out: VecDeque<Asked>,
    /// Blocks once asked for and void since: if one still comes it is no offence.
    past: VecDeque<Block>,
    /// Others of these, counted only: a slow peer may owe us the answers to thousands of cancelled requests.
    past_others: u32,
    pub(super) refused: BTreeMap<PieceIndex, Refused>,
    pub(super) pipeline: Pipeline,
    pub(super) rate: Rate,
    pub(super) answers: Answers,
    pub(super) trip: Trip,
    /// When a block came last or, if later, when requests went out to a peer that had none.
    pub(super) last_block: Instant,
    pub(super) snubbed: bool,
    pub(super) unsolicited: u32,
    /// The piece of the background that it was given last.
    pub(super) at: Option<PieceIndex>,
    /// The background had nothing for it in this state of the picker.
    pub(super) nothing_in: Option<u64>,
    /// When to look again all the same.
    pub(super) look_again: Option<Instant>,

    /// It is interested in us.
    pub(super) interested: bool,
    /// It has been told that we are interested.
    pub(super) said_interested: bool,
    /// Bitfield, have-all or have-none was sent.
    pub(super) greeted: bool,
    /// The node's decision, and what the peer was told.
    pub(super) unchoked: bool,
    pub(super) said_unchoked: bool,
    pub(super) choked_at: Instant,
    /// Its requests that we hold.
    pub(super) queue: VecDeque<Request>,
    /// The allowed-fast set we gave it, with the blocks served of each while choked.
    pub(super) given: Option<BTreeMap<PieceIndex, u32>>,
    pub(super) invalid: u32,
    /// Messages that wait, in order.
    pub(super) control: VecDeque<Message<'static>>,
    /// Rejects among them.
    pub(super) rejects: u32,
    /// What it has been told of our log.
    pub(super) news: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Keep-alives since `keep_alives_since`.
    pub(super) keep_alives: u32,
    pub(super) keep_alives_since: Instant,
    /// A wake is on its way.
    pub(super) woken: bool,
    /// It is a web seed, with these connections.
    pub(super) web: Option<Connections>,
}

impl Peer {
    /// Microseconds of requests that keep a peer busy: two thirds of a pipeline.
    const BUSY: u64 = 500_000;
    /// Microseconds of requests that a peer is given of a waited-for piece, however short its round trip is.
    const NEAR: u64 = 10_000;
    /// Microseconds of requests that a read should not wait for.
    const IN_THE_WAY: u64 = 100_000;
    /// Requests that a peer holds if it does not say (libtorrent's default for others).
    const REQQ: u32 = 250;
    /// Void requests that are remembered one by one.
    const PAST: usize = 2_000;
    /// Time without a block, requests being out, after which a peer is snubbed.
    pub(super) const SNUB: Duration = Duration::from_secs(5);
    /// Time after which any request is given up.
    pub(super) const GIVE_UP: Duration = Duration::from_secs(20);

    pub(super) fn new(now: Instant, addr: SocketAddr, fast: bool, pieces: u32) -> Self {
        Self {
            addr,
            fast,
            connected: now,
            last_heard: now,
            last_sent: now,
            armed: None,
            has: Has::Nothing,
            useful: 0,
            wanted: 0,
            was_seed: false,
            counted: pieces,
            told: false,
            extended: false,
            upload_only: false,
            upload_only_id: None,
            said_upload_only: false,
            reqq: Self::REQQ,
            donthave: None,
            choking: true,
            allowed: BTreeSet::new(),
            out: VecDeque::new(),
            past: VecDeque::new(),
            past_others: 0,
            refused: BTreeMap::new(),
            pipeline: Pipeline::new(),
            rate: Rate::default(),
            answers: Answers::default(),
            trip: Trip::default(),
            last_block: now,
            snubbed: false,
            unsolicited: 0,
            at: None,
            nothing_in: None,
            look_again: None,
            interested: false,
            said_interested: false,
            greeted: false,
            unchoked: false,
            said_unchoked: false,
            choked_at: now,
            queue: VecDeque::new(),
            given: None,
            invalid: 0,
            control: VecDeque::new(),
            rejects: 0,
            news: 0,
            received: 0,
            sent: 0,
            keep_alives: 0,
            keep_alives_since: now,
            woken: false,
            web: None,
        }
    }

    /// True if it has every piece.
    pub(super) fn seed(&self) -> bool {
        match &self.has {
            Has::All => true,
            Has::Some(bits) => bits.full(),
            Has::Nothing => false,
        }
    }

    /// True if it wants nothing: it has every piece, or says so (BEP 21).
    pub(super) fn gives_only(&self) -> bool {
        self.upload_only || self.seed()
    }

    /// More requests that may go out now.
    pub(super) fn room(&self) -> usize {
        if let Some(connections) = self.web {
            return if self.choking || connections.free == 0 { 0 } else { self.run() };
        }
        if self.choking && self.allowed.is_empty() {
            return 0;
        }
        let size = if self.snubbed { 1 } else { self.pipeline.size().min(self.reqq) };
        (size as usize).saturating_sub(self.out.len())
    }

    /// Requests that are out beyond its pipeline: it has become slower.
    pub(super) fn excess(&self) -> usize {
        self.out.len().saturating_sub(self.pipeline.size() as usize)
    }

    /// True if it has something we lack, room for requests, and nobody has told its task to look.
    pub(super) fn idle(&self) -> bool {
        self.useful > 0 && !self.woken && self.room() > 0
    }

    /// True if it is choked and lacks a piece that it may fetch all the same.
    pub(super) fn fetches_allowed(&self) -> bool {
        let lacks = |given: &BTreeMap<PieceIndex, u32>| given.keys().any(|&piece| !self.has.has(piece));
        self.interested && !self.unchoked && self.given.as_ref().is_some_and(lacks)
    }

    /// True if it chokes us and does not allow this piece fast (BEP 6).
    pub(super) fn chokes(&self, piece: PieceIndex) -> bool {
        self.choking && !self.allowed.contains(&piece)
    }

    /// True if it would serve this piece: it has it, does not choke us (or allows this piece), and did not refuse it.
    pub(super) fn serves(&self, now: Instant, piece: PieceIndex) -> bool {
        self.has.has(piece) && !self.chokes(piece) && self.refused.get(&piece).is_none_or(|r| r.until <= now)
    }

    /// True if it is asked for as much as it can send: all that it may be, or more than any round trip takes. Else an
    /// earlier, higher rate would stay for as long as the pipeline that goes by it is not full.
    pub(super) fn busy(&self) -> bool {
        self.room() == 0 || self.near() == 0 || self.eta(0).is_some_and(|eta| eta >= Self::BUSY)
    }

    /// Requests that keep it busy: what it sends in one and a half round trips, and two more.
    pub(super) fn reach(&self) -> usize {
        let Some(rate) = self.rate.get() else { return Pipeline::START as usize };
        let micros = u64::try_from(self.trip.get().as_micros()).unwrap_or(u64::MAX);
        let bytes = rate.saturating_mul((micros + micros / 2).max(Self::NEAR)) / 1_000_000;
        usize::try_from(bytes / u64::from(BLOCK_LENGTH)).unwrap_or(usize::MAX).saturating_add(2)
    }

    /// More requests that keep it busy.
    pub(super) fn near(&self) -> usize {
        self.reach().saturating_sub(self.out.len())
    }

    /// True if what it was asked for beyond what keeps it busy would hold up a read. Where it would not for long, a cancel
    /// would come too late for most of it: a fast peer has it in its socket already, and it would come twice.
    pub(super) fn stands_in_the_way(&self) -> bool {
        let more = self.out.len().saturating_sub(self.reach());
        more > 0 && !self.stalled() && self.eta_of(more - 1) >= Self::IN_THE_WAY
    }

    /// True if the oldest request is late: it should not be counted on now.
    pub(super) fn stalled(&self) -> bool {
        self.snubbed || self.out.front().is_some_and(|a| a.late)
    }

    /// True if it has delivered, and nothing that it owes is late.
    pub(super) fn proven(&self) -> bool {
        self.answers.patience().is_some() && !self.stalled()
    }

    /// Microseconds until `blocks` more would be here, going by its rate; none without a measurement.
    pub(super) fn eta(&self, blocks: usize) -> Option<u64> {
        let bytes = (self.out.len() + blocks) as u64 * u64::from(BLOCK_LENGTH);
        Some(bytes.saturating_mul(1_000_000) / self.rate.get()?.max(1))
    }

    /// Microseconds until the request at this place in the queue is answered, going by its rate.
    pub(super) fn eta_of(&self, place: usize) -> u64 {
        let bytes = (place as u64 + 1) * u64::from(BLOCK_LENGTH);
        bytes.saturating_mul(1_000_000) / self.rate.get().unwrap_or(0).max(1)
    }

    /// Blocks that would be here in half of the time until `due`, besides those that are out; none without a
    /// measurement.
    pub(super) fn in_time(&self, now: Instant, due: Instant) -> Option<usize> {
        let micros = u64::try_from(due.saturating_duration_since(now).as_micros()).unwrap_or(u64::MAX) / 2;
        let blocks = micros.saturating_mul(self.rate.get()?) / 1_000_000 / u64::from(BLOCK_LENGTH);
        Some(usize::try_from(blocks).unwrap_or(usize::MAX).saturating_sub(self.out.len()))
    }

    /// A request goes out.
    pub(super) fn ask(&mut self, now: Instant, block: Block) {
        let alone = self.out.is_empty();
        if alone {
            self.last_block = self.last_block.max(now);
            self.rate.start(now);
        }
        self.out.push_back(Asked { block, sent: now, late: false, alone });
    }

    /// Takes a request back, if it is out.
    pub(super) fn take(&mut self, now: Instant, block: Block) -> Option<Asked> {
        let at = self.out.iter().position(|a| a.block == block)?;
        let asked = self.out.remove(at);
        if self.out.is_empty() {
            self.rate.pause(now);
        }
        asked
    }

    /// Remembers a request that is void.
    pub(super) fn remember(&mut self, block: Block) {
        if self.past.len() >= Self::PAST {
            self.past.pop_front();
            self.past_others = self.past_others.saturating_add(1);
        }
        self.past.push_back(block);
    }

    /// Forgets a void request, as it has been answered. True if there was one.
    pub(super) fn forget(&mut self, block: Block) -> bool {
        self.past.iter().position(|&b| b == block).and_then(|at| self.past.remove(at)).is_some()
    }

    /// As [`Peer::forget`], for an answer to none of those that are remembered.
    pub(super) fn forget_other(&mut self) -> bool {
        let others = self.past_others.checked_sub(1);
        self.past_others = others.unwrap_or(0);
        others.is_some()
    }

    /// The peer rejected a block of this piece while we may ask for it.
    pub(super) fn refuse(&mut self, now: Instant, piece: PieceIndex) {
        let refused = self.refused.entry(piece).or_insert(Refused { until: now, times: 0 });
        if refused.until <= now {
            let wait = Duration::from_secs(1 << refused.times.min(5)).min(Duration::from_secs(30));
            *refused = Refused { until: now + wait, times: refused.times + 1 };
        }
    }

    /// A reject waits to be sent. A peer that asks without end and does not read is left without an answer.
    pub(super) fn reject(&mut self, request: Request) {
        if self.fast && self.rejects < 2_000 {
            self.rejects += 1;
            self.control.push_back(Message::Reject(request));
        }
    }
}

impl Peer {
    /// A connection that says nothing for this long is closed.
    pub(super) const IDLE: Duration = Duration::from_secs(120);
    /// We say something at least this often.
    pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(60);
}
