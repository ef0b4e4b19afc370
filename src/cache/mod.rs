//! Verified pieces: assembled and hashed, kept in memory in LRU order under a byte budget, written to a user's own copy
//! or read from it, and kept in the disk store under a budget of its own. Nothing here knows a peer or a reader.

mod assembly;
mod batch;
mod beneath;
mod data;
mod data_write;
mod lanes;
mod memory;
mod place;
mod pool;
mod store;
mod unverified;
mod verified;
mod verify;

pub use assembly::{Filled, PieceBuf};
pub use batch::{Batch, Held};
pub use data::DataDir;
pub use memory::Cache;
pub use place::Place;
pub use pool::Pool;
pub use store::{Checked, Checkup, Entry, Fault, Listed, Pin, Put, Room, Store};
pub use unverified::Unverified;
pub use verified::Verified;
pub use verify::VerifyReport;
