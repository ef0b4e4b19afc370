//! Unfinished pieces: which blocks are asked for, of whom, and who sent those that came.

use std::collections::BTreeSet;
use std::time::Instant;

use super::PeerKey;

/// One block of an unfinished piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// To be asked for.
    Open,
    /// Asked for: of whom first (others are in [`Partial::extra`]), and how many of these requests are not late.
    Asked {
        /// The first one asked.
        by: PeerKey,
        /// Requests that are not late.
        fresh: u16,
    },
    /// It came.
    Received(PeerKey),
}

/// A piece that is being fetched.
#[derive(Debug)]
pub(super) struct Partial {
    slots: Vec<Slot>,
    open: u32,
    cursor: u32,
    received: u32,
    /// Blocks of which every request is late.
    late: BTreeSet<u32>,
    /// Who was asked besides the first.
    extra: Vec<(u32, PeerKey)>,
    /// Tells this attempt at the piece from earlier and later ones.
    pub(super) attempt: u32,
    /// The only peer that is asked for it, when an earlier copy failed; and when that peer last made progress.
    pub(super) solo: Option<(PeerKey, Instant)>,
    /// Since when nobody wants it.
    pub(super) idle: Option<Instant>,
}

impl Partial {
    /// A piece of so many blocks, none asked for.
    pub(super) fn new(blocks: u32, attempt: u32) -> Self {
        Self {
            attempt,
            slots: vec![Slot::Open; blocks as usize],
            open: blocks,
            cursor: 0,
            received: 0,
            late: BTreeSet::new(),
            extra: Vec::new(),
            solo: None,
            idle: None,
        }
    }

    /// Blocks that nobody is asked for.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Blocks that came.
    pub(super) fn received(&self) -> u32 {
        self.received
    }

    /// True if somebody is asked for a block of it.
    pub(super) fn waits(&self) -> bool {
        ((self.open + self.received) as usize) < self.slots.len()
    }

    /// True if every block came: its hash is awaited.
    pub(super) fn complete(&self) -> bool {
        self.received as usize == self.slots.len()
    }

    /// True if some block is late at everyone who was asked.
    pub(super) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// The first block that nobody is asked for.
    pub(super) fn next_open(&mut self) -> Option<u32> {
        if self.open == 0 {
            return None;
        }
        while self.slots.get(self.cursor as usize).is_some_and(|s| *s != Slot::Open) {
            self.cursor += 1;
        }
        Some(self.cursor)
    }

    /// True if nobody is asked for this block, or with `hedge` if it is late at others than this peer.
    pub(super) fn may_ask(&self, index: u32, peer: PeerKey, hedge: bool) -> bool {
        match self.slots.get(index as usize) {
            Some(Slot::Open) => true,
            Some(Slot::Asked { .. }) => hedge && self.late.contains(&index) && !self.asked(index, peer),
            _ => false,
        }
    }

    /// The first late block that this peer was not asked for.
    pub(super) fn next_late(&self, peer: PeerKey) -> Option<u32> {
        self.late.iter().copied().find(|&i| !self.asked(i, peer))
    }

    /// True if the peer is asked for the block now.
    pub(super) fn asked(&self, index: u32, peer: PeerKey) -> bool {
        matches!(self.slots.get(index as usize), Some(Slot::Asked { by, .. }) if *by == peer)
            || self.extra.contains(&(index, peer))
    }

    /// A peer is asked for a block.
    pub(super) fn ask(&mut self, index: u32, peer: PeerKey) {
        match self.slots.get_mut(index as usize) {
            Some(slot @ Slot::Open) => {
                *slot = Slot::Asked { by: peer, fresh: 1 };
                self.open -= 1;
            }
            Some(Slot::Asked { fresh, .. }) => {
                *fresh += 1;
                self.extra.push((index, peer));
                self.late.remove(&index);
            }
            _ => {}
        }
    }

    /// A request became late. True if the block is now late everywhere.
    pub(super) fn mark_late(&mut self, index: u32) -> bool {
        let Some(Slot::Asked { fresh, .. }) = self.slots.get_mut(index as usize) else { return false };
        *fresh = fresh.saturating_sub(1);
        *fresh == 0 && self.late.insert(index)
    }

