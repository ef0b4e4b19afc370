//! HTTP trackers: the query of an announce and its reply (BEP 3, BEP 7, BEP 23, BEP 24).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::bencode::{self, Dictionary, Value};
use super::compact::{can_be_dialled, peers as compact_peers};
use super::extension::ip_of;
use super::{PeerId, printable};
use crate::metainfo::percent;

/// The most peers that are taken from one reply: five times what we ask for.
pub const MAX_PEERS: usize = 1_000;
/// The longest text of a tracker that is shown, characters.
const MAX_TEXT: usize = 256;
/// The longest tracker id that is sent back, bytes: it becomes a part of every later query.
const MAX_TRACKER_ID: usize = 256;

/// Why an announce is made (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// At the regular interval, or for more peers.
    None,
    /// The first announce to this tracker.
    Started,
    /// The last one.
    Stopped,
    /// The download has just become complete.
    Completed,
    /// As [`Event::None`], of a partial seed (BEP 21): it has all that it wants. UDP has no word for it.
    Paused,
}

/// What an announce tells the tracker (BEP 3, BEP 7, BEP 23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceQuery {
    /// The torrent.
    pub info_hash: [u8; 20],
    /// Ourselves.
    pub peer_id: PeerId,
    /// Where peers reach us.
    pub port: u16,
    /// Payload bytes sent since `started`.
    pub uploaded: u64,
    /// Payload bytes received since `started`.
    pub downloaded: u64,
    /// Bytes that are still missing.
    pub left: u64,
    /// Why.
    pub event: Event,
    /// Peers wanted.
    pub numwant: u32,
    /// Lets the tracker know us again when our address changes.
    pub key: u32,
    /// What the tracker asked us to send back.
    pub tracker_id: Option<Vec<u8>>,
}

/// What a tracker answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnounceReply {
    /// Peers, each once, at most [`MAX_PEERS`]; entries with port 0 or an impossible address are left out.
    pub peers: Vec<SocketAddr>,
    /// Seconds to the next announce, as the tracker has it: any number.
    pub interval: Option<i64>,
    /// Seconds that must pass before an announce for more peers: any number.
    pub min_interval: Option<i64>,
    /// To be sent back in later announces (`trackerid`).
    pub tracker_id: Option<Vec<u8>>,
    /// A message for the user, printable.
    pub warning: Option<String>,
    /// Our address as the tracker sees it (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// Seeds.
    pub complete: Option<u64>,
    /// Leechers.
    pub incomplete: Option<u64>,
}

/// Why a reply is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// The tracker refuses, in its own words (`failure reason`), printable.
    #[error("the tracker refuses: {0}")]
    Failure(String),
    /// Nothing came.
    #[error("the reply is empty")]
    Empty,
    /// HTML, rubbish, cut short, or over the limits.
    #[error("the reply is not a bencoded dictionary within the limits")]
    Bencode,
    /// A dictionary without `files`, so no answer to a scrape.
    #[error("the reply holds no figures of torrents")]
    NoFiles,
}

/// The query string of an announce, without a `?`. Built by hand: info-hashes are bytes, and what re-encodes them as
/// text breaks them.
#[must_use]
pub fn announce_query(query: &AnnounceQuery) -> String {
    let mut out = String::with_capacity(320);
    out.push_str("info_hash=");
    percent_encode(&query.info_hash, &mut out);
    out.push_str("&peer_id=");
    percent_encode(&query.peer_id.0, &mut out);
    let AnnounceQuery { port, uploaded, downloaded, left, numwant, key, .. } = query;
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}&compact=1&numwant={numwant}&key={key:08x}"
    );
    match query.event {
        Event::None => {}
        Event::Started => out.push_str("&event=started"),
        Event::Stopped => out.push_str("&event=stopped"),
        Event::Completed => out.push_str("&event=completed"),
        Event::Paused => out.push_str("&event=paused"),
    }
    if let Some(id) = &query.tracker_id {
        out.push_str("&trackerid=");
        percent_encode(id, &mut out);
    }
    out
}

