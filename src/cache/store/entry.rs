//! A torrent in the store: which of its pieces are there, when each was used last, and where its bytes lie. What changes
//! it is in [`Store`](super::Store), under one lock.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::clock::{Clock, Tick};
use super::disk;
use super::index::{Index, IndexError};
use super::layout::Layout;
use crate::metainfo::{BLOCK_LENGTH, InfoHash, Metainfo, PieceIndex};

/// The raw `info` dictionary: its hash is the directory's name.
pub(super) const INFO: &str = "info";
pub(super) const INDEX: &str = "index";
/// CRC32C of every block of every piece, 0 for those that are not there.
pub(super) const SUMS: &str = "sums";

/// Its bytes may be anything: they are hashed before they are used. So it is after an unclean stop, and when a checksum
/// is wrong.
const SUSPECT: u8 = 1;
/// It passed its hash in this process.
const HASHED: u8 = 2;

/// A torrent in the store.
#[derive(Debug)]
pub struct Entry {
    pub(super) id: [u8; 20],
    /// Tells it from others in this process.
    pub(super) serial: u32,
    pub(super) layout: Layout,
    /// Per piece: when it was used last; 0 if it is not there.
    used: Box<[AtomicU32]>,
    flags: Box<[AtomicU8]>,
    /// Pieces that are there.
    count: AtomicU32,
    /// A torrent of this session. Others are only kept, until there is no room.
    pub(super) in_use: AtomicBool,
    dir: Mutex<Option<Arc<OwnedFd>>>,
    /// The index on the disk says that the files may be anything.
    pub(super) dirty: AtomicBool,
    /// Bytes that its directory takes.
    pub(super) allocated: AtomicU64,
    /// Pieces that the kernel reads by itself.
    pins: Mutex<Vec<Range<u32>>>,
    /// What former sessions received from peers and sent to them, bytes.
    pub(super) before: (u64, u64),
}

