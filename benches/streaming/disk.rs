//! Rows `disk` and `slow-disk`: what the disk store gives back, and what a disk of 50 MB/s costs a reader.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request, SessionACL,
};

use crate::bench::{Bench, MEMORY, PEAK, cold_caches};
use crate::clients::{Client, Who, mib};
use crate::support::faulty::FaultyDisk;
use crate::support::hostile::Behaviour;
use crate::support::mounts::detach;
use crate::support::process::Running;
use crate::support::torrent::Content;
use crate::support::usage::{Usage, usage};
use crate::support::{MIB, wait_until};
use crate::swarm::{PIECE, SEEDS, Swarm};
use crate::table::{Figures, Table};

const LENGTH: u64 = 512 * MIB;
const MB_S: &str = "MB/s";
/// The argument with which this program serves a file by `pread` at a mountpoint.
pub(crate) const SERVE: &str = "serve-file";
const NAME: &str = "file.bin";

/// MB/s of reading a file from start to end by 1 MiB, with nothing of it in the page cache.
fn cold(path: &Path) -> f64 {
    cold_caches();
    let (file, mut buffer) = (File::open(path).expect("the file"), vec![0; 1 << 20]);
    let (start, mut at) = (Instant::now(), 0);
    loop {
        match file.read_at(&mut buffer, at).expect("a read") {
            0 => break,
            read => at += read as u64,
        }
    }
    at as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn figures(rate: f64, before: Usage, after: Usage) -> Figures {
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / (LENGTH as f64 / f64::from(1 << 30));
    Figures::default().and(MB_S, rate).and("CPU-s/GiB", cpu)
}

/// A file that is complete in the store, read again with cold caches: by the kernel alone, beside the file itself; and
/// through us, beside a file system that only reads it.
pub(crate) fn disk(bench: &Bench) {
    let content = Arc::new(Content::noise("noise.bin", LENGTH, PIECE, 12));
    let swarm = Swarm::scripted(bench, &content, &[Behaviour::Good; SEEDS]);
    let mut table = Table::new("disk");
    for pair in 0..bench.pairs {
        for (name, beside, through) in [("passed-through", "ext4", true), ("checked", "pread", false)] {
            let dir = tempfile::tempdir_in(bench.dir.path()).expect("a directory");
            let cache = dir.path().join("cache");
            let mut arguments = vec!["--cache-dir", cache.to_str().expect("UTF-8")];
            if !through {
                arguments.push("--no-passthrough");
            }
            let client = Client::start(bench, Who::Ours, &swarm, &arguments);
            let path = client.path(&swarm.file);
            assert_eq!(client.open().read_all().expect("the whole file"), LENGTH);
            let stored = cache.join(content.torrent.hex()).join("0");
            let kept = || stored.metadata().is_ok_and(|metadata| metadata.blocks() * 512 >= LENGTH);
            wait_until(Duration::from_secs(60), "all of it is kept", kept);
            // What waits to be written to the disk would be measured with the first read.
            rustix::fs::sync();
            let (client, path) = if through {
                (client, path)
            } else {
                // Nothing of it is in memory then.
                client.stop();
                let client = Client::start(bench, Who::Ours, &swarm, &arguments);
                let path = client.path(&swarm.file);
                (client, path)
            };
            let ours = |table: &mut Table| {
                let before = client.usage();
                let rate = cold(&path);
                table.add(pair, name, figures(rate, before, client.usage()).and(PEAK, mib(client.usage().peak)));
            };
            let theirs = |table: &mut Table| {
                let figures = if through {
                    figures(cold(&stored), Usage::default(), Usage::default())
                } else {
                    of_file(dir.path(), &stored)
                };
                table.add(pair, beside, figures);
            };
            // Who is first changes from pair to pair.
            if pair % 2 == 0 {
                ours(&mut table);
                theirs(&mut table);
            } else {
                theirs(&mut table);
                ours(&mut table);
            }
            client.stop();
        }
    }
    table.print();
    let ratio = |of, by| table.median(of, MB_S) / table.median(by, MB_S);
    table.note(format!("passed through: x {:.2} of the file itself", ratio("passed-through", "ext4")));
    table.note(format!("checked: x {:.2} of a file system that only reads it", ratio("checked", "pread")));
    bench.keep(&table);
}

/// A whole file in order from four seeds, with the store on a disk that takes 50 MB/s, and without a store.
pub(crate) fn slow_disk(bench: &Bench) {
    let content = Arc::new(Content::noise("noise.bin", LENGTH, PIECE, 13));
    let swarm = Swarm::scripted(bench, &content, &[Behaviour::Good; SEEDS]);
    let who = bench.clients("slow-disk", &[Who::Ours, Who::Memory], &[]);
    let table = bench.turns("slow-disk", &who, |who| {
        let disk = FaultyDisk::mount();
        disk.faults.rate.store(50_000_000, Ordering::SeqCst);
        let cache = disk.path.join("cache");
        let client = Client::start(bench, who, &swarm, &["--cache-dir", cache.to_str().expect("UTF-8")]);
        let reader = client.open();
        let start = Instant::now();
        assert_eq!(reader.read_all().expect("the whole file"), LENGTH);
        let rate = LENGTH as f64 / 1e6 / start.elapsed().as_secs_f64();
        let written = disk.faults.written.load(Ordering::SeqCst);
        let figures = Figures::default().and(MB_S, rate).and("written MiB", mib(written));
        let figures = figures.and(PEAK, mib(client.usage().peak));
        disk.faults.rate.store(0, Ordering::SeqCst);
        drop(reader);
        client.stop();
        figures
    });
    let ratio = table.median(Who::Ours.name(), MB_S) / table.median(Who::Memory.name(), MB_S);
    table.note(format!("with the slow disk: x {ratio:.2} of no disk at all"));
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// The file through a file system that only reads it.
fn of_file(dir: &Path, stored: &Path) -> Figures {
    let mountpoint = dir.join("mnt");
    std::fs::create_dir(&mountpoint).expect("a mountpoint");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(SERVE).arg(stored).arg(&mountpoint);
    let server = Running::spawn("pread", command, &dir.join("pread.log"), Duration::from_secs(120));
    let file = mountpoint.join(NAME);
    wait_until(Duration::from_secs(10), "the file system answers", || file.exists());
    let before = usage(server.pid());
    let rate = cold(&file);
    let figures = figures(rate, before, usage(server.pid()));
    detach(&mountpoint);
    figures
}

/// Serves a file until it is unmounted.
pub(crate) fn serve(file: &Path, mountpoint: &Path) {
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.clone_fd = true;
    config.acl = SessionACL::Owner;
    fuser::mount(Reads(File::open(file).expect("the file")), mountpoint, &config).expect("a mount");
}

/// Answers every read by one `pread`, with the program's own agreements with the kernel.
struct Reads(File);

const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(86_400);

thread_local! {
    static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 1 << 20]);
}

impl Reads {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let root = ino == INodeNo::ROOT;
        let size = if root { 0 } else { self.0.metadata().map_or(0, |metadata| metadata.len()) };
        crate::reread::attr_of(ino, if root { FileType::Directory } else { FileType::RegularFile }, size)
    }
}

impl Filesystem for Reads {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let flags = InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
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
        BUFFER.with_borrow_mut(|buffer| match self.0.read_at(&mut buffer[..size as usize], offset) {
            Ok(read) => reply.data(&buffer[..read]),
            Err(_) => reply.error(Errno::EIO),
        });
    }
}
