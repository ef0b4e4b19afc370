//! The kernel's requests, each answered on the thread that took it or parked in the engine; nothing here waits.
//!
//! Content is immutable, so the kernel may keep whatever it has seen: attributes, names, directories and pages. Reads go
//! through the page cache (never FOPEN_DIRECT_IO: a reader that waits could not be killed, and a second open would hang).

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::through::{self, Through};
use super::tree::{Attr, FileSpan, Inode, NodeKind, Tree};
use crate::engine::{Content, Reply};
use crate::swarm::HandleId;

/// How long the kernel may keep attributes and names: they never change, so this only bounds what an error would cost.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Requests that may wait at once, read-ahead and asynchronous reads among them. With the kernel's 16, sixteen reads of a
/// file that nobody has delayed every other file's by 11 s. Our own limits hold the load.
const MAX_BACKGROUND: u16 = 8192;
/// The largest request, bytes: bounds a READ too.
const MAX_REQUEST: u32 = 1 << 20;
/// What statfs and st_blksize count in, bytes.
const BLOCK: u32 = 4096;
/// The longest file name, bytes.
const NAME_MAX: u32 = 255;
/// 9999-12-31, past which creation dates are nonsense that some programs cannot print.
const LAST_DATE: i64 = 253_402_300_799;

const XATTR_INFO_HASH: &str = "user.swarmfs.info_hash";
const XATTR_PROGRESS: &str = "user.swarmfs.progress";

/// What cannot change once a torrent is mounted has one generation.
const GENERATION: Generation = Generation(0);
/// The handle of directories and empty files, which the engine does not know.
const NO_HANDLE: FileHandle = FileHandle(0);

/// What a mount shows now, and since when.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) tree: Arc<Tree>,
    pub(super) since: SystemTime,
}

/// Answers the kernel.
pub(super) struct Fuse {
    shown: Arc<RwLock<Shown>>,
    content: Arc<dyn Content>,
    uid: u32,
    gid: u32,
    /// The time of files whose torrent has no creation date.
    mounted: SystemTime,
    /// The kernel can do without OPENDIR and RELEASEDIR.
    no_opendir: AtomicBool,
    /// Whether the kernel may read by itself, and what it does.
    passthrough: bool,
    through: Through,
}

impl Fuse {
    pub(super) fn new(shown: Arc<RwLock<Shown>>, content: Arc<dyn Content>, passthrough: bool) -> Self {
        Self {
            shown,
            content,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            mounted: SystemTime::now(),
            no_opendir: AtomicBool::new(false),
            passthrough,
            through: Through::default(),
        }
    }

