//! What peers, trackers and web seeds say, as values: messages and handshakes (BEP 3, 6, 10), extensions (BEP 9, 11, 14,
//! 21, 54), tracker replies (BEP 3, 7, 15, 23, 24, 41, 48), replies of web seeds (BEP 19). Decoders take untrusted bytes,
//! allocate nothing ahead of data and never panic.
#![forbid(unsafe_code)]

mod bencode;
mod compact;
mod extension;
mod fast;
mod handshake;
mod holepunch;
mod lsd;
mod message;
mod metadata;
pub mod mse;
mod pex;
mod rc4;
mod scrape;
mod tracker;
mod udp_tracker;
mod web_seed;

pub use extension::{
    ExtendedHandshake, MAX_METADATA, OUR_DONTHAVE_ID, OUR_METADATA_ID, OUR_UPLOAD_ONLY_ID, decode_donthave,
    decode_upload_only, encode_donthave, encode_upload_only,
};
pub use fast::allowed_fast_set;
pub use handshake::Handshake;
pub use holepunch::{HOLEPUNCH, Holepunch, HolepunchError, OUR_HOLEPUNCH_ID};
pub use lsd::{LSD_V4, LSD_V6, LsdAnnounce, MAX_LSD, MAX_LSD_TORRENTS};
pub use message::{MAX_MESSAGE, Message, PIECE_HEADER, PeerId, decode, decode_unjudged, piece_header};
pub use metadata::{METADATA_PIECE, MetadataMessage};
pub use pex::{MAX_PEX, OUR_PEX_ID, PEX, PexMessage, PexPeer};
pub use scrape::{decode_http_scrape, scrape_url};
pub use tracker::{
    AnnounceQuery, AnnounceReply, Event, MAX_PEERS, TrackerError, announce_query, announce_url, decode_http_reply,
};
pub use udp_tracker::{
    MAX_SCRAPE, ScrapeEntry, UdpError, UdpReply, UdpRequest, decode_udp_reply, decode_udp_request, encode_udp_reply,
    encode_udp_request,
};
pub use web_seed::{MAX_RETRY_AFTER, MAX_SKIP, RangeReply, Refused, Verdict};

/// Why a peer's bytes are refused. The connection is closed; the torrent goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than any message that we take.
    #[error("a message of {0} bytes is longer than any that we take")]
    TooLong(u32),
    /// A length that a message of this type cannot have.
    #[error("a message of type {id} cannot be {length} bytes long")]
    Length {
        /// The type.
        id: u8,
        /// The length, type byte included.
        length: u32,
    },
    /// The first bytes are not those of a handshake.
    #[error("not a BitTorrent handshake")]
    Handshake,
    /// An extension's message that is no bencoded dictionary, or one too deep or too large.
    #[error("an extension message that is not a bencoded dictionary within the limits")]
    Bencode,
    /// A ut_holepunch message (BEP 55) that is cut short or of an unknown kind.
    #[error("a ut_holepunch message of {0} bytes that cannot be read")]
    Holepunch(usize),
    /// An lt_donthave message (BEP 54) of a wrong length.
    #[error("an lt_donthave message of {0} bytes")]
    DontHave(usize),
}

/// Text of an untrusted sender for logs and terminals: bad UTF-8 replaced, control characters left out, cut at `most`
/// characters.
fn printable(bytes: &[u8], most: usize) -> String {
    // A character is at most four bytes, so no more than these are looked at.
    let looked_at = bytes.get(..most.saturating_mul(4)).unwrap_or(bytes);
    String::from_utf8_lossy(looked_at).chars().filter(|c| !c.is_control() && !is_format(*c)).take(most).collect()
}

/// True for characters that reorder or hide the text around them on a terminal.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_cannot_drive_a_terminal() {
        assert_eq!(printable(b"a\x1b[31mb\r\n\0c\xff", 80), "a[31mbc\u{FFFD}");
        assert_eq!(printable("x\u{202E}y\u{85}z".as_bytes(), 80), "xyz");
        assert_eq!(printable("ääää".as_bytes(), 2), "ää");
    }
}
