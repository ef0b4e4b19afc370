//! Who lies is banned, and nobody else, and no reader waits for it.

use std::time::Duration;

use swarmfs::sim::{Behaviour, NodeIndex, NodeSpec, Pattern, ReaderSpec, World};

use crate::common::{KIB, MIB, every_read_completes, figure, link, ms, over_seeds, reader, secs, world, worst_wait};

/// Six seeds of which `liars` lie in this share of their blocks, and a mount with a reader in order and one at random.
fn swarm(seed: u64, liars: usize, share: f64) -> (World, NodeIndex) {
    let (mut world, geometry) = world(64, 256 * KIB, seed);
    for n in 0..6 {
        let behaviour = if n < liars { Behaviour::Liar(share) } else { Behaviour::Honest };
        world.add(NodeSpec { seed: true, behaviour, link: link(2 * MIB, 2 * MIB, 10), ..NodeSpec::default() });
    }
    let readers = vec![
        reader(&geometry, Pattern::Sequential, 128 * KIB),
        ReaderSpec { think: ms(100), ..reader(&geometry, Pattern::Random(40), 4 * KIB) },
    ];
    let mount = world.add(NodeSpec { link: link(2 * MIB, 8 * MIB, 10), readers, ..NodeSpec::default() });
    (world, mount)
}

/// The reader's worst wait is at most so much longer than in the same swarm without liars; at least one liar is banned.
fn no_reader_waits(liars: usize, share: f64, longer: Duration) {
    over_seeds(10, |seed| {
        let (mut honest, mount) = swarm(seed, 0, 0.0);
        every_read_completes(&mut honest, secs(120), &[mount]);
        let (mut world, mount) = swarm(seed, liars, share);
        let summary = every_read_completes(&mut world, secs(120), &[mount]);
        let (without, with) = (worst_wait(&honest, &[mount]), worst_wait(&world, &[mount]));
        let figures = world.figures(mount);
        figure(
            &format!("{liars} liars in {share}: worst wait without and with, banned"),
            seed,
            (without, with, figures.banned),
        );
        // A ban of an honest node is a violation.
        assert!(figures.failed_pieces > 0 && figures.banned > 0, "no liar was met\n{summary}");
        assert!(with < without + longer, "a read waited {with:?}, {without:?} without liars\n{summary}");
    });
}

#[test]
fn one_that_lies_in_a_tenth_of_its_blocks() {
    no_reader_waits(1, 0.1, secs(2));
}

#[test]
fn one_that_lies_always() {
    no_reader_waits(1, 1.0, secs(2));
}

#[test]
fn half_of_all_lie_in_a_twentieth() {
    no_reader_waits(3, 0.05, secs(3));
}

#[test]
fn all_but_one_lie_always() {
    no_reader_waits(5, 1.0, secs(6));
}
