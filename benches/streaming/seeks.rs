//! Rows `seek`, `mmap`, `uneven` and `crowd`: random reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bench::{Bench, MEMORY, PEAK};
use crate::clients::{Client, NO_LIBTORRENT, Reader, Who, has_libtorrent, mib};
use crate::support::foreign::LibTorrent;
use crate::support::hostile::Behaviour;
use crate::support::lab::Lab;
use crate::support::reading::Mapping;
use crate::support::torrent::Content;
use crate::support::{MIB, Random, quantile};
use crate::swarm::{PIECE, SEED_SETTINGS, SEEDS, Swarm};
use crate::table::{Figures, Table};

/// The file that is read here and there, bytes.
const LENGTH: u64 = 512 * MIB;
/// What each seed sends, bytes per second.
const RATE: u64 = 2 * MIB;
const READS: usize = 200;
/// Bytes of a read.
const READ: u64 = 64 << 10;
/// Bytes of a page fault.
const PAGE: u64 = 4 << 10;
/// Between the first read and the ones that count: what follows the start has come by then.
const SETTLE: Duration = Duration::from_secs(2);

const STREAMS: [Who; 3] = [Who::Ours, Who::Rqbit, Who::Btfs];

/// Offsets to read at, multiples of a read's size.
pub(crate) fn offsets(length: u64, count: usize) -> Vec<u64> {
    let mut random = Random::new(7);
    (0..count).map(|_| random.below(length / READ) * READ).collect()
}

/// Reads `size` bytes at each of the offsets through `read`; how long each took, ms.
pub(crate) fn timed(offsets: &[u64], size: u64, mut read: impl FnMut(u64, &mut [u8])) -> Vec<f64> {
    let mut buffer = vec![0; usize::try_from(size).expect("a size")];
    let one = |offset: &u64| {
        let start = Instant::now();
        read(*offset, &mut buffer);
        start.elapsed().as_secs_f64() * 1e3
    };
    offsets.iter().map(one).collect()
}

/// A reader whose every read is compared with the original; the comparing is timed along, at some µs.
pub(crate) fn checked<'a>(reader: &'a Reader, swarm: &'a Swarm) -> impl FnMut(u64, &mut [u8]) + 'a {
    move |offset, buffer| {
        reader.read_at(offset, buffer).expect("a read");
        swarm.original.assert_same(offset, buffer);
    }
}

/// p50, p95 and the longest.
pub(crate) fn spread(times: &[f64]) -> Figures {
    Figures::default()
        .and("p50 ms", quantile(times, 0.5))
        .and("p95 ms", quantile(times, 0.95))
        .and("max ms", quantile(times, 1.0))
}

/// Random reads by one client.
fn seeks(bench: &Bench, who: Who, swarm: &Swarm, size: u64) -> Figures {
    swarm.warm();
    let client = Client::start(bench, who, swarm, &[]);
    let reader = client.open();
    let mut read = checked(&reader, swarm);
    timed(&[0], READ, &mut read);
    std::thread::sleep(SETTLE);
    let mapping = (size == PAGE).then(|| Mapping::of(reader.file().expect("a file")).expect("a mapping"));
    let before = swarm.sent();
    let offsets = offsets(swarm.length, READS);
    let times = match mapping {
        Some(mapping) => timed(&offsets, size, |offset, buffer| {
            mapping.copy(usize::try_from(offset).expect("an offset"), buffer);
            swarm.original.assert_same(offset, buffer);
        }),
        None => timed(&offsets, size, &mut read),
    };
    let fetched = swarm.sent().zip(before).map_or(f64::NAN, |(after, before)| after - before);
    let figures = spread(&times);
    let figures = if size == PAGE {
        figures.and("pieces/fault", fetched / PIECE as f64 / READS as f64)
    } else {
        figures.and("fetched/read", fetched / (size as f64 * READS as f64))
    };
    let figures = figures.and(PEAK, mib(client.usage().peak));
    client.stop();
    figures
}

/// How many times the time in which `rate` (bytes per second) carries one piece a read took.
pub(crate) fn against_bound(table: &Table, rate: u64) {
    let bound = PIECE as f64 * 1e3 / rate as f64;
    table.note(format!("the bound, one piece at the swarm's rate: {bound:.0} ms"));
    for who in table.who() {
        let ratio = |name| table.median(who, name) / bound;
        let (p50, p95, max) = (ratio("p50 ms"), ratio("p95 ms"), ratio("max ms"));
        table.note(format!("{who}: p50 x {p50:.2}, p95 x {p95:.2}, max x {max:.2} of the bound"));
    }
}