/// Why an entry cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    #[error("{0}")]
    Index(#[from] IndexError),
    #[error("its info dictionary is damaged")]
    Info,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Entry {
    /// One that has nothing.
    pub(super) fn empty(meta: &Metainfo, serial: u32) -> Self {
        let pieces = meta.geometry.pieces() as usize;
        Self {
            id: meta.id.wire(),
            serial,
            layout: Layout::new(meta),
            used: std::iter::repeat_with(AtomicU32::default).take(pieces).collect(),
            flags: std::iter::repeat_with(AtomicU8::default).take(pieces).collect(),
            count: AtomicU32::new(0),
            in_use: AtomicBool::new(false),
            dir: Mutex::default(),
            dirty: AtomicBool::new(false),
            allocated: AtomicU64::new(0),
            pins: Mutex::default(),
            before: (0, 0),
        }
    }

    /// What a directory of the store holds. After an unclean stop, every piece that was written to its end counts as
    /// there and is to be hashed first.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn load(meta: &Metainfo, serial: u32, dir: OwnedFd, clock: &Clock) -> Result<Self, EntryError> {
        let mut entry = Self::empty(meta, serial);
        let geometry = &entry.layout.geometry;
        let (file, limit) = (disk::open(&dir, INDEX)?, Index::length(geometry));
        let bytes = read_most(&file, limit)?;
        let index = match Index::decode(&bytes, &entry.id, geometry) {
            Ok(index) => index,
            Err(IndexError::Version) => return Err(IndexError::Version.into()),
            // What is there can be found without it, and is hashed then.
            Err(_) => Index { clean: false, downloaded: 0, uploaded: 0, used: Vec::new(), suspect: Vec::new() },
        };
        entry.before = (index.downloaded, index.uploaded);
        let written = if index.clean { None } else { Some(entry.written(&dir)?) };
        let saved = file.metadata()?.modified().map_or_else(|_| clock.now(), |at| clock.at(at));
        for (at, (used, flags)) in entry.used.iter_mut().zip(&mut entry.flags).enumerate() {
            let known = index.used.get(at).copied().filter(|used| *used > 0).map(|seconds| clock.at_seconds(seconds));
            let tick = match &written {
                None => known,
                Some(written) => written.get(at).copied().unwrap_or_default().then(|| known.unwrap_or(saved)),
            };
            if let Some(tick) = tick {
                *used.get_mut() = tick.0;
                *entry.count.get_mut() += 1;
                let suspect = !index.clean || index.suspect.get(at) == Some(&true);
                *flags.get_mut() = if suspect { SUSPECT } else { 0 };
            }
        }
        entry.dirty = AtomicBool::new(!index.clean);
        entry.allocated = AtomicU64::new(disk::allocated_in(&dir)?);
        entry.set_dir(Some(dir));
        Ok(entry)
    }

    /// The torrent of a directory of the store, which its `info` file says.
    ///
    /// # Errors
    /// [`EntryError::Info`] if that is not the one which the directory's name promises.
    pub(super) fn meta(dir: &OwnedFd, id: &[u8; 20]) -> Result<Metainfo, EntryError> {
        let most = usize::try_from(Metainfo::MAX_FILE).unwrap_or(usize::MAX);
        let bytes = read_most(&disk::open(dir, INFO)?, most)?;
        let meta = Metainfo::parse_info(&bytes).map_err(|_| EntryError::Info)?;
        if meta.id.wire() != *id || meta.id.v1 != Some(InfoHash::of(&bytes)) {
            return Err(EntryError::Info);
        }
        Ok(meta)
    }

    /// Per piece: all its checksums are there, which come after its bytes.
    fn written(&self, dir: &OwnedFd) -> io::Result<Vec<bool>> {
        let geometry = &self.layout.geometry;
        let file = match disk::open(dir, SUMS) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut sums = io::BufReader::with_capacity(256 << 10, file);
        let mut row = vec![0; 4 * geometry.nominal_piece_length().div_ceil(BLOCK_LENGTH) as usize];
        let mut written = Vec::with_capacity(geometry.pieces() as usize);
        for piece in geometry.all() {
            let row = &mut row[..4 * geometry.blocks(piece) as usize];
            match io::Read::read_exact(&mut sums, row) {
                Ok(()) => written.push(row.as_chunks::<4>().0.iter().all(|sum| *sum != [0; 4])),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Its directory, if it has one.
    pub(super) fn dir(&self) -> Option<Arc<OwnedFd>> {
        self.dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_dir(&self, dir: Option<OwnedFd>) {
        *self.dir.lock().unwrap_or_else(PoisonError::into_inner) = dir.map(Arc::new);
    }

    /// Where the checksums of a piece lie in their file, bytes.
    pub(super) fn sums(&self, piece: PieceIndex) -> Range<u64> {
        let geometry = &self.layout.geometry;
        let start = self.sums_start(piece);
        start..start + 4 * u64::from(geometry.blocks(piece))
    }

    fn sums_start(&self, piece: PieceIndex) -> u64 {
        4 * u64::from(piece.0) * self.sums_row()
    }

    fn sums_row(&self) -> u64 {
        u64::from(self.layout.geometry.nominal_piece_length().div_ceil(BLOCK_LENGTH))
    }

    /// True if any piece whose checksums lie in a range of their file satisfies `test`.
    pub(super) fn any_sums_in(&self, range: Range<u64>, mut test: impl FnMut(PieceIndex) -> bool) -> bool {
        let row = 4 * self.sums_row();
        let index = |at: u64| u32::try_from(at).unwrap_or(u32::MAX).min(self.layout.geometry.pieces());
        (index(range.start / row)..index(range.end.div_ceil(row))).any(|piece| test(PieceIndex(piece)))
    }

    /// The info-hash as the wire has it.
    #[must_use]
    pub fn id(&self) -> &[u8; 20] {
        &self.id
    }

    /// True if the piece is in the store.
    #[must_use]
    pub fn holds(&self, piece: PieceIndex) -> bool {
        self.tick(piece).is_some()
    }

    /// When the piece was used last, if it is there.
    pub(super) fn tick(&self, piece: PieceIndex) -> Option<Tick> {
        self.used.get(piece.0 as usize).map(|used| used.load(Ordering::SeqCst)).filter(|used| *used > 0).map(Tick)
    }

    /// The pieces that are there.
    pub fn held(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.layout.geometry.all().filter(|piece| self.holds(*piece))
    }

    /// It was used: it goes later than others. Nothing happens to one that is not there.
    pub(super) fn touch(&self, piece: PieceIndex, now: Tick) {
        if let Some(used) = self.used.get(piece.0 as usize) {
            let before = used.load(Ordering::Relaxed);
            if before != 0 && before != now.0 {
                // It may leave at this very moment.
                let _ = used.compare_exchange(before, now.0, Ordering::SeqCst, Ordering::Relaxed);
            }
        }
    }

    /// It is there now, and passed its hash.
    pub(super) fn put(&self, piece: PieceIndex, now: Tick) {
        self.set_flags(piece, HASHED);
        if self.used.get(piece.0 as usize).is_some_and(|used| used.swap(now.0, Ordering::SeqCst) == 0) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True if no piece is there.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// It is there no more. What is to be done with its bytes.
    pub(super) fn take(&self, piece: PieceIndex) -> Taken {
        // What is pinned now is pinned with all its pieces.
        let pins = self.lock_pins();
        let there = self.used.get(piece.0 as usize).is_some_and(|used| used.swap(0, Ordering::SeqCst) != 0);
        if !there {
            return Taken::Nothing;
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.set_flags(piece, 0);
        if pins.iter().any(|pieces| pieces.contains(&piece.0)) { Taken::Pinned } else { Taken::Free }
    }

    fn set_flags(&self, piece: PieceIndex, value: u8) {
        if let Some(flags) = self.flags.get(piece.0 as usize) {
            flags.store(value, Ordering::Relaxed);
        }
    }

    fn flags(&self, piece: PieceIndex) -> u8 {
        self.flags.get(piece.0 as usize).map_or(0, |flags| flags.load(Ordering::Relaxed))
    }

    /// True if the piece is to be hashed before its bytes are used.
    #[must_use]
    pub fn is_suspect(&self, piece: PieceIndex) -> bool {
        self.flags(piece) & SUSPECT != 0
    }

    /// Its checksum is wrong, or its file is: only its hash can tell.
    pub(super) fn suspect(&self, piece: PieceIndex) {
        self.set_flags(piece, SUSPECT);
    }

    /// It passed its hash.
    pub(super) fn hashed(&self, piece: PieceIndex) {
        self.set_flags(piece, HASHED);
    }

    /// The index as it is now.
    pub(super) fn index(&self, clean: bool, clock: &Clock, session: (u64, u64)) -> Index {
        let seconds = |used: &AtomicU32| match used.load(Ordering::Relaxed) {
            0 => 0,
            tick => clock.seconds(Tick(tick)),
        };
        Index {
            clean,
            downloaded: self.before.0.saturating_add(session.0),
            uploaded: self.before.1.saturating_add(session.1),
            used: self.used.iter().map(seconds).collect(),
            suspect: self.flags.iter().map(|flags| flags.load(Ordering::Relaxed) & SUSPECT != 0).collect(),
        }
    }

    /// Keeps pieces until the guard goes, if all of them are there and passed their hash in this process. `counter` counts
    /// their bytes, `limit` at the most.
    pub(super) fn pin(self: &Arc<Self>, pieces: Range<u32>, counter: &Arc<AtomicU64>, limit: u64) -> Option<Pin> {
        let bytes = u64::from(pieces.end - pieces.start) * u64::from(self.layout.geometry.nominal_piece_length());
        let mut pins = self.lock_pins();
        let whole = |piece| self.holds(PieceIndex(piece)) && self.flags(PieceIndex(piece)) & HASHED != 0;
        if !pieces.clone().all(whole) {
            return None;
        }
        if counter.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > limit {
            counter.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        pins.push(pieces.clone());
        Some(Pin { entry: Arc::clone(self), pieces, bytes, counter: Arc::clone(counter) })
    }

    pub(super) fn is_pinned(&self, piece: PieceIndex) -> bool {
        self.lock_pins().iter().any(|pieces| pieces.contains(&piece.0))
    }

    /// The pieces that are kept.
    pub(super) fn pins(&self) -> Vec<Range<u32>> {
        self.lock_pins().clone()
    }

    fn lock_pins(&self) -> std::sync::MutexGuard<'_, Vec<Range<u32>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was taken out of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was not there.
    Nothing,
    /// A piece whose bytes may be given back.
    Free,
    /// A piece that the kernel may be reading: its bytes stay where they are.
    Pinned,
}

/// Keeps pieces in the store while the kernel reads them by itself.
#[derive(Debug)]
pub struct Pin {
    entry: Arc<Entry>,
    pieces: Range<u32>,
    bytes: u64,
    counter: Arc<AtomicU64>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.entry.lock_pins();
        if let Some(at) = pins.iter().position(|pieces| *pieces == self.pieces) {
            pins.swap_remove(at);
        }
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A file's bytes, one more than `most` if it has more.
fn read_most(file: &File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, most as u64 + 1), &mut bytes)?;
    Ok(bytes)
}
