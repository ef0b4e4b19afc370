//! Rows `seq`, `seq-ours` and `ttfb`: one reader of one file, from the start of the client's process on.

use crate::bench::{Bench, MEMORY, PEAK};
use crate::clients::{Client, Who, mib};
use crate::seeks::lab;
use crate::support::process::installed;
use crate::support::usage::thread_cpu;
use crate::swarm::{SEED_SETTINGS, SEEDS, Swarm};
use crate::table::{Figures, Table};
use crate::wire;

const MB_S: &str = "MB/s";
const CPU: &str = "CPU-s/GiB";

/// The whole file through one client, or the wire limit.
pub(crate) fn whole_file(bench: &Bench, who: Who, swarm: &Swarm) -> Figures {
    if who == Who::Wire {
        return Figures::default().and(MB_S, wire::limit(swarm.length));
    }
    swarm.warm();
    let before = swarm.sent();
    let client = Client::start(bench, who, swarm, &[]);
    let gib = swarm.length as f64 / f64::from(1 << 30);
    let (wall, cost, reading) = if let Some(cost) = client.downloaded() {
        (client.started.elapsed(), cost, None)
    } else {
        let reader = client.open();
        let start = thread_cpu();
        assert_eq!(reader.read_all().expect("the whole file"), swarm.length, "the length that was read");
        let wall = client.started.elapsed();
        (wall, client.usage(), Some((thread_cpu() - start).as_secs_f64()))
    };
    let fetched = swarm.sent().zip(before).map_or(f64::NAN, |(after, before)| after - before);
    let figures = Figures::default()
        .and(MB_S, swarm.length as f64 / 1e6 / wall.as_secs_f64())
        .and(CPU, cost.cpu.as_secs_f64() / gib)
        .and("reader", reading.unwrap_or(f64::NAN) / gib)
        .and("fetched/read", fetched / swarm.length as f64)
        .and(PEAK, mib(cost.peak));
    client.stop();
    figures
}

/// How much of the wire limit each client reaches.
fn against_wire(table: &Table) {
    let limit = table.median(Who::Wire.name(), MB_S);
    for who in table.who().into_iter().filter(|who| *who != Who::Wire.name()) {
        table.note(format!("{who}: x {:.2} of the wire limit", table.median(who, MB_S) / limit));
    }
}

/// What ours is beside each of the others.
pub(crate) fn against_others(table: &Table) {
    for who in table.who().into_iter().filter(|who| ![Who::Wire.name(), Who::Ours.name()].contains(who)) {
        let ratio = |name| table.median(Who::Ours.name(), name) / table.median(who, name);
        table.note(format!("ours / {who}: MB/s x {:.2}, CPU x {:.2}", ratio(MB_S), ratio(CPU)));
    }
}

/// A whole file in order, from libtorrent's seeds.
pub(crate) fn seq(bench: &Bench) {
    let Some(lab) = lab(bench, "seq") else { return };
    let all = [Who::Ours, Who::Libtorrent, Who::Rqbit, Who::Btfs, Who::Aria2, Who::Wire];
    let swarm = Swarm::of_libtorrent(lab, bench, bench.size, 0, &SEED_SETTINGS);
    let table = bench.turns("seq", &bench.clients("seq", &all, &all), |who| whole_file(bench, who, &swarm));
    against_wire(&table);
    against_others(&table);
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// A whole file in order, from our own seeds.
pub(crate) fn seq_ours(bench: &Bench) {
    if !installed("opentracker") {
        return println!("seq-ours: left out: there is no opentracker");
    }
    let Some(lab) = bench.lab("seq-ours") else { return };
    let swarm = Swarm::of_ours(lab, bench, bench.size);
    let who = bench.clients("seq-ours", &[Who::Ours, Who::Wire], &[Who::Libtorrent]);
    let table = bench.turns("seq-ours", &who, |who| whole_file(bench, who, &swarm));
    against_wire(&table);
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// A whole file in order with the disk store and without it.
pub(crate) fn store(bench: &Bench) {
    let Some(lab) = lab(bench, "store") else { return };
    let swarm = Swarm::of_libtorrent(lab, bench, bench.size, 0, &SEED_SETTINGS);
    let who = bench.clients("store", &[Who::Ours, Who::Memory], &[Who::Libtorrent]);
    let table = bench.turns("store", &who, |who| whole_file(bench, who, &swarm));
    let of = |who: Who, name| table.median(who.name(), name);
    let (rate, cpu) = (of(Who::Ours, MB_S) / of(Who::Memory, MB_S), of(Who::Ours, CPU) - of(Who::Memory, CPU));
    table.note(format!("with the store: MB/s x {rate:.2}, {cpu:+.2} CPU-s/GiB"));
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}

/// From the start of the process to the first 64 KiB from the middle of the file.
pub(crate) fn ttfb(bench: &Bench) {
    let Some(lab) = lab(bench, "ttfb") else { return };
    let all = [Who::Ours, Who::Rqbit, Who::Btfs];
    let swarm = Swarm::of_libtorrent(lab, bench, bench.size, 0, &SEED_SETTINGS);
    let table = bench.turns("ttfb", &bench.clients("ttfb", &all, &[]), |who| {
        swarm.warm();
        let client = Client::start(bench, who, &swarm, &[]);
        let reader = client.open();
        let mounted = client.started.elapsed().as_secs_f64();
        let mut buffer = vec![0; 64 << 10];
        reader.read_at(swarm.length / 2, &mut buffer).expect("a read");
        let total = client.started.elapsed().as_secs_f64();
        swarm.original.assert_same(swarm.length / 2, &buffer);
        let figures = Figures::default().and("mount s", mounted).and("first read s", total - mounted);
        let figures = figures.and("total s", total).and(PEAK, mib(client.usage().peak));
        client.stop();
        figures
    });
    Bench::check_memory(&table, MEMORY, SEEDS);
    bench.keep(&table);
}
