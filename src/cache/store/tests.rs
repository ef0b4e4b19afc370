//! The store against a plain model, with crashes at every change, damage of every kind and no room.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use sha1::{Digest, Sha1};

use super::disk::crash;
use super::*;
use crate::cache::{Filled, PieceBuf, Place, Pool, Verified};
use crate::metainfo::Metainfo;

const MIB: usize = 1 << 20;

/// A torrent with a true info dictionary, and its bytes.
struct Fixture {
    meta: Metainfo,
    content: Vec<u8>,
}

fn fixture(name: &str, piece_length: usize, files: &[usize]) -> Fixture {
    let mut state = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let content: Vec<u8> = (0..files.iter().sum::<usize>()).map(|_| byte()).collect();
    let mut info = b"d5:filesl".to_vec();
    for (index, length) in files.iter().enumerate() {
        let path = format!("f{index}");
        info.extend(format!("d6:lengthi{length}e4:pathl{}:{path}ee", path.len()).bytes());
    }
    let hashes: Vec<u8> =
        content.chunks(piece_length).flat_map(|piece| <[u8; 20]>::from(Sha1::digest(piece))).collect();
    info.extend(
        format!("e4:name{}:{name}12:piece lengthi{piece_length}e6:pieces{}:", name.len(), hashes.len()).bytes(),
    );
    info.extend(hashes);
    info.push(b'e');
    Fixture { meta: Metainfo::parse_info(&info).unwrap(), content }
}

impl Fixture {
    /// 35 pieces of 64 KiB: small files, two large ones, and pieces across all borders.
    fn mixed() -> Self {
        fixture("mixed", 64 << 10, &[5000, 70_000, MIB + 333, 17, 100_000, MIB - 4096])
    }

    fn bytes(&self, piece: u32) -> &[u8] {
        let start = self.meta.geometry.piece_offset(PieceIndex(piece)) as usize;
        &self.content[start..start + self.meta.geometry.piece_length(PieceIndex(piece)) as usize]
    }

    fn verified(&self, piece: u32) -> Verified {
        let bytes = self.bytes(piece);
        let buffer = PieceBuf::new(bytes.len() as u32, self.hash(piece), &Place::Memory, &Pool::new()).unwrap();
        let buffer = if piece.is_multiple_of(2) { buffer.with_sums() } else { buffer };
        let blocks = (0_u32..).step_by(BLOCK).zip(bytes.chunks(BLOCK));
        let mut filled = blocks.map(|(begin, block)| buffer.fill(begin, block).unwrap());
        let Some(Filled::Done(verified)) = filled.find(|filled| matches!(filled, Filled::Done(_))) else { panic!() };
        verified
    }

    fn hash(&self, piece: u32) -> [u8; 20] {
        *self.meta.piece_hashes.get(PieceIndex(piece)).unwrap()
    }

    fn pieces(&self) -> u32 {
        self.meta.geometry.pieces()
    }
}

fn open(dir: &Path, size: u64) -> Store {
    Store::open(dir, size).unwrap()
}

fn put(store: &Store, entry: &Arc<Entry>, fixture: &Fixture, piece: u32) -> bool {
    loop {
        match store.room(fixture.bytes(piece).len() as u64) {
            Room::Enough => break,
            Room::Victim(entry, piece) => store.forget(&entry, piece),
            Room::Full => return false,
        }
    }
    store.write(entry, &fixture.meta, PieceIndex(piece), &fixture.verified(piece), false) == Put::Stored
}

/// Reads as the engine does: by checksum, and by hash where that is asked for. None if the piece is not there.
fn read(store: &Store, entry: &Entry, fixture: &Fixture, piece: u32, range: Range<u32>) -> Option<Vec<u8>> {
    loop {
        match store.read(entry, PieceIndex(piece), range.clone(), true, |length| vec![0; length]) {
            Ok(checked) => return Some(checked.bytes().to_vec()),
            Err(Fault::Absent | Fault::FileGone) => return None,
            Err(Fault::WouldBlock) => panic!("it was told to wait"),
            Err(Fault::Suspect) => {
                let (hash, pool) = (fixture.hash(piece), Pool::new());
                let loaded = store.load(entry, PieceIndex(piece), &hash, &Place::Memory, &pool).ok()?;
                assert_eq!(loaded.bytes().unwrap(), fixture.bytes(piece));
            }
        }
    }
}

