//! Links that lose their peers, and nodes that dial each other at once.

use swarmfs::config::Fill;
use swarmfs::sim::{Loss, NodeIndex, NodeSpec, Pattern, ReaderSpec};

use crate::common::{
    KIB, MIB, every_read_completes, figure, link, ms, over_seeds, reader, secs, seeds_of, summary, world, worst_wait,
};

#[test]
fn connections_that_break_all_the_time_fail_no_read() {
    over_seeds(10, |seed| {
        let (mut world, geometry) = world(128, 128 * KIB, seed);
        seeds_of(&mut world, &[MIB; 8]);
        let mounts: Vec<NodeIndex> = (0..2)
            .map(|n| {
                let readers = vec![
                    ReaderSpec { think: ms(50), ..reader(&geometry, Pattern::Sequential, 128 * KIB) },
                    ReaderSpec { think: ms(200), ..reader(&geometry, Pattern::Random(40), 4 * KIB) },
                ];
                // Half of the losses are silent.
                let loss = Some(Loss { mean: secs(15), silent: 0.5 });
                world.add(NodeSpec { link: link(MIB, 8 * MIB, 10 + n), loss, readers, ..NodeSpec::default() })
            })
            .collect();
        let summary = every_read_completes(&mut world, secs(300), &mounts);
        figure("losses: worst wait", seed, worst_wait(&world, &mounts));
        assert!(worst_wait(&world, &mounts) < secs(20), "{summary}");
    });
}

#[test]
fn a_reset_in_the_middle_costs_a_reader_no_more_than_a_dial() {
    over_seeds(10, |seed| {
        let (mut world, geometry) = world(128, 128 * KIB, seed);
        seeds_of(&mut world, &[2 * MIB; 2]);
        let readers = vec![reader(&geometry, Pattern::Sequential, 128 * KIB)];
        let loss = Some(Loss { mean: secs(20), silent: 0.0 });
        let mount = world.add(NodeSpec { link: link(MIB, 8 * MIB, 10), loss, readers, ..NodeSpec::default() });
        let summary = every_read_completes(&mut world, secs(300), &[mount]);
        figure("resets: worst wait", seed, world.figures(mount).worst_wait);
        assert!(world.figures(mount).worst_wait < secs(12), "{summary}");
    });
}

#[test]
fn nodes_that_dial_each_other_at_once_keep_one_connection() {
    over_seeds(8, |seed| {
        let (mut world, geometry) = world(32, 128 * KIB, seed);
        seeds_of(&mut world, &[2 * MIB]);
        // They join at one moment, so that each of them hears of all the others.
        let nodes: Vec<NodeIndex> = (0..9)
            .map(|n| world.add(NodeSpec { link: link(MIB, 4 * MIB, 5 + n), fill: Fill::All, ..NodeSpec::default() }))
            .collect();
        let all = u32::try_from(nodes.len()).unwrap();
        world.run(secs(1), |_| false);
        for &node in &nodes {
            let peers = world.swarm(node).totals().peers;
            assert_eq!(peers, all, "one connection to each of the others\n{}", summary(&world, &nodes));
        }
        let done = world.run(secs(120), |world| world.completed() == nodes.len());
        let summary = summary(&world, &nodes);
        assert!(world.violations.is_empty(), "{:#?}\n{summary}", world.violations);
        assert!(done, "{summary}");
        assert!(nodes.iter().all(|&node| world.figures(node).kept == geometry.total()), "{summary}");
    });
}

#[test]
fn a_peer_that_was_dialled_at_once_is_dialled_again_when_it_is_lost() {
    over_seeds(16, |seed| {
        let (mut world, geometry) = world(64, 64 * KIB, seed);
        let seeder = seeds_of(&mut world, &[MIB])[0];
        let readers = vec![ReaderSpec { think: ms(500), ..reader(&geometry, Pattern::Sequential, 64 * KIB) }];
        let mount = world.add(NodeSpec {
            link: link(MIB, 8 * MIB, 10),
            cache_pieces: 4,
            fill: Fill::None,
            readers,
            ..NodeSpec::default()
        });
        // Restarted in no time, long after the connection was made.
        world.leave(secs(12), seeder, false);
        world.rejoin(secs(13), seeder);
        let summary = every_read_completes(&mut world, secs(200), &[mount]);
        figure("a restarted seed: worst wait", seed, world.figures(mount).worst_wait);
        assert!(world.figures(mount).worst_wait < secs(8), "{summary}");
    });
}
