//! The connections of one torrent, as others see them: to be woken, told something, or ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::swarm::{CloseReason, PeerKey};

/// An extension whose messages others have sent; each peer has an id of its own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Metadata (BEP 9), under this id.
    Metadata(u8),
    /// Peer exchange (BEP 11).
    Pex,
    /// Holepunching (BEP 55).
    Holepunch,
}

/// What others may tell a connection's task.
#[derive(Default)]
pub(super) struct Link {
    /// There is something to send, or `closed` is set.
    pub(super) wake: Notify,
    /// Why the connection is to end.
    pub(super) closed: OnceLock<End>,
    /// Extended messages to send.
    told: Mutex<Vec<(About, Vec<u8>)>>,
}

impl Link {
    fn close(&self, end: End) {
        self.closed.get_or_init(|| end);
        self.wake.notify_one();
    }

    /// What is to be told, once.
    pub(super) fn take_told(&self) -> Vec<(About, Vec<u8>)> {
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a connection ends from our side.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum End {
    /// The swarm says so.
    #[error("{0}")]
    Swarm(CloseReason),
    /// It sent wrong bytes.
    #[error("it is banned")]
    Banned,
    /// A second connection to the same peer took its place.
    #[error("another connection to it took its place")]
    Replaced,
    /// Every connection was taken, and another peer came before it (BEP 40).
    #[error("it made room for another peer")]
    Outranked,
    /// Nobody wants the torrent any more.
    #[error("the torrent is given up")]
    GivenUp,
    /// The session ends.
    #[error("the session ends")]
    Session,
}

/// The connections of one torrent.
#[derive(Default)]
pub(super) struct Links(RwLock<BTreeMap<PeerKey, Arc<Link>>>);

impl Links {
    /// A connection's task begins.
    pub(super) fn attach(&self, peer: PeerKey) -> Arc<Link> {
        let link = Arc::<Link>::default();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(peer, Arc::clone(&link));
        link
    }

    /// A connection's task ends.
    pub(super) fn detach(&self, peer: PeerKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }

    /// Connections that are open.
    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn get(&self, peer: PeerKey) -> Option<Arc<Link>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    /// There is something to send, if the connection is there.
    pub(super) fn wake(&self, peer: PeerKey) {
        if let Some(link) = self.get(peer) {
            link.wake.notify_one();
        }
    }

    /// A connection's task is to tell its peer this.
    pub(super) fn tell(&self, peer: PeerKey, about: About, body: Vec<u8>) {
        if let Some(link) = self.get(peer) {
            link.told.lock().unwrap_or_else(PoisonError::into_inner).push((about, body));
            link.wake.notify_one();
        }
    }

    /// Ends a connection, if it is there.
    pub(super) fn end(&self, peer: PeerKey, why: End) {
        if let Some(link) = self.get(peer) {
            link.close(why);
        }
    }

    /// Ends every connection.
    pub(super) fn end_all(&self, why: End) {
        for link in self.0.read().unwrap_or_else(PoisonError::into_inner).values() {
            link.close(why);
        }
    }
}
