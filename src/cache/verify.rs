//! The check of a user's own copy, and the hashes of a new torrent: every core hashes, and the disk still sees one
//! sequential reader, because the threads take neighbouring stripes of pieces in turn. Holes of sparse files are not read:
//! the hash of so many zeros is known. In a check, a file that is missing, short or changed meanwhile makes bad pieces,
//! never an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use sha1::{Digest, Sha1};

use super::beneath::Access;
use super::data::{DataDir, Span};
use crate::error::{Error, Result};
use crate::metainfo::{File as MetaFile, FileKind, Geometry, Metainfo, PieceIndex};

/// Bytes that a thread takes at a time: long enough for a disk, short enough to share the end fairly.
const STRIPE: u32 = 8 << 20;

/// Bytes that are read at a time, and stay in the processor's cache until they are hashed.
const CHUNK: usize = 256 << 10;

/// What [`DataDir::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// For every piece, whether it passed its hash.
    pub have: Vec<bool>,
    /// Bytes of these pieces.
    pub good: u64,
    /// Files that are missing, short or different, as paths below the torrent's directory, each with its first reason,
    /// in torrent order.
    pub bad_files: Vec<(PathBuf, String)>,
    /// The check was stopped: what it did not reach counts as not there.
    pub stopped: bool,
}

impl DataDir {
    /// Reads everything and compares it with the piece hashes, on all cores. `progress` gets the bytes that were dealt
    /// with since its last call, from any thread, and all calls together make the torrent's size. Once `stop` is true
    /// the check ends within a moment.
    ///
    /// # Errors
    /// [`Error::Data`] if `meta` is not the torrent that this was opened for.
    pub fn verify(&self, meta: &Metainfo, progress: &(dyn Fn(u64) + Sync), stop: &AtomicBool) -> Result<VerifyReport> {
        if meta.geometry.total() != self.total() {
            return Err(Error::Data { path: meta.name.clone().into(), reason: "this is another torrent".into() });
        }
        let pieces = meta.geometry.pieces();
        let found = Mutex::new(Found { have: vec![false; pieces as usize], bad_files: BTreeMap::new() });
        deal(&meta.geometry, stop, |pieces| {
            let mut reader = Reader::new(self);
            let good: Vec<_> = pieces.filter(|&piece| reader.check(meta, piece, progress, stop)).collect();
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            for piece in good {
                if let Some(have) = found.have.get_mut(piece.0 as usize) {
                    *have = true;
                }
            }
            for (file, reason) in reader.bad_files {
                found.bad_files.entry(file).or_insert(reason);
            }
        });
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(found.report(self, &meta.geometry, stop.load(Ordering::Relaxed)))
    }

    /// Which pieces could be there: files have bytes for them, or holes where zeros are right. Nothing is hashed.
    #[must_use]
    pub fn candidates(&self, meta: &Metainfo) -> Vec<bool> {
        let mut reader = Reader::new(self);
        let candidate = |piece| {
            let (start, length) = (meta.geometry.piece_offset(piece), meta.geometry.piece_length(piece) as usize);
            if reader.is_hole(start, length) {
                return meta.piece_hashes.get(piece) == Some(&reader.zeros(length));
            }
            self.spans(start, length).all(|span| {
                let Ok(Span { file, at, part }) = span else { return false };
                let there = || self.handle(file, Access::Read).ok()?.map(|file| file.metadata());
                match there() {
                    Some(Ok(metadata)) => at + part.len() as u64 <= metadata.len(),
                    Some(Err(_)) => false,
                    // Padding has no file.
                    None => self.path(file).is_none(),
                }
            })
        };
        meta.geometry.all().map(candidate).collect()
    }

    /// True if the piece is there and passes its hash.
    #[must_use]
    pub fn is_right(&self, meta: &Metainfo, piece: PieceIndex) -> bool {
        Reader::new(self).check(meta, piece, &|_| (), &AtomicBool::new(false))
    }

