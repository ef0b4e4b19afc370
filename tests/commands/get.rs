//! `swarmfs get`: whole copies and parts of them, what is there already, what stops it, and what it gives to others.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::gets::{fails, get, get_at, run, seed, start, succeeds};
use crate::support::hostile::Behaviour;
use crate::support::peer::Peer;
use crate::support::process::swarmfs;
use crate::support::reading::assert_same_bytes;
use crate::support::torrent::{Content, Torrent};
use crate::support::tracker::{Action, Tracker, ok, reply};
use crate::support::{MIB, free_address, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);
const PIECE: u64 = 64 << 10;

/// A torrent of one file, its .torrent, a directory for the copy, and a peer that has it.
struct Film {
    content: Arc<Content>,
    torrent: PathBuf,
    dir: TempDir,
    out: PathBuf,
    peer: Peer,
}

fn film(length: u64, behaviour: Behaviour) -> Film {
    let content = Arc::new(Content::noise("film.mkv", length, PIECE, length));
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let peer = Peer::start(&content, behaviour);
    let out = dir.path().join("out");
    Film { content, torrent, dir, out, peer }
}

impl Film {
    fn copy(&self) -> PathBuf {
        self.out.join("film.mkv")
    }

    fn given(&self) -> u64 {
        self.peer.count(|c| &c.bytes)
    }

    /// Bytes of the pieces that the copy has.
    fn right(&self) -> u64 {
        let bytes = std::fs::read(self.copy()).unwrap_or_default();
        let size = usize::try_from(PIECE).expect("a piece");
        let pieces = self.content.bytes.chunks(size).zip(bytes.chunks(size));
        pieces.filter(|(a, b)| a == b).map(|(a, _)| u64::try_from(a.len()).expect("a length")).sum()
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert!(std::fs::read(self.copy()).expect("the copy") == self.content.bytes);
    }
}

#[test]
fn a_whole_set_is_fetched_once() {
    let dataset = Dataset::small();
    let content = Arc::new(Content::of(&dataset, PIECE));
    let peer = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let out = dir.path().join("new/out");
    let text = succeeds(get(&torrent, &out, &[peer.address], &[]));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("fetching ") && lines[1].starts_with("fetched "), "{text}");
    assert_same_bytes(&dataset, &out.join(&dataset.name));
    assert_eq!(peer.count(|c| &c.bytes), dataset.length(), "nothing came twice");
    for file in &dataset.files {
        let mode = std::fs::metadata(out.join(&dataset.name).join(&file.path)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o100 != 0, file.executable, "{}", file.path);
    }
    // Again, with nobody there.
    drop(peer);
    let text = succeeds(get(&torrent, &out, &[], &[]));
    assert!(text.contains("already") && text.lines().count() == 1, "{text}");
}

#[test]
fn a_selection_makes_no_other_file() {
    let dataset = Dataset::small();
    let content = Arc::new(Content::of(&dataset, PIECE));
    let peer = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let out = dir.path().join("out");
    succeeds(get(&torrent, &out, &[peer.address], &["--select", "photos/03.raw", "--select", "note 7.txt"]));
    let root = out.join(&dataset.name);
    let (mut made, mut offset, mut pieces) = (0, 0, std::collections::BTreeSet::new());
    for file in &dataset.files {
        let there = std::fs::read(root.join(&file.path)).ok();
        let selected = file.path == "photos/03.raw" || file.path.ends_with("/note 7.txt");
        assert_eq!(there.is_some(), selected, "{}", file.path);
        if let Some(bytes) = there {
            made += 1;
            assert!(bytes == std::fs::read(dataset.root().join(&file.path)).expect("the original"), "{}", file.path);
            pieces.extend(offset / PIECE..=(offset + file.length - 1) / PIECE);
        }
        offset += file.length;
    }
    assert_eq!(made, 2);
    assert_eq!(peer.count(|c| &c.bytes), PIECE * u64::try_from(pieces.len()).expect("a count"), "whole pieces, once");
    // The others come later, into the same copy.
    succeeds(get(&torrent, &out, &[peer.address], &[]));
    assert_same_bytes(&dataset, &root);
    fails(get(&torrent, &out, &[], &["--select", "photos/*", "--select", "*.iso"]), "*.iso");
}

