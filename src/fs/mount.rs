//! A mount from its start to its end: the session with the kernel, and the order in which it is given up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use fuser::{INodeNo, Notifier, Session, SessionACL};

use super::fuse::{Fuse, Shown};
use super::options::{MountOptions, Parsed};
use super::{Detached, FS_TYPE, Inode, Tree, attach, mountinfo};
use crate::engine::Content;
use crate::metainfo::Metainfo;
use crate::swarm::TorrentKey;
use crate::{Error, Result};

/// Threads that take requests from the kernel. None of them ever waits, so two saturate two cores; more were slower.
const THREADS: usize = 2;
/// How long programs get to close their files after MNT_DETACH before the connection is aborted.
const DETACH_GRACE: Duration = Duration::from_secs(1);
/// How long an aborted session may take to notice. It ends by itself; no thread is joined.
const ABORT_GRACE: Duration = Duration::from_millis(200);

/// A mount that answers. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Mounted(Unmounter);

/// Ends a mount from any thread.
#[derive(Clone, Debug)]
pub struct Unmounter(Arc<Shared>);

struct Shared {
    mountpoint: PathBuf,
    /// What identifies the mount: its id and its file system's device.
    id: u64,
    device: String,
    content: Arc<dyn Content>,
    shown: Arc<RwLock<Shown>>,
    notifier: Notifier,
    ended: Arc<Ended>,
    /// Held while the mount is being ended or gets a torrent, so that a second call waits for the first.
    ending: Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("mountpoint", &self.mountpoint).field("device", &self.device).finish()
    }
}

/// Says whether a mount there would be refused, before anything else is begun. A stale mount there is cleaned up.
///
/// # Errors
/// [`Error::Mount`], as [`mount`] gives it for the mountpoint, the options and what the machine lacks.
pub fn check(mountpoint: &Path, options: &MountOptions) -> Result<()> {
    prepare(mountpoint, options)?;
    attach::possible().map_err(|reason| Error::Mount { mountpoint: mountpoint.to_owned(), reason })
}

/// The options, and the path of a mountpoint that can be mounted on.
fn prepare(mountpoint: &Path, options: &MountOptions) -> Result<(Parsed, PathBuf)> {
    let refuse = |reason: String| Error::Mount { mountpoint: mountpoint.to_owned(), reason };
    let parsed = Parsed::new(options).map_err(refuse)?;
    let path = attach::prepare(mountpoint, parsed.nonempty).map_err(refuse)?;
    Ok((parsed, path))
}

/// Mounts the tree on a directory and returns once the mount answers.
///
/// # Errors
/// [`Error::Mount`]: the mountpoint is missing, no directory, not empty or mounted already, an option is refused, or the
/// system does not let us mount.
pub fn mount(tree: Tree, content: Arc<dyn Content>, mountpoint: &Path, options: &MountOptions) -> Result<Mounted> {
    let refuse = |reason: String| Error::Mount { mountpoint: mountpoint.to_owned(), reason };
    let (parsed, path) = prepare(mountpoint, options)?;
    let descriptor = attach::attach(&path, &parsed).map_err(refuse)?;
    let shown = Arc::new(RwLock::new(Shown { tree: Arc::new(tree), since: SystemTime::now() }));
    let fuse = Fuse::new(Arc::clone(&shown), Arc::clone(&content), options.passthrough);
    start(fuse, shown, content, path.clone(), descriptor).map_err(|error| {
        let ours = matches!(mountinfo::top(&path), Ok(Some(entry)) if entry.fs_type == FS_TYPE);
        if ours && let Err(error) = attach::detach(&path, true) {
            tracing::warn!(%error, "a mount that failed to start is left behind");
        }
        refuse(format!("the mount does not answer: {error}"))
    })
}

fn start(
    fuse: Fuse,
    shown: Arc<RwLock<Shown>>,
    content: Arc<dyn Content>,
    path: PathBuf,
    descriptor: std::os::fd::OwnedFd,
) -> io::Result<Mounted> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    // The kernel lets in nobody but the owner unless allow_other is set. fuser's own check adds nothing to that, and it
    // would refuse the FLUSH of a descriptor that another user inherited.
    let session = Session::from_fd(fuse, descriptor, SessionACL::All, config)?;
    let notifier = session.notifier();
    let entry = mountinfo::top(&path)?
        .filter(|entry| entry.fs_type == FS_TYPE)
        .ok_or_else(|| io::Error::other("it is not in /proc/self/mountinfo"))?;
    let ended = Arc::new(Ended::default());
    let guard = EndedGuard(Arc::clone(&ended));
    std::thread::Builder::new().name("swarmfs-fuse".to_owned()).spawn(move || {
        let _guard = guard;
        if let Err(error) = session.run() {
            tracing::warn!(%error, "the session with the kernel ended");
        }
    })?;
    // Asks our own threads, so it fails if they could not start.
    rustix::fs::statfs(&path)?;
    let shared = Shared {
        mountpoint: path,
        id: entry.id,
        device: entry.device,
        content,
        shown,
        notifier,
        ended,
        ending: Mutex::new(()),
    };
    Ok(Mounted(Unmounter(Arc::new(shared))))
}

