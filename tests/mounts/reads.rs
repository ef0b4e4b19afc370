//! A mount reads like the directory that was shared: byte for byte, in order, at random, mapped, by many at once, and
//! by the programs that people use.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::dataset::Dataset;
use crate::support::mounts::{Mount, mount};
use crate::support::peer::Peer;
use crate::support::process::{output, shell};
use crate::support::reading::{assert_same_bytes, read_mapped, read_timed};
use crate::support::torrent::Content;
use crate::support::{MIB, Random, wait_until};

const MINUTE: Duration = Duration::from_secs(60);

/// A mount of the small dataset beside two seeds.
struct Fixture {
    dataset: Dataset,
    content: Arc<Content>,
    mount: Mount,
    _seeds: [Peer; 2],
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new(piece_length: u64) -> Self {
        let dataset = Dataset::small();
        let content = Arc::new(Content::of(&dataset, piece_length));
        let seeds = [Peer::seed(&content), Peer::seed(&content)];
        let dir = tempfile::tempdir().expect("a directory");
        let torrent = content.torrent.write(dir.path(), None);
        let mount = mount(&[&torrent]).peer(seeds[0].address).peer(seeds[1].address);
        let mount = mount.args(&["--read-timeout", "20s"]).start();
        Self { dataset, content, mount, _seeds: seeds, _dir: dir }
    }

    fn root(&self) -> std::path::PathBuf {
        self.mount.path(&self.dataset.name)
    }
}

#[test]
fn every_file_is_its_original_byte_for_byte() {
    for piece_length in [16 << 10, 256 << 10] {
        let fixture = Fixture::new(piece_length);
        assert_same_bytes(&fixture.dataset, &fixture.root());
    }
}

#[test]
fn tar_cp_diff_grep_and_find_give_what_they_give_on_the_original() {
    let fixture = Fixture::new(64 << 10);
    let (ours, theirs) = (fixture.root(), fixture.dataset.root());
    let copy = tempfile::tempdir().expect("a directory");
    shell("diff -r \"$1\" \"$2\"", &[&theirs, &ours], MINUTE);
    shell("cp -r \"$1\" \"$2/copy\" && diff -r \"$3\" \"$2/copy\"", &[&ours, copy.path(), &theirs], MINUTE);
    for line in [
        "cd \"$1\" && tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=a=rX -c . | sha256sum",
        "cd \"$1\" && grep -r -c needle . | sort",
        "cd \"$1\" && find . -printf '%y %P\\n' | sort",
        "cd \"$1\" && find . -type f -printf '%s %P\\n' | sort",
        "cd \"$1\" && find . -type f -executable",
        "cd \"$1\" && du -s --apparent-size -B1 large.bin photos/*",
    ] {
        let answers = [&ours, &theirs].map(|dir| shell(line, &[dir], MINUTE));
        assert!(!answers[1].is_empty(), "{line} prints something");
        assert!(answers[0] == answers[1], "{line}: {}", String::from_utf8_lossy(&answers[0]));
    }
}

#[test]
fn eight_readers_at_once_all_read_right() {
    let fixture = Fixture::new(64 << 10);
    let path = fixture.root().join(&fixture.dataset.largest().path);
    let original = std::fs::read(fixture.dataset.root().join(&fixture.dataset.largest().path)).expect("the original");
    std::thread::scope(|scope| {
        for reader in 0..8_u64 {
            let (path, original) = (&path, &original);
            scope.spawn(move || {
                let file = std::fs::File::open(path).expect("the file");
                if reader % 2 == 0 {
                    let (bytes, _) = read_timed(path).expect("the bytes");
                    assert!(bytes == *original, "reader {reader} in order");
                    return;
                }
                let mut random = Random::new(reader);
                for _ in 0..200 {
                    let length = usize::try_from(random.below(100_000) + 1).expect("a length");
                    let start = usize::try_from(random.below(12 << 20)).expect("an offset");
                    let end = (start + length).min(original.len());
                    let mut bytes = vec![0; end - start];
                    file.read_exact_at(&mut bytes, u64::try_from(start).expect("an offset")).expect("the bytes");
                    assert!(bytes == original[start..end], "reader {reader} at {start}, {length} bytes");
                }
            });
        }
    });
}

#[test]
fn small_reads_in_order_are_in_order_however_large_the_pieces_are() {
    let content = Arc::new(Content::noise("film.mkv", 24 * MIB, 2 << 20, 3));
    let (seed, dir) = (Peer::seed(&content), tempfile::tempdir().expect("a directory"));
    let mount = mount(&[&content.torrent.write(dir.path(), None)]).peer(seed.address).start();
    let file = std::fs::File::open(mount.path("film.mkv")).expect("the file");
    // The kernel reads nothing ahead: what an ordinary user's mount gets is not much larger.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).expect("advice");
    let mut buffer = vec![0; 64 << 10];
    for offset in (0..8 * MIB).step_by(buffer.len()) {
        file.read_exact_at(&mut buffer, offset).expect("the bytes");
    }
    // Who reads in order gets the rest of the file unasked.
    wait_until(MINUTE, "the rest is fetched", || seed.count(|counts| &counts.bytes) >= 24 * MIB);
}

