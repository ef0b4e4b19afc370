//! The datagrams between a client and a UDP tracker, both ways (BEP 15, BEP 41). Integers are big-endian.

use std::net::SocketAddr;

use super::compact;
use super::tracker::{AnnounceQuery, Event, MAX_PEERS};
use super::{PeerId, printable};

/// What a connect request begins with, in place of a connection id.
const PROTOCOL: u64 = 0x0417_2710_1980;
/// The longest text of a tracker that is shown, characters.
const MAX_TEXT: usize = 256;
/// Info-hashes that one scrape may hold (BEP 15).
pub const MAX_SCRAPE: usize = 74;
/// Bytes of an announce before its options (BEP 41).
const ANNOUNCE: usize = 98;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UdpRequest {
    /// A connection id is wanted.
    Connect {
        /// Comes back in the reply.
        transaction: u32,
    },
    /// An announce.
    Announce {
        /// From the reply to a connect request.
        connection: u64,
        /// Comes back in the reply.
        transaction: u32,
        /// What is announced; `tracker_id` is not sent.
        query: AnnounceQuery,
        /// The path and query of the tracker's URL (BEP 41), empty if none; not sent past 64 KiB.
        url_data: Vec<u8>,
    },
    /// Figures of some torrents.
    Scrape {
        /// From the reply to a connect request.
        connection: u64,
        /// Comes back in the reply.
        transaction: u32,
        /// The torrents, at most [`MAX_SCRAPE`].
        info_hashes: Vec<[u8; 20]>,
    },
}

/// The figures of one torrent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeEntry {
    /// Seeds.
    pub complete: u32,
    /// Announces of `completed` so far.
    pub downloaded: u32,
    /// Leechers.
    pub incomplete: u32,
}

/// What a tracker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UdpReply {
    /// A connection id.
    Connect {
        /// That of the request.
        transaction: u32,
        /// Good for a minute at the client, two at the tracker.
        connection: u64,
    },
    /// Peers.
    Announce {
        /// That of the request.
        transaction: u32,
        /// Seconds to the next announce.
        interval: u32,
        /// Leechers.
        leechers: u32,
        /// Seeds.
        seeders: u32,
        /// Peers, all of one address family: that of the datagram.
        peers: Vec<SocketAddr>,
    },
    /// Figures, in the order asked.
    Scrape {
        /// That of the request.
        transaction: u32,
        /// One for each info-hash.
        entries: Vec<ScrapeEntry>,
    },
    /// A refusal.
    Error {
        /// That of the request.
        transaction: u32,
        /// The tracker's own words, printable.
        message: String,
    },
}

/// Why a datagram is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UdpError {
    /// Too few bytes.
    #[error("the datagram is too short")]
    Short,
    /// No action that is known, or a connect request without its magic number.
    #[error("the datagram is none of this protocol")]
    Unknown,
}

/// Takes big-endian integers off the front of a datagram.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], UdpError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(UdpError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, UdpError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, UdpError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, UdpError> {
        self.take().map(u64::from_be_bytes)
    }
}

/// Reads a client's datagram. The first 16 bytes decide; what follows is checked for its length alone.
///
/// # Errors
/// [`UdpError`]: such a datagram is not answered.
pub fn decode_udp_request(bytes: &[u8]) -> Result<UdpRequest, UdpError> {
    let mut cursor = Cursor(bytes);
    let (connection, action, transaction) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
    match action {
        0 if connection == PROTOCOL => Ok(UdpRequest::Connect { transaction }),
        1 => {
            let (info_hash, peer_id) = (cursor.take()?, PeerId(cursor.take()?));
            let (downloaded, left, uploaded) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
            let event = match cursor.u32()? {
                1 => Event::Completed,
                2 => Event::Started,
                3 => Event::Stopped,
                _ => Event::None,
            };
            let _own_address = cursor.u32()?; // whoever believes it lets anybody name anybody
            let (key, numwant, port) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
            let query = AnnounceQuery {
                info_hash,
                peer_id,
                port,
                uploaded,
                downloaded,
                left,
                event,
                numwant,
                key,
                tracker_id: None,
            };
            Ok(UdpRequest::Announce { connection, transaction, query, url_data: url_data(cursor.0) })
        }
        2 => {
            let info_hashes = cursor.0.chunks_exact(20).take(MAX_SCRAPE).filter_map(|hash| hash.try_into().ok());
            let info_hashes: Vec<[u8; 20]> = info_hashes.collect();
            if info_hashes.is_empty() {
                return Err(UdpError::Short);
            }
            Ok(UdpRequest::Scrape { connection, transaction, info_hashes })
        }
        _ => Err(UdpError::Unknown),
    }
}

