//! Where a torrent's bytes lie on a web seed (BEP 19): which ranges of which files a run of torrent bytes is made of, and
//! the URL of a file. Servers hold the files under the names that the torrent gives, not under those that were made safe
//! for us.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::bencode::{Limits, Node};
use super::entry::{Entry, pick};
use super::{FileKind, Metainfo, percent};

/// A part of a run of torrent bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebPart {
    /// So many zeros: padding (BEP 47), which no server has.
    Zeros(u64),
    /// Bytes of a file.
    File {
        /// Its place in [`Metainfo::files`].
        file: usize,
        /// The bytes, counted from its start.
        range: Range<u64>,
    },
}

/// The files of a torrent as web seeds have them.
#[derive(Clone, Debug)]
pub struct WebFiles {
    meta: Arc<Metainfo>,
    /// The torrent's own name, encoded; none if it is what the safe one encodes to.
    name: Option<String>,
    /// Paths, encoded, that differ from what the safe ones encode to.
    paths: BTreeMap<usize, String>,
}

impl WebFiles {
    /// Reads the names as the torrent gives them.
    #[must_use]
    pub fn new(meta: Arc<Metainfo>) -> Self {
        let (name, paths) = raw_names(&meta).unwrap_or_default();
        Self { meta, name, paths }
    }

    /// What a run of torrent bytes is made of, in order. Empty files have no part in it.
    pub fn parts(&self, bytes: Range<u64>) -> impl Iterator<Item = WebPart> + '_ {
        let files = &self.meta.files;
        let first = files.partition_point(|file| file.bytes().end <= bytes.start);
        let rest = files.iter().enumerate().skip(first).take_while(move |(_, file)| file.offset < bytes.end);
        rest.filter_map(move |(at, file)| {
            let (start, end) = (file.offset.max(bytes.start), file.bytes().end.min(bytes.end));
            (start < end).then(|| match file.kind {
                FileKind::Pad => WebPart::Zeros(end - start),
                _ => WebPart::File { file: at, range: start - file.offset..end - file.offset },
            })
        })
    }

    /// The URL of a file on this web seed. A seed's URL that ends in a slash is the directory that holds the torrent;
    /// another one is the only file itself. `None` if there is no such file.
    #[must_use]
    pub fn url(&self, seed: &str, file: usize) -> Option<String> {
        let seed = seed.split_once('#').map_or(seed, |(url, _)| url);
        let entry = self.meta.files.get(file)?;
        if self.meta.files.len() == 1 && !seed.ends_with('/') {
            return Some(seed.to_owned());
        }
        let name = self.name.as_deref().map_or_else(|| encode(self.meta.name.as_bytes()).into(), Cow::Borrowed);
        if self.meta.single_file {
            return Some(format!("{seed}{name}"));
        }
        let path = match self.paths.get(&file) {
            Some(path) => path.as_str().into(),
            None => Cow::Owned(join(entry.path.split('/').map(str::as_bytes))),
        };
        Some(format!("{seed}{name}/{path}"))
    }

    /// The torrent.
    #[must_use]
    pub fn meta(&self) -> &Metainfo {
        &self.meta
    }
}

/// A path component as a URL has it: all but unreserved characters (RFC 3986) percent-encoded.
fn encode(raw: &[u8]) -> String {
    percent::encode(raw, percent::unreserved)
}

/// Components as the path of a URL. What has no meaning in a path is left out, and what would lead out of it is `_`, as in
/// the safe names: no URL can name it.
fn join<'a>(components: impl Iterator<Item = &'a [u8]>) -> String {
    let named = components.filter(|name| !matches!(*name, b"" | b"."));
    let encoded: Vec<String> = named.map(|name| encode(if name == b".." { b"_" } else { name })).collect();
    encoded.join("/")
}

