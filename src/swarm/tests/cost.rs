//! What calls cost. Figures are printed; the bounds are far above them, for slow machines.

use super::*;

/// Four seeds deliver as fast as they are asked: time of the swarm alone, per block.
#[test]
fn a_block_costs_microseconds_at_most() {
    let mut lab = Lab::with_setup(setup(1_000, 16 * BLOCK, false, Fill::All));
    let peers: Vec<PeerKey> = (0..4).map(|_| lab.seed(Character::Scripted)).collect();
    let mut received = BTreeMap::new();
    let (mut blocks, mut out) = (0u32, Vec::new());
    let mut asked: BTreeMap<PeerKey, Vec<Request>> = peers.iter().map(|&p| (p, lab.pending(p))).collect();
    let (mut now, start) = (lab.now, Instant::now());
    while !lab.swarm.complete() && start.elapsed() < secs(20) {
        for &peer in &peers {
            // One socket read of 256 KiB.
            let batch: Vec<Request> =
                asked.get_mut(&peer).map(|a| a.drain(..a.len().min(16)).collect()).unwrap_or_default();
            now += Duration::from_micros(64);
            for request in batch {
                blocks += 1;
                assert!(matches!(lab.swarm.receive(now, peer, request), Receipt::Keep { .. }));
                let count = received.entry(request.piece).or_insert(0);
                *count += 1;
                if *count == 16 {
                    lab.swarm.handle(now, Input::PieceVerified(request.piece));
                }
            }
            out.clear();
            lab.swarm.transmit(now, peer, whole(1 << 20), &mut out);
            while let Some(effect) = lab.swarm.poll() {
                if let Effect::WantMemory(bytes) = effect {
                    lab.swarm.handle(now, Input::Grant(bytes));
                }
            }
            asked.entry(peer).or_default().extend(out.iter().filter_map(|o| match o {
                Outgoing::Message(Message::Request(request)) => Some(*request),
                _ => None,
            }));
        }
    }
    let each = start.elapsed() / blocks.max(1);
    println!("{blocks} blocks, {each:?} each");
    assert!(lab.swarm.complete());
    assert!(each < Duration::from_micros(50), "{each:?}");
}

/// A reader in order, everything in the cache: what every hit costs while 200 peers are connected.
#[test]
fn a_hit_costs_microseconds_at_most() {
    let mut lab = Lab::new(4_000, 16 * BLOCK, Fill::Open);
    for _ in 0..200 {
        lab.seed(Character::Scripted);
    }
    lab.open();
    let (start, mut hits) = (Instant::now(), 0u32);
    for at in (0..400 * 16 * BLOCK).step_by(128 << 10) {
        hits += 1;
        lab.swarm.handle(lab.now, Input::Hit(H, at..at + (128 << 10)));
        while lab.swarm.poll().is_some() {}
    }
    let each = start.elapsed() / hits;
    println!("{hits} hits, {each:?} each");
    assert!(each < Duration::from_micros(500), "{each:?}");
}
