//! Buffers of pieces. Those of pieces that are gone are kept for the next ones; those of the usual lengths, powers of two,
//! lie in huge pages: at a gigabyte a second, fresh memory else costs a page fault every 4 KiB, and the kernel looks up
//! every 4 KiB of what it copies.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// What is asked of the kernel at once, bytes; larger pieces get what they need.
const REGION: usize = 4 * HUGE;
/// Shorter buffers come from the heap, bytes.
const LEAST: usize = 64 << 10;

/// Where buffers come from and go back to. Buffers may outlive everybody else who holds it.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Buffers that nobody uses and that keep their memory, the newest last.
    idle: VecDeque<Memory>,
    /// Addresses that nobody uses and that have given their memory back, by length.
    cold: BTreeMap<usize, Vec<Slot>>,
    /// What the slots lie in.
    regions: Vec<Region>,
}

impl Pool {
    /// The most that idle buffers may hold, bytes. They are not part of any budget, so it is small; but pieces leave in
    /// bursts, and with 8 MiB half of a stream's buffers went back to the kernel and came anew.
    pub const MAX_IDLE: usize = 32 << 20;

    /// An empty pool.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A buffer of exactly `length` bytes, whose content is whatever was there before.
    ///
    /// # Errors
    /// The kernel has no memory.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> io::Result<Buffer> {
        let mut state = self.lock();
        let found = state.idle.iter().rposition(|m| m.bytes().len() == length);
        let memory = match found.and_then(|at| state.idle.remove(at)) {
            Some(memory) => memory,
            None if length >= LEAST && length.is_power_of_two() => Memory::Slot(state.slot(length)?),
            None => {
                drop(state);
                Memory::Heap(vec![0; length])
            }
        };
        Ok(Buffer { memory, pool: Arc::clone(self) })
    }

    fn give(&self, memory: Memory) {
        let mut room = Self::MAX_IDLE;
        let mut state = self.lock();
        state.idle.push_back(memory);
        // The newest that fit stay: the oldest may be of a length that nobody asks for any more.
        let keep = state.idle.iter().rev().take_while(|memory| {
            let fits = memory.bytes().len() <= room;
            room = room.saturating_sub(memory.bytes().len());
            fits
        });
        let surplus = state.idle.len() - keep.count();
        let gone: Vec<Memory> = state.idle.drain(..surplus).collect();
        drop(state);
        // The allocator and the kernel work outside the lock.
        for memory in gone {
            if let Memory::Slot(slot) = memory {
                slot.cool();
                self.lock().cold.entry(slot.length).or_default().push(slot);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A slot that nobody uses, in a new region if there is none.
    fn slot(&mut self, length: usize) -> io::Result<Slot> {
        let cold = self.cold.entry(length).or_default();
        if cold.is_empty() {
            let region = Region::new(length.max(REGION))?;
            // The last one is taken first: a huge page that was begun is used up before the next.
            for at in (0..region.length).step_by(length).rev() {
                // SAFETY: `at` lies in the region, whose length is a multiple of `length`: both are powers of two.
                cold.push(Slot { start: unsafe { region.start.add(at) }, length });
            }
            self.regions.push(region);
        }
        cold.pop().ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }
}

/// Memory of the kernel's, a multiple of huge pages.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the region is only mapped and unmapped by its owner; what lies in it belongs to the slots.
unsafe impl Send for Region {}

impl Region {
    /// `length` is a multiple of [`HUGE`].
    fn new(length: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping where the kernel likes, which nobody else knows.
        let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), length + HUGE, protection, flags) }?;
        let start = mapped.map_addr(|address| address.next_multiple_of(HUGE));
        let before = start.addr() - mapped.addr();
        // SAFETY: both parts lie in the mapping, at its ends; pages are a part of HUGE. An error only leaves addresses.
        unsafe {
            let _ = munmap(mapped, before);
            let _ = munmap(start.byte_add(length), HUGE - before);
        }
        // SAFETY: the advice changes nothing that a program can see. A kernel without huge pages refuses it.
        let _ = unsafe { madvise(start, length, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, length })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it goes with the pool, which every buffer holds; so no slot of it is in use.
        let _ = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.length) };
    }
}

