//! A waited-for piece is striped over the peers that serve it: each takes as many blocks as it delivers until all of them
//! could be done, but has no more of them out at once than keep it busy. So a rate that was measured wrong, of a seed that
//! sends in bursts, costs little: who is done sooner takes what is left.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Instant;

use super::download::{BLOCK, TRIAL};
use super::peer::Peer;
use super::queue::Rank;
use super::{PeerKey, Swarm};
use crate::metainfo::PieceIndex;

/// Peers that make way for one read: the fastest.
const MAKE_WAY: usize = 8;
/// Peers that a share is reckoned with: the fastest. More would change little, and each costs a look into its bitfield.
const SHARERS: usize = 16;

/// One that a waited-for piece may be shared with.
#[derive(Debug)]
pub(super) struct Sharer {
    rate: Option<u64>,
    key: PeerKey,
    backlog: u64,
    eta: u64,
}

impl Swarm {
    /// Whom this peer may share a piece with.
    pub(super) fn sharers(&self, key: PeerKey) -> Vec<Sharer> {
        let others = self.servers().filter(|&(k, p)| k != key && !p.stalled());
        let sharer = |(key, p): (PeerKey, &Peer)| {
            let (rate, backlog) = (p.rate.get(), p.out.len() as u64 * BLOCK);
            Sharer { rate, key, backlog, eta: p.eta(1).unwrap_or(u64::MAX) }
        };
        let mut sharers: Vec<Sharer> = others.map(sharer).collect();
        if sharers.len() > SHARERS {
            sharers.select_nth_unstable_by_key(SHARERS, |sharer| (Reverse(sharer.rate), sharer.key));
            sharers.truncate(SHARERS);
        }
        sharers
    }

    /// How many blocks of a waited-for piece this peer should take now: what it can deliver until it and the others could
    /// be done with all of them; a fair share, where nothing is known of it.
    pub(super) fn share(&self, now: Instant, key: PeerKey, sharers: &[Sharer], piece: PieceIndex) -> usize {
        let Some(peer) = self.peers.get(&key) else { return 0 };
        if self.partials.get(&piece).is_some_and(|p| p.solo.is_some()) {
            return usize::MAX;
        }
        let (mut others, mut rate, mut backlog, mut soonest) = (0, 0u64, 0, u64::MAX);
        for sharer in sharers.iter().filter(|s| self.peers.get(&s.key).is_some_and(|p| p.serves(now, piece))) {
            others += 1;
            if let Some(measured) = sharer.rate {
                rate += measured;
                backlog += sharer.backlog;
                soonest = soonest.min(sharer.eta);
            }
        }
        if others == 0 {
            return usize::MAX;
        }
        if peer.stalled() {
            return 0;
        }
        let blocks = self.geometry.blocks(piece);
        let Some(own) = peer.rate.get().filter(|_| rate > 0) else {
            let fair = (blocks as usize).div_ceil(others + 1);
            return if rate > 0 { fair.min(TRIAL) } else { fair }.saturating_sub(peer.out.len());
        };
        let open = self.partials.get(&piece).map_or(blocks, |p| p.open().max(1));
        let all = (u64::from(open) + peer.out.len() as u64) * BLOCK + backlog;
        let done = all.saturating_mul(own) / (rate + own).max(1) / BLOCK;
        let done = usize::try_from(done).unwrap_or(usize::MAX).saturating_sub(peer.out.len());
        // Where all are slow, none has time for a whole block: those who would have one about as soon as anybody take one.
        done.max(usize::from(peer.eta(1).is_some_and(|eta| eta <= soonest.saturating_add(soonest / 4))))
    }

    /// A read waits for pieces that are still to be asked for, or asked for again: what less urgent work has queued at
    /// peers that serve them is taken back where that helps, which is where cancels are answered (BEP 6).
    pub(super) fn make_way(&mut self, now: Instant, pieces: &[PieceIndex], rank: Rank) {
        let open = |piece: &PieceIndex| match self.partials.get(piece) {
            Some(partial) => partial.open() > 0 || partial.has_late(),
            None => !self.have.has(*piece),
        };
        let open: Vec<PieceIndex> = pieces.iter().copied().filter(open).collect();
        if open.is_empty() {
            return;
        }
        let able = |p: &Peer| p.fast && p.stands_in_the_way() && open.iter().any(|&piece| p.serves(now, piece));
        let mut able: Vec<_> = self.servers().filter(|(_, p)| able(p)).map(|(k, p)| (p.rate.get(), k)).collect();
        able.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in able.into_iter().take(MAKE_WAY) {
            let Some(peer) = self.peers.get(&key) else { continue };
            let keep = peer.reach();
            let queued: BTreeSet<PieceIndex> = peer.out.iter().skip(keep).map(|asked| asked.block.piece).collect();
            let lower = |piece: &PieceIndex| self.rank(*piece).is_none_or(|other| other > rank);
            let waits: BTreeSet<PieceIndex> = queued.into_iter().filter(lower).collect();
            if !waits.is_empty() {
                self.void(now, key, true, &|at, asked| at >= keep && waits.contains(&asked.block.piece));
            }
        }
    }
}