#[test]
fn a_killed_get_goes_on_where_it_was() {
    let film = film(12 * MIB + 5, Behaviour::Rate(6 * MIB));
    let mut first = start("first", get(&film.torrent, &film.out, &[film.peer.address], &[]), film.dir.path());
    wait_until(SECOND * 20, "half of it came", || film.right() > 5 * MIB);
    first.signal(Signal::KILL);
    first.wait(SECOND * 5).expect("it is dead");
    let (there, missing) = (film.right(), film.content.torrent.length - film.right());
    assert!(missing > MIB, "it was not killed halfway: {there}");
    let fast = Peer::seed(&film.content);
    succeeds(get(&film.torrent, &film.out, &[fast.address], &[]));
    film.assert_whole();
    assert_eq!(fast.count(|c| &c.bytes), missing, "only what was missing; {there} bytes were there");
}

/// Pieces too large for the memory are put together in files.
#[test]
fn large_pieces_in_little_memory() {
    let content = Arc::new(Content::noise("image.iso", 5 * MIB + 77, MIB, 5));
    let peer = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    succeeds(get(&torrent, dir.path(), &[peer.address], &["--memory", "2MiB"]));
    assert!(std::fs::read(dir.path().join("image.iso")).expect("the copy") == content.bytes);
}

#[test]
fn a_damaged_copy_is_repaired() {
    let film = film(2 * MIB, Behaviour::Good);
    succeeds(get(&film.torrent, &film.out, &[film.peer.address], &[]));
    let mut bytes = film.content.bytes.clone();
    bytes[70_000] ^= 1;
    std::fs::write(film.copy(), &bytes).expect("the damage");
    let before = film.given();
    succeeds(get(&film.torrent, &film.out, &[film.peer.address], &[]));
    film.assert_whole();
    assert_eq!(film.given() - before, PIECE);
    // Cut short: grows again.
    std::fs::write(film.copy(), &bytes[..100_000]).expect("the damage");
    succeeds(get(&film.torrent, &film.out, &[film.peer.address], &[]));
    film.assert_whole();
}

#[test]
fn what_is_not_ours_to_write_is_left_alone() {
    let film = film(MIB, Behaviour::Good);
    std::fs::create_dir(&film.out).expect("a directory");
    let longer = vec![7; film.content.bytes.len() + 1];
    std::fs::write(film.copy(), &longer).expect("a longer file");
    fails(get(&film.torrent, &film.out, &[film.peer.address], &[]), "film.mkv");
    assert!(std::fs::read(film.copy()).expect("the file") == longer);
    std::fs::remove_file(film.copy()).expect("it goes");
    let outside = film.dir.path().join("outside");
    std::fs::write(&outside, &longer[1..]).expect("a file outside");
    std::os::unix::fs::symlink(&outside, film.copy()).expect("a link");
    fails(get(&film.torrent, &film.out, &[film.peer.address], &[]), "film.mkv");
    assert!(std::fs::read(&outside).expect("the file") == longer[1..]);
}

#[test]
fn a_directory_in_a_mount_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = Torrent::dead("dead", &[("a", 100_000), ("b", 5)], 32 << 10).write(dir.path(), None);
    let mount = crate::support::mounts::mount(&[&torrent]).start();
    for place in ["", "dead", "new/deeper"] {
        fails(get(&torrent, &mount.path(place), &[], &[]), "mount of swarmfs");
    }
    for command in ["verify", "seed"] {
        let mut reads = swarmfs();
        reads.arg(command).arg(&torrent).arg("--data").arg(&mount.mountpoint);
        fails(reads, "mount of swarmfs");
    }
}

