//! A disk that is full, fails, hangs or is slow, and a cache that somebody else writes to: reads go on, never a wrong byte.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::mount::{MountFlags, UnmountFlags};

use super::common::{PIECE, SECOND, Shelf, allocated};
use crate::support::faulty::FaultyDisk;
use crate::support::mounts::{Mount, MountCommand, is_mounted, mount};
use crate::support::usage::usage;
use crate::support::{MIB, wait_until};

/// A mount whose cache is at `path`.
fn cached_at(shelf: &Shelf, path: &Path) -> MountCommand {
    mount(&[&shelf.torrent]).peer(shelf.seed.address).args(&["--cache-dir", path.to_str().expect("UTF-8")])
}

fn warnings(mount: &Mount) -> Vec<String> {
    mount.log().lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
}

/// A small file system in memory; gone when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = std::ffi::CString::new(format!("size={size}")).expect("options");
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), &*options).expect("a tmpfs");
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_disk_that_others_fill_makes_the_cache_smaller() {
    let (shelf, disk) = (Shelf::film(48 * MIB), Tmpfs::mount(32 * MIB));
    let mut mount = cached_at(&shelf, disk.0.path()).args(&["--memory", "16MiB"]).start();
    // Half of what is free is ours, and now somebody takes the other half and more.
    fs::write(disk.0.path().join("theirs"), vec![7; usize::try_from(26 * MIB).expect("a length")]).expect("room");
    shelf.assert_same(&mount.path("film.mkv"));
    shelf.assert_same(&mount.path("film.mkv"));
    let said = warnings(&mount);
    assert!(said.len() == 1 && said[0].contains("keeps less"), "{said:?}");
    assert!(allocated(disk.0.path()) > 26 * MIB, "it keeps something");
    mount.terminate(SECOND * 10);
}

#[test]
fn a_disk_that_fails_is_left_alone_and_reads_go_on() {
    let (shelf, disk) = (Shelf::film(24 * MIB), FaultyDisk::mount());
    let mut mount = cached_at(&shelf, &disk.path).args(&["--memory", "8MiB"]).start();
    let path = mount.path("film.mkv");
    shelf.assert_same(&path);
    assert!(warnings(&mount).is_empty(), "{}", mount.log());
    let before = shelf.given();
    disk.faults.fails.store(true, Ordering::SeqCst);
    shelf.assert_same(&path);
    shelf.assert_same(&path);
    let said = warnings(&mount);
    assert!(said.len() == 3 && said[2].contains("in memory only"), "{said:?}");
    assert!(shelf.given() > before, "what the disk had is fetched again");
    mount.terminate(SECOND * 10);
}

#[test]
fn a_disk_that_hangs_holds_no_read_up_for_long_nor_the_end() {
    let (shelf, disk) = (Shelf::film(24 * MIB), FaultyDisk::mount());
    let mut mount = cached_at(&shelf, &disk.path).args(&["--memory", "8MiB"]).start();
    let path = mount.path("film.mkv");
    shelf.assert_same(&path);
    disk.faults.hangs.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let (file, mut bytes) = (File::open(&path).expect("the file"), vec![0; 4096]);
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    // The beginning left memory long ago.
    file.read_exact_at(&mut bytes, 0).expect("a read");
    assert!(bytes == shelf.content.bytes[..4096]);
    assert!(start.elapsed() < SECOND * 20, "{:?}", start.elapsed());
    drop(file);
    // A thread that the kernel does not let go of keeps the process, but not the mount.
    mount.process.signal(rustix::process::Signal::TERM);
    wait_until(SECOND * 10, "it is unmounted", || !is_mounted(&mount.mountpoint));
    disk.faults.hangs.store(false, Ordering::SeqCst);
    assert!(mount.process.wait(SECOND * 10).is_some(), "it ends");
}

