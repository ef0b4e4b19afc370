//! Peer exchange (BEP 11): which peer is told of which others and when, and how often one may tell us. What a peer was told
//! is kept, so that it is sent changes only; while nothing changes nothing is due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::place::Place;
use super::source::Source;
use crate::swarm::{PeerKey, TorrentKey};
use crate::wire::{MAX_PEX, PexMessage, PexPeer};

/// The least time between two messages to one peer (BEP 11: no more than once a minute).
const SEND_EVERY: Duration = Duration::from_secs(60);
/// A change waits for others so long: of twenty peers that connect in one go the first message names more than one.
const SETTLE: Duration = Duration::from_secs(1);
/// The least time between two messages of one peer that are taken. A little under the minute that it has to wait, since
/// what is left out is never said again.
const ACCEPT_EVERY: Duration = Duration::from_secs(55);
/// Messages that are taken sooner than that: who has just connected to many may want to say so.
const EARLY: u32 = 2;
/// Messages of a peer within [`SEND_EVERY`] after which it is closed; libtorrent's number.
const FLOOD: usize = 6;

/// A connected peer, as others are told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) peer: PeerKey,
    /// Where the connection leads.
    pub(super) ip: IpAddr,
    /// Where it listens, if that is known.
    pub(super) listens: Option<SocketAddr>,
    /// We have dialled it.
    pub(super) reachable: bool,
    /// It has holepunch (BEP 55).
    pub(super) holepunch: bool,
}

/// What one peer that wants to be told was told, and has told.
#[derive(Clone, Debug)]
struct Told {
    torrent: TorrentKey,
    peers: BTreeSet<SocketAddr>,
    sent: Option<Instant>,
    /// Since when there may be something that it was not told.
    changed: Option<Instant>,
}

impl Told {
    /// When it may be told what has changed.
    fn due(&self) -> Option<Instant> {
        let settled = self.changed? + SETTLE;
        Some(self.sent.map_or(settled, |sent| settled.max(sent + SEND_EVERY)))
    }
}

/// What one peer has sent.
#[derive(Clone, Debug)]
struct Heard {
    /// When its messages of the last minute came.
    recent: VecDeque<Instant>,
    accepted: Option<Instant>,
    early: u32,
}

/// A peer's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchanged {
    /// It is taken.
    Taken,
    /// It came too soon, and is ignored.
    Ignored,
    /// It is one of a flood: the peer is to be closed.
    Flood,
}

/// The exchange of all torrents.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange {
    told: BTreeMap<PeerKey, Told>,
    heard: BTreeMap<PeerKey, Heard>,
}

impl Exchange {
    /// A peer wants to be told, or does so no more.
    pub(super) fn wants(&mut self, now: Instant, torrent: TorrentKey, peer: PeerKey, wants: bool) {
        if wants {
            let told = Told { torrent, peers: BTreeSet::new(), sent: None, changed: Some(now) };
            self.told.entry(peer).or_insert(told);
        } else {
            self.told.remove(&peer);
        }
    }

    /// A peer of a torrent has come, has gone, or has told where it listens.
    pub(super) fn changed(&mut self, now: Instant, torrent: TorrentKey) {
        for told in self.told.values_mut().filter(|told| told.torrent == torrent) {
            told.changed.get_or_insert(now);
        }
    }

    /// A peer is gone.
    pub(super) fn remove(&mut self, peer: PeerKey) {
        self.told.remove(&peer);
        self.heard.remove(&peer);
    }

    /// Nobody of this torrent is told anything any more.
    pub(super) fn remove_torrent(&mut self, torrent: TorrentKey) {
        self.told.retain(|_, told| told.torrent != torrent);
    }

    /// When a peer may be told something; none before a change.
    pub(super) fn next(&self) -> Option<Instant> {
        self.told.values().filter_map(Told::due).min()
    }

    /// The torrents of which a peer may be told something now.
    pub(super) fn due(&self, now: Instant) -> BTreeSet<TorrentKey> {
        let due = self.told.values().filter(|told| told.due().is_some_and(|at| at <= now));
        due.map(|told| told.torrent).collect()
    }

    /// What peers of a torrent are to be told now. `all` are its connected peers, `seeds` those of them that want nothing.
    pub(super) fn tell(
        &mut self,
        now: Instant,
        torrent: TorrentKey,
        all: &[Listed],
        seeds: &BTreeSet<PeerKey>,
    ) -> Vec<(PeerKey, PexMessage)> {
        let mut messages = Vec::new();
        for (&peer, told) in self.told.iter_mut().filter(|(_, told)| told.torrent == torrent) {
            if told.due().is_none_or(|at| at > now) {
                continue;
            }
            let Some(receiver) = all.iter().find(|listed| listed.peer == peer) else {
                told.changed = None;
                continue;
            };
            // It takes from us what we would take from it, and what lies further inwards is none of its business.
            let may_know = Source::Pex(Place::of(receiver.ip));
            let others = all.iter().filter(|other| other.peer != peer);
            let known: BTreeMap<SocketAddr, u8> = others
                .filter_map(|other| Some((other.listens?, flags(other, seeds))))
                .filter(|&(addr, _)| receiver.listens != Some(addr) && may_know.admits(addr))
                .collect();
            let added = known.iter().filter(|(addr, _)| !told.peers.contains(addr));
            let added: Vec<PexPeer> = added.map(|(&addr, &flags)| PexPeer { addr, flags }).take(MAX_PEX).collect();
            let dropped = told.peers.iter().filter(|addr| !known.contains_key(addr));
            let dropped: Vec<SocketAddr> = dropped.copied().take(MAX_PEX).collect();
            told.peers.extend(added.iter().map(|added| added.addr));
            told.peers.retain(|addr| !dropped.contains(addr));
            let all_told = told.peers.len() == known.len() && told.peers.iter().all(|addr| known.contains_key(addr));
            told.changed = (!all_told).then_some(now);
            if !added.is_empty() || !dropped.is_empty() {
                told.sent = Some(now);
                messages.push((peer, PexMessage { added, dropped }));
            }
        }
        messages
    }

    /// A message has come.
    pub(super) fn heard(&mut self, now: Instant, peer: PeerKey) -> Exchanged {
        let new = || Heard { recent: VecDeque::new(), accepted: None, early: EARLY };
        let heard = self.heard.entry(peer).or_insert_with(new);
        while heard.recent.front().is_some_and(|&at| now.saturating_duration_since(at) >= SEND_EVERY) {
            heard.recent.pop_front();
        }
        if heard.recent.len() >= FLOOD {
            return Exchanged::Flood;
        }
        heard.recent.push_back(now);
        let rested = heard.accepted.is_none_or(|at| now.saturating_duration_since(at) >= ACCEPT_EVERY);
        if !rested {
            if heard.early == 0 {
                return Exchanged::Ignored;
            }
            heard.early -= 1;
        }
        heard.accepted = Some(now);
        Exchanged::Taken
    }
}

fn flags(peer: &Listed, seeds: &BTreeSet<PeerKey>) -> u8 {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    bit(seeds.contains(&peer.peer), PexPeer::SEED)
        | bit(peer.reachable, PexPeer::REACHABLE)
        // Who has it has uTP.
        | bit(peer.holepunch, PexPeer::HOLEPUNCH | PexPeer::UTP)
}

#[cfg(test)]
#[path = "pex_tests.rs"]
mod tests;
