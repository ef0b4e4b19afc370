//! Peer messages (BEP 3, BEP 6, BEP 10): a four-byte length, a one-byte type, a body. [`decode`] knows the exact length of
//! every type, so a message that is too long is refused by its first five bytes and nobody allocates for it.

use std::borrow::Cow;
use std::fmt;

use super::DecodeError;
use crate::metainfo::{BLOCK_LENGTH, Geometry, PieceIndex, Request};

/// The longest body of an extension's message (BEP 10), bytes; `ut_metadata` and PEX need far less.
pub(super) const MAX_EXTENDED: usize = 64 * 1024;
/// The longest message of a type that we skip, type included, bytes.
const MAX_UNKNOWN: usize = 64 * 1024;
/// The most that [`decode`] asks for, length prefix included: the bitfield of 2,097,152 pieces, bytes.
pub const MAX_MESSAGE: usize = 4 + 1 + (Geometry::MAX_PIECES as usize).div_ceil(8);

/// The 20 bytes that a peer calls itself (BEP 20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// Our own, in the style of Azureus (BEP 20): `-SF`, four digits of our version, `-`, and letters and digits made
    /// from twelve random bytes.
    #[must_use]
    pub fn ours(random: [u8; 12]) -> Self {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut id = *b"-SF0010-????????????";
        for (at, byte) in id[8..].iter_mut().zip(random) {
            *at = LETTERS[usize::from(byte) % LETTERS.len()];
        }
        Self(id)
    }
}

/// Printable: what is not visible ASCII appears as `\x1b`.
impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// A message between peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Nothing, so that the connection stays (BEP 3).
    KeepAlive,
    /// No requests are served from now on (BEP 3).
    Choke,
    /// Requests are served (BEP 3).
    Unchoke,
    /// The sender wants something that the receiver has (BEP 3).
    Interested,
    /// It wants nothing (BEP 3).
    NotInterested,
    /// The sender has this piece (BEP 3).
    Have(PieceIndex),
    /// All that the sender has, the high bit first (BEP 3).
    Bitfield(Cow<'a, [u8]>),
    /// A block is wanted (BEP 3).
    Request(Request),
    /// A block (BEP 3).
    Piece {
        /// The piece.
        piece: PieceIndex,
        /// Offset in the piece, bytes.
        begin: u32,
        /// The payload.
        data: &'a [u8],
    },
    /// A block is wanted no more (BEP 3).
    Cancel(Request),
    /// The sender's DHT port (BEP 5).
    Port(u16),
    /// The sender would like to send this piece (BEP 6).
    Suggest(PieceIndex),
    /// The sender is a seed (BEP 6).
    HaveAll,
    /// The sender has nothing (BEP 6).
    HaveNone,
    /// This request will not be answered (BEP 6).
    Reject(Request),
    /// This piece may be asked for while choked (BEP 6).
    AllowedFast(PieceIndex),
    /// An extension's message (BEP 10).
    Extended {
        /// The extension, by the receiver's numbering; 0 is the handshake.
        id: u8,
        /// Its body.
        payload: Cow<'a, [u8]>,
    },
    /// A message that we do not know, skipped.
    Unknown(u8),
}

/// The type bytes (BEP 3, BEP 5, BEP 6, BEP 10).
mod kind {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 0x0D;
    pub(super) const HAVE_ALL: u8 = 0x0E;
    pub(super) const HAVE_NONE: u8 = 0x0F;
    pub(super) const REJECT: u8 = 0x10;
    pub(super) const ALLOWED_FAST: u8 = 0x11;
    pub(super) const EXTENDED: u8 = 20;
}

