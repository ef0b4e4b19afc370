//! Bytes that have passed their hash, and the buffers that hold them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha1::{Digest, Sha1};

use crate::metainfo::BLOCK_LENGTH;
use crate::swarm::BlockDigest;

/// Bytes of buffers that wait to be used again: more would be memory that holds nothing.
const IDLE: usize = 8 << 20;

/// Buffers of pieces that are gone. A fresh megabyte costs 256 page faults; one that is used again costs none.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// A buffer of `length` bytes whose content is of no meaning.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match idle.iter().rposition(|b| b.len() == length) {
            Some(found) => idle.swap_remove(found),
            // Zeroed lazily by the kernel: nothing is written here.
            None => vec![0; length],
        }
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.iter().map(Vec::len).sum::<usize>() + buffer.len() <= IDLE {
            idle.push(buffer);
        }
    }
}

/// Bytes that return to their pool.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) pool: Arc<Pool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.bytes));
    }
}

/// Where the bytes of a piece lie.
#[derive(Debug)]
pub(super) enum Bytes {
    Memory(Buffer),
    /// An unlinked file: the piece is too large for the memory.
    File(File),
}

/// The bytes of a piece that passed its hash. The hash check of a [`PieceBuf`](super::PieceBuf) is the one way to make it.
#[derive(Debug)]
pub struct Verified {
    length: u32,
    bytes: Bytes,
    /// Where its memory is counted, from its insertion into the cache until the last user drops it.
    counted: OnceLock<Arc<AtomicU64>>,
}

impl Verified {
    /// For the hash check alone.
    pub(super) fn new(length: u32, bytes: Bytes) -> Self {
        Self { length, bytes, counted: OnceLock::new() }
    }

    /// Bytes of the piece.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a piece is never empty")]
    pub fn len(&self) -> u32 {
        self.length
    }

    /// The bytes, if they are in memory.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Memory(buffer) => Some(&buffer.bytes),
            Bytes::File(_) => None,
        }
    }

    /// Copies the bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` for bytes past the end of the piece; the file's if it lies in one.
    pub fn read_at(&self, offset: u32, out: &mut [u8]) -> io::Result<()> {
        match &self.bytes {
            Bytes::Memory(buffer) => {
                let from = offset as usize;
                let part = from.checked_add(out.len()).and_then(|to| buffer.bytes.get(from..to));
                out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Bytes::File(file) => file.read_exact_at(out, offset.into()),
        }
    }

    /// SHA-1 of every block in order.
    ///
    /// # Errors
    /// The file's, if the piece lies in one.
    pub fn digests(&self) -> io::Result<Vec<BlockDigest>> {
        digests(&self.bytes, self.length)
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> u64 {
        if self.bytes().is_some() { self.length.into() } else { 0 }
    }

    /// Counts its memory in `gauge` until it is dropped.
    pub(super) fn count(&self, gauge: &Arc<AtomicU64>) {
        if self.counted.set(Arc::clone(gauge)).is_ok() {
            gauge.fetch_add(self.memory(), Ordering::Relaxed);
        }
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        if let Some(gauge) = self.counted.get() {
            gauge.fetch_sub(self.memory(), Ordering::Relaxed);
        }
    }
}

/// SHA-1 of every block of a piece.
pub(super) fn digests(bytes: &Bytes, length: u32) -> io::Result<Vec<BlockDigest>> {
    match bytes {
        Bytes::Memory(buffer) => {
            Ok(buffer.bytes.chunks(BLOCK_LENGTH as usize).map(|b| BlockDigest(Sha1::digest(b).into())).collect())
        }
        Bytes::File(file) => {
            let mut block = vec![0; BLOCK_LENGTH as usize];
            let mut out = Vec::new();
            for begin in (0..length).step_by(BLOCK_LENGTH as usize) {
                let part = &mut block[..(length - begin).min(BLOCK_LENGTH) as usize];
                file.read_exact_at(part, begin.into())?;
                out.push(BlockDigest(Sha1::digest(part).into()));
            }
            Ok(out)
        }
    }
}
