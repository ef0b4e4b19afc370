//! Torrents made from files (BEP 3, 12, 19, 27, 47). [`create`] walks over the files in the order of their path
//! components, makes the .torrent once without hashes and reads it back, so that what a parser would refuse or change is
//! refused before anything is hashed; then every core hashes, the files are looked at again, and the .torrent is made
//! with its hashes. It has no date: the same files and options give the same bytes.
//!
//! Files are taken with their executable bit, links that stay inside with where they lead to; empty directories have no
//! place in a torrent and are left out. Programs that do not know links (BEP 47) see an empty file in place of each; aria2
//! that checks an existing copy even empties the files that its links lead to.

mod encode;
mod exclude;
mod options;
mod walk;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use encode::{Content, Entry, Kind};
use walk::{Found, Root};

pub(crate) use exclude::check as exclude;
pub use options::Options;
pub(crate) use options::{piece_length, tracker, web_seed};

use crate::cache::DataDir;
use crate::error::{Error, Result};
use crate::metainfo::bencode::BencodeError;
use crate::metainfo::{BLOCK_LENGTH, File, FileKind, Geometry, GeometryError, Metainfo, MetainfoError, link_text};

/// The most pieces that a piece length is chosen for, while it is below [`LARGEST_CHOSEN`]: few enough for a small
/// .torrent, enough for the first bytes of a file to be there soon.
const MOST_PIECES: u64 = 2_048;
/// The largest piece length that is chosen, bytes: larger pieces take long until they can be checked and passed on.
const LARGEST_CHOSEN: u64 = 16 << 20;

/// Makes the torrent of the file or directory at `path`, a link to one being followed: the bytes of a .torrent file,
/// which [`Metainfo::parse`] takes. It blocks, for as long as the files take to be read. `begun` gets the bytes that are
/// to be hashed; `progress` gets the bytes that were hashed since its last call, from any thread. Once `stop` is true it
/// ends within a moment.
///
/// # Errors
/// [`Error::Create`], which names the file or option that no torrent can hold: what cannot be read or changes
/// meanwhile, links that lead outside or nowhere, devices, FIFOs and sockets, names that are not UTF-8, sizes beyond the
/// limits. [`Error::Stopped`] if `stop` was set.
pub fn create(
    path: &Path,
    options: &Options,
    begun: &dyn Fn(u64),
    progress: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> Result<Vec<u8>> {
    options.check()?;
    let mut found = Found::walk(Root::find(path)?, options, stop)?;
    let (geometry, meta) = loop {
        let geometry = geometry(&found, options.piece_length)?;
        let no_hashes = vec![0; geometry.pieces() as usize * 20];
        let (meta, _) = made(&found, &geometry, &no_hashes, options)?;
        let differences = differences(found.content(), &meta);
        if differences.is_empty() {
            break (geometry, meta);
        }
        for (at, (reason, otherwise)) in &differences {
            found.unfit(found.entries[*at].path.clone(), reason, otherwise)?;
        }
        found.leave_out(&differences.into_iter().map(|(at, _)| at).collect::<BTreeSet<_>>());
    };
    found.say_unfit();
    begun(geometry.total());
    let hashes = hash(&found, &meta, progress, stop)?;
    made(&found, &geometry, &hashes, options).map(|(_, bytes)| bytes)
}

/// The name of the torrent that [`create`] makes of `path`.
///
/// # Errors
/// [`Error::Create`] if no torrent can be made of it.
pub fn name(path: &Path) -> Result<String> {
    Root::find(path).map(|root| root.name)
}

/// The hash of every piece of what the walk found.
fn hash(found: &Found, meta: &Metainfo, progress: &(dyn Fn(u64) + Sync), stop: &AtomicBool) -> Result<Vec<u8>> {
    let root = &found.root;
    let copy = if root.single_file {
        let name = root.path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| root.refused("", "the name it leads to is not UTF-8; rename that file"))?;
        DataDir::at(meta, root.path.parent().unwrap_or(&root.path), Some(name))
    } else {
        DataDir::at(meta, &root.path, None)
    };
    let copy = copy.map_err(|error| root.refused("", format!("cannot be opened: {error}")))?;
    let hashes = copy.hash(&meta.geometry, progress, stop);
    if matches!(hashes, Ok(None)) {
        return Err(Error::Stopped);
    }
    // Whatever went wrong with a file that changed, that it changed is the reason.
    found.unchanged()?;
    match hashes {
        Ok(hashes) => hashes.ok_or(Error::Stopped),
        Err((file, reason)) => Err(root.refused(file, format!("cannot be read: {reason}"))),
    }
}

/// How the files fall into pieces.
fn geometry(found: &Found, piece_length: Option<u32>) -> Result<Geometry> {
    // Too large a sum is as good as any other.
    let total = found.entries.iter().map(Entry::length).fold(0, u64::saturating_add);
    let length = piece_length.map_or_else(|| chosen_piece_length(total), u64::from);
    Geometry::new(total, length).map_err(|error| {
        found.root.refused(
            "",
            match error {
                GeometryError::Total(0) if found.entries.is_empty() => "no file is in it".into(),
                GeometryError::Total(0) => {
                    "nothing but empty files is in it, and a torrent needs at least a byte".into()
                }
                GeometryError::Pieces(pieces) => {
                    format!(
                        "{pieces} pieces are more than the {} that a torrent can have; \
                         choose a larger --piece-length, or leave it out",
                        Geometry::MAX_PIECES
                    )
                }
                error => error.to_string(),
            },
        )
    })
}

