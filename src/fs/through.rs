//! Files that the kernel reads by itself (FUSE passthrough): those that are whole in a file on a disk. The kernel wants an
//! inode to be read in one way while any handle of it is open, and by one backing id; mixing gives its readers EIO.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};

use super::tree::Inode;
use crate::engine::Backing;

/// The handle of a file that is passed through, which the engine does not know.
pub(super) const HANDLE: FileHandle = FileHandle(u64::MAX);

/// How the files that are open are read.
#[derive(Default)]
pub(super) struct Through {
    possible: AtomicBool,
    open: Mutex<HashMap<Inode, Open>>,
}

/// A file that is open.
struct Open {
    handles: u64,
    /// What the kernel reads, if it does so by itself.
    by_itself: Option<(BackingId, Backing)>,
}

/// Lets the kernel read a file, if its disk is one that answers: on one that hangs, as those over a network do, nobody could
/// kill a reader.
fn opened(reply: &ReplyOpen, backing: &Backing) -> io::Result<BackingId> {
    const MAY_HANG: [i64; 6] = [libc::FUSE_SUPER_MAGIC, libc::NFS_SUPER_MAGIC, SMB, CIFS, libc::AFS_SUPER_MAGIC, P9];
    const SMB: i64 = 0xFE53_4D42;
    const CIFS: i64 = 0xFF53_4D42;
    const P9: i64 = 0x0102_1997;
    if MAY_HANG.contains(&rustix::fs::fstatfs(&backing.file)?.f_type) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "their disk is another program's or machine's"));
    }
    reply.open_backing(&backing.file)
}

impl Through {
    /// The kernel can do it.
    pub(super) fn allow(&self) {
        self.possible.store(true, Ordering::Relaxed);
    }

    /// A file is opened: answered if the kernel is to read it by itself, given back if not.
    pub(super) fn open(
        &self,
        inode: Inode,
        reply: ReplyOpen,
        backing: impl FnOnce() -> Option<Backing>,
    ) -> Option<ReplyOpen> {
        if !self.possible.load(Ordering::Relaxed) {
            return Some(reply);
        }
        let mut open = self.lock();
        let file = open.entry(inode).or_insert_with(|| {
            let by_itself = backing().and_then(|backing| match opened(&reply, &backing) {
                Ok(id) => Some((id, backing)),
                Err(error) => {
                    // Without CAP_SYS_ADMIN, or on a file system that cannot or must not be passed through.
                    tracing::debug!("files are not passed through: {error}");
                    self.possible.store(false, Ordering::Relaxed);
                    None
                }
            });
            Open { handles: 0, by_itself }
        });
        file.handles += 1;
        match &file.by_itself {
            Some((id, _)) => {
                reply.opened_passthrough(HANDLE, FopenFlags::empty(), id);
                None
            }
            None => Some(reply),
        }
    }

    /// The last close of a handle. A file that is passed through stays so, and in the cache, until the mount ends: a mapping
    /// of it outlives its handles, and the file system does not hear of its end.
    pub(super) fn close(&self, inode: Inode) {
        let mut open = self.lock();
        let Some(file) = open.get_mut(&inode) else { return };
        file.handles = file.handles.saturating_sub(1);
        if file.handles == 0 && file.by_itself.is_none() {
            open.remove(&inode);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Inode, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
