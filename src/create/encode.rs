//! From what was found, its hashes and the options to the bytes of a .torrent file (BEP 3, 12, 19, 27, 47). Pure, and
//! without a date: the same input gives the same bytes.

#![forbid(unsafe_code)]

use serde::Serialize;
use serde_bencode::Error;
use serde_bytes::Bytes;

use super::Options;

/// What `created by` says.
const CREATED_BY: &str = concat!("swarmfs ", env!("CARGO_PKG_VERSION"));

/// A file or a link of the torrent to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path below the torrent's directory, `/` between components.
    pub(super) path: String,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File {
        /// Bytes.
        length: u64,
        executable: bool,
    },
    /// A symbolic link.
    Link {
        /// The path below the torrent's directory that it leads to.
        place: String,
    },
}

impl Entry {
    /// Bytes that it takes in the torrent.
    pub(super) fn length(&self) -> u64 {
        match self.kind {
            Kind::File { length, .. } => length,
            Kind::Link { .. } => 0,
        }
    }

    /// Its attributes (BEP 47), if it has any.
    fn attr(&self) -> Option<&'static str> {
        match self.kind {
            Kind::File { executable: true, .. } => Some("x"),
            Kind::File { executable: false, .. } => None,
            Kind::Link { .. } => Some("l"),
        }
    }
}

/// What a torrent is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub(super) name: &'a str,
    /// The one file, or what is in the directory, in order.
    pub(super) entries: &'a [Entry],
    /// True for one file that lies in no directory.
    pub(super) single_file: bool,
}

/// The bytes of the .torrent file. Its keys are sorted, as bencode wants them.
///
/// # Errors
/// None that is known: serde's interface has one.
pub(super) fn encode(
    content: Content<'_>,
    piece_length: u32,
    hashes: &[u8],
    options: &Options,
) -> Result<Vec<u8>, Error> {
    let trackers = options.trackers();
    let first = content.entries.first().filter(|_| content.single_file);
    serde_bencode::to_bytes(&Torrent {
        announce: trackers.first().copied(),
        // One tracker needs no tiers.
        announce_list: (trackers.len() > 1).then(|| trackers.into_iter().map(|url| [url]).collect()),
        comment: options.comment.as_deref(),
        created_by: CREATED_BY,
        info: Info {
            attr: first.and_then(Entry::attr),
            files: (!content.single_file).then(|| content.entries.iter().map(File::of).collect()),
            length: first.map(Entry::length),
            name: content.name,
            piece_length,
            pieces: Bytes::new(hashes),
            private: options.private.then_some(1),
        },
        url_list: Some(options.web_seeds(content.single_file)).filter(|urls| !urls.is_empty()),
    })
}

#[derive(Serialize)]
struct Torrent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    announce: Option<&'a str>,
    #[serde(rename = "announce-list", skip_serializing_if = "Option::is_none")]
    announce_list: Option<Vec<[&'a str; 1]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
    #[serde(rename = "created by")]
    created_by: &'static str,
    info: Info<'a>,
    #[serde(rename = "url-list", skip_serializing_if = "Option::is_none")]
    url_list: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Info<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    attr: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<File<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    name: &'a str,
    #[serde(rename = "piece length")]
    piece_length: u32,
    pieces: &'a Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    private: Option<u8>,
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    attr: Option<&'static str>,
    /// There for links too: programs that know no links want it.
    length: u64,
    path: Vec<&'a str>,
    /// From the torrent's root.
    #[serde(rename = "symlink path", skip_serializing_if = "Option::is_none")]
    symlink_path: Option<Vec<&'a str>>,
}

impl<'a> File<'a> {
    fn of(entry: &'a Entry) -> Self {
        let symlink_path = match &entry.kind {
            Kind::File { .. } => None,
            Kind::Link { place } => Some(place.split('/').collect()),
        };
        Self { attr: entry.attr(), length: entry.length(), path: entry.path.split('/').collect(), symlink_path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, length: u64, executable: bool) -> Entry {
        Entry { path: path.into(), kind: Kind::File { length, executable } }
    }

    fn encoded(content: Content<'_>, options: &Options) -> String {
        String::from_utf8(encode(content, 16_384, b"aaaaaaaaaaaaaaaaaaaa", options).unwrap()).unwrap()
    }

    fn created_by() -> String {
        format!("10:created by{}:{CREATED_BY}", CREATED_BY.len())
    }

    #[test]
    fn a_single_file_and_every_option() {
        let options = Options {
            trackers: ["http://a/", "udp://b:1", "http://a/"].map(Into::into).into(),
            private: true,
            comment: Some("é".into()),
            web_seeds: vec!["http://w/f".into()],
            ..Options::default()
        };
        let content = Content { name: "f", entries: &[file("f", 5, true)], single_file: true };
        let expected = format!(
            "d8:announce9:http://a/13:announce-listll9:http://a/el9:udp://b:1ee7:comment2:é{}4:infod4:attr1:x\
             6:lengthi5e4:name1:f12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa7:privatei1ee\
             8:url-listl10:http://w/fee",
            created_by()
        );
        assert_eq!(encoded(content, &options), expected);
    }

    #[test]
    fn a_directory() {
        let link = Entry { path: "d/l".into(), kind: Kind::Link { place: "d/x".into() } };
        let entries = [link, file("d/x", 5, false), file("e", 0, true)];
        let content = Content { name: "t", entries: &entries, single_file: false };
        let options = Options { web_seeds: vec!["http://w".into()], ..Options::default() };
        let expected = format!(
            "d{}4:infod5:filesld4:attr1:l6:lengthi0e4:pathl1:d1:le12:symlink pathl1:d1:xeed6:lengthi5e4:pathl1:d1:xee\
             d4:attr1:x6:lengthi0e4:pathl1:eeee4:name1:t12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae\
             8:url-listl9:http://w/ee",
            created_by()
        );
        assert_eq!(encoded(content, &options), expected);
    }
}