/// The options behind an announce (BEP 41): the parts of the URL, joined. What is cut short ends them.
fn url_data(mut options: &[u8]) -> Vec<u8> {
    let mut url = Vec::new();
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                let Some((part, rest)) = rest.split_first().and_then(|(&n, rest)| rest.split_at_checked(n.into()))
                else {
                    break;
                };
                if kind == 2 {
                    url.extend_from_slice(part);
                }
                options = rest;
            }
        }
    }
    url
}

/// A client's datagram.
#[must_use]
pub fn encode_udp_request(request: &UdpRequest) -> Vec<u8> {
    let mut out = Vec::with_capacity(ANNOUNCE);
    let mut head = |connection: u64, action: u32, transaction: u32| {
        out.extend(connection.to_be_bytes());
        out.extend(action.to_be_bytes());
        out.extend(transaction.to_be_bytes());
    };
    match request {
        UdpRequest::Connect { transaction } => head(PROTOCOL, 0, *transaction),
        UdpRequest::Announce { connection, transaction, query, url_data } => {
            head(*connection, 1, *transaction);
            out.extend(query.info_hash);
            out.extend(query.peer_id.0);
            out.extend([query.downloaded, query.left, query.uploaded].iter().flat_map(|n| n.to_be_bytes()));
            let event: u32 = match query.event {
                Event::None | Event::Paused => 0,
                Event::Completed => 1,
                Event::Started => 2,
                Event::Stopped => 3,
            };
            out.extend([event, 0, query.key, query.numwant].iter().flat_map(|n| n.to_be_bytes()));
            out.extend(query.port.to_be_bytes());
            if url_data.len() <= usize::from(u16::MAX) {
                for part in url_data.chunks(usize::from(u8::MAX)) {
                    out.push(2);
                    out.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                    out.extend_from_slice(part);
                }
            }
        }
        UdpRequest::Scrape { connection, transaction, info_hashes } => {
            head(*connection, 2, *transaction);
            out.extend(info_hashes.iter().take(MAX_SCRAPE).flatten());
        }
    }
    out
}

/// Reads a tracker's datagram. `v6`: it came over IPv6, so its peers are 18 bytes each.
///
/// # Errors
/// [`UdpError`]: such a datagram is ignored.
pub fn decode_udp_reply(bytes: &[u8], v6: bool) -> Result<UdpReply, UdpError> {
    let mut cursor = Cursor(bytes);
    let (action, transaction) = (cursor.u32()?, cursor.u32()?);
    match action {
        0 => Ok(UdpReply::Connect { transaction, connection: cursor.u64()? }),
        1 => {
            let (interval, leechers, seeders) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
            let peers = compact::peers(cursor.0, v6).take(MAX_PEERS).collect();
            Ok(UdpReply::Announce { transaction, interval, leechers, seeders, peers })
        }
        2 => {
            let mut entries = Vec::new();
            while !cursor.0.is_empty() && entries.len() < MAX_SCRAPE {
                let (complete, downloaded, incomplete) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
                entries.push(ScrapeEntry { complete, downloaded, incomplete });
            }
            Ok(UdpReply::Scrape { transaction, entries })
        }
        3 => Ok(UdpReply::Error { transaction, message: printable(cursor.0, MAX_TEXT) }),
        _ => Err(UdpError::Unknown),
    }
}

