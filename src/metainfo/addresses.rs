//! The addresses in a .torrent file: trackers (BEP 3, BEP 12) and web seeds (BEP 19).

use std::collections::BTreeSet;

use super::bencode::Node;
use super::percent;

/// The most trackers, and the most web seeds, that are kept: real torrents have a few dozen.
const MAX_ADDRESSES: usize = 1_000;
/// The longest address, bytes.
pub(crate) const MAX_LENGTH: usize = 2_048;

/// The tiers of `announce-list`, or the one tracker of `announce` if they name none that can be used. No tracker is
/// there twice; no tier is empty.
pub(super) fn trackers(announce: Option<Node<'_>>, tiers: Option<Node<'_>>) -> Vec<Vec<String>> {
    const SCHEMES: [&str; 3] = ["http", "https", "udp"];
    let mut seen = BTreeSet::new();
    let mut usable = |node: Node<'_>| address(node.bytes()?, &SCHEMES).filter(|url| insert(&mut seen, url));
    let mut trackers = Vec::new();
    for tier in tiers.and_then(Node::items).into_iter().flatten() {
        let urls: Vec<String> = match tier.items() {
            Some(urls) => urls.filter_map(&mut usable).collect(),
            // Seen in the wild: a list of trackers where a list of tiers belongs.
            None => usable(tier).into_iter().collect(),
        };
        if !urls.is_empty() {
            trackers.push(urls);
        }
    }
    if trackers.is_empty() {
        trackers.extend(announce.and_then(&mut usable).map(|url| vec![url]));
    }
    trackers
}

/// The web seeds of `url-list`, a string or a list of them, each once. For a torrent of several files (`directory`) an
/// address is that of a directory and ends in a slash.
pub(super) fn web_seeds(list: Option<Node<'_>>, directory: bool) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let Some(list) = list else { return Vec::new() };
    let urls = list.items().into_iter().flatten().chain(list.bytes().map(|_| list));
    urls.filter_map(|node| address(node.bytes()?, &["http", "https"]))
        .map(|url| if directory { as_directory(url) } else { url })
        .filter(|url| insert(&mut seen, url))
        .collect()
}

/// A web seed's address as that of a directory: it ends in a slash.
pub(crate) fn as_directory(url: String) -> String {
    if url.ends_with('/') { url } else { url + "/" }
}

/// True if the address is new and there is room for it.
fn insert(seen: &mut BTreeSet<String>, url: &str) -> bool {
    seen.len() < MAX_ADDRESSES && seen.insert(url.to_owned())
}

/// A string as an address of one of these schemes. What no address can contain (spaces, bytes past ASCII, control
/// characters) is percent-encoded.
pub(super) fn address(raw: &[u8], schemes: &[&str]) -> Option<String> {
    let raw = raw.trim_ascii();
    let scheme = raw.iter().position(|&b| b == b':').and_then(|colon| raw.get(..colon))?;
    let known = schemes.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(scheme));
    let host = raw.get(scheme.len()..)?.strip_prefix(b"://")?;
    if !known || host.is_empty() || raw.len() > MAX_LENGTH {
        return None;
    }
    Some(percent::encode(raw, |byte| byte.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::super::bencode::Limits;
    use super::*;

    fn node(text: &str) -> Option<Node<'_>> {
        Node::checked(text.as_bytes(), Limits::WIRE).ok()
    }

    #[test]
    fn tiers_are_deduplicated_and_kept_to_known_schemes() {
        let tiers = node("ll8:http://a8:udp://b:el8:http://a7:wss://ael9:HTTPS://cee");
        assert_eq!(trackers(node("8:http://z"), tiers), [vec!["http://a", "udp://b:"], vec!["HTTPS://c"]]);
        assert_eq!(trackers(node("8:http://z"), node("0:")), [["http://z"]]);
        assert_eq!(trackers(node("8:http://z"), node("ll7:wss://aee")), [["http://z"]]);
        assert_eq!(trackers(None, node("l8:http://a8:http://be")), [["http://a"], ["http://b"]]);
        assert!(trackers(node("7:http://"), None).is_empty());
    }

    #[test]
    fn web_seeds_are_encoded() {
        assert_eq!(web_seeds(node("12:http://a/b c"), false), ["http://a/b%20c"]);
        assert_eq!(web_seeds(node("l8:http://a9:http://a/0:e"), true), ["http://a/"]);
        assert!(web_seeds(node("ll8:http://aee"), true).is_empty());
        assert!(web_seeds(node("0:"), true).is_empty());
    }
}