/// The URL of an announce: the tracker's own, whose query (a passkey) stays, with [`announce_query`] added.
#[must_use]
pub fn announce_url(tracker: &str, query: &AnnounceQuery) -> String {
    with_query(tracker, &announce_query(query))
}

/// A tracker's URL without its fragment, with `more` behind the query that it has.
pub(super) fn with_query(tracker: &str, more: &str) -> String {
    let base = tracker.split('#').next().unwrap_or_default();
    let joint = match base.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some((_, own)) if own.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{base}{joint}{more}")
}

/// Appends the bytes with all but RFC 3986's unreserved characters escaped.
pub(super) fn percent_encode(bytes: &[u8], out: &mut String) {
    out.push_str(&percent::encode(bytes, percent::unreserved));
}

/// Reads a tracker's reply. Lenient where it does no harm: bytes after the dictionary and a cut last peer are ignored,
/// a field of a wrong type counts as absent, peers by host name are left out.
///
/// # Errors
/// [`TrackerError::Failure`] with the tracker's own words, else that it is no reply.
pub fn decode_http_reply(body: &[u8]) -> Result<AnnounceReply, TrackerError> {
    let fields = fields(body)?;
    let number = |key: &str| fields.get(key.as_bytes()).and_then(Value::integer);
    let bytes = |key: &str| fields.get(key.as_bytes()).and_then(Value::bytes);
    let text = |key: &str| bytes(key).map(|t| printable(t, MAX_TEXT));
    let count = |key: &str| number(key).and_then(|n| u64::try_from(n).ok());
    Ok(AnnounceReply {
        peers: peers(&fields),
        interval: number("interval"),
        min_interval: number("min interval"),
        tracker_id: bytes("tracker id").filter(|id| id.len() <= MAX_TRACKER_ID).map(<[u8]>::to_vec),
        warning: text("warning message").filter(|w| !w.is_empty()),
        external_ip: bytes("external ip").and_then(ip_of).filter(|ip| !ip.is_unspecified()),
        complete: count("complete"),
        incomplete: count("incomplete"),
    })
}

/// The dictionary that a reply is, unless it is a refusal. Some trackers spell the refusal of a scrape with an
/// underscore.
pub(super) fn fields(body: &[u8]) -> Result<Dictionary, TrackerError> {
    if body.is_empty() {
        return Err(TrackerError::Empty);
    }
    let fields = bencode::dictionary(body).ok_or(TrackerError::Bencode)?;
    match fields.get(&b"failure reason"[..]).or_else(|| fields.get(&b"failure_reason"[..])).and_then(Value::bytes) {
        Some(reason) => Err(TrackerError::Failure(printable(reason, MAX_TEXT))),
        None => Ok(fields),
    }
}

fn peers(reply: &Dictionary) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |ip: IpAddr, port: u16| {
        let addr = SocketAddr::new(ip.to_canonical(), port);
        if out.len() < MAX_PEERS && port != 0 && can_be_dialled(addr.ip()) && seen.insert(addr) {
            out.push(addr);
        }
    };
    match reply.get(&b"peers"[..]) {
        Some(Value::Bytes(compact)) => {
            for peer in compact_peers(compact, false) {
                add(peer.ip(), peer.port());
            }
        }
        Some(Value::List(list)) => {
            for (ip, port) in list.iter().filter_map(listed_peer) {
                add(ip, port);
            }
        }
        _ => {}
    }
    if let Some(Value::Bytes(compact)) = reply.get(&b"peers6"[..]) {
        for peer in compact_peers(compact, true) {
            add(peer.ip(), peer.port());
        }
    }
    out
}

