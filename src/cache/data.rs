//! A user's own copy of a torrent, in the layout that other clients make: `dir/name` for a single file, `dir/name/path`
//! for the files of a directory. What lies there is untrusted until [`DataDir::verify`] has hashed it: files may be
//! missing, short, wrong, or links and devices with the right name. How a copy is made and written is in `data_write`.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use rustix::fs::{CWD, Mode, OFlags};

use super::beneath::{Access, open_file};
use crate::error::{Error, Result};
use crate::metainfo::{FileKind, Geometry, Metainfo};

/// Files that [`DataDir::read_at`] keeps open: with `ulimit -n 256` there must be room for peers.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(40).expect("not 0");

/// What other clients add to the name of a file that is not complete.
const UNFINISHED: [(&str, &str); 2] = [(".!qB", "qBittorrent"), (".part", "Transmission")];

/// A user's own copy of a torrent, in the user's layout: to read ([`DataDir::open`]), or to write as well
/// ([`DataDir::create`]).
#[derive(Debug)]
pub struct DataDir {
    pub(super) root: OwnedFd,
    /// The root's path, for messages.
    pub(super) place: PathBuf,
    pub(super) geometry: Geometry,
    /// In torrent order, empty ones left out, so that the ends rise strictly.
    pub(super) files: Box<[Entry]>,
    pub(super) writable: bool,
    open: Mutex<LruCache<(usize, Access), Arc<File>>>,
}

/// A file that holds bytes of the torrent.
#[derive(Debug)]
pub(super) struct Entry {
    offset: u64,
    length: u64,
    pub(super) source: Source,
    /// False if nothing is to be written to it.
    pub(super) wanted: bool,
}

#[derive(Debug)]
pub(super) enum Source {
    /// A path below the root.
    File(Box<str>),
    /// Padding (BEP 47).
    Zeros,
    /// A symlink or a hidden entry that claims bytes: nobody has them.
    Nothing(Box<str>),
}

/// A part of one file that a range of the torrent covers.
pub(super) struct Span {
    /// Index of the file.
    pub(super) file: usize,
    /// Where the part begins in the file.
    pub(super) at: u64,
    /// Where the part lies in the range, bytes.
    pub(super) part: Range<usize>,
}

impl DataDir {
    /// Finds the torrent's files at `dir`: below `dir/name`, or, when that is not there, `dir` itself is the torrent's
    /// own directory or file. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::Io`] if `dir` cannot be opened; [`Error::Data`] if none of the torrent's files is there. Some missing
    /// files are no error: [`DataDir::verify`] tells which.
    pub fn open(meta: &Metainfo, dir: &Path) -> Result<Self> {
        let io_error = |source| Error::Io { path: dir.into(), what: "open", cause: source };
        let dir = std::fs::canonicalize(dir).map_err(io_error)?;
        refuse_mount(&dir)?;
        let places = if !meta.single_file {
            vec![(dir.join(&meta.name), None), (dir.clone(), None)]
        } else if dir.is_dir() {
            vec![(dir.clone(), Some(meta.name.as_str()))]
        } else {
            let name = dir.file_name().and_then(|name| name.to_str());
            dir.parent().zip(name).map(|(parent, name)| (parent.into(), Some(name))).into_iter().collect()
        };
        let (mut trouble, mut unfinished) = (None, None);
        for (root, name) in places {
            // A place that is not a directory, or not ours to read, leaves the other one.
            let Ok(data) = Self::at(meta, &root, name) else { continue };
            match data.any_there() {
                Ok(true) => return Ok(data),
                Ok(false) => unfinished = unfinished.or_else(|| data.any_unfinished()),
                Err((path, source)) => trouble = Some(Error::Io { path: root.join(path), what: "open", cause: source }),
            }
        }
        Err(trouble.unwrap_or_else(|| Error::Data {
            path: dir.join(&meta.name),
            reason: unfinished.unwrap_or_else(|| {
                let name = &meta.name;
                format!(
                    "none of the files of the torrent \"{name}\" is there; --data must name the directory that holds \
                     \"{name}\""
                )
            }),
        }))
    }

