//! Every read completes, or fails by its deadline, whatever becomes of those who could serve it.

use std::time::{Duration, Instant};

use swarmfs::metainfo::Geometry;
use swarmfs::sim::{Behaviour, NodeIndex, NodeSpec, Pattern, ReaderSpec, World};

use crate::common::{
    KIB, MIB, every_read_completes, exchanged, figure, link, ms, over_seeds, reader, run_readers, secs, seeds_of,
    summary, world, worst_wait,
};

#[test]
fn twenty_nodes_read_and_every_read_completes() {
    over_seeds(4, |seed| {
        let geometry = Geometry::new(256 * 256 * KIB - 5_000, 256 * KIB).unwrap();
        let mut world = World::new(Instant::now(), geometry, seed);
        let seeder = world.add(NodeSpec { seed: true, link: link(4 * MIB, 8 * MIB, 10), ..NodeSpec::default() });
        let mounts: Vec<NodeIndex> = (0..19u64)
            .map(|n| {
                let readers = vec![
                    reader(&geometry, Pattern::Sequential, 128 * KIB),
                    reader(&geometry, Pattern::Random(40), 4 * KIB),
                ];
                world.add(NodeSpec {
                    link: link(2 * MIB, 8 * MIB, 5 + n),
                    join: ms(200 * n),
                    readers,
                    ..NodeSpec::default()
                })
            })
            .collect();
        let summary = every_read_completes(&mut world, secs(600), &mounts);
        for &node in &mounts {
            let figures = world.figures(node);
            assert_eq!(figures.read_bytes, geometry.total() + 40 * 4 * KIB, "{summary}");
            assert!(figures.dropped * 50 <= figures.kept, "over 2 % came twice: {node:?}\n{summary}");
        }
        let (shared, from_seed) = (exchanged(&world, &mounts), world.figures(seeder).sent);
        assert!(shared > 2 * from_seed, "{shared} bytes among mounts, {from_seed} from the seed\n{summary}");
    });
}

