//! The swarms that are read from.

use std::cell::Cell;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bench::Bench;
use crate::support::dataset::Dataset;
use crate::support::foreign::{LibTorrent, OpenTracker, swarmfs_seed};
use crate::support::free_address;
use crate::support::hostile::Behaviour;
use crate::support::lab::Lab;
use crate::support::link::LINKED;
use crate::support::nginx::Nginx;
use crate::support::peer::Peer;
use crate::support::process::Running;
use crate::support::torrent::{Content, Torrent};

/// The length of a piece in all rows, bytes.
pub(crate) const PIECE: u64 = 1 << 20;
/// Who seeds a row's torrent, unless it says otherwise.
pub(crate) const SEEDS: usize = 4;
/// libtorrent's default tick of 500 ms sends in bursts, and a seek would measure those.
pub(crate) const SEED_SETTINGS: [&str; 4] =
    ["tick_interval=10", "send_buffer_watermark=8388608", "max_out_request_queue=2000", "unchoke_slots_limit=64"];

/// Seeds of one torrent, and what is asked of it.
pub(crate) struct Swarm {
    pub(crate) torrent: PathBuf,
    /// The file's path in a mount.
    pub(crate) file: String,
    pub(crate) length: u64,
    pub(crate) original: Original,
    /// Whom a client is told of that does not ask a tracker.
    pub(crate) peers: Vec<SocketAddr>,
    /// What libtorrent's downloads are told besides: peers and settings.
    pub(crate) for_libtorrent: Vec<String>,
    /// From where the seeds can be reached, if not from everywhere, and how many have had one of these.
    places: (Vec<Ipv4Addr>, Cell<usize>),
    seeds: Seeds,
}

enum Seeds {
    Libtorrent {
        seeds: Vec<LibTorrent>,
        _tracker: OpenTracker,
    },
    Ours {
        _seeds: Vec<Running>,
        _tracker: OpenTracker,
    },
    Scripted(Vec<Peer>),
    Nginx {
        _server: Nginx,
    },
    /// Somebody else holds them.
    Unseen,
}

/// What the bytes should be.
pub(crate) enum Original {
    File(PathBuf),
    /// From this offset on.
    Bytes(Arc<Content>, u64),
}

impl Original {
    #[track_caller]
    pub(crate) fn assert_same(&self, offset: u64, bytes: &[u8]) {
        let same = match self {
            Self::File(path) => {
                let mut right = vec![0; bytes.len()];
                File::open(path).and_then(|file| file.read_exact_at(&mut right, offset)).expect("the original");
                right == bytes
            }
            Self::Bytes(content, start) => {
                let start = usize::try_from(start + offset).expect("an offset");
                content.bytes[start..start + bytes.len()] == *bytes
            }
        };
        assert!(same, "wrong bytes at {offset}");
    }
}

impl Swarm {
    /// libtorrent seeds a file of noise, with a tracker; each sends at most `rate` bytes per second, 0 for no limit.
    pub(crate) fn of_libtorrent(lab: &Lab, bench: &Bench, length: u64, rate: u64, settings: &[&str]) -> Self {
        let (dataset, torrent, tracker, file) = announced(lab, bench, length);
        let seed = |_| LibTorrent::seed_with(lab, &file, &dataset.parent, rate, settings);
        let seeds: Vec<LibTorrent> = (0..SEEDS).map(seed).collect();
        tracker.wait_for_seeds(&torrent, SEEDS as u64);
        let peers = seeds.iter().map(|seed| seed.address).collect();
        Self::of_dataset(&dataset, file, peers, Seeds::Libtorrent { seeds, _tracker: tracker })
    }

    /// As `of_libtorrent` without limit, from seeds of our own.
    pub(crate) fn of_ours(lab: &Lab, bench: &Bench, length: u64) -> Self {
        let (dataset, torrent, tracker, file) = announced(lab, bench, length);
        let seeds: Vec<_> = (0..SEEDS).map(|_| swarmfs_seed(lab, &file, &dataset.parent)).collect();
        tracker.wait_for_seeds(&torrent, SEEDS as u64);
        let (seeds, peers) = seeds.into_iter().unzip();
        Self::of_dataset(&dataset, file, peers, Seeds::Ours { _seeds: seeds, _tracker: tracker })
    }

