//! Verified pieces: assembled and hashed, kept in memory in LRU order under a byte budget, or read from a user's own
//! copy. Nothing here knows a peer or a reader. The disk store will be a further place that [`Verified`] pieces come
//! from (`from_store`), below the memory and under the same budget.

mod verified;

pub use verified::Verified;
