//! A torrent that nobody serves: names and sizes are there at once, reads end in time, blocked readers can be killed,
//! nothing else in the process suffers, and the mount ends when it is told to, whatever waits in it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::hostile::Behaviour;
use crate::support::mounts::{Mount, is_mounted, mount};
use crate::support::peer::Peer;
use crate::support::process::{Running, output, shell, succeed, swarmfs};
use crate::support::reading::{PARKED_STEP, ParkedThreads, assert_same_bytes, blocked_reader, read_uncached};
use crate::support::torrent::{Content, Torrent};
use crate::support::{MIB, wait_until};
use rustix::process::Signal;

const SECOND: Duration = Duration::from_secs(1);

/// One large file and one small one that do not exist.
fn dead_torrent(dir: &Path) -> PathBuf {
    Torrent::dead("dead", &[("film.mkv", 512 * PARKED_STEP), ("notes.txt", 100)], MIB).write(dir, None)
}

/// A mount of a dead torrent.
fn dead_mount(dir: &Path, args: &[&str]) -> Mount {
    mount(&[&dead_torrent(dir)]).args(args).start()
}

#[test]
fn listing_does_not_wait_for_the_swarm() {
    let dataset = Dataset::small();
    let dir = tempfile::tempdir().expect("a directory");
    let mount = mount(&[&Torrent::of(&dataset, MIB).write(dir.path(), None)]).start();
    let root = mount.path(&dataset.name);
    let start = Instant::now();
    shell("ls -lR \"$1\" && stat -f \"$1\"", &[&root], SECOND * 10);
    assert!(start.elapsed() < SECOND, "ls -lR took {:?}", start.elapsed());
    let list = "cd \"$1\" && find . -printf '%y %P\\n' | sort && find . -type f -printf '%s %P\\n' | sort";
    assert!(shell(list, &[&root], SECOND * 10) == shell(list, &[&dataset.root()], SECOND * 10));
}

#[test]
fn a_read_ends_with_eio_when_its_time_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let mount = dead_mount(dir.path(), &["--read-timeout", "3s"]);
    let mut file = File::open(mount.path("dead/film.mkv")).expect("an open does not wait");
    for offset in [0, 32 * MIB] {
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset)).expect("a seek");
        let start = Instant::now();
        let error = file.read(&mut [0; 4096]).expect_err("nobody has this");
        let took = start.elapsed();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        assert!(took < SECOND * 4, "EIO came after {took:?} with a deadline of 3 s");
        // The first read waits: a peer may appear. Later ones may know better.
        assert!(offset > 0 || took > SECOND * 2, "EIO came after {took:?}, before a peer could have appeared");
    }
}

#[test]
fn a_blocked_reader_dies_when_it_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mount = dead_mount(dir.path(), &[]);
    let mut reader = blocked_reader(&mount.path("dead/film.mkv"), &dir.path().join("cat"));
    // Another open of the same file does not hang behind it.
    let start = Instant::now();
    File::open(mount.path("dead/film.mkv")).expect("a second open");
    assert!(start.elapsed() < SECOND, "the second open took {:?}", start.elapsed());
    reader.signal(Signal::KILL);
    assert!(reader.wait(SECOND).is_some(), "the reader lives 1 s after kill -9, in state {:?}", reader.state());
}

