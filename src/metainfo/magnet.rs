//! Magnet links (BEP 9) and bare info-hashes: what names a torrent without its metainfo, and where that may be had.
//! Selected files are BEP 53's, v2 hashes BEP 52's. What a link says that cannot be used (a tracker of an unknown kind, a
//! range that is none) is left out; only a link that names no torrent is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use data_encoding::{BASE32_NOPAD, HEXLOWER_PERMISSIVE};

use super::addresses::{address, as_directory};
use super::{InfoHash, InfoHashV2, Metainfo, TorrentId, percent};

/// The longest link that is read, bytes: a thousand trackers.
const MAX_LENGTH: usize = 64 * 1024;
/// The most addresses of peers, and of DHT nodes, that are kept.
const MAX_PEERS: usize = 200;
/// File indices from here on are ignored: metadata of 16 MiB cannot list so many files.
const MAX_FILES: u32 = 1 << 20;
/// The most ranges of selected files that are kept.
const MAX_RANGES: usize = 4_096;
/// The longest name that is shown, bytes.
const MAX_NAME: usize = 255;

/// A magnet link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Magnet {
    /// The torrent (`xt`).
    pub id: TorrentId,
    /// What to call it until its metadata is there (`dn`); one line, no control characters.
    pub name: Option<String>,
    /// Announce URLs, each a tier of its own in the link's order (`tr`, `tr.N`).
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (`ws`).
    pub web_seeds: Vec<String>,
    /// Peers (`x.pe`).
    pub peers: Vec<HostPort>,
    /// Nodes of the DHT (`dht`).
    pub nodes: Vec<HostPort>,
    /// Indices of the selected files (`so`, BEP 53), in order and apart from each other; none selects all.
    pub select: Option<Vec<Range<u32>>>,
}

/// A host by name or in digits, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Its name or address; IPv6 without brackets.
    pub host: String,
    /// Its port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, IPv6 addresses in brackets; none if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|&port| port != 0)?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string(),
            None => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                let name = !host.is_empty() && host.len() <= 253 && host.bytes().all(plain);
                Some(host).filter(|_| name)?.to_owned()
            }
        };
        Some(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Why a magnet link is refused: one sentence each, to follow the link, with the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MagnetError {
    /// Neither `magnet:?` nor an info-hash.
    #[error("not a magnet link; one begins with magnet:?xt=urn:btih:")]
    Scheme,
    /// Over 64 KiB.
    #[error("a magnet link of over 64 KiB; leave out some of its trackers")]
    TooLong,
    /// No `xt` of BitTorrent's.
    #[error("a magnet link that names no torrent (xt=urn:btih:...); copy it again, all of it")]
    NoHash,
    /// A hash that is none.
    #[error(
        "its info-hash is not 40 hexadecimal digits or 32 of base32 (v2: 1220 and 64 hexadecimal digits); copy it again, all of it"
    )]
    Hash,
    /// BEP 52 without v1.
    #[error("it names a v2-only torrent (BEP 52), and v2 is not built yet; use a link with xt=urn:btih: too")]
    V2Only,
    /// Two torrents.
    #[error("a magnet link that names two torrents; give each of them by itself")]
    TwoHashes,
}

