//! Whom to dial: the addresses that each torrent knows, when each is due again, and how many attempts run at once.
//!
//! Every known address is in one state: ready, waiting until an instant, given up, being dialled, or connected. Torrents
//! take turns, so that one with thousands of addresses does not hold up the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::priority::priority;
use super::{Place, Source, Way};
use crate::swarm::TorrentKey;

/// Addresses known of one torrent: libtorrent's limit, and 3,000 dials are 100 s at full rate.
pub(super) const MAX_KNOWN: usize = 3_000;
/// Attempts that run at once: home routers drop connections past some dozens half-open ones (anacrolix' number).
const MAX_HALF_OPEN: usize = 25;
/// Attempts in any second, as libtorrent.
const MAX_PER_SECOND: usize = 30;
/// The least time before the same address is dialled again, times its failures, as libtorrent.
const RECONNECT: Duration = Duration::from_secs(60);
/// Failures after which an address is left alone until it is named again, or [`Dials::boost`]; libtorrent's number.
const MAX_FAILS: u32 = 3;
/// The first wait for a peer that the user named; doubles up to [`RECONNECT`] and never ends, because it is meant.
const USER_RECONNECT: Duration = Duration::from_secs(5);
/// The least time between two boosts of one torrent: a reader that starves asks again and again.
const BOOST_EVERY: Duration = Duration::from_secs(5);
/// A connection that ends sooner was no success: whoever accepts and closes at once must not be dialled every 5 s.
const SHORT_LIVED: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Waiting(Instant),
    GivenUp,
    Dialling,
    Connected,
    /// Our own address: never dialled.
    Ourselves,
}

/// How long an address waits though a read starves.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// Not at all.
    UntilBoost,
    /// For as long as its last connection should have lived, and longer each time: it may be a poor link.
    Short,
    /// As long as it would anyway.
    Full,
}

#[derive(Clone, Debug)]
struct Known {
    user: bool,
    /// Nobody but strangers named it, whom a private torrent does not listen to (BEP 27).
    hearsay: bool,
    /// It was connected once.
    worked: bool,
    fails: u32,
    /// A boost makes it due no sooner: it misbehaved, refused us or closed at once.
    not_before: Option<Instant>,
    state: State,
    /// How it was reached the last time.
    way: Option<Way>,
    /// The order among equals: by canonical priority (BEP 40), or random while we do not know our address.
    tie: u32,
}

impl Known {
    /// Lower is dialled first.
    fn rank(&self) -> (bool, bool, u32, u32) {
        (!self.user, !self.worked, self.fails, self.tie)
    }
}

/// The order of an address among equals, if we know where its family sees us; the highest priority goes first.
fn tie(ours: [Option<SocketAddr>; 2], addr: SocketAddr) -> Option<u32> {
    let [v4, v6] = ours;
    let ours = if addr.is_ipv4() { v4 } else { v6 };
    Some(!priority(ours?, addr)?)
}

type Rank = ((bool, bool, u32, u32), SocketAddr);

#[derive(Clone, Debug, Default)]
struct Torrent {
    private: bool,
    known: BTreeMap<SocketAddr, Known>,
    ready: BTreeSet<Rank>,
    waiting: BTreeSet<(Instant, SocketAddr)>,
    given_up: BTreeSet<SocketAddr>,
    boosted: Option<Instant>,
}

impl Torrent {
    /// The one place where a state changes, so that the sets agree with it.
    fn set(&mut self, addr: SocketAddr, change: impl FnOnce(&mut Known)) {
        let Some(known) = self.known.get_mut(&addr) else { return };
        match known.state {
            State::Ready => drop(self.ready.remove(&(known.rank(), addr))),
            State::Waiting(due) => drop(self.waiting.remove(&(due, addr))),
            State::GivenUp => drop(self.given_up.remove(&addr)),
            State::Dialling | State::Connected | State::Ourselves => {}
        }
        change(known);
        match known.state {
            State::Ready => drop(self.ready.insert((known.rank(), addr))),
            State::Waiting(due) => drop(self.waiting.insert((due, addr))),
            State::GivenUp => drop(self.given_up.insert(addr)),
            State::Dialling | State::Connected | State::Ourselves => {}
        }
    }

