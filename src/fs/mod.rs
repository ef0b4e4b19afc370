//! The file system: the tree of inodes, FUSE, the mount and its end.
