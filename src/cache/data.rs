//! A user's own copy of a torrent in the layout that every client writes: `DIR/name`, or `DIR/name/path` for each file.
//! It is only read here. What is missing, short or changed is a piece that is not right, never a wrong byte.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use sha1::{Digest, Sha1};

use crate::error::{Error, Result};
use crate::metainfo::{FileKind, Metainfo, PieceIndex};

/// Files that are open at once (hardening L8).
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(40).unwrap();
/// What one thread takes at a time when it verifies: long enough for a disk to read in order.
const STRIPE: u64 = 32 << 20;

/// A span of torrent bytes and where it lies.
#[derive(Debug)]
struct Span {
    offset: u64,
    length: u64,
    /// The file's path below the root; none for padding, which is zeros.
    path: Option<Box<Path>>,
}

/// A user's copy.
#[derive(Debug)]
pub struct DataDir {
    /// The torrent's directory or, for a torrent of one file, the directory that the file is in.
    root: PathBuf,
    spans: Vec<Span>,
    open: Mutex<LruCache<usize, Arc<File>>>,
}

/// What verifying a copy has shown.
#[derive(Debug)]
pub struct VerifyReport {
    /// Per piece: it is there and right.
    pub have: Vec<bool>,
    /// Files that are missing or not as long as they should be, with the reason.
    pub bad_files: Vec<(PathBuf, String)>,
}

impl DataDir {
    /// Finds the copy: in `dir` under the torrent's name, or `dir` itself.
    ///
    /// # Errors
    /// [`Error::Data`] if nothing of the torrent is there.
    pub fn open(meta: &Metainfo, dir: &Path) -> Result<Self> {
        let below = dir.join(&meta.name);
        let root = if meta.single_file {
            if below.is_file() {
                dir.to_owned()
            } else if dir.is_file() {
                dir.parent().map_or_else(PathBuf::new, Path::to_owned)
            } else {
                return Err(absent(dir, &meta.name));
            }
        } else if below.is_dir() {
            below
        } else if dir.is_dir() && meta.files.iter().any(|f| f.length > 0 && dir.join(&*f.path).is_file()) {
            dir.to_owned()
        } else {
            return Err(absent(dir, &meta.name));
        };
        let named = if meta.single_file && dir.is_file() { dir.file_name().map(PathBuf::from) } else { None };
        let spans = meta
            .files
            .iter()
            .filter(|f| f.length > 0)
            .map(|f| Span {
                offset: f.offset,
                length: f.length,
                path: match f.kind {
                    FileKind::Pad => None,
                    _ => Some(named.clone().unwrap_or_else(|| PathBuf::from(&*f.path)).into()),
                },
            })
            .collect();
        Ok(Self { root, spans, open: Mutex::new(LruCache::new(OPEN_FILES)) })
    }

