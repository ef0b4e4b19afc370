//! What HTTP clients ask and are answered, as bytes (BEP 3, 7, 23, 24, 48). Queries are taken apart by hand: info-hashes
//! are bytes, and what decodes them as text breaks them.

use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};

use super::registry::Answer;
use crate::wire::{AnnounceQuery, Event, MAX_SCRAPE, PeerId, ScrapeEntry};

/// How an asker wants its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 6 or 18 bytes each (BEP 23, BEP 7).
    Compact,
    /// A list of dictionaries (BEP 3), with or without `peer id`.
    List { peer_ids: bool },
}

/// The values of a parameter, as they came.
fn values<'a>(query: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(name, _)| *name == key).map(|(_, value)| value)
}

/// The bytes behind a value: `%` and two digits are one, everything else is itself; nothing if an escape is broken.
fn unescape(value: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let ([high, low], tail) = tail.split_first_chunk()?;
            out.push(digit(*high)? << 4 | digit(*low)?);
            rest = tail;
        } else {
            out.push(first);
        }
    }
    Some(out)
}

fn twenty(value: &str) -> Option<[u8; 20]> {
    unescape(value)?.try_into().ok()
}

/// Reads the query of an announce. `ip` is ignored: whoever believes it lets anybody name anybody.
///
/// # Errors
/// A failure reason.
pub(super) fn announce(query: &str) -> Result<(AnnounceQuery, Form), &'static str> {
    let text = |key| values(query, key).next();
    let bytes = |key, missing, wrong| twenty(text(key).ok_or(missing)?).ok_or(wrong);
    let info_hash = bytes("info_hash", "info_hash is missing", "info_hash is not 20 bytes")?;
    let peer_id = PeerId(bytes("peer_id", "peer_id is missing", "peer_id is not 20 bytes")?);
    let port = text("port").ok_or("port is missing")?.parse().map_err(|_| "port is not a number up to 65535")?;
    let number = |key| text(key).and_then(|value| value.parse().ok());
    let event = match text("event") {
        Some("started") => Event::Started,
        Some("stopped") => Event::Stopped,
        Some("completed") => Event::Completed,
        _ => Event::None,
    };
    let form = if text("compact") == Some("0") {
        Form::List { peer_ids: text("no_peer_id") != Some("1") }
    } else {
        Form::Compact
    };
    let query = AnnounceQuery {
        info_hash,
        peer_id,
        port,
        uploaded: number("uploaded").unwrap_or(0),
        downloaded: number("downloaded").unwrap_or(0),
        // Who does not say so has not got everything: a magnet link's peer does not know.
        left: number("left").unwrap_or(u64::MAX),
        event,
        // As -1 over UDP: as many as the tracker likes.
        numwant: text("numwant").and_then(|value| value.parse().ok()).unwrap_or(u32::MAX),
        key: text("key").map_or(0, key),
        tracker_id: None,
    };
    Ok((query, form))
}

/// A client's key as the number that it sends over UDP, if it is one (libtorrent, Transmission), else one that stands
/// for its bytes (aria2 sends a part of its peer id).
fn key(text: &str) -> u32 {
    if (1..=8).contains(&text.len())
        && let Ok(number) = u32::from_str_radix(text, 16)
    {
        return number;
    }
    let hash = Sha256::digest(text.as_bytes());
    hash.first_chunk().map_or(0, |head| u32::from_be_bytes(*head))
}

/// Reads the query of a scrape: its first [`MAX_SCRAPE`] info-hashes.
///
/// # Errors
/// A failure reason.
pub(super) fn scrape(query: &str) -> Result<Vec<[u8; 20]>, &'static str> {
    let hashes =
        values(query, "info_hash").take(MAX_SCRAPE).map(|value| twenty(value).ok_or("info_hash is not 20 bytes"));
    let hashes: Vec<_> = hashes.collect::<Result<_, _>>()?;
    if hashes.is_empty() {
        Err("scrape needs an info_hash: this tracker does not list its torrents")
    } else {
        Ok(hashes)
    }
}

/// A failure, which is a reply like any other (BEP 3).
pub(super) fn failure(reason: &str) -> Vec<u8> {
    let mut out = b"d".to_vec();
    entry(&mut out, "failure reason", reason.as_bytes());
    out.push(b'e');
    out
}

