//! Paths that come from a torrent, opened and made below a directory: neither `..` nor a symlink leads out of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A directory, to open what is in it.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);
/// NONBLOCK: a FIFO of this name must not hold us; it means nothing for regular files.
const FILE: OFlags = OFlags::CLOEXEC.union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    /// To read it.
    Read,
    /// To read and write it.
    Write,
}

/// Opens a regular file.
///
/// # Errors
/// `InvalidInput` for what is no regular file; EXDEV or ELOOP for a link that leads out; whatever the system says.
pub(super) fn open_file(root: impl AsFd, path: &str, access: Access) -> io::Result<File> {
    let mode = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::RDWR,
    };
    let file: File = open(root, path, FILE | mode, Mode::empty())?.into();
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Makes a file that is not there, and the directories on the way.
///
/// # Errors
/// `AlreadyExists` if there is something of this name, be it a link to nowhere; whatever the system says.
pub(super) fn create_file(root: impl AsFd, path: &str, executable: bool) -> io::Result<File> {
    let root = root.as_fd();
    let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
    let flags = FILE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    match open(root, path, flags, mode) {
        Err(Errno::NOENT) => {
            directory(root, parent_of(path).0)?;
            Ok(open(root, path, flags, mode)?.into())
        }
        result => Ok(result?.into()),
    }
}

/// Makes a symlink, and the directories on the way. What is there already stays.
///
/// # Errors
/// Whatever the system says.
pub(super) fn create_link(root: impl AsFd, path: &str, target: &str) -> io::Result<()> {
    let (parent, name) = parent_of(path);
    match rustix::fs::symlinkat(target, directory(root.as_fd(), parent)?, name) {
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

/// A directory below the root, made if it is not there.
fn directory(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let mut at = rustix::io::fcntl_dupfd_cloexec(&root, 0)?;
    let mut end = 0;
    for name in path.split('/').filter(|_| !path.is_empty()) {
        end += name.len();
        let open_it = || open(&root, &path[..end], DIRECTORY, Mode::empty());
        at = match open_it() {
            Err(Errno::NOENT) => {
                refuse_odd(name)?;
                match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => open_it()?,
                    Err(error) => return Err(error),
                }
            }
            opened => opened?,
        };
        end += 1;
    }
    Ok(at)
}

/// The directory's path, empty for the root, and the name in it.
fn parent_of(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Opens a path that must not lead out of `root`.
fn open(root: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, path, flags, mode, resolve) {
        // Before Linux 5.6, or in a sandbox that does not know the call: every component by hand, no symlink at all.
        Err(Errno::NOSYS | Errno::PERM) => open_by_component(root, path, flags, mode),
        // EAGAIN: something was renamed meanwhile.
        Err(Errno::AGAIN) => rustix::fs::openat2(&root, path, flags, mode, resolve),
        result => result,
    }
}

fn open_by_component(root: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let (parents, name) = path.rsplit_once('/').map_or((None, path), |(parents, name)| (Some(parents), name));
    let mut parent = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    for component in parents.into_iter().flat_map(|parents| parents.split('/')) {
        parent = open_component(&parent, component, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    }
    open_component(&parent, name, flags | OFlags::NOFOLLOW, mode)
}

fn open_component(parent: &OwnedFd, name: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    refuse_odd(name)?;
    rustix::fs::openat(parent, name, flags, mode)
}

fn refuse_odd(name: &str) -> rustix::io::Result<()> {
    if matches!(name, "" | "." | "..") { Err(Errno::XDEV) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_fallback_opens_what_is_inside_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sub/deep")).unwrap();
        for path in ["a", "sub/b", "sub/deep/c"] {
            fs::write(dir.path().join(path), path).unwrap();
        }
        let root = File::open(dir.path()).unwrap();
        let open = |path| open_by_component(&root, path, OFlags::RDONLY, Mode::empty());
        for path in ["a", "sub/b", "sub/deep/c"] {
            assert_eq!(File::from(open(path).unwrap()).metadata().unwrap().len(), path.len() as u64);
        }
        for path in ["..", "sub/../a", "/a", "", "sub//b", "./a"] {
            assert_eq!(open(path).unwrap_err(), Errno::XDEV, "{path}");
        }
        symlink("sub", dir.path().join("other")).unwrap();
        assert!(matches!(open("other/b").unwrap_err(), Errno::LOOP | Errno::NOTDIR));
        symlink("../secret", dir.path().join("out")).unwrap();
        assert_eq!(open("out").unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn files_and_links_are_made_with_their_directories_and_only_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        let root = File::open(&inside).unwrap();
        create_file(&root, "a/b/c", true).unwrap();
        create_file(&root, "a/d", false).unwrap();
        let mode = |path: &str| fs::metadata(inside.join(path)).unwrap().permissions().mode() & 0o111;
        assert!(mode("a/b/c") != 0 && mode("a/d") == 0);
        assert_eq!(create_file(&root, "a/d", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        create_link(&root, "a/links/l", "../d").unwrap();
        create_link(&root, "a/links/l", "elsewhere").unwrap();
        assert_eq!(fs::read_link(inside.join("a/links/l")).unwrap().to_str(), Some("../d"));
        // A directory that is a link out of the root.
        symlink("../out", inside.join("leads")).unwrap();
        for path in ["leads/x", "leads/y/z"] {
            assert!(create_file(&root, path, false).is_err());
            assert!(create_link(&root, path, "a").is_err());
        }
        // A link to a place that is not there, out of the root and in it.
        symlink("../out/new", inside.join("dangling")).unwrap();
        symlink("new", inside.join("inner")).unwrap();
        assert!(create_file(&root, "dangling", false).is_err() && create_file(&root, "inner", false).is_err());
        assert!(create_file(&root, "../out/new", false).is_err() && create_link(&root, "../out/new", "a").is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!inside.join("new").exists());
    }
}
