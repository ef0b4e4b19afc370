//! The memory cache: verified pieces in the order of their last use, under a budget of bytes. Room is made in two steps,
//! because the swarm must hear of an eviction before the bytes go: [`Cache::make_room`] chooses, [`Cache::remove`] drops.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::verified::{Gauge, Verified};
use crate::metainfo::PieceIndex;
use crate::swarm::TorrentKey;

/// Verified pieces in LRU order. Shared by all torrents and threads.
///
/// A piece in memory counts with its bytes from [`Cache::insert`] until the last holder of its `Arc` drops it, so that
/// [`Cache::used`] is what the process really holds. A piece in a temporary file costs no memory; the files together
/// hold at most twice the budget, or two pieces if these are larger.
#[derive(Debug)]
pub struct Cache {
    budget: u64,
    gauge: Arc<Gauge>,
    pieces: Mutex<Pieces>,
}

type Key = (TorrentKey, PieceIndex);

#[derive(Debug)]
struct Pieces {
    /// In order of use.
    staying: LruCache<Key, Arc<Verified>>,
    /// Chosen by `make_room`, readable until `remove`.
    leaving: HashMap<Key, Arc<Verified>>,
    /// Their bytes in memory and in files, no longer to be counted as ours.
    leaving_memory: u64,
    leaving_file: u64,
    /// The largest piece that came in a file.
    largest_file: u64,
}

