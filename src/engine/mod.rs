//! The shell: tasks and sockets around the pure rooms.

mod content;
pub mod discovery;

pub use content::{Bytes, Content, Reply};
