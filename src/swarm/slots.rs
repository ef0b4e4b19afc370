//! Upload slots that we hold at the seeds of a crowded swarm. A seed with more takers than slots goes round among them:
//! libtorrent's gives one to whom it sends anything at all, until that one has had 20 pieces (and a minute); then it is the
//! turn of all others. A background that takes what it can get so loses slot after slot, and a read that comes while it
//! has none waits for minutes. While a file is open the background therefore leaves two such seeds to the reads.

use std::time::{Duration, Instant};

use super::peer::{Has, Peer};
use super::{PeerKey, Swarm};

/// Seeds that are left to the reads.
const SPARED: usize = 2;
/// What the background asks of these: a block each time. A seed that has sent nothing for a round of its choker, 10 or
/// 15 s, gives the slot to another.
const TRICKLE: Duration = Duration::from_secs(4);

impl Swarm {
    /// True if the background leaves this peer to the reads: it is one of the first two seeds that serve us while another,
    /// which we have asked for a slot, does not.
    pub(super) fn spares(&self, key: PeerKey) -> bool {
        let seed = |p: &Peer| matches!(p.has, Has::All);
        !self.handles.is_empty()
            && self.peers.get(&key).is_some_and(seed)
            && self.servers().filter(|&(_, p)| seed(p) && !p.choking).take(SPARED).any(|(k, _)| k == key)
            && self.peers.values().any(|p| seed(p) && p.choking && p.said_interested)
    }

    /// Blocks of the background that a peer which is left to the reads may be asked for: one at a time.
    pub(super) fn trickle(&mut self, now: Instant, key: PeerKey) -> usize {
        let epoch = self.picker.epoch();
        let Some(peer) = self.peers.get_mut(&key) else { return 0 };
        let next = peer.last_block + TRICKLE;
        if peer.out.is_empty() && next <= now {
            return 1;
        }
        peer.nothing_in = Some(epoch);
        peer.look_again = Some(next.max(now + TRICKLE / 4));
        self.arm(key);
        0
    }
}
