//! Memory for bytes that were read from a disk and wait for a socket or a reader: reused, and bounded over all peers, so that many
//! who ask and do not read hold little.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::metainfo::BLOCK_LENGTH;

const BLOCK: usize = BLOCK_LENGTH as usize;
/// The most that is read at once, bytes. Measured with a gigabyte from the page cache: blocks one by one cost 0.5 CPU-s,
/// four at a time 0.38, sixteen the same.
pub(super) const CHUNK: usize = 16 * BLOCK;
/// Chunks that are kept for the next one who needs one.
const SPARE: usize = 16;
/// Bytes in chunks beyond which a peer gets no more than [`SCARCE`]. Memory is `--memory` + 64 MiB + 64 kB a peer: half
/// of the second.
const PLENTY: usize = 32 << 20;
/// What a peer's outbox takes when memory is scarce: within its 64 kB.
pub(super) const SCARCE: usize = 2 * (BLOCK + 13);

/// The memory of all peers' chunks.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    spare: Mutex<Vec<Vec<u8>>>,
    /// Bytes in chunks that are in use.
    used: AtomicUsize,
}

impl Chunks {
    /// A chunk of this many bytes; what they are is left over from another.
    pub(super) fn get(self: &Arc<Self>, length: usize) -> Chunk {
        let spare = (length > BLOCK).then(|| self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()).flatten();
        let bytes = match spare {
            Some(bytes) if bytes.len() >= length => bytes,
            _ if length > BLOCK => vec![0; CHUNK.max(length)],
            _ => vec![0; length],
        };
        self.used.fetch_add(bytes.len(), Ordering::Relaxed);
        Chunk { bytes, home: Arc::clone(self) }
    }

    /// True if slow peers hold so much that nobody should hold more than [`SCARCE`].
    pub(super) fn scarce(&self) -> bool {
        self.used.load(Ordering::Relaxed) > PLENTY
    }
}

/// Bytes that return to where they came from.
#[derive(Debug)]
pub struct Chunk {
    bytes: Vec<u8>,
    home: Arc<Chunks>,
}

impl Chunk {
    /// A part of it; nothing if it is not that long.
    pub(super) fn part(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Chunk {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.home.used.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        if self.bytes.len() > BLOCK {
            let mut spare = self.home.spare.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < SPARE {
                spare.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_reused_and_counted() {
        let chunks = Arc::<Chunks>::default();
        let mut chunk = chunks.get(5 * BLOCK);
        chunk.as_mut()[..2].copy_from_slice(b"ab");
        assert_eq!((chunk.part(0..2), chunk.part(0..CHUNK + 1)), (&b"ab"[..], &b""[..]));
        drop(chunk);
        assert_eq!(chunks.get(CHUNK).part(0..2), b"ab", "it is the same one");
        assert_eq!(chunks.get(BLOCK).part(0..BLOCK).len(), BLOCK);
        assert_eq!(chunks.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn memory_becomes_scarce_and_plenty_again() {
        let chunks = Arc::<Chunks>::default();
        let mut held: Vec<Chunk> = (0..PLENTY / CHUNK).map(|_| chunks.get(CHUNK)).collect();
        assert!(!chunks.scarce());
        held.push(chunks.get(1));
        assert!(chunks.scarce());
        held.pop();
        assert!(!chunks.scarce());
        drop(held);
        assert!(chunks.spare.lock().unwrap().len() <= SPARE);
    }
}
