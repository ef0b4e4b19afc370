//! The store keeps to its size whatever is read, and the process to its memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::common::{SECOND, Shelf, allocated};
use crate::support::hostile::Behaviour;
use crate::support::mounts::{Mount, mount};
use crate::support::torrent::Content;
use crate::support::usage::usage;
use crate::support::{MIB, Random};

/// What the file system adds for itself.
const SLACK: u64 = 16 * MIB;

/// Looks at a cache and a process all the time while `work` is done: the most that the cache took and that was resident.
fn watched(cache: &Path, mount: &Mount, work: impl FnOnce()) -> (u64, u64) {
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(allocated(cache), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
    (most.into_inner(), usage(mount.process.pid()).peak)
}

fn read_whole(shelf: &Shelf, path: &Path) {
    let file = File::open(path).expect("the file");
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let mut buffer = vec![0; 1 << 20];
    for (at, expected) in (0..).step_by(buffer.len()).zip(shelf.content.bytes.chunks(1 << 20)) {
        let buffer = &mut buffer[..expected.len()];
        file.read_exact_at(buffer, at).expect("the bytes");
        assert!(buffer == expected, "at {at}");
    }
}

/// A torrent of `length` bytes, read whole, twice, and at random by 4 readers, with a cache of `size`.
fn one_torrent(length: u64, size: u64, memory: u64, reads: u64) {
    let shelf = Shelf::film(length);
    let text = |bytes: u64| bytes.to_string();
    let mount =
        shelf.mount().args(&["--cache-size", &text(size), "--memory", &text(memory)]).limit(SECOND * 900).start();
    let path = mount.path("film.mkv");
    let (most, peak) = watched(&shelf.cache(), &mount, || {
        read_whole(&shelf, &path);
        read_whole(&shelf, &path);
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let (shelf, path) = (&shelf, &path);
                scope.spawn(move || {
                    let (file, mut random) = (File::open(path).expect("the file"), Random::new(reader));
                    let mut buffer = vec![0; 64 << 10];
                    for _ in 0..reads {
                        let at = random.below(length - 65_536);
                        file.read_exact_at(&mut buffer, at).expect("a read");
                        let at = usize::try_from(at).expect("an offset");
                        assert!(buffer == shelf.content.bytes[at..at + buffer.len()], "at {at}");
                    }
                });
            }
        });
    });
    println!("cache {size}: at most {most} on the disk; memory {memory}: at most {peak} resident");
    assert!(most <= size + SLACK, "{most} bytes on the disk");
    assert!(most > size / 2, "only {most} bytes on the disk");
    assert!(peak <= memory + 64 * MIB + 64_000, "{peak} bytes resident");
}

#[test]
fn a_torrent_that_is_larger_than_the_cache() {
    one_torrent(192 * MIB, 32 * MIB, 32 * MIB, 50);
}

/// `tests/run --long`.
#[test]
#[ignore = "takes minutes and 2 GiB of memory"]
fn a_torrent_of_2_gib_in_a_cache_of_256_mib() {
    one_torrent(2048 * MIB, 256 * MIB, 256 * MIB, 500);
}

#[test]
fn three_torrents_share_one_cache() {
    let shelves = [40, 41, 42].map(|mib| Shelf::film(mib * MIB));
    let torrents: Vec<&Path> = shelves.iter().map(|shelf| shelf.torrent.as_path()).collect();
    let cache = shelves[0].cache();
    let size = 32 * MIB;
    let mut command = mount(&torrents).args(&["--cache-dir", cache.to_str().expect("UTF-8")]);
    for shelf in &shelves {
        command = command.peer(shelf.seed.address);
    }
    let mount = command.args(&["--cache-size", &size.to_string(), "--memory", "32MiB"]).start();
    let mut names: Vec<_> = std::fs::read_dir(&mount.mountpoint).expect("the root").flatten().collect();
    // Three of one name: the others have the beginning of their info-hash behind it.
    names.sort_by_key(|entry| entry.metadata().expect("its length").len());
    let (most, _) = watched(&cache, &mount, || {
        std::thread::scope(|scope| {
            for (shelf, entry) in shelves.iter().zip(&names) {
                scope.spawn(move || {
                    read_whole(shelf, &entry.path());
                    read_whole(shelf, &entry.path());
                });
            }
        });
    });
    assert!(most <= size + SLACK && most > size / 2, "{most} bytes on the disk");
}

#[test]
fn ten_thousand_small_files_stay_within_it() {
    let names: Vec<String> = (0..10_000).map(|n| format!("{}/{n}", n % 100)).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 5120)).collect();
    let shelf = Shelf::of(Content::of_files("many", &files, 16 << 10, 9), Behaviour::Good);
    let size = 16 * MIB;
    let mount = shelf.mount().args(&["--cache-size", &size.to_string(), "--memory", "16MiB"]).start();
    let (most, _) = watched(&shelf.cache(), &mount, || {
        for (name, expected) in names.iter().zip(shelf.content.bytes.chunks(5120)) {
            let bytes = std::fs::read(mount.path("many").join(name)).expect("a file");
            assert!(bytes == expected, "{name}");
        }
    });
    // Here the slack is as large as the cache: it must not be needed.
    assert!(most <= size + MIB && most > size / 2, "{most} bytes on the disk");
}
