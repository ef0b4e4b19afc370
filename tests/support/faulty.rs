//! A disk that misbehaves: a file system in memory, mounted through FUSE, which fails, hangs or is slow when it is told to.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};

use super::mounts::detach;

const PAGE: u64 = 4096;
const TTL: Duration = Duration::from_secs(60);

/// What is wrong with it now.
#[derive(Default)]
pub(crate) struct Faults {
    /// Reads, writes and holes get EIO.
    pub(crate) fails: AtomicBool,
    /// Reads and writes get no answer.
    pub(crate) hangs: AtomicBool,
    /// Bytes written per second; 0 is no limit.
    pub(crate) rate: AtomicU64,
    /// Bytes that were written.
    pub(crate) written: AtomicU64,
    due: Mutex<Option<Instant>>,
}

impl Faults {
    fn check(&self) -> Result<(), Errno> {
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.fails.load(Ordering::SeqCst) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Waits its turn at the rate.
    fn pay(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::SeqCst);
        let rate = self.rate.load(Ordering::SeqCst);
        if rate == 0 {
            return;
        }
        let until = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let start = due.unwrap_or_else(Instant::now).max(Instant::now());
            *due.insert(start + Duration::from_micros(bytes * 1_000_000 / rate))
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// The mounted file system; gone when dropped.
pub(crate) struct FaultyDisk {
    pub(crate) faults: Arc<Faults>,
    pub(crate) path: PathBuf,
    session: Option<BackgroundSession>,
    _dir: tempfile::TempDir,
}

impl FaultyDisk {
    pub(crate) fn mount() -> Self {
        let dir = tempfile::Builder::new().prefix("swarmfs-disk-").tempdir().expect("a directory");
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).expect("a mountpoint");
        let faults = Arc::<Faults>::default();
        let root = Node { parent: 1, name: String::new(), file: None };
        let disk = Disk { faults: Arc::clone(&faults), nodes: Mutex::new((BTreeMap::from([(1, root)]), 2)) };
        let mut config = Config::default();
        config.n_threads = Some(4);
        config.clone_fd = true;
        config.acl = SessionACL::Owner;
        let session = Session::new(disk, &path, &config).and_then(Session::spawn).expect("a mount");
        Self { faults, path, session: Some(session), _dir: dir }
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.faults.hangs.store(false, Ordering::SeqCst);
        detach_any(&self.path);
        drop(self.session.take());
    }
}

fn detach_any(path: &Path) {
    let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    detach(path);
}

struct Node {
    parent: u64,
    name: String,
    /// None for a directory.
    file: Option<File>,
}

#[derive(Default)]
struct File {
    length: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

type Nodes = (BTreeMap<u64, Node>, u64);

struct Disk {
    faults: Arc<Faults>,
    nodes: Mutex<Nodes>,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, parent: INodeNo, name: &OsStr, file: Option<File>) -> FileAttr {
        let mut nodes = self.lock();
        let number = nodes.1;
        nodes.1 += 1;
        nodes.0.insert(number, Node { parent: parent.0, name: name.to_string_lossy().into_owned(), file });
        attr(number, &nodes.0[&number])
    }
}

fn find(nodes: &Nodes, parent: INodeNo, name: &OsStr) -> Option<u64> {
    let inside = |node: &Node| node.parent == parent.0 && *node.name == *name;
    let found = nodes.0.iter().find(|entry| *entry.0 != 1 && inside(entry.1));
    found.map(|(&number, _)| number)
}

fn attr(number: u64, node: &Node) -> FileAttr {
    let Some(file) = &node.file else { return plain_attr(INodeNo(number), FileType::Directory, 0) };
    FileAttr {
        blocks: u64::try_from(file.pages.len()).expect("a count") * PAGE / 512,
        mtime: SystemTime::now(),
        ..plain_attr(INodeNo(number), FileType::RegularFile, file.length)
    }
}

/// The attributes of a file or directory of our own, of 1970 and without a hole.
pub(crate) fn plain_attr(ino: INodeNo, kind: FileType, size: u64) -> FileAttr {
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl File {
    /// The bytes of a range within one page, if the page is there.
    fn parts(
        range: std::ops::Range<u64>,
    ) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
        let start = range.start;
        (range.start / PAGE..range.end.div_ceil(PAGE)).map(move |page| {
            let (from, to) = (range.start.max(page * PAGE), range.end.min((page + 1) * PAGE));
            let index = |at: u64| usize::try_from(at).expect("an index");
            (page, index(from - page * PAGE)..index(to - page * PAGE), index(from - start)..index(to - start))
        })
    }

    fn read(&self, range: std::ops::Range<u64>) -> Vec<u8> {
        let range = range.start.min(self.length)..range.end.min(self.length);
        let mut out = vec![0; usize::try_from(range.end - range.start).expect("a length")];
        for (page, within, part) in Self::parts(range) {
            if let Some(bytes) = self.pages.get(&page) {
                out[part].copy_from_slice(&bytes[within]);
            }
        }
        out
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        let end = at + u64::try_from(data.len()).expect("a length");
        for (page, within, part) in Self::parts(at..end) {
            let bytes = self.pages.entry(page).or_insert_with(|| vec![0; 4096].into());
            bytes[within].copy_from_slice(&data[part]);
        }
        self.length = self.length.max(end);
    }

    fn punch(&mut self, range: std::ops::Range<u64>) {
        for (page, within, _) in Self::parts(range) {
            if within.len() == 4096 {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[within].fill(0);
            }
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let nodes = self.lock();
        match find(&nodes, parent, name) {
            Some(number) => reply.entry(&TTL, &attr(number, &nodes.0[&number]), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.lock().0.get(&ino.0) {
            // Blocks change with every write.
            Some(node) => reply.attr(&Duration::ZERO, &attr(ino.0, node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut nodes = self.lock();
        let Some(node) = nodes.0.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        if let (Some(file), Some(size)) = (&mut node.file, size) {
            let end = file.length.max(size);
            file.punch(size..end);
            file.length = size;
        }
        reply.attr(&Duration::ZERO, &attr(ino.0, node));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.entry(&TTL, &self.add(parent, name, None), Generation(0));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let attr = self.add(parent, name, Some(File::default()));
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Err(errno) = self.faults.check() {
            return reply.error(errno);
        }
        match self.lock().0.get(&ino.0).and_then(|node| node.file.as_ref()) {
            Some(file) => reply.data(&file.read(offset..offset + u64::from(size))),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Err(errno) = self.faults.check() {
            return reply.error(errno);
        }
        self.faults.pay(u64::try_from(data.len()).expect("a length"));
        match self.lock().0.get_mut(&ino.0).and_then(|node| node.file.as_mut()) {
            Some(file) => {
                file.write(offset, data);
                reply.written(u32::try_from(data.len()).expect("a length"));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, at: u64, length: u64, _: i32, reply: ReplyEmpty) {
        if let Err(errno) = self.faults.check() {
            return reply.error(errno);
        }
        match self.lock().0.get_mut(&ino.0).and_then(|node| node.file.as_mut()) {
            Some(file) => {
                file.punch(at..at + length);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut nodes = self.lock();
        match find(&nodes, parent, name) {
            Some(number) => {
                nodes.0.remove(&number);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut nodes = self.lock();
        if let Some(replaced) = find(&nodes, new_parent, new_name) {
            nodes.0.remove(&replaced);
        }
        let moved = find(&nodes, parent, name).and_then(|number| nodes.0.get_mut(&number));
        let Some(node) = moved else { return reply.error(Errno::ENOENT) };
        (node.parent, node.name) = (new_parent.0, new_name.to_string_lossy().into_owned());
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let nodes = self.lock();
        let inside = nodes.0.iter().filter(|(number, node)| **number != 1 && node.parent == ino.0);
        for (at, (&number, node)) in (1_u64..).zip(inside).skip(usize::try_from(offset).expect("an offset")) {
            if reply.add(INodeNo(number), at, attr(number, node).kind, &node.name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, 1000, 1000, 4096, 255, 4096);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}
