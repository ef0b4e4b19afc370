//! The file system over content without a swarm.

mod fake_content;

mod metadata;
mod mountpoint;
mod parked;
mod readonly;
mod reads;
mod unmount;
mod xattrs;
