//! What the store does to the disk, call by call, below one directory. In tests each call that changes something may be
//! the last one: what follows then finds the disk as a crash leaves it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

/// A link of this name would lead elsewhere; a FIFO would hold us.
const SAFE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);
const DIRECTORY: OFlags = SAFE.union(OFlags::DIRECTORY).union(OFlags::RDONLY);

/// Opens a directory.
pub(super) fn open_dir(root: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(root, name, DIRECTORY, Mode::empty())?)
}

/// Makes a directory that only we may enter, and opens it.
pub(super) fn make_dir(root: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    crash::point()?;
    match rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => open_dir(root, name),
        Err(error) => Err(error.into()),
    }
}

/// Opens a regular file to read it.
pub(super) fn open(dir: impl AsFd, name: &str) -> io::Result<File> {
    regular(rustix::fs::openat(dir, name, SAFE | OFlags::RDONLY, Mode::empty())?.into())
}

/// Opens a regular file to read and write it, made if it is not there; `direct` is past the page cache.
pub(super) fn create(dir: impl AsFd, name: &str, direct: bool) -> io::Result<File> {
    crash::point()?;
    let direct = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let flags = SAFE | direct | OFlags::RDWR | OFlags::CREATE;
    regular(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?.into())
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Writes all of it.
pub(super) fn write(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    if let Err(crashed) = crash::point() {
        // A write may be cut short, too.
        let _ = file.write_all_at(&bytes[..bytes.len() / 2], at);
        return Err(crashed);
    }
    file.write_all_at(bytes, at)
}

/// Gives a range back to the file system; it reads as zeros then, and the file keeps its length.
pub(super) fn punch(file: &File, at: u64, length: u64) -> io::Result<()> {
    crash::point()?;
    Ok(rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length)?)
}

/// Puts a file with these bytes in the place of what is there.
pub(super) fn replace(dir: impl AsFd, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let (dir, new) = (dir.as_fd(), format!("{name}.new"));
    let file = create(dir, &new, false)?;
    file.set_len(0)?;
    write(&file, bytes, 0)?;
    if durable {
        file.sync_data()?;
    }
    crash::point()?;
    Ok(rustix::fs::renameat(dir, &new, dir, name)?)
}

/// Takes a file away. It is no error if it is not there.
pub(super) fn remove(dir: impl AsFd, name: &str) -> io::Result<()> {
    crash::point()?;
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes an empty directory away.
pub(super) fn remove_dir(root: impl AsFd, name: &str) -> io::Result<()> {
    crash::point()?;
    Ok(rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR)?)
}

/// Bytes that the file system has allocated for a file.
pub(super) fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// The names in a directory.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        // What is no UTF-8 is none of ours.
        if let Ok(name) = entry?.file_name().to_str().map(str::to_owned)
            && !matches!(&*name, "." | "..")
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// Bytes that the file system has allocated for everything in a directory.
pub(super) fn allocated_in(dir: impl AsFd) -> io::Result<u64> {
    let dir = dir.as_fd();
    let mut blocks = 0;
    for name in names(dir)? {
        match rustix::fs::statat(dir, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => blocks += u64::try_from(stat.st_blocks).unwrap_or_default(),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(blocks * 512)
}

#[cfg(not(test))]
mod crash {
    #[inline(always)]
    pub(super) fn point() -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod crash {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Changes that this thread may still make; none is no limit.
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Everything that would change the disk fails after so many changes.
    pub(in crate::cache::store) fn after(changes: Option<u32>) {
        LEFT.set(changes);
    }

    /// True if no change is left.
    pub(in crate::cache::store) fn happened() -> bool {
        LEFT.get() == Some(0)
    }

    pub(super) fn point() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("crashed")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}
