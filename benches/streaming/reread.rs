//! Row `reread`: what is wholly in our memory, past the kernel's page cache, against a file system that only answers: from
//! a buffer that stays in the processor's cache, and from one as large as the file.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bare::Bare;
use crate::bench::{Bench, PEAK};
use crate::clients::{Client, Who, mib};
use crate::support::MIB;
use crate::support::hostile::Behaviour;
use crate::support::torrent::Content;
use crate::support::usage::usage;
use crate::swarm::{PIECE, SEEDS, Swarm};
use crate::table::{Figures, Table};

/// Bytes of the file.
const LENGTH: u64 = 256 * MIB;
/// Bytes of a read; the kernel hands it on whole.
const READ: usize = 128 << 10;
/// Readings of the whole file, of which the median counts.
const ROUNDS: usize = 5;
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
    let server = Bare::start(dir.path(), LENGTH, buffer.to_string().as_ref());
    let cpu = usage(server.process.pid()).cpu;
    let rate = direct(&server.file());
    figures(rate, usage(server.process.pid()).cpu.saturating_sub(cpu))
}
