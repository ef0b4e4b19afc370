//! From a magnet link to the torrent: metadata that the cache directory has is taken from there, other metadata is asked of
//! peers, who are looked for from the first moment on.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use tracing::debug;

use super::awaited::Awaited;
use super::session::Session;
use super::shared::Shared;
use super::sources::Sought;
use crate::cache::Store;
use crate::error::{Error, Result};
use crate::metainfo::{HostPort, Magnet, Metainfo};
use crate::node::{Place, Source};
use crate::swarm::TorrentKey;

/// A magnet link whose metadata is looked for.
#[derive(Clone)]
pub struct Finding {
    magnet: Magnet,
    state: State,
}

#[derive(Clone)]
enum State {
    Known(Arc<Metainfo>),
    Awaited(Arc<Awaited>),
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finding").field("magnet", &self.magnet).field("status", &self.status()).finish()
    }
}

impl Finding {
    /// Waits for the metadata. Trackers and web seeds are those of the link.
    ///
    /// # Errors
    /// [`Error::Metadata`] if it is the torrent's and yet cannot be used, [`Error::TwoTorrents`] if the link has another v2
    /// info-hash.
    pub async fn metadata(&self) -> Result<Arc<Metainfo>> {
        match &self.state {
            State::Known(meta) => Ok(Arc::clone(meta)),
            State::Awaited(awaited) => {
                let info = awaited.metadata().await;
                // Sizes and names of up to 16 MiB: not beside other tasks.
                let parsed = tokio::task::spawn_blocking(move || Metainfo::parse_info(&info));
                let parsed = parsed
                    .await
                    .map_err(|e| Error::System { what: "read the metadata", cause: std::io::Error::other(e) })?;
                match parsed {
                    Ok(meta) if self.magnet.id.v2.is_some_and(|v2| meta.id.v2 != Some(v2)) => {
                        Err(Error::TwoTorrents { name: self.magnet.label() })
                    }
                    Ok(meta) => {
                        if meta.private {
                            awaited.now_private();
                        }
                        Ok(Arc::new(self.magnet.with_metadata(meta)))
                    }
                    Err(cause) => Err(Error::Metadata { name: self.magnet.label(), cause }),
                }
            }
        }
    }

    /// The metadata, if it was in the cache directory.
    #[must_use]
    pub fn known(&self) -> Option<Arc<Metainfo>> {
        if let State::Known(meta) = &self.state { Some(Arc::clone(meta)) } else { None }
    }

    /// Where the search stands, for people.
    #[must_use]
    pub fn status(&self) -> String {
        match &self.state {
            State::Known(_) => "the metadata is in the cache directory".to_owned(),
            State::Awaited(awaited) => awaited.status(),
        }
    }

    /// The link.
    #[must_use]
    pub fn magnet(&self) -> &Magnet {
        &self.magnet
    }
}

impl Session {
    /// Begins to look for the metadata of a torrent. [`Session::add`] with it takes over the connections that were made.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the torrent is here already or looked for.
    pub fn find(&self, magnet: Magnet) -> Result<Finding> {
        let shared = &self.shared;
        let info_hash = magnet.id.wire();
        if let Some(meta) = shared.keeper.store().and_then(|store| Store::metadata(store, &magnet.id)) {
            if shared.by_hash.read().unwrap_or_else(PoisonError::into_inner).contains_key(&info_hash) {
                return Err(Error::Duplicate(magnet.id));
            }
            let meta = Arc::new(magnet.with_metadata(meta));
            return Ok(Finding { magnet, state: State::Known(meta) });
        }
        let key = shared.name(info_hash, magnet.id)?;
        let awaited = Arc::new(Awaited::new(
            key,
            magnet.id,
            magnet.label(),
            Arc::clone(shared),
            shared.seed() ^ u64::from(key.0),
        ));
        shared.awaited.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&awaited));
        self.spawn(Arc::clone(&awaited).run_timer());
        shared.seek(Sought { key, info_hash, private: false, trackers: magnet.trackers.clone() });
        shared.seek_at(key, &magnet.peers);
        shared.enter_dht_at(key, &magnet.nodes);
        Ok(Finding { magnet, state: State::Awaited(awaited) })
    }
}

impl Session {
    /// Ends the search for a torrent that cannot be used or is not wanted any more: its connections close, its trackers
    /// are told, and its info-hash is free. Without effect once it was added.
    pub fn give_up(&self, finding: &Finding) {
        let State::Awaited(awaited) = &finding.state else { return };
        let (shared, key) = (&self.shared, awaited.key);
        if shared.torrent(key).is_some() {
            return;
        }
        awaited.give_up();
        shared.awaited.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        shared.by_hash.write().unwrap_or_else(PoisonError::into_inner).remove(&awaited.id.wire());
        shared.seek_no_more(key);
    }
}

impl Shared {
    /// Addresses that a magnet link names (`x.pe`), by name or in digits.
    pub(super) fn seek_at(self: &Arc<Self>, key: TorrentKey, peers: &[HostPort]) {
        self.look_up(peers, move |shared, named, addrs| {
            // A name is whatever a stranger makes of it.
            let source = if named { Source::Tracker(Place::Global) } else { Source::Link };
            shared.candidates(key, addrs, source);
        });
    }

    /// Nodes of the DHT that a magnet link names (`dht`): they are asked where nobody else answers.
    fn enter_dht_at(self: &Arc<Self>, key: TorrentKey, nodes: &[HostPort]) {
        self.look_up(nodes, move |shared, named, addrs| {
            let usable = addrs.iter().filter(|addr| !named || Place::of(addr.ip()) == Place::Global);
            usable.for_each(|addr| shared.dht_node(key, addr.ip(), addr.port()));
        });
    }

    /// Finds hosts of a magnet link. `then` hears whether one was named, or given in digits, and its addresses.
    fn look_up(
        self: &Arc<Self>,
        hosts: &[HostPort],
        then: impl Fn(&Self, bool, &[SocketAddr]) + Clone + Send + 'static,
    ) {
        for HostPort { host, port } in hosts.iter().cloned() {
            let (shared, then) = (Arc::clone(self), then.clone());
            self.runtime.spawn(async move {
                match shared.network.lookup(&host, port).await {
                    Ok(addrs) => then(&shared, host.parse::<IpAddr>().is_err(), &addrs),
                    Err(e) => debug!(host, "a host of the magnet link is not found: {e}"),
                }
            });
        }
    }
}
