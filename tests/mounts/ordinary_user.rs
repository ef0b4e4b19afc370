//! A mount by an ordinary user, who has fusermount3 and no capability.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::dataset::Dataset;
use crate::support::mounts::{detach, is_mounted};
use crate::support::peer::Peer;
use crate::support::process::{Running, succeed};
use crate::support::torrent::Content;
use crate::support::user::{NOBODY, as_nobody, everybody_may_use_fuse};
use crate::support::{free_address, wait_until};

const SECOND: Duration = Duration::from_secs(1);

/// Unmounts at the end of the test in every case.
struct Detached<'a>(&'a Path);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        detach(self.0);
    }
}

#[test]
#[ignore = "needs root to become an ordinary user, and fuse3"]
fn an_ordinary_user_mounts_reads_and_unmounts() {
    let dataset = Dataset::small();
    let content = Arc::new(Content::of(&dataset, 64 << 10));
    let seed = Peer::seed(&content);
    // In /tmp: the build directory may be in a place that others cannot enter.
    let home = tempfile::Builder::new().prefix("swarmfs-user-").tempdir_in("/tmp").expect("a directory");
    everybody_may_use_fuse(home.path());
    let program = home.path().join("swarmfs");
    std::fs::copy(env!("CARGO_BIN_EXE_swarmfs"), &program).expect("the program");
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
    let torrent = content.torrent.write(home.path(), None);
    std::fs::set_permissions(&torrent, PermissionsExt::from_mode(0o644)).expect("its mode");
    let mountpoint = home.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a mountpoint");
    chown(&mountpoint, Some(NOBODY), Some(NOBODY)).expect("its owner");
    chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("its owner");
    let _guard = Detached(&mountpoint);
    let root = mountpoint.join(&dataset.name);
    let sums = std::fs::read(dataset.sums()).expect("the sums");
    let same = |what: &str| {
        let mut read = as_nobody(Path::new("sh"), home.path());
        read.args(["-c", "cd \"$1\" && find . -type f -print0 | LC_ALL=C.UTF-8 sort -z | xargs -0 sha256sum", "sh"]);
        let ours = succeed(read.arg(&root), SECOND * 60);
        assert!(ours == sums, "{what}: {}", String::from_utf8_lossy(&ours));
    };
    let mount = |flags: &[&str]| {
        let mut command = as_nobody(&program, home.path());
        command.arg("mount").args(flags).args(["--no-dht", "--no-lsd", "--listen", &free_address().to_string()]);
        command.args(["--peer", &seed.address.to_string()]).arg(&torrent).arg(&mountpoint);
        command
    };

    // In the background, ended by `swarmfs unmount`.
    succeed(&mut mount(&[]), SECOND * 10);
    assert!(is_mounted(&mountpoint));
    same("background");
    succeed(as_nobody(&program, home.path()).arg("unmount").arg(&mountpoint), SECOND * 10);
    wait_until(SECOND * 5, "unmounted by swarmfs unmount", || !is_mounted(&mountpoint));

    // In the foreground, ended by fusermount3 -u and by SIGTERM.
    for by_signal in [false, true] {
        let log = tempfile::NamedTempFile::new().expect("a log");
        let mut process = Running::spawn("swarmfs mount", mount(&["-f", "-v"]), log.path(), SECOND * 60);
        wait_until(SECOND * 10, "mounted", || is_mounted(&mountpoint));
        same("foreground");
        if by_signal {
            process.signal(rustix::process::Signal::TERM);
        } else {
            succeed(as_nobody(Path::new("fusermount3"), home.path()).arg("-u").arg(&mountpoint), SECOND * 10);
        }
        let Some((status, _)) = process.wait(SECOND * 5) else { panic!("it lives on, by_signal {by_signal}") };
        assert!(status.success(), "{status}, by_signal {by_signal}: {}", process.log());
        assert!(!is_mounted(&mountpoint), "by_signal {by_signal}");
    }
}