    fn tree(&self) -> Arc<Tree> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner).tree)
    }

    /// The time of an inode whose torrent has none of its own: the root changes when a torrent comes.
    fn time_of(&self, inode: Inode) -> SystemTime {
        if inode == Inode::ROOT {
            self.shown.read().unwrap_or_else(PoisonError::into_inner).since
        } else {
            self.mounted
        }
    }

    fn attr(&self, attr: &Attr) -> FileAttr {
        let (kind, perm) = match attr.kind {
            NodeKind::Directory => (FileType::Directory, 0o555),
            NodeKind::Regular { executable: true } => (FileType::RegularFile, 0o555),
            NodeKind::Regular { executable: false } => (FileType::RegularFile, 0o444),
            NodeKind::Symlink => (FileType::Symlink, 0o777),
        };
        let seconds = attr.created.filter(|seconds| (1..=LAST_DATE).contains(seconds));
        let created = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let time = created.map_or_else(|| self.time_of(attr.inode), |since| SystemTime::UNIX_EPOCH + since);
        FileAttr {
            ino: INodeNo(attr.inode.0),
            size: attr.size,
            // As if all were here: holes would make cp and tar write zeros without a read.
            blocks: attr.size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: attr.links,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    /// The entries of a directory from an offset on, `.` and `..` first; each with the offset that follows it. Stops when
    /// `add` says that the reply is full. False if there is no such directory.
    fn list(&self, directory: INodeNo, offset: u64, mut add: impl FnMut(&Attr, u64, &str) -> bool) -> bool {
        let (tree, directory) = (self.tree(), Inode(directory.0));
        let (Some(own), Some(above)) = (tree.attr(directory), tree.parent(directory)) else { return false };
        if own.kind != NodeKind::Directory {
            return false;
        }
        for at in offset.. {
            let next = at.saturating_add(1);
            let full = match at {
                0 => add(&own, next, "."),
                1 => tree.attr(above).is_none_or(|above| add(&above, next, "..")),
                _ => match usize::try_from(at - 2).ok().and_then(|index| tree.entry(directory, index)) {
                    Some((attr, name)) => add(&attr, next, name),
                    None => return true,
                },
            };
            if full {
                return true;
            }
        }
        true
    }

    fn xattr(&self, inode: Inode, name: &[u8]) -> Option<String> {
        let torrent = self.tree().torrent(inode);
        if name == XATTR_INFO_HASH.as_bytes() {
            return torrent.map(|(_, id)| id.to_string());
        }
        if name != XATTR_PROGRESS.as_bytes() {
            return None;
        }
        let (held, total) = match torrent {
            Some((key, _)) => self.content.progress(key),
            None => self
                .tree()
                .torrents()
                .map(|key| self.content.progress(key))
                .fold((0, 0), |sum, one| (u64::saturating_add(sum.0, one.0), u64::saturating_add(sum.1, one.1))),
        };
        Some(format!("{held}/{total}"))
    }

    fn read_file(&self, request: &Request, at: ReadAt, reply: ReplyData) {
        let Some(FileSpan { torrent, bytes: file }) = self.tree().file(at.inode) else {
            return reply.error(if self.tree().attr(at.inode).is_some() { Errno::EISDIR } else { Errno::ENOENT });
        };
        let Some(bytes) = clamp(&file, at.offset, at.size) else { return reply.data(&[]) };
        let Ok(length) = usize::try_from(bytes.end - bytes.start) else { return reply.error(Errno::EIO) };
        let reply = Box::new(ReadReply { reply, length });
        match self.content.try_read(torrent, at.handle, &bytes) {
            Some(found) => reply.data(found.as_slice()),
            None => self.content.park(torrent, at.handle, bytes, request.pid(), reply),
        }
    }
}

struct ReadAt {
    inode: Inode,
    handle: HandleId,
    offset: u64,
    size: u32,
}

/// The torrent bytes of a read: nothing past the end of the file; none if no byte is left.
fn clamp(file: &Range<u64>, offset: u64, size: u32) -> Option<Range<u64>> {
    let start = file.start.checked_add(offset)?;
    let end = start.saturating_add(u64::from(size)).min(file.end);
    (start < end).then_some(start..end)
}

/// A READ that waits. Dropped unanswered, it answers EIO.
struct ReadReply {
    reply: ReplyData,
    length: usize,
}

impl Reply for ReadReply {
    fn data(self: Box<Self>, bytes: &[u8]) {
        // The kernel would take a short answer for the end of the file and fill up with zeros.
        if bytes.len() == self.length {
            self.reply.data(bytes);
        } else {
            tracing::error!(asked = self.length, given = bytes.len(), "a read got the wrong number of bytes");
            self.reply.error(Errno::EIO);
        }
    }

    fn error(self: Box<Self>, errno: i32) {
        self.reply.error(Errno::from_i32(errno));
    }
}

/// Runs the answer to one request. A panic ends neither the thread nor the mount: the reply that it drops answers EIO.
fn guarded(answer: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(answer)).is_err() {
        tracing::error!("a request failed on an internal error and was answered EIO");
    }
}

