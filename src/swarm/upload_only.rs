//! Who only gives (BEP 21): seeds, and partial seeds, which have all that they want. Peers are told when we become one or
//! want something again, and two that only give part.

use std::time::Instant;

use super::peer::Peer;
use super::{CloseReason, PeerKey, Swarm};
use crate::wire::{ExtendedHandshake, Message, encode_upload_only};

impl Swarm {
    /// What our extension handshake says to this peer under `upload_only` (BEP 21). Later changes are told by messages.
    #[must_use]
    pub fn greets_upload_only(&self, peer: PeerKey) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.said_upload_only)
    }

    /// True if peers may know that we only give. Those of a super-seed would leave one that has so little (BEP 16).
    pub(super) fn says_upload_only(&self) -> bool {
        self.seeding() && self.super_seed.is_none()
    }

    /// The peer says, outside of its handshake, whether it wants anything.
    pub(super) fn peer_gives_only(&mut self, now: Instant, key: PeerKey, upload_only: bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.last_heard = now;
        peer.upload_only = upload_only;
        self.changed(now, key);
    }

    /// After any news: if we only give from now on, or no more, peers learn it, and those of no use part.
    pub(super) fn check_upload_only(&mut self, now: Instant) {
        let upload_only = self.says_upload_only();
        if std::mem::replace(&mut self.upload_only, upload_only) == upload_only {
            return;
        }
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            let Some(peer) = self.peers.get(&key) else { continue };
            if peer.web.is_some() {
                continue;
            }
            if upload_only && peer.gives_only() {
                self.close(now, key, CloseReason::BothSeeds);
            } else if peer.upload_only_news(upload_only).is_some() {
                self.wake(key);
            }
        }
    }
}

impl Peer {
    /// What tells it that we only give, or no more: the message if it has one, else the key in a further handshake, which
    /// leaves what it does not name as it was (BEP 10). None if it knows, or has no extensions.
    pub(super) fn upload_only_news(&self, upload_only: bool) -> Option<Message<'static>> {
        if !self.extended || self.said_upload_only == upload_only {
            return None;
        }
        let (id, payload) = match self.upload_only_id {
            Some(id) => (id, encode_upload_only(upload_only)),
            None => (0, ExtendedHandshake { upload_only: Some(upload_only), ..ExtendedHandshake::default() }.encode()),
        };
        Some(Message::Extended { id, payload: payload.into() })
    }
}
