//! What is uploaded: the limit holds, and who uploads nothing uploads nothing.

use swarmfs::config::Fill;
use swarmfs::sim::{Behaviour, NodeIndex, NodeSpec};

use crate::common::{KIB, MIB, over_seeds, secs, seeds_of, world};

#[test]
fn an_upload_limit_holds() {
    over_seeds(4, |seed| {
        let limit = 256 * KIB;
        let (mut world, _) = world(64, 128 * KIB, seed);
        let seeder = world.add(NodeSpec { seed: true, upload_limit: Some(limit), ..NodeSpec::default() });
        for _ in 0..3 {
            world.add(NodeSpec { behaviour: Behaviour::FreeRider, fill: Fill::All, ..NodeSpec::default() });
        }
        assert!(world.run(secs(600), |world| world.completed() == 3));
        assert!(world.violations.is_empty(), "{:#?}", world.violations);
        let sent = world.figures(seeder).sent / KIB;
        let allowed = world.elapsed().as_secs_f64() * 256.0;
        let share = f64::from(u32::try_from(sent).unwrap()) / allowed;
        assert!((0.95..1.01).contains(&share), "{sent} KiB were sent, {allowed} allowed");
    });
}

#[test]
fn who_uploads_nothing_uploads_nothing() {
    over_seeds(4, |seed| {
        let (mut world, _) = world(64, 128 * KIB, seed);
        seeds_of(&mut world, &[MIB]);
        let riders: Vec<NodeIndex> = (0..3)
            .map(|_| world.add(NodeSpec { behaviour: Behaviour::FreeRider, fill: Fill::All, ..NodeSpec::default() }))
            .collect();
        assert!(world.run(secs(600), |world| world.completed() == 3));
        assert!(world.violations.is_empty(), "{:#?}", world.violations);
        for rider in riders {
            assert_eq!(world.figures(rider).sent, 0, "{rider:?}");
        }
    });
}