/// The reply to an announce from `asker`; times in seconds.
pub(super) fn announce_reply(answer: &Answer, form: Form, asker: IpAddr, interval: u64, min_interval: u64) -> Vec<u8> {
    let mut out = b"d".to_vec();
    number(&mut out, "complete", answer.complete.into());
    entry(&mut out, "external ip", &octets(asker));
    number(&mut out, "incomplete", answer.incomplete.into());
    number(&mut out, "interval", interval);
    number(&mut out, "min interval", min_interval);
    match form {
        Form::Compact => {
            let compact = |v4: bool| {
                let peers = answer.peers.iter().map(|(_, addr)| addr).filter(|addr| addr.is_ipv4() == v4);
                peers
                    .flat_map(|addr| [&octets(addr.ip())[..], &addr.port().to_be_bytes()].concat())
                    .collect::<Vec<u8>>()
            };
            entry(&mut out, "peers", &compact(true));
            let six = compact(false);
            if asker.is_ipv6() || !six.is_empty() {
                entry(&mut out, "peers6", &six);
            }
        }
        Form::List { peer_ids } => {
            string(&mut out, b"peers");
            out.push(b'l');
            for (id, addr) in &answer.peers {
                listed(&mut out, peer_ids.then_some(id), *addr);
            }
            out.push(b'e');
        }
    }
    out.push(b'e');
    out
}

fn listed(out: &mut Vec<u8>, id: Option<&PeerId>, addr: SocketAddr) {
    out.push(b'd');
    entry(out, "ip", addr.ip().to_string().as_bytes());
    if let Some(id) = id {
        entry(out, "peer id", &id.0);
    }
    number(out, "port", addr.port().into());
    out.push(b'e');
}

