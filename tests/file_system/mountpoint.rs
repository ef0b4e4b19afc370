//! What a mountpoint must be, and what becomes of a mount whose process died.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::fake_content::{Fake, Fixture, bytes, can_mount, file, mounts_at, take_away, torrent};
use swarmfs::fs::{MountOptions, Mounted, Tree, mount};
use swarmfs::swarm::TorrentKey;

/// Where the child process of a test mounts.
const MOUNTPOINT: &str = "SWARMFS_TEST_MOUNTPOINT";

fn try_mount(path: &Path, extra: &[&str]) -> Result<Mounted, String> {
    let extra = extra.iter().map(|&option| option.to_owned()).collect();
    let options = MountOptions { extra, ..MountOptions::default() };
    mount(Tree::new(&[]), Arc::new(Fake::default()), path, &options).map_err(|error| error.to_string())
}

#[test]
fn a_bad_mountpoint_is_refused_in_one_sentence() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing");
    let a_file = dir.path().join("file");
    fs::write(&a_file, "x").expect("written");
    for (path, extra, said) in [
        (missing.as_path(), &[][..], "does not exist"),
        (&a_file, &[], "not a directory"),
        (dir.path(), &[], "-o nonempty"),
        (dir.path(), &["rw"], "read-only"),
        (dir.path(), &["bogus"], "not known"),
    ] {
        let reason = try_mount(path, extra).expect_err(said);
        assert!(reason.contains(said) && !reason.contains('\n') && reason.contains(path.to_str().unwrap()), "{reason}");
    }
    assert_eq!(mounts_at(dir.path()), [""; 0]);
    let mounted = try_mount(dir.path(), &["nonempty,noatime", "_netdev"]).expect("it was asked for");
    assert_eq!(fs::read_dir(dir.path()).expect("it is mounted").count(), 0);
    mounted.unmount();
    assert!(a_file.exists());
}

#[test]
fn a_second_mount_in_the_same_place_is_refused() {
    let Some(fixture) = Fixture::new(&[torrent("t", None, &[file("f", 1)])]) else { return };
    let reason = try_mount(fixture.mountpoint(), &["nonempty"]).expect_err("one is there");
    assert!(reason.contains("already"), "{reason}");
    assert!(fixture.path("t/f").exists());
}

#[test]
fn a_mountpoint_may_have_any_name_and_lie_behind_a_link() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let odd = dir.path().join("a b,c\\ü\n");
    fs::create_dir(&odd).expect("made");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&odd, &link).expect("made");
    let mounted = try_mount(&link, &[]).expect("it mounts");
    assert_eq!(mounted.mountpoint(), fs::canonicalize(&odd).expect("it is there"));
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&odd).expect("it answers")), 1);
    mounted.unmount();
    assert_ne!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&odd).expect("it is there")), 1);
}

/// Takes away what is mounted at a path, also after a panic.
struct Cleaner(std::path::PathBuf);

impl Drop for Cleaner {
    fn drop(&mut self) {
        take_away(&self.0);
    }
}

#[test]
fn a_mount_whose_process_died_is_cleaned_up() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let _cleaner = Cleaner(dir.path().to_owned());
    let mut child = Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", "mountpoint::child_that_holds_a_mount", "--ignored", "--nocapture"])
        .env(MOUNTPOINT, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    assert!(output.lines().map_while(Result::ok).any(|line| line.contains("mounted")), "the child mounts");
    assert_eq!(mounts_at(dir.path()), ["fuse.swarmfs"]);
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let dead = rustix::fs::statfs(dir.path()).expect_err("its process is gone");
    assert_eq!(dead, rustix::io::Errno::NOTCONN);

    let fixture = Fixture::at(dir, &[torrent("t", None, &[file("f", 5)])]).expect("it could be mounted before");
    assert_eq!(mounts_at(fixture.mountpoint()), ["fuse.swarmfs"]);
    assert_eq!(fs::read(fixture.path("t/f")).expect("it is read"), bytes(TorrentKey(0), 0..5));
}

#[test]
#[ignore = "runs as the child of another test"]
fn child_that_holds_a_mount() {
    let Some(path) = std::env::var_os(MOUNTPOINT) else { return };
    let _mounted = try_mount(Path::new(&path), &[]).expect("it mounts");
    println!("mounted");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("it waits to be killed");
}