/// Answers a getxattr or listxattr: its size, the value, or ERANGE if there is no room for it.
fn answer_xattr(value: &[u8], room: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if room == 0 => reply.size(length),
        Ok(length) if length <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Methods that answer nothing but an error.
macro_rules! refuse {
    ($errno:ident: $($name:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $name(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::$errno);
        })*
    };
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // READDIRPLUS_AUTO: plain readdir for a program that only wants names, attributes along for one that asks for them.
        for wanted in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            // Older kernels lack some; everything works without.
            let _ = config.add_capabilities(wanted);
        }
        let no_opendir = config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok();
        self.no_opendir.store(no_opendir, Ordering::Relaxed);
        if self.passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok()
        {
            self.through.allow();
        }
        for limited in [
            config.set_max_background(MAX_BACKGROUND).map(u32::from).map_err(u32::from),
            config.set_congestion_threshold(MAX_BACKGROUND).map(u32::from).map_err(u32::from),
            config.set_max_write(MAX_REQUEST),
        ] {
            if let Err(nearest) = limited {
                tracing::warn!(nearest, "the kernel's limits stay at their defaults");
            }
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded(|| match self.tree().lookup(Inode(parent.0), name.as_bytes()) {
            Some(found) => reply.entry(&TTL, &self.attr(&found), GENERATION),
            // Torrents may come to the root; a torrent's own directories stay as they are, so the kernel may remember
            // that a name is not there. Inode 0 says so.
            None if parent.0 != Inode::ROOT.0 => match self.tree().attr(Inode(parent.0)) {
                Some(above) => reply.entry(&TTL, &FileAttr { ino: INodeNo(0), ..self.attr(&above) }, GENERATION),
                None => reply.error(Errno::ENOENT),
            },
            None => reply.error(Errno::ENOENT),
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        guarded(|| match self.tree().attr(Inode(ino.0)) {
            Some(found) => reply.attr(&TTL, &self.attr(&found)),
            None => reply.error(Errno::ENOENT),
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        guarded(|| match self.tree().link(Inode(ino.0)) {
            Some(target) => reply.data(target.as_bytes()),
            None => reply.error(Errno::EINVAL),
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded(|| {
            if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & (libc::O_TRUNC | libc::O_APPEND) != 0 {
                return reply.error(Errno::EROFS);
            }
            match self.tree().file(Inode(ino.0)) {
                Some(file) if file.bytes.is_empty() => reply.opened(NO_HANDLE, FopenFlags::FOPEN_KEEP_CACHE),
                Some(file) => {
                    let backing = || self.content.backing(file.torrent, &file.bytes);
                    let Some(reply) = self.through.open(Inode(ino.0), reply, backing) else { return };
                    // Of four requests that a small file costs, FLUSH is one.
                    let flushed = !self.content.at_hand(file.torrent, &file.bytes);
                    let HandleId(handle) = self.content.open(file.torrent, file.bytes);
                    let flags = if flushed { FopenFlags::empty() } else { FopenFlags::FOPEN_NOFLUSH };
                    reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | flags);
                }
                None => reply.error(Errno::EISDIR),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let at = ReadAt { inode: Inode(ino.0), handle: HandleId(fh.0), offset, size };
        guarded(|| self.read_file(request, at, reply));
    }

    fn flush(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        guarded(|| {
            let known = |file: &FileSpan| !file.bytes.is_empty() && fh != through::HANDLE;
            if let Some(file) = self.tree().file(Inode(ino.0)).filter(known) {
                self.content.flush(file.torrent, HandleId(fh.0));
            }
            reply.ok();
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            if let Some(file) = self.tree().file(Inode(ino.0)).filter(|file| !file.bytes.is_empty()) {
                if fh != through::HANDLE {
                    self.content.close(file.torrent, HandleId(fh.0));
                }
                self.through.close(Inode(ino.0));
            }
            reply.ok();
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // ENOSYS: the kernel opens directories by itself from now on, with these flags.
        if self.no_opendir.load(Ordering::Relaxed) {
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(NO_HANDLE, FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded(|| {
            let found = self.list(ino, offset, |attr, next, name| {
                let kind = match attr.kind {
                    NodeKind::Directory => FileType::Directory,
                    NodeKind::Regular { .. } => FileType::RegularFile,
                    NodeKind::Symlink => FileType::Symlink,
                };
                reply.add(INodeNo(attr.inode.0), next, kind, name)
            });
            if found { reply.ok() } else { reply.error(Errno::ENOTDIR) }
        });
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        guarded(|| {
            let found = self.list(ino, offset, |attr, next, name| {
                reply.add(INodeNo(attr.inode.0), next, name, &TTL, &self.attr(attr), GENERATION)
            });
            if found { reply.ok() } else { reply.error(Errno::ENOTDIR) }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.tree().bytes().div_ceil(u64::from(BLOCK));
        reply.statfs(blocks, 0, 0, self.tree().inodes(), 0, BLOCK, NAME_MAX, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded(|| match self.xattr(Inode(ino.0), name.as_bytes()) {
            Some(value) => answer_xattr(value.as_bytes(), size, reply),
            None => reply.error(Errno::NO_XATTR),
        });
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded(|| {
            let names = if self.tree().torrent(Inode(ino.0)).is_some() {
                format!("{XATTR_INFO_HASH}\0{XATTR_PROGRESS}\0")
            } else {
                format!("{XATTR_PROGRESS}\0")
            };
            answer_xattr(names.as_bytes(), size, reply);
        });
    }

    // The mount is read-only, so the kernel refuses changes itself. Should one come through, it gets the same answer.
    refuse! { EROFS:
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>, Option<TimeOrNow>,
            Option<SystemTime>, Option<FileHandle>, Option<SystemTime>, Option<SystemTime>, Option<SystemTime>,
            Option<BsdFileFlags>
        ) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>) -> ReplyWrite;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
    }

    // ENOSYS tells the kernel to do these itself and not to ask again. fuser's defaults would log each as a warning.
    refuse! { ENOSYS:
        fsync(INodeNo, FileHandle, bool) -> ReplyEmpty;
        fsyncdir(INodeNo, FileHandle, bool) -> ReplyEmpty;
        access(INodeNo, AccessFlags) -> ReplyEmpty;
        getlk(INodeNo, FileHandle, LockOwner, u64, u64, i32, u32) -> ReplyLock;
        setlk(INodeNo, FileHandle, LockOwner, u64, u64, i32, u32, bool) -> ReplyEmpty;
        bmap(INodeNo, u32, u64) -> ReplyBmap;
        ioctl(INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32) -> ReplyIoctl;
        poll(INodeNo, FileHandle, PollNotifier, PollEvents, PollFlags) -> ReplyPoll;
        lseek(INodeNo, FileHandle, i64, i32) -> ReplyLseek;
        copy_file_range(
            INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags
        ) -> ReplyWrite;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_never_leaves_its_file() {
        let file = 100..150;
        assert_eq!(clamp(&file, 0, 50), Some(100..150));
        assert_eq!(clamp(&file, 49, 4096), Some(149..150));
        assert_eq!(clamp(&file, 50, 1), None);
        assert_eq!(clamp(&file, 0, 0), None);
        assert_eq!(clamp(&file, 1 << 63, u32::MAX), None);
        assert_eq!(clamp(&file, u64::MAX, u32::MAX), None);
        assert_eq!(clamp(&(0..u64::MAX), u64::MAX - 1, 2), Some(u64::MAX - 1..u64::MAX));
    }
}