/// What a killed reader was waiting for is not fetched for it any more.
#[test]
fn a_killed_readers_demand_is_withdrawn() {
    let content = Arc::new(Content::noise("film.mkv", 32 * MIB, 256 << 10, 5));
    let peer = Peer::start(&content, Behaviour::Gated);
    let dir = tempfile::tempdir().expect("a directory");
    let mount = mount(&[&content.torrent.write(dir.path(), None)]).peer(peer.address).start();
    let mut reader = blocked_reader(&mount.path("film.mkv"), &dir.path().join("cat"));
    wait_until(SECOND * 5, "the peer is asked", || peer.count(|c| &c.requests) > 0);
    reader.signal(Signal::KILL);
    assert!(reader.wait(SECOND).is_some(), "the reader lives 1 s after kill -9");
    drop(reader);
    // The kernel's FLUSH has reached the file system when another open and close have come after it.
    drop(File::open(mount.path("film.mkv")).expect("an open"));
    let mut settled = (peer.count(|c| &c.requests), Instant::now());
    wait_until(SECOND * 20, "no new requests for 2 s", || {
        let now = peer.count(|c| &c.requests);
        if now != settled.0 {
            settled = (now, Instant::now());
        }
        settled.1.elapsed() > SECOND * 2
    });
    peer.open_gate();
    let mut last = (peer.count(|c| &c.bytes), Instant::now());
    wait_until(SECOND * 20, "what was in flight has come, and no more", || {
        let now = peer.count(|c| &c.bytes);
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > SECOND
    });
    // `cat` would have read all 32 MiB. In flight are at most 250 requests, and a window that was asked for already.
    assert!(last.0 <= 8 * MIB, "{} bytes came for a reader that is gone", last.0);
}

#[test]
fn parked_reads_of_a_dead_torrent_do_not_slow_another() {
    let content = Arc::new(Content::noise("alive.bin", 4 * MIB, 256 << 10, 6));
    let seed = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let (alive, dead) = (content.torrent.write(dir.path(), None), dead_torrent(dir.path()));
    let mount = mount(&[&alive, &dead]).peer(seed.address).start();
    assert!(std::fs::read(mount.path("alive.bin")).expect("the living file") == content.bytes);
    let parked = ParkedThreads::start(&mount.path("dead/film.mkv"), 512);
    let file = File::open(mount.path("alive.bin")).expect("the living file");
    let mut times: Vec<Duration> = (0..100_u64)
        .map(|n| {
            let (at, start) = (n % 64 * 65_536, Instant::now());
            let bytes = read_uncached(&file, at).expect("a cached read");
            let took = start.elapsed();
            let from = usize::try_from(at).expect("an offset");
            assert!(bytes == content.bytes[from..from + 4096]);
            took
        })
        .collect();
    times.sort();
    assert!(times[50] < Duration::from_millis(50), "median {:?}, slowest {:?}", times[50], times[99]);
    assert!(times[99] < SECOND, "the slowest of 100 took {:?}", times[99]);
    drop(mount);
    assert!(parked.join().iter().all(Result::is_err), "nobody has the dead file");
}

/// SIGTERM and SIGINT: exit within 5 s, reads ended, unmounted.
#[test]
fn signals_end_a_mount_with_64_blocked_reads() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut mount = dead_mount(dir.path(), &[]);
        let parked = ParkedThreads::start(&mount.path("dead/film.mkv"), 64);
        mount.process.signal(signal);
        let Some((status, _)) = mount.process.wait(SECOND * 5) else {
            panic!("{signal:?} has not ended the mount within 5 s")
        };
        assert!(status.success(), "{signal:?}: {status}");
        assert!(!is_mounted(&mount.mountpoint), "{signal:?} left the mount behind");
        assert!(parked.join().iter().all(Result::is_err));
    }
}

/// A mount namespace of another process keeps a copy of the mount: the process must end, and the readers be freed.
#[test]
fn a_signal_ends_a_mount_that_another_namespace_holds() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut mount = dead_mount(dir.path(), &[]);
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000"]);
    let holder = Running::spawn("unshare", command, &dir.path().join("holder"), SECOND * 60);
    wait_until(SECOND * 5, "the other namespace is there (it needs root)", || holder.log().contains("ready"));
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", holder.pid())).expect("its mounts");
    assert!(table.contains(mount.mountpoint.to_str().expect("a UTF-8 path")), "it holds a copy");
    let parked = ParkedThreads::start(&mount.path("dead/film.mkv"), 64);
    let (status, _) = mount.terminate(SECOND * 5);
    assert!(status.success(), "{status}");
    assert!(!is_mounted(&mount.mountpoint));
    assert!(parked.join().iter().all(Result::is_err));
}

