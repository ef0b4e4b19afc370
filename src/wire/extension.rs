//! The extension protocol's handshake (BEP 10), lt_donthave (BEP 54) and upload_only (BEP 21).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DecodeError, bencode, printable};
use crate::metainfo::PieceIndex;

/// The id by which peers send us lt_donthave (BEP 54).
pub const OUR_DONTHAVE_ID: u8 = 7;
/// The id by which peers send us upload_only (BEP 21).
pub const OUR_UPLOAD_ONLY_ID: u8 = 3;
/// The id by which peers send us ut_metadata (BEP 9).
pub const OUR_METADATA_ID: u8 = 2;
/// The largest `metadata_size` that is believed, bytes (BEP 9): it is a stranger's word, and buffers follow from it.
pub const MAX_METADATA: u64 = 16 << 20;
/// lt_donthave's name in `m` (BEP 54).
const DONTHAVE: &str = "lt_donthave";
/// ut_metadata's name in `m` (BEP 9).
const METADATA: &str = "ut_metadata";
/// upload_only's name in `m`: the message that clients have beside the key of BEP 21.
const UPLOAD_ONLY: &str = "upload_only";
/// The most extensions that are remembered of a peer; real clients have under twenty.
const MAX_MESSAGES: usize = 64;
/// The longest extension name that is remembered, bytes.
const MAX_NAME: usize = 64;
/// The longest client name that is remembered, characters.
const MAX_CLIENT: usize = 128;

/// The extension handshake (BEP 10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtendedHandshake {
    /// All of `m`: extension names and the sender's ids for them; 0 switches one off.
    pub messages: BTreeMap<String, u8>,
    /// The id of lt_donthave (BEP 54), from `m`.
    pub donthave: Option<u8>,
    /// `reqq`: requests that the sender holds.
    pub reqq: Option<u32>,
    /// `v`: the client's name and version.
    pub client: Option<String>,
    /// `p`: the sender's listening port.
    pub listen_port: Option<u16>,
    /// The id of the upload_only message, from `m`.
    pub upload_only_id: Option<u8>,
    /// The id of ut_metadata (BEP 9), from `m`.
    pub metadata_id: Option<u8>,
    /// `upload_only` (BEP 21): the sender wants nothing, or does again. None: as it was.
    pub upload_only: Option<bool>,
    /// `yourip`: our address as the sender sees it.
    pub yourip: Option<IpAddr>,
    /// `metadata_size` (BEP 9), bytes.
    pub metadata_size: Option<u64>,
}

impl ExtendedHandshake {
    /// The payload of an [`super::Message::Extended`] with id 0.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut messages: BTreeMap<&str, u8> = self.messages.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        if let Some(id) = self.donthave {
            messages.insert(DONTHAVE, id);
        }
        if let Some(id) = self.upload_only_id {
            messages.insert(UPLOAD_ONLY, id);
        }
        if let Some(id) = self.metadata_id {
            messages.insert(METADATA, id);
        }
        // Keys in the order of their bytes (BEP 3).
        let mut out = b"d1:md".to_vec();
        for (name, id) in messages {
            put_bytes(name.as_bytes(), &mut out);
            put_integer(u64::from(id), &mut out);
        }
        out.push(b'e');
        let mut number = |key: &[u8], value: Option<u64>| {
            if let Some(value) = value {
                put_bytes(key, &mut out);
                put_integer(value, &mut out);
            }
        };
        number(b"metadata_size", self.metadata_size);
        number(b"p", self.listen_port.map(u64::from));
        number(b"reqq", self.reqq.map(u64::from));
        number(b"upload_only", self.upload_only.map(u64::from));
        if let Some(client) = &self.client {
            put_bytes(b"v", &mut out);
            put_bytes(client.as_bytes(), &mut out);
        }
        if let Some(ip) = self.yourip {
            put_bytes(b"yourip", &mut out);
            match ip.to_canonical() {
                IpAddr::V4(ip) => put_bytes(&ip.octets(), &mut out),
                IpAddr::V6(ip) => put_bytes(&ip.octets(), &mut out),
            }
        }
        out.push(b'e');
        out
    }

    /// Reads the payload of an extended message with id 0. A field of a wrong type or out of range counts as absent;
    /// bytes after the dictionary (some clients pad) are ignored.
    ///
    /// # Errors
    /// [`DecodeError::Bencode`] if it is no dictionary, or one deeper than 32 or of more than 10,000 values.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let fields = bencode::dictionary(payload).ok_or(DecodeError::Bencode)?;
        let number = |key: &str| fields.get(key.as_bytes()).and_then(bencode::Value::integer);
        let bytes = |key: &str| fields.get(key.as_bytes()).and_then(bencode::Value::bytes);
        let messages: BTreeMap<String, u8> = fields
            .get(&b"m"[..])
            .and_then(bencode::Value::dictionary)
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.len() <= MAX_NAME)
            .filter_map(|(name, id)| Some((String::from_utf8(name.clone()).ok()?, u8::try_from(id.integer()?).ok()?)))
            .take(MAX_MESSAGES)
            .collect();
        Ok(Self {
            donthave: messages.get(DONTHAVE).copied().filter(|&id| id != 0),
            upload_only_id: messages.get(UPLOAD_ONLY).copied().filter(|&id| id != 0),
            metadata_id: messages.get(METADATA).copied().filter(|&id| id != 0),
            messages,
            reqq: number("reqq").filter(|&n| n > 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            client: bytes("v").map(|v| printable(v, MAX_CLIENT)).filter(|v| !v.is_empty()),
            listen_port: number("p").and_then(|p| u16::try_from(p).ok()).filter(|&p| p != 0),
            upload_only: number("upload_only").map(|n| n != 0),
            yourip: bytes("yourip").and_then(ip_of),
            metadata_size: number("metadata_size")
                .and_then(|n| u64::try_from(n).ok())
                .filter(|n| (1..=MAX_METADATA).contains(n)),
        })
    }
}

