//! Bencoded values of peers and trackers as a tree that is read leniently: a field of a wrong type is as good as none.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::metainfo::bencode::Limits;
use crate::metainfo::bencode::check;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Integer(i64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Dictionary(Dictionary),
}

/// A dictionary; of two equal keys the later one counts.
pub(super) type Dictionary = BTreeMap<Vec<u8>, Value>;

/// The dictionary at the beginning of `input`; bytes after it are ignored. `None` if there is none within the limits.
pub(super) fn dictionary(input: &[u8]) -> Option<Dictionary> {
    let length = check(input, Limits::WIRE).ok()?;
    match serde_bencode::from_bytes(input.get(..length)?) {
        Ok(Value::Dictionary(dictionary)) => Some(dictionary),
        _ => None,
    }
}

impl Value {
    pub(super) fn integer(&self) -> Option<i64> {
        if let Self::Integer(n) = self { Some(*n) } else { None }
    }

    pub(super) fn bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub(super) fn dictionary(&self) -> Option<&Dictionary> {
        if let Self::Dictionary(dictionary) = self { Some(dictionary) } else { None }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a bencoded value")
            }

            fn visit_i64<E: Error>(self, n: i64) -> Result<Value, E> {
                Ok(Value::Integer(n))
            }

            fn visit_u64<E: Error>(self, n: u64) -> Result<Value, E> {
                i64::try_from(n).map(Value::Integer).map_err(E::custom)
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Value, E> {
                Ok(Value::Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Value, E> {
                Ok(Value::Bytes(bytes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut dictionary = Dictionary::new();
                while let Some((key, value)) = entries.next_entry::<serde_bytes::ByteBuf, Value>()? {
                    dictionary.insert(key.into_vec(), value);
                }
                Ok(Value::Dictionary(dictionary))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
