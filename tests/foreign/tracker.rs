//! libtorrent, Transmission, aria2 and qBittorrent know each other through our tracker alone, over HTTP and UDP, IPv4 and
//! IPv6: libtorrent seeds, each of the others downloads it all, then libtorrent downloads from qBittorrent. Transmission
//! and aria2 are left out where they have no such trackers: UDP over IPv6.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, QBittorrent, Transmission, aria2_with, torrent_by_libtorrent};
use crate::support::lab::Lab;
use crate::support::mounts::mount_at;
use crate::support::process::shell;
use crate::support::reading::assert_same_but_for_empty_files;
use crate::support::wait_until;
use swarmfs::tracker::{Tally, Tracker, TrackerConfig};

const LIMIT: Duration = Duration::from_secs(90);

/// A lab with our tracker in it, and a torrent that names it.
struct Fixture {
    lab: Lab,
    dataset: Dataset,
    file: PathBuf,
    tracker: Tracker,
    _runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn new(lab: Lab, scheme: &str) -> Self {
        let dataset = Dataset::small();
        let torrent = torrent_by_libtorrent(&dataset, 256);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        // Its sockets are opened by this thread, and so in the lab.
        let listen = vec![SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 6969))];
        let tracker = runtime.block_on(Tracker::start(TrackerConfig { listen, ..TrackerConfig::default() }));
        // One of the addresses that its wildcard stands for.
        let url = format!("{scheme}://{}/announce", SocketAddr::new(lab.address().ip(), 6969));
        let file = torrent.write(lab.dir.path(), Some(&url));
        Self { lab, dataset, file, tracker: tracker.expect("a tracker"), _runtime: runtime }
    }

    fn tally(&self) -> Tally {
        self.tracker.tally()
    }

    /// Waits until one more peer is known than before.
    #[track_caller]
    fn wait_for_peers(&self, peers: usize, who: &str) {
        wait_until(Duration::from_secs(30), &format!("{who} has announced"), || self.tally().peers >= peers);
    }

    /// Runs one downloader in a directory of its own, and compares what it has got.
    #[track_caller]
    fn downloads(&self, name: &str, download: impl FnOnce(&Path)) {
        let (start, dir) = (Instant::now(), self.lab.subdir(name));
        let before = self.tally();
        download(&dir);
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        let after = self.tally();
        assert!(after.http + after.udp > before.http + before.udp, "{name} has asked our tracker");
        let copy = dir.join(&self.dataset.name);
        if name == "transmission" {
            assert_same_but_for_empty_files(&self.dataset, &copy);
        } else {
            shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &copy], LIMIT);
        }
    }

    /// libtorrent gets it all from whoever the tracker names.
    #[track_caller]
    fn libtorrent_downloads(&self, name: &str) {
        self.downloads(name, |dir| {
            LibTorrent::leech(&self.lab, &self.file, dir).complete(LIMIT);
        });
    }

    #[track_caller]
    fn transmission_downloads(&self) {
        self.downloads("transmission", |dir| {
            let leech = Transmission::start(&self.lab, &self.file, dir);
            assert!(crate::support::holds_within(LIMIT, || leech.is_complete()), "Transmission: {}", leech.info());
        });
    }

    #[track_caller]
    fn aria2_downloads(&self, options: &[&str]) {
        self.downloads("aria2", |dir| {
            let mut leech = aria2_with(&self.lab, &self.file, dir, options);
            let Some((status, _)) = leech.wait(LIMIT) else { panic!("aria2 is not done: {}", leech.log()) };
            assert!(status.success(), "{}", leech.log());
        });
    }

    /// qBittorrent downloads it all, and then is the only one that has it: libtorrent gets it from there.
    #[track_caller]
    fn qbittorrent_downloads_and_seeds(&self, seed: LibTorrent) {
        let mut qbittorrent = None;
        self.downloads("qbittorrent", |dir| {
            let leech = QBittorrent::start(&self.lab, &self.file, dir);
            assert!(crate::support::holds_within(LIMIT, || leech.is_complete()), "qBittorrent: {:?}", leech.info());
            qbittorrent = Some(leech);
        });
        drop(seed);
        self.libtorrent_downloads("libtorrent-from-qbittorrent");
        drop(qbittorrent);
    }

    /// A mount of ours reads it all.
    #[track_caller]
    fn a_mount_reads(&self) {
        let mount = mount_at(&[&self.file], self.lab.address()).limit(LIMIT * 2).start();
        shell("diff -r \"$1\" \"$2\"", &[&self.dataset.root(), &mount.path(&self.dataset.name)], LIMIT);
    }

    #[track_caller]
    fn seed(&self) -> LibTorrent {
        let seed = LibTorrent::seed(&self.lab, &self.file, &self.dataset.parent, 0);
        self.wait_for_peers(1, "the seed");
        seed
    }
}

#[test]
#[ignore = "needs root, iproute2, libtorrent, Transmission, aria2 and qBittorrent"]
fn clients_meet_over_http_and_ipv4() {
    let fixture = Fixture::new(Lab::enter(), "http");
    let seed = fixture.seed();
    fixture.libtorrent_downloads("libtorrent");
    fixture.transmission_downloads();
    fixture.aria2_downloads(&[]);
    fixture.a_mount_reads();
    fixture.qbittorrent_downloads_and_seeds(seed);
    let tally = fixture.tally();
    assert_eq!((tally.udp, tally.refused), (0, 0), "{tally:?}");
}

#[test]
#[ignore = "needs root, iproute2, libtorrent, Transmission, aria2 and qBittorrent"]
fn clients_meet_over_udp_and_ipv4() {
    let fixture = Fixture::new(Lab::enter(), "udp");
    let seed = fixture.seed();
    fixture.libtorrent_downloads("libtorrent");
    fixture.transmission_downloads();
    // aria2 has UDP trackers only with its DHT, in which it is alone here.
    let nodes = format!("--dht-file-path={}", fixture.lab.dir.path().join("dht.dat").display());
    fixture.aria2_downloads(&["--enable-dht=true", &nodes]);
    fixture.qbittorrent_downloads_and_seeds(seed);
    let tally = fixture.tally();
    assert_eq!((tally.http, tally.refused), (0, 0), "{tally:?}");
}

#[test]
#[ignore = "needs root, iproute2, libtorrent, Transmission, aria2 and qBittorrent"]
fn clients_meet_over_http_and_ipv6() {
    let fixture = Fixture::new(Lab::enter_v6(), "http");
    let seed = fixture.seed();
    fixture.libtorrent_downloads("libtorrent");
    fixture.transmission_downloads();
    fixture.aria2_downloads(&[]);
    fixture.a_mount_reads();
    fixture.qbittorrent_downloads_and_seeds(seed);
    let tally = fixture.tally();
    assert_eq!((tally.udp, tally.refused), (0, 0), "{tally:?}");
}

#[test]
#[ignore = "needs root, iproute2, libtorrent and qBittorrent"]
fn clients_meet_over_udp_and_ipv6() {
    let fixture = Fixture::new(Lab::enter_v6(), "udp");
    let seed = fixture.seed();
    fixture.libtorrent_downloads("libtorrent");
    // aria2 1.36 has UDP trackers over IPv4 alone, and Transmission 3.00 does not find one at an IPv6 address.
    fixture.qbittorrent_downloads_and_seeds(seed);
    let tally = fixture.tally();
    assert_eq!((tally.http, tally.refused), (0, 0), "{tally:?}");
}
