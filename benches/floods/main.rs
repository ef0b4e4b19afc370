//! How long one entry into a [`Swarm`] takes at the worst, that is, how long its lock is held: 200 peers with bitfields of
//! 2,097,152 pieces that come, talk, choke, fall silent and go while a file is read and blocks arrive.
//!
//! cargo bench --bench floods -- [random|fill|useless|tiny]... [--runs N] [--all]
//!
//! random   every peer has each piece with probability one half; the file is filled because it is read in order
//! fill     the same, and everything is wanted from the start
//! useless  the peers have all but what is read and what is near it
//! tiny     as `random`, with pieces of 1 KiB; for a patient user, and not run unless it is named
//!
//! The clock is virtual, so that every run makes the same calls. Each call counts with the shortest of its times over the
//! runs: what other programs do on this machine does not. `calls` are handle, receive and transmit by themselves;
//! `locks` are what the engine does under one lock: up to 256 messages and a transmit, and the effects taken out.

mod record;
mod world;

use std::time::Duration;

use record::Record;
use swarmfs::config::Fill;
use swarmfs::metainfo::Geometry;
use world::{Shape, World};

/// No call should take longer.
const GOAL: Duration = Duration::from_micros(200);

/// What the swarm is like in a scenario.
fn shape(name: &str) -> Shape {
    let shape = Shape { piece: 64 << 10, fill: Fill::Open, useless: false };
    match name {
        "random" => shape,
        "fill" => Shape { fill: Fill::All, ..shape },
        "useless" => Shape { useless: true, ..shape },
        "tiny" => Shape { piece: 1 << 10, ..shape },
        other => panic!("{other}: the scenarios are random, fill, useless and tiny"),
    }
}

fn main() {
    let (mut names, mut runs, mut all) = (Vec::new(), 3, false);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => runs = arguments.next().and_then(|n| n.parse().ok()).expect("--runs takes a number"),
            "--all" => all = true,
            _ => names.push(argument),
        }
    }
    if names.is_empty() {
        names = ["random", "fill", "useless"].map(str::to_owned).to_vec();
    }
    let bitfields = world::bitfields(Geometry::MAX_PIECES);
    for name in names {
        let shape = shape(&name);
        let mut record: Option<Record> = None;
        for _ in 0..runs.max(1) {
            let run = World::new(&shape, &bitfields).run();
            record = Some(match record {
                Some(record) => record.shortest(&run),
                None => run,
            });
        }
        let Some(record) = record else { continue };
        println!(
            "\n{name}: {} peers, {} pieces of {} bytes, {runs} runs",
            world::PEERS,
            Geometry::MAX_PIECES,
            shape.piece
        );
        record.report("calls", GOAL, all);
        record.report("locks", GOAL, all);
    }
}