/// Reads at the swarm's own speed while the disk takes a tenth of it, within the memory.
#[test]
fn a_slow_disk_slows_no_read() {
    let (shelf, disk) = (Shelf::film(64 * MIB), FaultyDisk::mount());
    disk.faults.rate.store(4 * MIB, Ordering::SeqCst);
    let memory = 16 * MIB;
    let mut mount = cached_at(&shelf, &disk.path).args(&["--memory", &memory.to_string()]).start();
    shelf.assert_same(&mount.path("film.mkv"));
    let written = disk.faults.written.load(Ordering::SeqCst);
    let peak = usage(mount.process.pid()).peak;
    println!("{written} bytes were written when all was read; at most {peak} bytes resident");
    assert!(written < 48 * MIB, "all was read before {written} bytes were written");
    assert!(peak <= memory + 64 * MIB + 64_000, "{peak} bytes resident");
    disk.faults.rate.store(0, Ordering::SeqCst);
    mount.terminate(SECOND * 10);
}

#[test]
fn whatever_is_done_to_its_files_no_wrong_byte_is_read() {
    let shelf = Shelf::film(16 * MIB);
    let mut mount = shelf.mount().args(&["--memory", "2MiB", "--no-passthrough"]).start();
    let path = mount.path("film.mkv");
    // What the disk did not take while the memory had it is fetched once more.
    wait_until(SECOND * 60, "the cache has what was read", || {
        shelf.assert_same(&path);
        allocated(&shelf.cache()) >= 15 * MIB
    });
    let data = shelf.entry().join("0");
    let flip = |path: &Path, at: u64| {
        let file = File::options().read(true).write(true).open(path).expect("a file");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
    };
    let damages: [(&str, &dyn Fn()); 6] = [
        ("bytes flipped", &|| (0..8).for_each(|n| flip(&data, n * 2 * MIB + 12_345))),
        ("checksums flipped", &|| (0..8).for_each(|n| flip(&shelf.entry().join("sums"), n * 400 + 3))),
        ("cut short", &|| File::options().write(true).open(&data).expect("it").set_len(3 * MIB).expect("a cut")),
        ("unreadable", &|| fs::set_permissions(&data, PermissionsExt::from_mode(0o000)).expect("its mode")),
        ("deleted", &|| fs::remove_file(&data).expect("it is there")),
        ("the whole directory deleted", &|| fs::remove_dir_all(shelf.entry()).expect("it is there")),
    ];
    for (what, damage) in damages {
        damage();
        let before = shelf.given();
        shelf.assert_same(&path);
        shelf.assert_same(&path);
        let fetched = shelf.given() - before;
        println!("{what}: {} pieces were fetched again", fetched / PIECE);
    }
    mount.terminate(SECOND * 10);
}

#[test]
fn a_second_mount_says_so_and_keeps_to_memory() {
    let shelf = Shelf::film(4 * MIB);
    let mut first = shelf.mount().start();
    shelf.assert_same(&first.path("film.mkv"));
    let mut second = shelf.mount().start();
    assert!(second.log().contains("another swarmfs uses it"), "{}", second.log());
    shelf.assert_same(&second.path("film.mkv"));
    second.terminate(SECOND * 10);
    first.terminate(SECOND * 10);
}

#[test]
fn a_cache_below_the_mountpoint_is_refused() {
    use crate::support::process::{output, swarmfs};
    let (shelf, dir) = (Shelf::film(MIB), tempfile::tempdir().expect("a directory"));
    let mut command = swarmfs();
    command.arg("mount").arg(&shelf.torrent).arg(dir.path()).arg("--cache-dir").arg(dir.path().join("in/it"));
    let refused = output(&mut command, SECOND * 10);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("below the mountpoint"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).expect("it").count(), 0);
}

#[test]
fn a_directory_that_is_no_cache_is_refused() {
    use crate::support::process::{output, swarmfs};
    let (shelf, dir, theirs) = (Shelf::film(MIB), tempfile::tempdir().expect("it"), tempfile::tempdir().expect("it"));
    fs::write(theirs.path().join("letter.txt"), "mine").expect("a letter");
    for command in [&["mount"][..], &["cache", "clear"][..]] {
        let mut refused = swarmfs();
        refused.args(command).arg("--cache-dir").arg(theirs.path());
        if command == ["mount"] {
            refused.arg(&shelf.torrent).arg(dir.path());
        }
        let refused = output(&mut refused, SECOND * 10);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains("no cache of swarmfs"), "{command:?}: {said}");
    }
    assert_eq!(fs::read_dir(theirs.path()).expect("it").count(), 1);
}