    /// The copy whose files lie below `root`; a single file's path is `name`. Nothing is looked for yet.
    pub(crate) fn at(meta: &Metainfo, place: &Path, name: Option<&str>) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, place, flags, Mode::empty())?;
        let entries = meta.files.iter().filter(|file| file.length > 0).map(|file| {
            let path = name.map_or_else(|| file.path.clone(), Into::into);
            let source = match file.kind {
                FileKind::Regular { .. } => Source::File(path),
                FileKind::Pad => Source::Zeros,
                FileKind::Symlink { .. } | FileKind::Hidden => Source::Nothing(path),
            };
            Entry { offset: file.offset, length: file.length, source, wanted: true }
        });
        Ok(Self {
            root,
            place: place.into(),
            geometry: meta.geometry,
            files: entries.collect(),
            writable: false,
            open: Mutex::new(LruCache::new(OPEN_FILES)),
        })
    }

    /// True if a file of the torrent is there, or if it has none but padding. An error is that of a file which is there
    /// and cannot be read.
    fn any_there(&self) -> Result<bool, (&str, io::Error)> {
        let (mut none, mut trouble) = (true, None);
        for file in &self.files {
            let Source::File(path) = &file.source else { continue };
            none = false;
            match open_file(&self.root, path, Access::Read) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => trouble = trouble.or(Some((&**path, error))),
            }
        }
        trouble.map_or(Ok(none), Err)
    }

    /// Fills `out` with the torrent's bytes from `offset` on, as they are on disk now. From any number of threads.
    ///
    /// # Errors
    /// `InvalidInput` past the end of the torrent; `UnexpectedEof` if a file is shorter than the torrent says; whatever
    /// opening and reading the file gives.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        for span in self.spans(offset, out.len()) {
            let Span { file, at, part } = span?;
            if let Some(file) = self.handle(file, Access::Read)? {
                file.read_exact_at(&mut out[part], at)?;
            } else {
                out[part].fill(0);
            }
        }
        Ok(())
    }

    /// As [`DataDir::read_at`], but never waits for a disk: false if it would have to, and `out` is anything then.
    ///
    /// # Errors
    /// As [`DataDir::read_at`].
    pub fn read_cached_at(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        for span in self.spans(offset, out.len()) {
            let Span { file, at, part } = span?;
            if matches!(self.files.get(file), Some(Entry { source: Source::Zeros, .. })) {
                out[part].fill(0);
                continue;
            }
            let open =
                self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&(file, Access::Read)).map(Arc::clone);
            let Some(file) = open else { return Ok(false) };
            let length = part.len();
            let slices = &mut [io::IoSliceMut::new(&mut out[part])];
            // Errors too, of file systems that know no NOWAIT among them: read_at will tell.
            let read = rustix::io::preadv2(&*file, slices, at, rustix::io::ReadWriteFlags::NOWAIT);
            if read != Ok(length) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes of the torrent.
    pub(super) fn total(&self) -> u64 {
        self.geometry.total()
    }

    /// The files' parts of a range of the torrent, in order. An error ends it.
    pub(super) fn spans(&self, offset: u64, length: usize) -> impl Iterator<Item = io::Result<Span>> {
        let mut next = self.files.partition_point(|file| file.end() <= offset);
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == length {
                return None;
            }
            let at = offset.saturating_add(done as u64);
            let Some(file) = self.files.get(next).filter(|file| (file.offset..file.end()).contains(&at)) else {
                done = length;
                return Some(Err(io::Error::new(io::ErrorKind::InvalidInput, "no file of the torrent holds this")));
            };
            let step = usize::try_from(file.end() - at).map_or(length - done, |left| left.min(length - done));
            let span = Span { file: next, at: at - file.offset, part: done..done + step };
            next += 1;
            done += step;
            Some(Ok(span))
        })
    }

    /// Opens a file anew; `None` if it is padding.
    pub(super) fn open_index(&self, index: usize, access: Access) -> io::Result<Option<File>> {
        match self.files.get(index).map(|file| &file.source) {
            Some(Source::Zeros) => Ok(None),
            Some(Source::File(path)) => open_file(&self.root, path, access).map(Some),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "not a regular file of the torrent")),
        }
    }

    /// What another client calls this file while it is not complete, if that is there.
    pub(super) fn unfinished(&self, index: usize) -> Option<String> {
        let Source::File(path) = &self.files.get(index)?.source else { return None };
        let there = |suffix: &str| open_file(&self.root, &format!("{path}{suffix}"), Access::Read).is_ok();
        let (suffix, client) = UNFINISHED.into_iter().find(|(suffix, _)| there(suffix))?;
        Some(format!("only \"{path}{suffix}\" is there: {client} has not finished it"))
    }

    fn any_unfinished(&self) -> Option<String> {
        (0..self.files.len()).find_map(|index| self.unfinished(index))
    }

    /// The length of what is at a path below the root now, bytes.
    pub(super) fn length_of(&self, path: &str) -> io::Result<u64> {
        open_file(&self.root, path, Access::Read)?.metadata().map(|metadata| metadata.len())
    }

    /// A file's path below the root; `None` if it is padding.
    pub(super) fn path(&self, index: usize) -> Option<&str> {
        match &self.files.get(index)?.source {
            Source::File(path) | Source::Nothing(path) => Some(path),
            Source::Zeros => None,
        }
    }

    /// The file from those that are open; `None` if it is padding.
    pub(super) fn handle(&self, index: usize, access: Access) -> io::Result<Option<Arc<File>>> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = lock().get(&(index, access)) {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(file) = self.open_index(index, access)?.map(Arc::new) else { return Ok(None) };
        let oldest = lock().push((index, access), Arc::clone(&file));
        drop(oldest); // closed outside the lock
        Ok(Some(file))
    }
}

impl Entry {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// Refuses a path inside of a mount of ours: to read it would ask the swarm for what is to be given to it.
pub(super) fn refuse_mount(path: &Path) -> Result<()> {
    if crate::fs::mountinfo::within_ours(path) {
        let reason = "it lies in a mount of swarmfs; name a directory on a disk".into();
        return Err(Error::Data { path: path.into(), reason });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
#[path = "data_tests.rs"]
pub(super) mod tests;
