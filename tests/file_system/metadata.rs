//! What stat, readdir and statfs show, and that none of it asks for content.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::fake_content::{Entry, Fixture, file, torrent};

const CREATED: i64 = 1_234_567_890;

fn sample() -> Vec<Entry> {
    vec![
        file("a/deep/er/file", 1025),
        file("a/empty", 0),
        Entry { attr: "x", ..file("a/run", 512) },
        Entry { attr: "l", target: "a/run", ..file("link", 0) },
        file("ünï cødé ☃", 5),
    ]
}

/// Path to (inode, mode, size, links) of everything below.
fn walk(root: &Path) -> BTreeMap<String, (u64, u32, u64, u64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("it is a directory") {
            let entry = entry.expect("it is there");
            let stat = entry.metadata().expect("it has attributes");
            assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), stat.ino());
            let name = entry.path().strip_prefix(root).expect("below").to_string_lossy().into_owned();
            found.insert(name, (stat.ino(), stat.mode(), stat.size(), stat.nlink()));
            if stat.is_dir() {
                open.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn stat_shows_what_the_torrent_says() {
    let Some(fixture) = Fixture::new(&[torrent("set", Some(CREATED), &sample())]) else { return };
    let found = walk(fixture.mountpoint());
    let shown: BTreeMap<&str, (u32, u64, u64)> =
        found.iter().map(|(path, (_, mode, size, links))| (path.as_str(), (*mode, *size, *links))).collect();
    let expected = [
        ("set", (0o040_555, 0, 3)),
        ("set/a", (0o040_555, 0, 3)),
        ("set/a/deep", (0o040_555, 0, 3)),
        ("set/a/deep/er", (0o040_555, 0, 2)),
        ("set/a/deep/er/file", (0o100_444, 1025, 1)),
        ("set/a/empty", (0o100_444, 0, 1)),
        ("set/a/run", (0o100_555, 512, 1)),
        ("set/link", (0o120_777, 5, 1)),
        ("set/ünï cødé ☃", (0o100_444, 5, 1)),
    ];
    assert_eq!(shown, BTreeMap::from(expected));
    assert_eq!(fs::read_link(fixture.path("set/link")).expect("a link"), Path::new("a/run"));

    let stat = fs::metadata(fixture.path("set/a/deep/er/file")).expect("it is there");
    assert_eq!((stat.blocks(), stat.mtime(), stat.ctime(), stat.atime()), (3, CREATED, CREATED, CREATED));
    assert_eq!((stat.uid(), stat.gid()), (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
    let root = fs::metadata(fixture.mountpoint()).expect("it is there");
    assert_eq!((root.ino(), root.nlink(), root.mode()), (1, 3, 0o040_555));
    let missing = fs::metadata(fixture.path("set/nothing")).expect_err("it is not there");
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));

    let state = fixture.content.state();
    assert_eq!((state.opened, state.asked.len(), state.progress_asked), (0, 0, 0));
}

#[test]
fn inode_numbers_are_the_same_in_every_mount() {
    let (a, b) = (torrent("a", None, &sample()), torrent("b", None, &sample()));
    let Some(first) = Fixture::new(&[a.clone(), b.clone()]) else { return };
    let once = walk(first.mountpoint());
    drop(first);
    let again = walk(Fixture::new(&[b, a]).expect("it did before").mountpoint());
    assert_eq!(once, again);
}

#[test]
fn without_a_creation_date_it_is_now() {
    let before = std::time::SystemTime::now();
    let Some(fixture) = Fixture::new(&[torrent("t", Some(0), &[file("f", 1)])]) else { return };
    let modified = fs::metadata(fixture.path("t/f")).expect("it is there").modified().expect("it has a time");
    assert!((before..=std::time::SystemTime::now()).contains(&modified));
}

#[test]
fn a_large_directory_is_listed_whole_and_in_any_order() {
    let paths: Vec<&'static str> = (0..5000).map(|n| &*format!("{n:05}").leak()).collect();
    let files: Vec<Entry> = paths.iter().map(|path| file(path, 1)).collect();
    let Some(fixture) = Fixture::new(&[torrent("many", None, &files)]) else { return };
    let list = || -> Vec<String> {
        let entries = fs::read_dir(fixture.path("many")).expect("it is a directory");
        entries.map(|entry| entry.expect("it is there").file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(list(), paths);
    // The second time the kernel answers from its own copy.
    assert_eq!(list(), paths);
    for path in paths.iter().rev().step_by(17) {
        assert_eq!(fs::metadata(fixture.path("many").join(path)).expect("it is there").size(), 1);
    }
}

#[test]
fn statfs_counts_the_torrents() {
    let Some(fixture) = Fixture::new(&[torrent("t", None, &[file("f", 4097), file("d/g", 1)])]) else { return };
    let shown = rustix::fs::statvfs(fixture.mountpoint()).expect("it is mounted");
    assert_eq!((shown.f_blocks * shown.f_frsize, shown.f_bfree, shown.f_files), (8192, 0, 5));
    assert_eq!(shown.f_namemax, 255);
    assert!(shown.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY | rustix::fs::StatVfsMountFlags::NOSUID));
}

#[test]
fn what_is_not_there_can_be_asked_for_again_and_again() {
    let Some(fixture) = Fixture::new(&[torrent("t", None, &[file("f", 1)])]) else { return };
    for _ in 0..3 {
        for path in ["t/g", "g", "t/f/g"] {
            let error = fs::symlink_metadata(fixture.path(path)).expect_err("it is not there");
            assert!(matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)), "{error}");
        }
    }
    assert!(fixture.path("t/f").exists());
}