    /// The torrent's empty files that are not there, or not empty, as paths below its directory, each with its reason: no
    /// piece tells of them.
    pub(crate) fn wrong_empty_files<'a>(&self, meta: &'a Metainfo) -> Vec<(&'a str, &'static str)> {
        let empty = |file: &&MetaFile| file.length == 0 && matches!(file.kind, FileKind::Regular { .. });
        let wrong = |file: &'a MetaFile| match self.length_of(&file.path) {
            Ok(0) => None,
            Ok(_) => Some((&*file.path, "it is not empty")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some((&*file.path, "it is missing")),
            Err(_) => Some((&*file.path, "it cannot be opened")),
        };
        meta.files.iter().filter(empty).filter_map(wrong).collect()
    }

    /// The SHA-1 of every piece of what lies there now, one after the other, on all cores; `None` if it was stopped.
    /// `progress` and `stop` are those of [`DataDir::verify`].
    ///
    /// # Errors
    /// A file that cannot be read, as a path below the torrent's directory, and why.
    pub(crate) fn hash(
        &self,
        geometry: &Geometry,
        progress: &(dyn Fn(u64) + Sync),
        stop: &AtomicBool,
    ) -> Result<Option<Vec<u8>>, (PathBuf, String)> {
        let hashes = Mutex::new(vec![[0; 20]; geometry.pieces() as usize]);
        let (failed, failure) = (AtomicBool::new(false), Mutex::new(None));
        deal(geometry, stop, |pieces| {
            let mut reader = Reader::new(self);
            let mut done = Vec::new();
            for piece in pieces.take_while(|_| !failed.load(Ordering::Relaxed)) {
                let Some(hash) = reader.hash(geometry, piece, progress, stop) else { break };
                done.push((piece, hash));
            }
            let mut hashes = hashes.lock().unwrap_or_else(PoisonError::into_inner);
            for (piece, hash) in done {
                if let Some(place) = hashes.get_mut(piece.0 as usize) {
                    *place = hash;
                }
            }
            if let Some(bad) = reader.bad_files.into_iter().next() {
                failed.store(true, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(bad);
            }
        });
        if let Some((file, reason)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err((self.path(file).unwrap_or_default().into(), reason));
        }
        let hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((!stop.load(Ordering::Relaxed)).then(|| hashes.into_flattened()))
    }
}

/// Deals the pieces to all cores: every thread calls `work` once, with the pieces that it gets until `stop` is true.
fn deal(geometry: &Geometry, stop: &AtomicBool, work: impl Fn(&mut dyn Iterator<Item = PieceIndex>) + Sync) {
    let pieces = geometry.pieces();
    let stripe = (STRIPE / geometry.nominal_piece_length()).max(1);
    let next = AtomicU32::new(0);
    let thread = || {
        let stripes = std::iter::from_fn(|| {
            let first = next.fetch_add(stripe, Ordering::Relaxed).min(pieces);
            let last = first.saturating_add(stripe).min(pieces);
            (first < last).then_some(first..last)
        });
        work(&mut stripes.flatten().map(PieceIndex).take_while(|_| !stop.load(Ordering::Relaxed)));
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(pieces.div_ceil(stripe) as usize);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where no more threads are allowed, those that are there do the work.
            let _ = std::thread::Builder::new().name("hash".into()).spawn_scoped(scope, thread);
        }
        thread();
    });
}

#[derive(Debug)]
struct Found {
    have: Vec<bool>,
    bad_files: BTreeMap<usize, String>,
}

impl Found {
    fn report(self, data: &DataDir, geometry: &Geometry, stopped: bool) -> VerifyReport {
        let good = geometry.all().zip(&self.have).filter(|(_, have)| **have);
        VerifyReport {
            good: good.map(|(piece, _)| u64::from(geometry.piece_length(piece))).sum(),
            bad_files: (self.bad_files.into_iter())
                .filter_map(|(file, reason)| data.path(file).map(|path| (path.into(), reason)))
                .collect(),
            have: self.have,
            stopped,
        }
    }
}

/// A thread's view of the files.
struct Reader<'a> {
    data: &'a DataDir,
    current: Option<Current>,
    chunk: Vec<u8>,
    /// The hash of so many zeros.
    zeros: Option<(usize, [u8; 20])>,
    bad_files: BTreeMap<usize, String>,
}

impl<'a> Reader<'a> {
    fn new(data: &'a DataDir) -> Self {
        Self { data, current: None, chunk: vec![0; CHUNK], zeros: None, bad_files: BTreeMap::new() }
    }

    /// True if the piece is there and passes its hash.
    fn check(&mut self, meta: &Metainfo, piece: PieceIndex, progress: &dyn Fn(u64), stop: &AtomicBool) -> bool {
        let Some(hash) = self.hash(&meta.geometry, piece, progress, stop) else { return false };
        let good = meta.piece_hashes.get(piece) == Some(&hash);
        if !good {
            let (start, length) = (meta.geometry.piece_offset(piece), meta.geometry.piece_length(piece) as usize);
            let why = if self.is_hole(start, length) { "a part of it is missing" } else { "its content differs" };
            self.blame(start, length, why);
        }
        good
    }

    /// The hash of a piece; `None` if a file does not have it, or if this was stopped.
    fn hash(
        &mut self,
        geometry: &Geometry,
        piece: PieceIndex,
        progress: &dyn Fn(u64),
        stop: &AtomicBool,
    ) -> Option<[u8; 20]> {
        let (start, length) = (geometry.piece_offset(piece), geometry.piece_length(piece) as usize);
        if self.is_hole(start, length) {
            progress(length as u64);
            return Some(self.zeros(length));
        }
        let mut hasher = Sha1::new();
        let mut done = 0;
        while done < length {
            let step = CHUNK.min(length - done);
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            if !self.read(start + done as u64, step) {
                progress((length - done) as u64);
                return None;
            }
            hasher.update(&self.chunk[..step]);
            progress(step as u64);
            done += step;
        }
        Some(hasher.finalize().into())
    }

