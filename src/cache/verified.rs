//! Bytes that have passed their hash.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use sha1::{Digest, Sha1};

use super::assembly::heavy;
use super::place::Store;
use crate::metainfo::BLOCK_LENGTH;
use crate::swarm::BlockDigest;

/// What a piece in memory counts at the least: its bookkeeping. A torrent may have two million pieces of one byte.
pub(super) const MIN_COST: u32 = 512;

/// The bytes of a piece that passed its hash; only [`PieceBuf`](super::PieceBuf)'s hash check makes one.
#[derive(Debug)]
pub struct Verified {
    store: Store,
    length: u32,
    sums: Option<Box<[u32]>>,
    charge: OnceLock<Charge>,
}

impl Verified {
    /// `store` holds `length` bytes that have just passed their hash; `sums` are the checksums of their blocks.
    pub(super) fn new(store: Store, length: u32, sums: Option<Box<[u32]>>) -> Self {
        Self { store, length, sums, charge: OnceLock::new() }
    }

    /// The checksum of every block for the disk store, if they were taken.
    pub(super) fn sums(&self) -> Option<&[u32]> {
        self.sums.as_deref()
    }

    /// Length of the piece, bytes.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Never true: a piece has bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes, if they are in memory; `None` if they are in a temporary file.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.store.bytes()
    }

    /// Fills `out` with the bytes from `offset` on. It may wait for the disk if [`Verified::bytes`] is `None`.
    ///
    /// # Errors
    /// `InvalidInput` past the end of the piece; what the temporary file says.
    pub fn read_at(&self, offset: u32, out: &mut [u8]) -> io::Result<()> {
        if u64::from(offset) + out.len() as u64 > u64::from(self.length) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside the piece"));
        }
        self.store.read_at(offset, out)
    }

    /// Hands a range of the bytes to `take`, in order, in one part or, from a temporary file, in several.
    pub(super) fn scan(&self, range: std::ops::Range<u32>, take: impl FnMut(&[u8])) -> io::Result<()> {
        self.store.scan(range, take)
    }

    /// The SHA-1 of every block in order: a second hash of the whole piece.
    ///
    /// # Errors
    /// What the temporary file says.
    pub fn digests(&self) -> io::Result<Vec<BlockDigest>> {
        digests(&self.store, self.length)
    }

    /// What it costs a cache: bytes of memory and bytes in a temporary file; one of them is 0.
    pub(super) fn cost(&self) -> (u64, u64) {
        match &self.store {
            Store::Memory(_) => (u64::from(self.length.max(MIN_COST)), 0),
            Store::File(_) => (0, u64::from(self.length)),
        }
    }

    /// Counts its bytes in `gauge` until it is dropped. Only the first call has an effect.
    pub(super) fn charge(&self, gauge: &Arc<Gauge>) {
        self.charge.get_or_init(|| Charge::new(gauge, self.cost()));
    }
}

pub(super) fn digests(store: &Store, length: u32) -> io::Result<Vec<BlockDigest>> {
    let step = BLOCK_LENGTH as usize;
    heavy(length, || {
        (0..length)
            .step_by(step)
            .map(|begin| {
                let mut hasher = Sha1::new();
                store.scan(begin..length.min(begin.saturating_add(BLOCK_LENGTH)), |part| hasher.update(part))?;
                Ok(BlockDigest(hasher.finalize().into()))
            })
            .collect()
    })
}

/// Bytes of pieces that have been in a cache and are still held by anybody.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    memory: AtomicU64,
    file: AtomicU64,
}

impl Gauge {
    /// Bytes on the heap.
    pub(super) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Bytes in temporary files.
    pub(super) fn file(&self) -> u64 {
        self.file.load(Ordering::Relaxed)
    }
}

/// A share of a gauge.
#[derive(Debug)]
struct Charge {
    gauge: Arc<Gauge>,
    memory: u64,
    file: u64,
}

impl Charge {
    fn new(gauge: &Arc<Gauge>, (memory, file): (u64, u64)) -> Self {
        gauge.memory.fetch_add(memory, Ordering::Relaxed);
        gauge.file.fetch_add(file, Ordering::Relaxed);
        Self { gauge: Arc::clone(gauge), memory, file }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gauge.memory.fetch_sub(self.memory, Ordering::Relaxed);
        self.gauge.file.fetch_sub(self.file, Ordering::Relaxed);
    }
}
