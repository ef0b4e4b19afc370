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

    /// A request is answered, rejected or taken back. If it was doubled too soon, and how soon: fine if it is taken back,
    /// since that may go out a moment after the second request.
    pub(super) fn settle(&mut self, peer: PeerKey, block: Block) -> Option<Duration> {
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
        assert_eq!(ledger.settle(a, block(0)), Some(ms(5)));
        assert_eq!(ledger.settle(a, block(1)), None);
        ledger.forget(b);
        assert!(!ledger.ask(base + ms(200), a, block(0)) && !ledger.ask(base + ms(200), a, block(1)));
        assert!(ledger.ask(base + ms(200), a, block(2)), "of the same peer");
        assert_eq!(ledger.settle(a, block(2)), Some(ms(200)));
    }
}
