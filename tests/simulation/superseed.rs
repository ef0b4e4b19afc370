//! Super-seeding (BEP 16): how much leaves the first seed until the others have everything. `--nocapture` prints the
//! figures.

use std::time::{Duration, Instant};

use swarmfs::config::Fill;
use swarmfs::metainfo::{Geometry, PieceIndex};
use swarmfs::sim::{Link, NodeIndex, NodeSpec, World};

use crate::common::{KIB, MIB, over_seeds, secs};

const PIECE: u64 = 256 * KIB;
const SIZE: u64 = 32 * MIB;
const UP: u64 = MIB;

struct Run {
    world: World,
    seed: NodeIndex,
    leechers: Vec<NodeIndex>,
}

impl Run {
    fn new(leechers: usize, super_seed: bool, seed: u64) -> Self {
        let mut world = World::new(Instant::now(), Geometry::new(SIZE, PIECE).unwrap(), seed);
        let link = Link { up: UP, ..Link::LAN };
        let origin = world.add(NodeSpec { seed: true, super_seed, link, ..NodeSpec::default() });
        let leecher = NodeSpec { link, fill: Fill::All, ..NodeSpec::default() };
        let leechers = (0..leechers).map(|_| world.add(leecher.clone())).collect();
        Self { world, seed: origin, leechers }
    }

    /// Runs until the leechers have every piece among them; how many copies the seed has sent by then, and when.
    fn spread(&mut self, limit: Duration) -> (f64, Duration) {
        let mut missing: Vec<PieceIndex> = Geometry::new(SIZE, PIECE).unwrap().all().collect();
        let leechers = &self.leechers;
        let done = self.world.run(limit, |world| {
            missing.retain(|piece| !leechers.iter().any(|&node| world.swarm(node).has(*piece)));
            missing.is_empty()
        });
        assert!(done, "{} pieces are still with the seed alone", missing.len());
        (self.world.figures(self.seed).sent as f64 / SIZE as f64, self.world.elapsed())
    }

    /// Runs until everybody has everything.
    fn complete(&mut self, limit: Duration) -> Duration {
        let all = self.leechers.len();
        assert!(self.world.run(limit, |world| world.completed() == all), "{} are complete", self.world.completed());
        assert!(self.world.violations.is_empty(), "{:#?}", self.world.violations);
        self.world.elapsed()
    }
}

#[test]
fn a_super_seed_sends_little_more_than_one_copy() {
    over_seeds(2, |seed| {
        for leechers in [2, 4, 12, 40] {
            let [with, without] = [true, false].map(|super_seed| {
                let mut run = Run::new(leechers, super_seed, seed);
                let (copies, spread) = run.spread(secs(1_000));
                let complete = run.complete(secs(2_000));
                println!(
                    "seed {seed}, {leechers} leechers, super-seeding {super_seed}: {copies:.2} copies by {spread:.1?}, \
                     all complete by {complete:.1?}"
                );
                copies
            });
            assert!(with < 1.15, "{leechers} leechers: {with} copies");
            assert!(with < without || leechers == 2, "{leechers} leechers: {with} copies, {without} without it");
        }
    });
}

#[test]
fn a_super_seed_completes_a_peer_that_is_alone() {
    over_seeds(2, |seed| {
        let [with, without] = [true, false].map(|super_seed| Run::new(1, super_seed, seed).complete(secs(600)));
        println!("seed {seed}: alone in {with:.1?}, in {without:.1?} without it");
        assert!(with < without + without / 10, "{with:?}, {without:?} without it");
    });
}