impl Magnet {
    /// Reads a magnet link, or a bare info-hash: 40 hexadecimal digits or 32 of base32, or 64 hexadecimal digits for v2.
    ///
    /// # Errors
    /// A [`MagnetError`], one sentence, if it names no torrent.
    pub fn parse(text: &str) -> Result<Self, MagnetError> {
        if text.len() > MAX_LENGTH {
            return Err(MagnetError::TooLong);
        }
        if !text.contains(':') {
            return Ok(Self::of(bare_hash(text).ok_or(MagnetError::Scheme)?));
        }
        let query = query(text).ok_or(MagnetError::Scheme)?;
        let mut magnet = Self::of(TorrentId { v1: None, v2: None });
        let (mut trackers, mut seeds) = (BTreeSet::new(), BTreeSet::new());
        let (mut selected, mut tiers) = (Vec::new(), Vec::new());
        for part in query.split('&') {
            // A link that was copied out of a page's source has `&amp;` between its parts.
            let part = part.strip_prefix("amp;").unwrap_or(part);
            let Some((key, value)) = part.split_once('=') else { continue };
            let (key, value) = (
                percent::decode(key, false).to_ascii_lowercase(),
                percent::decode(value, key.eq_ignore_ascii_case("dn")),
            );
            let text = str::from_utf8(&value).ok();
            let host = || text.and_then(HostPort::parse);
            match key.as_slice() {
                b"xt" => magnet.add_hash(&value)?,
                b"dn" => magnet.name = magnet.name.take().or_else(|| shown(&value)),
                b"ws" => {
                    let url = address(&value, &["http", "https"]).filter(|url| seeds.insert(url.clone()));
                    magnet.web_seeds.extend(url);
                }
                b"x.pe" => push(&mut magnet.peers, host()),
                b"dht" => push(&mut magnet.nodes, host()),
                b"so" => select(text.unwrap_or_default(), &mut selected),
                _ => {
                    let url = tier(&key).and_then(|tier| Some((tier, address(&value, &["http", "https", "udp"])?)));
                    tiers.extend(url.filter(|(_, url)| trackers.insert(url.clone())));
                }
            }
        }
        // Stable: those without a number keep their place behind.
        tiers.sort_by_key(|(tier, _)| *tier);
        magnet.trackers = tiers.into_iter().map(|(_, url)| vec![url]).collect();
        magnet.select = merged(selected);
        if magnet.id.v1.is_none() && magnet.id.v2.is_none() { Err(MagnetError::NoHash) } else { Ok(magnet) }
    }

    /// The link of a torrent, and nothing else.
    #[must_use]
    pub fn of(id: TorrentId) -> Self {
        Self {
            id,
            name: None,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            peers: Vec::new(),
            nodes: Vec::new(),
            select: None,
        }
    }

    /// The link that leads others to a torrent.
    #[must_use]
    pub fn to(meta: &Metainfo) -> Self {
        Self {
            name: Some(meta.name.clone()),
            trackers: meta.trackers.clone(),
            web_seeds: meta.web_seeds.clone(),
            ..Self::of(meta.id)
        }
    }

    /// The torrent, with its trackers and web seeds from the link.
    #[must_use]
    pub fn with_metadata(&self, meta: Metainfo) -> Metainfo {
        let urls = self.web_seeds.iter().cloned();
        let web_seeds = if meta.single_file { urls.collect() } else { urls.map(as_directory).collect() };
        Metainfo { trackers: self.trackers.clone(), web_seeds, ..meta }
    }

    /// What to call it until its metadata is there.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }

    /// One `xt`. Hashes of other networks are none of ours.
    fn add_hash(&mut self, urn: &[u8]) -> Result<(), MagnetError> {
        let Some((kind, hash)) = str::from_utf8(urn).ok().and_then(|urn| urn.rsplit_once(':')) else { return Ok(()) };
        if kind.eq_ignore_ascii_case("urn:btih") {
            let v1 = v1_hash(hash).ok_or(MagnetError::Hash)?;
            if self.id.v1.replace(v1).is_some_and(|other| other != v1) {
                return Err(MagnetError::TwoHashes);
            }
        } else if kind.eq_ignore_ascii_case("urn:btmh") {
            // A multihash: 0x12 is SHA-256, 0x20 its length.
            let v2 = hash.strip_prefix("1220").and_then(v2_hash).ok_or(MagnetError::Hash)?;
            if self.id.v2.replace(v2).is_some_and(|other| other != v2) {
                return Err(MagnetError::TwoHashes);
            }
        }
        Ok(())
    }
}

/// As a link that can be pasted: everything but letters, digits and what URLs are made of is percent-encoded.
impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "magnet:?";
        let mut put = |f: &mut fmt::Formatter<'_>, key: &str, value: &str| {
            let plain = |byte| percent::unreserved(byte) || b":/[],".contains(&byte);
            write!(f, "{separator}{key}={}", percent::encode(value.as_bytes(), plain))?;
            separator = "&";
            Ok(())
        };
        if let Some(v1) = self.id.v1 {
            put(f, "xt", &format!("urn:btih:{}", HEXLOWER_PERMISSIVE.encode(&v1.0)))?;
        }
        if let Some(v2) = self.id.v2 {
            put(f, "xt", &format!("urn:btmh:1220{}", HEXLOWER_PERMISSIVE.encode(&v2.0)))?;
        }
        if let Some(name) = &self.name {
            put(f, "dn", name)?;
        }
        let trackers = self.trackers.iter().flatten().map(|url| ("tr", url.clone()));
        let seeds = self.web_seeds.iter().map(|url| ("ws", url.clone()));
        let peers = self.peers.iter().map(|peer| ("x.pe", peer.to_string()));
        let nodes = self.nodes.iter().map(|node| ("dht", node.to_string()));
        trackers.chain(seeds).chain(peers).chain(nodes).try_for_each(|(key, value)| put(f, key, &value))?;
        let Some(select) = self.select.as_ref() else { return Ok(()) };
        let range = |range: &Range<u32>| match range.end - range.start {
            1 => range.start.to_string(),
            _ => format!("{}-{}", range.start, range.end - 1),
        };
        put(f, "so", &select.iter().map(range).collect::<Vec<_>>().join(","))
    }
}