/// An address of 4 or 16 bytes, IPv4-mapped ones as IPv4.
pub(super) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(v6)).to_canonical())
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(format!("{}:", bytes.len()).into_bytes());
    out.extend_from_slice(bytes);
}

fn put_integer(value: u64, out: &mut Vec<u8>) {
    out.extend(format!("i{value}e").into_bytes());
}

/// The payload of an lt_donthave message (BEP 54): the sender no longer has the piece.
#[must_use]
pub fn encode_donthave(piece: PieceIndex) -> Vec<u8> {
    piece.0.to_be_bytes().to_vec()
}

/// Reads the payload of an lt_donthave message (BEP 54).
///
/// # Errors
/// [`DecodeError::DontHave`] if it is not four bytes.
pub fn decode_donthave(payload: &[u8]) -> Result<PieceIndex, DecodeError> {
    let bytes = payload.try_into().map_err(|_| DecodeError::DontHave(payload.len()))?;
    Ok(PieceIndex(u32::from_be_bytes(bytes)))
}

/// The payload of an upload_only message (BEP 21): whether the sender wants nothing from now on.
#[must_use]
pub fn encode_upload_only(upload_only: bool) -> Vec<u8> {
    vec![upload_only.into()]
}

/// Reads the payload of an upload_only message (BEP 21): one byte, and anything but 0 is yes.
#[must_use]
pub fn decode_upload_only(payload: &[u8]) -> bool {
    payload.first().is_some_and(|&byte| byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> ExtendedHandshake {
        ExtendedHandshake::decode(text.as_bytes()).expect("a dictionary")
    }

    #[test]
    fn ours_survives_the_wire_with_its_keys_in_order() {
        let ours = ExtendedHandshake {
            messages: [
                ("ut_pex", 1),
                (DONTHAVE, OUR_DONTHAVE_ID),
                (UPLOAD_ONLY, OUR_UPLOAD_ONLY_ID),
                (METADATA, OUR_METADATA_ID),
            ]
            .map(|(name, id)| (name.to_owned(), id))
            .into(),
            donthave: Some(OUR_DONTHAVE_ID),
            metadata_id: Some(OUR_METADATA_ID),
            upload_only_id: Some(OUR_UPLOAD_ONLY_ID),
            reqq: Some(500),
            client: Some("swarmfs 0.1".to_owned()),
            listen_port: Some(6881),
            upload_only: Some(true),
            yourip: Some(Ipv4Addr::new(b'a', b'b', b'c', b'd').into()),
            metadata_size: Some(31_235),
        };
        let bytes = ours.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "d1:md11:lt_donthavei7e11:upload_onlyi3e11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e4:reqqi500e11:upload_onlyi1e1:v11:swarmfs 0.16:yourip4:abcde"
        );
        assert_eq!(ExtendedHandshake::decode(&bytes), Ok(ours));
        assert_eq!(ExtendedHandshake::default().encode(), b"d1:mdee");
        let only_donthave = ExtendedHandshake { donthave: Some(7), ..ExtendedHandshake::default() };
        assert_eq!(only_donthave.encode(), b"d1:md11:lt_donthavei7eee");
        let wants_again = ExtendedHandshake { upload_only: Some(false), ..ExtendedHandshake::default() };
        assert_eq!(wants_again.encode(), b"d1:mde11:upload_onlyi0ee");
    }

    #[test]
    fn foreign_ones_are_read() {
        // Transmission's and libtorrent's, as the corpus has them.
        let transmission = decode(
            "d1:ei0e1:md11:upload_onlyi3e12:ut_holepunchi4e11:ut_metadatai2e6:ut_pexi1ee4:ipv44:XXXX4:reqqi255e1:v5:1.2.31:pi0ee",
        );
        assert_eq!(transmission.messages["ut_pex"], 1);
        assert_eq!((transmission.reqq, transmission.client.as_deref()), (Some(255), Some("1.2.3")));
        assert_eq!(transmission.listen_port, None, "port 0 is none");
        assert_eq!(transmission.donthave, None);
        assert_eq!((transmission.upload_only_id, transmission.upload_only), (Some(3), None));
        assert_eq!(decode("d11:upload_onlyi1ee").upload_only, Some(true));
        assert_eq!(decode("d11:upload_onlyi0ee").upload_only, Some(false));
        assert_eq!(decode("d1:md11:lt_donthavei0eee").donthave, None, "0 switches it off");
        assert_eq!(decode("d1:md6:ut_pexi0eee").messages["ut_pex"], 0);
        assert_eq!(decode("detail"), ExtendedHandshake::default());
    }

    #[test]
    fn hostile_fields_count_as_absent() {
        for (text, what) in [
            ("d13:metadata_sizei0ee", "P15: no size"),
            ("d13:metadata_sizei-1ee", "P15: negative"),
            ("d13:metadata_sizei2147483648ee", "P15: 2^31"),
            ("d13:metadata_size1:5e", "a string"),
            ("d4:reqqi-5ee", "negative"),
            ("d1:pi65536ee", "beyond ports"),
            ("d1:mi5ee", "not a dictionary"),
            ("d1:md1:ai256e1:bi-1e1:c1:xee", "no ids"),
            ("d6:yourip5:abcdee", "five bytes"),
            ("d1:v2:\x1b\x07e", "nothing printable"),
        ] {
            assert_eq!(decode(text), ExtendedHandshake::default(), "{what}");
        }
        assert_eq!(decode("d4:reqqi9999999999ee").reqq, Some(u32::MAX));
        assert_eq!(decode("d13:metadata_sizei16777216ee").metadata_size, Some(MAX_METADATA));
        let mapped = [b"d6:yourip16:".as_slice(), &[0; 10], &[255, 255, 1, 2, 3, 4], b"e"].concat();
        assert_eq!(ExtendedHandshake::decode(&mapped).unwrap().yourip, Some(Ipv4Addr::new(1, 2, 3, 4).into()));
        let many: String = (0..1000).map(|n| format!("4:{n:04}i1e")).collect();
        assert_eq!(decode(&format!("d1:md{many}ee")).messages.len(), MAX_MESSAGES);
    }

    #[test]
    fn what_is_no_dictionary_within_the_limits_is_refused() {
        let nest = "l".repeat(20_000);
        let deep = format!("d1:m{}{}e", "l".repeat(40), "e".repeat(40));
        let wide = format!("d1:ml{}ee", "i1e".repeat(10_000));
        for text in ["", "i1e", "le", "4:test", "d", "d1:md", "d13:metadata_sizei16384", nest.as_str(), &deep, &wide] {
            assert_eq!(ExtendedHandshake::decode(text.as_bytes()), Err(DecodeError::Bencode));
        }
    }

    #[test]
    fn upload_only_is_one_byte() {
        for (value, byte) in [(false, 0), (true, 1)] {
            assert_eq!(encode_upload_only(value), [byte]);
            assert_eq!(decode_upload_only(&[byte]), value);
        }
        assert!(!decode_upload_only(&[]));
    }

    #[test]
    fn donthave_is_four_bytes() {
        assert_eq!(encode_donthave(PieceIndex(258)), [0, 0, 1, 2]);
        assert_eq!(decode_donthave(&[0, 0, 1, 2]), Ok(PieceIndex(258)));
        for length in [0, 3, 5] {
            assert_eq!(decode_donthave(&vec![0; length]), Err(DecodeError::DontHave(length)));
        }
    }
}
