//! Liars are proved wrong; nobody else is banned.

use super::*;

fn lies(block: u32) -> Character {
    Character::Lies { rate: 5_000_000, block }
}

#[test]
fn a_liar_among_honest_peers_is_banned_and_nobody_else() {
    let mut lab = Lab::new(16, 8 * BLOCK, Fill::All);
    let liar = lab.seed(lies(3));
    for _ in 0..3 {
        lab.seed(serves(3_000_000));
    }
    let end = lab.now + secs(60);
    assert!(lab.run_until(end, |lab| lab.swarm.complete()));
    assert_eq!(lab.banned(), [liar]);
    assert_eq!(lab.count(|e| *e == Effect::Completed), 1);
    assert!(lab.swarm.failures.is_empty());
}

#[test]
fn a_reader_beside_a_liar_sees_only_delay() {
    let mut lab = Lab::new(16, 8 * BLOCK, Fill::None);
    let liar = lab.seed(lies(0));
    lab.seed(serves(3_000_000));
    lab.open();
    for piece in [0, 9, 4] {
        let took = lab.timed(piece * 8 * BLOCK..piece * 8 * BLOCK + 5);
        assert!(took < secs(3), "{took:?}");
    }
    assert_eq!(lab.banned(), [liar]);
}

#[test]
fn a_lone_liar_is_banned_by_its_first_piece() {
    let mut lab = Lab::new(4, 4 * BLOCK, Fill::None);
    let liar = lab.seed(lies(0));
    lab.open();
    let id = lab.read_through(H, 0..5, secs(20));
    assert_eq!(lab.wait(id), Err(ReadError::Deadline(PieceIndex(0), Sources::default())));
    assert_eq!(lab.banned(), [liar]);
    assert_eq!(lab.swarm.totals().wasted, 4 * BLOCK);
}

#[test]
fn every_liar_of_many_is_banned() {
    let mut lab = Lab::new(32, 8 * BLOCK, Fill::All);
    let liars: Vec<PeerKey> = (0..4).map(|n| lab.seed(lies(n))).collect();
    for _ in 0..2 {
        lab.seed(serves(1_000_000));
    }
    let end = lab.now + secs(120);
    assert!(lab.run_until(end, |lab| lab.swarm.complete()));
    assert!(lab.banned().iter().all(|b| liars.contains(b)), "{:?}", lab.banned());
    assert!(lab.banned().len() >= 3, "{:?}", lab.banned());
}

#[test]
fn a_failed_piece_is_fetched_from_one_peer_that_is_replaced_if_it_stalls() {
    let mut lab = Lab::new(2, 4 * BLOCK, Fill::None);
    let a = lab.seed(Character::Scripted);
    let b = lab.seed(Character::Scripted);
    lab.open();
    lab.read(0..1);
    let (of_a, rest) = (lab.pending(a), lab.pending(b));
    assert_eq!((of_a.len(), rest.len()), (2, 2), "a fair share each");
    for request in of_a {
        lab.deliver(a, request);
    }
    lab.deliver(b, rest[0]);
    let senders = [a, b];
    let digests = [BlockDigest([1; 20]); 4];
    // The last block comes and the piece fails: two senders, no proof.
    let receipt = lab.swarm.receive(lab.now, b, rest[1]);
    assert!(matches!(receipt, Receipt::Keep { .. }));
    lab.actors.get_mut(&b).unwrap().pending.clear();
    lab.assembly.clear();
    lab.input(Input::PieceFailed(PieceIndex(0), &digests));
    assert!(lab.banned().is_empty());
    let solo: Vec<usize> = senders.iter().map(|&p| lab.pending(p).len()).collect();
    assert!(solo == [4, 0] || solo == [0, 4], "one peer alone: {solo:?}");
    let first = senders[usize::from(solo[0] == 0)];
    let second = senders[usize::from(solo[0] != 0)];
    lab.run(ms(1_100));
    assert_eq!((lab.pending(first).len(), lab.pending(second).len()), (0, 4), "it made no progress");
    // What the first sends now is not mixed in.
    let late = lab.pending(second)[0];
    assert_eq!(lab.deliver(first, late), Receipt::Drop);
    for request in lab.pending(second) {
        assert!(matches!(lab.deliver(second, request), Receipt::Keep { .. }));
    }
    assert!(lab.swarm.has(PieceIndex(0)));
    assert_eq!(lab.banned(), [a, b], "their blocks of the failed copy differ from the good one");
}

#[test]
fn repeated_failures_back_off() {
    let mut lab = Lab::new(1, BLOCK, Fill::None);
    lab.open();
    lab.read(0..1);
    let mut gaps = Vec::new();
    for _ in 0..4 {
        let liar = lab.seed(Character::Scripted);
        let began = lab.now;
        let end = began + secs(40);
        assert!(lab.run_until(end, |lab| !lab.pending(liar).is_empty()));
        gaps.push((lab.now - began).as_millis());
        let request = lab.pending(liar)[0];
        assert!(matches!(lab.swarm.receive(lab.now, liar, request), Receipt::Keep { .. }));
        lab.input(Input::PieceFailed(PieceIndex(0), &[BlockDigest([9; 20])]));
        assert!(lab.banned().contains(&liar));
    }
    assert_eq!(gaps, [0, 0, 125, 250]);
}

#[test]
fn a_piece_that_cannot_be_assembled_is_begun_anew_after_a_while() {
    let mut lab = Lab::new(4, 4 * BLOCK, Fill::None);
    lab.seed(serves(3_000_000));
    lab.open();
    let id = lab.read(0..5);
    let piece = PieceIndex(0);
    let attempt = lab.swarm.attempt(piece).expect("it is asked for");
    let start = lab.now;
    lab.input(Input::Unassembled { piece, attempt: attempt + 1 });
    assert_eq!(lab.swarm.attempt(piece), Some(attempt), "another attempt's end is not this one's");
    lab.input(Input::Unassembled { piece, attempt });
    assert_eq!(lab.swarm.attempt(piece), None);
    assert_eq!(lab.wait(id), Ok(()));
    assert!(lab.now - start >= secs(1), "not at line rate: {:?}", lab.now - start);
    assert!(lab.banned().is_empty() && lab.swarm.failures.is_empty());
}
