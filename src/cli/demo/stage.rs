//! What is behind a demo: three seeds, the session that mounts, and the program that reads through the mount.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use crate::cache::DataDir;
use crate::config::{Config, Fill};
use crate::engine::{AddOptions, LocalCopy, Session};
use crate::fs::{self, MountOptions, Mounted, Tree};
use crate::metainfo::Metainfo;
use crate::status::Snapshot;
use crate::swarm::{Cell, TorrentKey};

/// The tracker's interval.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Seeds.
const SEEDS: u8 = 3;
/// How long the file is to stream: long enough to look at.
const SECONDS: u64 = 8;
/// What a seed may upload, bytes a second.
const RATES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;
/// Three seeds on one machine announce within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// An address of this machine for one of its parts, and any port: each seed has its own, as in a real swarm.
pub(super) fn address(part: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 0, 0, part).into(), 0)
}

/// The seeds and the session that mounts.
pub(super) struct Stage {
    seeds: Vec<Session>,
    meta: Arc<Metainfo>,
    session: Session,
    key: TorrentKey,
    /// What each seed may upload, bytes a second.
    pub(super) rate: u64,
}

impl Stage {
    /// Starts the seeds of what lies at `path` and, once the tracker knows them, the session that is to mount. A file
    /// of `length` bytes will be streamed.
    ///
    /// # Errors
    /// One sentence.
    pub(super) async fn start(meta: &Arc<Metainfo>, path: &Path, length: u64) -> Result<Self> {
        let rate = (length / SECONDS / u64::from(SEEDS)).clamp(*RATES.start(), *RATES.end());
        let parent = path.parent().unwrap_or(path);
        let mut seeds = Vec::new();
        for part in 2..2 + SEEDS {
            let config = Config { upload_limit: Some(rate), fill: Fill::None, ..config(part) };
            let data = DataDir::open(meta, parent)?;
            // It has just been hashed, and the mount will hash every piece again.
            let have = vec![true; meta.geometry.pieces() as usize];
            let session = Session::start(config)?;
            let key = session.add(
                Arc::clone(meta),
                AddOptions { copy: Some(LocalCopy { data, have, unchecked: false }), ..AddOptions::default() },
            )?;
            announced(&session, key).await?;
            seeds.push(session);
        }
        let session = Session::start(config(2 + SEEDS))?;
        let key = session.add(Arc::clone(meta), AddOptions::default())?;
        Ok(Self { seeds, meta: Arc::clone(meta), session, key, rate })
    }

    /// Mounts.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn mount(&self, mountpoint: &Path) -> Result<Mounted> {
        let tree = Tree::new(&[(self.key, Arc::clone(&self.meta))]);
        let content = self.session.content();
        Ok(tokio::task::block_in_place(|| fs::mount(tree, content, mountpoint, &MountOptions::default()))?)
    }

    /// The figures of the session that mounts.
    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        self.session.snapshot(self.key)
    }

    /// Its pieces, in `cells` stretches.
    pub(super) fn piece_map(&self, cells: usize) -> Vec<Cell> {
        self.session.piece_map(self.key, cells).unwrap_or_default()
    }

    /// Ends all sessions.
    pub(super) async fn stop(self) {
        self.session.stop().await;
        for seed in self.seeds {
            seed.stop().await;
        }
    }
}

fn config(part: u8) -> Config {
    Config { listen: address(part), listen_is_default: false, ..Config::default() }
}

/// Waits until the tracker has answered.
async fn announced(session: &Session, key: TorrentKey) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let trackers = session.snapshot(key).map(|s| s.trackers).unwrap_or_default();
        if trackers.iter().any(|tracker| tracker.answered.is_some()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let why = trackers.into_iter().find_map(|tracker| tracker.error);
            bail!("a seed does not reach the tracker: {}", why.unwrap_or_else(|| "no answer".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A program that reads a file through the mount, in order, and compares it with the original.
pub(super) struct Reading {
    shared: Arc<Shared>,
    began: Instant,
    result: watch::Receiver<Option<Result<(), String>>>,
}

#[derive(Default)]
struct Shared {
    read: AtomicU64,
    /// Microseconds, once they are known.
    first: AtomicU64,
    all: AtomicU64,
}

impl Reading {
    /// Starts to read `copy` and `original`.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub(super) fn start(copy: PathBuf, original: PathBuf) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let (done, result) = watch::channel(None);
        let (theirs, began) = (Arc::clone(&shared), Instant::now());
        // No worker of the runtime: it waits for what the runtime fetches.
        let reader = std::thread::Builder::new().name("demo-reader".to_owned()).spawn(move || {
            let result = compare(&copy, &original, &theirs, began);
            theirs.all.store(micros(began.elapsed()), Ordering::Release);
            done.send_replace(Some(result));
        });
        reader.context("cannot start a thread")?;
        Ok(Self { shared, began, result })
    }

    /// Bytes that have been read and compared.
    pub(super) fn read(&self) -> u64 {
        self.shared.read.load(Ordering::Acquire)
    }

    /// How long it took, or takes by now.
    pub(super) fn elapsed(&self) -> Duration {
        match self.shared.all.load(Ordering::Acquire) {
            0 => self.began.elapsed(),
            micros => Duration::from_micros(micros),
        }
    }

    /// From opening the file to its first byte.
    pub(super) fn first_byte(&self) -> Duration {
        Duration::from_micros(self.shared.first.load(Ordering::Acquire))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What is different, or could not be read.
    pub(super) async fn finished(&self) -> Result<()> {
        let mut result = self.result.clone();
        let result = result.wait_for(Option::is_some).await.context("the reader has gone")?.clone();
        result.unwrap_or(Ok(())).map_err(anyhow::Error::msg)
    }
}

fn compare(copy: &Path, original: &Path, shared: &Shared, began: Instant) -> Result<(), String> {
    let open = |path: &Path| File::open(path).map_err(|e| format!("{}: cannot be opened: {e}", path.display()));
    let (mut copied, mut whole) = (open(copy)?, open(original)?);
    let (mut left, mut right) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    loop {
        let count = retried(&mut copied, &mut left).map_err(|e| format!("{}: {e}", copy.display()))?;
        if shared.first.load(Ordering::Relaxed) == 0 {
            shared.first.store(micros(began.elapsed()), Ordering::Release);
        }
        if count == 0 {
            let rest = retried(&mut whole, &mut right).map_err(|e| format!("{}: {e}", original.display()))?;
            return if rest == 0 { Ok(()) } else { Err("the original is longer".to_owned()) };
        }
        whole.read_exact(&mut right[..count]).map_err(|e| format!("{}: {e}", original.display()))?;
        if left[..count] != right[..count] {
            let at = shared.read.load(Ordering::Relaxed);
            return Err(format!("it differs from the original between byte {at} and {}", at + count as u64));
        }
        shared.read.fetch_add(count as u64, Ordering::AcqRel);
    }
}

fn retried(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
