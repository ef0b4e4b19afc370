//! Peer messages (BEP 3, BEP 6, BEP 10).

use std::borrow::Cow;

use crate::metainfo::{PieceIndex, Request};

/// The 20 bytes that a peer calls itself (BEP 20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

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
