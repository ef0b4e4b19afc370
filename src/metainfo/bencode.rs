//! Bencode (BEP 3): the check that stands in front of every bencode parser, and a view of what has passed it.
//!
//! [`check`] is iterative, with limits on depth, items and lengths, so that a hostile input is refused and never
//! recursed into. `Node` reads checked bytes where they lie: nothing is copied, and a raw span is at hand for the
//! info-hash. Unsorted and repeated keys, `i-0e` and leading zeros pass, because torrents of the wild have them.

use std::ops::Range;

/// Limits of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Lists and dictionaries inside each other.
    pub depth: usize,
    /// Values in all: dictionaries, lists, integers and strings. A key belongs to its value and is not counted.
    pub items: usize,
}

impl Limits {
    /// .torrent files. Depth as libtorrent. The items let 500,000 files four directories deep through; libtorrent's
    /// 3,000,000 (keys and ends counted) stop at some 370,000. The check itself takes no memory per item.
    pub const METAINFO: Self = Self { depth: 100, items: 4_000_000 };
    /// Peers, trackers and the DHT.
    pub const WIRE: Self = Self { depth: 32, items: 10_000 };
}

/// Why bytes are no bencode, or too much of it. Offsets are bytes from the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BencodeError {
    /// The input ends inside a value.
    #[error("it ends in the middle of a value")]
    End,
    /// A byte that no value can have here.
    #[error("a byte that no bencode value can have at offset {0}")]
    Byte(usize),
    /// An integer that is empty, malformed or does not fit 64 bits.
    #[error("a malformed integer at offset {0}")]
    Integer(usize),
    /// A string length that is malformed or longer than the input.
    #[error("a string at offset {0} that is longer than the rest")]
    Length(usize),
    /// A dictionary key that is no string.
    #[error("a dictionary key at offset {0} that is no string")]
    Key(usize),
    /// Lists and dictionaries nested deeper than the limit.
    #[error("lists or dictionaries nested more than {0} deep")]
    Depth(usize),
    /// More values than the limit.
    #[error("more than {0} values")]
    Items(usize),
    /// Not a dictionary where one is needed.
    #[error("it is not a dictionary")]
    NotDictionary,
    /// A key that must be there once is there twice.
    #[error("a key that is there twice, at offset {0}")]
    Duplicate(usize),
}

/// The longest integer or string length, digits: what 64 bits need, with room for a few leading zeros.
const MAX_DIGITS: usize = 24;

/// One step through an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List,
    Dict,
    End,
}

/// The token at `at`, and the offset after it.
fn token(input: &[u8], at: usize) -> Result<(Token<'_>, usize), BencodeError> {
    match *input.get(at).ok_or(BencodeError::End)? {
        b'i' => integer(input, at),
        b'l' => Ok((Token::List, at + 1)),
        b'd' => Ok((Token::Dict, at + 1)),
        b'e' => Ok((Token::End, at + 1)),
        b'0'..=b'9' => string(input, at),
        _ => Err(BencodeError::Byte(at)),
    }
}

fn integer(input: &[u8], at: usize) -> Result<(Token<'_>, usize), BencodeError> {
    let negative = input.get(at + 1) == Some(&b'-');
    let start = at + 1 + usize::from(negative);
    let rest = input.get(start..).unwrap_or_default();
    let digits = rest.iter().take(MAX_DIGITS + 1).take_while(|b| b.is_ascii_digit()).count();
    match rest.get(digits) {
        None => return Err(BencodeError::End),
        Some(b'e') if (1..=MAX_DIGITS).contains(&digits) => {}
        Some(_) => return Err(BencodeError::Integer(at)),
    }
    // Downwards for both signs: the smallest i64 has no positive counterpart.
    let below = rest[..digits]
        .iter()
        .try_fold(0_i64, |n, b| n.checked_mul(10)?.checked_sub(i64::from(b - b'0')))
        .ok_or(BencodeError::Integer(at))?;
    let value = if negative { Some(below) } else { below.checked_neg() };
    Ok((Token::Int(value.ok_or(BencodeError::Integer(at))?), start + digits + 1))
}

