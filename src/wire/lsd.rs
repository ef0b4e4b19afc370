//! Local service discovery (BEP 14): a datagram in the form of an HTTP request that says which torrents its sender has, to
//! whoever listens on the local network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// Where announces go over IPv4 (BEP 14).
pub const LSD_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 192, 152, 143)), 6771);
/// Where announces go over IPv6 (BEP 14).
pub const LSD_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xFF15, 0, 0, 0, 0, 0, 0xEFC0, 0x988F)), 6771);
/// The most torrents of one datagram: 20 of 52 bytes each and the rest stay under the 1,400 bytes that BEP 14 allows.
pub const MAX_LSD_TORRENTS: usize = 20;
/// The longest datagram that is read, bytes; ours are under 1,400.
pub const MAX_LSD: usize = 1500;
/// The first line.
const REQUEST: &str = "BT-SEARCH * HTTP/1.1";

/// An announce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LsdAnnounce {
    /// The port where the sender listens; its address is the datagram's.
    pub port: u16,
    /// The torrents that it has.
    pub info_hashes: Vec<[u8; 20]>,
    /// What it knows its own datagrams by, as text.
    pub cookie: Option<String>,
}

impl LsdAnnounce {
    /// A datagram for this group; [`MAX_LSD_TORRENTS`] of the torrents.
    #[must_use]
    pub fn encode(&self, group: SocketAddr) -> Vec<u8> {
        let mut text = format!("{REQUEST}\r\nHost: {group}\r\nPort: {}\r\n", self.port);
        for hash in self.info_hashes.iter().take(MAX_LSD_TORRENTS) {
            text += &format!("Infohash: {}\r\n", HEXLOWER.encode(hash));
        }
        if let Some(cookie) = &self.cookie {
            text += &format!("cookie: {cookie}\r\n");
        }
        (text + "\r\n\r\n").into_bytes()
    }

    /// Reads a datagram. None if it is no announce, or names no port or no torrent. Hashes that are not 40 hexadecimal
    /// digits and headers that we do not know are ignored.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram.get(..datagram.len().min(MAX_LSD))?).ok()?;
        let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
        if lines.next()? != REQUEST {
            return None;
        }
        let mut announce = Self::default();
        for (name, value) in lines.map_while(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("port") {
                announce.port = value.parse().ok().filter(|&port| port != 0)?;
            } else if name.eq_ignore_ascii_case("infohash") {
                announce.info_hashes.extend(info_hash(value));
            } else if name.eq_ignore_ascii_case("cookie") {
                announce.cookie = Some(value.to_owned());
            }
        }
        (announce.port != 0 && !announce.info_hashes.is_empty()).then_some(announce)
    }
}

fn info_hash(hex: &str) -> Option<[u8; 20]> {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789ABCDEF01234567";

    #[test]
    fn a_datagram_is_what_the_specification_says() {
        let info_hashes = vec![[0xAB; 20], [1; 20]];
        let announce = LsdAnnounce { port: 6881, info_hashes, cookie: Some("c00c1e".to_owned()) };
        let text = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: {}\r\nInfohash: {}\r\ncookie: c00c1e\r\n\r\n\r\n",
            "ab".repeat(20),
            "01".repeat(20)
        );
        assert_eq!(String::from_utf8_lossy(&announce.encode(LSD_V4)), text);
        assert_eq!(LsdAnnounce::decode(text.as_bytes()), Some(announce.clone()));
        assert!(String::from_utf8_lossy(&announce.encode(LSD_V6)).contains("\r\nHost: [ff15::efc0:988f]:6771\r\n"));
        let most = LsdAnnounce { info_hashes: vec![[7; 20]; 50], ..announce };
        assert!(most.encode(LSD_V6).len() <= 1400);
    }

    #[test]
    fn foreign_ones_are_read() {
        // libtorrent's order and case, and one that has no cookie, odd spaces and single line feeds.
        let text =
            format!("BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 1\r\nInfohash: {HEX}\r\n\r\n\r\n");
        assert_eq!(LsdAnnounce::decode(text.as_bytes()).unwrap().info_hashes.len(), 1);
        let text = format!("BT-SEARCH * HTTP/1.1\nINFOHASH:{HEX}\nport:   65535\nx: y\n\nInfohash: {HEX}\n");
        let read = LsdAnnounce::decode(text.as_bytes()).unwrap();
        assert_eq!((read.port, read.info_hashes.len(), read.cookie), (65535, 1, None), "the headers end");
    }

    #[test]
    fn what_is_no_announce_is_none() {
        for text in [
            String::new(),
            format!("M-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {HEX}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {HEX}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: {HEX}\r\n\r\n"),
            format!("BT-SEARCH * HTTP/1.1\r\nInfohash: {HEX}\r\n\r\n"),
            "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\r\n".to_owned(),
            "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: +123456789abcdef0123456789abcdef01234567\r\n\r\n".to_owned(),
            format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {HEX}0\r\n\r\n"),
        ] {
            assert_eq!(LsdAnnounce::decode(text.as_bytes()), None, "{text}");
        }
        assert_eq!(LsdAnnounce::decode(b"BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\xff"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, text in "\\PC*") {
            let _ = LsdAnnounce::decode(&bytes);
            let _ = LsdAnnounce::decode(format!("BT-SEARCH * HTTP/1.1\r\nPort: 5\r\nInfohash: {text}").as_bytes());
        }

        #[test]
        fn what_is_written_is_read(port in 1u16.., hashes in proptest::collection::vec(any::<[u8; 20]>(), 1..=20)) {
            let announce = LsdAnnounce { port, info_hashes: hashes, cookie: None };
            prop_assert_eq!(LsdAnnounce::decode(&announce.encode(LSD_V6)), Some(announce));
        }
    }
}