impl Mounted {
    /// Where, without symlinks.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.0.0.mountpoint
    }

    /// Blocks until the session with the kernel has ended: by [`Mounted::unmount`], by `umount` or `fusermount3 -u` from
    /// outside (`umount -l`: once the last file is closed), or by an abort of the connection.
    pub fn wait_unmounted(&self) {
        self.0.0.ended.wait(None);
    }

    /// Shows one torrent more. Call it from a thread that may wait for the kernel.
    pub fn add(&self, key: TorrentKey, metainfo: &Arc<Metainfo>) {
        let shared = &self.0.0;
        // Nobody else writes: two torrents at once would each lack the other.
        let _one = lock(&shared.ending);
        let tree = Arc::clone(&shared.shown.read().unwrap_or_else(PoisonError::into_inner).tree).and(key, metainfo);
        let shown = Shown { tree: Arc::new(tree), since: SystemTime::now() };
        *shared.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        // The kernel remembers what it has listed. It does not remember that a name was not there.
        if let Err(error) = shared.notifier.inval_inode(INodeNo(Inode::ROOT.0), 0, 0) {
            tracing::debug!(%error, "the kernel may show an old list of torrents");
        }
    }

    /// A handle for other threads, such as one that waits for signals.
    #[must_use]
    pub fn unmounter(&self) -> Unmounter {
        self.0.clone()
    }

    /// Ends the mount; see [`Unmounter::unmount`]. Dropping does the same.
    pub fn unmount(self) {
        drop(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.0.unmount();
    }
}

impl Unmounter {
    /// Ends the mount within about a second. Every waiting and later READ gets EIO, the mount is detached, programs get
    /// 1 s to let go of it, then the connection is aborted if we may. Nothing is joined: a copy of the mount in another
    /// mount namespace can keep the session alive until the process exits.
    pub fn unmount(&self) {
        let shared = &*self.0;
        let _ending = lock(&shared.ending);
        shared.content.close_all();
        if shared.ended.wait(Some(Duration::ZERO)) {
            return;
        }
        shared.detach();
        if shared.ended.wait(Some(DETACH_GRACE)) {
            return;
        }
        let minor = shared.device.rsplit(':').next().unwrap_or_default();
        match attach::abort(minor) {
            Ok(()) => {
                shared.ended.wait(Some(ABORT_GRACE));
            }
            Err(error) => tracing::debug!(%error, "the connection is not aborted; it ends with this process"),
        }
    }
}

impl Shared {
    /// Detaches the mount if it still is the one at its path: what another program mounted there is left alone.
    fn detach(&self) {
        match mountinfo::top(&self.mountpoint) {
            Ok(Some(entry)) if entry.id == self.id && entry.device == self.device => {
                match attach::detach(&self.mountpoint, true) {
                    Ok(Detached::Gone) => {}
                    Ok(Detached::Busy) => tracing::warn!("the mount is busy and stays"),
                    Err(error) => tracing::warn!(%error, "the mount cannot be detached"),
                }
            }
            Ok(_) => tracing::debug!("the mountpoint holds no mount of ours any more"),
            Err(error) => tracing::warn!(%error, "cannot read /proc/self/mountinfo; the mount is not detached"),
        }
    }
}

/// Whether the session is over.
#[derive(Debug, Default)]
struct Ended {
    over: Mutex<bool>,
    news: Condvar,
}

impl Ended {
    /// True once the session is over, false if it lasts longer than `limit`.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let over = lock(&self.over);
        let lasts = |over: &mut bool| !*over;
        match limit {
            None => *self.news.wait_while(over, lasts).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                let waited = self.news.wait_timeout_while(over, limit, lasts);
                *waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

/// Marks the end, even if the session panics.
struct EndedGuard(Arc<Ended>);

impl Drop for EndedGuard {
    fn drop(&mut self) {
        *lock(&self.0.over) = true;
        self.0.news.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
