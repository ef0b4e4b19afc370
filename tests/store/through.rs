//! Files that the kernel reads by itself, beside handles that do not: the right bytes in every mixture.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::common::{SECOND, Shelf};
use crate::support::hostile::Behaviour;
use crate::support::reading::Mapping;
use crate::support::torrent::Content;
use crate::support::{MIB, Random, wait_until};

/// True if the mount still sees the reads of this file: the kernel asks it for what it has dropped from its cache.
fn seen_by_the_mount(mount: &crate::support::mounts::Mount, file: &File) -> bool {
    let reads = || {
        let io = fs::read_to_string(format!("/proc/{}/io", mount.process.pid())).expect("its counters");
        let line = io.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("a count");
        line.parse::<u64>().expect("a number")
    };
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    let (before, mut bytes) = (reads(), vec![0; 1 << 20]);
    for at in 0..4 {
        file.read_exact_at(&mut bytes, at * MIB).expect("a read");
    }
    reads() - before >= 8
}

#[test]
fn a_complete_file_is_read_by_the_kernel_alone() {
    let shelf = Shelf::film(8 * MIB);
    let mount = shelf.mount().start();
    let path = mount.path("film.mkv");
    let early = File::open(&path).expect("the file");
    shelf.assert_same(&path);
    shelf.wait_kept(8 * MIB);
    // As long as a handle is open that is not passed through, no other one is.
    let beside = File::open(&path).expect("the file");
    assert!(seen_by_the_mount(&mount, &beside));
    drop((early, beside));
    // The kernel lets go of a handle after its close, and one that comes before that is not passed through either.
    wait_until(SECOND * 5, "the kernel reads by itself", || {
        let alone = File::open(&path).expect("the file");
        !seen_by_the_mount(&mount, &alone)
    });
    let two = [(); 2].map(|()| File::open(&path).expect("the file"));
    assert!(two.iter().all(|file| !seen_by_the_mount(&mount, file)));
    drop(two);
    shelf.assert_same(&path);
}

/// Reads, mappings and handles of two files in a random order, while the cache is too small for both and what lies in it
/// is deleted at times.
#[test]
fn every_mixture_reads_right() {
    let files = [("a.bin", 6 * MIB + 321), ("b.bin", 5 * MIB), ("c.bin", 7 * MIB)];
    let shelf = Shelf::of(Content::of_files("mix", &files, 64 << 10, 77), Behaviour::Good);
    let starts = [0, files[0].1, files[0].1 + files[1].1].map(|start| usize::try_from(start).expect("an offset"));
    for seed in 0..3 {
        let mount = shelf.mount().args(&["--cache-size", "14MiB", "--memory", "4MiB"]).start();
        let mut random = Random::new(seed);
        let mut open: Vec<(usize, File)> = Vec::new();
        // Mappings outlive the handles that they were made by.
        let mut mapped: Vec<(usize, Mapping)> = Vec::new();
        for _ in 0..300 {
            let file = usize::try_from(random.below(3)).expect("an index");
            let (name, length) = files[file];
            let original =
                &shelf.content.bytes[starts[file]..starts[file] + usize::try_from(length).expect("a length")];
            match random.below(12) {
                0..3 if open.len() < 8 => {
                    let handle = File::open(mount.path("mix").join(name)).expect("a file");
                    open.push((file, handle));
                }
                3 => {
                    if !open.is_empty() {
                        let at = random.below(u64::try_from(open.len()).expect("a count"));
                        drop(open.swap_remove(usize::try_from(at).expect("an index")));
                    }
                }
                4 => {
                    // The whole file, so that it may be passed through the next time.
                    let bytes = fs::read(mount.path("mix").join(name)).expect("a file");
                    assert!(bytes == original, "{name}");
                }
                5 if random.below(8) == 0 => {
                    // What the kernel does not have open.
                    let _ = fs::remove_file(shelf.entry().join("sums"));
                }
                6 => {
                    if let Some((file, handle)) = open.first() {
                        mapped.push((*file, Mapping::of(handle).expect("a mapping")));
                    }
                    if mapped.len() > 5 {
                        mapped.remove(0);
                    }
                }
                7 => {
                    for (file, mapping) in &mapped {
                        let at = usize::try_from(random.below(files[*file].1 - 9000)).expect("an offset");
                        let mut bytes = vec![0; 9000];
                        mapping.copy(at, &mut bytes);
                        let at = starts[*file] + at;
                        assert!(bytes == shelf.content.bytes[at..at + 9000], "a mapping at {at}");
                    }
                }
                _ => {
                    for (file, handle) in &open {
                        let at = random.below(files[*file].1 - 70_000);
                        let mut bytes = vec![0; 70_000];
                        let _ = rustix::fs::fadvise(handle, 0, None, rustix::fs::Advice::DontNeed);
                        handle.read_exact_at(&mut bytes, at).expect("a read");
                        let at = starts[*file] + usize::try_from(at).expect("an offset");
                        assert!(bytes == shelf.content.bytes[at..at + bytes.len()], "{} at {at}", files[*file].0);
                    }
                }
            }
        }
    }
    assert!(shelf.seed.count(|counts| &counts.bytes) > 0);
}