/// A file system of this size at `path`, for this thread and what it starts; false without the right to.
fn small_disk(path: &Path, size: &str) -> bool {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    // SAFETY: only the mount namespace changes, which no memory depends on.
    let own = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
    own.is_ok()
        && mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).is_ok()
        && mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(&*cstring(&format!("size={size}")))).is_ok()
}

fn cstring(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).expect("no NUL")
}

#[test]
fn a_full_disk_is_one_sentence_and_keeps_what_is_there() {
    let film = film(8 * MIB, Behaviour::Good);
    std::fs::create_dir(&film.out).expect("a directory");
    if !small_disk(&film.out, "4m") {
        eprintln!("skipped: a file system of its own needs root");
        return;
    }
    let text = fails(get(&film.torrent, &film.out, &[film.peer.address], &[]), "the disk is full; make room");
    assert!(text.contains("film.mkv"), "{text}");
    let (kept, before) = (film.right(), film.given());
    assert!(kept > 2 * MIB, "only {kept} bytes were kept");
    rustix::mount::mount_remount(&film.out, rustix::mount::MountFlags::empty(), cstring("size=64m"))
        .expect("more room");
    succeeds(get(&film.torrent, &film.out, &[film.peer.address], &[]));
    film.assert_whole();
    assert_eq!(film.given() - before, film.content.torrent.length - kept);
}

#[test]
fn control_c_ends_it_and_a_second_one_at_once() {
    let film = film(MIB, Behaviour::Gated);
    let mut waits = start("waits", get(&film.torrent, &film.out, &[film.peer.address], &[]), film.dir.path());
    wait_until(SECOND * 10, "it asks", || film.peer.count(|c| &c.requests) > 0);
    waits.signal(Signal::INT);
    let (status, _) = waits.wait(SECOND * 5).expect("Ctrl-C ends it");
    assert_eq!(status.code(), Some(130), "{}", waits.log());
    assert!(waits.log().contains("1.0 MiB of film.mkv are still missing"), "{}", waits.log());
    // A tracker that never takes its `stopped`.
    let peer = film.peer.address;
    let tracker = Tracker::start([127, 0, 0, 1].into(), move |_, before| match before {
        0 => Action::Raw(ok(&reply("8:intervali1800e", &[peer]))),
        _ => Action::Silence,
    });
    let torrent = film.content.torrent.write(film.dir.path(), Some(&tracker.announce()));
    let before = film.peer.count(|c| &c.requests);
    let mut waits = start("hangs", get(&torrent, &film.out, &[], &[]), film.dir.path());
    wait_until(SECOND * 10, "the tracker's answer is used", || film.peer.count(|c| &c.requests) > before);
    waits.signal(Signal::INT);
    let seen = tracker.wait_for(2);
    assert_eq!(seen[1].text("event"), Some("stopped"));
    let start = Instant::now();
    waits.signal(Signal::INT);
    let (status, _) = waits.wait(SECOND * 5).expect("a second Ctrl-C ends it");
    assert_eq!(status.code(), Some(130), "{}", waits.log());
    assert!(start.elapsed() < SECOND * 2, "it waited for the tracker: {:?}", start.elapsed());
}

#[test]
fn trackers_hear_of_the_end() {
    let film = film(2 * MIB, Behaviour::Rate(4 * MIB));
    let peer = film.peer.address;
    let tracker = Tracker::start([127, 0, 0, 1].into(), move |_, _| {
        Action::Raw(ok(&reply("8:intervali1800e12:min intervali5e", &[peer])))
    });
    let torrent = film.content.torrent.write(film.dir.path(), Some(&tracker.announce()));
    succeeds(get(&torrent, &film.out, &[], &[]));
    film.assert_whole();
    let seen = tracker.seen();
    let events: Vec<_> = seen.iter().map(|announce| announce.text("event").unwrap_or_default()).collect();
    assert_eq!(events, ["started", "completed", "stopped"]);
    let left: Vec<_> = seen.iter().map(|announce| announce.text("left").unwrap_or_default()).collect();
    assert_eq!(left, ["2097152", "0", "0"]);
}

