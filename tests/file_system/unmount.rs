//! The end of a mount, from inside and from outside, quietly and under load.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fake_content::{Fixture, file, is_root, mounts_at, mounts_in, torrent, within};
use rustix::mount::{MountFlags, UnmountFlags};
use swarmfs::swarm::TorrentKey;

const SIZE: u64 = 100 << 20;

fn sample() -> Option<Fixture> {
    let fixture = Fixture::new(&[torrent("t", None, &[file("f", SIZE)])])?;
    assert_eq!(mounts_at(fixture.mountpoint()), ["fuse.swarmfs"]);
    Some(fixture)
}

fn mount_tmpfs(path: &Path) {
    rustix::mount::mount("none", path, "tmpfs", MountFlags::empty(), None).expect("root may mount");
    fs::write(path.join("mine"), "kept").expect("it can be written");
}

#[test]
fn an_unmount_from_outside_ends_the_wait() {
    let Some(mut fixture) = sample().filter(|_| is_root()) else { return };
    rustix::mount::unmount(fixture.mountpoint(), UnmountFlags::empty()).expect("nothing uses it");
    let mounted = fixture.mounted.take().expect("it is mounted");
    within("the end of the session", move || mounted.wait_unmounted());
    assert_eq!(fs::read_dir(fixture.mountpoint()).expect("the empty directory").count(), 0);
}

#[test]
fn a_lazy_unmount_ends_the_wait_once_the_last_file_is_closed() {
    let Some(mut fixture) = sample().filter(|_| is_root()) else { return };
    let open = File::open(fixture.path("t/f")).expect("it opens");
    rustix::mount::unmount(fixture.mountpoint(), UnmountFlags::DETACH).expect("it can be detached");
    assert_eq!(mounts_at(fixture.mountpoint()), [""; 0]);
    let mut first = [0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut first, 0).expect("an open file is still served");
    assert_eq!(first[..], crate::fake_content::bytes(TorrentKey(0), 0..16));
    drop(open);
    let mounted = fixture.mounted.take().expect("it is mounted");
    within("the end of the session", move || mounted.wait_unmounted());
}

#[test]
fn an_unmount_with_64_waiting_readers_answers_them_and_is_quick() {
    let Some(mut fixture) = sample() else { return };
    fixture.content.state().stuck.push((TorrentKey(0), 0..SIZE));
    let readers: Vec<_> = (0..64_u64)
        .map(|n| {
            let path = fixture.path("t/f");
            std::thread::spawn(move || {
                let file = File::open(path)?;
                std::os::unix::fs::FileExt::read_at(&file, &mut [0; 16], n << 20)
            })
        })
        .collect();
    fixture.content.wait_parked(64);
    let mounted = fixture.mounted.take().expect("it is mounted");
    let unmounter = mounted.unmounter();
    let start = Instant::now();
    within("the unmount", move || unmounter.unmount());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(mounts_at(fixture.mountpoint()), [""; 0]);
    for reader in readers {
        let error = within("the answer", move || reader.join()).expect("no panic").expect_err("nothing was there");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    within("the end of the session", move || mounted.wait_unmounted());
}

#[test]
fn a_file_that_stays_open_does_not_hold_up_the_end() {
    let Some(mut fixture) = sample().filter(|_| is_root()) else { return };
    let open = File::open(fixture.path("t/f")).expect("it opens");
    let mounted = fixture.mounted.take().expect("it is mounted");
    let unmounter = mounted.unmounter();
    within("the unmount", move || unmounter.unmount());
    // Root may abort the connection, so the session ends although the file is open.
    within("the end of the session", move || mounted.wait_unmounted());
    let error = std::os::unix::fs::FileExt::read_at(&open, &mut [0; 16], 0).expect_err("it is aborted");
    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::EIO | libc::ECONNABORTED)), "{error}");
}

#[test]
fn what_is_mounted_there_afterwards_is_left_alone() {
    let Some(mut fixture) = sample().filter(|_| is_root()) else { return };
    rustix::mount::unmount(fixture.mountpoint(), UnmountFlags::empty()).expect("nothing uses it");
    mount_tmpfs(fixture.mountpoint());
    let mounted = fixture.mounted.take().expect("it was mounted");
    let mounted = within("the end of the session", move || {
        mounted.wait_unmounted();
        mounted
    });
    mounted.unmounter().unmount();
    drop(mounted);
    assert_eq!(fs::read_to_string(fixture.path("mine")).expect("it is there"), "kept");
}

#[test]
fn what_is_mounted_on_top_is_left_alone() {
    let Some(mut fixture) = sample().filter(|_| is_root()) else { return };
    mount_tmpfs(fixture.mountpoint());
    fixture.mounted.take().expect("it is mounted").unmount();
    assert_eq!(fs::read_to_string(fixture.path("mine")).expect("it is there"), "kept");
}

#[test]
fn a_copy_in_another_mount_namespace_does_not_hold_up_the_end() {
    let Some(mut fixture) = sample().filter(|_| is_root()) else { return };
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", "echo there; read wait"]);
    let Ok(mut other) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        eprintln!("skipped: there is no unshare");
        return;
    };
    let mut line = String::new();
    BufReader::new(other.stdout.take().expect("piped")).read_line(&mut line).expect("it is read");
    if line != "there\n" {
        eprintln!("skipped: unshare may not make a mount namespace: {:?}", other.wait());
        return;
    }
    let pid = other.id().to_string();
    assert_eq!(mounts_in(&pid, fixture.mountpoint()), ["fuse.swarmfs"]);
    let mounted = fixture.mounted.take().expect("it is mounted");
    let unmounter = mounted.unmounter();
    let start = Instant::now();
    within("the unmount", move || unmounter.unmount());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(mounts_at(fixture.mountpoint()), [""; 0]);
    assert_eq!(mounts_in(&pid, fixture.mountpoint()), ["fuse.swarmfs"], "the copy is still held");
    within("the end of the session", move || mounted.wait_unmounted());
    drop(other.stdin.take());
    other.wait().expect("it ends when its input does");
}

#[test]
fn a_mount_that_is_dropped_is_unmounted() {
    let Some(mut fixture) = sample() else { return };
    drop(fixture.mounted.take());
    assert_eq!(mounts_at(fixture.mountpoint()), [""; 0]);
}
