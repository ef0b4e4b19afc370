//! The walk over what a torrent is made of, in the order of path components as bytes. Everything that a torrent cannot
//! hold is refused here, by its name, before anything is hashed; or left out, where that is wanted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Access;
use tracing::{info, warn};

use super::encode::{Content, Entry, Kind};
use super::exclude::Excludes;
use super::{Options, refused};
use crate::error::{Error, Result};
use crate::metainfo::MAX_DEPTH;

/// The executable bit that counts: the owner's, as in other programs.
const EXECUTABLE: u32 = 0o100;

/// The file or directory that a torrent is made of.
#[derive(Debug)]
pub(super) struct Root {
    /// As it was given, for messages.
    given: PathBuf,
    /// Without links.
    pub(super) path: PathBuf,
    /// The torrent's name: what PATH ends in, or the real name where it ends in `.` or `..`.
    pub(super) name: String,
    pub(super) single_file: bool,
    metadata: Metadata,
}

impl Root {
    pub(super) fn find(given: &Path) -> Result<Self> {
        let path = fs::canonicalize(given).map_err(|error| refused(given, format!("cannot be opened: {error}")))?;
        let metadata = fs::metadata(&path).map_err(|error| refused(given, format!("cannot be opened: {error}")))?;
        if let Some(kind) = special(metadata.file_type()) {
            return Err(refused(given, format!("is {kind}: a torrent is made of a file or a directory")));
        }
        let Some(name) = given.file_name().or_else(|| path.file_name()) else {
            return Err(refused(given, "has no name that a torrent could have; give a directory below it"));
        };
        let name = name.to_str().ok_or_else(|| {
            refused(Path::new(name), "its name is not UTF-8, as names in torrents must be; rename it")
        })?;
        let (given, name, single_file) = (given.to_owned(), name.to_owned(), metadata.is_file());
        Ok(Self { given, path, name, single_file, metadata })
    }

    /// What is at a path below the root, or the root if it is a single file.
    fn place(&self, path: &str) -> PathBuf {
        if self.single_file { self.path.clone() } else { self.path.join(path) }
    }

    /// A refusal of what is at a path below the root.
    pub(super) fn refused(&self, path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
        let path = path.as_ref();
        if self.single_file || path.as_os_str().is_empty() {
            refused(&self.given, reason)
        } else {
            refused(&self.given.join(path), reason)
        }
    }
}

/// What a walk found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) root: Root,
    /// Files and links in order.
    pub(super) entries: Vec<Entry>,
    /// When each was changed last: seconds and nanoseconds.
    modified: Vec<(i64, i64)>,
    /// How many were left out because no torrent can hold them; none if such are refused.
    unfit: Option<usize>,
}

impl Found {
    /// Walks over everything below the root that is not excluded.
    pub(super) fn walk(root: Root, options: &Options, stop: &AtomicBool) -> Result<Self> {
        let excludes = Excludes::new(&options.exclude).map_err(|reason| refused(Path::new("--exclude"), reason))?;
        // A file to be that is not there yet is met by no walk.
        let out = options.out.as_deref().and_then(|out| fs::canonicalize(out).ok());
        let found = Self { root, entries: Vec::new(), modified: Vec::new(), unfit: options.skip_unfit.then_some(0) };
        let mut walk = Walk { found, excludes, out, stop };
        if walk.found.root.single_file {
            let (name, metadata) = (walk.found.root.name.clone(), walk.found.root.metadata.clone());
            if walk.out.as_ref() == Some(&walk.found.root.path) {
                return Err(walk.found.root.refused("", "the .torrent would take its place; choose another with -o"));
            }
            walk.file(name, &metadata)?;
        } else {
            walk.directory(Path::new(""), 0)?;
        }
        for glob in walk.excludes.unused() {
            warn!("--exclude {}: nothing has this name", glob.escape_debug());
        }
        Ok(walk.found)
    }

    /// What no torrent can hold is left out or refused. `otherwise`: what can be done instead of leaving it out.
    pub(super) fn unfit(&mut self, path: impl AsRef<Path>, reason: &str, otherwise: &str) -> Result<()> {
        match &mut self.unfit {
            Some(count) if !self.root.single_file && !path.as_ref().as_os_str().is_empty() => {
                *count += 1;
                info!("left out: {}", self.root.refused(path, reason));
                Ok(())
            }
            _ => Err(self.root.refused(path, format!("{reason}; {otherwise}leave it out with --exclude"))),
        }
    }

    /// Takes out what is at these places in the list of entries.
    pub(super) fn leave_out(&mut self, places: &BTreeSet<usize>) {
        let mut at = 0..;
        self.modified.retain(|_| at.next().is_none_or(|at| !places.contains(&at)));
        let mut at = 0..;
        self.entries.retain(|_| at.next().is_none_or(|at| !places.contains(&at)));
    }

    /// Says how much was left out.
    pub(super) fn say_unfit(&self) {
        match self.unfit {
            None | Some(0) => {}
            Some(1) => warn!("one thing cannot be shared: left out, -v names it"),
            Some(count) => warn!("{count} things cannot be shared: left out, -v names them"),
        }
    }

