//! Content without a swarm, for the file system's tests: bytes that follow from their place, ranges that stick until they
//! are let go, and waits for what the kernel has sent instead of sleeps. Beside it a mount of it that cleans up.
#![allow(dead_code, reason = "every test file uses a part")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swarmfs::engine::{Bytes, Content, Reply};
use swarmfs::fs::{MountOptions, Mounted, Tree, mount};
use swarmfs::metainfo::Metainfo;
use swarmfs::swarm::{HandleId, TorrentKey};

/// Long enough for any machine; a wait that takes as long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    /// Torrent bytes that are not there.
    pub(crate) stuck: Vec<(TorrentKey, Range<u64>)>,
    /// A read of this byte panics.
    pub(crate) panics_at: Option<u64>,
    /// A read of this byte gets one byte less than it asked for.
    pub(crate) short_at: Option<u64>,
    /// Every range that was asked for.
    pub(crate) asked: Vec<Range<u64>>,
    pub(crate) opened: u64,
    pub(crate) flushed: u64,
    pub(crate) closed: u64,
    pub(crate) progress_asked: u64,
    parked: Vec<Parked>,
    closing: bool,
}

struct Parked {
    torrent: TorrentKey,
    bytes: Range<u64>,
    reply: Box<dyn Reply>,
}

impl State {
    pub(crate) fn parked(&self) -> usize {
        self.parked.len()
    }
}