/// What follows `magnet:?`, with nothing or an empty host between.
fn query(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once(':')?;
    let (before, query) = rest.split_once('?')?;
    (scheme.eq_ignore_ascii_case("magnet") && matches!(before, "" | "//" | "///")).then_some(query)
}

fn bare_hash(text: &str) -> Option<TorrentId> {
    let v2 = v2_hash(text.strip_prefix("1220").filter(|rest| rest.len() == 64).unwrap_or(text));
    v1_hash(text)
        .map(|v1| TorrentId { v1: Some(v1), v2: None })
        .or_else(|| v2.map(|v2| TorrentId { v1: None, v2: Some(v2) }))
}

fn v1_hash(text: &str) -> Option<InfoHash> {
    let bytes = match text.len() {
        40 => HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok(),
        32 => BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok(),
        _ => None,
    };
    bytes.and_then(|bytes| bytes.try_into().ok()).map(InfoHash)
}

fn v2_hash(text: &str) -> Option<InfoHashV2> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).map(InfoHashV2)
}

/// The place of a tracker's tier: `tr` comes behind every `tr.N`; none for another key.
fn tier(key: &[u8]) -> Option<u32> {
    match key.strip_prefix(b"tr")? {
        b"" => Some(u32::MAX),
        number => str::from_utf8(number.strip_prefix(b".")?).ok()?.parse().ok(),
    }
}

/// A name for people: one line, nothing that drives a terminal.
fn shown(name: &[u8]) -> Option<String> {
    let mut name: String = String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).collect();
    let end = (0..=MAX_NAME.min(name.len())).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    name.truncate(end);
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn push(hosts: &mut Vec<HostPort>, host: Option<HostPort>) {
    if hosts.len() < MAX_PEERS {
        hosts.extend(host.filter(|host| !hosts.contains(host)));
    }
}

/// Adds the ranges of `0,2,4-6`; those that are none are left out.
fn select(text: &str, ranges: &mut Vec<Range<u32>>) {
    let room = MAX_RANGES.saturating_sub(ranges.len());
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let index = |text: &str| text.parse::<u32>().ok().filter(|&index| index < MAX_FILES);
        let (first, last) = (index(first)?, index(last)?);
        (first <= last).then_some(first..last + 1)
    };
    ranges.extend(text.split(',').filter_map(range).take(room));
}

