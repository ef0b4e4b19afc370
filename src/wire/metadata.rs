//! Metadata from peers (BEP 9): the `info` dictionary in pieces of 16 KiB, as messages of the extension protocol. A message
//! is a bencoded dictionary; in a `data` message the bytes of the piece follow it.

use super::DecodeError;
use super::bencode::{self, Value};
use crate::metainfo::bencode::{Limits, check};

/// Bytes of a piece of metadata; the last one may be shorter (BEP 9).
pub const METADATA_PIECE: u32 = 16 * 1024;
/// The longest message that is read, bytes: a piece and the dictionary before it.
const MAX_MESSAGE: usize = 17 * 1024;

/// A `ut_metadata` message (BEP 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataMessage<'a> {
    /// A piece is wanted.
    Request(u32),
    /// A piece.
    Data {
        /// Its index.
        piece: u32,
        /// Bytes of all metadata, as the sender says.
        total: Option<u64>,
        /// Its bytes.
        data: &'a [u8],
    },
    /// The piece will not come from this peer.
    Reject(u32),
    /// A type that BEP 9 does not know, to be ignored.
    Unknown,
}

impl<'a> MetadataMessage<'a> {
    /// The payload of an [`super::Message::Extended`] with the receiver's id of `ut_metadata`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Request(piece) => format!("d8:msg_typei0e5:piecei{piece}ee").into_bytes(),
            Self::Reject(piece) => format!("d8:msg_typei2e5:piecei{piece}ee").into_bytes(),
            Self::Data { piece, total, data } => {
                let total = total.map(|total| format!("10:total_sizei{total}e")).unwrap_or_default();
                let mut out = format!("d8:msg_typei1e5:piecei{piece}e{total}e").into_bytes();
                out.extend_from_slice(data);
                out
            }
            Self::Unknown => Vec::new(),
        }
    }

    /// Reads such a payload.
    ///
    /// # Errors
    /// [`DecodeError::Bencode`] if it is longer than a piece can make it or does not begin with a dictionary that has a
    /// type and a piece.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        if payload.len() > MAX_MESSAGE {
            return Err(DecodeError::Bencode);
        }
        let length = check(payload, Limits::WIRE).map_err(|_| DecodeError::Bencode)?;
        let fields = bencode::dictionary(payload).ok_or(DecodeError::Bencode)?;
        let number = |key: &str| fields.get(key.as_bytes()).and_then(Value::integer);
        let kind = number("msg_type").ok_or(DecodeError::Bencode)?;
        let piece = number("piece").and_then(|piece| u32::try_from(piece).ok());
        Ok(match (kind, piece) {
            (0, Some(piece)) => Self::Request(piece),
            (1, Some(piece)) => {
                let total = number("total_size").and_then(|total| u64::try_from(total).ok());
                Self::Data { piece, total, data: payload.get(length..).unwrap_or_default() }
            }
            (2, Some(piece)) => Self::Reject(piece),
            (0..=2, None) => return Err(DecodeError::Bencode),
            _ => Self::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_bep_9_shows_them() {
        for (message, text) in [
            (MetadataMessage::Request(0), "d8:msg_typei0e5:piecei0ee"),
            (MetadataMessage::Reject(7), "d8:msg_typei2e5:piecei7ee"),
            (
                MetadataMessage::Data { piece: 0, total: Some(34256), data: b"xxxx" },
                "d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxx",
            ),
        ] {
            assert_eq!(message.encode(), text.as_bytes());
            assert_eq!(MetadataMessage::decode(text.as_bytes()), Ok(message));
        }
        let without = MetadataMessage::decode(b"d8:msg_typei1e5:piecei2eed1:ae");
        assert_eq!(without, Ok(MetadataMessage::Data { piece: 2, total: None, data: b"d1:ae" }));
        assert_eq!(MetadataMessage::decode(b"d8:msg_typei9e5:piecei0ee"), Ok(MetadataMessage::Unknown));
        assert_eq!(MetadataMessage::decode(b"d8:msg_typei9ee"), Ok(MetadataMessage::Unknown));
    }

    #[test]
    fn what_is_none_is_refused() {
        let deep = format!("d8:msg_typei0e5:piece{}{}e", "l".repeat(40), "e".repeat(40));
        let long = [b"d8:msg_typei1e5:piecei0ee".as_slice(), &[0; MAX_MESSAGE]].concat();
        for bad in [
            b"".as_slice(),
            b"le",
            b"d5:piecei0ee",
            b"d8:msg_typei0ee",
            b"d8:msg_typei0e5:piecei-1ee",
            b"d8:msg_typei0e5:piecei4294967296ee",
            b"d8:msg_type1:05:piecei0ee",
            b"d8:msg_typei0e5:piecei0e",
            deep.as_bytes(),
            &long,
        ] {
            assert_eq!(MetadataMessage::decode(bad), Err(DecodeError::Bencode));
        }
        let full = MetadataMessage::Data { piece: 1023, total: Some(1 << 24), data: &[7; METADATA_PIECE as usize] };
        assert_eq!(MetadataMessage::decode(&full.encode()), Ok(full), "a whole piece fits");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(payload in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = MetadataMessage::decode(&payload);
        }
    }
}
