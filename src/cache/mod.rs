//! Verified pieces: assembled and hashed ([`PieceBuf`]), kept in memory in LRU order under a byte budget ([`Cache`]), or
//! read from a user's own copy ([`DataDir`]). Nothing here knows a peer or a reader. The disk store will be a further
//! place that [`Verified`] pieces come from (`from_store`), below the memory and under the same budget.

mod assembly;
mod data;
mod memory;
mod verified;

pub use assembly::{Filled, PieceBuf, Place};
pub use data::{DataDir, VerifyReport};
pub use memory::Cache;
pub use verified::{Pool, Verified};
