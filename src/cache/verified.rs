//! Bytes that have passed their hash.

/// The bytes of a piece that passed its hash; there is no other way to make one.
#[derive(Debug)]
pub struct Verified {
    bytes: Box<[u8]>,
}

impl Verified {
    /// The bytes, if they are in memory.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        Some(&self.bytes)
    }
}
