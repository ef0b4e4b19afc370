//! What peers and trackers say, as values: messages and handshakes (BEP 3, 6, 10), extensions (BEP 54), tracker replies
//! (BEP 3, 7, 23, 24). Decoders take untrusted bytes, allocate nothing ahead of data and never panic.
#![forbid(unsafe_code)]

mod extension;
mod message;

pub use extension::ExtendedHandshake;
pub use message::{Message, PeerId};
