//! What was read once is there the next time: after an unmount, after kills at any moment, without a single seed.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;

use super::common::{PIECE, SECOND, Shelf};
use crate::support::hostile::Behaviour;
use crate::support::mounts::{MountCommand, detach};
use crate::support::torrent::Content;
use crate::support::{MIB, Random, wait_until};

#[test]
fn what_was_read_is_read_again_without_a_seed() {
    let shelf = Shelf::film(16 * MIB);
    let mut first = shelf.mount().start();
    shelf.assert_same(&first.path("film.mkv"));
    first.terminate(SECOND * 10);
    drop(first);
    let given = shelf.given();
    let mut second = shelf.alone().start();
    shelf.assert_same(&second.path("film.mkv"));
    second.terminate(SECOND * 10);
    drop(second);
    // With the seed there, too, nothing is fetched again.
    let third = shelf.mount().args(&["--fill", "all"]).start();
    shelf.assert_same(&third.path("film.mkv"));
    assert_eq!(shelf.given(), given);
}

#[test]
fn small_files_and_large_ones_of_any_length_are_kept() {
    let names: Vec<(String, u64)> = (0..40_u64).map(|n| (format!("d/{n}.bin"), 1 + n * n * 1777 % 3_000_000)).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|(name, length)| (name.as_str(), *length)).collect();
    let shelf = Shelf::of(Content::of_files("set", &files, 64 << 10, 5), Behaviour::Good);
    let read = |command: MountCommand| {
        let mut mount = command.start();
        let mut at = 0;
        for (name, length) in &files {
            let bytes = std::fs::read(mount.path("set").join(name)).expect("a file");
            let end = at + usize::try_from(*length).expect("a length");
            assert!(bytes == shelf.content.bytes[at..end], "{name}");
            at = end;
        }
        mount.terminate(SECOND * 10);
    };
    read(shelf.mount());
    read(shelf.alone());
}

/// Kills a mount at a random moment while two readers read; then reads what they had seen, without a seed. How many
/// pieces that a reader had seen were lost.
fn kill_once(shelf: &Shelf, random: &mut Random) -> usize {
    let length = shelf.content.torrent.length;
    let seen = Mutex::new(BTreeSet::new());
    let mount = shelf.mount().start();
    let path = mount.path("film.mkv");
    let (starts, delay) = ([random.below(length), random.below(length)], random.below(150_000));
    std::thread::scope(|scope| {
        for start in starts {
            let (path, seen, shelf) = (&path, &seen, &shelf);
            scope.spawn(move || {
                let Ok(file) = File::open(path) else { return };
                let mut buffer = vec![0; 64 << 10];
                for at in (start / PIECE * PIECE..length).step_by(buffer.len()) {
                    if file.read_exact_at(&mut buffer, at).is_err() {
                        return;
                    }
                    let from = usize::try_from(at).expect("an offset");
                    assert!(buffer == shelf.content.bytes[from..from + buffer.len()], "wrong bytes at {at}");
                    seen.lock().expect("a lock").insert(at / PIECE);
                }
            });
        }
        std::thread::sleep(Duration::from_micros(delay));
        mount.process.signal(Signal::KILL);
        // Its readers get an error once the mount is gone.
        detach(&mount.mountpoint);
    });
    drop(mount);
    let mount = shelf.alone().args(&["--read-timeout", "1s"]).start();
    let file = File::open(mount.path("film.mkv")).expect("the file");
    let mut lost = 0;
    for piece in seen.into_inner().expect("a lock") {
        let mut bytes = vec![0; usize::try_from(PIECE).expect("a length")];
        let from = usize::try_from(piece * PIECE).expect("an offset");
        match file.read_exact_at(&mut bytes, piece * PIECE) {
            Ok(()) => assert!(bytes == shelf.content.bytes[from..from + bytes.len()], "piece {piece} is wrong"),
            Err(_) => lost += 1,
        }
    }
    lost
}

fn kill_often(rounds: u64) {
    let shelf = Shelf::film(48 * MIB);
    let mut random = Random::new(rounds);
    let mut losses = Vec::new();
    for round in 0..rounds {
        // Every few rounds from nothing.
        if round % 5 == 4 {
            std::fs::remove_dir_all(shelf.cache()).expect("the cache");
        }
        losses.push(kill_once(&shelf, &mut random));
    }
    println!("pieces lost by {rounds} kills: {losses:?}");
    assert!(losses.iter().all(|lost| *lost < 4), "{losses:?}");
}

#[test]
fn a_kill_loses_only_what_was_under_way() {
    kill_often(4);
}

/// `tests/run --long`.
#[test]
#[ignore = "takes minutes"]
fn two_hundred_kills_lose_only_what_was_under_way() {
    kill_often(200);
}

#[test]
fn what_a_kill_left_is_served_to_others() {
    // Pieces that memory holds, and pieces that are too large for it.
    serves_after_a_kill(PIECE, "64MiB");
    serves_after_a_kill(MIB, "2MiB");
}

fn serves_after_a_kill(piece_length: u64, memory: &str) {
    let film = || Shelf::of(Content::noise("film.mkv", 8 * MIB, piece_length, 8), Behaviour::Good);
    let shelf = film();
    let mount = shelf.mount().args(&["--memory", memory]).start();
    shelf.assert_same(&mount.path("film.mkv"));
    shelf.wait_kept(8 * MIB);
    mount.process.signal(Signal::KILL);
    detach(&mount.mountpoint);
    drop(mount);
    let holder = shelf.alone().args(&["--memory", memory]).start();
    let other = film();
    let leecher = other.alone().peer(holder.address).args(&["--read-timeout", "20s"]).start();
    shelf.assert_same(&leecher.path("film.mkv"));
    wait_until(SECOND, "both live", || other.given() == 0);
}
