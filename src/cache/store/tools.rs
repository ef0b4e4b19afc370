//! What people do with a store by hand: look, make it smaller, check it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use sha1::{Digest, Sha1};

use super::clock::Clock;
use super::entry::{Entry, EntryError};
use super::open::{id_of, metadata_in};
use super::{CHUNK, Hex, Room, Store, disk};
use crate::error::{Error, Result};
use crate::metainfo::{Metainfo, PieceIndex, TorrentId};

/// A torrent in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its info-hash, as its directory is named.
    pub id: String,
    /// Its name; none if its directory is damaged.
    pub name: Option<String>,
    /// Bytes of the torrent.
    pub size: u64,
    /// Bytes of pieces that are there.
    pub held: u64,
    /// Bytes that its directory takes on the disk.
    pub allocated: u64,
    /// When a piece was used last, seconds since 1970; 0 if none is there.
    pub used: u32,
    /// Payload bytes received from peers and sent to them, over all sessions.
    pub downloaded: u64,
    /// See `downloaded`.
    pub uploaded: u64,
}

/// A torrent of a store that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkup {
    /// Its info-hash, as its directory is named.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Pieces that passed their hash.
    pub good: u32,
    /// Pieces that did not, and are gone.
    pub damaged: u32,
}

/// The directory of a store, to be read; none if there is none.
fn look_into(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(root) => Ok(Some(root)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Store {
    /// The metadata of a torrent in the store at `path`, which may be in use; none if it was never there.
    #[must_use]
    pub fn find(path: &Path, id: &TorrentId) -> Option<Metainfo> {
        metadata_in(&look_into(path).ok()??, id)
    }

    /// The torrents of the store at `path`, as they are on the disk now; it may be in use. Empty if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read.
    pub fn list(path: &Path) -> Result<Vec<Listed>> {
        let trouble = |cause: io::Error| Error::Io { path: path.into(), what: "read", cause };
        let Some(root) = look_into(path).map_err(trouble)? else { return Ok(Vec::new()) };
        let clock = Clock::start();
        let mut names = disk::names(&root).map_err(trouble)?;
        names.sort_unstable();
        let listed = names.iter().filter_map(|name| {
            let id = id_of(name)?;
            let read = || {
                let dir = disk::open_dir(&root, name)?;
                let allocated = disk::allocated_in(&dir)?;
                let entry = Entry::meta(&dir, &id).and_then(|meta| Ok((Entry::load(&meta, 0, dir, &clock)?, meta)));
                Ok::<_, EntryError>((allocated, entry))
            };
            let Ok((allocated, entry)) = read() else {
                return Some(Listed { id: name.clone(), ..Listed::damaged(0) });
            };
            let Ok((entry, meta)) = entry else {
                return Some(Listed { id: name.clone(), ..Listed::damaged(allocated) });
            };
            Some(Listed {
                id: name.clone(),
                name: Some(meta.name),
                size: meta.geometry.total(),
                held: entry.held().map(|piece| u64::from(meta.geometry.piece_length(piece))).sum(),
                allocated,
                used: entry.held().filter_map(|piece| entry.tick(piece)).max().map_or(0, |tick| clock.seconds(tick)),
                downloaded: entry.before.0,
                uploaded: entry.before.1,
            })
        });
        Ok(listed.collect())
    }

    /// Drops what was used longest ago until the store takes at most `bytes`.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk does not free it.
    pub fn trim(&self, bytes: u64) -> Result<()> {
        let before = self.limit.swap(bytes, Ordering::Relaxed);
        // Nobody uses a torrent here, so that nothing has to be asked for.
        let room = self.room(0);
        self.save_all();
        self.limit.store(before, Ordering::Relaxed);
        match room {
            Room::Full if self.allocated() > bytes => Err(self.unfreed()),
            _ => Ok(()),
        }
    }

    fn unfreed(&self) -> Error {
        let cause = io::Error::other("not all of it could be freed");
        Error::Io { path: self.path.clone(), what: "trim", cause }
    }

    /// Says in all indexes that all is well.
    fn save_all(&self) {
        let mut ledger = self.lock();
        self.read_all(&mut ledger);
        for entry in &ledger.entries {
            self.save_index(entry, (0, 0), true);
        }
    }

    /// Drops the torrents of which `test` is true; their bytes on the disk.
    ///
    /// # Errors
    /// [`Error::Io`] if one cannot be dropped.
    pub fn clear(&self, test: impl Fn(&str) -> bool) -> Result<u64> {
        let before = self.allocated();
        let mut ledger = self.lock();
        self.read_all(&mut ledger);
        for entry in ledger.entries.clone() {
            if test(&Hex(&entry.id).to_string()) {
                self.drop_entry(&mut ledger, &entry);
            }
        }
        if self.failures.load(Ordering::Relaxed) > 0 { Err(self.unfreed()) } else { Ok(before - self.allocated()) }
    }

    /// Hashes all that is there, on all cores, and drops the pieces that do not pass. `progress` gets the bytes that were
    /// dealt with, from any thread.
    pub fn verify(&self, progress: &(dyn Fn(u64) + Sync), stop: &AtomicBool) -> Vec<Checkup> {
        let entries = {
            let mut ledger = self.lock();
            self.read_all(&mut ledger);
            ledger.entries.clone()
        };
        let checkup = |entry: &Arc<Entry>| {
            let meta = Entry::meta(&*entry.dir()?, &entry.id).ok()?;
            let (good, damaged) = self.verify_entry(entry, &meta, progress, stop);
            self.save_index(entry, (0, 0), true);
            Some(Checkup { id: Hex(&entry.id).to_string(), name: meta.name, good, damaged })
        };
        entries.iter().filter_map(checkup).collect()
    }

    fn verify_entry(
        &self,
        entry: &Entry,
        meta: &Metainfo,
        progress: &(dyn Fn(u64) + Sync),
        stop: &AtomicBool,
    ) -> (u32, u32) {
        let held: Vec<PieceIndex> = entry.held().collect();
        let (next, good, damaged) = (AtomicU32::new(0), AtomicU32::new(0), Mutex::new(Vec::new()));
        let work = || {
            let mut chunk = vec![0; CHUNK];
            while !stop.load(Ordering::Relaxed) {
                let Some(&piece) = held.get(next.fetch_add(1, Ordering::Relaxed) as usize) else { return };
                let hash = self.hash(entry, piece, &mut chunk);
                if hash.is_ok_and(|hash| meta.piece_hashes.get(piece) == Some(&hash)) {
                    good.fetch_add(1, Ordering::Relaxed);
                } else {
                    damaged.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
                }
                progress(meta.geometry.piece_length(piece).into());
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
                // Where no more threads are allowed, those that are there do the work.
                let _ = std::thread::Builder::new().name("hash".into()).spawn_scoped(scope, work);
            }
            work();
        });
        let damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        damaged.iter().for_each(|piece| self.forget(entry, *piece));
        (good.into_inner(), u32::try_from(damaged.len()).unwrap_or(u32::MAX))
    }

    /// The SHA-1 of a piece as it lies there; its checksums must be right, too.
    fn hash(&self, entry: &Entry, piece: PieceIndex, chunk: &mut [u8]) -> io::Result<[u8; 20]> {
        let (mut hasher, length) = (Sha1::new(), entry.layout.geometry.piece_length(piece));
        let step = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        for start in (0..length).step_by(step as usize) {
            let end = length.min(start.saturating_add(step));
            let part = &mut chunk[..(end - start) as usize];
            if !self.read_blocks(entry, piece, start..end, true, part)? && !entry.is_suspect(piece) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            hasher.update(part);
        }
        Ok(hasher.finalize().into())
    }

    /// Bytes of pieces that are there.
    #[must_use]
    pub fn held(&self) -> u64 {
        let mut ledger = self.lock();
        self.read_all(&mut ledger);
        let bytes = |entry: &Arc<Entry>| -> u64 {
            entry.held().map(|piece| u64::from(entry.layout.geometry.piece_length(piece))).sum()
        };
        ledger.entries.iter().map(bytes).sum()
    }
}

impl Listed {
    fn damaged(allocated: u64) -> Self {
        Self { id: String::new(), name: None, size: 0, held: 0, allocated, used: 0, downloaded: 0, uploaded: 0 }
    }
}