    /// Copies torrent bytes from `offset` on.
    ///
    /// # Errors
    /// A file's; `UnexpectedEof` if one is shorter than it should be.
    pub fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let mut index = self.spans.partition_point(|s| s.offset + s.length <= offset);
        while !out.is_empty() {
            let span = self.spans.get(index).ok_or(io::ErrorKind::UnexpectedEof)?;
            let inside = offset.checked_sub(span.offset).ok_or(io::ErrorKind::UnexpectedEof)?;
            let count = usize::try_from(span.length - inside).map_or(out.len(), |left| left.min(out.len()));
            let (part, rest) = out.split_at_mut(count);
            match &span.path {
                Some(path) => self.file(index, path)?.read_exact_at(part, inside)?,
                None => part.fill(0),
            }
            (out, offset, index) = (rest, offset + count as u64, index + 1);
        }
        Ok(())
    }

    fn file(&self, index: usize, path: &Path) -> io::Result<Arc<File>> {
        let cached = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&index).cloned();
        if let Some(file) = cached {
            return Ok(file);
        }
        let file = Arc::new(open_below(&self.root, path)?);
        let old = self.open.lock().unwrap_or_else(PoisonError::into_inner).push(index, Arc::clone(&file));
        // Closed outside the lock.
        drop(old);
        Ok(file)
    }

    /// Hashes every piece with all cores. `progress` hears the bytes that are done so far; `stop` ends it early, the
    /// pieces that were not looked at counting as not there.
    ///
    /// # Errors
    /// None today: what cannot be read is a piece that is not there.
    pub fn verify(&self, meta: &Metainfo, progress: &(dyn Fn(u64) + Sync), stop: &AtomicBool) -> Result<VerifyReport> {
        let geometry = meta.geometry;
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let stripe = usize::try_from((STRIPE / u64::from(geometry.nominal_piece_length())).max(1)).unwrap_or(1);
        let mut have = vec![false; geometry.pieces() as usize];
        let stripes: Vec<Mutex<&mut [bool]>> = have.chunks_mut(stripe).map(Mutex::new).collect();
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..threads.min(stripes.len()) {
                scope.spawn(|| {
                    let mut buffer = Vec::new();
                    loop {
                        let taken = next.fetch_add(1, Ordering::Relaxed);
                        let Some(stripe_of) = stripes.get(taken) else { return };
                        let mut slots = stripe_of.lock().unwrap_or_else(PoisonError::into_inner);
                        for (slot, piece) in slots.iter_mut().zip(geometry.all().skip(taken * stripe)) {
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            *slot = self.is_right(meta, piece, &mut buffer);
                            let length = u64::from(geometry.piece_length(piece));
                            progress(done.fetch_add(length, Ordering::Relaxed) + length);
                        }
                    }
                });
            }
        });
        drop(stripes);
        let bad_files = self.spans.iter().filter_map(|span| self.wrong_size(span)).collect();
        Ok(VerifyReport { have, bad_files })
    }

    fn is_right(&self, meta: &Metainfo, piece: PieceIndex, buffer: &mut Vec<u8>) -> bool {
        /// Read and hashed at a time: stays in the processor's cache, whatever the piece length.
        const STEP: u64 = 1 << 20;
        let start = meta.geometry.piece_offset(piece);
        let end = start + u64::from(meta.geometry.piece_length(piece));
        let mut sha1 = Sha1::default();
        let mut at = start;
        while at < end {
            buffer.resize(usize::try_from((end - at).min(STEP)).unwrap_or(0), 0);
            if self.read_at(at, buffer).is_err() {
                return false;
            }
            sha1.update(&buffer);
            at += buffer.len() as u64;
        }
        meta.piece_hashes.get(piece).is_some_and(|hash| <[u8; 20]>::from(sha1.finalize()) == *hash)
    }

    fn wrong_size(&self, span: &Span) -> Option<(PathBuf, String)> {
        let path = span.path.as_deref()?;
        match open_below(&self.root, path).and_then(|f| f.metadata()) {
            Ok(found) if found.len() == span.length => None,
            Ok(found) => Some((path.to_owned(), format!("it has {} bytes, not {}", found.len(), span.length))),
            Err(e) => Some((path.to_owned(), e.to_string())),
        }
    }
}

fn absent(dir: &Path, name: &str) -> Error {
    let reason = format!("{} is not here; name the directory that holds it", name.escape_debug());
    Error::Data { path: dir.to_owned(), reason }
}