/// A peer of the long form (BEP 3); none by host name, which would make us resolve whatever a tracker likes.
fn listed_peer(peer: &Value) -> Option<(IpAddr, u16)> {
    let peer = peer.dictionary()?;
    let ip = std::str::from_utf8(peer.get(&b"ip"[..])?.bytes()?).ok()?;
    let port = peer.get(&b"port"[..])?.integer()?;
    Some((ip.parse().ok()?, u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn decode(body: &[u8]) -> AnnounceReply {
        decode_http_reply(body).expect("a reply")
    }

    fn peers_of(body: &[u8]) -> Vec<String> {
        decode(body).peers.iter().map(ToString::to_string).collect()
    }

    fn query() -> AnnounceQuery {
        AnnounceQuery {
            info_hash: *b"\x12\x34\x56\x78\x9a\xbc\xde\xf1\x23\x45\x67\x89\xab\xcd\xef\x12\x34\x56\x78\x9a",
            peer_id: PeerId(*b"-SF0010-abc ~_.%&=+/"),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: u64::MAX,
            event: Event::Started,
            numwant: 200,
            key: 0xBEEF,
            tracker_id: None,
        }
    }

    #[test]
    fn queries_are_escaped_byte_by_byte() {
        assert_eq!(
            announce_query(&query()),
            "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-SF0010-abc%20~_.%25%26%3D%2B%2F\
             &port=6881&uploaded=1&downloaded=2&left=18446744073709551615&compact=1&numwant=200&key=0000beef&event=started"
        );
        let later = AnnounceQuery { event: Event::None, tracker_id: Some(b"a&b\0".to_vec()), ..query() };
        assert!(announce_query(&later).ends_with("&key=0000beef&trackerid=a%26b%00"));
        let ends = |event| announce_query(&AnnounceQuery { event, ..query() });
        assert!(ends(Event::Stopped).ends_with("&event=stopped"));
        assert!(ends(Event::Completed).ends_with("&event=completed"));
        assert!(ends(Event::Paused).ends_with("&event=paused"));
    }

    #[test]
    fn a_trackers_own_query_stays() {
        for (tracker, begins) in [
            ("http://t.example/announce", "http://t.example/announce?info_hash="),
            ("http://t.example/announce?passkey=x", "http://t.example/announce?passkey=x&info_hash="),
            ("http://t.example/announce?passkey=x&", "http://t.example/announce?passkey=x&info_hash="),
            ("http://t.example/announce?", "http://t.example/announce?info_hash="),
            ("http://t.example/announce#part", "http://t.example/announce?info_hash="),
        ] {
            assert!(announce_url(tracker, &query()).starts_with(begins), "{tracker}");
        }
    }

    #[test]
    fn compact_peers_of_both_families() {
        assert_eq!(
            peers_of(b"d5:peers12:\x01\x02\x03\x040\x10\x09\x08\x07\x06 \x10e"),
            ["1.2.3.4:12304", "9.8.7.6:8208"]
        );
        let six =
            b"d6:peers636: \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x010\x10 \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02 \x10e";
        assert_eq!(peers_of(six), ["[2001:db8::1]:12304", "[2001:db8::2]:8208"]);
        let both = decode(b"d8:intervali1800e5:peers6:iiiipp6:peers618:iiiiiiiiiiiiiiiippe");
        assert_eq!(both.peers.len(), 2);
        assert_eq!(both.interval, Some(1800));
    }

    #[test]
    fn a_cut_peer_string_gives_its_whole_entries() {
        assert_eq!(peers_of(b"d5:peers7:\x01\x02\x03\x040\x10\x01e"), ["1.2.3.4:12304"]);
        assert_eq!(
            peers_of(b"d6:peers619:\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01e")
                .len(),
            1
        );
        assert!(peers_of(b"d5:peers5:\x01\x02\x03\x040e").is_empty());
        assert_eq!(peers_of(b"d5:peers6:\x01\x02\x03\x040\x10etrailing bytes"), ["1.2.3.4:12304"]);
    }

    #[test]
    fn impossible_and_repeated_peers_are_left_out() {
        let entries: [[u8; 6]; 6] = [
            [1, 2, 3, 4, 0, 0],
            [0, 0, 0, 0, 1, 1],
            [224, 0, 0, 1, 1, 1],
            [255, 255, 255, 255, 1, 1],
            [1, 2, 3, 4, 1, 1],
            [1, 2, 3, 4, 1, 1],
        ];
        let mut body = [b"d5:peers36:".as_slice(), entries.as_flattened(), b"6:peers618:"].concat();
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4, 1, 1]);
        body.push(b'e');
        assert_eq!(peers_of(&body), ["1.2.3.4:257"], "a mapped IPv4 address is the IPv4 address");
    }

    #[test]
    fn at_most_a_thousand_peers_are_taken() {
        let mut body = b"d5:peers30000:".to_vec();
        for n in 0..5_000u16 {
            body.extend([10, 0]);
            body.extend(n.to_be_bytes());
            body.extend([1, 1]);
        }
        body.push(b'e');
        assert_eq!(decode(&body).peers.len(), MAX_PEERS);
    }

    #[test]
    fn listed_peers_count_if_they_are_addresses() {
        let list = |entry: &str| peers_of(format!("d5:peersl{entry}ee").as_bytes());
        assert_eq!(list("d2:ip9:127.0.0.14:porti1000ee"), ["127.0.0.1:1000"]);
        assert_eq!(list("d2:ip3:::14:porti1000ee"), ["[::1]:1000"]);
        for entry in [
            "d7:peer id20:aaaaaaaaaaaaaaaaaaaa2:ip13:test_hostname4:porti1000eed7:peer id20:bbbbabaababababababa2:ip12:another_host4:porti1001ee",
            "d7:peer id20:abababababababababab2:ip4:abcd4:porti1337ee",
            "d2:ip11:example.com4:porti1ee",
            "d7:peer id20:abababababababababab4:porti1337ee",
            "d7:peer id20:abababababababababab2:ip4:abcde",
            "d2:ip7:1.2.3.44:porti-1ee",
            "d2:ip7:1.2.3.44:porti65536ee",
            "d2:ip7:1.2.3.44:port2:80e",
            "i5e",
        ] {
            assert!(list(entry).is_empty(), "{entry}");
        }
    }

    #[test]
    fn intervals_warnings_and_addresses() {
        let reply = decode(b"d8:intervali1042e12:min intervali10e5:peers0:e");
        assert_eq!((reply.interval, reply.min_interval), (Some(1042), Some(10)));
        assert_eq!(decode(b"d5:peers0:15:warning message12:test messagee").warning.as_deref(), Some("test message"));
        let v4 = decode(b"d5:peers0:11:external ip4:\x01\x02\x03\x04e").external_ip;
        assert_eq!(v4, Some(Ipv4Addr::new(1, 2, 3, 4).into()));
        let v6 = decode(b"d5:peers0:11:external ip16:\xf1\x02\x03\x04\0\0\0\0\0\0\0\0\0\0\xff\xffe").external_ip;
        assert_eq!(v6, Some("f102:304::ffff".parse().unwrap()));
        let counts = decode(b"d8:completei3e10:incompletei-1e8:intervali-5e10:tracker id3:xyze");
        assert_eq!((counts.complete, counts.incomplete, counts.interval), (Some(3), None, Some(-5)));
        assert_eq!(counts.tracker_id.as_deref(), Some(&b"xyz"[..]));
        assert_eq!(decode(b"d8:interval4:18005:peersi7ee"), AnnounceReply::default(), "wrong types");
        let scrape =
            b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:incompletei2e10:downloadedi3e11:downloadersi6eeee";
        assert_eq!(decode(scrape), AnnounceReply::default(), "a scrape names no peers");
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        assert_eq!(
            decode_http_reply(b"d5:peers0:14:failure reason12:test messagee"),
            Err(TrackerError::Failure("test message".to_owned()))
        );
        let hostile = format!("d14:failure reason{}:{}e", 3 + 5_000, "\x1b[m".to_owned() + &"x".repeat(5_000));
        let Err(TrackerError::Failure(reason)) = decode_http_reply(hostile.as_bytes()) else { panic!("a failure") };
        assert_eq!(reason.len(), MAX_TEXT);
        assert!(!reason.contains('\x1b'));
        assert_eq!(decode_http_reply(b""), Err(TrackerError::Empty));
        let bomb = b"l".repeat(20_000);
        let inner_bomb = [b"d5:peers", &bomb[..]].concat();
        for body in [
            &b"<html><body>hello</body></html>"[..],
            b"2:ip11:example.com",
            b"le",
            b"i5e",
            b"d5:peers",
            &bomb,
            &inner_bomb,
        ] {
            assert_eq!(decode_http_reply(body), Err(TrackerError::Bencode));
        }
    }
}