/// How many pieces can be read; whatever can be is right.
fn readable(store: &Store, entry: &Entry, fixture: &Fixture) -> u32 {
    let right = |&piece: &u32| {
        let whole = 0..fixture.bytes(piece).len() as u32;
        read(store, entry, fixture, piece, whole).is_some_and(|bytes| {
            assert!(bytes == fixture.bytes(piece), "piece {piece} is wrong");
            true
        })
    };
    (0..fixture.pieces()).filter(right).count() as u32
}

fn torrent_dir(dir: &Path, fixture: &Fixture) -> PathBuf {
    dir.join(fixture.meta.id.to_string())
}

/// What the file system has allocated for the torrents.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let dirs = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    dirs.flat_map(|dir| fs::read_dir(dir).unwrap()).map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn what_was_written_is_read_in_any_part_now_and_after_a_restart() {
    let (dir, fixture) = (tempfile::tempdir().unwrap(), Fixture::mixed());
    for restart in 0..3 {
        let store = open(dir.path(), 1 << 30);
        let entry = store.entry(&fixture.meta);
        if restart == 0 {
            assert!((0..fixture.pieces()).all(|piece| put(&store, &entry, &fixture, piece)));
        }
        assert_eq!(entry.held().count() as u32, fixture.pieces());
        assert!((0..fixture.pieces()).all(|piece| !entry.is_suspect(PieceIndex(piece))));
        for piece in 0..fixture.pieces() {
            let length = fixture.bytes(piece).len() as u32;
            for range in [0..1, 0..length, length - 1..length, 16_383..16_385, 5000..5100, 30_000..49_153] {
                let range = range.start.min(length - 1)..range.end.min(length);
                let expected = &fixture.bytes(piece)[range.start as usize..range.end as usize];
                assert_eq!(read(&store, &entry, &fixture, piece, range).unwrap(), expected);
            }
        }
        assert_eq!(store.allocated(), allocated(dir.path()));
        store.save(&entry, &fixture.meta, (10, 20), true);
    }
    let store = open(dir.path(), 1 << 30);
    assert_eq!(store.entry(&fixture.meta).before, (30, 60), "totals are kept");
}

#[test]
fn a_crash_at_any_change_loses_what_was_under_way_and_nothing_else() {
    let fixture = Fixture::mixed();
    let order: Vec<u32> = (0..fixture.pieces()).map(|piece| piece * 11 % fixture.pieces()).collect();
    let (mut crashes, mut ended) = (0, false);
    while !ended {
        let dir = tempfile::tempdir().unwrap();
        let (mut written, mut forgotten) = (Vec::new(), Vec::new());
        {
            let store = open(dir.path(), 1 << 30);
            let entry = store.entry(&fixture.meta);
            crash::after(Some(crashes));
            for &piece in &order {
                if put(&store, &entry, &fixture, piece) {
                    written.push(piece);
                }
                // Some go again, so that holes are made in between.
                if piece % 5 == 0 && entry.holds(PieceIndex(piece)) {
                    store.forget(&entry, PieceIndex(piece));
                    forgotten.push(piece);
                }
            }
            store.save(&entry, &fixture.meta, (1, 1), false);
            store.save(&entry, &fixture.meta, (1, 1), true);
            ended = !crash::happened();
            crash::after(None);
        }
        let store = open(dir.path(), 1 << 30);
        let entry = store.entry(&fixture.meta);
        let there = readable(&store, &entry, &fixture);
        let sure = written.iter().filter(|piece| !forgotten.contains(piece)).count() as u32;
        // The one that was being forgotten may be there still.
        assert!(there >= sure && there <= sure + 1, "after {crashes}: {there} of {sure}");
        assert_eq!(store.allocated(), allocated(dir.path()), "after {crashes}");
        // Nothing is left of what is not there.
        let held: u64 = entry.held().map(|piece| fixture.bytes(piece.0).len() as u64).sum();
        assert!(store.allocated() <= held + 8 * 4096 * (u64::from(there) + 4), "after {crashes}");
        crashes += 1;
    }
    assert!(crashes > 100, "{crashes} changes");
}

