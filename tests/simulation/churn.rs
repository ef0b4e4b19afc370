//! Two hundred peers come and go: reads wait for little more than the way and the piece, little comes twice, and the
//! background takes the link whenever no read waits.

use std::sync::Mutex;
use std::time::Duration;

use swarmfs::config::Fill;
use swarmfs::metainfo::Geometry;
use swarmfs::sim::{NodeIndex, NodeSpec, Pattern, ReaderSpec, World};

use crate::common::{KIB, MIB, figure, link, ms, over_seeds, percentile, reader, secs, summary, waits, world};

const PIECE: u64 = 128 * KIB;
const PIECES: u64 = 256;
/// What each of the others sends in a second, and each reader receives.
const UP: u64 = 2 * MIB;
const DOWN: u64 = 4 * MIB;
/// From one node to another and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// What happens before is the swarm finding itself: dials, first slots, first measurements.
const WARM: Duration = Duration::from_secs(20);

/// 40 seeds and 150 nodes that fetch everything, 190 of them in all: every fourth leaves and comes back, again and again.
fn crowd(world: &mut World) {
    for n in 0..190u64 {
        let seed = n % 19 < 4;
        let spec = NodeSpec {
            seed,
            link: link(UP, 2 * DOWN, 10),
            join: if seed { Duration::ZERO } else { ms(n * 97 % 5_000) },
            fill: Fill::All,
            upload_slots: 8,
            ..NodeSpec::default()
        };
        let node = world.add(spec);
        if n % 4 == 1 {
            for turn in 0..3 {
                let gone = secs(12 + 18 * turn) + ms(n * 733 % 17_000);
                world.leave(gone, node, n % 8 == 1);
                world.rejoin(gone + secs(6), node);
            }
        }
    }
}

/// Ten nodes that read at random places.
fn readers(world: &mut World, geometry: &Geometry) -> Vec<NodeIndex> {
    let spec = |n: u64| NodeSpec {
        link: link(UP, DOWN, 10),
        join: ms(300 * n),
        upload_slots: 8,
        readers: vec![ReaderSpec { think: ms(400), ..reader(geometry, Pattern::Random(120), 16 * KIB) }],
        ..NodeSpec::default()
    };
    (0..10u64).map(|n| world.add(spec(n))).collect()
}

#[test]
fn reads_are_quick_while_two_hundred_peers_come_and_go() {
    // One run has too few reads for its slowest hundredth to mean much.
    let all = Mutex::new(Vec::new());
    over_seeds(1, |seed| {
        let (mut world, geometry) = world(PIECES, PIECE, seed);
        crowd(&mut world);
        let readers = readers(&mut world, &geometry);
        world.run(secs(150), |world| world.unfinished_readers() == 0);
        let summary = summary(&world, &readers);
        assert!(world.violations.is_empty(), "{:#?}\n{summary}", world.violations);
        assert_eq!(world.unfinished_readers(), 0, "reads are still waiting\n{summary}");
        let waits = waits(&world, &readers, WARM);
        let [half, most, worst] = [50, 99, 100].map(|percent| percentile(&waits, percent));
        let (kept, dropped) = readers
            .iter()
            .map(|&node| world.figures(node))
            .fold((0, 0), |(kept, dropped), f| (kept + f.kept, dropped + f.dropped));
        let share = dropped as f64 / kept as f64;
        println!(
            "seed {seed}: of {} reads half within {:?}, 99 of 100 within {:?}, all within {:?}; {:.2} % came twice",
            waits.len(),
            half,
            most,
            worst,
            100.0 * share
        );
        figure("churn of 200: p99 and share that came twice", seed, (most, share));
        assert!(share <= 0.03, "{dropped} of {kept} bytes came twice\n{summary}");
        all.lock().unwrap().extend(waits);
    });
    let mut all = all.into_inner().unwrap();
    all.sort_unstable();
    // Two pieces, where a read crosses from one to the next.
    let bound = 4 * ROUND_TRIP + Duration::from_secs_f64(2.0 * PIECE as f64 / DOWN as f64);
    let most = percentile(&all, 99);
    println!("of all {} reads 99 of 100 within {most:?}, the bound is {bound:?}", all.len());
    assert!(most <= bound, "99 of 100 of {} reads waited {most:?}, over {bound:?}", all.len());
}

#[test]
fn the_background_takes_the_link_whenever_no_read_waits() {
    over_seeds(1, |seed| {
        let (mut world, geometry) = world(16 * PIECES, PIECE, seed);
        for n in 0..12 {
            let node = world.add(NodeSpec { seed: true, link: link(UP, UP, 10), ..NodeSpec::default() });
            if n % 3 == 0 {
                world.leave(secs(12 + 7 * n), node, n % 2 == 0);
                world.rejoin(secs(20 + 7 * n), node);
            }
        }
        let readers = vec![ReaderSpec { think: secs(3), ..reader(&geometry, Pattern::Random(1_000), 16 * KIB) }];
        let mount =
            NodeSpec { link: link(UP, DOWN, 10), fill: Fill::All, upload_slots: 8, readers, ..NodeSpec::default() };
        let mount = world.add(mount);
        world.run(WARM, |_| false);
        let (before, from) = (world.figures(mount).kept, world.elapsed());
        world.run(secs(60), |_| false);
        let rate = (world.figures(mount).kept - before) as f64 / (world.elapsed() - from).as_secs_f64();
        let summary = summary(&world, &[mount]);
        println!("seed {seed}: {:.2} of the link", rate / DOWN as f64);
        assert!(world.violations.is_empty(), "{:#?}\n{summary}", world.violations);
        assert!(rate >= 0.9 * DOWN as f64, "{rate:.0} bytes/s of {DOWN}\n{summary}");
    });
}