/// Ranges in order and apart from each other; none for none.
fn merged(mut ranges: Vec<Range<u32>>) -> Option<Vec<Range<u32>>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        match merged.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => merged.push(range),
        }
    }
    Some(merged).filter(|merged| !merged.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "d2354010a3ca4ade5b7427bb093a62a3899ff381";

    fn parse(rest: &str) -> Magnet {
        Magnet::parse(&format!("magnet:?xt=urn:btih:{HASH}{rest}")).expect("a magnet link")
    }

    #[test]
    fn one_hash_in_each_of_its_forms() {
        let id = parse("").id;
        assert_eq!(id.to_string(), HASH);
        for same in [
            HASH.to_owned(),
            HASH.to_uppercase(),
            "2I2UAEFDZJFN4W3UE65QSOTCUOEZ744B".to_owned(),
            "2i2uaefdzjfn4w3ue65qsotcuoez744b".to_owned(),
            format!("MAGNET:?XT=URN:BTIH:{HASH}"),
            format!("magnet:///?xt=urn%3Abtih%3A{HASH}"),
            format!("magnet:?dn=x&amp;xt=urn:btih:{HASH}&amp;tr=http://a/announce"),
        ] {
            assert_eq!(Magnet::parse(&same).map(|m| m.id), Ok(id), "{same}");
        }
        let v2 = "ab".repeat(32);
        for same in [v2.clone(), format!("1220{v2}"), format!("magnet:?xt=urn:btmh:1220{v2}")] {
            let id = Magnet::parse(&same).expect("a v2 hash").id;
            assert_eq!((id.v1, id.to_string()), (None, v2.clone()));
        }
    }

    #[test]
    fn what_names_no_torrent_says_so() {
        let two = format!("magnet:?xt=urn:btih:{HASH}&xt=urn:btih:{}", "0".repeat(40));
        for (text, why) in [
            ("", MagnetError::Scheme),
            ("http://a.example/?xt=urn:btih:x", MagnetError::Scheme),
            ("magnet://host/?xt=urn:btih:x", MagnetError::Scheme),
            ("magnet:", MagnetError::Scheme),
            (&HASH[1..], MagnetError::Scheme),
            ("magnet:?", MagnetError::NoHash),
            ("magnet:?xt=urn:sha1:PDAQRAOQQRYS76MRZJ33LK4MMVZBDSCL", MagnetError::NoHash),
            ("magnet:?xt=urn:btih:", MagnetError::Hash),
            ("magnet:?xt=urn:btmh:1221abab", MagnetError::Hash),
            (&two, MagnetError::TwoHashes),
            (&"m".repeat(MAX_LENGTH + 1), MagnetError::TooLong),
        ] {
            assert_eq!(Magnet::parse(text), Err(why), "{text:.100}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let magnet = parse(
            "&dn=a+b%20c%0A&tr=http%3A%2F%2Fa%2Fannounce&tr=wss://b&tr=&tr.1=udp://c:1&tr.x=udp://d:1&tr=http://a/announce\
             &ws=http://e/f%20g&ws=ftp://h&x.pe=127.0.0.1:43&x.pe=[::1]:45&x.pe=foo.com:1&x.pe=a:0&x.pe=%2Fetc:1&x.pe=127.0.0.1:43\
             &dht=10.0.0.1:1337&empty&=&%zz=1",
        );
        assert_eq!(magnet.name.as_deref(), Some("a b c"));
        assert_eq!(magnet.trackers, [["udp://c:1"], ["http://a/announce"]]);
        assert_eq!(magnet.web_seeds, ["http://e/f%20g"]);
        let texts = |hosts: &[HostPort]| hosts.iter().map(HostPort::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&magnet.peers), ["127.0.0.1:43", "[::1]:45", "foo.com:1"]);
        assert_eq!(texts(&magnet.nodes), ["10.0.0.1:1337"]);
        assert_eq!(magnet.select, None);
        assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet), "its text is the same link");
    }

    #[test]
    fn selected_files_are_ranges_whatever_they_claim() {
        let select = |so: &str| parse(so).select;
        assert_eq!(select("&so=0,2,4,6-8"), Some(vec![0..1, 2..3, 4..5, 6..9]));
        assert_eq!(select("&so=2-4&so=1"), Some(std::iter::once(1..5).collect()));
        assert_eq!(select("&so=0,2-4,3-5"), Some(vec![0..1, 2..6]));
        for (so, left) in [("7-4,100000000", "10"), ("-4", "10"), ("3-", "10"), ("a", "10"), (",,", "10")] {
            assert_eq!(select(&format!("&so={so}&so={left}")), Some(std::iter::once(10..11).collect()), "{so}");
        }
        assert_eq!(select("&so=&so=\"1,2\""), None);
        let again = Magnet::parse(&parse("&so=9,1-3").to_string()).expect("a link");
        assert_eq!(again.select, Some(vec![1..4, 9..10]));
    }

    proptest::proptest! {
        /// No text makes it panic, and what is read is the same once more.
        #[test]
        fn never_panics(rest in "[&=%:a-f0-9.,x\\[\\]+-]{0,60}", key in "(so|tr|tr\\.1|x\\.pe|dht|ws|dn|xt)") {
            let _ = Magnet::parse(&rest);
            if let Ok(magnet) = Magnet::parse(&format!("magnet:?xt=urn:btih:{HASH}&{key}={rest}")) {
                proptest::prop_assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
            }
        }
    }
}