    pub(super) fn content(&self) -> Content<'_> {
        Content { name: &self.root.name, entries: &self.entries, single_file: self.root.single_file }
    }

    /// Looks whether the files are still as the walk found them.
    ///
    /// # Errors
    /// The first that is not, by its name.
    pub(super) fn unchanged(&self) -> Result<()> {
        for (entry, modified) in self.entries.iter().zip(&self.modified) {
            let Kind::File { length, .. } = entry.kind else { continue };
            let now = fs::symlink_metadata(self.root.place(&entry.path));
            if !now.is_ok_and(|now| now.is_file() && now.len() == length && time(&now) == *modified) {
                return Err(self.root.refused(
                    &entry.path,
                    "it changed while it was hashed; wait until nothing writes to it, or leave it out with --exclude",
                ));
            }
        }
        Ok(())
    }
}

struct Walk<'a> {
    found: Found,
    excludes: Excludes,
    out: Option<PathBuf>,
    stop: &'a AtomicBool,
}

impl Walk<'_> {
    /// What is in a directory, `depth` components below the root.
    fn directory(&mut self, below: &Path, depth: usize) -> Result<()> {
        let list = fs::read_dir(self.found.root.path.join(below));
        let names = list.and_then(|list| list.map(|entry| entry.map(|entry| entry.file_name())).collect());
        let mut names: Vec<OsString> = match names {
            Ok(names) => names,
            Err(error) => return self.unreadable(below, &error),
        };
        names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            self.entry(&below.join(name), depth + 1)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, depth: usize) -> Result<()> {
        let place = self.found.root.path.join(path);
        let metadata = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata,
            Err(error) => return self.unreadable(path, &error),
        };
        if self.excludes.take(path, metadata.is_dir()) || self.out.as_ref() == Some(&place) {
            return Ok(());
        }
        let Some(text) = path.to_str() else {
            return self.found.unfit(path, "its name is not UTF-8, as names in torrents must be", "rename it, or ");
        };
        if depth > MAX_DEPTH {
            return self.found.unfit(path, "it lies more than 100 directories deep", "move it, or ");
        }
        if metadata.is_dir() {
            return self.directory(path, depth);
        }
        if metadata.is_file() {
            return self.file(text.to_owned(), &metadata);
        }
        if metadata.is_symlink() {
            return match link_place(&self.found.root.path, &place) {
                Ok(place) => {
                    self.push(Entry { path: text.to_owned(), kind: Kind::Link { place } }, &metadata);
                    Ok(())
                }
                Err(reason) => self.found.unfit(path, &format!("it is a link that {reason}"), ""),
            };
        }
        let kind = special(metadata.file_type()).unwrap_or("neither a file nor a directory");
        self.found.unfit(path, &format!("it is {kind}, which no torrent can hold"), "")
    }

    /// A regular file, which must be readable.
    fn file(&mut self, path: String, metadata: &Metadata) -> Result<()> {
        if let Err(error) = rustix::fs::access(self.found.root.place(&path), Access::READ_OK) {
            return self.unreadable(Path::new(&path), &error.into());
        }
        let executable = metadata.permissions().mode() & EXECUTABLE != 0;
        self.push(Entry { path, kind: Kind::File { length: metadata.len(), executable } }, metadata);
        Ok(())
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) -> Result<()> {
        self.found.unfit(path, &format!("cannot be read: {error}"), "make it readable, or ")
    }

    fn push(&mut self, entry: Entry, metadata: &Metadata) {
        self.found.entries.push(entry);
        self.found.modified.push(time(metadata));
    }
}

fn time(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

/// The name of what is neither a file, nor a directory, nor a link.
fn special(kind: FileType) -> Option<&'static str> {
    match kind {
        _ if kind.is_fifo() => Some("a FIFO"),
        _ if kind.is_socket() => Some("a socket"),
        _ if kind.is_block_device() => Some("a block device"),
        _ if kind.is_char_device() => Some("a character device"),
        _ => None,
    }
}

/// Where a link leads, as a path below `root`, or why it cannot be in a torrent. A link to a link leads to the latter,
/// which is a matter of its own.
fn link_place(root: &Path, link: &Path) -> Result<String, String> {
    let text = fs::read_link(link).map_err(|error| format!("cannot be read ({error})"))?;
    let shown = super::shown(&text);
    let target = link.parent().unwrap_or(root).join(&text);
    let real = |path: &Path| {
        fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("leads to nothing ({shown})"),
            _ => format!("cannot be followed ({shown}: {error})"),
        })
    };
    let end = real(&target)?;
    let place = match target.file_name().zip(target.parent()) {
        Some((name, parent)) => real(parent)?.join(name),
        None => end.clone(), // it ends in `..`
    };
    match place.strip_prefix(root) {
        Ok(place) if end.starts_with(root) => match place.to_str() {
            Some("") => Err(format!("leads to the torrent's own directory ({shown}), which no torrent can say")),
            Some(place) => Ok(place.to_owned()),
            None => Err(format!("leads to a name that is not UTF-8 ({shown})")),
        },
        _ => Err(format!("leads out of the torrent ({shown})")),
    }
}