/// A part of a region that has one user at the most.
#[derive(Debug)]
struct Slot {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a slot is the only way to its bytes, like a Vec to its own.
unsafe impl Send for Slot {}
// SAFETY: as above; shared, it can only be read.
unsafe impl Sync for Slot {}

impl Slot {
    /// Gives its memory back to the kernel; it is full of zeros afterwards.
    fn cool(&self) {
        let start = self.start.as_ptr();
        let page = start.map_addr(|address| address & !(HUGE - 1));
        // SAFETY: nobody else uses the slot, and private memory that is not needed reads as zeros from then on.
        let _ = unsafe { madvise(start.cast(), self.length, Advice::LinuxDontNeed) };
        if self.length < HUGE {
            // Or the kernel would put a huge page together again for the neighbours, with memory for this one too.
            // SAFETY: the advice changes nothing that a program can see; the page lies in the region.
            let _ = unsafe { madvise(page.cast(), HUGE, Advice::LinuxNoHugepage) };
        }
    }
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Slot(Slot),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            // SAFETY: the slot is mapped while the pool is there, filled by the kernel or by us, and borrowed here.
            Self::Slot(slot) => unsafe { std::slice::from_raw_parts(slot.start.as_ptr(), slot.length) },
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            // SAFETY: as for `bytes`, and borrowed alone.
            Self::Slot(slot) => unsafe { std::slice::from_raw_parts_mut(slot.start.as_ptr(), slot.length) },
        }
    }
}

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Memory,
    pool: Arc<Pool>,
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give(std::mem::replace(&mut self.memory, Memory::Heap(Vec::new())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idle(pool: &Pool) -> usize {
        pool.lock().idle.iter().map(|m| m.bytes().len()).sum()
    }

    #[test]
    fn it_reuses_and_stays_small() {
        let pool = Pool::new();
        for length in [1 << 20, 1_000_000] {
            let first = pool.take(length).unwrap();
            let address = first.bytes().as_ptr();
            drop(first);
            let again = pool.take(length).unwrap();
            assert_eq!(again.bytes().as_ptr(), address);
            assert_eq!(again.bytes().len(), length);
        }
        let many: Vec<_> = (0..50).map(|_| pool.take(1 << 20).unwrap()).collect();
        drop(many);
        assert_eq!(idle(&pool), Pool::MAX_IDLE);
        // A new length pushes the old ones out.
        drop(pool.take(Pool::MAX_IDLE).unwrap());
        assert_eq!((idle(&pool), pool.lock().idle.len()), (Pool::MAX_IDLE, 1));
        drop(pool.take(Pool::MAX_IDLE + 1).unwrap());
        assert_eq!(idle(&pool), 0);
    }

    #[test]
    fn what_is_not_kept_goes_back_to_the_kernel() {
        let pool = Pool::new();
        let mut many: Vec<_> = (0..36).map(|_| pool.take(1 << 20).unwrap()).collect();
        many.iter_mut().for_each(|buffer| buffer.bytes_mut().fill(7));
        drop(many);
        let many: Vec<_> = (0..36).map(|_| pool.take(1 << 20).unwrap()).collect();
        let kept = many.iter().filter(|buffer| buffer.bytes().iter().all(|b| *b == 7)).count();
        let fresh = many.iter().filter(|buffer| buffer.bytes().iter().all(|b| *b == 0)).count();
        assert_eq!((kept, fresh), (32, 4));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Buffers come and go in any order: each keeps its bytes as long as it is there.
        #[test]
        fn no_two_buffers_share_a_byte(
            steps in proptest::collection::vec((prop_oneof![Just(1_usize << 16), Just(1 << 18), Just(1 << 22), 1..200_000_usize], any::<u8>()), 1..60),
        ) {
            let pool = Pool::new();
            let mut there: Vec<(Buffer, u8)> = Vec::new();
            for (length, mark) in steps {
                let mut buffer = pool.take(length).unwrap();
                prop_assert_eq!(buffer.bytes().len(), length);
                buffer.bytes_mut().fill(mark);
                there.push((buffer, mark));
                if mark % 3 == 0 {
                    there.swap_remove(usize::from(mark) % there.len());
                }
            }
            drop(pool);
            for (buffer, mark) in there {
                prop_assert!(buffer.bytes().iter().all(|b| *b == mark));
            }
        }
    }
}
