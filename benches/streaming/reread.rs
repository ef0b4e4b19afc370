//! Row `reread`: what is wholly in our memory, past the kernel's page cache, against a file system that only answers: from
//! a buffer that stays in the processor's cache, and from one as large as the file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request, SessionACL,
};

use crate::bench::{Bench, PEAK};
use crate::clients::{Client, Who, mib};
use crate::support::hostile::Behaviour;
use crate::support::mounts::detach;
use crate::support::process::Running;
use crate::support::torrent::Content;
use crate::support::usage::usage;
use crate::support::{MIB, wait_until};
use crate::swarm::{PIECE, SEEDS, Swarm};
use crate::table::{Figures, Table};

/// Bytes of the file.
const LENGTH: u64 = 256 * MIB;
/// Bytes of a read; the kernel hands it on whole.
const READ: usize = 128 << 10;
/// Readings of the whole file, of which the median counts.
const ROUNDS: usize = 5;
/// The argument with which this program serves a static buffer of so many bytes at a mountpoint.
pub(crate) const SERVE: &str = "serve-static";
const NAME: &str = "static.bin";

/// A page-aligned buffer, as O_DIRECT asks for.
#[repr(C, align(4096))]
struct Aligned([u8; READ]);

/// MB/s of reading the file past the page cache.
fn direct(path: &Path) -> f64 {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).expect("the file");
    let mut buffer = Box::new(Aligned([0; READ]));
    let mut round = || {
        let start = Instant::now();
        for offset in (0..LENGTH).step_by(READ) {
            file.read_exact_at(&mut buffer.0, offset).expect("a read");
        }
        LENGTH as f64 / 1e6 / start.elapsed().as_secs_f64()
    };
    let rates: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    crate::support::median(&rates)
}

/// Reads of 128 KiB by O_DIRECT of what is in our memory.
pub(crate) fn reread(bench: &Bench) {
    const MEMORY: u64 = 1 << 30;
    let content = Arc::new(Content::noise("noise.bin", LENGTH, PIECE, 12));
    let swarm = Swarm::scripted(bench, &content, &[Behaviour::Good; SEEDS]);
    let who = bench.clients("reread", &[Who::Ours, Who::Static, Who::StaticLarge], &[]);
    let table = bench.turns("reread", &who, |who| {
        match who {
            Who::Static => return of_static(bench, READ as u64),
            Who::StaticLarge => return of_static(bench, LENGTH),
            _ => {}
        }
        let client = Client::start(bench, who, &swarm, &["--memory", "1GiB"]);
        let reader = client.open();
        assert_eq!(reader.read_all().expect("the whole file"), LENGTH);
        let before = swarm.sent();
        let (cpu, rate) = (client.usage().cpu, direct(&client.path(&swarm.file)));
        let all = client.usage();
        assert_eq!(swarm.sent(), before, "it was not all in memory");
        let figures = figures(rate, all.cpu.saturating_sub(cpu)).and(PEAK, mib(all.peak));
        drop(reader);
        client.stop();
        figures
    });
    against_static(&table);
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

fn figures(rate: f64, cpu: Duration) -> Figures {
    let gib = (LENGTH * ROUNDS as u64) as f64 / f64::from(1 << 30);
    Figures::default().and("MB/s", rate).and("CPU-s/GiB", cpu.as_secs_f64() / gib)
}

fn against_static(table: &Table) {
    let statics = [(Who::Static, "that stays in the processor's cache"), (Who::StaticLarge, "as large as the file")];
    for who in table.who().into_iter().filter(|who| statics.iter().all(|(of, _)| of.name() != *who)) {
        for (of, buffer) in &statics {
            let ratio = table.median(who, "MB/s") / table.median(of.name(), "MB/s");
            table.note(format!("{who}: x {ratio:.2} of a file system that answers from one static buffer {buffer}"));
        }
    }
}

/// A file system that answers from a static buffer of so many bytes.
fn of_static(bench: &Bench, buffer: u64) -> Figures {
    let dir = tempfile::tempdir_in(bench.dir.path()).expect("a directory");
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).expect("a mountpoint");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(SERVE).arg(buffer.to_string()).arg(&mountpoint);
    let server = Running::spawn("static", command, &dir.path().join("log"), Duration::from_secs(120));
    let file = mountpoint.join(NAME);
    wait_until(Duration::from_secs(10), "the static file system answers", || file.exists());
    let cpu = usage(server.pid()).cpu;
    let rate = direct(&file);
    let cpu = usage(server.pid()).cpu.saturating_sub(cpu);
    detach(&mountpoint);
    figures(rate, cpu)
}

/// Serves one file from one buffer until it is unmounted.
pub(crate) fn serve(buffer: usize, mountpoint: &Path) {
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.clone_fd = true;
    config.acl = SessionACL::Owner;
    fuser::mount(Static(vec![7; buffer]), mountpoint, &config).expect("a mount");
}

/// As little as answers, with the program's own agreements with the kernel.
struct Static(Vec<u8>);

const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(86_400);

fn attr(ino: INodeNo) -> FileAttr {
    let root = ino == INodeNo::ROOT;
    attr_of(ino, if root { FileType::Directory } else { FileType::RegularFile }, if root { 0 } else { LENGTH })
}

/// The attributes of a file of the bench's own file systems.
pub(crate) fn attr_of(ino: INodeNo, kind: FileType, size: u64) -> FileAttr {
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o555,
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Static {
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
            reply.entry(&TTL, &attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino));
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
        let left = LENGTH.saturating_sub(offset).min(size.into());
        let from = usize::try_from(offset).unwrap_or(0) % self.0.len();
        let rest = &self.0[from..];
        reply.data(&rest[..usize::try_from(left).unwrap_or(0).min(rest.len())]);
    }
}
