//! The check that stands in front of the bencode parser for input of peers and trackers: iterative, so that no nesting
//! can exhaust the stack, and bounded in depth and in values.

use crate::metainfo::bencode::Limits;

/// Not bencode, or over its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BencodeError;

/// An open list, or an open dictionary and whether its next item is a key.
#[derive(Clone, Copy)]
enum Open {
    List,
    Dictionary { key: bool },
}

/// The length of the first value of `input`; what follows is the caller's business.
pub(super) fn check(input: &[u8], limits: Limits) -> Result<usize, BencodeError> {
    let mut open: Vec<Open> = Vec::new();
    let (mut at, mut items) = (0, 0);
    loop {
        let byte = *input.get(at).ok_or(BencodeError)?;
        if byte == b'e' {
            // A dictionary cannot end between a key and its value.
            match open.pop() {
                Some(Open::List | Open::Dictionary { key: true }) => at += 1,
                _ => return Err(BencodeError),
            }
        } else {
            items += 1;
            if items > limits.items {
                return Err(BencodeError);
            }
            if let Some(Open::Dictionary { key }) = open.last_mut() {
                if *key && !byte.is_ascii_digit() {
                    return Err(BencodeError);
                }
                *key = !*key;
            }
            match byte {
                b'l' | b'd' => {
                    if open.len() >= limits.depth {
                        return Err(BencodeError);
                    }
                    open.push(if byte == b'l' { Open::List } else { Open::Dictionary { key: true } });
                    at += 1;
                }
                b'i' => at = end_of_integer(input, at)?,
                b'0'..=b'9' => at = end_of_string(input, at)?,
                _ => return Err(BencodeError),
            }
        }
        if open.is_empty() {
            return Ok(at);
        }
    }
}

/// Where the integer that begins at `at` ends. At most 20 digits: longer ones fit no integer of ours.
fn end_of_integer(input: &[u8], at: usize) -> Result<usize, BencodeError> {
    let rest = input.get(at + 1..).ok_or(BencodeError)?;
    let sign = usize::from(rest.first() == Some(&b'-'));
    let digits = rest.iter().skip(sign).take(21).take_while(|b| b.is_ascii_digit()).count();
    let end = sign + digits;
    if digits == 0 || digits > 20 || rest.get(end) != Some(&b'e') {
        return Err(BencodeError);
    }
    Ok(at + 1 + end + 1)
}

/// Where the string that begins at `at` ends.
fn end_of_string(input: &[u8], at: usize) -> Result<usize, BencodeError> {
    let rest = input.get(at..).ok_or(BencodeError)?;
    let digits = rest.iter().take(11).take_while(|b| b.is_ascii_digit()).count();
    if digits > 10 || rest.get(digits) != Some(&b':') {
        return Err(BencodeError);
    }
    let length = rest[..digits].iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
    let body = rest.len() - digits - 1;
    let length = usize::try_from(length).ok().filter(|&l| l <= body).ok_or(BencodeError)?;
    Ok(at + digits + 1 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(input: &[u8]) -> Option<usize> {
        check(input, Limits::WIRE).ok()
    }

    #[test]
    fn good_values_have_a_length_and_trailing_bytes_none() {
        for good in
            ["i0e", "i-1e", "0:", "4:test", "le", "de", "ldedee", "d1:ali1eee", "d0:i420ee", "i9223372036854775807e"]
        {
            assert_eq!(length(good.as_bytes()), Some(good.len()), "{good}");
            assert_eq!(length(format!("{good}tail").as_bytes()), Some(good.len()), "{good}");
        }
    }

    #[test]
    fn bad_values_and_every_cut_of_a_good_one_are_refused() {
        for bad in [
            "",
            "e",
            "i",
            "ie",
            "i-e",
            "i10",
            "i35412-5633e",
            "ixe",
            "i--1e",
            "l",
            "d",
            "55",
            "3:ab",
            "-1:a",
            "x:abc",
            "99999999:foobar",
            "18446744073709551615:foobar",
            "di2ei0ee",
            "d1000:..e",
            "df00:",
            "d4:infoe",
            "l2:..0",
            "d1:a1:be1:c",
            "d1:ai1e1:be",
            "i12+3e",
            "i184467440737095516154e",
        ] {
            let refused = length(bad.as_bytes()).is_none_or(|l| l < bad.len());
            assert!(refused, "{bad}");
        }
        let whole = b"d5:peers6:\x01\x02\x03\x04\x05\x061:xli1ed1:yleeee";
        assert_eq!(length(whole), Some(whole.len()));
        for cut in 0..whole.len() {
            assert_eq!(length(&whole[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn depth_and_items_are_bounded() {
        let nest = |n: usize| [b"l".repeat(n), b"e".repeat(n)].concat();
        assert!(length(&nest(32)).is_some() && length(&nest(33)).is_none());
        assert!(length(&b"l".repeat(20_000)).is_none());
        let list = |n: usize| [b"l".to_vec(), b"i1e".repeat(n), b"e".to_vec()].concat();
        assert!(length(&list(9_999)).is_some() && length(&list(10_000)).is_none());
    }
}
