//! Mounts of the program under test, in the foreground and in a child process.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Running, output, swarmfs};
use super::{free_address, holds_within};

/// A mount: unmounted and killed when dropped.
pub(crate) struct Mount {
    pub(crate) process: Running,
    pub(crate) mountpoint: PathBuf,
    pub(crate) address: std::net::SocketAddr,
    left: bool,
    _dir: TempDir,
}

/// How a mount is started.
pub(crate) struct MountCommand {
    command: Command,
    address: std::net::SocketAddr,
    limit: Duration,
    mountpoint: Option<PathBuf>,
    torrents: Vec<PathBuf>,
    off: Vec<String>,
    state: Option<PathBuf>,
}

/// A mount of these .torrent files, with nothing that leaves the machine.
pub(crate) fn mount(torrents: &[&Path]) -> MountCommand {
    mount_at(torrents, free_address())
}

/// As `mount`, listening on `address`.
pub(crate) fn mount_at(torrents: &[&Path], address: std::net::SocketAddr) -> MountCommand {
    mount_by(swarmfs(), torrents, address).args(&["-v"])
}

/// As `mount_at`, by this program, which says only what went wrong.
pub(crate) fn mount_by(mut command: Command, torrents: &[&Path], address: std::net::SocketAddr) -> MountCommand {
    command.args(["mount", "-f", "--listen", &address.to_string()]);
    let torrents = torrents.iter().map(|torrent| torrent.to_path_buf()).collect();
    let off = ["--no-dht", "--no-lsd"].map(str::to_owned).to_vec();
    MountCommand { command, address, limit: Duration::from_secs(120), mountpoint: None, torrents, off, state: None }
}

impl MountCommand {
    /// Dials this peer for every torrent.
    pub(crate) fn peer(mut self, address: std::net::SocketAddr) -> Self {
        self.command.args(["--peer", &address.to_string()]);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// What of finding peers is off: this in place of the DHT and local discovery.
    pub(crate) fn without(mut self, off: &[&str]) -> Self {
        self.off = off.iter().map(|&option| option.to_owned()).collect();
        self
    }

    /// Keeps there what it keeps for the next time.
    pub(crate) fn state(mut self, state: &Path) -> Self {
        self.state = Some(state.to_owned());
        self
    }

    /// The whole life of the process: it is killed after this, so that a test fails and does not hang. Default 120 s.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Mounts there, not in a fresh directory.
    pub(crate) fn on(mut self, mountpoint: &Path) -> Self {
        self.mountpoint = Some(mountpoint.to_owned());
        self
    }

    /// Starts it, and waits until the mount answers.
    #[track_caller]
    pub(crate) fn start(mut self) -> Mount {
        let dir = tempfile::Builder::new().prefix("swarmfs-test-").tempdir().expect("a directory");
        let mountpoint = self.mountpoint.unwrap_or_else(|| {
            let path = dir.path().join("mnt");
            std::fs::create_dir(&path).expect("a mountpoint");
            path
        });
        self.command
            .args(&self.off)
            .args(&self.torrents)
            .arg(&mountpoint)
            .env("XDG_CACHE_HOME", dir.path().join("cache"));
        self.command.env("XDG_STATE_HOME", self.state.unwrap_or_else(|| dir.path().join("state")));
        let process = Running::spawn("swarmfs mount", self.command, &dir.path().join("log"), self.limit);
        let mut mount = Mount { process, mountpoint, address: self.address, left: false, _dir: dir };
        // What a link names comes when others have given its metadata, and they may be busy.
        let links = self.torrents.iter().any(|torrent| !torrent.exists());
        let limit = Duration::from_secs(if links { 60 } else { 10 });
        let up = holds_within(limit, || {
            if let Some(status) = mount.process.exited() {
                panic!("the mount ended at once ({status}): {}", mount.process.log());
            }
            // A stale mount may still list its names from the kernel's cache, but only a living one answers statfs.
            is_mounted(&mount.mountpoint)
                && rustix::fs::statfs(&mount.mountpoint).is_ok()
                && std::fs::read_dir(&mount.mountpoint).is_ok_and(|entries| entries.count() == self.torrents.len())
        });
        assert!(up, "nothing mounted after {limit:?}: {}", mount.process.log());
        mount
    }
}

impl Mount {
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.mountpoint.join(relative)
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// SIGTERM, and the end: how it ended and how long that took. Fails the test when it takes over `limit`.
    #[track_caller]
    pub(crate) fn terminate(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        self.process.signal(Signal::TERM);
        let Some(end) = self.process.wait(limit) else {
            panic!("SIGTERM has not ended the mount within {limit:?}: {}", self.log())
        };
        end
    }

    /// Lets go of it without taking a stale mount away: the mountpoint is the caller's.
    pub(crate) fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.left {
            detach(&self.mountpoint);
        }
    }
}

/// Takes a mount away, if there is one, as at the end of a test that failed.
pub(crate) fn detach(mountpoint: &Path) {
    if is_mounted(mountpoint) && rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH).is_err() {
        let _ = output(Command::new("fusermount3").args(["-u", "-z"]).arg(mountpoint), Duration::from_secs(5));
    }
}

/// True if this very path is a mount of ours in this mount namespace. Asks the kernel's table, not the file system.
pub(crate) fn is_mounted(mountpoint: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    table.lines().any(|line| line.split(' ').nth(4) == mountpoint.to_str())
}
