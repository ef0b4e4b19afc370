//! File systems that only answer, with the program's own agreements with the kernel: from a buffer, or by `pread` of a
//! file. Each is a process of its own, of this program.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request, SessionACL,
};

use crate::support::faulty::plain_attr;
use crate::support::mounts::detach;
use crate::support::process::Running;
use crate::support::wait_until;

/// The argument with which this program serves a file of so many bytes at a mountpoint, from a buffer of so many bytes or
/// from a file of this path.
const SERVE: &str = "serve-bare";
const NAME: &str = "bare.bin";
const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(86_400);

/// Where the bytes come from.
enum Source {
    /// A buffer, over and over.
    Buffer(Vec<u8>),
    /// A file.
    File(File),
}

/// A file system that runs; unmounted when dropped.
pub(crate) struct Bare {
    pub(crate) process: Running,
    mountpoint: PathBuf,
}

impl Bare {
    /// Serves a file of `length` bytes from a `source`: a number of bytes, or a path.
    pub(crate) fn start(dir: &Path, length: u64, source: &OsStr) -> Self {
        let mountpoint = dir.join("bare");
        std::fs::create_dir(&mountpoint).expect("a mountpoint");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg(SERVE).arg(length.to_string()).arg(source).arg(&mountpoint);
        let process = Running::spawn("bare", command, &dir.join("bare.log"), Duration::from_secs(120));
        let bare = Self { process, mountpoint };
        wait_until(Duration::from_secs(10), "the bare file system answers", || bare.file().exists());
        bare
    }

    /// The file.
    pub(crate) fn file(&self) -> PathBuf {
        self.mountpoint.join(NAME)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        detach(&self.mountpoint);
    }
}

/// Serves until it is unmounted, if that is what this process was started for.
pub(crate) fn serve() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    let [_, verb, length, source, mountpoint] = arguments.as_slice() else { return false };
    if verb != SERVE {
        return false;
    }
    let length = length.to_str().and_then(|text| text.parse().ok()).expect("bytes");
    let source = match source.to_str().and_then(|text| text.parse().ok()) {
        Some(bytes) => Source::Buffer(vec![7; bytes]),
        None => Source::File(File::open(source).expect("the file")),
    };
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.clone_fd = true;
    config.acl = SessionACL::Owner;
    fuser::mount(Served { length, source }, Path::new(mountpoint), &config).expect("a mount");
    true
}

struct Served {
    length: u64,
    source: Source,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 1 << 20]);
}

impl Served {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        if ino == INodeNo::ROOT {
            plain_attr(ino, FileType::Directory, 0)
        } else {
            plain_attr(ino, FileType::RegularFile, self.length)
        }
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let flags = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        let _ = config.add_capabilities(flags);
        let _ = config.set_max_background(8192);
        let _ = config.set_congestion_threshold(8192);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&TTL, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match &self.source {
            Source::Buffer(buffer) => {
                let left = self.length.saturating_sub(offset).min(size.into());
                let from = usize::try_from(offset).unwrap_or(0) % buffer.len();
                let rest = &buffer[from..];
                reply.data(&rest[..usize::try_from(left).unwrap_or(0).min(rest.len())]);
            }
            Source::File(file) => {
                BUFFER.with_borrow_mut(|buffer| match file.read_at(&mut buffer[..size as usize], offset) {
                    Ok(read) => reply.data(&buffer[..read]),
                    Err(_) => reply.error(Errno::EIO),
                })
            }
        }
    }
}