    /// A request is void. True if the block is open again or late everywhere.
    pub(super) fn unask(&mut self, index: u32, peer: PeerKey, was_late: bool) -> bool {
        let Some(Slot::Asked { by, fresh }) = self.slots.get_mut(index as usize) else { return false };
        if let Some(at) = self.extra.iter().position(|&e| e == (index, peer)) {
            self.extra.swap_remove(at);
        } else if *by != peer {
            return false;
        } else if let Some(at) = self.extra.iter().position(|&(i, _)| i == index) {
            *by = self.extra.swap_remove(at).1;
        } else {
            self.slots[index as usize] = Slot::Open;
            self.open += 1;
            self.cursor = self.cursor.min(index);
            self.late.remove(&index);
            return true;
        }
        if !was_late {
            *fresh = fresh.saturating_sub(1);
        }
        *fresh == 0 && self.late.insert(index)
    }

    /// A block came. Everyone else who was asked for it; none if it was there already.
    pub(super) fn receive(&mut self, index: u32, peer: PeerKey) -> Option<Vec<PeerKey>> {
        let slot = self.slots.get_mut(index as usize)?;
        let others = match *slot {
            Slot::Received(_) => return None,
            Slot::Open => {
                self.open -= 1;
                Vec::new()
            }
            Slot::Asked { .. } if self.extra.is_empty() && matches!(slot, Slot::Asked { by, .. } if *by == peer) => {
                Vec::new()
            }
            Slot::Asked { .. } => self.askers(index).filter(|&p| p != peer).collect(),
        };
        self.extra.retain(|&(i, _)| i != index);
        self.late.remove(&index);
        self.slots[index as usize] = Slot::Received(peer);
        self.received += 1;
        Some(others)
    }

    /// Who is asked for a block.
    pub(super) fn askers(&self, index: u32) -> impl Iterator<Item = PeerKey> + '_ {
        let first = match self.slots.get(index as usize) {
            Some(Slot::Asked { by, .. }) => Some(*by),
            _ => None,
        };
        first.into_iter().chain(self.extra.iter().filter(move |&&(i, _)| i == index).map(|&(_, p)| p))
    }

    /// Every request that is out: the block and the peer.
    pub(super) fn requests(&self) -> Vec<(u32, PeerKey)> {
        let first = (0u32..).zip(&self.slots).filter_map(|(i, slot)| match slot {
            Slot::Asked { by, .. } => Some((i, *by)),
            _ => None,
        });
        first.chain(self.extra.iter().copied()).collect()
    }

    /// Who sent each block; none if one is missing.
    pub(super) fn senders(&self) -> Option<Vec<PeerKey>> {
        self.slots.iter().map(|slot| if let Slot::Received(by) = slot { Some(*by) } else { None }).collect()
    }

    /// True if a block of this peer is in it.
    pub(super) fn has_block_of(&self, peer: PeerKey) -> bool {
        self.slots.contains(&Slot::Received(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    #[test]
    fn a_late_block_may_be_asked_for_elsewhere_and_the_loser_is_known() {
        let mut p = Partial::new(2, 0);
        assert_eq!(p.next_open(), Some(0));
        p.ask(0, A);
        assert_eq!((p.next_open(), p.open()), (Some(1), 1));
        assert!(p.mark_late(0));
        assert_eq!((p.next_late(A), p.next_late(B)), (None, Some(0)));
        p.ask(0, B);
        assert!(!p.has_late());
        assert_eq!(p.receive(0, B), Some(vec![A]));
        assert_eq!(p.receive(0, A), None);
        assert_eq!((p.received(), p.open()), (1, 1));
    }

    #[test]
    fn a_block_is_open_again_when_the_last_request_is_void() {
        let mut p = Partial::new(1, 0);
        p.ask(0, A);
        p.mark_late(0);
        p.ask(0, B);
        assert!(p.unask(0, B, false), "late everywhere again");
        assert!(p.has_late() && p.asked(0, A) && !p.asked(0, B));
        assert!(p.unask(0, A, true));
        assert_eq!((p.open(), p.has_late(), p.next_open()), (1, false, Some(0)));
    }
}