/// A power of two from 16 KiB on that makes some 1,000 to 2,000 pieces; beyond 32 GiB it stays at 16 MiB, until even that
/// makes more pieces than a torrent can have.
fn chosen_piece_length(total: u64) -> u64 {
    let for_pieces = |most: u64| total.div_ceil(most).max(1).checked_next_power_of_two().unwrap_or(u64::MAX);
    for_pieces(MOST_PIECES).clamp(BLOCK_LENGTH.into(), LARGEST_CHOSEN).max(for_pieces(Geometry::MAX_PIECES.into()))
}

/// The .torrent with these hashes, and how it reads back.
///
/// # Errors
/// What a parser would refuse or take for something else, by its name.
fn made(found: &Found, geometry: &Geometry, hashes: &[u8], options: &Options) -> Result<(Metainfo, Vec<u8>)> {
    let content = found.content();
    let refuse = |reason: String| found.root.refused("", reason);
    let bytes = encode::encode(content, geometry.nominal_piece_length(), hashes, options)
        .map_err(|error| refuse(format!("cannot be put into a .torrent: {error}")))?;
    let meta = Metainfo::parse(&bytes).map_err(|error| match error {
        MetainfoError::TooLarge => {
            refuse("the .torrent would be over 64 MiB; make several torrents, or choose a larger --piece-length".into())
        }
        MetainfoError::Bencode(BencodeError::Items(_)) => {
            refuse(format!("{} files are too many for one torrent; make several", content.entries.len()))
        }
        error => refuse(format!("no torrent can be made of it: {error}")),
    })?;
    let addresses =
        meta.trackers.concat() == options.trackers() && meta.web_seeds == options.web_seeds(meta.single_file);
    if !addresses || meta.name != content.name {
        return Err(refuse("it has more trackers or web seeds, or a longer name, than a torrent can have".into()));
    }
    Ok((meta, bytes))
}

/// The entries that would come back as something else: where they are, what to say of each, and what can be done instead
/// of leaving it out.
fn differences(content: Content<'_>, meta: &Metainfo) -> Vec<(usize, (String, &'static str))> {
    let different = |(at, entry): (usize, &Entry)| {
        let back = meta.files.get(at);
        let reason = match (&entry.kind, back.map(|file| &file.kind)) {
            _ if back.is_some_and(|file| same(entry, file)) => return None,
            (Kind::File { .. }, Some(FileKind::Pad)) => {
                ("programs take files of this name for padding and do not show them".to_owned(), "rename it, or ")
            }
            (Kind::Link { place }, _) => {
                (format!("it is a link to {}, which is not in the torrent", shown(Path::new(place))), "")
            }
            _ => ("its name is longer than the 255 bytes that a torrent can have".to_owned(), "rename it, or "),
        };
        Some((at, reason))
    };
    content.entries.iter().enumerate().filter_map(different).collect()
}

/// True if an entry comes back from the .torrent as it went in.
fn same(entry: &Entry, back: &File) -> bool {
    let kind = match &entry.kind {
        Kind::File { executable, .. } => FileKind::Regular { executable: *executable },
        Kind::Link { place } => {
            let directory = entry.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            FileKind::Symlink { target: link_text(directory, place).into() }
        }
    };
    *back.path == entry.path && back.length == entry.length() && back.kind == kind
}

/// A refusal of what is at `path`.
fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::Create { what: shown(path), reason: reason.into() }
}

/// A path as a terminal may have it: what is not UTF-8, or could drive the terminal, becomes an escape.
fn shown(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => text.push(c),
                _ => text.extend(c.escape_debug()),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_lengths_follow_the_size() {
        const KIB: u64 = 1 << 10;
        const GIB: u64 = 1 << 30;
        for (total, length) in [
            (0, 16 * KIB),
            (1, 16 * KIB),
            (32 << 20, 16 * KIB),
            ((32 << 20) + 1, 32 * KIB),
            (GIB, 512 * KIB),
            (32 * GIB, 16 << 20),
            (1_000 * GIB, 16 << 20),
            (32 << 40, 16 << 20),
            ((32 << 40) + 1, 32 << 20),
            (Geometry::MAX_TOTAL, 128 << 20),
        ] {
            assert_eq!(chosen_piece_length(total), length, "{total}");
            assert!(total == 0 || Geometry::new(total, length).is_ok(), "{total}");
        }
        assert!(chosen_piece_length(u64::MAX) > 0);
    }

    #[test]
    fn paths_cannot_drive_a_terminal() {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::OsStr::from_bytes(b"it's caf\xe9 \xc3\xa9\x1b[2J\n");
        assert_eq!(shown(Path::new(path)), "it's caf\\xe9 \u{e9}\\u{1b}[2J\\n");
    }
}
