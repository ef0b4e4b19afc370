//! How a file spreads over a swarm, on the virtual clock: the law of peer-to-peer distribution, and what rarest-first is
//! good for.

use std::time::{Duration, Instant};

use swarmfs::config::Fill;
use swarmfs::metainfo::{Geometry, PieceIndex};
use swarmfs::sim::{Link, NodeIndex, NodeSpec, World};
use swarmfs::swarm::Order;

use crate::common::{KIB, MIB, over_seeds};

const PIECE: u64 = 256 * KIB;
/// What every node sends in a second at the most.
const UP: u64 = 4 * MIB;

/// An origin and some nodes that fetch everything from the first moment on and stay.
fn swarm(nodes: usize, size: u64, piece: u64, order: Order, seed: u64) -> (World, NodeIndex, Vec<NodeIndex>) {
    let geometry = Geometry::new(size, piece).unwrap();
    let mut world = World::new(Instant::now(), geometry, seed);
    let link = Link { up: UP, ..Link::LAN };
    let origin = world.add(NodeSpec { seed: true, link, ..NodeSpec::default() });
    let leecher = NodeSpec { link, fill: Fill::All, order, ..NodeSpec::default() };
    let nodes = (0..nodes).map(|_| world.add(leecher.clone())).collect();
    (world, origin, nodes)
}

fn ratio(time: Duration, bound: Duration) -> f64 {
    time.as_secs_f64() / bound.as_secs_f64()
}

/// Everybody sends as fast as the origin, so that the bound is the time in which it sends everything once, however many
/// they are: F / u, the law of peer-to-peer distribution. Client-server would take N times as long.
fn law(nodes: usize, size: u64, seeds: u64) {
    let bound = Duration::from_secs(size / UP);
    over_seeds(seeds, |seed| {
        let (mut world, origin, leechers) = swarm(nodes, size, PIECE, Order::RarestFirst, seed);
        let done = world.run(bound * 3, |world| world.completed() == nodes);
        let sent = world.figures(origin).sent / MIB;
        let dropped: u64 = leechers.iter().map(|&node| world.figures(node).dropped).sum();
        let ratio = ratio(world.elapsed(), bound);
        println!("{nodes} nodes, seed {seed}: {ratio:.3} of the bound, {sent} MiB from the origin");
        assert!(world.violations.is_empty(), "{:#?}", world.violations);
        assert!(done && ratio <= 1.35, "{nodes} nodes took {ratio:.3} of the bound, {sent} MiB came from the origin");
        assert!(dropped * 100 <= size * nodes as u64, "over 1 % came twice: {dropped} bytes");
    });
}

#[test]
fn one_node_takes_as_long_as_the_origin_sends() {
    law(1, 64 * MIB, 2);
}

#[test]
fn the_time_does_not_grow_with_two_to_eight_nodes() {
    for nodes in [2, 4, 8] {
        law(nodes, 64 * MIB, 2);
    }
}

#[test]
fn the_time_does_not_grow_with_sixteen_nodes() {
    law(16, 128 * MIB, 2);
}

#[test]
fn the_time_does_not_grow_with_a_hundred_nodes() {
    law(100, 96 * MIB, 1);
}

/// When the last piece has come to some node, if that is by 1.2 times the time in which the origin can send all of them
/// once; and the pieces that no node has then. The origin then leaves, and if nothing is lost, the others must get all.
fn lost(order: Order, seed: u64) -> (Duration, usize) {
    let (size, nodes) = (32 * MIB, 12);
    let (mut world, origin, leechers) = swarm(nodes, size, PIECE / 2, order, seed);
    let bound = Duration::from_secs(size / UP);
    let lost = |world: &World| {
        let missing = |piece: &PieceIndex| !leechers.iter().any(|&node| world.swarm(node).has(*piece));
        Geometry::new(size, PIECE / 2).unwrap().all().filter(missing).count()
    };
    let mut at = bound;
    while lost(&world) > 0 && at < bound * 6 / 5 {
        at += bound / 100;
        world.run(at, |_| false);
    }
    let (at, lost) = (world.elapsed(), lost(&world));
    world.leave(at, origin, false);
    if lost == 0 {
        assert!(world.completed() < nodes, "nobody needs the origin any more");
        let done = world.run(bound * 3, |world| world.completed() == nodes);
        assert!(done, "nothing is lost, and the others do not get it from each other");
    }
    assert!(world.violations.is_empty(), "{:#?}", world.violations);
    (at, lost)
}

#[test]
fn rarest_first_keeps_the_rarest_piece_when_its_seed_leaves() {
    over_seeds(12, |seed| {
        let [rarest, in_order, random] = [Order::RarestFirst, Order::InOrder, Order::Random].map(|o| lost(o, seed));
        println!(
            "seed {seed}: (time, pieces lost of 256) {rarest:?} rarest first, {in_order:?} in order, {random:?} at random"
        );
        assert_eq!(rarest.1, 0, "after {:?}", rarest.0);
        assert!(in_order.1 > 0 && random.1 > 0, "another order would have done as well: {in_order:?}, {random:?}");
    });
}
