//! The file system: the tree of inodes, FUSE, the mount and its end.
//!
//! [`Tree`] is pure and immutable, so every metadata call is an array lookup. `fuse` turns kernel requests into tree
//! lookups and [`Content`](crate::engine::Content) reads; `mount` checks the mountpoint, runs the session and ends it.

mod attach;
mod fuse;
mod mount;
pub(crate) mod mountinfo;
mod options;
mod through;
pub(crate) mod tree;

pub(crate) use attach::{Detached, canonical, detach, is_dead};
pub use mount::{Mounted, Unmounter, check, mount};
pub use options::MountOptions;
pub use tree::{Attr, FileSpan, Inode, NodeKind, Tree};

/// The type that mount(8) and /proc/self/mountinfo show for our mounts.
pub(crate) const FS_TYPE: &str = "fuse.swarmfs";
