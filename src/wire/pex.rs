//! Peer exchange, `ut_pex` (BEP 11): whom the sender has connected to and lost since its last message.

use std::net::SocketAddr;

use super::{DecodeError, bencode, compact};

/// The id by which peers send us ut_pex.
pub const OUR_PEX_ID: u8 = 1;
/// ut_pex's name in `m` (BEP 10).
pub const PEX: &str = "ut_pex";
/// The most peers that are taken of a message, and sent in one, added and dropped each (BEP 11: no more than 50).
pub const MAX_PEX: usize = 50;

/// A peer that the sender names, and what the sender knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PexPeer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Bits of [`PexPeer::ENCRYPTION`] and the others.
    pub flags: u8,
}

impl PexPeer {
    /// It prefers encryption.
    pub const ENCRYPTION: u8 = 0x01;
    /// It wants nothing.
    pub const SEED: u8 = 0x02;
    /// It has uTP.
    pub const UTP: u8 = 0x04;
    /// It has holepunch (BEP 55).
    pub const HOLEPUNCH: u8 = 0x08;
    /// The sender has dialled it: it can be reached there.
    pub const REACHABLE: u8 = 0x10;
}

/// A ut_pex message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PexMessage {
    /// Peers that the sender is connected to since its last message.
    pub added: Vec<PexPeer>,
    /// Peers that it is connected to no more.
    pub dropped: Vec<SocketAddr>,
}

impl PexMessage {
    /// The payload of an [`super::Message::Extended`]. All six keys are there, as libtorrent has them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![b'd'];
        let mut entry = |key: &str, value: &[u8]| {
            out.extend_from_slice(format!("{}:{key}{}:", key.len(), value.len()).as_bytes());
            out.extend_from_slice(value);
        };
        let added = |v4: bool| self.added.iter().filter(move |peer| peer.addr.is_ipv4() == v4);
        let addresses = |v4: bool| strung(added(v4).map(|peer| peer.addr));
        let flags = |v4: bool| added(v4).map(|peer| peer.flags).collect::<Vec<u8>>();
        let dropped = |v4: bool| strung(self.dropped.iter().copied().filter(|addr| addr.is_ipv4() == v4));
        // Keys in the order of their bytes (BEP 3).
        entry("added", &addresses(true));
        entry("added.f", &flags(true));
        entry("added6", &addresses(false));
        entry("added6.f", &flags(false));
        entry("dropped", &dropped(true));
        entry("dropped6", &dropped(false));
        out.push(b'e');
        out
    }

    /// Reads the payload of a ut_pex message: the first [`MAX_PEX`] of those added and of those dropped, IPv4 before IPv6. A
    /// missing flag is 0, a field of a wrong type counts as absent, and what no connection can be made to is left out.
    ///
    /// # Errors
    /// [`DecodeError::Bencode`] if it is no dictionary, or one deeper than 32 or of more than 10,000 values.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let fields = bencode::dictionary(payload).ok_or(DecodeError::Bencode)?;
        let bytes = |key: &str| fields.get(key.as_bytes()).and_then(bencode::Value::bytes).unwrap_or_default();
        let added = |peers: &str, flags: &str, v6: bool| {
            let flags = bytes(flags).iter().copied().chain(std::iter::repeat(0));
            let entries = bytes(peers).chunks_exact(compact::entry_len(v6)).zip(flags);
            let named = entries.filter_map(|(entry, flags)| Some(PexPeer { addr: compact::peer(entry)?, flags }));
            named.take(MAX_PEX).collect::<Vec<_>>()
        };
        let mut all = added("added", "added.f", false);
        all.extend(added("added6", "added6.f", true));
        all.truncate(MAX_PEX);
        let dropped = compact::peers(bytes("dropped"), false).chain(compact::peers(bytes("dropped6"), true));
        Ok(Self { added: all, dropped: dropped.take(MAX_PEX).collect() })
    }
}

