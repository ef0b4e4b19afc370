//! A .torrent file as a validated value (BEP 3, BEP 12, BEP 19, BEP 27, BEP 47).

use std::ops::Range;
use std::sync::Arc;

use super::bencode::{BencodeError, Limits, Node, span_of};
use super::entry::{Entry, pick, size};
use super::links::{self, Link};
use super::{Geometry, GeometryError, InfoHash, InfoHashV2, PieceIndex, TorrentId, addresses, hybrid, names};

/// A validated torrent.
#[derive(Clone, Debug)]
pub struct Metainfo {
    /// Its identity.
    pub id: TorrentId,
    /// Its name made safe: one path component, never empty.
    pub name: String,
    /// True if the torrent is one file, not a directory.
    pub single_file: bool,
    /// Its sizes.
    pub geometry: Geometry,
    /// The hash of every piece.
    pub piece_hashes: PieceHashes,
    /// The raw `info` dictionary, of which `id` is the hash.
    pub info: Arc<[u8]>,
    /// Its files in torrent order.
    pub files: Vec<File>,
    /// Announce URLs in tiers (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Peers come from the trackers alone (BEP 27).
    pub private: bool,
    /// The comment.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// When it was made, seconds since 1970.
    pub creation_date: Option<i64>,
}

/// The first second of the year 10000: what lies past it was meant in milliseconds, as some makers write it.
const YEAR_10000: i64 = 253_402_300_800;

impl Metainfo {
    /// The largest .torrent file, bytes: 2,097,152 pieces are 40 MiB of hashes.
    pub const MAX_FILE: u64 = 64 << 20;

    /// Reads a v1 or hybrid .torrent file. The info-hash is over the raw bytes; names are made safe apart from it.
    ///
    /// # Errors
    /// A [`MetainfoError`], one sentence, for what is malformed, beyond the limits or not built yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        let root = Self::root(bytes)?;
        let info = match span_of(root.raw(), b"info") {
            Ok(Some(span)) => Node::inside(root, span),
            Ok(None) | Err(BencodeError::NotDictionary) => None,
            Err(_) => return Err(MetainfoError::Duplicate("info")),
        };
        let info = info.filter(|info| info.entries().is_some()).ok_or(MetainfoError::NoInfo)?;
        let keys = ["announce", "announce-list", "url-list", "comment", "comment.utf-8", "created by", "creation date"];
        let ([announce, tiers, urls, comment, comment_utf8, created_by, date], _) =
            pick(root, keys).ok_or(MetainfoError::NoInfo)?;
        let meta = Self::of(info)?;
        Ok(Self {
            web_seeds: addresses::web_seeds(urls, meta.files.len() > 1),
            trackers: addresses::trackers(announce, tiers),
            comment: comment_utf8.or(comment).and_then(text),
            created_by: created_by.and_then(text),
            creation_date: date
                .and_then(Node::int)
                .map(|date| if date < YEAR_10000 { date } else { date / 1000 })
                .filter(|date| (0..YEAR_10000).contains(date)),
            ..meta
        })
    }

    /// Reads a raw `info` dictionary by itself, as [`Metainfo::info`] has it: no trackers, no web seeds.
    ///
    /// # Errors
    /// Those of [`Metainfo::parse`].
    pub fn parse_info(bytes: &[u8]) -> Result<Self, MetainfoError> {
        let info = Self::root(bytes)?;
        if info.entries().is_none() {
            return Err(MetainfoError::NoInfo);
        }
        Self::of(info)
    }

    /// The one value of the file. A newline may follow it.
    fn root(bytes: &[u8]) -> Result<Node<'_>, MetainfoError> {
        if bytes.is_empty() {
            return Err(MetainfoError::Empty);
        }
        if u64::try_from(bytes.len()).is_ok_and(|length| length > Self::MAX_FILE) {
            return Err(MetainfoError::TooLarge);
        }
        let root = Node::checked(bytes, Limits::METAINFO)?;
        let rest = &bytes[root.raw().len()..];
        if !matches!(rest, b"" | b"\n" | b"\r\n") {
            return Err(MetainfoError::Trailing(rest.len()));
        }
        Ok(root)
    }
}

