//! Who is asked for what: no block comes twice unless it was late, whoever reads. That none is asked for twice sooner is
//! checked by the world itself, in every scenario.

use swarmfs::config::Fill;
use swarmfs::sim::{NodeIndex, NodeSpec, Pattern, ReaderSpec};

use crate::common::{
    KIB, MIB, every_read_completes, figure, link, ms, over_seeds, reader, secs, seeds_of, summary, world,
};

#[test]
fn in_a_healthy_swarm_nothing_is_asked_for_twice() {
    over_seeds(6, |seed| {
        let (mut world, geometry) = world(128, 128 * KIB, seed);
        seeds_of(&mut world, &[2 * MIB; 2]);
        let nodes: Vec<NodeIndex> = (0..12)
            .map(|n| world.add(NodeSpec { link: link(MIB, 4 * MIB, 5 + n), fill: Fill::All, ..NodeSpec::default() }))
            .collect();
        let done = world.run(secs(300), |world| world.completed() == nodes.len());
        let summary = summary(&world, &nodes);
        assert!(world.violations.is_empty(), "{:#?}\n{summary}", world.violations);
        assert!(done, "{summary}");
        let (mut asked, mut again, mut dropped) = (0, 0, 0);
        for &node in &nodes {
            let figures = world.figures(node);
            assert_eq!(figures.kept, geometry.total(), "{summary}");
            asked += figures.asked;
            again += figures.asked_again;
            dropped += figures.dropped;
        }
        figure("healthy swarm: asked, asked again, bytes dropped", seed, (asked, again, dropped));
        assert!(again * 50 <= asked, "{again} of {asked} requests were second ones\n{summary}");
        assert!(dropped * 100 <= geometry.total() * 12, "{dropped} bytes came twice\n{summary}");
    });
}

#[test]
fn one_reader_of_one_seed_asks_for_every_block_once() {
    over_seeds(4, |seed| {
        let (mut world, geometry) = world(64, 256 * KIB, seed);
        seeds_of(&mut world, &[2 * MIB]);
        let readers = vec![reader(&geometry, Pattern::Sequential, 128 * KIB)];
        let mount = world.add(NodeSpec { link: link(MIB, 8 * MIB, 10), readers, ..NodeSpec::default() });
        let summary = every_read_completes(&mut world, secs(60), &[mount]);
        let figures = world.figures(mount);
        assert_eq!(figures.asked, geometry.total() / (16 * KIB), "{summary}");
        assert_eq!((figures.asked_again, figures.dropped), (0, 0), "{summary}");
    });
}

/// Two readers in one file that fits into the cache: what one has fetched the other need not.
fn two_readers(first: (Pattern, u64), second: (Pattern, u64), start: u64, cache_pieces: usize) {
    over_seeds(6, |seed| {
        let (mut world, geometry) = world(128, 64 * KIB, seed);
        seeds_of(&mut world, &[2 * MIB; 3]);
        let one = |(pattern, think), start| ReaderSpec {
            start: ms(start),
            think: ms(think),
            ..reader(&geometry, pattern, 64 * KIB)
        };
        let readers = vec![one(first, 0), one(second, start)];
        let mount = world.add(NodeSpec { link: link(MIB, 8 * MIB, 10), cache_pieces, readers, ..NodeSpec::default() });
        let summary = every_read_completes(&mut world, secs(120), &[mount]);
        let figures = world.figures(mount);
        assert_eq!(figures.kept, geometry.total(), "not every block came once\n{summary}");
        // With evictions the background rests, and what it has asked for comes to nothing.
        assert!(figures.dropped * 33 <= figures.kept, "{summary}");
        assert_eq!(figures.evicted > 0, cache_pieces < 128, "{summary}");
    });
}

#[test]
fn two_readers_at_one_place_fetch_a_file_once() {
    two_readers((Pattern::Sequential, 5), (Pattern::Sequential, 5), 0, 128);
}

#[test]
fn two_readers_far_apart_fetch_a_file_once() {
    two_readers((Pattern::Sequential, 5), (Pattern::From(4 * MIB), 5), 0, 128);
}

#[test]
fn a_reader_that_overtakes_another_fetches_nothing_again() {
    two_readers((Pattern::Sequential, 60), (Pattern::Sequential, 2), 2_000, 128);
}

#[test]
fn a_reader_close_behind_another_lives_on_a_small_cache() {
    two_readers((Pattern::Sequential, 20), (Pattern::Sequential, 20), 200, 96);
}