#[test]
fn every_damage_is_found() {
    let fixture = Fixture::mixed();
    type Damage = fn(&Path);
    fn flip(path: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }
    // What is damaged, and how many pieces may be lost by it.
    let damages: [(Damage, u32); 9] = [
        (|dir| flip(&dir.join("2"), 400_000), 1),
        (|dir| flip(&dir.join("small"), 3), 1),
        // The bytes are right, so the hash says.
        (|dir| flip(&dir.join("sums"), 70), 0),
        (|dir| fs::remove_file(dir.join("sums")).unwrap(), 0),
        (|dir| File::options().write(true).open(dir.join("2")).unwrap().set_len(100_000).unwrap(), 16),
        (|dir| fs::remove_file(dir.join("small")).unwrap(), 20),
        (|dir| fs::write(dir.join("2"), vec![0; 2 * MIB]).unwrap(), 18),
        (
            |dir| {
                fs::rename(dir.join("2"), dir.join("x")).unwrap();
                fs::rename(dir.join("small"), dir.join("2")).unwrap();
                fs::rename(dir.join("x"), dir.join("small")).unwrap();
            },
            35,
        ),
        (|dir| fs::write(dir.join("info"), b"de").unwrap(), 0),
    ];
    for (running, (number, (damage, lost))) in
        [true, false].into_iter().flat_map(|running| damages.into_iter().enumerate().map(move |d| (running, d)))
    {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path(), 1 << 30);
        let mut entry = store.entry(&fixture.meta);
        assert!((0..fixture.pieces()).all(|piece| put(&store, &entry, &fixture, piece)));
        if !running {
            store.save(&entry, &fixture.meta, (0, 0), true);
            drop(store);
            damage(&torrent_dir(dir.path(), &fixture));
            store = open(dir.path(), 1 << 30);
            entry = store.entry(&fixture.meta);
        } else {
            damage(&torrent_dir(dir.path(), &fixture));
        }
        let there = readable(&store, &entry, &fixture);
        assert!(there + lost >= fixture.pieces(), "damage {number}: {there}");
        // What was lost is fetched and kept again.
        for piece in (0..fixture.pieces()).filter(|piece| !entry.holds(PieceIndex(*piece))).collect::<Vec<_>>() {
            assert!(put(&store, &entry, &fixture, piece), "damage {number}");
        }
        assert_eq!(readable(&store, &entry, &fixture), fixture.pieces(), "damage {number}");
        assert!(!store.is_off());
    }
}

#[test]
fn an_index_of_anything_else_is_made_anew_or_dropped() {
    let (fixture, other) = (Fixture::mixed(), fixture("other", 64 << 10, &[3 * MIB]));
    type Damage = fn(&Path);
    // What is done to it, and whether the pieces can be found without it.
    let damages: [(Damage, bool); 5] = [
        (|index| fs::write(index, [0xff; 10_000]).unwrap(), true),
        (|index| fs::write(index, b"").unwrap(), true),
        (
            |index| {
                let mut bytes = fs::read(index).unwrap();
                bytes[8] = 9;
                fs::write(index, bytes).unwrap();
            },
            false,
        ),
        (|index| fs::copy(index.parent().unwrap().parent().unwrap().join("theirs"), index).map(drop).unwrap(), true),
        (|index| fs::remove_file(index).unwrap(), false),
    ];
    for (damage, found) in damages {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = open(dir.path(), 1 << 30);
            for one in [&other, &fixture] {
                let entry = store.entry(&one.meta);
                assert!((0..one.pieces()).all(|piece| put(&store, &entry, one, piece)));
                store.save(&entry, &one.meta, (0, 0), true);
            }
        }
        fs::copy(torrent_dir(dir.path(), &other).join("index"), dir.path().join("theirs")).unwrap();
        damage(&torrent_dir(dir.path(), &fixture).join("index"));
        let store = open(dir.path(), 1 << 30);
        let entry = store.entry(&fixture.meta);
        assert_eq!(torrent_dir(dir.path(), &fixture).exists(), found);
        assert!(entry.held().all(|piece| entry.is_suspect(piece)));
        assert_eq!(readable(&store, &entry, &fixture), if found { fixture.pieces() } else { 0 });
        assert!(dir.path().join("theirs").exists(), "what is none of ours stays");
        assert_eq!(readable(&store, &store.entry(&other.meta), &other), other.pieces());
        assert_eq!(store.allocated(), allocated(dir.path()));
        assert!(put(&store, &entry, &fixture, 0) && readable(&store, &entry, &fixture) > 0);
    }
}