/// A tracker's datagram. Peers are written in the form of their own family: give those of the datagram's family alone.
#[must_use]
pub fn encode_udp_reply(reply: &UdpReply) -> Vec<u8> {
    let mut out = Vec::new();
    let mut head = |action: u32, transaction: u32| {
        out.extend(action.to_be_bytes());
        out.extend(transaction.to_be_bytes());
    };
    match reply {
        UdpReply::Connect { transaction, connection } => {
            head(0, *transaction);
            out.extend(connection.to_be_bytes());
        }
        UdpReply::Announce { transaction, interval, leechers, seeders, peers } => {
            head(1, *transaction);
            out.extend([interval, leechers, seeders].iter().flat_map(|n| n.to_be_bytes()));
            peers.iter().for_each(|&peer| compact::put(peer, &mut out));
        }
        UdpReply::Scrape { transaction, entries } => {
            head(2, *transaction);
            out.extend(
                entries.iter().flat_map(|e| [e.complete, e.downloaded, e.incomplete]).flat_map(u32::to_be_bytes),
            );
        }
        UdpReply::Error { transaction, message } => {
            head(3, *transaction);
            out.extend_from_slice(message.as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> AnnounceQuery {
        AnnounceQuery {
            info_hash: [1; 20],
            peer_id: PeerId([2; 20]),
            port: 6881,
            uploaded: 3,
            downloaded: 4,
            left: u64::MAX,
            event: Event::Started,
            numwant: 50,
            key: 0xdead_beef,
            tracker_id: None,
        }
    }

    #[test]
    fn requests_come_back_as_they_went() {
        let url_data = b"/announce?passkey=".iter().copied().chain([b'x'; 600]).collect::<Vec<u8>>();
        for request in [
            UdpRequest::Connect { transaction: 7 },
            UdpRequest::Announce { connection: 9, transaction: 8, query: query(), url_data },
            UdpRequest::Announce { connection: 9, transaction: 8, query: query(), url_data: Vec::new() },
            UdpRequest::Scrape { connection: 1, transaction: 2, info_hashes: vec![[3; 20], [4; 20]] },
        ] {
            assert_eq!(decode_udp_request(&encode_udp_request(&request)), Ok(request));
        }
    }

    #[test]
    fn an_announce_has_the_layout_of_bep_15() {
        let request = UdpRequest::Announce { connection: 9, transaction: 8, query: query(), url_data: b"/a".to_vec() };
        let bytes = encode_udp_request(&request);
        assert_eq!(bytes.len(), ANNOUNCE + 4);
        assert_eq!(bytes[8..16], [0, 0, 0, 1, 0, 0, 0, 8]);
        assert_eq!(bytes[16..36], [1; 20]);
        assert_eq!(bytes[80..84], [0, 0, 0, 2], "started");
        assert_eq!(bytes[92..98], [0, 0, 0, 50, 0x1a, 0xe1]);
        assert_eq!(bytes[98..], [2, 2, b'/', b'a']);
        assert_eq!(encode_udp_request(&UdpRequest::Connect { transaction: 1 })[..8], PROTOCOL.to_be_bytes());
    }

    #[test]
    fn replies_come_back_as_they_went() {
        let v4 = vec!["127.0.0.1:5".parse().unwrap(), "10.1.2.3:65535".parse().unwrap()];
        let v6 = vec!["[::1]:5".parse().unwrap()];
        let announce = |peers| UdpReply::Announce { transaction: 1, interval: 1800, leechers: 2, seeders: 3, peers };
        let entries = vec![ScrapeEntry { complete: 1, downloaded: 2, incomplete: 3 }; 2];
        for (reply, family) in [
            (UdpReply::Connect { transaction: 5, connection: u64::MAX }, false),
            (announce(v4), false),
            (announce(v6), true),
            (UdpReply::Scrape { transaction: 4, entries }, false),
            (UdpReply::Error { transaction: 4, message: "not here".into() }, true),
        ] {
            assert_eq!(decode_udp_reply(&encode_udp_reply(&reply), family), Ok(reply));
        }
    }

    #[test]
    fn impossible_peers_and_a_rest_are_left_out() {
        let mut bytes = [0, 0, 0, 1, 0, 0, 0, 9].to_vec();
        bytes.extend([0; 12]);
        bytes.extend([10, 0, 0, 1, 0, 0, 10, 0, 0, 2, 0, 7, 224, 0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 7, 10, 0]);
        let Ok(UdpReply::Announce { peers, .. }) = decode_udp_reply(&bytes, false) else { panic!() };
        assert_eq!(peers, ["10.0.0.2:7".parse().unwrap()]);
        bytes.truncate(20);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 3, 0, 7]);
        let Ok(UdpReply::Announce { peers, .. }) = decode_udp_reply(&bytes, true) else { panic!() };
        assert_eq!(peers, ["10.0.0.3:7".parse().unwrap()], "a mapped IPv4 address is the IPv4 address");
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_does_any_harm(bytes: Vec<u8>, v6: bool) {
            let _ = decode_udp_request(&bytes);
            let _ = decode_udp_reply(&bytes, v6);
        }

        #[test]
        fn no_cut_datagram_does_any_harm(cut in 0usize..120, action in 0u8..5) {
            let mut bytes = encode_udp_request(&UdpRequest::Announce {
                connection: PROTOCOL, transaction: 8, query: query(), url_data: vec![1; 300],
            });
            bytes[11] = action;
            bytes.truncate(cut);
            let _ = decode_udp_request(&bytes);
        }
    }
}
