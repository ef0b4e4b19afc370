//! Names made safe. Whatever a torrent calls its files, each gets a path of its own that stays below the torrent's
//! directory: components are cleaned one by one, and where two files, or a file and a directory, end up with one name,
//! the later file (or the file) becomes `x.1`. The info-hash is taken over the raw bytes and does not change.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::{File, FileKind, MetainfoError};

/// The longest path component, bytes: what Linux file systems take.
const MAX_COMPONENT: usize = 255;
/// The longest extension that survives when a component is cut, bytes with its dot.
const MAX_EXTENSION: usize = 32;
/// The most files that may share one name.
const MAX_CLASHES: u32 = 500;
/// The deepest path, components.
pub(crate) const MAX_DEPTH: usize = 100;

/// One component made safe; `None` if nothing is left of it (empty or `.`).
///
/// `..` becomes `_`, as do `/` and NUL inside a name; bytes that are no UTF-8 become U+FFFD; what is longer than 255
/// bytes is cut before its extension.
pub(super) fn component(raw: &[u8]) -> Option<String> {
    match raw {
        b"" | b"." => return None,
        b".." => return Some("_".to_owned()),
        _ => {}
    }
    let name = String::from_utf8_lossy(raw).replace(['/', '\0'], "_");
    if name.len() <= MAX_COMPONENT {
        return Some(name);
    }
    let (stem, extension) = split_extension(&name);
    Some(format!("{}{extension}", cut(stem, MAX_COMPONENT - extension.len())))
}

/// The path of these components, `/` between them; `_` if nothing is left of any.
///
/// # Errors
/// [`MetainfoError::Depth`] past 100 components.
pub(super) fn path<'a>(raw: impl Iterator<Item = &'a [u8]>) -> Result<String, MetainfoError> {
    let mut path = String::new();
    for (depth, name) in raw.filter_map(component).enumerate() {
        if depth == MAX_DEPTH {
            return Err(MetainfoError::Depth);
        }
        if depth > 0 {
            path.push('/');
        }
        path.push_str(&name);
    }
    if path.is_empty() {
        path.push('_');
    }
    Ok(path)
}

/// At most `room` bytes of the start, whole characters.
fn cut(name: &str, room: usize) -> &str {
    let end = (0..=room.min(name.len())).rev().find(|&end| name.is_char_boundary(end));
    &name[..end.unwrap_or(0)]
}

/// A name as what stands before its extension, and the extension with its dot (or nothing).
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= MAX_EXTENSION => name.split_at(dot),
        _ => (name, ""),
    }
}

/// Orders paths so that what lies in a directory follows it at once: `/` sorts before every other byte.
fn by_path(a: &str, b: &str) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.bytes().zip(b.bytes()).find(|(x, y)| x != y) {
        Some((x, y)) => key(x).cmp(&key(y)),
        None => a.len().cmp(&b.len()),
    }
}