fn over_libtorrent(bench: &Bench, row: &str, usual: &[Who], possible: &[Who], size: u64) {
    let Some(lab) = lab(bench, row) else { return };
    let swarm = Swarm::of_libtorrent(lab, bench, LENGTH, RATE, &SEED_SETTINGS);
    let who = bench.clients(row, usual, possible);
    let table = bench.turns(row, &who, |who| seeks(bench, who, &swarm, size));
    against_bound(&table, RATE * SEEDS as u64);
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// 200 aligned random reads of 64 KiB in one open file.
pub(crate) fn seek(bench: &Bench) {
    over_libtorrent(bench, "seek", &[Who::Ours], &STREAMS, READ);
}

/// 200 page faults of 4 KiB.
pub(crate) fn mmap(bench: &Bench) {
    over_libtorrent(bench, "mmap", &[Who::Ours], &[Who::Btfs], PAGE);
}

/// As `seek`, with one seed that stalls and one that is slow.
pub(crate) fn uneven(bench: &Bench) {
    let content = Arc::new(Content::noise("noise.bin", LENGTH, PIECE, 7));
    let good = Behaviour::Smooth(RATE);
    let behaviours = [good, good, Behaviour::Stalled, Behaviour::Smooth(RATE / 20)];
    let swarm = Swarm::scripted(bench, &content, &behaviours);
    let who = bench.clients("uneven", &[Who::Ours], &[]);
    let table = bench.turns("uneven", &who, |who| seeks(bench, who, &swarm, READ));
    against_bound(&table, RATE * 2);
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// The network that rows with libtorrent's seeds need.
pub(crate) fn lab<'a>(bench: &'a Bench, row: &str) -> Option<&'a Lab> {
    if !has_libtorrent() {
        println!("{row}: left out: {NO_LIBTORRENT}");
        return None;
    }
    if !crate::support::process::installed("opentracker") {
        println!("{row}: left out: there is no opentracker");
        return None;
    }
    bench.lab(row)
}

/// Twenty seeks after 90 idle seconds at seeds that have four slots each and twelve more who want them.
pub(crate) fn crowd(bench: &Bench) {
    const LEECHERS: usize = 12;
    const SEEKS: usize = 20;
    /// What each seed sends, bytes per second: too little for the leechers to be done before we are.
    const RATE: u64 = MIB;
    const IDLE: Duration = Duration::from_secs(90);
    /// The seeks end after this, as many as there were.
    const MOST: Duration = Duration::from_secs(180);
    let Some(lab) = lab(bench, "crowd") else { return };
    let who = bench.clients("crowd", &[Who::Ours], &STREAMS);
    let table = bench.turns("crowd", &who, |who| {
        let settings: Vec<&str> = SEED_SETTINGS[..3].iter().copied().chain(["unchoke_slots_limit=4"]).collect();
        let swarm = Swarm::of_libtorrent(lab, bench, 1024 * MIB, RATE, &settings);
        let store = tempfile::tempdir_in(bench.dir.path()).expect("a directory");
        let leechers: Vec<LibTorrent> =
            (0..LEECHERS).map(|n| LibTorrent::leech(lab, &swarm.torrent, &store.path().join(n.to_string()))).collect();
        let client = Client::start(bench, who, &swarm, &[]);
        let reader = client.open();
        let first = timed(&[0], READ, checked(&reader, &swarm));
        std::thread::sleep(IDLE);
        let done = leechers.iter().map(LibTorrent::done).fold(0.0, f64::max);
        // A read that fails (its time is --read-timeout) counts with the time that it took.
        let (start, mut failed, mut times) = (Instant::now(), 0, Vec::new());
        for offset in offsets(swarm.length, SEEKS) {
            if start.elapsed() > MOST {
                break;
            }
            times.extend(timed(&[offset], READ, |offset, buffer| match reader.read_at(offset, buffer) {
                Ok(()) => swarm.original.assert_same(offset, buffer),
                Err(_) => failed += 1,
            }));
        }
        let figures = Figures::default().and("first ms", first[0]);
        let figures = Figures([figures.0, spread(&times).0].concat())
            .and("seeks", times.len() as f64)
            .and("failed", f64::from(failed))
            .and("leechers' share", done);
        let figures = figures.and(PEAK, mib(client.usage().peak));
        client.stop();
        figures
    });
    against_bound(&table, RATE * SEEDS as u64);
    Bench::check_memory(&table, MEMORY, SEEDS + LEECHERS);
    bench.keep(&table);
}
