//! Rows `disk` and `slow-disk`: what the disk store gives back, and what a disk of 50 MB/s costs a reader.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::bare::Bare;
use crate::bench::{Bench, MEMORY, PEAK, cold_caches};
use crate::clients::{Client, Who, mib};
use crate::support::faulty::FaultyDisk;
use crate::support::hostile::Behaviour;
use crate::support::torrent::Content;
use crate::support::usage::{Usage, usage};
use crate::support::{MIB, wait_until};
use crate::swarm::{PIECE, SEEDS, Swarm};
use crate::table::{Figures, Table};

const LENGTH: u64 = 512 * MIB;
const MB_S: &str = "MB/s";
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
    let server = Bare::start(dir, LENGTH, stored.as_os_str());
    let before = usage(server.process.pid());
    let rate = cold(&server.file());
    figures(rate, before, usage(server.process.pid()))
}
