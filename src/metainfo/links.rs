//! Symbolic links (BEP 47): shown if they lead to something inside the torrent, else hidden.
//!
//! A target is stated from the torrent's root; some makers state it from the link's own directory, so that is tried
//! second. What is shown is a relative text that goes up no further than the torrent's root and then down: every link
//! being of this form, no chain of them leads out.

use std::collections::BTreeMap;

use super::names::{self, Index};
use super::{File, FileKind};

/// Links followed one after the other, as in Linux.
const MAX_HOPS: usize = 40;
/// Work done over all links of a torrent, bytes of path and [`STEP`] for each component: keeps long chains of many links
/// from costing seconds. Room for over a million components.
const MAX_WORK: usize = 128 << 20;
/// The work of one component beside its bytes.
const STEP: usize = 64;
/// The longest text of a link, bytes: what readlink can give.
const MAX_TEXT: usize = 4095;

/// A link as the metainfo states it.
pub(super) struct Link<'a> {
    /// Its index among the files.
    pub(super) file: usize,
    /// The components of its target.
    pub(super) target: Vec<&'a [u8]>,
}

/// Makes each of the links a [`FileKind::Symlink`] or [`FileKind::Hidden`]. The files' paths are settled.
pub(super) fn resolve(files: &mut [File], links: &[Link<'_>]) {
    if links.is_empty() {
        return;
    }
    let index = Index::new(files);
    let exists = |place: &str| index.exists(files, place);
    // First what each link most likely means, so that others can be followed through it.
    let meanings: Vec<Vec<String>> = links
        .iter()
        .map(|link| {
            let directory = directory(&files[link.file].path);
            let mut places: Vec<String> =
                ["", directory].into_iter().filter_map(|from| place(from, &link.target)).collect();
            places.dedup();
            places.sort_by_key(|place| !exists(place));
            places
        })
        .collect();
    let first: BTreeMap<&str, Option<&str>> = links
        .iter()
        .zip(&meanings)
        .map(|(link, places)| (&*files[link.file].path, places.first().map(String::as_str)))
        .collect();
    let mut work = 0;
    let kinds: Vec<FileKind> = links
        .iter()
        .zip(&meanings)
        .map(|(link, places)| {
            let place = places.iter().find(|place| leads_somewhere(place, &first, &exists, &mut work));
            let text = place.map(|place| text(directory(&files[link.file].path), place));
            text.filter(|text| text.len() <= MAX_TEXT)
                .map_or(FileKind::Hidden, |text| FileKind::Symlink { target: text.into() })
        })
        .collect();
    for (link, kind) in links.iter().zip(kinds) {
        files[link.file].kind = kind;
    }
}

/// The directory that a path is in; the torrent's own is the empty path.
fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The components of a path.
fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// Goes from a directory to what `name` names in it.
fn enter(directory: &mut String, name: &str) {
    if !directory.is_empty() {
        directory.push('/');
    }
    directory.push_str(name);
}

/// Where a target leads from a directory; `None` if it is too long or goes up past the torrent's root.
fn place(from: &str, target: &[&[u8]]) -> Option<String> {
    let mut at = from.to_owned();
    for raw in target {
        if *raw == b".." {
            if at.is_empty() {
                return None;
            }
            at.truncate(directory(&at).len());
        } else if let Some(name) = names::component(raw) {
            enter(&mut at, &name);
        }
    }
    (components(&at).count() <= names::MAX_DEPTH).then_some(at)
}

/// True if a place is there, other links being followed. `links` has what each means, or nothing if it leads out.
fn leads_somewhere(
    place: &str,
    links: &BTreeMap<&str, Option<&str>>,
    exists: &impl Fn(&str) -> bool,
    work: &mut usize,
) -> bool {
    let mut ahead: Vec<&str> = components(place).rev().collect();
    let mut at = String::new();
    let mut hops = 0;
    while let Some(name) = ahead.pop() {
        enter(&mut at, name);
        if let Some(target) = links.get(at.as_str()) {
            hops += 1;
            let Some(target) = target.filter(|_| hops <= MAX_HOPS) else { return false };
            at.clear();
            ahead.extend(components(target).rev());
        }
        *work += STEP + at.len();
        if *work > MAX_WORK {
            return false;
        }
    }
    exists(&at)
}

/// The text of a link in `directory` that leads to `place`.
pub(crate) fn text(directory: &str, place: &str) -> String {
    let common = components(directory).zip(components(place)).take_while(|(a, b)| a == b).count();
    let up = components(directory).skip(common).map(|_| "..");
    let text: Vec<&str> = up.chain(components(place).skip(common)).collect();
    if text.is_empty() { ".".to_owned() } else { text.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `files` as paths, links as (path, target with `/` between components): the texts shown.
    fn shown(files: &[&str], links: &[(&str, &str)]) -> Vec<Option<String>> {
        let new = |path: &str, kind| File { path: path.into(), offset: 0, length: 0, kind };
        let mut all: Vec<File> = files.iter().map(|path| new(path, FileKind::Regular { executable: false })).collect();
        all.extend(links.iter().map(|(path, _)| new(path, FileKind::Hidden)));
        let stated: Vec<Link<'_>> = links
            .iter()
            .enumerate()
            .map(|(at, (_, target))| Link {
                file: files.len() + at,
                target: target.split('/').map(str::as_bytes).collect(),
            })
            .collect();
        resolve(&mut all, &stated);
        all[files.len()..]
            .iter()
            .map(|file| match &file.kind {
                FileKind::Symlink { target } => Some(target.to_string()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn targets_are_relative_texts() {
        assert_eq!(shown(&["a/b/bar"], &[("a/b/foo", "a/b/bar")]), [Some("bar".into())]);
        assert_eq!(shown(&["a/b/bar"], &[("x/y/foo", "a/b")]), [Some("../../a/b".into())]);
        assert_eq!(shown(&["a/b/bar"], &[("a/up", "..")]), [Some("..".into())]);
        // From the link's own directory, if that is what is there.
        assert_eq!(shown(&["V/A/x"], &[("V/Current", "A")]), [Some("A".into())]);
    }

    #[test]
    fn links_lead_through_links() {
        let links = [("Headers", "V/Current/H"), ("V/Current", "A")];
        assert_eq!(shown(&["V/A/H/x.h"], &links), [Some("V/Current/H".into()), Some("A".into())]);
    }

    #[test]
    fn what_leads_out_or_nowhere_is_hidden() {
        for target in ["../..", "../../etc/passwd", "missing", "d/../../x", "d/f/g", "/etc"] {
            assert_eq!(shown(&["d/f"], &[("d/link", target)]), [None], "{target}");
        }
        assert_eq!(shown(&["f"], &[("a", "b"), ("b", "a"), ("c", "c")]), [None, None, None]);
        // A link to a link that leads out.
        assert_eq!(shown(&["f"], &[("out", "../x"), ("to", "out")]), [None, None]);
    }

    proptest::proptest! {
        /// Whatever is shown, followed as a kernel would, stays inside.
        #[test]
        fn nothing_escapes(targets in proptest::collection::vec("(\\.\\.|a|b|\\.|c/d|l[0-5])(/(\\.\\.|a|l[0-5])){0,4}", 6)) {
            let names = ["l0", "l1", "a/l2", "a/l3", "a/b/l4", "a/b/l5"];
            let links: Vec<(&str, &str)> = names.iter().copied().zip(targets.iter().map(String::as_str)).collect();
            let shown = shown(&["a/b/x", "b", "c/d/y"], &links);
            let texts: BTreeMap<&str, &str> =
                names.iter().zip(&shown).filter_map(|(name, text)| Some((*name, text.as_deref()?))).collect();
            for (name, text) in &texts {
                let mut at: Vec<String> = components(directory(name)).map(str::to_owned).collect();
                let mut ahead: Vec<&str> = text.split('/').rev().collect();
                for _ in 0..10_000 {
                    match ahead.pop() {
                        None => break,
                        Some("." | "") => {}
                        Some("..") => proptest::prop_assert!(at.pop().is_some(), "{name} -> {text} escapes"),
                        Some(next) => {
                            at.push(next.to_owned());
                            if let Some(text) = texts.get(at.join("/").as_str()) {
                                at.pop();
                                ahead.extend(text.split('/').rev());
                            }
                        }
                    }
                }
                proptest::prop_assert!(ahead.is_empty());
            }
        }
    }
}