impl Message<'_> {
    /// Bytes that [`Message::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::KeepAlive => 4,
            Self::Choke
            | Self::Unchoke
            | Self::Interested
            | Self::NotInterested
            | Self::HaveAll
            | Self::HaveNone
            | Self::Unknown(_) => 5,
            Self::Port(_) => 7,
            Self::Have(_) | Self::Suggest(_) | Self::AllowedFast(_) => 9,
            Self::Request(_) | Self::Cancel(_) | Self::Reject(_) => 17,
            Self::Bitfield(bits) => 5 + bits.len(),
            Self::Piece { data, .. } => 13 + data.len(),
            Self::Extended { payload, .. } => 6 + payload.len(),
        }
    }

    /// Appends the message as it goes over the wire. An [`Message::Unknown`] has lost its body and goes without.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let length = self.encoded_len();
        out.reserve(length);
        let body = u32::try_from(length - 4).expect("our own messages are far below 4 GiB");
        out.extend(body.to_be_bytes());
        match self {
            Self::KeepAlive => {}
            Self::Choke => out.push(kind::CHOKE),
            Self::Unchoke => out.push(kind::UNCHOKE),
            Self::Interested => out.push(kind::INTERESTED),
            Self::NotInterested => out.push(kind::NOT_INTERESTED),
            Self::Have(piece) => put_piece(kind::HAVE, *piece, out),
            Self::Bitfield(bits) => {
                out.push(kind::BITFIELD);
                out.extend_from_slice(bits);
            }
            Self::Request(request) => put_request(kind::REQUEST, *request, out),
            Self::Piece { piece, begin, data } => {
                put_piece(kind::PIECE, *piece, out);
                out.extend(begin.to_be_bytes());
                out.extend_from_slice(data);
            }
            Self::Cancel(request) => put_request(kind::CANCEL, *request, out),
            Self::Port(port) => {
                out.push(kind::PORT);
                out.extend(port.to_be_bytes());
            }
            Self::Suggest(piece) => put_piece(kind::SUGGEST, *piece, out),
            Self::HaveAll => out.push(kind::HAVE_ALL),
            Self::HaveNone => out.push(kind::HAVE_NONE),
            Self::Reject(request) => put_request(kind::REJECT, *request, out),
            Self::AllowedFast(piece) => put_piece(kind::ALLOWED_FAST, *piece, out),
            Self::Extended { id, payload } => {
                out.push(kind::EXTENDED);
                out.push(*id);
                out.extend_from_slice(payload);
            }
            Self::Unknown(id) => out.push(*id),
        }
    }
}

/// Bytes of a `piece` message in front of its payload (BEP 3).
pub const PIECE_HEADER: usize = 13;

/// What goes in front of a block's payload (BEP 3 `piece`); `request.length` bytes of payload must follow.
#[must_use]
pub fn piece_header(request: Request) -> [u8; PIECE_HEADER] {
    let mut header = [0; PIECE_HEADER];
    header[..4].copy_from_slice(&request.length.saturating_add(9).to_be_bytes());
    header[4] = kind::PIECE;
    header[5..9].copy_from_slice(&request.piece.0.to_be_bytes());
    header[9..].copy_from_slice(&request.begin.to_be_bytes());
    header
}

fn put_piece(id: u8, piece: PieceIndex, out: &mut Vec<u8>) {
    out.push(id);
    out.extend(piece.0.to_be_bytes());
}

fn put_request(id: u8, request: Request, out: &mut Vec<u8>) {
    put_piece(id, request.piece, out);
    out.extend(request.begin.to_be_bytes());
    out.extend(request.length.to_be_bytes());
}

/// Decodes the first message in `buf` and tells how many bytes it took; `None` while more bytes are needed, never more
/// than [`MAX_MESSAGE`] in all. `pieces` is the torrent's piece count: a bitfield must be exactly as long as that asks
/// for; its spare bits, and whether a piece index is below `pieces`, are the receiver's business.
///
/// # Errors
/// A [`DecodeError`] as soon as the first five bytes show that the message cannot be one: close the connection.
pub fn decode(buf: &[u8], pieces: u32) -> Result<Option<(Message<'_>, usize)>, DecodeError> {
    decode_if(buf, |id, size| length_fits(id, size, pieces))
}

/// As [`decode`], for a torrent whose piece count is not known yet: a bitfield may have any length up to the longest.
///
/// # Errors
/// As [`decode`].
pub fn decode_unjudged(buf: &[u8]) -> Result<Option<(Message<'_>, usize)>, DecodeError> {
    decode_if(buf, |id, size| id == kind::BITFIELD || length_fits(id, size, 0))
}

fn decode_if(buf: &[u8], fits: impl FnOnce(u8, usize) -> bool) -> Result<Option<(Message<'_>, usize)>, DecodeError> {
    let Some((prefix, rest)) = buf.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix);
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    if size == 0 {
        return Ok(Some((Message::KeepAlive, 4)));
    }
    if size > MAX_MESSAGE - 4 {
        return Err(DecodeError::TooLong(length));
    }
    let Some(&id) = rest.first() else { return Ok(None) };
    if !fits(id, size) {
        return Err(DecodeError::Length { id, length });
    }
    let Some(body) = rest.get(1..size) else { return Ok(None) };
    let message = body_of(id, body).ok_or(DecodeError::Length { id, length })?;
    Ok(Some((message, 4 + size)))
}

