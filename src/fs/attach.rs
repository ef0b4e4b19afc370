//! Attaching to the kernel and letting go of it: mount(2) with its fallback to fusermount3, the checks of a mountpoint,
//! stale mounts, detaching, the connection's abort file.
//!
//! We mount ourselves and hand fuser the descriptor, because fuser 0.18 unmounts the path once more when a session has
//! ended, and by then something else may be mounted there.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::options::Parsed;
use super::{FS_TYPE, mountinfo};

/// The kernel's device.
const DEVICE: &str = "/dev/fuse";
/// Where fusermount3 may be besides `$PATH`, which daemons often lack.
const HELPER_DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"];
const NO_HELPER: &str = "only root may mount without fusermount3; install the package fuse3";
/// Dead mounts on top of each other that are cleaned before we give up.
const MAX_STALE: usize = 16;

/// The mountpoint's canonical path, once nothing speaks against mounting there. Dead mounts of ours are taken away.
///
/// # Errors
/// One sentence.
pub(super) fn prepare(mountpoint: &Path, nonempty: bool) -> Result<PathBuf, String> {
    let mut path = canonical(mountpoint)?;
    for _ in 0..MAX_STALE {
        let top = mountinfo::top(&path).map_err(|e| format!("cannot read /proc/self/mountinfo: {e}"))?;
        match std::fs::metadata(&path) {
            _ if is_dead(&path) => match top {
                Some(entry) if entry.fs_type == FS_TYPE => {
                    tracing::warn!(mountpoint = %path.display(), "cleaning up a mount whose process is gone");
                    detach(&path, true).map_err(|e| format!("a dead mount is there and cannot be cleaned up: {e}"))?;
                }
                Some(entry) => {
                    let kind = entry.fs_type;
                    return Err(format!("a dead {kind} mount is there; take it away with umount -l first"));
                }
                None => return Err("a dead mount is somewhere above; take it away with umount -l first".to_owned()),
            },
            // Another user's mount cannot be looked at, but it is there.
            _ if top.is_some_and(|entry| entry.fs_type == FS_TYPE) => {
                return Err("a swarmfs mount is there already; take it away with swarmfs unmount".to_owned());
            }
            Err(e) => return Err(format!("cannot be used: {e}")),
            Ok(metadata) if !metadata.is_dir() => return Err("is not a directory".to_owned()),
            Ok(_) => {
                path = std::fs::canonicalize(&path).unwrap_or(path);
                let mut entries = std::fs::read_dir(&path).map_err(|e| format!("cannot be read: {e}"))?;
                if !nonempty && entries.next().is_some() {
                    return Err("is not empty; choose an empty directory, or -o nonempty to hide what is in it".into());
                }
                return Ok(path);
            }
        }
    }
    Err("has too many dead mounts; take them away with umount -l".to_owned())
}

/// The path without symlinks. Its last component may be a dead mount, which has no path of its own.
///
/// # Errors
/// One sentence.
pub(crate) fn canonical(mountpoint: &Path) -> Result<PathBuf, String> {
    match std::fs::canonicalize(mountpoint) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err("does not exist; make the directory first".to_owned()),
        Err(e) if says_dead(&e) => {
            let absolute = std::path::absolute(mountpoint).map_err(|e| format!("cannot be used: {e}"))?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
                return Err("is dead and has no name; give its full path".to_owned());
            };
            let parent = std::fs::canonicalize(parent).map_err(|e| format!("cannot be used: {e}"))?;
            Ok(parent.join(name))
        }
        Err(e) => Err(format!("cannot be used: {e}")),
    }
}

/// True if the process behind a mount is gone: "Transport endpoint is not connected". Only statfs(2) tells, because the
/// kernel may keep the attributes that stat(2) shows, and always asks for these.
pub(crate) fn is_dead(path: &Path) -> bool {
    rustix::fs::statfs(path).is_err_and(|error| says_dead(&error.into()))
}

/// What a mount says whose process is gone, or whose connection was aborted.
fn says_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Says what the machine lacks, if mounting must fail.
///
/// # Errors
/// One sentence.
pub(super) fn possible() -> Result<(), String> {
    open_device()?;
    if rustix::process::geteuid().is_root() { Ok(()) } else { helper().map(drop).ok_or_else(|| NO_HELPER.to_owned()) }
}

fn open_device() -> Result<File, String> {
    File::options().read(true).write(true).open(DEVICE).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            format!("{DEVICE} is not there: run modprobe fuse, or in a container pass --device {DEVICE}")
        }
        _ => format!("cannot open {DEVICE}: {e}; in a container pass --device {DEVICE} and --cap-add SYS_ADMIN"),
    })
}