    /// After a connection or an attempt has ended: waits as its failures say, or is given up.
    fn rest(&mut self, now: Instant, addr: SocketAddr, failed: bool, wait: Wait) {
        // It was named before the torrent was known to be private.
        if self.private && self.known.get(&addr).is_some_and(|known| known.hearsay) {
            return self.forget(addr);
        }
        self.set(addr, |known| {
            known.fails = if failed { known.fails.saturating_add(1) } else { 0 };
            known.not_before = match wait {
                // A starving torrent tries the dead again and again, but less and less often.
                Wait::UntilBoost if known.fails < MAX_FAILS => None,
                Wait::UntilBoost => Some(now + (SHORT_LIVED * (known.fails - MAX_FAILS + 1)).min(RECONNECT)),
                Wait::Short => Some(now + (SHORT_LIVED * (1 << known.fails.saturating_sub(1).min(3))).min(RECONNECT)),
                Wait::Full => Some(now + RECONNECT * known.fails.max(1)),
            };
            known.state = if known.user {
                let doublings = known.fails.saturating_sub(1).min(4);
                State::Waiting(now + (USER_RECONNECT * (1 << doublings)).min(RECONNECT))
            } else if known.fails >= MAX_FAILS {
                State::GivenUp
            } else {
                State::Waiting(now + RECONNECT * known.fails.max(1))
            };
        });
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(&(due, addr)) = self.waiting.first() {
            if due > now {
                break;
            }
            self.set(addr, |known| known.state = State::Ready);
        }
    }

    /// Who makes room for another address: one that was given up, and for one that is more than hearsay, hearsay that has
    /// not worked yet.
    fn least(&self, for_hearsay: bool) -> Option<SocketAddr> {
        let waiting = self.waiting.iter().map(|entry| entry.1);
        let idle = self.ready.iter().rev().map(|entry| entry.1).chain(waiting);
        let mut unproven = idle.filter(|addr| self.known.get(addr).is_some_and(|known| known.hearsay && !known.worked));
        let dead = self.given_up.first().copied();
        dead.or_else(|| if for_hearsay { None } else { unproven.next() })
    }

    fn forget(&mut self, addr: SocketAddr) {
        // Leaves the sets through `set`, with a state that is in none of them.
        self.set(addr, |known| known.state = State::Ourselves);
        self.known.remove(&addr);
    }
}

/// The addresses of all torrents.
#[derive(Debug)]
pub(super) struct Dials {
    torrents: BTreeMap<TorrentKey, Torrent>,
    /// Torrents that were removed: who looked for their peers may still find some.
    gone: BTreeSet<TorrentKey>,
    dialling: BTreeSet<(TorrentKey, SocketAddr)>,
    /// When the last attempts began, [`MAX_PER_SECOND`] at most.
    recent: VecDeque<Instant>,
    /// The torrent that had its turn last.
    last: Option<TorrentKey>,
    /// The latest time that we were told.
    clock: Option<Instant>,
    /// Where others see us, over IPv4 and over IPv6.
    ours: [Option<SocketAddr>; 2],
    rng: StdRng,
}

impl Dials {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            torrents: BTreeMap::new(),
            gone: BTreeSet::new(),
            dialling: BTreeSet::new(),
            recent: VecDeque::new(),
            last: None,
            clock: None,
            ours: [None, None],
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds addresses in canonical form, those that this source may name. One that was given up is tried once more when it
    /// is named again: somebody has heard of it since.
    pub(super) fn add(&mut self, now: Instant, key: TorrentKey, addrs: impl Iterator<Item = SocketAddr>, from: Source) {
        self.clock = Some(now);
        if self.gone.contains(&key) {
            return;
        }
        let torrent = self.torrents.entry(key).or_default();
        let (user, hearsay) = (from == Source::User, !from.serves_private());
        if hearsay && torrent.private {
            return;
        }
        for addr in addrs.filter(|&addr| from.admits(addr)) {
            if torrent.known.contains_key(&addr) {
                torrent.set(addr, |known| {
                    known.user |= user;
                    known.hearsay &= hearsay;
                    if known.state == State::GivenUp {
                        known.fails = MAX_FAILS - 1;
                        let soon = now + RECONNECT;
                        known.state = State::Waiting(known.not_before.map_or(soon, |at| at.max(soon)));
                    }
                });
                continue;
            }
            if torrent.known.len() >= MAX_KNOWN {
                match torrent.least(hearsay) {
                    Some(least) => torrent.forget(least),
                    None if !user => break,
                    None => {}
                }
            }
            let tie = tie(self.ours, addr).unwrap_or_else(|| self.rng.random());
            let state = State::Dialling;
            let new = Known { user, hearsay, worked: false, fails: 0, not_before: None, state, way: None, tie };
            torrent.known.insert(addr, new);
            torrent.set(addr, |known| known.state = State::Ready);
        }
    }

