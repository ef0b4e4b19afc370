//! One entry of a v1 torrent's `files` list (BEP 3, BEP 47), and the picking of keys from a dictionary.

use super::bencode::Node;
use super::{Geometry, MetainfoError};

/// An entry as it is written: nothing is made safe yet.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    /// The components of its path, `path.utf-8` where there is one. Padding may have none.
    pub(super) path: Vec<&'a [u8]>,
    /// Bytes it takes in the torrent. A link takes none.
    pub(super) length: u64,
    /// Alignment: attribute `p`, or the name that BitComet gave it before there were attributes.
    pub(super) pad: bool,
    /// Attribute `x`.
    pub(super) executable: bool,
    /// Attribute `l`: the target, if it says one.
    pub(super) target: Option<Option<Vec<&'a [u8]>>>,
}

impl<'a> Entry<'a> {
    /// Reads one entry. `number` counts from 1 and is for the error.
    ///
    /// # Errors
    /// [`MetainfoError::File`] if its path, length or link target is not what BEP 3 and BEP 47 say.
    pub(super) fn read(node: Node<'a>, number: usize) -> Result<Self, MetainfoError> {
        let bad = |what| MetainfoError::File(number, what);
        let ([path, utf8, length, attr, target], twice) =
            pick(node, ["path", "path.utf-8", "length", "attr", "symlink path"])
                .ok_or_else(|| bad("is no dictionary"))?;
        if let Some(key) = twice {
            return Err(MetainfoError::Duplicate(key));
        }
        let attr = attr.and_then(Node::bytes).unwrap_or_default();
        let path = match utf8.and_then(strings).filter(|path| path.iter().all(|name| str::from_utf8(name).is_ok())) {
            Some(path) => path,
            None => {
                path.map_or(Some(Vec::new()), strings).ok_or_else(|| bad("has a path that is no list of strings"))?
            }
        };
        let pad = attr.contains(&b'p') || path.last().is_some_and(|name| name.starts_with(b"_____padding_file"));
        if path.is_empty() && !pad {
            return Err(bad("has no path"));
        }
        let link = attr.contains(&b'l') && !pad;
        let target = match target {
            _ if !link => None,
            None => Some(None),
            Some(node) => Some(Some(strings(node).ok_or_else(|| bad("has a link target that is no list of strings"))?)),
        };
        let length = if link { 0 } else { length.and_then(size).ok_or_else(|| bad("has no valid length"))? };
        Ok(Self { path, length, pad, executable: attr.contains(&b'x'), target })
    }

    /// The one entry that a single-file torrent amounts to.
    pub(super) fn single(name: &'a [u8], length: u64) -> Self {
        Self { path: vec![name], length, pad: false, executable: false, target: None }
    }

    /// True for a symbolic link.
    pub(super) fn link(&self) -> bool {
        self.target.is_some()
    }
}

/// A length in bytes: at most 2^48 - 1.
pub(super) fn size(node: Node<'_>) -> Option<u64> {
    u64::try_from(node.int()?).ok().filter(|&size| size <= Geometry::MAX_TOTAL)
}

/// A list of strings, whole or not at all.
fn strings(node: Node<'_>) -> Option<Vec<&[u8]>> {
    node.items()?.map(Node::bytes).collect()
}

/// The values of these keys in a dictionary, the first of each, and one of the keys that is there twice. `None` if the
/// node is no dictionary.
pub(super) fn pick<'a, const N: usize>(
    dictionary: Node<'a>,
    keys: [&'static str; N],
) -> Option<([Option<Node<'a>>; N], Option<&'static str>)> {
    let mut picked = [None; N];
    let mut twice = None;
    for (key, node) in dictionary.entries()? {
        if let Some(at) = keys.iter().position(|name| name.as_bytes() == key) {
            if picked[at].is_some() {
                twice = Some(keys[at]);
            } else {
                picked[at] = Some(node);
            }
        }
    }
    Some((picked, twice))
}