/// Mounts, by mount(2) if we may, else through fusermount3. The descriptor is the connection's.
///
/// # Errors
/// One sentence.
pub(super) fn attach(mountpoint: &Path, options: &Parsed) -> Result<OwnedFd, String> {
    let device = open_device()?;
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let data = format!("fd={},rootmode=40555,user_id={user},group_id={group},{}", device.as_raw_fd(), options.data());
    let data = CString::new(data).map_err(|e| format!("cannot be mounted: {e}"))?;
    match rustix::mount::mount(&*options.fs_name, mountpoint, FS_TYPE, options.flags, Some(data.as_c_str())) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM) => {
            drop(device);
            attach_with_helper(mountpoint, options)
        }
        Err(Errno::NODEV) => Err("the kernel has no FUSE: run modprobe fuse".to_owned()),
        Err(e) => Err(format!("cannot be mounted: {}", io::Error::from(e))),
    }
}

/// fusermount3 is set-user-id root: it mounts for us and passes the descriptor over a socket.
fn attach_with_helper(mountpoint: &Path, options: &Parsed) -> Result<OwnedFd, String> {
    let helper = helper().ok_or(NO_HELPER)?;
    let may_share = || std::fs::read_to_string("/etc/fuse.conf").is_ok_and(|text| allows_other(&text));
    if options.allow_other && !rustix::process::geteuid().is_root() && !may_share() {
        return Err(
            "allow_other needs the line user_allow_other in /etc/fuse.conf; add it or leave the option out".into()
        );
    }
    let (ours, theirs) = UnixStream::pair().map_err(|e| format!("cannot make a socket: {e}"))?;
    let mut child = Command::new(&helper)
        .arg("-o")
        .arg(options.helper_options())
        .arg("--")
        .arg(mountpoint)
        // The socket is the helper's standard input: no descriptor of ours needs to be made inheritable.
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run {}: {e}", helper.display()))?;
    let received = receive_descriptor(&ours);
    let mut complaint = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut complaint);
    }
    let status = child.wait();
    match received {
        Ok(Some(descriptor)) => Ok(descriptor),
        Ok(None) => {
            let complaint = complaint.lines().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned);
            Err(complaint.unwrap_or_else(|| format!("{} failed: {status:?}", helper.display())))
        }
        Err(e) => Err(format!("{} sent no descriptor: {e}", helper.display())),
    }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    loop {
        let mut buffer = [io::IoSliceMut::new(&mut byte)];
        match recvmsg(socket, &mut buffer, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => break,
        }
    }
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn allows_other(fuse_conf: &str) -> bool {
    fuse_conf.lines().any(|line| line.trim() == "user_allow_other")
}

fn helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(HELPER_DIRECTORIES.iter().map(PathBuf::from));
    let candidates = directories.flat_map(|dir| [dir.join("fusermount3"), dir.join("fusermount")]);
    let mut candidates: Vec<PathBuf> = candidates.filter(|file| file.is_file()).collect();
    candidates.sort_by_key(|file| file.file_name() != Some(OsStr::new("fusermount3")));
    candidates.into_iter().next()
}

/// How a mount went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detached {
    /// It is gone.
    Gone,
    /// Files on it are open, and it was to go only if none was.
    Busy,
}

/// Takes away the uppermost mount at `path`, by umount2(2) or fusermount3. `lazy`: also while it is in use.
///
/// # Errors
/// If neither may.
pub(crate) fn detach(path: &Path, lazy: bool) -> io::Result<Detached> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Detached::Gone),
        Err(Errno::BUSY) => Ok(Detached::Busy),
        Err(Errno::PERM) => detach_with_helper(path, lazy),
        Err(e) => Err(e.into()),
    }
}

fn detach_with_helper(path: &Path, lazy: bool) -> io::Result<Detached> {
    let helper =
        helper().ok_or_else(|| io::Error::other("you may not unmount it, and fusermount3 is not installed"))?;
    let mut command = Command::new(helper);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).env("LC_ALL", "C").stdin(Stdio::null()).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(Detached::Gone),
        false if complaint.contains("busy") => Ok(Detached::Busy),
        false => Err(io::Error::other(complaint)),
    }
}

/// Aborts a connection, named by its device's minor number: every request fails, also through copies of the mount in
/// other mount namespaces.
///
/// # Errors
/// If we may not.
pub(super) fn abort(minor: &str) -> io::Result<()> {
    let file = format!("{minor}/abort");
    match std::fs::write(Path::new("/sys/fs/fuse/connections").join(&file), "1") {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    // Containers often do not mount fusectl; root can open one that is attached nowhere.
    let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let root = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let abort = rustix::fs::openat(&root, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&abort, b"1")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_is_an_empty_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let refused = |path: &Path, nonempty| prepare(path, nonempty).expect_err("it cannot be mounted on");
        assert!(refused(&dir.path().join("missing"), false).contains("does not exist"));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("written");
        assert!(refused(&file, true).contains("not a directory"));
        assert!(refused(dir.path(), false).contains("nonempty"));
        let there = prepare(dir.path(), true).expect("nonempty was asked for");
        assert_eq!(there, std::fs::canonicalize(dir.path()).expect("it is there"));
    }

    #[test]
    fn only_its_own_line_lets_others_in() {
        assert!(!allows_other("# user_allow_other\n#user_allow_other\n"));
        assert!(allows_other("mount_max = 9\nuser_allow_other\n"));
    }
}
