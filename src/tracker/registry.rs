//! What the tracker knows: who is in which torrent. Pure: `now` comes in as an argument, the generator is seeded.
//!
//! An announce puts a peer at the end of one order of age over all torrents, so what has expired is always at its front
//! and leaves a few at a time with the announces that come. When room is short, the emptiest torrents leave first, of
//! those the ones announced longest ago: a flood of made-up info-hashes pushes out itself before any real swarm. Every
//! step costs the logarithm of what is held, and a reply costs the peers in it.
#![forbid(unsafe_code)]

mod torrent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::wire::{AnnounceQuery, Event, PeerId, ScrapeEntry};
use torrent::{Entry, Family, Identity, Proof, Torrent};

/// Peers in a reply whose asker does not say how many it wants (BEP 3).
const DEFAULT_WANTED: usize = 50;
/// Peers in a reply at the most, whatever is asked: clients ask for 200 at the most.
pub const MAX_WANTED: usize = 200;
/// Expired peers that leave with one announce: many more than the one that it may add.
const SWEEP: usize = 32;

type InfoHash = [u8; 20];

/// What a registry keeps to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time between two announces of a peer, told in every reply.
    pub interval: Duration,
    /// How long a peer is known after its last announce.
    pub lifetime: Duration,
    /// The only torrents that are served; all with `None`.
    pub whitelist: Option<BTreeSet<InfoHash>>,
    /// Torrents at the most.
    pub max_torrents: usize,
    /// Peers at the most, over all torrents; a peer with addresses of both families counts as two.
    pub max_peers: usize,
    /// Peers of one torrent at the most, counted likewise.
    pub max_torrent_peers: usize,
}

/// How an answer is going to be sent, and so what it may hold.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Peers at the most for an IPv4 asker.
    pub v4: usize,
    /// Peers at the most for an IPv6 asker.
    pub v6: usize,
    /// An asker that is known under addresses of both families gets peers of both.
    pub both: bool,
}

/// The answer to an announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Seeds, the asker included.
    pub complete: u32,
    /// Leechers, the asker included.
    pub incomplete: u32,
    /// Others, in random order, those of the asker's family first.
    pub peers: Vec<(PeerId, SocketAddr)>,
}

/// Why an announce is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The whitelist does not hold the torrent.
    #[error("this tracker does not serve this torrent")]
    Unlisted,
    /// Nobody can connect to it.
    #[error("port 0 is no port to connect to")]
    Port,
}

/// One entry in the order of age.
#[derive(Debug)]
struct Aged {
    info_hash: InfoHash,
    family: Family,
    identity: Identity,
}

/// Torrents and their peers.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    rng: StdRng,
    torrents: BTreeMap<InfoHash, Torrent>,
    /// Every address of every peer, the longest silent first.
    ages: BTreeMap<u64, Aged>,
    /// Every torrent: the fewest addresses first, of those the longest silent.
    order: BTreeSet<(usize, u64, InfoHash)>,
    /// Announces so far: the clock of the two orders.
    count: u64,
}