/// True if a message of this type may have this length, type byte included.
fn length_fits(id: u8, size: usize, pieces: u32) -> bool {
    match id {
        kind::CHOKE | kind::UNCHOKE | kind::INTERESTED | kind::NOT_INTERESTED | kind::HAVE_ALL | kind::HAVE_NONE => {
            size == 1
        }
        kind::HAVE | kind::SUGGEST | kind::ALLOWED_FAST => size == 5,
        kind::BITFIELD => size - 1 == (pieces as usize).div_ceil(8),
        kind::REQUEST | kind::CANCEL | kind::REJECT => size == 13,
        kind::PIECE => (9..=9 + BLOCK_LENGTH as usize).contains(&size),
        kind::PORT => size == 3,
        kind::EXTENDED => (2..=2 + MAX_EXTENDED).contains(&size),
        _ => size <= MAX_UNKNOWN,
    }
}

/// The message; `None` if the body is too short, which [`length_fits`] has ruled out.
fn body_of(id: u8, body: &[u8]) -> Option<Message<'_>> {
    let word = |at: usize| body.get(at..)?.first_chunk::<4>().map(|b| u32::from_be_bytes(*b));
    let piece = || word(0).map(PieceIndex);
    let request = || Some(Request { piece: piece()?, begin: word(4)?, length: word(8)? });
    Some(match id {
        kind::CHOKE => Message::Choke,
        kind::UNCHOKE => Message::Unchoke,
        kind::INTERESTED => Message::Interested,
        kind::NOT_INTERESTED => Message::NotInterested,
        kind::HAVE => Message::Have(piece()?),
        kind::BITFIELD => Message::Bitfield(Cow::Borrowed(body)),
        kind::REQUEST => Message::Request(request()?),
        kind::PIECE => Message::Piece { piece: piece()?, begin: word(4)?, data: body.get(8..)? },
        kind::CANCEL => Message::Cancel(request()?),
        kind::PORT => Message::Port(u16::from_be_bytes(*body.first_chunk()?)),
        kind::SUGGEST => Message::Suggest(piece()?),
        kind::HAVE_ALL => Message::HaveAll,
        kind::HAVE_NONE => Message::HaveNone,
        kind::REJECT => Message::Reject(request()?),
        kind::ALLOWED_FAST => Message::AllowedFast(piece()?),
        kind::EXTENDED => Message::Extended { id: *body.first()?, payload: Cow::Borrowed(body.get(1..)?) },
        _ => Message::Unknown(id),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Request {
        Request { piece: PieceIndex(1), begin: 0x4000, length: 0x4000 }
    }

    fn all(data: &[u8]) -> Vec<Message<'_>> {
        vec![
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::NotInterested,
            Message::Have(PieceIndex(70_000)),
            Message::Bitfield(Cow::Borrowed(&data[..3])),
            Message::Request(request()),
            Message::Piece { piece: PieceIndex(3), begin: 16_384, data },
            Message::Cancel(request()),
            Message::Port(6881),
            Message::Suggest(PieceIndex(2)),
            Message::HaveAll,
            Message::HaveNone,
            Message::Reject(request()),
            Message::AllowedFast(PieceIndex(u32::MAX)),
            Message::Extended { id: 7, payload: Cow::Borrowed(data) },
            Message::Unknown(200),
        ]
    }

    fn with_prefix(length: u32, id: u8) -> Vec<u8> {
        let mut out = length.to_be_bytes().to_vec();
        out.push(id);
        out
    }

    #[test]
    fn every_message_survives_the_wire_and_every_cut_of_it_asks_for_more() {
        let data = [7; 300];
        let mut stream = Vec::new();
        for message in all(&data) {
            let mut one = Vec::new();
            message.encode(&mut one);
            assert_eq!(one.len(), message.encoded_len());
            assert_eq!(decode(&one, 20), Ok(Some((message.clone(), one.len()))));
            for cut in 0..one.len() {
                assert_eq!(decode(&one[..cut], 20), Ok(None), "{message:?} cut at {cut}");
            }
            stream.extend(one);
        }
        let mut rest = &stream[..];
        for message in all(&data) {
            let (found, used) = decode(rest, 20).expect("valid").expect("whole");
            assert_eq!(found, message);
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn the_bytes_are_those_of_the_specifications() {
        let mut out = Vec::new();
        Message::Request(request()).encode(&mut out);
        assert_eq!(out, [0, 0, 0, 13, 6, 0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        assert_eq!(piece_header(request()), [0, 0, 0x40, 9, 7, 0, 0, 0, 1, 0, 0, 0x40, 0]);
        for (message, id) in [(Message::HaveAll, 0x0E), (Message::HaveNone, 0x0F)] {
            out.clear();
            message.encode(&mut out);
            assert_eq!(out, [0, 0, 0, 1, id]);
        }
    }

    #[test]
    fn lengths_are_judged_before_the_body_is_there() {
        let refused = |length: u32, id: u8, pieces: u32| decode(&with_prefix(length, id), pieces).is_err();
        // P8: hostile lengths, by the first four bytes alone.
        for length in [u32::MAX, 1 << 31, (1 << 20) + 1, u32::try_from(MAX_MESSAGE).unwrap() - 3] {
            assert_eq!(decode(&length.to_be_bytes(), u32::MAX), Err(DecodeError::TooLong(length)));
        }
        for id in [0, 1, 2, 3, 0x0E, 0x0F] {
            assert!(refused(2, id, 8) && !refused(1, id, 8));
        }
        for id in [4, 0x0D, 0x11] {
            assert!(refused(4, id, 8) && refused(6, id, 8) && !refused(5, id, 8));
        }
        for id in [6, 8, 0x10] {
            assert!(refused(12, id, 8) && refused(14, id, 8) && !refused(13, id, 8));
        }
        assert!(refused(8, 7, 8) && !refused(9, 7, 8) && !refused(16_393, 7, 8) && refused(16_394, 7, 8));
        assert!(refused(2, 9, 8) && refused(4, 9, 8));
        assert!(refused(1, 20, 8) && !refused(2 + 65_536, 20, 8) && refused(3 + 65_536, 20, 8));
        assert!(!refused(65_536, 99, 8) && refused(65_537, 99, 8));
    }

    #[test]
    fn a_bitfield_is_exactly_as_long_as_the_torrent_asks_for() {
        // P9: short and long ones are refused, spare bits are not.
        for (length, pieces, fits) in
            [(2, 8, true), (2, 9, false), (3, 9, true), (3, 8, false), (1, 8, false), (262_145, 2_097_152, true)]
        {
            assert_eq!(decode(&with_prefix(length, 5), pieces).is_ok(), fits, "{length} {pieces}");
        }
        let bits = Message::Bitfield(Cow::Borrowed(&[0xFF, 0xFF]));
        assert_eq!(decode(&[0, 0, 0, 3, 5, 0xFF, 0xFF], 9), Ok(Some((bits, 7))));
    }

    #[test]
    fn a_keep_alive_takes_four_bytes_and_no_more() {
        assert_eq!(decode(&[0; 12], 8), Ok(Some((Message::KeepAlive, 4))));
    }

    #[test]
    fn peer_ids_are_printed_without_their_control_bytes() {
        assert_eq!(PeerId(*b"-TR3000-\x1b[2Jabcdefg\xff").to_string(), "-TR3000-\\x1b[2Jabcdefg\\xff");
        assert_eq!(PeerId::ours([0; 12]).to_string(), "-SF0010-000000000000");
        assert!(PeerId::ours([255; 12]).0.iter().all(u8::is_ascii_graphic));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_an_error_or_a_wait(
            bytes in proptest::collection::vec(any::<u8>(), 0..64), length in 0u32..40, pieces in 0u32..200
        ) {
            for buf in [bytes.clone(), [&length.to_be_bytes()[..], &bytes].concat()] {
                if let Ok(Some((message, used))) = decode(&buf, pieces) {
                    prop_assert!(used <= buf.len() && used >= 4);
                    if !matches!(message, Message::Unknown(_)) {
                        let mut again = Vec::new();
                        message.encode(&mut again);
                        prop_assert_eq!(&again[..], &buf[..used]);
                    }
                }
            }
        }
    }
}
