//! Web seeds (BEP 19): peers of their own kind. One has every piece, chokes nobody and wants nothing; it is asked for
//! runs of neighbouring blocks, each of which is one ranged request over one of a few connections. So a run begins with
//! what is needed first and goes on with what follows it, and the last connection is kept free for reads: what a read
//! waits for is not behind a long request.

use std::ops::Range;
use std::time::Instant;

use super::bits::Bits;
use super::download::{LOOK, SHARED};
use super::peer::{Has, Peer};
use super::queue::Rank;
use super::{Effect, PeerKey, Swarm};
use crate::metainfo::{Block, PieceIndex, Request};
use crate::wire::Message;

/// The shortest run that is asked for where there is enough to ask for, blocks: 256 KiB. A request costs a round trip.
const SHORT_RUN: u32 = 16;
/// The longest one: 4 MiB (hardening). It is no more than comes in 0.75 s, so that a connection is soon free again.
const LONG_RUN: u32 = 256;
/// Bytes per second of peers that are enough for the background where nothing is known of the web seed: about what an
/// ordinary server gives.
const ENOUGH: u64 = 4 << 20;

/// News of a web seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebNews<'a> {
    /// It is here, under a new key.
    Here,
    /// It rests after a failure (true): all that it was asked for is open again. Or it may be asked again.
    Rests(bool),
    /// It does not have these torrent bytes, or not the right ones.
    Lacks(Range<u64>),
    /// It did not answer these requests; others may be made in their place.
    Returned(&'a [Request]),
}

/// The connections to a web seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Those without a request.
    pub free: usize,
    /// All of them.
    pub total: usize,
}

/// What the task of a web seed is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// This block is wanted no more. It needs no answer.
    Stop(Request),
    /// These blocks, one behind the other in the torrent, over one free connection.
    Run(Vec<Request>),
}

impl Peer {
    /// Blocks of a web seed's next run.
    pub(super) fn run(&self) -> usize {
        if self.snubbed { 1 } else { self.pipeline.size().clamp(SHORT_RUN, LONG_RUN) as usize }
    }
}

impl Swarm {
    /// News of a web seed.
    pub(super) fn web_news(&mut self, now: Instant, key: PeerKey, news: &WebNews<'_>) {
        if *news == WebNews::Here {
            return self.web_seed(now, key);
        }
        if self.peers.get(&key).is_none_or(|p| p.web.is_none()) {
            return;
        }
        match news {
            WebNews::Here => {}
            WebNews::Rests(true) => self.choked(now, key),
            WebNews::Rests(false) => self.unchoked(now, key),
            WebNews::Lacks(bytes) => self.web_lacks(now, key, bytes),
            WebNews::Returned(requests) => self.returned(now, key, requests),
        }
    }

    fn web_seed(&mut self, now: Instant, key: PeerKey) {
        self.gone(now, key);
        // It has a name, not an address: nobody dials or bans this one.
        let addr = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let pieces = self.geometry.pieces();
        let mut peer = Peer::new(now, addr, true, pieces);
        peer.web = Some(Connections::default());
        peer.has = Has::All;
        peer.told = true;
        peer.choking = false;
        peer.useful = pieces - self.have.count();
        peer.wanted = pieces - self.sated.count();
        self.addresses.insert(key, addr);
        self.peers.insert(key, peer);
        self.askable.insert(key);
        let wanted: Vec<PieceIndex> = self.wants.keys().copied().collect();
        wanted.into_iter().for_each(|piece| self.sourced(piece));
        self.check_starved(now);
        self.wake(key);
    }

    /// What the task of a web seed is to do now that it has these connections. Poll effects afterwards. All that it was
    /// told to fetch is to end in [`Swarm::receive`], [`WebNews::Returned`], [`WebNews::Lacks`] or [`WebNews::Rests`].
    pub fn runs(&mut self, now: Instant, web_seed: PeerKey, connections: Connections, out: &mut Vec<Fetch>) {
        self.now = now;
        let Some(peer) = self.peers.get_mut(&web_seed).filter(|p| p.web.is_some()) else { return };
        peer.woken = false;
        peer.web = Some(connections);
        let stops = peer.control.drain(..).filter_map(|m| if let Message::Cancel(r) = m { Some(r) } else { None });
        out.extend(stops.map(Fetch::Stop));
        for free in (0..connections.free).rev() {
            let run = self.run(now, web_seed);
            if run.is_empty() {
                break;
            }
            out.push(Fetch::Run(run.into_iter().map(|block| self.geometry.request(block)).collect()));
            if let Some(peer) = self.peers.get_mut(&web_seed) {
                peer.web = Some(Connections { free, ..connections });
            }
        }
        if let Some(peer) = self.peers.get_mut(&web_seed).filter(|p| !p.choking && p.busy()) {
            peer.rate.limit();
        }
        self.arm(web_seed);
        self.settle(now);
    }