#[test]
fn a_ratio_ends_the_seeding() {
    let film = film(3 * MIB, Behaviour::Good);
    let address = free_address();
    let first =
        get_at(address, &film.torrent, &film.out, &[film.peer.address], &["--ratio", "0.9", "--memory", "1MiB"]);
    let mut first = start("first", first, film.dir.path());
    wait_until(SECOND * 20, "the first seeds", || first.log().contains("\nseeding "));
    // What is out of the memory is given from the copy.
    let other = film.dir.path().join("other");
    succeeds(get(&film.torrent, &other, &[address], &[]));
    assert!(std::fs::read(other.join("film.mkv")).expect("a copy of the copy") == film.content.bytes);
    let (status, _) = first.wait(SECOND * 10).expect("the ratio ends it");
    assert!(status.success() && first.log().contains("3.0 MiB of film.mkv were given to others"), "{}", first.log());
    assert_eq!(film.given(), film.content.torrent.length, "all of the second copy came from the first");
}

#[test]
fn a_ratio_counts_all_runs() {
    let film = film(2 * MIB, Behaviour::Good);
    std::fs::write(film.dir.path().join("film.mkv"), &film.content.bytes).expect("the data");
    let address = free_address();
    let seed = |ratio: &str| {
        let mut command = swarmfs();
        command.arg("seed").arg(&film.torrent).arg("--data").arg(film.dir.path()).args(["--no-dht", "--no-lsd"]);
        command.args(["--listen", &address.to_string(), "--ratio", ratio]);
        command.env("XDG_STATE_HOME", film.dir.path().join("state"));
        command
    };
    for run in 1..=2 {
        let mut giver = start(&format!("run {run}"), seed("9"), film.dir.path());
        wait_until(SECOND * 20, "it seeds", || giver.log().contains("seeding "));
        let out = film.dir.path().join(format!("out {run}"));
        succeeds(get(&film.torrent, &out, &[address], &[]));
        giver.signal(Signal::TERM);
        assert!(giver.wait(SECOND * 10).is_some_and(|(status, _)| status.success()), "{}", giver.log());
    }
    // Two copies were given by two runs: a third one has nothing left to do.
    let text = succeeds(seed("2"));
    assert!(text.contains("4.0 MiB of film.mkv were given to others"), "{text}");
}

#[test]
fn seed_keeps_the_same_rules() {
    let film = film(2 * MIB, Behaviour::Good);
    std::fs::write(film.dir.path().join("film.mkv"), &film.content.bytes).expect("the data");
    let (mut giver, address) = seed(&film.torrent, film.dir.path(), film.dir.path(), &["--ratio", "1"]);
    succeeds(get(&film.torrent, &film.out, &[address], &[]));
    film.assert_whole();
    let (status, _) = giver.wait(SECOND * 10).expect("the ratio ends it");
    assert!(status.success(), "{}", giver.log());
    // A copy that is whole seeds as long as it is told to, and no longer.
    let began = Instant::now();
    let text = succeeds(get(&film.torrent, &film.out, &[], &["--seed-time", "1s"]));
    assert!(began.elapsed() >= SECOND && text.contains("already") && text.contains("seeding"), "{text}");
    let (mut timed, _) = seed(&film.torrent, film.dir.path(), film.dir.path(), &["--seed-time", "2s", "--ratio", "9"]);
    let (status, _) = timed.wait(SECOND * 10).expect("the time ends it");
    assert!(status.success(), "{}", timed.log());
}