/// Opens a file below `root` for reading; symbolic links that lead out of it are refused where the kernel can.
fn open_below(root: &Path, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::fs::openat2(&directory, path, flags, Mode::empty(), ResolveFlags::BENEATH) {
        Ok(file) => Ok(file.into()),
        // A kernel before 5.6, or a container that hides the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            Ok(rustix::fs::openat(CWD, root.join(path), flags, Mode::empty())?.into())
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metainfo::{self, Geometry, InfoHash, PieceHashes, TorrentId};

    const PIECE: u32 = 32 * 1024;

    fn file(path: &str, offset: u64, length: u64, kind: FileKind) -> metainfo::File {
        metainfo::File { path: path.into(), offset, length, kind }
    }

    fn regular() -> FileKind {
        FileKind::Regular { executable: false }
    }

    /// A torrent of `content` whose files are these.
    fn torrent(single_file: bool, files: Vec<metainfo::File>, content: &[u8]) -> Metainfo {
        let hashes: Vec<u8> = content.chunks(PIECE as usize).flat_map(|p| <[u8; 20]>::from(Sha1::digest(p))).collect();
        Metainfo {
            id: TorrentId { v1: Some(InfoHash([1; 20])), v2: None },
            name: "name".to_owned(),
            single_file,
            geometry: Geometry::new(content.len() as u64, PIECE.into()).expect("sizes"),
            piece_hashes: PieceHashes(hashes.into()),
            files,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            private: false,
            comment: None,
            created_by: None,
            creation_date: None,
        }
    }

    fn content(length: u64) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    fn verify(data: &DataDir, meta: &Metainfo) -> VerifyReport {
        data.verify(meta, &|_| (), &AtomicBool::new(false)).expect("it ends")
    }

    #[test]
    fn files_in_directories_padding_and_empty_files_are_one_run_of_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut bytes = content(100_000);
        bytes[70_000..80_000].fill(0);
        let files = vec![
            file("a", 0, 70_000, regular()),
            file(".pad/10000", 70_000, 10_000, FileKind::Pad),
            file("empty", 80_000, 0, regular()),
            file("sub/b", 80_000, 20_000, regular()),
        ];
        let meta = torrent(false, files, &bytes);
        std::fs::create_dir_all(dir.path().join("name/sub")).expect("a directory");
        std::fs::write(dir.path().join("name/a"), &bytes[..70_000]).expect("written");
        std::fs::write(dir.path().join("name/sub/b"), &bytes[80_000..]).expect("written");
        for place in [dir.path().to_owned(), dir.path().join("name")] {
            let data = DataDir::open(&meta, &place).expect("it is there");
            let mut read = vec![0; 40_000];
            data.read_at(55_000, &mut read).expect("it is there");
            assert_eq!(read, bytes[55_000..95_000]);
            assert!(data.read_at(80_000, &mut read).is_err(), "past the end");
            let report = verify(&data, &meta);
            assert!(report.have.iter().all(|h| *h) && report.bad_files.is_empty());
        }
        std::fs::write(dir.path().join("name/sub/b"), b"short").expect("written");
        let report = verify(&DataDir::open(&meta, dir.path()).expect("there"), &meta);
        assert_eq!(report.have, [true, true, false, false]);
        assert_eq!(report.bad_files.len(), 1);
        std::fs::remove_file(dir.path().join("name/sub/b")).expect("removed");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("name/sub/b")).expect("linked");
        let data = DataDir::open(&meta, dir.path()).expect("there");
        assert!(data.read_at(80_000, &mut [0; 10]).is_err(), "a link out of the directory is not followed");
    }

    #[test]
    fn one_file_is_found_in_its_directory_or_by_its_own_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let bytes = content(70_000);
        let meta = torrent(true, vec![file("name", 0, 70_000, regular())], &bytes);
        assert!(DataDir::open(&meta, dir.path()).is_err());
        std::fs::write(dir.path().join("name"), &bytes).expect("written");
        std::fs::write(dir.path().join("other"), &bytes).expect("written");
        for place in [dir.path().to_owned(), dir.path().join("name"), dir.path().join("other")] {
            let data = DataDir::open(&meta, &place).expect("it is there");
            assert!(verify(&data, &meta).have.iter().all(|h| *h), "{}", place.display());
        }
        let stopped = DataDir::open(&meta, dir.path()).expect("there").verify(&meta, &|_| (), &AtomicBool::new(true));
        assert!(stopped.expect("it ends").have.iter().all(|h| !h));
    }
}