/// The torrent's name and the paths of its files, where they differ from the safe ones.
fn raw_names(meta: &Metainfo) -> Option<(Option<String>, BTreeMap<usize, String>)> {
    let info = Node::checked(&meta.info, Limits::METAINFO).ok()?;
    let ([name, name_utf8, list], _) = pick(info, ["name", "name.utf-8", "files"])?;
    let name_utf8 = name_utf8.and_then(Node::bytes).filter(|name| str::from_utf8(name).is_ok());
    let name = name_utf8.or_else(|| name.and_then(Node::bytes))?;
    let name =
        Some(join(std::iter::once(name))).filter(|name| !name.is_empty() && *name != encode(meta.name.as_bytes()));
    let mut paths = BTreeMap::new();
    for (at, (node, file)) in list.and_then(Node::items).into_iter().flatten().zip(&meta.files).enumerate() {
        let Ok(entry) = Entry::read(node, at + 1) else { continue };
        let path = join(entry.path.into_iter());
        if file.kind != FileKind::Pad && !path.is_empty() && path != join(file.path.split('/').map(str::as_bytes)) {
            paths.insert(at, path);
        }
    }
    Some((name, paths))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn torrent(name: &[u8], files: &[(&[&[u8]], u64, &str)]) -> WebFiles {
        let string = |bytes: &[u8]| [format!("{}:", bytes.len()).as_bytes(), bytes].concat();
        let mut info = b"d5:filesl".to_vec();
        let mut total = 0;
        for (path, length, attr) in files {
            info.extend(b"d");
            if !attr.is_empty() {
                info.extend([b"4:attr".to_vec(), string(attr.as_bytes())].concat());
            }
            info.extend(format!("6:lengthi{length}e4:pathl").bytes());
            path.iter().for_each(|name| info.extend(string(name)));
            info.extend(b"ee");
            total += length;
        }
        info.extend([b"e4:name".to_vec(), string(name)].concat());
        info.extend(b"12:piece lengthi16384e6:pieces");
        info.extend(string(&vec![0; usize::try_from(total.div_ceil(16_384)).unwrap() * 20]));
        info.extend(b"e");
        WebFiles::new(Arc::new(Metainfo::parse_info(&info).unwrap()))
    }

    #[test]
    fn urls_have_the_torrents_own_names() {
        let files = torrent(
            "Caf\u{e9} 100%".as_bytes(),
            &[
                (&[b"a b#c?.txt"], 5, ""),
                (&[b"sub", b"..", b"x+y&z"], 5, ""),
                (&[b"bad\xff", b"q/r"], 5, ""),
                (&[b"a b#c?.txt"], 5, ""),
                (&[], 5, "p"),
                (&["\u{43f}\u{440}".as_bytes()], 5, ""),
            ],
        );
        let base = "http://h/d/";
        let url = |file| files.url(base, file).unwrap();
        assert_eq!(url(0), "http://h/d/Caf%C3%A9%20100%25/a%20b%23c%3F.txt");
        assert_eq!(url(1), "http://h/d/Caf%C3%A9%20100%25/sub/_/x%2By%26z");
        assert_eq!(url(2), "http://h/d/Caf%C3%A9%20100%25/bad%FF/q%2Fr", "not the safe name");
        assert_eq!(url(3), url(0), "not the name that tells two alike apart");
        assert_eq!(url(5), "http://h/d/Caf%C3%A9%20100%25/%D0%BF%D1%80");
        assert_eq!(files.url(base, 6), None);
        assert_eq!(files.url("http://h/get?dir=", 0).unwrap(), "http://h/get?dir=Caf%C3%A9%20100%25/a%20b%23c%3F.txt");
    }

    #[test]
    fn a_single_file_is_at_the_url_or_below_it() {
        let info = b"d6:lengthi5e4:name5:a b.c12:piece lengthi16384e6:pieces20:xxxxxxxxxxxxxxxxxxxxe";
        let files = WebFiles::new(Arc::new(Metainfo::parse_info(info).unwrap()));
        let url = |seed| files.url(seed, 0).unwrap();
        assert_eq!(url("http://h/x/"), "http://h/x/a%20b.c");
        assert_eq!(url("http://h/other.bin"), "http://h/other.bin");
        assert_eq!(url("http://h/get?id=5"), "http://h/get?id=5");
        assert_eq!(url("http://h/x#y"), "http://h/x");
        assert_eq!(url("http://h/x/#y"), "http://h/x/a%20b.c");
        assert_eq!(files.parts(1..4).collect::<Vec<_>>(), [WebPart::File { file: 0, range: 1..4 }]);
    }

    proptest! {
        /// Every byte of a range is in its file, at its place, and in order.
        #[test]
        fn parts_tile_a_range(lengths in proptest::collection::vec((0..40_u64, any::<bool>()), 1..12), a: u64, b: u64) {
            prop_assume!(lengths.iter().any(|(length, _)| *length > 0));
            let names: Vec<String> = (0..lengths.len()).map(|n| format!("f{n}")).collect();
            let paths: Vec<[&[u8]; 1]> = names.iter().map(|name| [name.as_bytes()]).collect();
            let list: Vec<(&[&[u8]], u64, &str)> =
                paths.iter().zip(&lengths).map(|(p, &(l, pad))| (&p[..], l, if pad { "p" } else { "" })).collect();
            let files = torrent(b"t", &list);
            let total: u64 = lengths.iter().map(|(length, _)| length).sum();
            let start = a % total;
            let range = start..start + 1 + b % (total - start);
            let naive: Vec<(usize, u64)> =
                lengths.iter().enumerate().flat_map(|(n, &(length, _))| (0..length).map(move |at| (n, at))).collect();
            let mut at = range.start;
            for part in files.parts(range.clone()) {
                match part {
                    WebPart::Zeros(count) => {
                        for _ in 0..count {
                            prop_assert!(lengths[naive[usize::try_from(at).unwrap()].0].1);
                            at += 1;
                        }
                    }
                    WebPart::File { file, range } => {
                        prop_assert!(!lengths[file].1);
                        for place in range {
                            prop_assert_eq!(naive[usize::try_from(at).unwrap()], (file, place));
                            at += 1;
                        }
                    }
                }
            }
            prop_assert_eq!(at, range.end);
        }
    }
}