    fn of_dataset(dataset: &Dataset, torrent: PathBuf, peers: Vec<SocketAddr>, seeds: Seeds) -> Self {
        let entry = dataset.largest();
        let original = Original::File(dataset.root().join(&entry.path));
        let file = format!("{}/{}", dataset.name, entry.path);
        let length = entry.length;
        Self { torrent, file, length, original, peers, for_libtorrent: Vec::new(), places: Default::default(), seeds }
    }

    /// Seeds that are elsewhere, and are reached from the next addresses of `lab` alone.
    pub(crate) fn unseen(dataset: &Dataset, torrent: PathBuf, peers: Vec<SocketAddr>, lab: &Lab) -> Self {
        let places = (lab.next_addresses(LINKED).collect(), Cell::new(0));
        Self { places, ..Self::of_dataset(dataset, torrent, peers, Seeds::Unseen) }
    }

    /// nginx alone, as a web seed.
    pub(crate) fn of_nginx(bench: &Bench, length: u64) -> Self {
        let dataset = Dataset::noise(length);
        let dir = bench.dir.path().join("nginx");
        std::fs::create_dir(&dir).expect("a directory");
        let server = Nginx::start(&dir, &dataset.parent, Duration::from_secs(900));
        let torrent = Torrent::of(&dataset, PIECE).write_with(bench.dir.path(), None, &[&server.url("/plain/")]);
        Self::of_dataset(&dataset, torrent, Vec::new(), Seeds::Nginx { _server: server })
    }

    /// With this told to libtorrent's downloads.
    pub(crate) fn for_libtorrent(self, words: &[&str]) -> Self {
        Self { for_libtorrent: words.iter().map(|word| (*word).to_owned()).collect(), ..self }
    }

    /// Where the next client lives.
    pub(crate) fn place(&self) -> SocketAddr {
        let (places, used) = &self.places;
        let place = places.get(used.get() % places.len().max(1));
        used.set(used.get() + 1);
        place.map_or_else(free_address, |place| SocketAddr::from((*place, 6881)))
    }

    /// Seeds that behave as told, of a torrent of one file.
    pub(crate) fn scripted(bench: &Bench, content: &Arc<Content>, behaviours: &[Behaviour]) -> Self {
        let torrent = content.torrent.write(bench.dir.path(), None);
        let peers: Vec<Peer> = behaviours.iter().map(|behaviour| Peer::start(content, *behaviour)).collect();
        Self {
            torrent,
            file: content.torrent.name.clone(),
            length: content.torrent.length,
            original: Original::Bytes(Arc::clone(content), 0),
            peers: peers.iter().map(|peer| peer.address).collect(),
            for_libtorrent: Vec::new(),
            places: Default::default(),
            seeds: Seeds::Scripted(peers),
        }
    }

    /// Payload bytes that the seeds have sent; none if they do not say.
    pub(crate) fn sent(&self) -> Option<f64> {
        match &self.seeds {
            Seeds::Libtorrent { seeds, .. } => {
                // They tell every 50 ms.
                std::thread::sleep(Duration::from_millis(200));
                Some(seeds.iter().map(LibTorrent::uploaded).sum())
            }
            Seeds::Ours { .. } | Seeds::Nginx { .. } | Seeds::Unseen => None,
            Seeds::Scripted(peers) => {
                let of = |peer: &Peer| peer.count(|counts| &counts.bytes);
                Some(peers.iter().map(of).sum::<u64>() as f64)
            }
        }
    }

    /// Reads the seeds' data once, so that their disk is not what is measured.
    pub(crate) fn warm(&self) {
        if let Original::File(path) = &self.original {
            let mut file = File::open(path).expect("the original");
            std::io::copy(&mut file, &mut std::io::sink()).expect("its bytes");
        }
    }
}

fn announced(lab: &Lab, bench: &Bench, length: u64) -> (Dataset, Torrent, OpenTracker, PathBuf) {
    let dataset = Dataset::noise(length);
    let torrent = Torrent::of(&dataset, PIECE);
    let tracker = OpenTracker::start(lab, &[&torrent]);
    let dir: &Path = bench.dir.path();
    let file = torrent.write(dir, Some(&tracker.url()));
    (dataset, torrent, tracker, file)
}