fn strung(addrs: impl Iterator<Item = SocketAddr>) -> Vec<u8> {
    let mut out = Vec::new();
    addrs.for_each(|addr| compact::put(addr, &mut out));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(addr: &str, flags: u8) -> PexPeer {
        PexPeer { addr: addr.parse().unwrap(), flags }
    }

    fn decode(payload: &[u8]) -> PexMessage {
        PexMessage::decode(payload).expect("a message")
    }

    #[test]
    fn a_message_is_what_the_specification_says() {
        let message = PexMessage {
            added: vec![peer("1.2.3.4:258", PexPeer::SEED | PexPeer::REACHABLE), peer("[2001:db8::1]:258", 1)],
            dropped: vec!["9.9.9.9:1".parse().unwrap()],
        };
        let bytes = message.encode();
        let expected = [
            b"d5:added6:\x01\x02\x03\x04\x01\x027:added.f1:\x126:added618:\x20\x01\x0d\xb8".as_slice(),
            &[0; 11],
            b"\x01\x01\x028:added6.f1:\x017:dropped6:\x09\x09\x09\x09\x00\x018:dropped60:e",
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(decode(&bytes), message);
        assert_eq!(decode(&PexMessage::default().encode()), PexMessage::default());
        assert_eq!(decode(b"de"), PexMessage::default());
    }

    #[test]
    fn flags_stay_with_their_peers_when_others_are_left_out() {
        let entries: [[u8; 6]; 4] = [[1, 1, 1, 1, 0, 0], [2, 2, 2, 2, 0, 2], [0, 0, 0, 0, 0, 3], [4, 4, 4, 4, 0, 4]];
        let body = [b"d5:added24:".as_slice(), entries.as_flattened(), b"7:added.f3:abce"].concat();
        assert_eq!(decode(&body).added, [peer("2.2.2.2:2", b'b'), peer("4.4.4.4:4", 0)]);
    }

    #[test]
    fn ten_thousand_entries_are_fifty_and_no_other_flood_costs_more() {
        let flood = |key: &str, entry: usize| {
            let bytes: Vec<u8> = (0..10_000).flat_map(|n: u16| vec![1 + (n % 200) as u8; entry]).collect();
            [format!("d{}:{key}{}:", key.len(), bytes.len()).as_bytes(), &bytes, b"e"].concat()
        };
        assert_eq!(decode(&flood("added", 6)).added.len(), MAX_PEX);
        assert_eq!(decode(&flood("added6", 18)).added.len(), MAX_PEX);
        assert_eq!(decode(&flood("dropped", 6)).dropped.len(), MAX_PEX);
    }

    #[test]
    fn odd_fields_count_as_absent_and_what_is_no_dictionary_is_refused() {
        for body in ["d5:addedi5ee", "d5:addedlee", "d5:added5:abcdee", "d7:added.f3:abce", "d5:added0:e"] {
            assert_eq!(decode(body.as_bytes()), PexMessage::default(), "{body}");
        }
        assert_eq!(decode(b"d5:added7:\x01\x02\x03\x04\x01\x02\x03e").added.len(), 1, "a cut entry");
        for body in ["", "le", "i1e", "d5:added", &"l".repeat(20_000)] {
            assert_eq!(PexMessage::decode(body.as_bytes()), Err(DecodeError::Bencode));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_read_survives_the_wire(bytes: Vec<u8>, key in "added|added6|dropped|dropped6") {
            let _ = PexMessage::decode(&bytes);
            let body = [format!("d{}:{key}{}:", key.len(), bytes.len()).as_bytes(), &bytes, b"e"].concat();
            let message = PexMessage::decode(&body).expect("a dictionary");
            // An IPv4 address in the list of IPv6 ones moves to its own.
            let again = PexMessage::decode(&message.encode()).expect("ours");
            prop_assert_eq!(message, again);
        }
    }
}
