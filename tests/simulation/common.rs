//! What the scenarios have in common: seeds, links, readers, and what every run is held to.

use std::time::{Duration, Instant};

use swarmfs::metainfo::Geometry;
use swarmfs::sim::{Link, NodeIndex, NodeSpec, Pattern, ReaderSpec, World};

pub(crate) const KIB: u64 = 1024;
pub(crate) const MIB: u64 = 1024 * KIB;

/// Runs a scenario for each seed and says which one failed.
pub(crate) fn over_seeds(count: u64, scenario: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in seeds(count) {
        if let Err(failure) = std::panic::catch_unwind(|| scenario(seed)) {
            eprintln!("the scenario failed with SWARMFS_SEED={seed}");
            std::panic::resume_unwind(failure);
        }
    }
}

/// The seeds to run: `count` of them, times `SWARMFS_SEEDS`; or `SWARMFS_SEED` alone.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match number("SWARMFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * more(),
    }
}

/// How many times the usual number of seeds is to be run.
pub(crate) fn more() -> u64 {
    number("SWARMFS_SEEDS").unwrap_or(1)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn link(up: u64, down: u64, milliseconds: u64) -> Link {
    Link { up, down, latency: ms(milliseconds) }
}

/// A torrent of so many pieces of this length on a new clock.
pub(crate) fn world(pieces: u64, piece: u64, seed: u64) -> (World, Geometry) {
    let geometry = Geometry::new(pieces * piece, piece).unwrap();
    (World::new(Instant::now(), geometry, seed), geometry)
}

/// Seeds with these uploads, 10 ms away.
pub(crate) fn seeds_of(world: &mut World, uploads: &[u64]) -> Vec<NodeIndex> {
    let spec = |&up| NodeSpec { seed: true, link: link(up, up, 10), ..NodeSpec::default() };
    uploads.iter().map(|up| world.add(spec(up))).collect()
}

pub(crate) fn reader(geometry: &Geometry, pattern: Pattern, length: u64) -> ReaderSpec {
    ReaderSpec {
        start: Duration::ZERO,
        file: 0..geometry.total(),
        pattern,
        length: u32::try_from(length).unwrap(),
        think: Duration::ZERO,
    }
}

/// Runs until every reader has come to its end, which must be within `limit`. No rule may be broken on the way. Returns
/// what a failure shows.
pub(crate) fn run_readers(world: &mut World, limit: Duration, nodes: &[NodeIndex]) -> String {
    let done = world.run(limit, |world| world.unfinished_readers() == 0);
    let summary = summary(world, nodes);
    assert!(world.violations.is_empty(), "{:#?}\n{summary}", world.violations);
    assert!(done, "reads are still waiting\n{summary}");
    summary
}

/// As [`run_readers`], and no read may fail.
pub(crate) fn every_read_completes(world: &mut World, limit: Duration, nodes: &[NodeIndex]) -> String {
    let summary = run_readers(world, limit, nodes);
    assert!(nodes.iter().all(|&node| world.figures(node).reads_failed == 0), "a read failed\n{summary}");
    summary
}

/// The longest that a read of these nodes waited.
pub(crate) fn worst_wait(world: &World, nodes: &[NodeIndex]) -> Duration {
    nodes.iter().map(|&node| world.figures(node).worst_wait).max().unwrap_or_default()
}

/// How long the reads of these nodes waited that were answered after `from`, in order.
pub(crate) fn waits(world: &World, nodes: &[NodeIndex], from: Duration) -> Vec<Duration> {
    let waits = nodes.iter().flat_map(|&node| world.waits(node)).filter(|(at, _)| *at >= from);
    let mut waits: Vec<Duration> = waits.map(|&(_, waited)| waited).collect();
    waits.sort_unstable();
    waits
}

/// The wait that so many in a hundred of these, which are in order, do not exceed.
pub(crate) fn percentile(waits: &[Duration], percent: usize) -> Duration {
    let place = (waits.len() * percent).div_ceil(100).saturating_sub(1);
    waits.get(place).copied().unwrap_or_default()
}

/// Shows a figure over many seeds: `cargo test -- --nocapture`.
pub(crate) fn figure(name: &str, seed: u64, value: impl std::fmt::Debug) {
    if more() > 1 {
        println!("figure {name} {seed} {value:?}");
    }
}

/// What a failure shows.
pub(crate) fn summary(world: &World, nodes: &[NodeIndex]) -> String {
    let mut out = format!("after {:?} and {} events:\n", world.elapsed(), world.events());
    for &node in nodes {
        out += &format!(
            "{node:?} {} left, {:?} {:?}\n",
            world.readers_left(node),
            world.figures(node),
            world.swarm(node).totals()
        );
    }
    out
}

/// Payload bytes that the nodes sent each other.
pub(crate) fn exchanged(world: &World, nodes: &[NodeIndex]) -> u64 {
    world.transfers().filter(|(from, to, _)| nodes.contains(from) && nodes.contains(to)).map(|t| t.2).sum()
}
