//! Who is asked for what, as the wire shows it: a block that is asked for twice is seen whatever the swarm believes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::metainfo::Block;
use crate::swarm::PeerKey;

/// No request is late before this time, whoever it went to: a block asked for again sooner was asked for twice.
const LATE: Duration = Duration::from_millis(100);

/// A request that is out.
#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: PeerKey,
    at: Instant,
    /// Another peer was asked this long afterwards, too soon.
    doubled: Option<Duration>,
}

/// The requests of a node that are out.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    out: BTreeMap<Block, Vec<Asked>>,
    /// Answered requests that were doubled too soon: fine if a cancel for them still waits for room in the socket.
    suspects: Vec<(PeerKey, Block, Duration)>,
}

impl Ledger {
    /// A request goes out. Whether somebody is asked for the block already.
    pub(super) fn ask(&mut self, now: Instant, peer: PeerKey, block: Block) -> bool {
        let asked = self.out.entry(block).or_default();
        for other in asked.iter_mut() {
            let age = now.saturating_duration_since(other.at);
            if age < LATE || other.peer == peer {
                other.doubled.get_or_insert(age);
            }
        }
        asked.push(Asked { peer, at: now, doubled: None });
        asked.len() > 1
    }

    /// A request is answered.
    pub(super) fn answer(&mut self, peer: PeerKey, block: Block) {
        let doubled = self.settle(peer, block);
        self.suspects.extend(doubled.map(|after| (peer, block, after)));
    }

    /// A request is taken back, maybe after its answer has come. It may have been doubled: the cancel may go out a moment
    /// after the second request.
    pub(super) fn take_back(&mut self, peer: PeerKey, block: Block) {
        self.settle(peer, block);
        self.suspects.retain(|&(p, b, _)| (p, b) != (peer, block));
    }

    /// Everything that waited to be sent to a peer is out: its doubled requests that were not taken back, and after what
    /// time they were doubled.
    pub(super) fn all_said(&mut self, peer: PeerKey) -> Vec<(Block, Duration)> {
        self.suspects.extract_if(.., |&mut (p, ..)| p == peer).map(|(_, block, after)| (block, after)).collect()
    }

    fn settle(&mut self, peer: PeerKey, block: Block) -> Option<Duration> {
        let asked = self.out.get_mut(&block)?;
        let place = asked.iter().position(|other| other.peer == peer)?;
        let doubled = asked.remove(place).doubled;
        if asked.is_empty() {
            self.out.remove(&block);
        }
        doubled
    }

    /// The peer chokes us or is gone: its requests are void.
    pub(super) fn forget(&mut self, peer: PeerKey) {
        self.out.retain(|_, asked| {
            asked.retain(|other| other.peer != peer);
            !asked.is_empty()
        });
        self.suspects.retain(|&(p, ..)| p != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::PieceIndex;

    #[test]
    fn a_request_is_out_until_it_is_settled_or_its_peer_is_gone() {
        let (base, ms) = (Instant::now(), Duration::from_millis);
        let block = |index| Block { piece: PieceIndex(3), index };
        let (a, b) = (PeerKey(1), PeerKey(2));
        let mut ledger = Ledger::default();
        assert!(!ledger.ask(base, a, block(0)) && !ledger.ask(base, a, block(1)) && !ledger.ask(base, a, block(2)));
        assert!(ledger.ask(base + ms(5), b, block(0)), "too soon");
        assert!(ledger.ask(base + ms(100), b, block(1)), "late");
        ledger.answer(a, block(0));
        ledger.answer(a, block(1));
        assert_eq!(ledger.all_said(b), []);
        assert_eq!(ledger.all_said(a), [(block(0), ms(5))]);
        assert_eq!(ledger.all_said(a), []);
        ledger.forget(b);
        assert!(!ledger.ask(base + ms(200), a, block(0)) && !ledger.ask(base + ms(200), a, block(1)));
        assert!(ledger.ask(base + ms(200), a, block(2)), "of the same peer");
        ledger.answer(a, block(2));
        assert_eq!(ledger.all_said(a), [(block(2), ms(200))]);
        ledger.ask(base + ms(300), a, block(3));
        ledger.ask(base + ms(301), b, block(3));
        ledger.answer(a, block(3));
        ledger.take_back(a, block(3));
        assert_eq!(ledger.all_said(a), [], "the cancel waited for room");
    }
}