/// The byte at a place of a torrent.
pub(crate) fn byte(torrent: TorrentKey, offset: u64) -> u8 {
    let mixed = (offset ^ u64::from(torrent.0) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

/// The bytes of a range of a torrent.
pub(crate) fn bytes(torrent: TorrentKey, range: Range<u64>) -> Vec<u8> {
    range.map(|offset| byte(torrent, offset)).collect()
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is as wished.
    pub(crate) fn wait_until(&self, what: &str, wished: impl Fn(&State) -> bool) {
        let (state, timeout) = self
            .news
            .wait_timeout_while(self.state(), PATIENCE, |state| !wished(state))
            .unwrap_or_else(PoisonError::into_inner);
        let parked = state.parked.len();
        drop(state);
        assert!(!timeout.timed_out(), "waited in vain until {what}; {parked} reads are parked");
    }

    /// Waits until `n` reads are parked.
    pub(crate) fn wait_parked(&self, n: usize) {
        self.wait_until(&format!("{n} reads are parked"), |state| state.parked.len() >= n);
    }

    /// Nothing is stuck any more, and every parked read gets its bytes.
    pub(crate) fn let_go(&self) {
        let parked = {
            let mut state = self.state();
            state.stuck.clear();
            std::mem::take(&mut state.parked)
        };
        for Parked { torrent, bytes: range, reply } in parked {
            reply.data(&bytes(torrent, range));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut self.state());
        self.news.notify_all();
        out
    }
}

impl Content for Fake {
    fn open(&self, _: TorrentKey, file: Range<u64>) -> HandleId {
        assert!(file.start < file.end, "an empty file needs no content");
        self.change(|state| {
            state.opened += 1;
            HandleId(state.opened)
        })
    }

    fn try_read(&self, torrent: TorrentKey, _: HandleId, range: &Range<u64>) -> Option<Bytes> {
        assert!(range.start < range.end, "an empty read needs no content");
        let (stuck, panics, short) = self.change(|state| {
            state.asked.push(range.clone());
            let overlaps = |(key, stuck): &(TorrentKey, Range<u64>)| {
                *key == torrent && stuck.start < range.end && range.start < stuck.end
            };
            let hit = |place: Option<u64>| place.is_some_and(|place| range.contains(&place));
            (state.stuck.iter().any(overlaps), hit(state.panics_at), hit(state.short_at))
        });
        assert!(!panics, "a read that panics, as the test wants it");
        let end = if short { range.end - 1 } else { range.end };
        (!stuck).then(|| Bytes::Copied(bytes(torrent, range.start..end)))
    }

    fn park(&self, torrent: TorrentKey, _: HandleId, bytes: Range<u64>, _: u32, reply: Box<dyn Reply>) {
        let late = self.change(|state| {
            if state.closing {
                return Some(reply);
            }
            state.parked.push(Parked { torrent, bytes, reply });
            None
        });
        if let Some(reply) = late {
            reply.error(libc::EIO);
        }
    }

    fn flush(&self, _: TorrentKey, _: HandleId) {
        self.change(|state| state.flushed += 1);
    }

    fn close(&self, _: TorrentKey, _: HandleId) {
        self.change(|state| state.closed += 1);
    }

    fn progress(&self, torrent: TorrentKey) -> (u64, u64) {
        self.change(|state| state.progress_asked += 1);
        (u64::from(torrent.0) + 1, 1000)
    }

    fn close_all(&self) {
        let parked = self.change(|state| {
            state.closing = true;
            std::mem::take(&mut state.parked)
        });
        for parked in parked {
            parked.reply.error(libc::EIO);
        }
    }
}

/// A file of a torrent that is made up.
pub(crate) struct Entry {
    pub(crate) path: &'static str,
    pub(crate) length: u64,
    /// BEP 47: `x` executable, `l` symlink, `p` pad.
    pub(crate) attr: &'static str,
    pub(crate) target: &'static str,
}

pub(crate) fn file(path: &'static str, length: u64) -> Entry {
    Entry { path, length, attr: "", target: "" }
}

/// A .torrent file of these files, read by the real parser. `created`: its creation date.
pub(crate) fn torrent(name: &str, created: Option<i64>, files: &[Entry]) -> Arc<Metainfo> {
    const PIECE: u64 = 1 << 20;
    let string = |text: &str| format!("{}:{text}", text.len());
    let path = |path: &str| format!("l{}e", path.split('/').map(string).collect::<String>());
    let entry = |file: &Entry| {
        let attr = if file.attr.is_empty() { String::new() } else { format!("4:attr{}", string(file.attr)) };
        let link = if file.target.is_empty() { String::new() } else { format!("12:symlink path{}", path(file.target)) };
        format!("d{attr}6:lengthi{}e4:path{}{link}e", file.length, path(file.path))
    };
    let pieces = files.iter().map(|file| file.length).sum::<u64>().div_ceil(PIECE) * 20;
    let files: String = files.iter().map(entry).collect();
    let name = string(name);
    let created = created.map_or_else(String::new, |date| format!("13:creation datei{date}e"));
    let start = format!("d{created}4:infod5:filesl{files}e4:name{name}12:piece lengthi{PIECE}e6:pieces{pieces}:");
    let mut torrent = start.into_bytes();
    torrent.resize(torrent.len() + usize::try_from(pieces).expect("few"), b'h');
    torrent.extend_from_slice(b"ee");
    Arc::new(Metainfo::parse(&torrent).expect("it is a good torrent"))
}

/// A mount of a [`Fake`], unmounted and cleaned up at its end, also after a panic.
pub(crate) struct Fixture {
    pub(crate) content: Arc<Fake>,
    pub(crate) mounted: Option<Mounted>,
    directory: tempfile::TempDir,
}

impl Fixture {
    /// None, with a message, where there is no FUSE.
    pub(crate) fn new(torrents: &[Arc<Metainfo>]) -> Option<Self> {
        Self::at(tempfile::tempdir().expect("a directory"), torrents)
    }

    pub(crate) fn at(directory: tempfile::TempDir, torrents: &[Arc<Metainfo>]) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let content = Arc::new(Fake::default());
        let keyed: Vec<_> = (0..).map(TorrentKey).zip(torrents.iter().cloned()).collect();
        let tree = Tree::new(&keyed);
        let mut fixture = Self { content: Arc::clone(&content), mounted: None, directory };
        let mounted = mount(tree, content, fixture.directory.path(), &MountOptions::default());
        fixture.mounted = Some(mounted.expect("it mounts"));
        Some(fixture)
    }

    /// A path below the mountpoint.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn mountpoint(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.content.close_all();
        drop(self.mounted.take());
        take_away(self.directory.path());
    }
}

/// Detaches whatever is still mounted at a path.
pub(crate) fn take_away(path: &Path) {
    for _ in 0..8 {
        if mounts_at(path).is_empty() || rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).is_err() {
            return;
        }
    }
}

/// The types of the mounts at a path.
pub(crate) fn mounts_at(path: &Path) -> Vec<String> {
    mounts_in("self", path)
}

/// The types of the mounts at a path as a process sees it.
pub(crate) fn mounts_in(process: &str, path: &Path) -> Vec<String> {
    let path = path.to_str().expect("plain");
    let table = std::fs::read_to_string(format!("/proc/{process}/mountinfo")).expect("it is there");
    let lines = table.lines().filter(|line| line.split(' ').nth(4) == Some(path));
    lines.filter_map(|line| line.split_once(" - ")?.1.split(' ').next()).map(str::to_owned).collect()
}

/// True if this machine lets us mount; says so if not.
pub(crate) fn can_mount() -> bool {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &device {
        eprintln!("skipped: /dev/fuse cannot be opened: {error}");
    }
    device.is_ok()
}

/// True if this process is root; says so if not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: this needs root");
    }
    root
}

/// The result of `work`, which must not take longer than [`PATIENCE`].
pub(crate) fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} takes too long or has failed"))
}
