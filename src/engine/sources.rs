//! What finds a torrent's peers, started and told in one place. It works from a torrent's name on the wire, since a magnet
//! link says no more; what is found goes to the node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::connect::Target;
use super::discovery::{
    self, AnnounceSpec, Announcer, Deadlines, Dht, DhtSpec, Found, Lsd, PortMap, Progress, TrackerStatus,
};
use super::shared::Shared;
use crate::node::{Source, Witness};
use crate::swarm::TorrentKey;
use crate::wire::Handshake;

/// What a tracker is told to be left while nobody knows how much there is: a block, so that it counts us as a leecher.
const UNKNOWN_LEFT: u64 = 16 * 1024;
/// The port that trackers are told where nobody can reach us: some refuse 0 (libtorrent tells this one through a proxy).
const NO_PORT: u16 = 1;

/// A torrent whose peers are looked for.
#[derive(Clone, Debug)]
pub(super) struct Sought {
    pub(super) key: TorrentKey,
    /// As the wire names it.
    pub(super) info_hash: [u8; 20],
    /// Only trackers and the user name its peers (BEP 27). False while that is not known.
    pub(super) private: bool,
    /// Tracker URLs in tiers (BEP 12).
    pub(super) trackers: Vec<Vec<String>>,
}

/// What finds one torrent's peers.
struct Sources {
    announcer: Option<Announcer>,
}

/// What finds the peers of all torrents.
#[derive(Default)]
pub(super) struct AllSources {
    torrents: RwLock<BTreeMap<TorrentKey, Sources>>,
    /// Local discovery, from the first torrent on that it may know; none where there is nothing to be heard.
    lsd: OnceLock<Option<Lsd>>,
    /// The DHT, likewise.
    dht: OnceLock<Option<Dht>>,
    /// The gateway's mapping of our port, from the first torrent on.
    port_map: OnceLock<Option<PortMap>>,
}

impl AllSources {
    fn with_announcer<R>(&self, key: TorrentKey, then: impl FnOnce(&Announcer) -> R) -> Option<R> {
        self.torrents.read().unwrap_or_else(PoisonError::into_inner).get(&key)?.announcer.as_ref().map(then)
    }

    /// A read waits and no peer can serve it.
    pub(super) fn want_peers(&self, key: TorrentKey) {
        self.with_announcer(key, Announcer::want_peers);
        if let Some(dht) = self.dht() {
            dht.want_peers(key);
        }
    }

    /// Ends what the session has but for trackers: 1.5 s at the most.
    pub(super) async fn stop(&self) {
        let (dht, port_map) = (self.dht(), self.port_map.get().and_then(Option::as_ref));
        let dht = async {
            if let Some(dht) = dht {
                dht.stop().await;
            }
        };
        let port_map = async {
            if let Some(port_map) = port_map {
                port_map.stop().await;
            }
        };
        tokio::join!(dht, port_map);
    }

    /// The torrent has become complete.
    pub(super) fn completed(&self, key: TorrentKey) {
        self.with_announcer(key, Announcer::completed);
    }

    /// The DHT, if it runs.
    fn dht(&self) -> Option<&Dht> {
        self.dht.get()?.as_ref()
    }

    /// Strangers are no longer told of a torrent, nor asked for its peers.
    fn hide(&self, key: TorrentKey) {
        self.lsd.get().and_then(Option::as_ref).into_iter().for_each(|lsd| lsd.remove(key));
        self.dht().into_iter().for_each(|dht| dht.remove(key));
    }

    /// Ends the search for a torrent's peers. What is returned still has its trackers to tell.
    fn end(&self, key: TorrentKey) -> Option<Announcer> {
        self.hide(key);
        self.torrents.write().unwrap_or_else(PoisonError::into_inner).remove(&key)?.announcer
    }

    /// How its trackers are doing.
    pub(super) fn trackers(&self, key: TorrentKey) -> Vec<TrackerStatus> {
        self.with_announcer(key, Announcer::status).unwrap_or_default()
    }

    /// Ends the search for peers of all torrents. What is returned still has its trackers to tell.
    pub(super) fn end_all(&self) -> Vec<(TorrentKey, Announcer)> {
        let all = std::mem::take(&mut *self.torrents.write().unwrap_or_else(PoisonError::into_inner));
        all.into_iter().filter_map(|(key, sources)| Some((key, sources.announcer?))).collect()
    }
}

impl Shared {
    /// Begins to look for a torrent's peers.
    pub(super) fn seek(self: &Arc<Self>, sought: Sought) {
        let Sought { key, info_hash, private, .. } = sought;
        if private {
            self.node().set_private(key);
        }
        self.candidates(key, &self.config.peers, Source::User);
        self.map_port();
        if !private {
            self.lsd().into_iter().for_each(|lsd| lsd.add(info_hash, key));
            self.dht().into_iter().for_each(|dht| dht.add(info_hash, key));
        }
        let announcer = (!sought.trackers.is_empty()).then(|| self.announce(sought));
        self.sources.torrents.write().unwrap_or_else(PoisonError::into_inner).insert(key, Sources { announcer });
    }