impl Registry {
    /// An empty one. The seed decides which peers answers name.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            rng: StdRng::seed_from_u64(seed),
            torrents: BTreeMap::new(),
            ages: BTreeMap::new(),
            order: BTreeSet::new(),
            count: 0,
        }
    }

    /// What it keeps to.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Enters an announce that came from `from`, and answers it. A peer is known by its id and key, or by its id and
    /// address if it sends no key; `from` and the query's port are where others are told to find it.
    ///
    /// # Errors
    /// [`Refusal`], for the peer to read.
    pub fn announce(
        &mut self,
        now: Instant,
        from: IpAddr,
        query: &AnnounceQuery,
        room: Room,
    ) -> Result<Answer, Refusal> {
        self.expire(now, SWEEP);
        if !self.serves(&query.info_hash) {
            return Err(Refusal::Unlisted);
        }
        let from = from.to_canonical();
        let proof = if query.key == 0 { Proof::Ip(from) } else { Proof::Key(query.key) };
        let identity = Identity { peer: query.peer_id, proof };
        if query.event == Event::Stopped {
            for family in [Family::V4, Family::V6] {
                self.remove(&query.info_hash, family, &identity);
            }
            let ScrapeEntry { complete, incomplete, .. } = self.scrape(&query.info_hash).unwrap_or_default();
            return Ok(Answer { complete, incomplete, peers: Vec::new() });
        }
        if query.port == 0 {
            return Err(Refusal::Port);
        }
        let addr = SocketAddr::new(from, query.port);
        // One address is one peer: who was there before has started again under another id or key.
        let before = self.torrents.get(&query.info_hash).and_then(|torrent| torrent.holder(addr));
        if let Some(before) = before.filter(|before| *before != identity) {
            self.remove(&query.info_hash, Family::of(from), &before);
        }
        self.make_room(&query.info_hash, Family::of(from), &identity);
        self.enter(now, addr, query, identity);
        Ok(self.answer(now, addr, query, &identity, room))
    }

    /// The figures of a torrent; `None` for one that nobody has announced or that is not served.
    #[must_use]
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<ScrapeEntry> {
        let torrent = self.torrents.get(info_hash)?;
        Some(ScrapeEntry {
            complete: torrent.complete(),
            downloaded: torrent.downloaded,
            incomplete: torrent.incomplete(),
        })
    }

    /// Removes up to `most` peers whose time is over: true if there may be more of them.
    pub fn expire(&mut self, now: Instant, most: usize) -> bool {
        for _ in 0..most {
            let Some((_, Aged { info_hash, family, identity })) = self.ages.first_key_value() else { return false };
            let (info_hash, family, identity) = (*info_hash, *family, *identity);
            let entry = self.torrents.get(&info_hash).and_then(|torrent| torrent.find(family, &identity));
            if entry.is_some_and(|entry| !self.is_over(now, entry)) {
                return false;
            }
            self.remove(&info_hash, family, &identity);
        }
        true
    }

    /// Torrents that are held.
    #[must_use]
    pub fn torrents(&self) -> usize {
        self.torrents.len()
    }

    /// Peers that are held; one with addresses of both families counts as two.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.ages.len()
    }

    fn serves(&self, info_hash: &InfoHash) -> bool {
        self.settings.whitelist.as_ref().is_none_or(|list| list.contains(info_hash))
    }

    fn is_over(&self, now: Instant, entry: &Entry) -> bool {
        now.saturating_duration_since(entry.announced) >= self.settings.lifetime
    }

    /// Makes room for one more peer, if this one is not known.
    fn make_room(&mut self, info_hash: &InfoHash, family: Family, identity: &Identity) {
        let torrent = self.torrents.get(info_hash);
        if torrent.is_some_and(|torrent| torrent.find(family, identity).is_some()) {
            return;
        }
        if torrent.is_none() {
            while self.torrents.len() >= self.settings.max_torrents.max(1) {
                let Some((_, _, emptiest)) = self.order.pop_first() else { break };
                for age in self.torrents.remove(&emptiest).iter().flat_map(Torrent::ages) {
                    self.ages.remove(&age);
                }
            }
        }
        if torrent_is_full(self.torrents.get(info_hash), self.settings.max_torrent_peers) {
            self.remove_any(info_hash);
        }
        while self.ages.len() >= self.settings.max_peers.max(1) {
            // Torrents without a peer come before these: they give no room.
            let mut with_peers = self.order.range((1, 0, [0; 20])..);
            let victim = with_peers.find(|(.., emptiest)| emptiest != info_hash).map_or(*info_hash, |(.., hash)| *hash);
            if !self.remove_any(&victim) {
                break;
            }
        }
    }

    /// Removes any one peer of a torrent: false if it has none.
    fn remove_any(&mut self, info_hash: &InfoHash) -> bool {
        let victim = self.torrents.get(info_hash).and_then(|torrent| torrent.any(&mut self.rng));
        victim.is_some_and(|(family, identity)| self.remove(info_hash, family, &identity))
    }

    fn enter(&mut self, now: Instant, addr: SocketAddr, query: &AnnounceQuery, identity: Identity) {
        self.count += 1;
        let (info_hash, family) = (query.info_hash, Family::of(addr.ip()));
        let torrent = self.torrents.entry(info_hash).or_default();
        self.order.remove(&(torrent.addresses(), torrent.touched, info_hash));
        let completed = query.event == Event::Completed;
        let entry = Entry { identity, addr, announced: now, age: self.count, completed };
        if let Some(before) = torrent.enter(family, query.left == 0, entry) {
            self.ages.remove(&before.age);
        }
        torrent.touched = self.count;
        self.order.insert((torrent.addresses(), torrent.touched, info_hash));
        self.ages.insert(self.count, Aged { info_hash, family, identity });
    }

    /// Removes a peer's address: false if it is not there. A torrent without any stays only for its count of downloads.
    fn remove(&mut self, info_hash: &InfoHash, family: Family, identity: &Identity) -> bool {
        let Some(torrent) = self.torrents.get_mut(info_hash) else { return false };
        let size = torrent.addresses();
        let Some(entry) = torrent.remove(family, identity) else { return false };
        self.ages.remove(&entry.age);
        self.order.remove(&(size, torrent.touched, *info_hash));
        if torrent.addresses() > 0 || torrent.downloaded > 0 {
            self.order.insert((torrent.addresses(), torrent.touched, *info_hash));
        } else {
            self.torrents.remove(info_hash);
        }
        true
    }

    /// Peers for one that has just announced: a seed gets leechers only.
    fn answer(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        query: &AnnounceQuery,
        identity: &Identity,
        room: Room,
    ) -> Answer {
        let family = Family::of(addr.ip());
        let wanted = usize::try_from(query.numwant).ok().filter(|_| query.numwant <= i32::MAX.unsigned_abs());
        let most = wanted.unwrap_or(DEFAULT_WANTED).min(MAX_WANTED);
        let most = most.min(if family == Family::V4 { room.v4 } else { room.v6 });
        let Some(torrent) = self.torrents.get(&query.info_hash) else {
            return Answer { complete: 0, incomplete: 0, peers: Vec::new() };
        };
        let mut peers = Vec::with_capacity(most.min(torrent.addresses()));
        let other = (room.both && torrent.find(family.other(), identity).is_some()).then(|| family.other());
        for family in [Some(family), other].into_iter().flatten() {
            if peers.len() >= most {
                break;
            }
            // One more than is wanted: the asker itself may be among them.
            let some = torrent.sample(family, query.left != 0, most - peers.len() + 1, &mut self.rng);
            let some = some.filter(|entry| {
                entry.identity.peer != query.peer_id
                    && now.saturating_duration_since(entry.announced) < self.settings.lifetime
            });
            peers.extend(some.take(most - peers.len()).map(|entry| (entry.identity.peer, entry.addr)));
        }
        Answer { complete: torrent.complete(), incomplete: torrent.incomplete(), peers }
    }
}

fn torrent_is_full(torrent: Option<&Torrent>, most: usize) -> bool {
    torrent.is_some_and(|torrent| torrent.addresses() >= most.max(1))
}

#[cfg(test)]
mod tests;