/// True if `path` lies in the directory `directory`.
fn is_below(directory: &str, path: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// The files that have a name (all but padding), found by path: 4 bytes a file.
pub(super) struct Index(Vec<u32>);

impl Index {
    pub(super) fn new(files: &[File]) -> Self {
        let named = (0_u32..).zip(files).filter(|(_, file)| file.kind != FileKind::Pad);
        let mut order: Vec<u32> = named.map(|(at, _)| at).collect();
        // Stable: of equal paths, the first in the torrent comes first. Fast on sorted runs, which torrents are.
        order.sort_by(|&a, &b| by_path(&files[a as usize].path, &files[b as usize].path));
        Self(order)
    }

    /// True if a file or a directory has this path. The torrent's own directory is the empty path.
    pub(super) fn exists(&self, files: &[File], path: &str) -> bool {
        let at = self.0.partition_point(|&f| by_path(&files[f as usize].path, path) == Ordering::Less);
        let found = self.0.get(at).map(|&f| &*files[f as usize].path);
        path.is_empty() || found.is_some_and(|found| found == path || is_below(path, found))
    }
}

/// Gives every file that has a name a path of its own.
///
/// # Errors
/// [`MetainfoError::Clashes`] if over 500 files share one name.
pub(super) fn settle(files: &mut [File]) -> Result<(), MetainfoError> {
    let index = Index::new(files);
    let mut renames = Renames::default();
    let mut renamed = Vec::new();
    let mut rest = &index.0[..];
    while let Some(&first) = rest.first() {
        let path = &*files[first as usize].path;
        let same = rest.iter().take_while(|&&f| &*files[f as usize].path == path).count();
        let (group, after) = rest.split_at(same);
        // A directory wins against files of its name; else the first file does.
        let directory = after.first().is_some_and(|&f| is_below(path, &files[f as usize].path));
        for &file in &group[usize::from(!directory)..] {
            renamed.push((file, renames.free(path, |path| index.exists(files, path))?));
        }
        rest = after;
    }
    for (file, path) in renamed {
        files[file as usize].path = path;
    }
    Ok(())
}

/// The names given to files that had to move.
#[derive(Default)]
struct Renames {
    given: BTreeSet<Box<str>>,
    /// The last number tried for a stem and an extension, so that each number is tried once.
    numbers: BTreeMap<(String, String), u32>,
}

impl Renames {
    /// `dir/x.1.ext`, or the next number that nobody has.
    fn free(&mut self, path: &str, exists: impl Fn(&str) -> bool) -> Result<Box<str>, MetainfoError> {
        let (directory, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        let (stem, extension) = split_extension(name);
        let stem = cut(stem, MAX_COMPONENT - extension.len() - ".500".len());
        let number = self.numbers.entry((format!("{directory}{stem}"), extension.to_owned())).or_insert(0);
        while *number < MAX_CLASHES {
            *number += 1;
            let free = format!("{directory}{stem}.{number}{extension}").into_boxed_str();
            if !exists(&free) && self.given.insert(free.clone()) {
                return Ok(free);
            }
        }
        Err(MetainfoError::Clashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(paths: &[&str]) -> Result<Vec<String>, MetainfoError> {
        let regular = FileKind::Regular { executable: false };
        let mut files: Vec<File> =
            paths.iter().map(|&path| File { path: path.into(), offset: 0, length: 0, kind: regular.clone() }).collect();
        settle(&mut files)?;
        Ok(files.into_iter().map(|file| file.path.into()).collect())
    }

    #[test]
    fn components_are_made_safe() {
        let safe = |raw: &[u8]| component(raw);
        assert_eq!(safe(b""), None);
        assert_eq!(safe(b"."), None);
        assert_eq!(safe(b"..").as_deref(), Some("_"));
        assert_eq!(safe(b"...").as_deref(), Some("..."));
        assert_eq!(safe(b"a/../b\0c").as_deref(), Some("a_.._b_c"));
        assert_eq!(safe(b"file\x80.foo").as_deref(), Some("file\u{fffd}.foo"));
        assert_eq!(safe(b"foobar ").as_deref(), Some("foobar "));
    }

    #[test]
    fn long_components_keep_their_extension() {
        let name = component(format!("{}.flac", "\u{e4}".repeat(200)).as_bytes()).unwrap();
        assert_eq!((name.len(), name.ends_with("\u{e4}.flac")), (255, true));
        assert_eq!(component("x".repeat(300).as_bytes()).unwrap().len(), 255);
        // Bad UTF-8 grows before it is cut.
        assert!(component(&[0xff; 200]).unwrap().len() <= 255);
    }

    #[test]
    fn paths_are_never_empty_and_not_too_deep() {
        let of = |raw: &[&[u8]]| path(raw.iter().copied());
        assert_eq!(of(&[b"a", b"", b".", b"b"]).unwrap(), "a/b");
        assert_eq!(of(&[b"", b""]).unwrap(), "_");
        assert_eq!(of(&[]).unwrap(), "_");
        assert_eq!(of(&[b"..", b"..", b"bar"]).unwrap(), "_/_/bar");
        assert!(of(&[b"d".as_slice(); 100]).is_ok());
        assert!(matches!(of(&[b"d".as_slice(); 101]), Err(MetainfoError::Depth)));
    }

    #[test]
    fn clashes_are_renamed() {
        assert_eq!(settled(&["f/b.txt", "f/b.txt", "f/b.1.txt"]).unwrap(), ["f/b.txt", "f/b.2.txt", "f/b.1.txt"]);
        assert_eq!(settled(&["x", "x/y", "x"]).unwrap(), ["x.1", "x/y", "x.2"]);
        // `x.y` sorts between `x` and `x/..` bytewise; `x.1` is a directory.
        assert_eq!(settled(&["x", "x.y", "x/y", "x.1/z"]).unwrap(), ["x.2", "x.y", "x/y", "x.1/z"]);
        assert_eq!(settled(&[".hidden", ".hidden"]).unwrap(), [".hidden", ".hidden.1"]);
        let long = "n".repeat(255);
        assert!(settled(&[&long, &long]).unwrap().iter().all(|name| name.len() <= 255));
    }

    #[test]
    fn clashes_have_a_cap() {
        assert!(settled(&["a.txt"; 501]).is_ok());
        assert!(matches!(settled(&["a.txt"; 502]), Err(MetainfoError::Clashes)));
    }

    proptest::proptest! {
        /// Whatever the paths: no two are equal, and no file is a directory.
        #[test]
        fn settled_paths_make_a_tree(paths in proptest::collection::vec("[ab](\\.1)?(/[ab](\\.1)?){0,2}", 0..30)) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let settled = settled(&paths).unwrap();
            for (i, a) in settled.iter().enumerate() {
                for (j, b) in settled.iter().enumerate() {
                    proptest::prop_assert!(i == j || (a != b && !is_below(a, b)), "{a} {b}");
                }
            }
        }
    }
}