/// The reply to a scrape (BEP 48): torrents that are not known are left out. Each info-hash once, in order.
pub(super) fn scrape_reply(files: &std::collections::BTreeMap<[u8; 20], ScrapeEntry>) -> Vec<u8> {
    let mut out = b"d5:filesd".to_vec();
    for (info_hash, figures) in files {
        string(&mut out, info_hash);
        out.push(b'd');
        number(&mut out, "complete", figures.complete.into());
        number(&mut out, "downloaded", figures.downloaded.into());
        number(&mut out, "incomplete", figures.incomplete.into());
        out.push(b'e');
    }
    out.extend_from_slice(b"ee");
    out
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

fn entry(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    string(out, key.as_bytes());
    string(out, value);
}

fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    string(out, key.as_bytes());
    out.extend_from_slice(format!("i{value}e").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{announce_query, decode_http_reply};

    fn asked() -> AnnounceQuery {
        AnnounceQuery {
            info_hash: *b"\0\x01 %&+=~\x7f\x80\xff/?#abcdef",
            peer_id: PeerId(*b"-SF0010-abc ~_.%&=+/"),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: u64::MAX,
            event: Event::Completed,
            numwant: 30,
            key: 0xBEEF,
            tracker_id: None,
        }
    }

    #[test]
    fn an_announce_is_read_as_our_client_writes_it() {
        for event in [Event::None, Event::Started, Event::Stopped, Event::Completed] {
            let query = AnnounceQuery { event, ..asked() };
            assert_eq!(announce(&announce_query(&query)), Ok((query, Form::Compact)));
        }
    }

    #[test]
    fn what_is_left_out_has_a_default_and_what_is_wrong_a_reason() {
        let need = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1";
        let (query, form) = announce(need).expect("all that is needed");
        assert_eq!((query.left, query.numwant, query.key, query.event), (u64::MAX, u32::MAX, 0, Event::None));
        assert_eq!(form, Form::Compact);
        let form = |more: &str| announce(&format!("{need}&{more}")).map(|(_, form)| form);
        assert_eq!(form("compact=0"), Ok(Form::List { peer_ids: true }));
        assert_eq!(form("compact=0&no_peer_id=1"), Ok(Form::List { peer_ids: false }));
        assert_eq!(form("left=-1&numwant=-1&uploaded=x&event=paused&ip=192.0.2.1&&&=&x"), Ok(Form::Compact));
        let plus = announce(&need.replace("aaaaaaaaaaaaaaaaaaaa", "+aaaaaaaaaaaaaaaaaa%2B")).expect("a plus is a plus");
        assert_eq!(plus.0.info_hash, *b"+aaaaaaaaaaaaaaaaaa+");
        for (query, reason) in [
            ("", "info_hash is missing"),
            ("port=1&peer_id=bbbbbbbbbbbbbbbbbbbb", "info_hash is missing"),
            (&need.replace("aaaa&", "aaa&"), "info_hash is not 20 bytes"),
            (&need.replace("aaaa&", "aaa%&"), "info_hash is not 20 bytes"),
            (&need.replace("aaaa&", "aaa%4&"), "info_hash is not 20 bytes"),
            (&need.replace("aaaa&", "aaa%zz&"), "info_hash is not 20 bytes"),
            (&need.replace("aaaa&", "aaaaa&"), "info_hash is not 20 bytes"),
            (&need.replace("peer_id", "peerid"), "peer_id is missing"),
            (&need.replace("bb&", "b&"), "peer_id is not 20 bytes"),
            (&need.replace("&port=1", ""), "port is missing"),
            (&need.replace("port=1", "port=65536"), "port is not a number up to 65535"),
            (&need.replace("port=1", "port=-1"), "port is not a number up to 65535"),
        ] {
            assert_eq!(announce(query), Err(reason), "{query}");
        }
    }

    #[test]
    fn keys_of_any_form_tell_peers_apart() {
        assert_eq!((key("0000beef"), key("BEEF")), (0xBEEF, 0xBEEF));
        assert_ne!(key("-wxyz123"), key("-wxyz124"));
        assert_ne!(key("0123456789"), key("123456789"));
        assert_ne!(key(""), key("-"));
    }

    #[test]
    fn scrapes_name_their_torrents() {
        let one = format!("info_hash={}", "%00".repeat(20));
        assert_eq!(scrape(&one), Ok(vec![[0; 20]]));
        assert_eq!(scrape(&vec![one.as_str(); 200].join("&")).map(|all| all.len()), Ok(MAX_SCRAPE));
        assert!(scrape("").is_err_and(|reason| reason.contains("does not list")));
        assert_eq!(scrape("info_hash=x"), Err("info_hash is not 20 bytes"));
        let figures = ScrapeEntry { complete: 1, downloaded: 2, incomplete: 3 };
        assert_eq!(
            scrape_reply(&[([b'a'; 20], figures)].into()),
            b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi2e10:incompletei3eeee"
        );
        assert_eq!(scrape_reply(&[].into()), b"d5:filesdee");
    }

    #[test]
    fn replies_are_what_clients_read() {
        let peers = ["10.0.0.1:80", "[fd00::1]:81"].map(|addr| (PeerId([b'p'; 20]), addr.parse().expect("an address")));
        let answer = Answer { complete: 1, incomplete: 2, peers: peers.to_vec() };
        let asker: IpAddr = [192, 0, 2, 1].into();
        for form in [Form::Compact, Form::List { peer_ids: true }, Form::List { peer_ids: false }] {
            let body = announce_reply(&answer, form, asker, 1800, 900);
            let reply = decode_http_reply(&body).expect("a reply");
            assert_eq!(reply.peers, peers.map(|(_, addr)| addr), "{form:?}");
            assert_eq!((reply.complete, reply.incomplete), (Some(1), Some(2)));
            assert_eq!((reply.interval, reply.min_interval), (Some(1800), Some(900)));
            assert_eq!(reply.external_ip, Some(asker));
        }
        let list = announce_reply(&answer, Form::List { peer_ids: true }, asker, 5, 2);
        assert!(list.ends_with(b"5:peersld2:ip8:10.0.0.17:peer id20:pppppppppppppppppppp4:porti80eed2:ip7:fd00::17:peer id20:pppppppppppppppppppp4:porti81eeee"));
        let none = Answer { peers: Vec::new(), ..answer };
        let six = announce_reply(&none, Form::Compact, "fd00::2".parse().expect("an address"), 5, 2);
        assert!(six.ends_with(b"5:peers0:6:peers60:e"));
        assert_eq!(failure("no"), b"d14:failure reason2:noe");
    }

    proptest::proptest! {
        #[test]
        fn no_query_does_any_harm(query in "([a-z_]{0,9}=[ -~]{0,70}&?){0,9}", hash: [u8; 20]) {
            let _ = (announce(&query), scrape(&query));
            let asked = AnnounceQuery { info_hash: hash, ..asked() };
            let read = announce(&announce_query(&asked)).map(|(query, _)| query);
            proptest::prop_assert_eq!(read, Ok(asked));
        }
    }
}