fn string(input: &[u8], at: usize) -> Result<(Token<'_>, usize), BencodeError> {
    let rest = input.get(at..).unwrap_or_default();
    let digits = rest.iter().take(MAX_DIGITS + 1).take_while(|b| b.is_ascii_digit()).count();
    match rest.get(digits) {
        None => return Err(BencodeError::End),
        Some(b':') if digits <= MAX_DIGITS => {}
        Some(_) => return Err(BencodeError::Length(at)),
    }
    let length = rest[..digits]
        .iter()
        .try_fold(0_usize, |n, b| n.checked_mul(10)?.checked_add(usize::from(b - b'0')))
        .ok_or(BencodeError::Length(at))?;
    let start = at + digits + 1;
    let end = start.checked_add(length).ok_or(BencodeError::Length(at))?;
    Ok((Token::Bytes(input.get(start..end).ok_or(BencodeError::Length(at))?), end))
}

/// What the next token of an open list or dictionary must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Item,
    Key,
    Value,
}

/// Checks the first value of `input`, without recursion and without memory per item. Returns its length: whether bytes
/// may follow it is the caller's business.
///
/// # Errors
/// A [`BencodeError`] if it is malformed or beyond the limits.
pub fn check(input: &[u8], limits: Limits) -> Result<usize, BencodeError> {
    let mut open: Vec<Expect> = Vec::new();
    let (mut at, mut items) = (0, 0);
    loop {
        let (token, next) = token(input, at)?;
        let expect = open.last().copied();
        match (expect, token) {
            (Some(Expect::Key), Token::Bytes(_)) => {
                if let Some(top) = open.last_mut() {
                    *top = Expect::Value;
                }
                at = next;
                continue;
            }
            (Some(Expect::Key | Expect::Item), Token::End) => {
                open.pop();
            }
            (Some(Expect::Key), _) => return Err(BencodeError::Key(at)),
            (_, Token::End) => return Err(BencodeError::Byte(at)),
            _ => {
                items += 1;
                if items > limits.items {
                    return Err(BencodeError::Items(limits.items));
                }
                // The value of a key is under way: after it comes a key again.
                if let Some(top) = open.last_mut().filter(|top| **top == Expect::Value) {
                    *top = Expect::Key;
                }
                match token {
                    Token::List => open.push(Expect::Item),
                    Token::Dict => open.push(Expect::Key),
                    _ => {}
                }
                if open.len() > limits.depth {
                    return Err(BencodeError::Depth(limits.depth));
                }
            }
        }
        at = next;
        if open.is_empty() {
            return Ok(at);
        }
    }
}

/// The raw span of the value of `key` in the dictionary that `input` begins with; `None` if the key is not there.
/// `input` must have passed [`check`].
///
/// # Errors
/// [`BencodeError::Duplicate`] if the key is there twice, [`BencodeError::NotDictionary`] if there is no dictionary.
pub fn span_of(input: &[u8], key: &[u8]) -> Result<Option<Range<usize>>, BencodeError> {
    let mut entries = Node(input).entries().ok_or(BencodeError::NotDictionary)?;
    let mut found = None;
    while let Some((name, node)) = entries.next() {
        if name == key {
            let start = entries.at - node.0.len();
            if found.replace(start..entries.at).is_some() {
                return Err(BencodeError::Duplicate(start));
            }
        }
    }
    Ok(found)
}

/// The offset after the value at `at`.
fn skip(input: &[u8], mut at: usize) -> Option<usize> {
    let mut open = 0_usize;
    loop {
        let (token, next) = token(input, at).ok()?;
        match token {
            Token::List | Token::Dict => open += 1,
            Token::End => open = open.checked_sub(1)?,
            _ => {}
        }
        at = next;
        if open == 0 {
            return Some(at);
        }
    }
}

/// One value of an input that passed [`check`], as its raw bytes. Its readers answer `None` for a value of another kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a>(&'a [u8]);