#[test]
fn the_least_recently_used_go_first_over_all_torrents_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let torrents: Vec<Fixture> = ["a", "b", "c"].map(|name| fixture(name, 64 << 10, &[2 * MIB])).into();
    let size = 3 << 20;
    for round in 0..2 {
        let store = open(dir.path(), size);
        for (at, torrent) in torrents.iter().enumerate().cycle().skip(round).take(3) {
            let entry = store.entry(&torrent.meta);
            for piece in 0..torrent.pieces() {
                assert!(put(&store, &entry, torrent, piece), "round {round}, torrent {at}, piece {piece}");
                assert!(store.allocated() <= size && allocated(dir.path()) <= size + 65536);
            }
            assert_eq!(readable(&store, &entry, torrent), torrent.pieces());
            store.save(&entry, &torrent.meta, (0, 0), true);
            // Ticks are hundredths of a second.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    // c and a were the last; a restart knows the order to the second, so a third one goes at the cost of b first.
    let store = open(dir.path(), size);
    let entry = store.entry(&torrents[0].meta);
    assert_eq!(readable(&store, &entry, &torrents[0]), torrents[0].pieces());
    let b = store.entry(&torrents[1].meta);
    assert!(b.held().count() < 16, "{}", b.held().count());
}

#[test]
fn a_store_that_is_too_small_takes_nothing_and_loses_nothing() {
    let (dir, fixture) = (tempfile::tempdir().unwrap(), Fixture::mixed());
    let store = open(dir.path(), 100_000);
    let entry = store.entry(&fixture.meta);
    assert!(!put(&store, &entry, &fixture, 0));
    assert_eq!(store.allocated(), 0);
}

#[test]
fn a_second_instance_is_refused_and_a_mount_is_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 1 << 30);
    let error = Store::open(dir.path(), 1 << 30).unwrap_err().to_string();
    assert!(error.contains("another swarmfs uses it") && error.contains("--cache-dir"), "{error}");
    drop(store);
    open(dir.path(), 1 << 30);
}

#[test]
fn a_directory_that_is_no_cache_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("probe"), "mine").unwrap();
    fs::create_dir(dir.path().join("5c3cb773dce7293887916f97b9dbb58d73548b7e")).unwrap();
    let error = Store::open(dir.path(), 1 << 30).unwrap_err().to_string();
    assert!(error.contains("not empty") && error.contains("--cache-dir"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(dir.path().join("probe")).unwrap(), "mine");
}

#[test]
fn a_file_is_for_the_kernel_when_all_of_it_passed_its_hash() {
    let (dir, fixture) = (tempfile::tempdir().unwrap(), Fixture::mixed());
    let store = open(dir.path(), 8 << 20);
    let entry = store.entry(&fixture.meta);
    let file = fixture.meta.files[2].bytes();
    for piece in 0..fixture.pieces() {
        assert!(store.backing(&entry, &file).is_none() || piece >= 18);
        assert!(put(&store, &entry, &fixture, piece));
    }
    let (backing, pin) = store.backing(&entry, &file).unwrap();
    let mut back = vec![0; MIB + 333];
    backing.read_exact_at(&mut back, 0).unwrap();
    assert!(back == fixture.content[file.start as usize..file.end as usize]);
    assert!(store.backing(&entry, &fixture.meta.files[0].bytes()).is_none(), "a small one has no file");
    // Half of the store at the most, and nothing of it goes.
    let more: Vec<_> = (0..4).map_while(|_| store.backing(&entry, &file)).collect();
    assert_eq!(more.len(), 2);
    let other = fixture_of_ten();
    let theirs = store.entry(&other.meta);
    for piece in 0..other.pieces() {
        put(&store, &theirs, &other, piece);
    }
    assert!(store.backing(&entry, &file).is_none(), "it may pin no more");
    let kept = fixture.meta.geometry.pieces_of(file.clone()).all(|piece| entry.holds(piece));
    assert!(kept && entry.held().count() < 35);
    drop((pin, more));
    for piece in (0..other.pieces()).rev() {
        put(&store, &theirs, &other, piece);
    }
    assert!(!fixture.meta.geometry.pieces_of(file).all(|piece| entry.holds(piece)));
}

