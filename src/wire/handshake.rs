//! The handshake: the first 68 bytes each way (BEP 3), with the bits that switch on BEP 5, BEP 6 and BEP 10.

use super::{DecodeError, PeerId};

/// What both sides say first: a length and the protocol's name.
const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";
/// The extension protocol's bit, in reserved byte 5 (BEP 10).
const EXTENDED: (usize, u8) = (5, 0x10);
/// The fast extension's bit, in reserved byte 7 (BEP 6).
const FAST: (usize, u8) = (7, 0x04);
/// The DHT's bit, in reserved byte 7 (BEP 5).
const DHT: (usize, u8) = (7, 0x01);

/// A handshake (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Extension bits. Those that we do not know are ignored, BEP 52's upgrade bit among them.
    pub reserved: [u8; 8],
    /// The torrent that the connection is for.
    pub info_hash: [u8; 20],
    /// The sender.
    pub peer_id: PeerId,
}

impl Handshake {
    /// Bytes of a handshake.
    pub const LENGTH: usize = 68;

    /// Ours: the fast extension and the extension protocol, and the DHT if we have it for this torrent.
    #[must_use]
    pub fn ours(info_hash: [u8; 20], peer_id: PeerId, dht: bool) -> Self {
        let mut reserved = [0; 8];
        reserved[EXTENDED.0] |= EXTENDED.1;
        reserved[FAST.0] |= FAST.1;
        reserved[DHT.0] |= if dht { DHT.1 } else { 0 };
        Self { reserved, info_hash, peer_id }
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut out = [0; Self::LENGTH];
        out[..20].copy_from_slice(PROTOCOL);
        out[20..28].copy_from_slice(&self.reserved);
        out[28..48].copy_from_slice(&self.info_hash);
        out[48..].copy_from_slice(&self.peer_id.0);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`DecodeError::Handshake`] if it is another protocol's.
    pub fn decode(bytes: &[u8; Self::LENGTH]) -> Result<Self, DecodeError> {
        let (mut reserved, mut info_hash, mut peer_id) = ([0; 8], [0; 20], [0; 20]);
        if bytes[..20] != PROTOCOL[..] {
            return Err(DecodeError::Handshake);
        }
        reserved.copy_from_slice(&bytes[20..28]);
        info_hash.copy_from_slice(&bytes[28..48]);
        peer_id.copy_from_slice(&bytes[48..]);
        Ok(Self { reserved, info_hash, peer_id: PeerId(peer_id) })
    }

    /// True if the bytes so far can be the beginning of a handshake: a stranger is told from a peer by its first byte,
    /// not by the deadline.
    #[must_use]
    pub fn may_begin(bytes: &[u8]) -> bool {
        bytes.iter().zip(PROTOCOL).all(|(a, b)| a == b)
    }

    /// True if the sender has the fast extension (BEP 6).
    #[must_use]
    pub fn fast(&self) -> bool {
        self.reserved[FAST.0] & FAST.1 != 0
    }

    /// True if the sender has a node of the DHT, and wants to hear of ours (BEP 5).
    #[must_use]
    pub fn dht(&self) -> bool {
        self.reserved[DHT.0] & DHT.1 != 0
    }

    /// True if the sender has the extension protocol (BEP 10).
    #[must_use]
    pub fn extended(&self) -> bool {
        self.reserved[EXTENDED.0] & EXTENDED.1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_what_the_specifications_say() {
        let ours = Handshake::ours([0xAB; 20], PeerId([b'x'; 20]), false);
        let bytes = ours.encode();
        assert_eq!(&bytes[..28], b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04");
        assert_eq!(bytes[28..48], [0xAB; 20]);
        assert_eq!(bytes[48..], [b'x'; 20]);
        assert_eq!(Handshake::decode(&bytes), Ok(ours));
        assert!(ours.fast() && ours.extended());
    }

    #[test]
    fn bits_are_read_one_by_one_and_unknown_ones_ignored() {
        let mut bytes = Handshake::ours([1; 20], PeerId([2; 20]), true).encode();
        bytes[20..28].copy_from_slice(&[0xFF, 0, 0, 0, 0, 0xEF, 0, 0xFB]);
        let read = Handshake::decode(&bytes).expect("a handshake");
        assert!(!read.fast() && !read.extended());
    }

    #[test]
    fn another_protocol_is_refused_at_its_first_wrong_byte() {
        let mut bytes = Handshake::ours([1; 20], PeerId([2; 20]), true).encode();
        bytes[19] = b'L';
        assert_eq!(Handshake::decode(&bytes), Err(DecodeError::Handshake));
        assert!(
            Handshake::may_begin(b"")
                && Handshake::may_begin(b"\x13BitT")
                && Handshake::may_begin(&[&PROTOCOL[..], &[9; 48]].concat())
        );
        assert!(!Handshake::may_begin(b"GET / HTTP/1.1") && !Handshake::may_begin(&bytes));
    }
}
