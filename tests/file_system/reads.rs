//! Reads give a file's bytes, whatever the offset, the length or the way.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use crate::fake_content::{Entry, Fixture, bytes, file, torrent};
use swarmfs::swarm::TorrentKey;

const KEY: TorrentKey = TorrentKey(0);
const FIRST: u64 = 10_000;
const SIZE: u64 = 3_000_001;

/// A torrent whose file `f` starts at an odd place and is followed by another.
fn sample() -> Option<Fixture> {
    let files: Vec<Entry> = vec![file("before", FIRST), file("empty", 0), file("f", SIZE), file("g", 77)];
    Fixture::new(&[torrent("t", None, &files)])
}

#[test]
fn files_have_their_own_bytes() {
    let Some(fixture) = sample() else { return };
    let whole = |name: &str| fs::read(fixture.path("t").join(name)).expect("it is read");
    assert!(whole("before") == bytes(KEY, 0..FIRST));
    assert!(whole("f") == bytes(KEY, FIRST..FIRST + SIZE));
    assert!(whole("g") == bytes(KEY, FIRST + SIZE..FIRST + SIZE + 77));
    assert_eq!(whole("empty"), b"");
    fixture.content.wait_until("three handles are closed", |state| state.closed == 3);
    let state = fixture.content.state();
    assert_eq!(state.opened, 3, "the empty one needs no content");
    assert!(state.asked.iter().all(|range| range.end <= FIRST + SIZE + 77));
    let crosses = |place: u64| state.asked.iter().any(|range| range.start < place && place < range.end);
    assert!(!crosses(FIRST) && !crosses(FIRST + SIZE), "no request leaves its file");
}

#[test]
fn offsets_at_and_past_the_end() {
    let Some(fixture) = sample() else { return };
    let f = File::open(fixture.path("t/f")).expect("it opens");
    let at = |offset: u64, length: usize| {
        let mut room = vec![0; length];
        let got = f.read_at(&mut room, offset).expect("it is read");
        room.truncate(got);
        room
    };
    assert_eq!(at(SIZE - 1, 4096), bytes(KEY, FIRST + SIZE - 1..FIRST + SIZE));
    assert_eq!(at(4095, 2), bytes(KEY, FIRST + 4095..FIRST + 4097));
    assert_eq!(at(0, 0), b"");
    fixture.content.state().asked.clear();
    let far = i64::MAX.unsigned_abs() - 4096;
    for offset in [SIZE, SIZE + 1, SIZE + 4096, 1 << 40, far] {
        assert_eq!(at(offset, 4096), b"", "{offset}");
    }
    assert_eq!(fixture.content.state().asked, [], "nothing past the end is asked for");
    let beyond = f.read_at(&mut [0; 16], 1 << 63).expect_err("no such offset");
    assert_eq!(beyond.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn data_is_everywhere_and_the_only_hole_is_the_end() {
    let Some(fixture) = sample() else { return };
    let f = File::open(fixture.path("t/f")).expect("it opens");
    let seek = |to| rustix::fs::seek(&f, to);
    assert_eq!(seek(rustix::fs::SeekFrom::Data(5)), Ok(5));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(5)), Ok(SIZE));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(SIZE)), Err(rustix::io::Errno::NXIO));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(SIZE)), Err(rustix::io::Errno::NXIO));
    assert_eq!(seek(rustix::fs::SeekFrom::End(-1)), Ok(SIZE - 1));
}

#[test]
fn a_mapped_file_has_the_same_bytes() {
    let Some(fixture) = sample() else { return };
    let f = File::open(fixture.path("t/f")).expect("it opens");
    let length = usize::try_from(SIZE).expect("it fits");
    // SAFETY: a fresh private mapping of a file that never changes; nothing else knows its address.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, f.as_raw_fd(), 0) };
    assert_ne!(address, libc::MAP_FAILED, "it can be mapped");
    drop(f);
    // SAFETY: `length` bytes are mapped there for reading until the munmap below.
    let mapped = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length) };
    assert!(mapped == bytes(KEY, FIRST..FIRST + SIZE));
    // SAFETY: the mapping made above, which nothing uses any more.
    assert_eq!(unsafe { libc::munmap(address, length) }, 0);
}

#[test]
fn what_was_read_once_is_not_asked_for_again() {
    let Some(fixture) = sample() else { return };
    let first = fs::read(fixture.path("t/f")).expect("it is read");
    fixture.content.state().asked.clear();
    assert!(fs::read(fixture.path("t/f")).expect("it is read") == first);
    assert_eq!(fixture.content.state().asked, [], "the kernel keeps the pages over an open");
}

#[test]
fn a_panic_fails_its_read_and_no_other() {
    let Some(fixture) = sample() else { return };
    fixture.content.state().panics_at = Some(FIRST + SIZE);
    for _ in 0..8 {
        let error = fs::read(fixture.path("t/g")).expect_err("it panics");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    assert!(fs::read(fixture.path("t/f")).expect("it is read") == bytes(KEY, FIRST..FIRST + SIZE));
    fixture.content.state().panics_at = None;
    assert!(fs::read(fixture.path("t/g")).expect("it is read") == bytes(KEY, FIRST + SIZE..FIRST + SIZE + 77));
}

#[test]
fn an_answer_of_the_wrong_length_is_an_error_not_zeros() {
    let Some(fixture) = sample() else { return };
    fixture.content.state().short_at = Some(FIRST + SIZE);
    let error = fs::read(fixture.path("t/g")).expect_err("a byte is missing");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}
