//! Percent-encoding (RFC 3986, section 2.1).

use std::fmt::Write;

use data_encoding::HEXLOWER_PERMISSIVE;

/// The bytes as text, an escape for each that is not `plain`.
pub(crate) fn encode(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            // To a string it cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The bytes that the text stands for. A `%` that no two digits follow stands for itself, and `plus` says whether a `+` is a
/// space.
pub(crate) fn decode(text: &str, plus: bool) -> Vec<u8> {
    let mut bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    while let Some((&first, rest)) = bytes.split_first() {
        let hex = rest.get(..2).filter(|_| first == b'%').and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex).ok());
        let (byte, used) = match hex.as_deref() {
            Some(&[byte]) => (byte, 3),
            _ if plus && first == b'+' => (b' ', 1),
            _ => (first, 1),
        };
        out.push(byte);
        bytes = bytes.get(used..).unwrap_or_default();
    }
    out
}

/// True for what has no meaning of its own anywhere in a URL (section 2.3).
pub(crate) fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_no_escape_stays() {
        let all: Vec<u8> = (0..=255).collect();
        for plus in [false, true] {
            assert_eq!(decode(&encode(&all, unreserved), plus), all);
        }
        assert_eq!(decode("a+b%2B%2b", true), b"a b++");
        assert_eq!(decode("100%", false), b"100%");
        assert_eq!(decode("%+f%4%zz%41", false), b"%+f%4%zzA");
    }
}