/// Two that fetch at the same time get much of it from each other.
#[test]
fn gets_give_to_each_other() {
    let film = film(8 * MIB, Behaviour::Rate(3 * MIB));
    let (one, other) = (free_address(), free_address());
    let dirs = [film.dir.path().join("one"), film.dir.path().join("other")];
    let fetch = |own, friend, dir: &Path| {
        get_at(own, &film.torrent, dir, &[film.peer.address, friend], &["--seed-time", "30s"])
    };
    let first = start("one", fetch(one, other, &dirs[0]), film.dir.path());
    let second = start("other", fetch(other, one, &dirs[1]), film.dir.path());
    wait_until(SECOND * 60, "both have it", || [&first, &second].iter().all(|get| get.log().contains("\nseeding ")));
    for dir in dirs {
        assert!(std::fs::read(dir.join("film.mkv")).expect("a copy") == film.content.bytes);
    }
    let given = film.given();
    println!("the peer gave {given} bytes for two copies of {}", film.content.torrent.length);
    assert!(given < film.content.torrent.length * 7 / 4, "the peer gave {given} bytes");
}

/// Sends what a read is answered with: its bytes, or nothing for an error.
struct Answer(std::sync::mpsc::Sender<Option<Vec<u8>>>);

impl swarmfs::engine::Reply for Answer {
    fn data(self: Box<Self>, bytes: &[u8]) {
        let _ = self.0.send(Some(bytes.to_vec()));
    }

    fn error(self: Box<Self>, _: i32) {
        let _ = self.0.send(None);
    }
}

/// A library that reads a torrent through a session gets what is in the copy, and never what is not right any more.
#[test]
fn what_is_in_a_copy_is_read_from_it() {
    use swarmfs::cache::DataDir;
    use swarmfs::engine::{AddOptions, LocalCopy, Session};
    let film = film(MIB, Behaviour::Gated);
    std::fs::create_dir(&film.out).expect("a directory");
    std::fs::write(film.copy(), &film.content.bytes).expect("the data");
    let meta = swarmfs::metainfo::Metainfo::parse(&std::fs::read(&film.torrent).expect("it")).expect("a torrent");
    let data = DataDir::open(&meta, &film.out).expect("the copy");
    let have = data.verify(&meta, &|_| (), &std::sync::atomic::AtomicBool::new(false)).expect("a check").have;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = swarmfs::Config { listen: free_address(), listen_is_default: false, ..swarmfs::Config::default() };
        let session = Session::start(config).expect("a session");
        let copy = Some(LocalCopy { data, have, unchecked: false });
        let torrent = session.add(Arc::new(meta), AddOptions { copy, ..AddOptions::default() }).expect("a torrent");
        session.finished(torrent).await;
        let map = session.piece_map(torrent, 4).expect("a map");
        assert!(map.len() == 4 && map.iter().all(|cell| (cell.there, cell.requested, cell.missing) == (4, 0, 0)));
        let content = session.content();
        let handle = content.open(torrent, 0..MIB);
        let read = |range: std::ops::Range<u64>| {
            let (answer, answers) = std::sync::mpsc::channel();
            content.park(torrent, handle, range, 0, Box::new(Answer(answer)));
            answers
        };
        let answers = read(PIECE - 10..3 * PIECE);
        let bytes = tokio::task::block_in_place(|| answers.recv_timeout(SECOND * 10)).expect("an answer");
        assert!(bytes.as_deref() == Some(&film.content.bytes[65_526..196_608]));
        let mut wrong = film.content.bytes.clone();
        wrong[700_000] ^= 1;
        std::fs::write(film.copy(), &wrong).expect("the damage");
        let damaged = 700_000 / PIECE * PIECE;
        let answers = read(damaged..damaged + 100);
        let lost = || {
            let snapshot = session.snapshot(torrent).expect("a snapshot");
            (snapshot.pieces, snapshot.there, snapshot.totals.held) == (16, 15, MIB - PIECE)
        };
        tokio::task::block_in_place(|| wait_until(SECOND * 10, "the piece is known to be lost", lost));
        assert!(answers.try_recv().is_err(), "wrong bytes are no answer");
        session.stop().await;
    });
}

#[test]
fn wrong_rules_are_usage_errors() {
    let film = film(MIB, Behaviour::Good);
    for rule in [["--ratio", "0"], ["--seed-time", "soon"], ["--ratio", "much"]] {
        let (code, text) = run(get(&film.torrent, &film.out, &[], &rule));
        assert_eq!(code, Some(2), "{text}");
    }
}