impl Metainfo {
    /// What the `info` dictionary says.
    fn of(info: Node<'_>) -> Result<Self, MetainfoError> {
        let keys = [
            "name",
            "name.utf-8",
            "piece length",
            "pieces",
            "files",
            "length",
            "attr",
            "private",
            "meta version",
            "file tree",
        ];
        let ([name, name_utf8, piece_length, pieces, list, length, attr, private, version, tree], twice) =
            pick(info, keys).ok_or(MetainfoError::NoInfo)?;
        let version = version.and_then(Node::int);
        if version.is_some_and(|version| !(1..=2).contains(&version)) {
            return Err(MetainfoError::Version);
        }
        if pieces.is_none() && (version == Some(2) || tree.is_some()) {
            return Err(MetainfoError::V2Only);
        }
        if let Some(key) = twice {
            return Err(MetainfoError::Duplicate(key));
        }
        let raw_name = name_utf8.and_then(Node::bytes).filter(|name| str::from_utf8(name).is_ok());
        let raw_name = raw_name.or_else(|| name.and_then(Node::bytes)).ok_or(MetainfoError::Missing("name"))?;
        let name = names::path([raw_name].into_iter())?;
        let piece_length = piece_length.and_then(Node::int).ok_or(MetainfoError::Missing("piece length"))?;
        let piece_length = u64::try_from(piece_length).map_err(|_| MetainfoError::Missing("piece length"))?;
        let hashes = pieces.and_then(Node::bytes).ok_or(MetainfoError::Missing("pieces"))?;

        let single_file = list.is_none();
        let files = match list {
            Some(list) => files(list)?,
            None => {
                let length = length.and_then(size).ok_or(MetainfoError::Missing("length"))?;
                let executable = attr.and_then(Node::bytes).is_some_and(|attr| attr.contains(&b'x'));
                let kind = FileKind::Regular { executable };
                vec![File { path: name.as_str().into(), offset: 0, length, kind }]
            }
        };
        let total = files.last().map_or(0, |file| file.bytes().end);
        let geometry = Geometry::new(total, piece_length)?;
        if !hashes.len().is_multiple_of(20) {
            return Err(MetainfoError::HashesLength(hashes.len()));
        }
        if u32::try_from(hashes.len() / 20) != Ok(geometry.pieces()) {
            return Err(MetainfoError::HashesCount { have: hashes.len() / 20, need: geometry.pieces() });
        }
        if let (Some(tree), Some(2)) = (tree, version) {
            let piece_length = geometry.nominal_piece_length();
            match list {
                Some(list) => hybrid::check(tree, entries(list)?, piece_length)?,
                None => hybrid::check(tree, std::iter::once(Ok(Entry::single(raw_name, total))), piece_length)?,
            }
        }
        let v2 = (version == Some(2)).then(|| InfoHashV2::of(info.raw()));
        let raw: Arc<[u8]> = info.raw().into();
        let start = hashes.as_ptr().addr() - info.raw().as_ptr().addr();
        Ok(Self {
            id: TorrentId { v1: Some(InfoHash::of(info.raw())), v2 },
            name,
            single_file,
            geometry,
            piece_hashes: PieceHashes { info: Arc::clone(&raw), at: start..start + hashes.len() },
            info: raw,
            files,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            private: private.and_then(Node::int).is_some_and(|flag| flag != 0),
            comment: None,
            created_by: None,
            creation_date: None,
        })
    }
}

