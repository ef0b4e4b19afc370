//! The announces of one torrent, as the engine makes them, with what they find.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use swarmfs::engine::Network;
use swarmfs::engine::discovery::{self, AnnounceSpec, Announcer, Deadlines, Found, Progress, TrackerStatus};
use swarmfs::wire::PeerId;

pub(crate) const HASH: [u8; 20] = *b"\x00\x01 %&+=~\x7f\x80\xff/?#abcdef";

/// Deadlines that a test can wait for.
pub(crate) const SHORT: Deadlines = Deadlines {
    connect: Duration::from_millis(400),
    receive: Duration::from_millis(400),
    total: Duration::from_millis(1200),
    retry: Duration::from_millis(300),
    stop: Duration::from_millis(600),
};

pub(crate) struct Client {
    pub(crate) announcer: Announcer,
    pub(crate) found: mpsc::Receiver<Found>,
    pub(crate) left: Arc<AtomicU64>,
}

pub(crate) fn spec(tiers: &[&[String]]) -> AnnounceSpec {
    AnnounceSpec {
        info_hash: HASH,
        peer_id: PeerId(*b"-SF0010-abcdefghijkl"),
        port: 6881,
        tiers: tiers.iter().map(|tier| tier.to_vec()).collect(),
        private: false,
        key: 0x5EED,
        network: Network::default(),
        deadlines: Deadlines::default(),
    }
}

pub(crate) fn spawn(spec: AnnounceSpec, left: u64) -> Client {
    spawn_with(spec, Progress { downloaded: 11, uploaded: 22, left, partial_seed: false })
}

pub(crate) fn spawn_with(spec: AnnounceSpec, progress: Progress) -> Client {
    let (send, found) = mpsc::channel();
    let left = Arc::new(AtomicU64::new(progress.left));
    let shown = Arc::clone(&left);
    let progress = move || Progress { left: shown.load(Ordering::SeqCst), ..progress };
    // The receiver goes first when a test ends.
    let announcer = discovery::spawn(spec, Arc::new(progress), Arc::new(move |found| drop(send.send(found))));
    Client { announcer, found, left }
}

impl Client {
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.found.recv_timeout(Duration::from_secs(15)).expect("peers").peers
    }

    /// The trackers' status once it satisfies `good`.
    pub(crate) fn status(&self, good: impl Fn(&[TrackerStatus]) -> bool) -> Vec<TrackerStatus> {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let status = self.announcer.status();
            if good(&status) {
                return status;
            }
            assert!(Instant::now() < until, "{status:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The first tracker's error, once it has one.
    pub(crate) fn error(&self) -> String {
        self.status(|s| s[0].error.is_some())[0].error.clone().unwrap_or_default()
    }
}

pub(crate) fn peer(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7000))
}

/// What announces leave from this address.
pub(crate) fn bound(ip: std::net::IpAddr) -> Network {
    Network::of(&swarmfs::config::Config { listen: SocketAddr::new(ip, 0), ..Default::default() }).expect("a network")
}
