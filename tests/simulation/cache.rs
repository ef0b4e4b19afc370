//! Caches smaller than what is read.

use swarmfs::sim::{NodeIndex, NodeSpec, Pattern, ReaderSpec};

use crate::common::{KIB, MIB, every_read_completes, figure, link, ms, over_seeds, reader, secs, seeds_of, world};

#[test]
fn a_cache_smaller_than_the_torrent_still_answers_every_read() {
    over_seeds(8, |seed| {
        let (mut world, geometry) = world(64, 64 * KIB, seed);
        world.add(NodeSpec { seed: true, link: link(4 * MIB, 4 * MIB, 5), ..NodeSpec::default() });
        let mounts: Vec<NodeIndex> = (0..6)
            .map(|_| {
                let mut readers: Vec<_> = (0..4).map(|_| reader(&geometry, Pattern::Random(60), 100 * KIB)).collect();
                readers.push(reader(&geometry, Pattern::Sequential, 128 * KIB));
                world.add(NodeSpec {
                    link: link(2 * MIB, 4 * MIB, 5),
                    cache_pieces: 16,
                    readers,
                    ..NodeSpec::default()
                })
            })
            .collect();
        let summary = every_read_completes(&mut world, secs(900), &mounts);
        assert!(mounts.iter().all(|&n| world.figures(n).evicted > 0), "nothing was evicted\n{summary}");
    });
}

#[test]
fn a_cache_of_a_few_pieces_answers_reads_that_overlap_them_all() {
    over_seeds(12, |seed| {
        let (mut world, geometry) = world(48, 32 * KIB, seed);
        seeds_of(&mut world, &[2 * MIB; 2]);
        let mounts: Vec<NodeIndex> = (1..=4)
            .map(|cache_pieces| {
                let mut readers = vec![reader(&geometry, Pattern::Random(30), 90 * KIB); 3];
                readers.push(ReaderSpec { think: ms(20), ..reader(&geometry, Pattern::Sequential, 128 * KIB) });
                world.add(NodeSpec { link: link(MIB, 4 * MIB, 5), cache_pieces, readers, ..NodeSpec::default() })
            })
            .collect();
        let summary = every_read_completes(&mut world, secs(600), &mounts);
        for &mount in &mounts {
            // At the worst each read fetches every piece that it overlaps.
            let (fetched, figures) = (world.figures(mount).kept, world.figures(mount));
            let worst = (figures.reads_done * 5) * 32 * KIB;
            figure("tiny caches: bytes fetched, at the worst", seed, (fetched, worst));
            assert!(fetched <= worst, "{fetched} bytes were fetched for {} read\n{summary}", figures.read_bytes);
        }
    });
}