impl<'a> Node<'a> {
    /// Checks `input` and gives its first value.
    pub(crate) fn checked(input: &'a [u8], limits: Limits) -> Result<Self, BencodeError> {
        check(input, limits).map(|length| Self(&input[..length]))
    }

    /// The value at a span that [`span_of`] found in `node`.
    pub(crate) fn inside(node: Self, span: Range<usize>) -> Option<Self> {
        node.0.get(span).map(Self)
    }

    /// The value as it was written, for hashes.
    pub(crate) fn raw(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn int(self) -> Option<i64> {
        match token(self.0, 0) {
            Ok((Token::Int(value), _)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        match token(self.0, 0) {
            Ok((Token::Bytes(value), _)) => Some(value),
            _ => None,
        }
    }

    /// The items of a list.
    pub(crate) fn items(self) -> Option<Items<'a>> {
        (self.0.first() == Some(&b'l')).then_some(Items { input: self.0, at: 1 })
    }

    /// The keys and values of a dictionary, in the order they are written in.
    pub(crate) fn entries(self) -> Option<Entries<'a>> {
        (self.0.first() == Some(&b'd')).then_some(Entries { input: self.0, at: 1 })
    }
}

/// The items of a list.
#[derive(Clone, Debug)]
pub(crate) struct Items<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        let end = skip(self.input, self.at)?;
        let node = Node(self.input.get(self.at..end)?);
        self.at = end;
        Some(node)
    }
}

/// The entries of a dictionary.
#[derive(Clone, Debug)]
pub(crate) struct Entries<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Node<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (Token::Bytes(key), start) = token(self.input, self.at).ok()? else { return None };
        let end = skip(self.input, start)?;
        let node = Node(self.input.get(start..end)?);
        self.at = end;
        Some((key, node))
    }
}

/// Walks a dictionary of dictionaries (BEP 52 `file tree`) in one pass, however deep it is.
#[derive(Clone, Debug)]
pub(crate) struct Tree<'a> {
    input: &'a [u8],
    at: usize,
    path: Vec<&'a [u8]>,
}

impl<'a> Tree<'a> {
    /// `None` if the node is no dictionary.
    pub(crate) fn new(root: Node<'a>) -> Option<Self> {
        (root.0.first() == Some(&b'd')).then_some(Self { input: root.0, at: 1, path: Vec::new() })
    }

    /// The next leaf; `None` after the last.
    ///
    /// # Errors
    /// [`BencodeError::NotDictionary`] for an entry that is neither a leaf nor a dictionary, or a leaf at the root.
    pub(crate) fn next_leaf(&mut self) -> Result<Option<Leaf<'_, 'a>>, BencodeError> {
        loop {
            let (key, start) = match token(self.input, self.at)? {
                (Token::Bytes(key), start) => (key, start),
                // The end of the root stays where it is, so that a further call finds it again.
                (Token::End, next) => match self.path.pop() {
                    Some(_) => {
                        self.at = next;
                        continue;
                    }
                    None => return Ok(None),
                },
                _ => return Err(BencodeError::Key(self.at)),
            };
            let leaf = key.is_empty();
            if self.input.get(start) != Some(&b'd') || leaf && self.path.is_empty() {
                return Err(BencodeError::NotDictionary);
            }
            if leaf {
                self.at = skip(self.input, start).ok_or(BencodeError::End)?;
                return Ok(Some(Leaf { path: &self.path, fields: Node(&self.input[start..self.at]) }));
            }
            self.path.push(key);
            self.at = start + 1;
        }
    }
}