    /// The torrent is looked for no more: its trackers are told, and the node forgets it.
    pub(super) fn seek_no_more(&self, key: TorrentKey) {
        if let Some(announcer) = self.sources.end(key) {
            self.runtime.spawn(announcer.stop());
        }
        self.node().remove_torrent(key);
        self.node_wake.notify_one();
    }

    /// Our handshake for a torrent. Who has the DHT is to tell us where.
    pub(super) fn handshake(&self, target: &Target) -> Handshake {
        let dht = self.has_dht(target.key()).is_some();
        Handshake::ours(target.info_hash(), self.peer_id, dht)
    }

    /// The DHT, if it may know of the torrent.
    fn has_dht(&self, key: TorrentKey) -> Option<&Dht> {
        self.sources.dht().filter(|_| !self.node().is_private(key))
    }

    /// The port of our node of the DHT, for a peer of this torrent that wants to hear of it (BEP 5).
    pub(super) fn dht_port(&self, key: TorrentKey, theirs: &Handshake) -> Option<u16> {
        if theirs.dht() { self.has_dht(key)?.port() } else { None }
    }

    /// A peer of this torrent has a node of the DHT at this port (BEP 5).
    pub(super) fn dht_node(&self, key: TorrentKey, ip: IpAddr, port: u16) {
        if let Some(dht) = self.has_dht(key) {
            dht.node(SocketAddr::new(ip.to_canonical(), port));
        }
    }

    /// A torrent whose peers are looked for turned out to be private: from now on only trackers and the user name them.
    pub(super) fn now_private(&self, key: TorrentKey) {
        self.node().set_private(key);
        self.sources.with_announcer(key, Announcer::now_private);
        self.sources.hide(key);
    }

    /// Local discovery, which starts here.
    fn lsd(self: &Arc<Self>) -> Option<&Lsd> {
        let start = || {
            // Nobody else is on the loopback.
            if !self.config.lsd || !self.network.is_direct() || self.config.listen.ip().is_loopback() {
                return None;
            }
            let me = Arc::downgrade(self);
            let heard = Arc::new(move |key, addr| {
                if let Some(shared) = me.upgrade() {
                    shared.candidates(key, &[addr], Source::Lsd);
                }
            });
            let _in_runtime = self.runtime.enter();
            Some(Lsd::start(self.network.clone(), self.port, heard))
        };
        self.sources.lsd.get_or_init(start).as_ref()
    }

    /// Asks the gateway for our port, once.
    fn map_port(self: &Arc<Self>) {
        self.sources.port_map.get_or_init(|| {
            let port = std::num::NonZeroU16::new(self.port)?;
            // The libraries that ask it make sockets of their own.
            if !self.config.port_map || !self.network.admits_others() || self.config.listen.ip().is_loopback() {
                return None;
            }
            let me = Arc::downgrade(self);
            let external = Arc::new(move |ip| {
                if let Some(shared) = me.upgrade() {
                    shared.seen(Witness::Gateway, ip);
                }
            });
            let _in_runtime = self.runtime.enter();
            Some(PortMap::start(self.network.clone(), port, external))
        });
    }

    /// The DHT, which starts here.
    fn dht(self: &Arc<Self>) -> Option<&Dht> {
        let start = || {
            // Its library makes sockets of its own.
            if !self.config.dht || !self.network.admits_others() {
                return None;
            }
            let (me, us) = (Arc::downgrade(self), Arc::downgrade(self));
            let spec = DhtSpec {
                network: self.network.clone(),
                bootstrap: self.config.dht_bootstrap.clone(),
                nodes: self.config.dht_nodes.clone(),
                port: self.port,
                found: Arc::new(move |key, addrs, place| {
                    if let Some(shared) = me.upgrade() {
                        shared.candidates(key, addrs, Source::Dht(place));
                    }
                }),
                external: Arc::new(move |ip| {
                    if let Some(shared) = us.upgrade() {
                        shared.seen(Witness::Dht, ip);
                    }
                }),
            };
            let _in_runtime = self.runtime.enter();
            Some(Dht::start(spec))
        };
        self.sources.dht.get_or_init(start).as_ref()
    }

    fn announce(self: &Arc<Self>, sought: Sought) -> Announcer {
        let Sought { key, info_hash, private, trackers } = sought;
        let spec = AnnounceSpec {
            info_hash,
            peer_id: self.peer_id,
            port: if self.port == 0 { NO_PORT } else { self.port },
            tiers: trackers,
            private,
            key: self.announce_key,
            network: self.network.clone(),
            deadlines: Deadlines::default(),
        };
        let (me, found) = (Arc::downgrade(self), Arc::downgrade(self));
        let progress = Arc::new(move || {
            let torrent = me.upgrade().and_then(|shared| shared.torrent(key));
            torrent.map_or_else(|| Progress { left: UNKNOWN_LEFT, ..Progress::default() }, |torrent| torrent.progress())
        });
        let found = Arc::new(move |answer: Found| {
            if let Some(shared) = found.upgrade() {
                answer.external_ip.into_iter().for_each(|ip| shared.seen(Witness::Tracker(key), ip));
                shared.candidates(key, &answer.peers, Source::Tracker(answer.place));
            }
        });
        let _in_runtime = self.runtime.enter();
        discovery::spawn(spec, progress, found)
    }
}