#[test]
fn mapped_files_read_right_in_both_directions() {
    for backwards in [false, true] {
        let fixture = Fixture::new(32 << 10);
        let path = &fixture.dataset.largest().path;
        let original = std::fs::read(fixture.dataset.root().join(path)).expect("the original");
        let mapped = read_mapped(&fixture.root().join(path), backwards).expect("a mapping");
        assert!(mapped == original, "backwards: {backwards}");
    }
}

#[test]
fn the_end_of_a_file_is_its_end() {
    let fixture = Fixture::new(64 << 10);
    let file = std::fs::File::open(fixture.root().join("large.bin")).expect("the file");
    let length = file.metadata().expect("its metadata").len();
    assert_eq!(length, fixture.dataset.largest().length);
    let mut buffer = [0; 100];
    assert_eq!(file.read_at(&mut buffer, length - 7).expect("a read"), 7);
    assert_eq!(file.read_at(&mut buffer, length).expect("a read"), 0);
    assert_eq!(file.read_at(&mut buffer, length + 1_000_000).expect("a read"), 0);
    assert_eq!(std::fs::read(fixture.root().join("empty/0")).expect("an empty file"), b"");
}

#[test]
fn metadata_is_that_of_an_immutable_directory() {
    let fixture = Fixture::new(64 << 10);
    let meta = std::fs::metadata(fixture.root().join("large.bin")).expect("its metadata");
    assert_eq!(meta.mtime(), 1_700_000_000, "the torrent's creation date");
    assert_eq!(meta.blocks(), meta.len().div_ceil(512));
    assert_eq!(meta.permissions().mode() & 0o222, 0, "nobody may write");
    let script = std::fs::metadata(fixture.root().join("bin/hello.sh")).expect("its metadata");
    assert_ne!(script.permissions().mode() & 0o100, 0, "the executable bit");
    let ran = output(&mut Command::new(fixture.root().join("bin/hello.sh")), Duration::from_secs(10));
    assert_eq!(ran.stdout, b"hello from the swarm\n");
    let again = std::fs::metadata(fixture.root().join("large.bin")).expect("its metadata");
    assert_eq!(meta.ino(), again.ino());
}

#[test]
fn every_change_is_refused_as_read_only() {
    let fixture = Fixture::new(64 << 10);
    let root = fixture.root();
    let read_only = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what}: {error}");
    };
    read_only("write", std::fs::write(root.join("new"), "x"));
    read_only("open for writing", std::fs::File::options().write(true).open(root.join("large.bin")).map(drop));
    read_only("mkdir", std::fs::create_dir(root.join("dir")));
    read_only("unlink", std::fs::remove_file(root.join("large.bin")));
    read_only("rmdir", std::fs::remove_dir(root.join("empty")));
    read_only("rename", std::fs::rename(root.join("large.bin"), root.join("other.bin")));
    read_only("chmod", std::fs::set_permissions(root.join("large.bin"), PermissionsExt::from_mode(0o777)));
    read_only("symlink", std::os::unix::fs::symlink("x", root.join("link")));
    read_only("link", std::fs::hard_link(root.join("large.bin"), root.join("link")));
}

#[test]
fn xattrs_tell_the_torrent_and_how_much_of_it_is_here() {
    let fixture = Fixture::new(64 << 10);
    let get = |path: &Path, name: &str| {
        let mut value = vec![0; 200];
        let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
        value.truncate(length);
        String::from_utf8(value).expect("text")
    };
    let root = fixture.root();
    assert_eq!(get(&root, "user.swarmfs.info_hash"), fixture.content.torrent.hex());
    let before = get(&root, "user.swarmfs.progress");
    assert_same_bytes(&fixture.dataset, &root);
    assert_ne!(before, get(&root, "user.swarmfs.progress"), "progress shows what was read");
}

/// A cached read does not ask the swarm: with the seeds gone, what was read is still there.
#[test]
fn what_was_read_stays_readable_when_the_seeds_are_gone() {
    let Fixture { dataset, mount, _seeds: seeds, .. } = Fixture::new(64 << 10);
    let root = mount.path(&dataset.name);
    assert_same_bytes(&dataset, &root);
    drop(seeds);
    let file = std::fs::File::open(root.join("large.bin")).expect("the file");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("the page cache is dropped");
    let start = Instant::now();
    assert_same_bytes(&dataset, &root);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// With far less memory than the torrent has, pieces are evicted and fetched again, and the bytes stay right.
#[test]
fn a_small_memory_reads_a_large_torrent_right_twice() {
    let dataset = Dataset::small();
    let content = Arc::new(Content::of(&dataset, 64 << 10));
    let seed = Peer::seed(&content);
    let dir = tempfile::tempdir().expect("a directory");
    let torrent = content.torrent.write(dir.path(), None);
    let mount = mount(&[&torrent])
        .peer(seed.address)
        .args(&["--memory", "8MiB", "--cache-size", "0", "--read-timeout", "20s"])
        .start();
    for _ in 0..2 {
        assert_same_bytes(&dataset, &mount.path(&dataset.name));
        let file = std::fs::File::open(mount.path(&dataset.name).join("large.bin")).expect("the file");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("the page cache is dropped");
    }
    assert!(seed.count(|c| &c.bytes) > dataset.length(), "some pieces were fetched twice");
}