    /// True if no file has anything but a hole here.
    fn is_hole(&mut self, offset: u64, length: usize) -> bool {
        let data = self.data;
        data.spans(offset, length).all(|span| {
            span.is_ok_and(|Span { file, at, part }| {
                self.open(file).is_ok_and(|open| open.is_hole(at, part.len() as u64))
            })
        })
    }

    /// The hash of so many zeros.
    fn zeros(&mut self, length: usize) -> [u8; 20] {
        if let Some((_, hash)) = self.zeros.filter(|(of, _)| *of == length) {
            return hash;
        }
        self.chunk.fill(0);
        let mut hasher = Sha1::new();
        for start in (0..length).step_by(CHUNK) {
            hasher.update(&self.chunk[..CHUNK.min(length - start)]);
        }
        let hash = hasher.finalize().into();
        self.zeros = Some((length, hash));
        hash
    }

    /// Fills the first `length` bytes of the chunk; false if a file does not have them.
    fn read(&mut self, offset: u64, length: usize) -> bool {
        let data = self.data;
        for span in data.spans(offset, length) {
            let Ok(Span { file, at, part }) = span else { return false };
            let mut chunk = std::mem::take(&mut self.chunk);
            let result = self.open(file).and_then(|open| match &open.file {
                Some(file) => file.read_exact_at(&mut chunk[part], at).map_err(|error| explain(&error)),
                None => {
                    chunk[part].fill(0);
                    Ok(())
                }
            });
            self.chunk = chunk;
            if let Err(reason) = result {
                self.bad_files.entry(file).or_insert(reason);
                return false;
            }
        }
        true
    }

    /// The file, or why it cannot be read. Reading goes in order, so it is mostly the one that was read last.
    fn open(&mut self, index: usize) -> Result<&mut Opened, String> {
        if self.current.as_ref().is_none_or(|current| current.index != index) {
            self.current = None; // closed before the next is opened
            self.current = Some(Current { index, opened: Opened::open(self.data, index) });
        }
        match self.current.as_mut().map(|current| current.opened.as_mut()) {
            Some(Ok(opened)) => Ok(opened),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(String::new()),
        }
    }

    /// A piece is bad: the file that it lies in is, or one of several.
    fn blame(&mut self, start: u64, length: usize, why: &str) {
        let files: Vec<_> = self.data.spans(start, length).filter_map(Result::ok).map(|span| span.file).collect();
        let reason = if files.len() == 1 { why } else { "it shares a piece that differs" };
        for file in files {
            self.bad_files.entry(file).or_insert_with(|| reason.into());
        }
    }
}

/// The file that a thread read last, or why it cannot be read.
struct Current {
    index: usize,
    opened: Result<Opened, String>,
}

/// A file that is read; none if it is padding.
struct Opened {
    file: Option<File>,
    length: u64,
    /// A part that is known to be a hole.
    hole: Range<u64>,
}

impl Opened {
    fn open(data: &DataDir, index: usize) -> Result<Self, String> {
        let opened = data.open_index(index, Access::Read).and_then(|file| {
            let length = file.as_ref().map_or(Ok(u64::MAX), |file| file.metadata().map(|meta| meta.len()))?;
            Ok(Self { file, length, hole: 0..0 })
        });
        if let Ok(Self { file: Some(file), .. }) = &opened {
            // A hint: the kernel reads further ahead. Not every file system takes it.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::Sequential);
        }
        opened.map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            missing.then(|| data.unfinished(index)).flatten().unwrap_or_else(|| explain(&error))
        })
    }

    /// True if these bytes are there and nothing was ever written to them.
    fn is_hole(&mut self, at: u64, length: u64) -> bool {
        let Some(file) = &self.file else { return true };
        let end = at.saturating_add(length);
        if end > self.length {
            return false;
        }
        if !(self.hole.start <= at && end <= self.hole.end) {
            // The position of a file that nobody else has open: the bytes are read by offset.
            let next = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(next) => next,
                // No data from here on, up to where the file ends now: it may have been cut.
                Err(Errno::NXIO) => file.metadata().map_or(at, |metadata| metadata.len()),
                Err(_) => at,
            };
            self.hole = at..next;
        }
        end <= self.hole.end
    }
}

/// What is said of a link that is not followed.
pub(super) const LEADS_OUT: &str = "it is a link that leads out of the directory";

fn explain(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => "it is missing".into(),
        (io::ErrorKind::UnexpectedEof, _) => "it is too short".into(),
        (_, Some(libc::EXDEV | libc::ELOOP)) => LEADS_OUT.into(),
        _ => error.to_string(),
    }
}
