//! The memory cache: verified pieces of all torrents in LRU order under one byte budget. Making room has two steps, so
//! that a swarm hears of an eviction before the bytes go: [`Cache::make_room`] chooses, [`Cache::remove`] lets go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::verified::Verified;
use crate::metainfo::PieceIndex;
use crate::swarm::TorrentKey;

/// A piece of a torrent of this process.
type Key = (TorrentKey, PieceIndex);

/// The pieces that are in memory.
#[derive(Debug)]
pub struct Cache {
    budget: u64,
    /// Bytes of memory of all pieces that were inserted and that anyone still holds.
    used: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pieces: LruCache<Key, Arc<Verified>>,
    /// Chosen to go and still readable.
    leaving: BTreeMap<Key, Arc<Verified>>,
    /// Bytes of pieces in `pieces` that lie in temporary files.
    in_files: u64,
}

impl Cache {
    /// An empty cache for `budget` bytes.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        let state = State { pieces: LruCache::unbounded(), leaving: BTreeMap::new(), in_files: 0 };
        Self { budget, used: Arc::default(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The piece, which becomes the most recently used one.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<Arc<Verified>> {
        let mut state = self.lock();
        let found = state.pieces.get(&key).cloned();
        found.or_else(|| state.leaving.get(&key).cloned())
    }

    /// The piece; its rank stays as it is.
    #[must_use]
    pub fn peek(&self, key: Key) -> Option<Arc<Verified>> {
        let state = self.lock();
        state.pieces.peek(&key).or_else(|| state.leaving.get(&key)).cloned()
    }

    /// Chooses the least recently used pieces that must go so that one of `length` bytes fits, in memory or in a
    /// temporary file. They stay readable until [`Cache::remove`] and are not chosen again.
    #[must_use]
    pub fn make_room(&self, length: u64, in_memory: bool) -> Vec<Key> {
        let mut state = self.lock();
        let State { pieces, leaving, in_files } = &mut *state;
        let leaving_now: u64 = leaving.values().map(|p| p.memory()).sum();
        let mut used = self.used().saturating_sub(leaving_now);
        let mut chosen = Vec::new();
        while let Some((&key, piece)) = pieces.peek_lru() {
            let (file, memory) = (file_bytes(piece), piece.memory());
            // Two large pieces, or twice the budget of them, may lie in files.
            let files_full = !in_memory && *in_files + length > (2 * length).max(2 * self.budget);
            let memory_full = in_memory && used + length > self.budget;
            if !files_full && !memory_full {
                break;
            }
            let Some(piece) = pieces.pop(&key) else { break };
            *in_files -= file;
            used = used.saturating_sub(memory);
            leaving.insert(key, piece);
            chosen.push(key);
        }
        chosen
    }

    /// Lets go of a piece.
    pub fn remove(&self, key: Key) {
        let mut state = self.lock();
        let left = state.leaving.remove(&key);
        let popped = state.pieces.pop(&key);
        state.in_files -= popped.as_deref().map_or(0, file_bytes);
        drop(state);
        // Dropped outside the lock: a large buffer takes a while to free.
        drop((left, popped));
    }

    /// Keeps a piece as the most recently used one.
    pub fn insert(&self, key: Key, piece: Arc<Verified>) {
        piece.count(&self.used);
        let mut state = self.lock();
        state.in_files += file_bytes(&piece);
        let old = state.pieces.push(key, piece);
        if let Some((_, old)) = &old {
            state.in_files -= file_bytes(old);
        }
        let left = state.leaving.remove(&key);
        drop(state);
        drop((old, left));
    }

    /// Bytes of memory that pieces take, those included that were let go and are still being read.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

fn file_bytes(piece: &Verified) -> u64 {
    u64::from(piece.len()) - piece.memory()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha1::{Digest, Sha1};

    use super::super::assembly::{Filled, PieceBuf, Place};
    use super::*;

    fn piece(length: u32, place: Place) -> Arc<Verified> {
        let data = vec![7; length as usize];
        let buffer = PieceBuf::new(length, Sha1::digest(&data).into(), place, &Arc::default()).expect("a buffer");
        match buffer.fill(0, &data) {
            Ok(Filled::Done(verified)) => Arc::new(verified),
            other => panic!("{other:?}"),
        }
    }

    fn key(n: u32) -> Key {
        (TorrentKey(n % 2), PieceIndex(n / 2))
    }

    /// What the engine does with a new piece.
    fn add(cache: &Cache, n: u32, length: u32) -> Vec<Key> {
        let chosen = cache.make_room(length.into(), true);
        chosen.iter().for_each(|k| cache.remove(*k));
        cache.insert(key(n), piece(length, Place::Memory));
        chosen
    }

    #[test]
    fn a_chosen_piece_stays_readable_until_it_is_removed() {
        let cache = Cache::new(100);
        assert!(add(&cache, 0, 60).is_empty());
        assert_eq!(cache.make_room(60, true), [key(0)]);
        assert!(cache.make_room(60, true).is_empty(), "not chosen twice");
        let held = cache.get(key(0)).expect("still readable");
        cache.remove(key(0));
        assert!(cache.get(key(0)).is_none());
        assert_eq!(cache.used(), 60, "a reader holds it");
        drop(held);
        assert_eq!(cache.used(), 0);
    }

    #[test]
    fn what_a_reader_holds_counts() {
        let cache = Cache::new(100);
        add(&cache, 0, 50);
        let _held = cache.get(key(0));
        add(&cache, 1, 60);
        assert_eq!(add(&cache, 2, 30), [key(1)]);
    }

    #[test]
    fn large_pieces_in_files_take_no_memory_and_are_bounded() {
        let cache = Cache::new(10);
        for n in 0..5 {
            for victim in cache.make_room(40, false) {
                cache.remove(victim);
            }
            cache.insert(key(n), piece(40, Place::TempFile(std::env::temp_dir())));
        }
        assert_eq!(cache.used(), 0);
        assert_eq!((0..5).filter(|n| cache.peek(key(*n)).is_some()).count(), 2);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_list_in_order_of_use_holds(
            steps in prop::collection::vec((0u32..12, 1u32..40, prop::bool::ANY), 1..120)
        ) {
            let cache = Cache::new(100);
            let mut model: Vec<(Key, u64)> = Vec::new();
            for (n, length, insert) in steps {
                let at = model.iter().position(|(k, _)| *k == key(n));
                if insert && at.is_none() {
                    let mut gone = Vec::new();
                    while !model.is_empty() && model.iter().map(|(_, l)| l).sum::<u64>() + u64::from(length) > 100 {
                        gone.push(model.remove(0).0);
                    }
                    model.push((key(n), length.into()));
                    prop_assert_eq!(add(&cache, n, length), gone);
                } else {
                    prop_assert_eq!(cache.get(key(n)).is_some(), at.is_some());
                    if let Some(at) = at {
                        let used = model.remove(at);
                        model.push(used);
                    }
                }
                prop_assert_eq!(cache.used(), model.iter().map(|(_, l)| l).sum::<u64>());
            }
        }
    }
}