    /// The next run: what a read waits for, else what readers will come to, else the background.
    fn run(&mut self, now: Instant, key: PeerKey) -> Vec<Block> {
        let mut out = Vec::new();
        let Some(peer) = self.peers.get(&key).filter(|p| p.useful > 0) else { return out };
        let Some(connections) = peer.web else { return out };
        let (wanted, idle) = (peer.room(), peer.out.is_empty());
        let most = wanted.min(self.pace.room());
        let for_reads = connections.free == 1 && connections.total > 1;
        let (mut last, mut sharers, mut shared, mut short) = (None, None, 0, false);
        while out.is_empty() && most > 0 && shared < SHARED {
            let Some(peer) = self.peers.get(&key) else { break };
            let serves = |&(_, piece): &(Rank, PieceIndex)| peer.serves(now, piece);
            let Some(next) = self.queue.demand(last).take(LOOK).find(serves) else { break };
            last = Some(next);
            let (rank, piece) = next;
            let mut share = match rank {
                Rank::Read(_) => 0,
                _ if for_reads => break,
                Rank::Ahead(due) => peer.in_time(now, due).unwrap_or(most),
                Rank::Background => break,
            };
            if share == 0 {
                shared += 1;
                let sharers = sharers.get_or_insert_with(|| self.sharers(key));
                share = self.share(now, key, sharers, piece);
            }
            out = self.stretch(now, key, piece, share, most, &mut short);
        }
        if out.is_empty()
            && most > 0
            && !for_reads
            // While a reader may come at any time, one run at a time.
            && (idle || self.handles.is_empty())
            && self.background()
            && !self.peers_give_enough(key)
            && let Some(piece) = self.next_stretch(now, key)
        {
            out = self.stretch(now, key, piece, most, most, &mut short);
            if let (Some(last), Some(peer)) = (out.last(), self.peers.get_mut(&key)) {
                peer.at = Some(last.piece);
            }
        }
        if idle && out.is_empty() && most > 0 {
            let late: Vec<PieceIndex> = self.late.iter().copied().take(LOOK).collect();
            for piece in late {
                if out.is_empty() && self.peers.get(&key).is_some_and(|p| p.serves(now, piece)) {
                    self.take_run(now, key, piece, most, true, &mut out);
                }
            }
        }
        self.pace.spend(out.len());
        if wanted > out.len() {
            self.want_pace();
        }
        out
    }

    /// A run from the first block of `first` that is to be asked for, `share` blocks of it, and over the pieces that
    /// follow while they are wanted in the same way, `most` blocks in all.
    fn stretch(
        &mut self,
        now: Instant,
        key: PeerKey,
        first: PieceIndex,
        share: usize,
        most: usize,
        short: &mut bool,
    ) -> Vec<Block> {
        let mut out = Vec::new();
        let Some(background) = self.rank(first).map(|rank| rank == Rank::Background) else { return out };
        let mut piece = first;
        let mut limit = share.min(most);
        while limit > 0 {
            let Some(rank) = self.rank(piece) else { break };
            if !self.partials.contains_key(&piece) {
                if *short || !self.begin(now, key, piece, rank, short) {
                    break;
                }
                self.refile(now, piece);
            }
            if !self.take_run(now, key, piece, limit, matches!(rank, Rank::Read(_)), &mut out) {
                break;
            }
            piece = PieceIndex(piece.0 + 1);
            let alike = self.rank(piece).is_some_and(|rank| (rank == Rank::Background) == background);
            let serves = self.peers.get(&key).is_some_and(|p| p.serves(now, piece));
            let goes_on = piece.0 < self.geometry.pieces()
                && alike
                && serves
                && !self.have.has(piece)
                && !self.must_be_solo(piece)
                && self.partials.get(&piece).is_none_or(|p| p.may_ask(0, key, false));
            if !goes_on {
                break;
            }
            limit = most - out.len();
            // Those that are awaited, too, are shared with others.
            if limit > 0 && matches!(self.rank(piece), Some(Rank::Read(_))) {
                let sharers = self.sharers(key);
                limit = limit.min(self.share(now, key, &sharers, piece));
            }
        }
        out
    }

    /// Neighbouring blocks of a begun piece, `most` at the most: from its first block on if they go on with a run, else
    /// from the first that is to be asked for. True if the last one of them is the piece's last.
    fn take_run(
        &mut self,
        now: Instant,
        key: PeerKey,
        piece: PieceIndex,
        most: usize,
        hedge: bool,
        out: &mut Vec<Block>,
    ) -> bool {
        let hedge = hedge && self.may_hedge(now, key, piece);
        let blocks = self.geometry.blocks(piece);
        let (Some(partial), Some(peer)) = (self.partials.get_mut(&piece), self.peers.get_mut(&key)) else {
            return false;
        };
        if partial.solo.is_some_and(|(solo, _)| solo != key) {
            return false;
        }
        let begin = if out.is_empty() {
            partial.next_open().or_else(|| partial.next_late(key).filter(|_| hedge))
        } else {
            Some(0)
        };
        let Some(begin) = begin else { return false };
        let (before, mut late, mut index, end) = (partial.open(), false, begin, out.len() + most);
        while index < blocks && out.len() < end && partial.may_ask(index, key, hedge) {
            let open = partial.open();
            partial.ask(index, key);
            late |= partial.open() == open;
            let block = Block { piece, index };
            peer.ask(now, block);
            out.push(block);
            index += 1;
        }
        if late || (before > 0 && partial.open() == 0) {
            self.refile(now, piece);
        }
        index == blocks && index > begin
    }

