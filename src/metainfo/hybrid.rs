//! Hybrid torrents (BEP 52) until v2 is built: they are used as v1, and refused if their two file lists disagree, since
//! then a v2 peer would have other files than we do. The piece layers are v2's business.

use super::MetainfoError;
use super::bencode::{Node, Tree};
use super::entry::Entry;

/// The v1 list against the `file tree`: the same paths and lengths in the same order, and every file that is not empty
/// at the start of a piece. A single-file torrent is a list of one entry whose path is the name.
///
/// # Errors
/// [`MetainfoError::Hybrid`] says in what they differ; an entry's own error if it is malformed.
pub(super) fn check<'a>(
    tree: Node<'a>,
    entries: impl Iterator<Item = Result<Entry<'a>, MetainfoError>>,
    piece_length: u32,
) -> Result<(), MetainfoError> {
    let mut leaves = Tree::new(tree).ok_or(MetainfoError::Hybrid("has a file tree that is no dictionary"))?;
    let malformed = |_| MetainfoError::Hybrid("has a malformed file tree");
    let mut offset = 0_u64;
    for entry in entries {
        let entry = entry?;
        let start = offset;
        offset = offset.saturating_add(entry.length);
        if entry.pad {
            continue;
        }
        if entry.length > 0 && !start.is_multiple_of(u64::from(piece_length)) {
            return Err(MetainfoError::Hybrid("has a v1 file that does not begin with a piece"));
        }
        let leaf =
            leaves.next_leaf().map_err(malformed)?.ok_or(MetainfoError::Hybrid("has more v1 files than v2 files"))?;
        if !entry.path.iter().eq(leaf.path) {
            return Err(MetainfoError::Hybrid("has v1 and v2 files of different names"));
        }
        let length = leaf.fields.entries().and_then(|mut fields| fields.find(|(key, _)| key == b"length"));
        let length = length.and_then(|(_, node)| node.int()).unwrap_or(0);
        if u64::try_from(length) != Ok(entry.length) && !entry.link() {
            return Err(MetainfoError::Hybrid("has v1 and v2 files of different lengths"));
        }
    }
    match leaves.next_leaf().map_err(malformed)? {
        None => Ok(()),
        Some(_) => Err(MetainfoError::Hybrid("has more v2 files than v1 files")),
    }
}