#[test]
fn a_run_replays_from_its_seed() {
    let run = |seed| {
        let (mut world, geometry) = world(64, 64 * KIB, seed);
        seeds_of(&mut world, &[MIB]);
        let mounts: Vec<NodeIndex> = (0..5)
            .map(|_| {
                let readers = vec![reader(&geometry, Pattern::Random(50), 100 * KIB)];
                world.add(NodeSpec { link: link(MIB, MIB, 20), readers, ..NodeSpec::default() })
            })
            .collect();
        let summary = run_readers(&mut world, secs(300), &mounts);
        (world.elapsed(), world.events(), summary)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn silent_seeds_do_not_stall_a_reader() {
    over_seeds(8, |seed| {
        let (mut world, geometry) = world(16, 256 * KIB, seed);
        for n in 0..21 {
            let behaviour = if n == 7 { Behaviour::Honest } else { Behaviour::Silent };
            world.add(NodeSpec { seed: true, behaviour, link: link(2 * MIB, 2 * MIB, 10), ..NodeSpec::default() });
        }
        let readers = vec![reader(&geometry, Pattern::Random(1), 4 * KIB)];
        let mount = world.add(NodeSpec { link: link(2 * MIB, 8 * MIB, 10), readers, ..NodeSpec::default() });
        let summary = every_read_completes(&mut world, secs(120), &[mount]);
        figure("silent seeds: worst wait", seed, world.figures(mount).worst_wait);
        assert!(world.figures(mount).worst_wait < secs(3), "{summary}");
    });
}

#[test]
fn a_reader_outlives_seeds_that_vanish() {
    over_seeds(8, |seed| {
        let (mut world, geometry) = world(64, 256 * KIB, seed);
        let seeds = seeds_of(&mut world, &[MIB; 3]);
        let readers = vec![reader(&geometry, Pattern::Sequential, 128 * KIB)];
        let mount = world.add(NodeSpec { link: link(MIB, 8 * MIB, 10), readers, ..NodeSpec::default() });
        // One as when its power fails, one as when it is closed.
        world.leave(secs(1), seeds[0], true);
        world.leave(secs(2), seeds[1], false);
        let summary = every_read_completes(&mut world, secs(120), &[mount]);
        assert!(world.figures(mount).worst_wait < secs(5), "{summary}");
    });
}

#[test]
fn a_short_deadline_is_met_while_all_seeds_but_one_lose_power() {
    over_seeds(12, |seed| {
        let (mut world, geometry) = world(192, 64 * KIB, seed);
        let seeds = seeds_of(&mut world, &[MIB; 6]);
        let mounts: Vec<NodeIndex> = (0..3)
            .map(|n| {
                let readers = vec![
                    ReaderSpec { think: ms(30), ..reader(&geometry, Pattern::Sequential, 128 * KIB) },
                    ReaderSpec { think: ms(70), ..reader(&geometry, Pattern::Random(60), 4 * KIB) },
                ];
                let link = link(MIB, 8 * MIB, 10 + 10 * n);
                world.add(NodeSpec { link, read_timeout: secs(8), readers, ..NodeSpec::default() })
            })
            .collect();
        for (n, &gone) in (0..).zip(&seeds[..5]) {
            world.leave(ms(700 * (n + 1)), gone, true);
        }
        every_read_completes(&mut world, secs(120), &mounts);
        figure("vanishing seeds: worst wait", seed, worst_wait(&world, &mounts));
    });
}

#[test]
fn reads_fail_while_all_seeds_are_gone_and_none_after_they_are_back() {
    over_seeds(16, |seed| {
        let (mut world, geometry) = world(256, 64 * KIB, seed);
        let seeds = seeds_of(&mut world, &[2 * MIB; 3]);
        let timeout = secs(3);
        let mounts: Vec<NodeIndex> = (0..2)
            .map(|n| {
                let readers = vec![
                    ReaderSpec { think: ms(200), ..reader(&geometry, Pattern::Sequential, 64 * KIB) },
                    ReaderSpec { think: ms(100), ..reader(&geometry, Pattern::Random(300), 4 * KIB) },
                ];
                let link = link(MIB, 8 * MIB, 10 + 10 * n);
                world.add(NodeSpec { link, read_timeout: timeout, readers, cache_pieces: 64, ..NodeSpec::default() })
            })
            .collect();
        // Away for 30 s, each in one of the two ways; back where they were.
        let back = secs(35);
        for (n, &node) in (0..).zip(&seeds) {
            world.leave(ms(3_000 + 500 * n), node, seed >> n & 1 == 1);
            world.rejoin(back, node);
        }
        let summary = run_readers(&mut world, secs(300), &mounts);
        for &mount in &mounts {
            let figures = world.figures(mount);
            assert!(figures.reads_failed > 0, "they were never gone\n{summary}");
            assert!(figures.reads_done > 300, "{summary}");
            // A read that failed makes others of the same bytes fail for 2 s; a starving reader dials every 5 s.
            let late = figures.last_failure.unwrap_or_default().saturating_sub(back);
            figure("seeds come back: last failure after", seed, late);
            assert!(late < secs(8), "a read failed {late:?} after the seeds were back\n{summary}");
        }
    });
}

#[test]
fn one_slow_seed_does_not_slow_a_reader_down() {
    over_seeds(12, |seed| {
        let run = |uploads: &[u64]| {
            let (mut world, geometry) = world(128, 256 * KIB, seed);
            seeds_of(&mut world, uploads);
            let readers = vec![
                reader(&geometry, Pattern::Sequential, 128 * KIB),
                ReaderSpec { think: ms(150), ..reader(&geometry, Pattern::Random(50), 4 * KIB) },
            ];
            let mount = world.add(NodeSpec { link: link(MIB, 8 * MIB, 10), readers, ..NodeSpec::default() });
            let summary = every_read_completes(&mut world, secs(300), &[mount]);
            (world.elapsed(), world.figures(mount).worst_wait, summary)
        };
        let (time, wait, _) = run(&[2 * MIB; 3]);
        let (slowed, waited, summary) = run(&[2 * MIB, 2 * MIB, 2 * MIB, 2 * MIB / 20]);
        figure("one slow seed: time and worst wait, without it and with it", seed, (time, wait, slowed, waited));
        assert!(slowed < time.mul_f64(1.2), "{slowed:?} with the slow one, {time:?} without it\n{summary}");
        assert!(waited < wait + secs(1), "a read waited {waited:?}, {wait:?} without the slow one\n{summary}");
    });
}

#[test]
fn reads_over_slow_links_complete_or_fail_in_time() {
    over_seeds(12, |seed| {
        // Two seeds of 32 KiB/s and pieces of 64 KiB: a piece a second for four readers, so that each waits for 4 s or so.
        let (mut world, geometry) = world(64, 64 * KIB, seed);
        seeds_of(&mut world, &[32 * KIB; 2]);
        let mounts: Vec<NodeIndex> = (0..2)
            .map(|n| {
                let readers = vec![reader(&geometry, Pattern::Random(40), 4 * KIB); 2];
                let link = link(16 * KIB, 256 * KIB, 100 + 100 * n);
                world.add(NodeSpec { link, read_timeout: secs(6), readers, ..NodeSpec::default() })
            })
            .collect();
        let summary = run_readers(&mut world, secs(1_000), &mounts);
        let (done, failed) = mounts.iter().map(|&n| world.figures(n)).fold((0, 0), |(done, failed), figures| {
            assert!(figures.worst_wait <= secs(6) + ms(1), "{summary}");
            (done + figures.reads_done, failed + figures.reads_failed)
        });
        figure("slow links: done and failed", seed, (done, failed));
        assert!(done > 120, "{done} reads done, {failed} failed\n{summary}");
    });
}

#[test]
fn two_hundred_peers_come_and_go_while_some_of_them_read() {
    over_seeds(1, |seed| {
        let (mut world, geometry) = world(64, 64 * KIB, seed);
        let seeds = seeds_of(&mut world, &[2 * MIB; 4]);
        let mut readers = Vec::new();
        for n in 0..196u64 {
            // Every fifth one mounts and reads; the others fetch everything, and most leave when or before they have it.
            let reads = n % 5 == 0;
            let spec = ReaderSpec { think: ms(100), ..reader(&geometry, Pattern::Random(20), 16 * KIB) };
            let node = world.add(NodeSpec {
                link: link(256 * KIB, MIB, 5 + n % 40),
                join: ms(n * 397 % 40_000),
                fill: if reads { swarmfs::config::Fill::Open } else { swarmfs::config::Fill::All },
                readers: if reads { vec![spec] } else { Vec::new() },
                leave_after: (n % 3 == 0).then(|| secs(n % 7)),
                ..NodeSpec::default()
            });
            if reads {
                readers.push(node);
            } else if n % 2 == 0 {
                world.leave(ms(20_000 + n * 733 % 40_000), node, n % 4 == 0);
            }
        }
        world.leave(secs(15), seeds[0], true);
        world.leave(secs(25), seeds[1], false);
        let summary = every_read_completes(&mut world, secs(300), &readers);
        figure("churn: worst wait", seed, worst_wait(&world, &readers));
        assert!(worst_wait(&world, &readers) < secs(30), "{summary}");
    });
}

#[test]
fn a_read_fails_at_its_deadline_where_there_is_nobody() {
    let (mut world, geometry) = world(4, 64 * KIB, 1);
    let readers = vec![reader(&geometry, Pattern::Random(1), 4 * KIB)];
    let mount = world.add(NodeSpec { read_timeout: secs(7), readers, ..NodeSpec::default() });
    run_readers(&mut world, secs(60), &[mount]);
    assert_eq!(world.figures(mount).reads_failed, 1, "{}", summary(&world, &[mount]));
    assert_eq!(world.figures(mount).worst_wait, secs(7));
    assert!(world.elapsed() < secs(7) + Duration::from_millis(1));
}
