//! The simulated half: the real Node and Swarm on a virtual clock.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use swarmfs::config::Fill;
use swarmfs::metainfo::Geometry;
use swarmfs::sim::{NodeSpec, World};

use super::{MIB, RATE};

/// The time until the last of the nodes has everything.
pub(super) fn run(nodes: u32, size: u64, seed: u64) -> Result<Duration> {
    let mut world = World::new(Instant::now(), Geometry::new(size, MIB / 4)?, seed);
    // As the real processes: an upload limit on a link that has none.
    let node = NodeSpec { upload_limit: Some(RATE), ..NodeSpec::default() };
    world.add(NodeSpec { seed: true, ..node.clone() });
    for _ in 0..nodes {
        world.add(NodeSpec { fill: Fill::All, ..node.clone() });
    }
    let limit = Duration::from_secs(60 + 10 * size / RATE);
    let done = world.run(limit, |world| world.completed() == nodes as usize);
    ensure!(world.violations.is_empty(), "seed {seed} with {nodes} nodes breaks the rules: {:?}", world.violations);
    ensure!(done, "seed {seed} with {nodes} nodes: not all of them are complete after {} s", limit.as_secs());
    Ok(world.elapsed())
}