    /// Where a run of the background begins: where the last one ended, so that one request goes on with the other; else
    /// at the rarest piece; else in what has been begun.
    fn next_stretch(&mut self, now: Instant, key: PeerKey) -> Option<PieceIndex> {
        let open = |swarm: &Self, piece: PieceIndex| {
            piece.0 < swarm.geometry.pieces()
                && !swarm.have.has(piece)
                && swarm.rank(piece) == Some(Rank::Background)
                && !swarm.resting(now, piece)
                && swarm.peers.get(&key).is_some_and(|p| p.serves(now, piece))
                && swarm.partials.get(&piece).is_none_or(|p| p.open() > 0 && p.solo.is_none_or(|(solo, _)| solo == key))
        };
        if let Some(at) = self.peers.get(&key)?.at {
            let next = [at, PieceIndex(at.0 + 1)].into_iter().find(|&piece| open(self, piece));
            if next.is_some() {
                return next;
            }
        }
        let begun = self.queue.background().take(LOOK).find(|&piece| open(self, piece));
        self.pick_background(now, key).or(begun)
    }

    /// True if the background may be fetched from this peer: any but a web seed beside peers that give enough.
    pub(super) fn may_fill(&self, key: PeerKey) -> bool {
        self.peers.get(&key).is_some_and(|p| p.web.is_none()) || !self.peers_give_enough(key)
    }

    /// True if peers fetch the background as fast as this web seed would: its owner pays for what it sends, and they are
    /// there to share.
    fn peers_give_enough(&self, key: PeerKey) -> bool {
        let peers = self.servers().filter(|(_, p)| p.web.is_none() && p.useful > 0 && p.proven());
        let given: u64 = peers.filter_map(|(_, p)| p.rate.get()).sum();
        given >= self.peers.get(&key).and_then(|p| p.rate.get()).unwrap_or(ENOUGH)
    }

    /// The web seed does not have these bytes: none of their pieces is asked of it again.
    fn web_lacks(&mut self, now: Instant, key: PeerKey, bytes: &Range<u64>) {
        let Some(lost) = self.geometry.covering(bytes.clone()) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if matches!(peer.has, Has::All) {
            peer.has = Has::Some(Bits::all(self.geometry.pieces()));
        }
        let Has::Some(bits) = &mut peer.has else { return };
        for piece in lost.clone().map(PieceIndex) {
            if bits.remove(piece) {
                peer.useful = peer.useful.saturating_sub(u32::from(!self.have.has(piece)));
                peer.wanted = peer.wanted.saturating_sub(u32::from(!self.sated.has(piece)));
            }
        }
        self.void(now, key, true, &|_, asked| lost.contains(&asked.block.piece.0));
        let failed: Vec<PieceIndex> = self.failures.keys().copied().filter(|p| lost.contains(&p.0)).collect();
        failed.into_iter().for_each(|piece| self.drop_solo_of(now, key, piece));
        self.check_starved(now);
        self.work = true;
    }

    /// Requests that the web seed did not answer, by nobody's fault.
    fn returned(&mut self, now: Instant, key: PeerKey, requests: &[Request]) {
        for block in requests.iter().filter_map(|&request| self.geometry.block(request)).collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(&key) else { return };
            match peer.take(now, block) {
                Some(asked) => self.reopen(now, key, asked),
                None => drop(peer.forget(block)),
            }
        }
        self.work = true;
    }

    /// The web seed has sent wrong bytes of a piece. Where they are of one file, that file is another one there; where
    /// several lie in the piece, it is not known which.
    pub(super) fn bad_web_seed(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        let start = self.geometry.piece_offset(piece);
        let span = start..start + self.length(piece);
        let at = self.files.partition_point(|file| file.end <= span.start);
        let mut files = self.files.iter().skip(at).take_while(|file| file.start < span.end);
        let bytes = match (files.next(), files.next()) {
            (Some(file), None) => file.clone(),
            _ => span,
        };
        self.web_lacks(now, key, &bytes);
        let tainted = |(&piece, p): (&PieceIndex, &super::pieces::Partial)| {
            let within = self.geometry.within(piece, &bytes);
            (!within.is_empty() && !p.complete() && p.has_block_of(key)).then_some(piece)
        };
        let tainted: Vec<PieceIndex> = self.partials.iter().filter_map(tainted).collect();
        tainted.into_iter().for_each(|piece| self.discard(now, piece));
        self.effects.push_back(Effect::BadWebSeed(key, piece, bytes));
    }
}