impl Cache {
    /// An empty cache for `budget` bytes.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        let pieces = Pieces {
            staying: LruCache::unbounded(),
            leaving: HashMap::new(),
            leaving_memory: 0,
            leaving_file: 0,
            largest_file: 0,
        };
        Self { budget, gauge: Arc::default(), pieces: Mutex::new(pieces) }
    }

    /// The piece, which becomes the most recently used one.
    #[must_use]
    pub fn get(&self, torrent: TorrentKey, piece: PieceIndex) -> Option<Arc<Verified>> {
        let key = (torrent, piece);
        let mut pieces = self.lock();
        pieces.staying.get(&key).cloned().or_else(|| pieces.leaving.get(&key).cloned())
    }

    /// The piece; the order stays as it is. For uploads: what peers ask for must not push out what is being read.
    #[must_use]
    pub fn peek(&self, torrent: TorrentKey, piece: PieceIndex) -> Option<Arc<Verified>> {
        let key = (torrent, piece);
        let pieces = self.lock();
        pieces.staying.peek(&key).or_else(|| pieces.leaving.get(&key)).cloned()
    }

    /// True if the piece can be read.
    #[must_use]
    pub fn contains(&self, torrent: TorrentKey, piece: PieceIndex) -> bool {
        let key = (torrent, piece);
        let pieces = self.lock();
        pieces.staying.contains(&key) || pieces.leaving.contains_key(&key)
    }

    /// Chooses the least recently used pieces that must go so that `bytes` more fit into memory, and one more piece
    /// into the temporary files. They stay readable until [`Cache::remove`] and are not chosen twice.
    ///
    /// A piece that somebody holds is passed over: its bytes would not become free. So the answer may fall short if
    /// nearly everything is held.
    #[must_use]
    pub fn make_room(&self, bytes: u64) -> Vec<(TorrentKey, PieceIndex)> {
        let mut pieces = self.lock();
        let memory = (self.gauge.memory().saturating_sub(pieces.leaving_memory)).saturating_add(bytes);
        let mut memory_over = memory.saturating_sub(self.budget);
        let file = self.gauge.file().saturating_sub(pieces.leaving_file).saturating_add(pieces.largest_file);
        let file_limit = self.budget.saturating_mul(2).max(pieces.largest_file.saturating_mul(2));
        let mut file_over = file.saturating_sub(file_limit);
        if memory_over == 0 && file_over == 0 {
            return Vec::new();
        }
        let mut chosen = Vec::new();
        for (key, piece) in pieces.staying.iter().rev() {
            let (over, cost) = match piece.cost() {
                (0, file) => (&mut file_over, file),
                (memory, _) => (&mut memory_over, memory),
            };
            // No other clone can be made meanwhile: clones come from here, under this lock, or from a holder.
            if *over > 0 && Arc::strong_count(piece) == 1 {
                *over = over.saturating_sub(cost);
                chosen.push(*key);
            }
            if memory_over == 0 && file_over == 0 {
                break;
            }
        }
        for key in &chosen {
            if let Some(piece) = pieces.staying.pop(key) {
                pieces.count_leaving(&piece, u64::saturating_add);
                pieces.leaving.insert(*key, piece);
            }
        }
        chosen
    }

    /// Drops the piece. Nothing happens if it is not there.
    pub fn remove(&self, torrent: TorrentKey, piece: PieceIndex) {
        let gone = self.lock().take((torrent, piece));
        drop(gone); // outside the lock: the memory may go back to the system
    }

    /// Puts a piece in as the most recently used one; an older copy is dropped.
    pub fn insert(&self, torrent: TorrentKey, piece: PieceIndex, verified: Arc<Verified>) {
        verified.charge(&self.gauge);
        let mut pieces = self.lock();
        let older = pieces.take((torrent, piece));
        pieces.largest_file = pieces.largest_file.max(verified.cost().1);
        pieces.staying.put((torrent, piece), verified);
        drop(pieces);
        drop(older);
    }

    /// Bytes of memory in pieces: those that are here, those that are leaving, and those that left and are still held.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.gauge.memory()
    }

    /// Drops every piece of a torrent.
    pub fn remove_torrent(&self, torrent: TorrentKey) {
        let mut pieces = self.lock();
        let staying = pieces.staying.iter().map(|(key, _)| *key);
        let keys: Vec<_> = staying.chain(pieces.leaving.keys().copied()).filter(|key| key.0 == torrent).collect();
        let gone: Vec<_> = keys.into_iter().map(|key| pieces.take(key)).collect();
        drop(pieces);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pieces {
    fn take(&mut self, key: Key) -> Option<Arc<Verified>> {
        if let Some(piece) = self.leaving.remove(&key) {
            self.count_leaving(&piece, u64::saturating_sub);
            return Some(piece);
        }
        self.staying.pop(&key)
    }

    fn count_leaving(&mut self, piece: &Verified, change: fn(u64, u64) -> u64) {
        let (memory, file) = piece.cost();
        self.leaving_memory = change(self.leaving_memory, memory);
        self.leaving_file = change(self.leaving_file, file);
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
mod tests {
    use super::super::{Filled, PieceBuf, Place, Pool};
    use super::*;
    use proptest::prelude::*;
    use sha1::Digest;

    /// Sizes in the tests are multiples of this: below it, a piece counts as this much.
    const UNIT: u32 = super::super::verified::MIN_COST;

    fn piece(length: u32, place: &Place) -> Arc<Verified> {
        let bytes = vec![7; length as usize];
        let buf = PieceBuf::new(length, sha1::Sha1::digest(&bytes).into(), place, &Pool::new()).unwrap();
        for (index, data) in bytes.chunks(1 << 14).enumerate() {
            if let Filled::Done(verified) = buf.fill((index as u32) << 14, data).unwrap() {
                return Arc::new(verified);
            }
        }
        panic!("the piece is not done");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(Key, u32),
        Get(Key),
        Peek(Key),
        MakeRoom(u64),
        Remove(Key),
        RemoveTorrent(TorrentKey),
        Pin(Key),
        Unpin(Key),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let key = || (0..2_u32, 0..6_u32).prop_map(|(t, p)| (TorrentKey(t), PieceIndex(p)));
        let op = prop_oneof![
            6 => (key(), 1..=12_u32).prop_map(|(k, units)| Op::Insert(k, units * UNIT)),
            3 => key().prop_map(Op::Get),
            1 => key().prop_map(Op::Peek),
            3 => (0..=30_u64).prop_map(|units| Op::MakeRoom(units * u64::from(UNIT))),
            2 => key().prop_map(Op::Remove),
            1 => (0..2_u32).prop_map(|t| Op::RemoveTorrent(TorrentKey(t))),
            2 => key().prop_map(Op::Pin),
            2 => key().prop_map(Op::Unpin),
        ];
        proptest::collection::vec(op, 1..80)
    }

    /// The cache as a list: the least recently used entry first.
    #[derive(Default)]
    struct Model {
        entries: Vec<(Key, u64, /* leaving */ bool, /* pins */ Vec<u64>)>,
        /// Held but no longer in the cache.
        loose: Vec<(u64, u64)>,
    }

    impl Model {
        fn find(&self, key: Key) -> Option<usize> {
            self.entries.iter().position(|e| e.0 == key)
        }
        fn remove(&mut self, at: usize) {
            let (_, size, _, pins) = self.entries.remove(at);
            // However many hold it, it is one piece.
            if let Some(pin) = pins.first() {
                self.loose.push((*pin, size));
            }
        }
        fn used(&self) -> u64 {
            self.entries.iter().map(|e| e.1).chain(self.loose.iter().map(|l| l.1)).sum()
        }
        fn make_room(&mut self, bytes: u64, budget: u64) -> Vec<Key> {
            let mut used = self.used() - self.entries.iter().filter(|e| e.2).map(|e| e.1).sum::<u64>() + bytes;
            let mut chosen = Vec::new();
            for (key, size, leaving, pins) in &mut self.entries {
                if used > budget && !*leaving && pins.is_empty() {
                    *leaving = true;
                    used -= *size;
                    chosen.push(*key);
                }
            }
            chosen
        }
    }

    const BUDGET: u64 = 30 * UNIT as u64;

    proptest! {
        #[test]
        fn the_cache_is_the_model(ops in ops()) {
            let cache = Cache::new(BUDGET);
            let mut model = Model::default();
            // One pin a key at most, named by its number, so that model and cache agree on who holds what.
            let mut pins: Vec<(u64, Key, Arc<Verified>)> = Vec::new();
            for (number, op) in (0_u64..).zip(ops) {
                match op {
                    Op::Insert(key, size) => {
                        if let Some(at) = model.find(key) {
                            model.remove(at);
                        }
                        model.entries.push((key, size.into(), false, Vec::new()));
                        cache.insert(key.0, key.1, piece(size, &Place::Memory));
                    }
                    Op::Get(key) => {
                        let there = model.find(key);
                        if let Some(at) = there.filter(|&at| !model.entries[at].2) {
                            let entry = model.entries.remove(at);
                            model.entries.push(entry);
                        }
                        let found = cache.get(key.0, key.1).map(|p| u64::from(p.len()));
                        prop_assert_eq!(found, model.find(key).map(|at| model.entries[at].1));
                        prop_assert_eq!(found.is_some(), there.is_some());
                    }
                    Op::Peek(key) => {
                        let found = cache.peek(key.0, key.1).map(|p| u64::from(p.len()));
                        prop_assert_eq!(found, model.find(key).map(|at| model.entries[at].1));
                    }
                    Op::MakeRoom(bytes) => {
                        prop_assert_eq!(cache.make_room(bytes), model.make_room(bytes, BUDGET));
                        // Nobody is chosen twice.
                        prop_assert_eq!(cache.make_room(bytes), Vec::new());
                    }
                    Op::Remove(key) => {
                        cache.remove(key.0, key.1);
                        if let Some(at) = model.find(key) {
                            model.remove(at);
                        }
                    }
                    Op::RemoveTorrent(torrent) => {
                        cache.remove_torrent(torrent);
                        while let Some(at) = model.entries.iter().position(|e| e.0.0 == torrent) {
                            model.remove(at);
                        }
                    }
                    Op::Pin(key) => {
                        let held = cache.peek(key.0, key.1);
                        prop_assert_eq!(held.is_some(), model.find(key).is_some());
                        if let (Some(held), Some(at)) = (held, model.find(key)) {
                            model.entries[at].3.push(number);
                            pins.push((number, key, held));
                        }
                    }
                    Op::Unpin(key) => {
                        // Every pin of this key's present and former pieces.
                        for (pin, _, _) in pins.extract_if(.., |p| p.1 == key) {
                            model.loose.retain(|l| l.0 != pin);
                            model.entries.iter_mut().for_each(|e| e.3.retain(|p| *p != pin));
                        }
                    }
                }
                prop_assert_eq!(cache.used(), model.used());
                for t in 0..2 {
                    for p in 0..6 {
                        let key = (TorrentKey(t), PieceIndex(p));
                        prop_assert_eq!(cache.contains(key.0, key.1), model.find(key).is_some());
                    }
                }
            }
            // With nobody holding anything, room can always be made, and nothing is left uncounted at the end.
            drop(pins);
            for key in cache.make_room(BUDGET) {
                cache.remove(key.0, key.1);
            }
            for t in 0..2 {
                cache.remove_torrent(TorrentKey(t));
            }
            prop_assert_eq!(cache.used(), 0);
        }
    }

    #[test]
    fn files_cost_no_memory_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::TempFile(dir.path().into());
        let torrent = TorrentKey(0);
        let cache = Cache::new(100_000);
        cache.insert(torrent, PieceIndex(100), piece(60_000, &Place::Memory));
        for index in 0..10 {
            for (t, p) in cache.make_room(0) {
                cache.remove(t, p);
            }
            cache.insert(torrent, PieceIndex(index), piece(80_000, &place));
            assert_eq!(cache.used(), 60_000);
            assert!(cache.gauge.file() <= 200_000, "{}", cache.gauge.file());
        }
        // The two newest, and the piece in memory, however old it is.
        let there: Vec<_> = (0..=100).filter(|&p| cache.contains(torrent, PieceIndex(p))).collect();
        assert_eq!(there, [8, 9, 100]);
        // Larger than the budget: two fit all the same.
        for index in 20..24 {
            for (t, p) in cache.make_room(0) {
                cache.remove(t, p);
            }
            cache.insert(torrent, PieceIndex(index), piece(300_000, &place));
        }
        for (t, p) in cache.make_room(50_000) {
            cache.remove(t, p);
        }
        let there: Vec<_> = (0..=100).filter(|&p| cache.contains(torrent, PieceIndex(p))).collect();
        assert_eq!(there, [23], "room for one more file, and the memory for 50,000 bytes");
    }

    #[test]
    fn tiny_pieces_are_not_free() {
        let cache = Cache::new(u64::from(UNIT) * 10);
        for index in 0..20 {
            for (t, p) in cache.make_room(1) {
                cache.remove(t, p);
            }
            cache.insert(TorrentKey(0), PieceIndex(index), piece(1, &Place::Memory));
        }
        assert_eq!(cache.used(), u64::from(UNIT) * 10);
    }
}
