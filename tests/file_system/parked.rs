//! Reads that wait for content hold up nobody else, and their readers can be killed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::fake_content::{Fixture, bytes, file, torrent, within};
use swarmfs::swarm::TorrentKey;

const DEAD: TorrentKey = TorrentKey(0);
const ALIVE: TorrentKey = TorrentKey(1);
const MIB: u64 = 1 << 20;

/// A torrent nobody has, in which `dead/f` lies, and one that is here.
fn sample() -> Option<Fixture> {
    let torrents = [torrent("dead", None, &[file("f", 600 * MIB)]), torrent("alive", None, &[file("f", 3 * MIB)])];
    let fixture = Fixture::new(&torrents)?;
    fixture.content.state().stuck.push((DEAD, 0..600 * MIB));
    Some(fixture)
}

#[test]
fn a_blocked_reader_dies_at_once_when_killed() {
    let Some(fixture) = sample() else { return };
    let mut reader =
        Command::new("cat").arg(fixture.path("dead/f")).stdout(Stdio::null()).spawn().expect("cat is there");
    fixture.content.wait_parked(1);
    reader.kill().expect("it can be killed");
    let status = within("the death of a killed reader", move || reader.wait()).expect("it has ended");
    assert!(!status.success());
    assert!(fixture.content.state().parked() >= 1, "its read is still parked");
    fixture.content.wait_until("the kernel has told that its file was closed", |state| state.flushed >= 1);
}

#[test]
fn a_read_that_is_here_passes_512_that_wait() {
    let Some(fixture) = sample() else { return };
    let dead = Arc::new(File::open(fixture.path("dead/f")).expect("it opens"));
    let readers: Vec<_> = (0..512)
        .map(|n| {
            let dead = Arc::clone(&dead);
            let read = move || {
                let mut room = [0; 16];
                dead.read_exact_at(&mut room, n * MIB).map(|()| room)
            };
            std::thread::Builder::new().stack_size(64 << 10).spawn(read).expect("a thread")
        })
        .collect();
    fixture.content.wait_parked(512);
    let alive = fixture.path("alive/f");
    let read = within("a read that is here", move || fs::read(alive)).expect("it is read");
    assert!(read == bytes(ALIVE, 0..3 * MIB));
    assert!(fixture.content.state().parked() >= 512, "they all still wait");
    fixture.content.let_go();
    for (n, reader) in (0..).zip(readers) {
        let room = reader.join().expect("no panic").expect("it is read");
        assert_eq!(room[..], bytes(DEAD, n * MIB..n * MIB + 16));
    }
}

#[test]
fn a_file_whose_read_waits_can_be_opened_and_listed() {
    let Some(fixture) = sample() else { return };
    let path = fixture.path("dead/f");
    let reader = std::thread::spawn({
        let path = path.clone();
        move || File::open(path).and_then(|f| f.read_at(&mut [0; 4096], 0))
    });
    fixture.content.wait_parked(1);
    let (size, entries) = within("a second open", move || {
        let second = File::open(&path).expect("it opens");
        let entries = fs::read_dir(path.parent().expect("it has one")).expect("it is a directory").count();
        (second.metadata().expect("it has attributes").len(), entries)
    });
    assert_eq!((size, entries), (600 * MIB, 1));
    assert!(fixture.content.state().parked() >= 1, "the first still waits");
    fixture.content.let_go();
    assert_eq!(reader.join().expect("no panic").expect("it is read"), 4096);
}

#[test]
fn closing_content_fails_the_reads_that_wait() {
    let Some(fixture) = sample() else { return };
    let path = fixture.path("dead/f");
    let reader = std::thread::spawn(move || fs::read(path).map(|all| all.len()));
    fixture.content.wait_parked(1);
    swarmfs::engine::Content::close_all(&*fixture.content);
    let error = within("the answer", move || reader.join()).expect("no panic").expect_err("it is closed");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
}