    /// The torrent is private (BEP 27): it takes no addresses from strangers, and forgets what they have named so far.
    pub(super) fn set_private(&mut self, key: TorrentKey) {
        if self.gone.contains(&key) {
            return;
        }
        let torrent = self.torrents.entry(key).or_default();
        torrent.private = true;
        let idle = |known: &Known| !matches!(known.state, State::Dialling | State::Connected);
        let hearsay = torrent.known.iter().filter(|(_, known)| known.hearsay && idle(known));
        for addr in hearsay.map(|(&addr, _)| addr).collect::<Vec<_>>() {
            torrent.forget(addr);
        }
    }

    /// Others see us there: who goes first among equals is settled anew.
    pub(super) fn set_ours(&mut self, ours: [Option<SocketAddr>; 2]) {
        self.ours = ours;
        for torrent in self.torrents.values_mut() {
            for addr in torrent.known.keys().copied().collect::<Vec<_>>() {
                torrent.set(addr, |known| known.tie = tie(ours, addr).unwrap_or(known.tie));
            }
        }
    }

    /// True if the user named this address.
    pub(super) fn is_users(&self, key: TorrentKey, addr: SocketAddr) -> bool {
        self.torrents.get(&key).and_then(|torrent| torrent.known.get(&addr)).is_some_and(|known| known.user)
    }

    pub(super) fn is_private(&self, key: TorrentKey) -> bool {
        self.torrents.get(&key).is_some_and(|torrent| torrent.private)
    }

    /// The next address to dial, which is half-open from now on until it fails or connects. `refused` says what must not
    /// be dialled (bans); it is forgotten.
    pub(super) fn next(
        &mut self,
        now: Instant,
        connections_left: usize,
        refused: impl Fn(SocketAddr) -> bool,
    ) -> Option<(TorrentKey, SocketAddr)> {
        self.clock = Some(now);
        while self.recent.front().is_some_and(|&at| now.saturating_duration_since(at) >= Duration::from_secs(1)) {
            self.recent.pop_front();
        }
        // Asked after every event, it mostly has nothing: that must cost nothing.
        if self.next_timeout(connections_left).is_none_or(|due| due > now) {
            return None;
        }
        let last = self.last;
        let after = self.torrents.keys().copied().filter(|&key| last.is_none_or(|last| key > last));
        let before = self.torrents.keys().copied().filter(|&key| last.is_some_and(|last| key <= last));
        let turns: Vec<TorrentKey> = after.chain(before).collect();
        for key in turns {
            let Some(torrent) = self.torrents.get_mut(&key) else { continue };
            torrent.ripen(now);
            while let Some(&(_, addr)) = torrent.ready.first() {
                if refused(addr) {
                    torrent.forget(addr);
                    continue;
                }
                torrent.set(addr, |known| known.state = State::Dialling);
                self.dialling.insert((key, addr));
                self.recent.push_back(now);
                self.last = Some(key);
                return Some((key, addr));
            }
        }
        None
    }

    /// When [`Dials::next`] may have something; none until another call changes that.
    pub(super) fn next_timeout(&self, connections_left: usize) -> Option<Instant> {
        if !self.may_open(connections_left) {
            return None;
        }
        let due = self
            .torrents
            .values()
            .filter_map(|t| if t.ready.is_empty() { t.waiting.first().map(|entry| entry.0) } else { self.clock })
            .min()?;
        let slot = if self.recent.len() < MAX_PER_SECOND { None } else { self.recent.front() };
        Some(slot.map_or(due, |&oldest| due.max(oldest + Duration::from_secs(1))))
    }

    fn may_open(&self, connections_left: usize) -> bool {
        self.dialling.len() < MAX_HALF_OPEN.min(connections_left)
    }

    /// A read starves: what failed to connect or was lost is due now. True if this boost counts, and there is somebody to
    /// dial.
    pub(super) fn boost(&mut self, now: Instant, key: TorrentKey) -> bool {
        self.clock = Some(now);
        let Some(torrent) = self.torrents.get_mut(&key) else { return false };
        if torrent.boosted.is_some_and(|at| now.saturating_duration_since(at) < BOOST_EVERY) {
            return false;
        }
        torrent.boosted = Some(now);
        let resting = torrent.waiting.iter().map(|entry| entry.1).chain(torrent.given_up.iter().copied());
        for addr in resting.collect::<Vec<_>>() {
            torrent.set(addr, |known| {
                known.state = match known.not_before.filter(|&at| at > now && !known.user) {
                    None => State::Ready,
                    Some(at) => State::Waiting(at),
                };
            });
        }
        !torrent.ready.is_empty()
    }

