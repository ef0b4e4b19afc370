//! `--data`: the user's own copy is read, filled in and served, and nothing else in its directory is touched.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::common::{PIECE, SECOND, Shelf, allocated};
use crate::support::mounts::{MountCommand, mount};
use crate::support::process::{output, swarmfs};
use crate::support::{MIB, wait_until};

impl Shelf {
    fn own(&self) -> std::path::PathBuf {
        self.dir.path().join("own")
    }

    /// A mount of the user's own copy.
    fn with_data(&self) -> MountCommand {
        mount(&[&self.torrent]).args(&["--data", self.own().to_str().expect("UTF-8")])
    }

    fn verify(&self) -> bool {
        output(swarmfs().arg("verify").arg(&self.torrent).arg("--data").arg(self.own()), SECOND * 60).status.success()
    }
}

#[test]
fn what_is_read_fills_the_copy_and_is_there_the_next_time() {
    let shelf = Shelf::film(16 * MIB);
    let mut first = shelf.with_data().peer(shelf.seed.address).args(&["--fill", "none"]).start();
    let file = File::open(first.path("film.mkv")).expect("the file");
    let mut bytes = vec![0; 64 << 10];
    file.read_exact_at(&mut bytes, 9 * MIB).expect("a read");
    drop(file);
    first.terminate(SECOND * 10);
    drop(first);
    let copy = fs::metadata(shelf.own().join("film.mkv")).expect("a copy");
    assert!(copy.len() == 16 * MIB && copy.blocks() * 512 < 4 * MIB, "it is sparse");
    let mut second = shelf.with_data().peer(shelf.seed.address).start();
    shelf.assert_same(&second.path("film.mkv"));
    wait_until(SECOND * 10, "all is written", || allocated(&shelf.own()) >= 16 * MIB);
    second.terminate(SECOND * 10);
    drop(second);
    assert!(shelf.verify(), "the copy is right");
    assert!(shelf.given() < 18 * MIB, "what was there is not fetched again: {}", shelf.given());
    let alone = shelf.with_data().start();
    shelf.assert_same(&alone.path("film.mkv"));
    assert!(!shelf.cache().exists());
}

#[test]
fn what_is_wrong_in_it_is_repaired_and_what_is_not_ours_stays() {
    let shelf = Shelf::film(8 * MIB);
    fs::create_dir(shelf.own()).expect("a directory");
    let mut wrong = shelf.content.bytes.clone();
    for piece in [2_u64, 19] {
        wrong[usize::try_from(piece * PIECE + 777).expect("an offset")] ^= 8;
    }
    fs::write(shelf.own().join("film.mkv"), &wrong).expect("a copy");
    fs::write(shelf.own().join("notes.txt"), b"mine").expect("a note");
    let mut mount = shelf.with_data().peer(shelf.seed.address).args(&["--fill", "all"]).start();
    shelf.assert_same(&mount.path("film.mkv"));
    wait_until(SECOND * 20, "it is repaired", || {
        fs::read(shelf.own().join("film.mkv")).is_ok_and(|bytes| bytes == shelf.content.bytes)
    });
    assert!(shelf.given() < 2 * MIB, "{} bytes were fetched", shelf.given());
    mount.terminate(SECOND * 10);
    assert_eq!(fs::read(shelf.own().join("notes.txt")).expect("a note"), b"mine");
    assert_eq!(fs::read_dir(shelf.own()).expect("the directory").count(), 2);
}

#[test]
fn it_is_served_and_wrong_pieces_are_not() {
    let shelf = Shelf::film(8 * MIB);
    fs::create_dir(shelf.own()).expect("a directory");
    let mut wrong = shelf.content.bytes.clone();
    wrong[100] ^= 1;
    fs::write(shelf.own().join("film.mkv"), &wrong).expect("a copy");
    let holder = shelf.with_data().start();
    let leecher = mount(&[&shelf.torrent]).peer(holder.address).peer(shelf.seed.address).start();
    shelf.assert_same(&leecher.path("film.mkv"));
    let log = leecher.log();
    assert!(!log.contains("banned") && !log.contains("WARN"), "{log}");
}
