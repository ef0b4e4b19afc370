//! Percent-encoding (RFC 3986, section 2.1).

use std::fmt::Write;

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

/// True for what has no meaning of its own anywhere in a URL (section 2.3).
pub(crate) fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
