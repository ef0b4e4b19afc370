//! How a store begins: its lock, what lies there already, and the entries of the torrents that come.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lru::LruCache;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};

use super::clock::Clock;
use super::entry::{Entry, EntryError, INDEX, INFO, SUMS};
use super::layout::FileNumber;
use super::{Hex, Ledger, OPEN_FILES, Store, disk};
use crate::cache::data::refuse_mount;
use crate::error::{Error, Result};
use crate::metainfo::{Metainfo, PieceIndex, TorrentId};

/// Held by the process that uses the directory.
const LOCK: &str = "lock";
/// What programs for backups know a cache by (bford.info/cachedir).
const TAG: (&str, &[u8]) = ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by swarmfs.\n");
const PROBE: &str = "probe";

impl Store {
    /// Opens the directory, which is made if it is not there, for at most `size` bytes, and never more than half of what
    /// is free now. What of it cannot be used is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be made or written; [`Error::CacheInUse`] if another process uses it;
    /// [`Error::Cache`] if it is not empty and no cache, if its file system cannot free parts of files, and inside a mount
    /// of ours.
    pub fn open(path: &Path, size: u64) -> Result<Self> {
        let trouble = |what| move |cause| Error::Io { path: path.into(), what, cause };
        let refused = |reason: &str| Error::Cache { path: path.into(), reason: reason.to_owned() };
        let absolute = std::path::absolute(path).map_err(trouble("find"))?;
        refuse_mount(&absolute)?;
        std::fs::create_dir_all(&absolute).map_err(trouble("make"))?;
        let path = std::fs::canonicalize(&absolute).map_err(trouble("open"))?;
        refuse_mount(&path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|e| trouble("open")(e.into()))?;
        if !is_ours(&root).map_err(trouble("read"))? {
            return Err(refused("it is not empty and no cache of swarmfs; give an empty directory with --cache-dir"));
        }
        let lock = disk::create(&root, LOCK, false).map_err(trouble("write to"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::CacheInUse(path));
            }
            Err(error) => return Err(trouble("lock")(error.into())),
        }
        if !frees_parts(&root).map_err(trouble("write to"))? {
            return Err(refused("its file system cannot free parts of files; choose another with --cache-dir"));
        }
        let unit = rustix::fs::fstatvfs(&root).map_err(|e| trouble("read")(e.into()))?.f_bsize.max(512);
        let (unread, allocated) = look(&root, &path).map_err(trouble("read"))?;
        let limit = limit(&root, size, allocated).map_err(trouble("read"))?;
        Ok(Self {
            path,
            root,
            _lock: lock,
            size: limit,
            limit: AtomicU64::new(limit),
            unit,
            clock: Clock::start(),
            allocated: AtomicU64::new(allocated),
            failures: AtomicU32::new(0),
            full: AtomicBool::new(false),
            late: AtomicU32::new(0),
            pinned: Arc::default(),
            open: Mutex::new(LruCache::new(OPEN_FILES)),
            buffered: AtomicU32::new(0),
            serials: AtomicU32::new(0),
            ledger: Mutex::new(Ledger { unread, ..Ledger::default() }),
        })
    }

    /// The entry of a torrent, from now on one of this session.
    pub fn entry(&self, meta: &Metainfo) -> Arc<Entry> {
        let id = meta.id.wire();
        let mut ledger = self.lock();
        let known = ledger.entries.iter().find(|entry| entry.id == id).cloned();
        let unread = ledger.unread.iter().position(|unread| *unread == id);
        let entry = known.unwrap_or_else(|| {
            let read = unread.and_then(|at| {
                ledger.unread.swap_remove(at);
                self.read_entry(&id, Some(meta))
            });
            let entry = Arc::new(read.unwrap_or_else(|| Entry::empty(meta, self.serial())));
            ledger.entries.push(Arc::clone(&entry));
            entry
        });
        entry.in_use.store(true, Ordering::Relaxed);
        entry
    }

    /// The metadata of a torrent that was here once, without trackers and web seeds.
    #[must_use]
    pub fn metadata(&self, id: &TorrentId) -> Option<Metainfo> {
        metadata_in(&self.root, id)
    }

    fn serial(&self) -> u32 {
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    /// Looks into all directories that nobody has looked into yet.
    pub(super) fn read_all(&self, ledger: &mut Ledger) {
        for id in std::mem::take(&mut ledger.unread) {
            ledger.entries.extend(self.read_entry(&id, None).map(Arc::new));
        }
    }

    /// What a directory holds; one that cannot be used is dropped.
    fn read_entry(&self, id: &[u8; 20], meta: Option<&Metainfo>) -> Option<Entry> {
        let name = Hex(id).to_string();
        let read = || {
            let dir = disk::open_dir(&self.root, &name)?;
            match meta {
                Some(meta) => Entry::load(meta, self.serial(), dir, &self.clock),
                None => Entry::load(&Entry::meta(&dir, id)?, self.serial(), dir, &self.clock),
            }
        };
        match read() {
            Ok(entry) => {
                if entry.dirty.load(Ordering::Relaxed) {
                    self.erase_strays(&entry);
                }
                Some(entry)
            }
            // The disk, or the process, may be better another time.
            Err(EntryError::Io(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}; it is left alone", self.path.join(&name).display());
                None
            }
            Err(error) => {
                tracing::warn!("{}: {error}; it is dropped", self.path.join(&name).display());
                match drop_dir(&self.root, &name) {
                    Ok(freed) => {
                        let _ = self
                            .allocated
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(freed)));
                    }
                    Err(error) => tracing::warn!("{}: cannot be dropped: {error}", self.path.join(&name).display()),
                }
                None
            }
        }
    }

    /// After a crash: bytes of pieces that were not written to their end are nobody's.
    fn erase_strays(&self, entry: &Entry) {
        let pieces = entry.layout.geometry.pieces();
        let mut next = 0;
        while let Some(first) = (next..pieces).find(|piece| !entry.holds(PieceIndex(*piece))) {
            next = (first..pieces).find(|piece| entry.holds(PieceIndex(*piece))).unwrap_or(pieces);
            if let Err(error) = self.erase(entry, first..next) {
                tracing::warn!("{}: cannot free what a crash left: {error}", self.path.display());
                return;
            }
        }
    }

    /// Takes an entry away that has no piece and that nobody uses.
    pub(super) fn drop_entry(&self, ledger: &mut Ledger, entry: &Arc<Entry>) {
        ledger.entries.retain(|other| !Arc::ptr_eq(other, entry));
        self.close_files(entry);
        let before = entry.allocated.load(Ordering::Relaxed);
        match drop_dir(&self.root, &Hex(&entry.id).to_string()) {
            Ok(_) => self.count(entry, before, 0),
            Err(error) => self.failed("free space", &error),
        }
    }
}

