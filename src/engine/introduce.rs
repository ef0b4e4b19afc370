//! Holepunching (BEP 55): peers of a torrent are introduced to each other, ask us to, and are dialled when they were. The
//! node says who and whom.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug;

use super::connect::{Target, connect};
use super::dial::punch;
use super::links::About;
use super::shared::Shared;
use crate::node::Rendezvous;
use crate::swarm::{PeerKey, TorrentKey};
use crate::wire::Holepunch;

impl Shared {
    /// True if peers of the torrent are introduced to each other: it is uTP that gets through, and who does not want peers
    /// to name others does not want this.
    pub(super) fn introduces(&self, key: TorrentKey) -> bool {
        self.utp.is_some() && self.exchanges(key)
    }

    /// A peer has told its id for holepunching; 0 is none. Returns the one to use.
    pub(super) fn learn_holepunch(&self, key: TorrentKey, peer: PeerKey, id: u8, utp: bool) -> u8 {
        if !self.introduces(key) {
            return 0;
        }
        self.node().has_holepunch(peer, id != 0, utp);
        id
    }

    /// An address did not answer: who named it may introduce us.
    pub(super) fn ask_introduction(&self, key: TorrentKey, addr: SocketAddr) {
        if !self.introduces(key) {
            return;
        }
        let introducer = self.node().introducer(Instant::now(), key, addr);
        if let Some(peer) = introducer {
            debug!(%addr, "who named this peer is asked to introduce us");
            self.tell_holepunch(key, peer, Holepunch::Rendezvous(addr));
        }
    }

    /// A peer has sent this.
    pub(super) fn holepunch(self: &Arc<Self>, key: TorrentKey, peer: PeerKey, message: Holepunch) {
        if !self.introduces(key) {
            return;
        }
        let now = Instant::now();
        match message {
            Holepunch::Rendezvous(addr) => {
                let verdict = self.node().rendezvous(now, peer, addr);
                match verdict {
                    Rendezvous::Ignored => {}
                    Rendezvous::Refused(why) => self.tell_holepunch(key, peer, Holepunch::Refused(addr, why)),
                    Rendezvous::Introduced { target, target_at, asker_at } => {
                        debug!(%asker_at, %target_at, "two peers are introduced to each other");
                        self.tell_holepunch(key, target, Holepunch::Connect(asker_at));
                        self.tell_holepunch(key, peer, Holepunch::Connect(target_at));
                    }
                }
            }
            Holepunch::Connect(addr) => {
                let follow = self.node().introduced(now, peer, addr);
                if let Some(target) = self.target(key).filter(|_| follow) {
                    tokio::spawn(meet(Arc::clone(self), target, addr));
                } else if follow {
                    self.node().punched(key, addr);
                }
            }
            Holepunch::Refused(addr, why) => debug!(%addr, ?why, "there is no introduction"),
        }
    }

    fn tell_holepunch(&self, key: TorrentKey, peer: PeerKey, message: Holepunch) {
        self.targets(key).for_each(|target| target.links().tell(peer, About::Holepunch, message.encode()));
    }
}

/// Dials a peer that dials us at the same time, then the connection's life.
async fn meet(shared: Arc<Shared>, target: Target, addr: SocketAddr) {
    debug!(torrent = %target.name(), %addr, "a peer that we were introduced to is dialled");
    let met = punch(&shared, &target, addr).await;
    shared.node().punched(target.key(), addr);
    match met {
        Ok((stream, theirs)) => connect(&shared, target, stream, addr, &theirs, true).await,
        Err(e) => debug!(torrent = %target.name(), %addr, "an introduction fails: {e}"),
    }
}