    /// How to dial an address: as it was reached before. Else the handshake is hidden in public networks, where some
    /// providers hold up what they take for BitTorrent; nobody does in a local one.
    pub(super) fn way(&self, key: TorrentKey, addr: SocketAddr) -> Way {
        let known = self.torrents.get(&key).and_then(|torrent| torrent.known.get(&addr));
        known
            .and_then(|known| known.way)
            .unwrap_or_else(|| Way { encrypted: Place::of(addr.ip()) == Place::Global, utp: false })
    }

    /// This is how to dial the address the next time.
    pub(super) fn reached(&mut self, key: TorrentKey, addr: SocketAddr, way: Way) {
        if let Some(known) = self.torrents.get_mut(&key).and_then(|torrent| torrent.known.get_mut(&addr)) {
            known.way = Some(way);
        }
    }

    /// The attempt failed.
    pub(super) fn failed(&mut self, now: Instant, key: TorrentKey, addr: SocketAddr) {
        self.end_attempt(now, key, addr, |torrent| torrent.rest(now, addr, true, Wait::UntilBoost));
    }

    /// The attempt reached a peer that we do not keep: a ban or a limit. No boost brings it back sooner.
    pub(super) fn turned_away(&mut self, now: Instant, key: TorrentKey, addr: SocketAddr) {
        self.end_attempt(now, key, addr, |torrent| torrent.rest(now, addr, true, Wait::Full));
    }

    /// The attempt reached ourselves.
    pub(super) fn ourselves(&mut self, now: Instant, key: TorrentKey, addr: SocketAddr) {
        self.end_attempt(now, key, addr, |torrent| torrent.set(addr, |known| known.state = State::Ourselves));
    }

    fn end_attempt(&mut self, now: Instant, key: TorrentKey, addr: SocketAddr, then: impl FnOnce(&mut Torrent)) {
        self.clock = Some(now);
        if self.dialling.remove(&(key, addr))
            && let Some(torrent) = self.torrents.get_mut(&key)
            && torrent.known.get(&addr).is_some_and(|known| known.state == State::Dialling)
        {
            then(torrent);
        }
    }

    /// A peer that came to us listens at `addr`: it is not dialled meanwhile. An attempt that is under way goes on, and
    /// ends as a duplicate.
    pub(super) fn connected_elsewhere(&mut self, now: Instant, key: TorrentKey, addr: SocketAddr) {
        if !self.dialling.contains(&(key, addr)) {
            self.connected(now, key, addr);
        }
    }

    /// The peer at `addr` is connected.
    pub(super) fn connected(&mut self, now: Instant, key: TorrentKey, addr: SocketAddr) {
        self.clock = Some(now);
        self.dialling.remove(&(key, addr));
        if let Some(torrent) = self.torrents.get_mut(&key) {
            torrent.set(addr, |known| {
                if known.state != State::Ourselves {
                    known.state = State::Connected;
                    known.worked = true;
                }
            });
        }
    }

    /// A connected peer that listens at `addr` is gone after `lived`. `good` is false if it broke the protocol.
    pub(super) fn disconnected(
        &mut self,
        now: Instant,
        key: TorrentKey,
        addr: SocketAddr,
        lived: Duration,
        good: bool,
    ) {
        self.clock = Some(now);
        if let Some(torrent) = self.torrents.get_mut(&key)
            && torrent.known.get(&addr).is_some_and(|known| known.state == State::Connected)
        {
            let short = lived < SHORT_LIVED;
            let wait = if !good {
                Wait::Full
            } else if short {
                Wait::Short
            } else {
                Wait::UntilBoost
            };
            torrent.rest(now, addr, !good || short, wait);
        }
    }

    pub(super) fn remove(&mut self, key: TorrentKey) {
        // What is being dialled stays half-open until its attempt ends.
        self.torrents.remove(&key);
        self.gone.insert(key);
    }

    pub(super) fn known(&self, key: TorrentKey) -> usize {
        self.torrents.get(&key).map_or(0, |torrent| torrent.known.len())
    }

    pub(super) fn half_open(&self) -> usize {
        self.dialling.len()
    }
}

#[cfg(test)]
#[path = "dials_tests.rs"]
mod tests;