/// The entries of a `files` list.
fn entries(list: Node<'_>) -> Result<impl Iterator<Item = Result<Entry<'_>, MetainfoError>>, MetainfoError> {
    let items = list.items().ok_or(MetainfoError::Missing("files"))?;
    Ok(items.zip(1..).map(|(node, number)| Entry::read(node, number)))
}

/// The files of a `files` list, with safe paths of their own.
fn files(list: Node<'_>) -> Result<Vec<File>, MetainfoError> {
    let count = list.items().ok_or(MetainfoError::Missing("files"))?.count();
    let mut files = Vec::with_capacity(count);
    let mut links = Vec::new();
    let mut offset = 0_u64;
    for entry in entries(list)? {
        let entry = entry?;
        let path = names::path(entry.path.iter().copied())?.into_boxed_str();
        let executable = entry.executable;
        let kind = match entry.target {
            _ if entry.pad => FileKind::Pad,
            None => FileKind::Regular { executable },
            Some(target) => {
                links.extend(target.map(|target| Link { file: files.len(), target }));
                FileKind::Hidden
            }
        };
        files.push(File { path, offset, length: entry.length, kind });
        // Each length is below 2^48, and there are fewer than 2^22 of them: no overflow.
        offset = offset.saturating_add(entry.length);
        if offset > Geometry::MAX_TOTAL {
            return Err(GeometryError::Total(offset).into());
        }
    }
    names::settle(&mut files)?;
    links::resolve(&mut files, &links);
    Ok(files)
}

/// A string for people.
fn text(node: Node<'_>) -> Option<String> {
    node.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// One SHA-1 per piece: a part of the `info` dictionary, which may have 40 MiB of them.
#[derive(Clone, Debug)]
pub struct PieceHashes {
    info: Arc<[u8]>,
    at: Range<usize>,
}

impl PieceHashes {
    /// The hash of a piece.
    #[must_use]
    pub fn get(&self, piece: PieceIndex) -> Option<&[u8; 20]> {
        self.info.get(self.at.clone())?.as_chunks().0.get(piece.0 as usize)
    }
}

#[cfg(test)]
impl From<Vec<u8>> for PieceHashes {
    fn from(hashes: Vec<u8>) -> Self {
        Self { at: 0..hashes.len(), info: hashes.into() }
    }
}

/// A file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its safe path, `/` between components, below the torrent's own directory; a single file's is the name.
    pub path: Box<str>,
    /// Offset of its first byte in the torrent.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: FileKind,
}

impl File {
    /// Its torrent bytes.
    #[must_use]
    pub fn bytes(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// True if it appears in the directory.
    #[must_use]
    pub fn visible(&self) -> bool {
        !matches!(self.kind, FileKind::Pad | FileKind::Hidden)
    }
}

/// What a file of a torrent is (BEP 47).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Bytes.
    Regular {
        /// The executable bit.
        executable: bool,
    },
    /// A link to another place in the torrent, as readlink gives it.
    Symlink {
        /// Relative to the link's own directory.
        target: Box<str>,
    },
    /// Alignment (BEP 47); not shown.
    Pad,
    /// Not shown: a link that would lead out of the torrent.
    Hidden,
}

/// Why a .torrent file is refused: one sentence each, to follow the file's name, with the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// No bytes.
    #[error("the file is empty; get another copy of the .torrent")]
    Empty,
    /// Over [`Metainfo::MAX_FILE`].
    #[error("over 64 MiB, which no .torrent file needs; give the .torrent, not what it describes")]
    TooLarge,
    /// No bencode, or beyond its limits.
    #[error("not a .torrent file, or a damaged one ({0}); get another copy of the .torrent")]
    Bencode(#[from] BencodeError),
    /// Bytes after the end.
    #[error("{0} bytes follow the end of the torrent, so the file is damaged; get another copy of the .torrent")]
    Trailing(usize),
    /// No `info` dictionary.
    #[error("there is no info dictionary, so it does not say what the files are; get the full .torrent")]
    NoInfo,
    /// BEP 52 without v1.
    #[error("a v2-only torrent (BEP 52), and v2 is not built yet; use a v1 or hybrid torrent of the same files")]
    V2Only,
    /// A `meta version` that is neither 1 nor 2.
    #[error("made for a metainfo version that is not known here; use a v1 or hybrid torrent of the same files")]
    Version,
    /// A key of `info` that is not there or of the wrong type.
    #[error("its info dictionary has no valid `{0}`; get another copy of the .torrent")]
    Missing(&'static str),
    /// A key twice: programs would disagree on which counts.
    #[error(
        "the key `{0}` is there twice, so programs would disagree on the content; get another copy of the .torrent"
    )]
    Duplicate(&'static str),
    /// `pieces` that are no whole hashes.
    #[error("`pieces` is {0} bytes, not a multiple of 20; get another copy of the .torrent")]
    HashesLength(usize),
    /// Too few or too many piece hashes.
    #[error("there are {have} piece hashes and the sizes need {need}; get another copy of the .torrent")]
    HashesCount {
        /// Hashes.
        have: usize,
        /// Pieces.
        need: u32,
    },
    /// An entry of `files`, counted from 1, and what is wrong with it.
    #[error("file {0} of its list {1}; get another copy of the .torrent")]
    File(usize, &'static str),
    /// A path deeper than 100.
    #[error("it has a path of more than 100 components; use a torrent with flatter directories")]
    Depth,
    /// Over 500 files of one name.
    #[error("over 500 of its files have one name; use a torrent with distinct names")]
    Clashes,
    /// A hybrid whose halves disagree.
    #[error("a hybrid torrent that {0}; get another copy of the .torrent")]
    Hybrid(&'static str),
    /// Sizes out of bounds.
    #[error("{0}; get another copy of the .torrent")]
    Geometry(#[from] GeometryError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: &str = "12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa";

    /// A multi-file torrent with these entries; `more` goes into `info`.
    fn torrent(files: &str, more: &str) -> String {
        format!("d4:infod5:filesl{files}e4:name1:t{PIECES}{more}ee")
    }

    fn parse(text: &str) -> Result<Metainfo, MetainfoError> {
        Metainfo::parse(text.as_bytes())
    }

    fn shown(meta: &Metainfo) -> Vec<(&str, u64, u64)> {
        meta.files.iter().filter(|f| f.visible()).map(|f| (&*f.path, f.offset, f.length)).collect()
    }

    #[test]
    fn a_single_file() {
        let text = format!("d4:infod4:attr1:x6:lengthi5e4:name5:a/b.c{PIECES}7:privatei1eee");
        let meta = parse(&text).unwrap();
        assert_eq!((&*meta.name, meta.single_file, meta.private), ("a_b.c", true, true));
        assert_eq!(shown(&meta), [("a_b.c", 0, 5)]);
        assert_eq!(meta.files[0].kind, FileKind::Regular { executable: true });
        assert_eq!(meta.id, TorrentId { v1: Some(InfoHash::of(&text.as_bytes()[7..text.len() - 1])), v2: None });
        assert_eq!(meta.piece_hashes.get(PieceIndex(0)), Some(b"aaaaaaaaaaaaaaaaaaaa"));
        assert_eq!(meta.piece_hashes.get(PieceIndex(1)), None);
    }

    #[test]
    fn names_of_utf8_twins_win() {
        let entry = "d6:lengthi1e4:pathl3:bade10:path.utf-8l2:\u{e9}ee";
        let meta = parse(&torrent(entry, "10:name.utf-83:abc")).unwrap();
        assert_eq!((&*meta.name, shown(&meta)), ("abc", vec![("\u{e9}", 0, 1)]));
    }

    #[test]
    fn padding_takes_bytes_and_is_not_shown() {
        let files = "d6:lengthi1e4:pathl1:aeed4:attr1:p6:lengthi9e4:pathl4:.pad1:9eed4:attr1:p6:lengthi2ee\
                     d6:lengthi3e4:pathl20:_____padding_file_0_eed6:lengthi1e4:pathl1:bee";
        let meta = parse(&torrent(files, "")).unwrap();
        assert_eq!(shown(&meta), [("a", 0, 1), ("b", 15, 1)]);
        assert_eq!(meta.geometry.total(), 16);
    }

    #[test]
    fn links_take_no_bytes() {
        let files = "d6:lengthi1e4:pathl1:aeed4:attr1:l6:lengthi7e4:pathl1:be12:symlink pathl1:aee\
                     d4:attr1:l4:pathl1:ce12:symlink pathl2:..6:passwdeed4:attr1:l4:pathl1:dee";
        let meta = parse(&torrent(files, "")).unwrap();
        let kinds: Vec<_> = meta.files[1..].iter().map(|file| file.kind.clone()).collect();
        assert_eq!(kinds, [FileKind::Symlink { target: "a".into() }, FileKind::Hidden, FileKind::Hidden]);
        assert_eq!(meta.geometry.total(), 1);
    }

    #[test]
    fn odd_optional_fields_are_ignored() {
        let info = torrent("d6:lengthi1e4:pathl1:aee", "");
        let with = |more: &str| parse(&format!("d{more}{}", &info[1..])).unwrap();
        let meta = with("7:commentli1ee13:creation date4:yore8:announcei5e8:url-listde10:created byi1e");
        assert_eq!((meta.comment, meta.creation_date, meta.created_by), (None, None, None));
        assert!(meta.trackers.is_empty() && meta.web_seeds.is_empty());
        assert_eq!(with("13:creation datei1234567e").creation_date, Some(1_234_567));
        assert_eq!(with("13:creation datei1406613545141e").creation_date, Some(1_406_613_545));
        assert_eq!(with("13:creation datei-1e").creation_date, None);
        assert_eq!(with("13:creation datei9223372036854775807e").creation_date, None);
    }

    #[test]
    fn a_newline_may_follow_and_nothing_else() {
        let text = torrent("d6:lengthi1e4:pathl1:aee", "");
        assert!(parse(&format!("{text}\n")).is_ok());
        assert!(matches!(parse(&format!("{text}\n\n")), Err(MetainfoError::Trailing(2))));
        assert!(matches!(parse(&format!("{text}e")), Err(MetainfoError::Trailing(1))));
    }

    #[test]
    fn what_is_refused() {
        let good = "d6:lengthi1e4:pathl1:aee";
        let file = |text: &str| parse(&torrent(text, ""));
        assert!(matches!(parse(""), Err(MetainfoError::Empty)));
        assert!(matches!(parse("de"), Err(MetainfoError::NoInfo)));
        assert!(matches!(parse("d4:infolee"), Err(MetainfoError::NoInfo)));
        assert!(matches!(parse("d4:infode4:infodee"), Err(MetainfoError::Duplicate("info"))));
        assert!(matches!(parse("d4:infod4:name1:aee"), Err(MetainfoError::Missing("piece length"))));
        assert!(matches!(parse(&torrent(good, "6:pieces0:")), Err(MetainfoError::Duplicate("pieces"))));
        assert!(matches!(parse(&torrent(good, "12:meta versioni3e")), Err(MetainfoError::Version)));
        assert!(matches!(parse("d4:infod9:file treede12:meta versioni2eee"), Err(MetainfoError::V2Only)));
        assert!(matches!(file(""), Err(MetainfoError::Geometry(GeometryError::Total(0)))));
        assert!(matches!(file("i1e"), Err(MetainfoError::File(1, _))));
        assert!(matches!(file("d6:lengthi-1e4:pathl1:aee"), Err(MetainfoError::File(1, _))));
        assert!(matches!(file("d6:lengthi281474976710656e4:pathl1:aee"), Err(MetainfoError::File(1, _))));
        assert!(matches!(file("d6:lengthi1e4:pathlee"), Err(MetainfoError::File(1, _))));
        assert!(matches!(file("d6:lengthi1e4:path1:ae"), Err(MetainfoError::File(1, _))));
        let huge = "d6:lengthi281474976710655e4:pathl1:aee".repeat(2);
        assert!(matches!(file(&huge), Err(MetainfoError::Geometry(GeometryError::Total(_)))));
        let large = "d6:lengthi99999e4:pathl1:aee";
        assert!(matches!(file(large), Err(MetainfoError::HashesCount { have: 1, need: 7 })));
    }

    #[test]
    fn hybrids_whose_lists_disagree_are_refused() {
        let files = "d6:lengthi1e4:pathl1:d1:aeed4:attr1:p6:lengthi16383eed6:lengthi2e4:pathl1:bee";
        let leaf = |length: u32| format!("d0:d6:lengthi{length}eee");
        let hybrid = |files: &str, tree: &str| {
            let keys = "12:piece lengthi16384e6:pieces40:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
            parse(&format!("d4:infod9:file tree{tree}5:filesl{files}e12:meta versioni2e4:name1:t{keys}ee"))
        };
        let good = hybrid(files, &format!("d1:b{}1:dd1:a{}ee", leaf(2), leaf(1)));
        assert!(matches!(good, Err(MetainfoError::Hybrid(_))), "another order");
        let good = hybrid(files, &format!("d1:dd1:a{}e1:b{}e", leaf(1), leaf(2))).unwrap();
        assert!(good.id.v1.is_some() && good.id.v2.is_some());
        for tree in [
            format!("d1:dd1:a{}e1:b{}e", leaf(1), leaf(3)),
            format!("d1:dd1:a{}e1:c{}e", leaf(1), leaf(2)),
            format!("d1:dd1:a{}ee", leaf(1)),
            format!("d1:dd1:a{}e1:b{}1:c{}e", leaf(1), leaf(2), leaf(0)),
            "d1:ai1ee".to_owned(),
            "le".to_owned(),
        ] {
            assert!(matches!(hybrid(files, &tree), Err(MetainfoError::Hybrid(_))), "{tree}");
        }
        let unaligned = files.replace("16383", "16384");
        let tree = format!("d1:dd1:a{}e1:b{}e", leaf(1), leaf(2));
        assert!(matches!(hybrid(&unaligned, &tree), Err(MetainfoError::Hybrid(_))));
    }

    proptest::proptest! {
        /// A torrent with bytes changed never panics, and what loads has safe names and sizes that agree.
        #[test]
        fn mutations_are_survived(changes in proptest::collection::vec((0..400_usize, proptest::prelude::any::<u8>()), 0..6)) {
            let files = "d6:lengthi1e4:pathl1:a1:beed4:attr1:l4:pathl2:..1:ce12:symlink pathl1:aee\
                         d6:lengthi8e4:pathl1:a1:bee";
            let mut bytes = torrent(files, "12:meta versioni1e").into_bytes();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if let Ok(meta) = Metainfo::parse(&bytes) {
                for path in meta.files.iter().map(|file| &*file.path).chain([&*meta.name]) {
                    proptest::prop_assert!(path.split('/').all(|name| !matches!(name, "" | "." | "..")));
                    proptest::prop_assert!(!path.contains('\0') && !meta.name.contains('/'));
                }
                proptest::prop_assert_eq!(meta.files.last().map(|f| f.bytes().end), Some(meta.geometry.total()));
            }
        }
    }
}