fn fixture_of_ten() -> Fixture {
    fixture("ten", 64 << 10, &[10 * MIB])
}

#[derive(Clone, Debug)]
enum Op {
    Put(u32),
    Read(u32, u32, u32),
    Forget(u32),
    Damage(u64),
    Restart(bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (0..35_u32).prop_map(Op::Put),
        6 => (0..35_u32, 0..65_536_u32, 1..65_536_u32).prop_map(|(p, start, length)| Op::Read(p, start, length)),
        2 => (0..35_u32).prop_map(Op::Forget),
        1 => (0..(1_u64 << 20)).prop_map(Op::Damage),
        1 => any::<bool>().prop_map(Op::Restart),
    ];
    proptest::collection::vec(op, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Never a wrong byte; what was put is there until it is forgotten or damaged; within the size.
    #[test]
    fn the_store_is_the_model(ops in ops()) {
        let (dir, fixture, size) = (tempfile::tempdir().unwrap(), Fixture::mixed(), 1 << 20);
        let mut store = open(dir.path(), size);
        let mut entry = store.entry(&fixture.meta);
        let (mut there, mut damaged) = (std::collections::BTreeSet::new(), false);
        let (mut suspect, mut changed) = (std::collections::BTreeSet::new(), false);
        for op in ops {
            match op {
                Op::Put(piece) => {
                    let room = store.room(fixture.bytes(piece).len() as u64);
                    if let Room::Victim(_, victim) = room {
                        store.forget(&entry, victim);
                        prop_assert!(there.remove(&victim.0) || damaged);
                        changed = true;
                        suspect.remove(&victim.0);
                    }
                    if matches!(store.room(fixture.bytes(piece).len() as u64), Room::Enough) {
                        prop_assert_eq!(
                            store.write(&entry, &fixture.meta, PieceIndex(piece), &fixture.verified(piece), false), Put::Stored
                        );
                        changed |= there.insert(piece);
                    }
                }
                Op::Read(piece, start, length) => {
                    let whole = fixture.bytes(piece).len() as u32;
                    let range = start.min(whole - 1)..(start + length).min(whole);
                    let bytes = read(&store, &entry, &fixture, piece, range.clone());
                    prop_assert!(bytes.is_some() == there.contains(&piece) || damaged);
                    match bytes {
                        Some(bytes) => prop_assert_eq!(
                            &bytes[..], &fixture.bytes(piece)[range.start as usize..range.end as usize]
                        ),
                        None => drop(there.remove(&piece)),
                    }
                    suspect.remove(&piece);
                }
                Op::Forget(piece) => {
                    store.forget(&entry, PieceIndex(piece));
                    changed |= there.remove(&piece);
                    suspect.remove(&piece);
                }
                Op::Damage(at) => {
                    let path = torrent_dir(dir.path(), &fixture).join(["2", "small", "sums"][at as usize % 3]);
                    if let Ok(file) = File::options().write(true).open(path) {
                        file.write_all_at(&[7; 100], at % file.metadata().unwrap().len().max(1)).unwrap();
                        damaged = true;
                    }
                }
                Op::Restart(clean) => {
                    if clean {
                        store.save(&entry, &fixture.meta, (0, 0), true);
                    }
                    drop(store);
                    store = open(dir.path(), size);
                    entry = store.entry(&fixture.meta);
                    let held: std::collections::BTreeSet<u32> = entry.held().map(|piece| piece.0).collect();
                    prop_assert!(held == there || damaged);
                    // What a crash has made suspect stays so until it is hashed.
                    if !clean && changed {
                        suspect = held.clone();
                    }
                    changed &= !clean;
                    let now = held.iter().copied().filter(|piece| entry.is_suspect(PieceIndex(*piece)));
                    prop_assert!(now.collect::<std::collections::BTreeSet<_>>() == suspect || damaged);
                }
            }
            // Who writes into a hole takes room that nobody counts.
            prop_assert!(damaged || (store.allocated() <= size && store.allocated() == allocated(dir.path())));
        }
        prop_assert!(!store.is_off());
    }
}
