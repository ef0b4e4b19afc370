//! Where the bytes of a piece lie: in a buffer of the pool, or, for a piece that is too big for the memory budget, in a
//! temporary file without a name.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use super::pool::{Buffer, Pool};

/// Where a piece is assembled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Memory,
    /// In an unlinked temporary file in this directory: for pieces larger than a quarter of the memory budget.
    TempFile(PathBuf),
}

/// The bytes of one piece, complete or not.
#[derive(Debug)]
pub(super) enum Store {
    Memory(Buffer),
    File(File),
}

/// What is read from a file at a time.
const CHUNK: usize = 128 << 10;

impl Store {
    pub(super) fn new(length: u32, place: &Place, pool: &Arc<Pool>) -> io::Result<Self> {
        match place {
            Place::Memory => pool.take(length as usize).map(Self::Memory),
            Place::TempFile(dir) => temp_file(dir).map(Self::File),
        }
    }

    /// The bytes, if they are in memory.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Memory(buffer) => Some(buffer.bytes()),
            Self::File(_) => None,
        }
    }

    pub(super) fn write_at(&mut self, offset: u32, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(buffer) => {
                let start = offset as usize;
                let end = start.checked_add(data.len());
                let room = end.and_then(|end| buffer.bytes_mut().get_mut(start..end)).ok_or_else(outside)?;
                room.copy_from_slice(data);
                Ok(())
            }
            Self::File(file) => file.write_all_at(data, u64::from(offset)),
        }
    }

    pub(super) fn read_at(&self, offset: u32, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(buffer) => {
                let start = offset as usize;
                let end = start.checked_add(out.len());
                let bytes = end.and_then(|end| buffer.bytes().get(start..end)).ok_or_else(outside)?;
                out.copy_from_slice(bytes);
                Ok(())
            }
            Self::File(file) => file.read_exact_at(out, u64::from(offset)),
        }
    }

    /// Hands a range to `take`, in order, in one or several parts.
    pub(super) fn scan(&self, range: Range<u32>, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        match self {
            Self::Memory(buffer) => {
                take(buffer.bytes().get(range.start as usize..range.end as usize).ok_or_else(outside)?);
                Ok(())
            }
            Self::File(file) => {
                let mut buffer = vec![0; CHUNK.min((range.end - range.start) as usize)];
                let (mut at, end) = (u64::from(range.start), u64::from(range.end));
                while at < end {
                    let step = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
                    file.read_exact_at(&mut buffer[..step], at)?;
                    take(&buffer[..step]);
                    at += step as u64;
                }
                Ok(())
            }
        }
    }
}

fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "outside the piece")
}

/// A file without a name: gone with its last descriptor, however the process ends.
fn temp_file(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok(fd.into()),
        Err(_) => named_and_unlinked(dir), // several file systems (overlayfs, NFS, FUSE) have no O_TMPFILE
    }
}

fn named_and_unlinked(dir: &Path) -> io::Result<File> {
    let mut attempt = 0;
    loop {
        let path = dir.join(format!(".swarmfs-{}-{attempt}.tmp", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            // Another thread is between its two calls.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_have_no_name() {
        let dir = tempfile::tempdir().unwrap();
        for file in [temp_file(dir.path()).unwrap(), named_and_unlinked(dir.path()).unwrap()] {
            let mut store = Store::File(file);
            store.write_at(CHUNK as u32 - 2, b"hello").unwrap();
            let mut back = Vec::new();
            store.scan(0..CHUNK as u32 + 3, |part| back.extend_from_slice(part)).unwrap();
            assert_eq!((&back[CHUNK - 2..], back.len()), (&b"hello"[..], CHUNK + 3));
            assert!(store.scan(0..CHUNK as u32 + 4, |_| ()).is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(temp_file(&dir.path().join("none")).is_err());
    }
}