#[test]
fn an_unmount_from_outside_ends_the_process() {
    for program in ["umount", "fusermount3", "swarmfs"] {
        if program == "fusermount3" && !crate::support::process::installed(program) {
            eprintln!("fusermount3 is not installed: this third is not shown");
            continue;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let mut mount = dead_mount(dir.path(), &[]);
        let mut command = if program == "swarmfs" { swarmfs() } else { Command::new(program) };
        match program {
            "fusermount3" => command.arg("-u"),
            "swarmfs" => command.arg("unmount"),
            _ => &mut command,
        };
        succeed(command.arg(&mount.mountpoint), SECOND * 10);
        assert!(!is_mounted(&mount.mountpoint), "{program}");
        let Some((status, _)) = mount.process.wait(SECOND * 5) else {
            panic!("the process lives on 5 s after {program}: {}", mount.log())
        };
        assert!(status.success(), "{program}: {status}");
    }
}

/// A mount that is read from is not taken away but with `--lazy`; then it ends with its last reader.
#[test]
fn unmount_of_a_mount_in_use_says_so_and_lazy_does_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut mount = dead_mount(dir.path(), &["--read-timeout", "4s"]);
    let parked = ParkedThreads::start(&mount.path("dead/film.mkv"), 16);
    let busy = output(swarmfs().arg("unmount").arg(&mount.mountpoint), SECOND * 10);
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    assert!(is_mounted(&mount.mountpoint));
    succeed(swarmfs().args(["unmount", "--lazy"]).arg(&mount.mountpoint), SECOND * 10);
    assert!(!is_mounted(&mount.mountpoint));
    assert!(parked.join().iter().all(Result::is_err));
    assert!(mount.process.wait(SECOND * 5).is_some(), "it outlives its readers: {}", mount.log());
}

#[test]
fn unmount_of_what_is_not_ours_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let answer = output(swarmfs().arg("unmount").arg(dir.path()), SECOND * 10);
    assert_eq!(answer.status.code(), Some(1), "{answer:?}");
    assert!(!answer.stderr.is_empty());
}

/// "Transport endpoint is not connected": what a killed process leaves is cleaned by the next mount there.
#[test]
fn a_stale_mount_is_cleaned_by_the_next() {
    let content = Arc::new(Content::noise("alive.bin", MIB, 256 << 10, 7));
    let seed = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let mountpoint = dir.path().join("here");
    std::fs::create_dir(&mountpoint).expect("a directory");
    let mut first = mount(&[&torrent]).peer(seed.address).on(&mountpoint).start();
    first.process.signal(Signal::KILL);
    assert!(first.process.wait(SECOND * 5).is_some());
    // The kernel may still answer other calls from what it has cached.
    let error = rustix::fs::statfs(&mountpoint).expect_err("a mount without its process");
    assert_eq!(error, rustix::io::Errno::NOTCONN);
    let mut second = mount(&[&torrent]).peer(seed.address).on(&mountpoint).start();
    assert!(std::fs::read(mountpoint.join("alive.bin")).expect("the file") == content.bytes);
    let (status, _) = second.terminate(SECOND * 5);
    assert!(status.success(), "{status}");
    assert!(std::fs::read_dir(&mountpoint).expect("the directory itself").next().is_none());
    drop(first);
}

/// In the background, as people start it: the command returns when the mount answers, and the mount lives on.
#[test]
fn a_background_mount_answers_when_the_command_returns() {
    let dataset = Dataset::small();
    let content = Arc::new(Content::of(&dataset, 256 << 10));
    let seed = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a mountpoint");
    let mut command = swarmfs();
    command.args(["mount", "--no-dht", "--no-lsd", "--listen", &crate::support::free_address().to_string()]);
    command.args(["--peer", &seed.address.to_string()]).arg(&torrent).arg(&mountpoint);
    succeed(&mut command, SECOND * 10);
    let read = std::panic::catch_unwind(|| assert_same_bytes(&dataset, &mountpoint.join(&dataset.name)));
    // Stopped in every case: the background process is nobody's child.
    let unmount = output(swarmfs().arg("unmount").arg(&mountpoint), SECOND * 10);
    let mounted = is_mounted(&mountpoint);
    crate::support::mounts::detach(&mountpoint);
    read.expect("the right bytes");
    assert!(unmount.status.success() && !mounted, "{unmount:?}");
}
