//! The peers of one torrent: for each address family a list of seeds and one of leechers, so that a random subset costs
//! what it holds, and an index that finds a peer's place in them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, seq::index};

use crate::wire::PeerId;

/// What makes an announce that of a peer that is known already: nobody else may change or remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) peer: PeerId,
    pub(super) proof: Proof,
}

/// What only the peer itself can show. Peer ids are no secret: they are in every handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proof {
    /// The key of its announces (BEP 7, BEP 15), the same from all its addresses.
    Key(u32),
    /// Without a key, its address.
    Ip(IpAddr),
}

/// The address family of a peer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn other(self) -> Self {
        if self == Self::V4 { Self::V6 } else { Self::V4 }
    }
}

/// A peer under one of its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    pub(super) addr: SocketAddr,
    pub(super) announced: Instant,
    /// Its key in the registry's order of age.
    pub(super) age: u64,
    /// It has announced `completed`, which counts once.
    pub(super) completed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    seed: bool,
    at: usize,
}

/// The peers of one family.
#[derive(Debug, Default)]
struct Peers {
    leechers: Vec<Entry>,
    seeds: Vec<Entry>,
    index: BTreeMap<Identity, Place>,
    addresses: BTreeMap<SocketAddr, Identity>,
}

impl Peers {
    fn list(&self, seed: bool) -> &Vec<Entry> {
        if seed { &self.seeds } else { &self.leechers }
    }

    fn list_mut(&mut self, seed: bool) -> &mut Vec<Entry> {
        if seed { &mut self.seeds } else { &mut self.leechers }
    }

    /// The peer and whether it is a seed.
    fn find(&self, identity: &Identity) -> Option<(bool, &Entry)> {
        let place = self.index.get(identity)?;
        Some((place.seed, self.list(place.seed).get(place.at)?))
    }

    fn insert(&mut self, seed: bool, entry: Entry) {
        let list = self.list_mut(seed);
        list.push(entry);
        let at = list.len() - 1;
        self.addresses.insert(entry.addr, entry.identity);
        self.index.insert(entry.identity, Place { seed, at });
    }

    fn remove(&mut self, identity: &Identity) -> Option<(bool, Entry)> {
        let Place { seed, at } = self.index.remove(identity)?;
        let list = self.list_mut(seed);
        let entry = list.swap_remove(at);
        self.addresses.remove(&entry.addr);
        let list = self.list_mut(seed);
        // What a flood has left does not stay for good.
        if list.capacity() > 64 && list.len() < list.capacity() / 4 {
            list.shrink_to(list.len() * 2);
        }
        if let Some(moved) = list.get(at).map(|moved| moved.identity) {
            self.index.insert(moved, Place { seed, at });
        }
        Some((seed, entry))
    }

    fn len(&self) -> usize {
        self.index.len()
    }
}

/// One torrent.
#[derive(Debug, Default)]
pub(super) struct Torrent {
    v4: Peers,
    v6: Peers,
    /// Leechers and seeds that are known under an address of each family: they are counted once.
    twice: [usize; 2],
    /// Announces of `completed`.
    pub(super) downloaded: u32,
    /// When it was last announced, in the registry's order of age.
    pub(super) touched: u64,
}

impl Torrent {
    fn peers(&self, family: Family) -> &Peers {
        if family == Family::V4 { &self.v4 } else { &self.v6 }
    }

    fn peers_mut(&mut self, family: Family) -> &mut Peers {
        if family == Family::V4 { &mut self.v4 } else { &mut self.v6 }
    }

    /// Addresses that it holds.
    pub(super) fn addresses(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Peers that have everything.
    pub(super) fn complete(&self) -> u32 {
        count(self.v4.seeds.len() + self.v6.seeds.len() - self.twice[1])
    }

    /// Peers that have not.
    pub(super) fn incomplete(&self) -> u32 {
        count(self.v4.leechers.len() + self.v6.leechers.len() - self.twice[0])
    }

    pub(super) fn find(&self, family: Family, identity: &Identity) -> Option<&Entry> {
        self.peers(family).find(identity).map(|(_, entry)| entry)
    }

    /// Who has this address.
    pub(super) fn holder(&self, addr: SocketAddr) -> Option<Identity> {
        self.peers(Family::of(addr.ip())).addresses.get(&addr).copied()
    }

    /// Adds what is not there yet under this identity and family.
    fn insert(&mut self, family: Family, seed: bool, entry: Entry) {
        if self.peers(family.other()).index.contains_key(&entry.identity) {
            self.twice[usize::from(seed)] += 1;
        }
        self.peers_mut(family).insert(seed, entry);
    }

    pub(super) fn remove(&mut self, family: Family, identity: &Identity) -> Option<Entry> {
        let (seed, entry) = self.peers_mut(family).remove(identity)?;
        if self.peers(family.other()).index.contains_key(identity) {
            self.twice[usize::from(seed)] -= 1;
        }
        Some(entry)
    }

    /// Enters an announce; what was known under the same identity and family is replaced and returned. The peer's
    /// address of the other family, if any, shares its state.
    pub(super) fn enter(&mut self, family: Family, seed: bool, mut entry: Entry) -> Option<Entry> {
        let identity = entry.identity;
        let before = self.remove(family, &identity);
        let twin = self.peers(family.other()).find(&identity).map(|(seed, twin)| (seed, *twin));
        let had_completed = before.is_some_and(|e| e.completed) || twin.is_some_and(|(_, e)| e.completed);
        if entry.completed && !had_completed {
            self.downloaded = self.downloaded.saturating_add(1);
        }
        entry.completed |= had_completed;
        if let Some((twin_seed, twin)) = twin
            && (twin_seed, twin.completed) != (seed, entry.completed)
        {
            self.remove(family.other(), &identity);
            self.insert(family.other(), seed, Entry { completed: entry.completed, ..twin });
        }
        self.insert(family, seed, entry);
        before
    }

    /// Up to `most` peers of one family in random order, seeds only if they are wanted: what it costs goes with `most`.
    pub(super) fn sample<'a>(
        &'a self,
        family: Family,
        seeds: bool,
        most: usize,
        rng: &mut StdRng,
    ) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let Peers { leechers, seeds: all_seeds, .. } = self.peers(family);
        let length = leechers.len() + if seeds { all_seeds.len() } else { 0 };
        let picked = index::sample(rng, length, most.min(length));
        picked.into_iter().filter_map(|at| leechers.get(at).or_else(|| all_seeds.get(at.checked_sub(leechers.len())?)))
    }

    /// Any one peer.
    pub(super) fn any(&self, rng: &mut StdRng) -> Option<(Family, Identity)> {
        let at = rng.random_range(0..self.addresses().max(1));
        let lists = [
            (Family::V4, &self.v4.leechers),
            (Family::V4, &self.v4.seeds),
            (Family::V6, &self.v6.leechers),
            (Family::V6, &self.v6.seeds),
        ];
        let mut before = 0;
        lists.into_iter().find_map(|(family, list)| {
            let found = at.checked_sub(before).and_then(|at| list.get(at));
            before += list.len();
            found.map(|entry| (family, entry.identity))
        })
    }

    /// The ages of all entries.
    pub(super) fn ages(&self) -> impl Iterator<Item = u64> {
        let all = [&self.v4.leechers, &self.v4.seeds, &self.v6.leechers, &self.v6.seeds];
        all.into_iter().flatten().map(|entry| entry.age)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