/// The value of an empty key in a [`Tree`], and the keys that lead to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf<'t, 'a> {
    pub(crate) path: &'t [&'a [u8]],
    pub(crate) fields: Node<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits { depth: 3, items: 5 };

    #[test]
    fn accepts_what_torrents_of_the_wild_have() {
        for good in ["i-0e", "i01e", "06:foobar", "d2:bai1e2:aai2ee", "d1:ai1e1:ai2ee", "d0:i1ee", "le", "0:"] {
            assert_eq!(check(good.as_bytes(), SMALL), Ok(good.len()), "{good}");
        }
        assert_eq!(check(b"i42etrailing", SMALL), Ok(4));
        assert_eq!(Node(b"i-9223372036854775808e").int(), Some(i64::MIN));
        assert_eq!(Node(b"i-000e").int(), Some(0));
    }

    #[test]
    fn refuses_what_is_malformed() {
        for bad in [
            "",
            "e",
            "ie",
            "i-e",
            "i--1e",
            "i1-2e",
            "i+1e",
            "i1",
            "i9223372036854775808e",
            "1",
            "-1:a",
            "3:ab",
            "1x",
            "99999999999999999999:a",
            "l",
            "d",
            "d1:a",
            "d1:ae",
            "di1e1:ae",
            "l1:ai1e",
            "d1:a1:b-e",
            "dle0:e",
        ] {
            assert!(check(bad.as_bytes(), SMALL).is_err(), "{bad}");
        }
    }

    #[test]
    fn holds_depth_and_items() {
        assert!(check(b"llleee", SMALL).is_ok());
        assert_eq!(check(b"lllleeee", SMALL), Err(BencodeError::Depth(3)));
        assert!(check(b"li1ei1ei1ei1ee", SMALL).is_ok());
        assert_eq!(check(b"li1ei1ei1ei1ei1ee", SMALL), Err(BencodeError::Items(5)));
        let bomb = [vec![b'l'; 20_000], vec![b'e'; 20_000]].concat();
        assert_eq!(check(&bomb, Limits::METAINFO), Err(BencodeError::Depth(100)));
        assert_eq!(check(&bomb, Limits::WIRE), Err(BencodeError::Depth(32)));
    }

    #[test]
    fn finds_the_raw_span_of_a_key() {
        let input = b"d1:ali1ee4:infod1:xi01eee";
        assert_eq!(span_of(input, b"info").unwrap().map(|s| &input[s]), Some(&b"d1:xi01ee"[..]));
        assert_eq!(span_of(input, b"x"), Ok(None));
        assert_eq!(span_of(b"d1:ai1e1:ai2ee", b"a"), Err(BencodeError::Duplicate(10)));
        assert_eq!(span_of(b"li1ee", b"a"), Err(BencodeError::NotDictionary));
    }

    #[test]
    fn walks_a_tree() {
        let mut tree = Tree::new(Node(b"d1:ad1:bd0:d1:xi1eeee1:cd0:deee")).unwrap();
        let leaf = tree.next_leaf().unwrap().unwrap();
        assert_eq!((leaf.path, leaf.fields.raw()), (&[&b"a"[..], b"b"][..], &b"d1:xi1ee"[..]));
        let leaf = tree.next_leaf().unwrap().unwrap();
        assert_eq!((leaf.path, leaf.fields.raw()), (&[&b"c"[..]][..], &b"de"[..]));
        assert!(tree.next_leaf().unwrap().is_none());
        assert!(tree.next_leaf().unwrap().is_none());
        assert!(Tree::new(Node(b"d0:dee")).unwrap().next_leaf().is_err());
        assert!(Tree::new(Node(b"d1:ai1ee")).unwrap().next_leaf().is_err());
    }

    proptest::proptest! {
        /// No input makes the readers panic, and what passes can be walked to its end.
        #[test]
        fn never_panics(input in proptest::collection::vec(proptest::sample::select(b"dlie01:-ax9".to_vec()), 0..40)) {
            if let Ok(length) = check(&input, SMALL) {
                proptest::prop_assert_eq!(skip(&input, 0), Some(length));
            }
            let _ = (Node(&input).int(), Node(&input).bytes(), span_of(&input, b"a"));
            if let Some(items) = Node(&input).items() {
                items.for_each(drop);
            }
            if let Some(mut tree) = Tree::new(Node(&input)) {
                while let Ok(Some(_)) = tree.next_leaf() {}
            }
        }
    }
}