/// The metadata of a torrent in the store with this directory.
pub(super) fn metadata_in(root: &OwnedFd, id: &TorrentId) -> Option<Metainfo> {
    let wire = id.wire();
    let dir = disk::open_dir(root, &Hex(&wire).to_string()).ok()?;
    let meta = Entry::meta(&dir, &wire).ok()?;
    id.v2.is_none_or(|v2| meta.id.v2 == Some(v2)).then_some(meta)
}

/// Half of what is free, and what is there already, are the most that `size` may be.
pub(super) fn limit(root: &OwnedFd, size: u64, allocated: u64) -> io::Result<u64> {
    let fs = rustix::fs::fstatvfs(root)?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    Ok(size.min(allocated.saturating_add(free / 2)))
}

/// True if the directory is a cache of swarmfs, which it is from now on if it is empty.
fn is_ours(root: &OwnedFd) -> io::Result<bool> {
    let names = disk::names(root.as_fd())?;
    if names.iter().any(|name| name == TAG.0) {
        let mut text = String::new();
        let tag = disk::open(root, TAG.0)?;
        io::Read::read_to_string(&mut io::Read::take(tag, 1000), &mut text)?;
        return Ok(text.contains("swarmfs"));
    }
    // A crash may have come before the tag.
    let ours = |name: &String| matches!(&**name, LOCK | PROBE) || name.starts_with(TAG.0);
    if !names.iter().all(ours) {
        return Ok(false);
    }
    disk::replace(root, TAG.0, TAG.1, false)?;
    Ok(true)
}

/// True if a hole can be made in a file, and gives back what was there.
fn frees_parts(root: &OwnedFd) -> io::Result<bool> {
    const LENGTH: u64 = 256 << 10;
    let file = disk::create(root, PROBE, false)?;
    let probe = || {
        disk::write(&file, &vec![1; usize::try_from(LENGTH).unwrap_or_default()], 0)?;
        let before = disk::allocated(&file)?;
        disk::punch(&file, 0, LENGTH)?;
        Ok(disk::allocated(&file)? + LENGTH / 2 <= before)
    };
    let result: io::Result<bool> = probe();
    disk::remove(root, PROBE)?;
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(false),
        // A disk that is full now may have room later.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(true),
        result => result,
    }
}

/// The torrents of the directory, and the bytes that they take. Those of other versions are dropped; what is none of ours
/// is left alone.
fn look(root: &OwnedFd, path: &Path) -> io::Result<(Vec<[u8; 20]>, u64)> {
    let (mut ids, mut bytes) = (Vec::new(), 0);
    for name in disk::names(root.as_fd())? {
        if matches!(&*name, LOCK) || name.starts_with(TAG.0) {
            continue;
        }
        let Some(id) = id_of(&name) else {
            tracing::warn!("{}: it is not from swarmfs and is left alone", path.join(&name).display());
            continue;
        };
        let usable = disk::open_dir(root, &name).and_then(|dir| Ok((disk::open(&dir, INDEX)?, dir)));
        match usable.and_then(|(_, dir)| disk::allocated_in(&dir)) {
            Ok(allocated) => {
                ids.push(id);
                bytes += allocated;
            }
            Err(error) => {
                tracing::warn!("{}: it has no index ({error}); it is dropped", path.join(&name).display());
                let _ = drop_dir(root, &name);
            }
        }
    }
    Ok((ids, bytes))
}

/// The info-hash that a name spells.
pub(super) fn id_of(name: &str) -> Option<[u8; 20]> {
    let digits = name.as_bytes().as_chunks::<2>().0;
    let mut id = [0; 20];
    if name.len() != 40 || name.bytes().any(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

/// Takes a directory of a torrent away, with the files that we make; returns the bytes that it took.
fn drop_dir(root: &OwnedFd, name: &str) -> io::Result<u64> {
    let dir = disk::open_dir(root, name)?;
    let bytes = disk::allocated_in(&dir)?;
    // The index goes last: without it, nothing else is ever looked at.
    let mut names = disk::names(&dir)?;
    names.sort_by_key(|name| name == INDEX);
    for name in names {
        let plain = name.strip_suffix(".new").unwrap_or(&name);
        if matches!(plain, INFO | INDEX | SUMS) || FileNumber::of(plain).is_some() {
            disk::remove(&dir, &name)?;
        }
    }
    disk::remove_dir(root, name)?;
    Ok(bytes)
}
