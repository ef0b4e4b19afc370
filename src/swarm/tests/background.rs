//! What the background asks of whom: a seed sends what nobody else has, nobody waits for one slow peer alone.

use super::*;

fn pieces(requests: &[Request]) -> BTreeSet<u32> {
    requests.iter().map(|r| r.piece.0).collect()
}

#[test]
fn a_seed_is_asked_for_what_nobody_else_has() {
    let mut lab = Lab::new(8, 4 * BLOCK, Fill::All);
    let leecher = lab.leecher(Character::Scripted, &[0, 1, 2, 3], true);
    let begun = pieces(&lab.pending(leecher));
    assert_eq!((lab.pending(leecher).len(), begun.len()), (6, 2), "one piece and a half");
    let seed = lab.seed(Character::Scripted);
    let asked = pieces(&lab.pending(seed));
    assert!(asked.iter().all(|p| (4..8).contains(p)), "{asked:?}: not the rest of a piece that the leecher sends");
    // What the leecher began it goes on with, although there are others.
    let rest = lab.pending(leecher)[0];
    lab.deliver(leecher, rest);
    assert_eq!(pieces(&lab.pending(leecher)), begun);
}

#[test]
fn the_rest_of_a_piece_is_shared_when_nothing_is_rarer() {
    let mut lab = Lab::new(1, 16 * BLOCK, Fill::All);
    let slow = lab.leecher(Character::Scripted, &[0], true);
    let seed = lab.seed(Character::Scripted);
    assert_eq!((lab.pending(slow).len(), lab.pending(seed).len()), (6, 6));
}

#[test]
fn what_others_have_got_meanwhile_is_not_asked_of_a_seed_any_more() {
    let mut lab = Lab::new(16, 4 * BLOCK, Fill::All);
    let seed = lab.seed(Character::Scripted);
    let peer = lab.leecher(Character::Scripted, &[], false);
    let asked = lab.pending(seed);
    let (first, second) = (asked[0].piece, asked[5].piece);
    assert_ne!(first, second);
    lab.says(peer, Message::Have(first));
    assert_eq!(lab.pending(seed), asked, "the seed is sending it");
    lab.says(peer, Message::Have(second));
    let now = lab.pending(seed);
    assert_eq!(now[..4], asked[..4]);
    assert!(now.len() == 6 && now[4..].iter().all(|r| r.piece != second), "{now:?}");
    // Where nothing is rarer it stays.
    (0..16).for_each(|p| lab.says(peer, Message::Have(PieceIndex(p))));
    let asked = lab.pending(seed);
    let other = lab.leecher(Character::Scripted, &[], false);
    (0..16).rev().for_each(|p| lab.says(other, Message::Have(PieceIndex(p))));
    assert_eq!(lab.pending(seed).len(), asked.len());
}

#[test]
fn a_piece_whose_reader_has_gone_is_fetched_all_the_same() {
    let mut lab = Lab::new(6, BLOCK, Fill::All);
    let seed = lab.connect(Character::Scripted, true);
    lab.says(seed, Message::HaveAll);
    lab.says(seed, Message::AllowedFast(PieceIndex(0)));
    lab.open();
    // Somebody reads everything but a choked peer serves one piece: the background has seen that all are wanted.
    let id = lab.read(0..6 * BLOCK);
    lab.says(seed, Message::AllowedFast(PieceIndex(1)));
    lab.open_reads.remove(&id);
    lab.input(Input::Withdraw(id));
    lab.input(Input::Close(H));
    lab.says(seed, Message::Unchoke);
    while let Some(&request) = lab.pending(seed).first() {
        lab.deliver(seed, request);
    }
    assert!(lab.swarm.complete(), "{} of 6 pieces are there", lab.swarm.there());
}

#[test]
fn nobody_waits_for_what_one_slow_peer_owes_while_another_is_idle() {
    let mut lab = Lab::new(40, 4 * BLOCK, Fill::All);
    let slow = lab.seed(serves(1_000_000));
    let end = lab.now + secs(60);
    assert!(lab.run_until(end, |lab| lab.swarm.there() == 20));
    // It gets ten times slower, with 0.75 s of its old rate still to answer.
    lab.actors.get_mut(&slow).unwrap().character = serves(100_000);
    lab.run(ms(1_500));
    lab.seed(serves(2_000_000));
    let (began, owed) = (lab.now, lab.pending(slow).len());
    assert!(owed > 20, "{owed}");
    assert!(lab.run_until(began + secs(30), |lab| lab.swarm.complete()));
    let took = lab.now - began;
    assert!(took < ms(1_900), "{took:?}, {owed} blocks were owed");
    assert_eq!(lab.swarm.totals().wasted, 0, "blocks are taken over, not asked for twice");
}

#[test]
fn four_choked_peers_at_once_get_an_allowed_fast_set() {
    let mut lab = Lab::with_setup(setup(64, BLOCK, true, Fill::None));
    let peers: Vec<PeerKey> = (0..6).map(|_| lab.leecher(Character::Scripted, &[], false)).collect();
    peers.iter().for_each(|&peer| lab.says(peer, Message::Interested));
    let given = |lab: &Lab, peer| {
        let messages = lab.messages(peer);
        let allowed = messages.iter().filter_map(|m| if let Message::AllowedFast(p) = m { Some(*p) } else { None });
        allowed.collect::<Vec<_>>()
    };
    let sets: Vec<usize> = peers.iter().map(|&peer| given(&lab, peer).len()).collect();
    assert_eq!(sets, [5, 5, 5, 5, 0, 0]);
    // One has fetched its set: there is a place.
    given(&lab, peers[1]).into_iter().for_each(|piece| lab.says(peers[1], Message::Have(piece)));
    lab.says(peers[5], Message::Interested);
    assert_eq!(given(&lab, peers[5]).len(), 5);
    // One is unchoked: there is another.
    lab.input(Input::Unchoked(&peers[2..3]));
    lab.says(peers[4], Message::Interested);
    assert_eq!(given(&lab, peers[4]).len(), 5);
}

#[test]
fn what_a_seed_need_not_send_is_asked_of_who_has_it_at_once() {
    let mut lab = Lab::new(16, 4 * BLOCK, Fill::All);
    let seed = lab.seed(Character::Scripted);
    let (first, second) = (lab.pending(seed)[0].piece, lab.pending(seed)[5].piece);
    // It looks for something once, and there is nothing that the seed is not asked for.
    let peer = lab.leecher(Character::Scripted, &[first.0], true);
    assert!(lab.pending(peer).is_empty());
    lab.says(peer, Message::Have(second));
    assert!(pieces(&lab.pending(peer)).contains(&second.0), "nobody is asked for it: {:?}", lab.pending(seed));
}

#[test]
fn pieces_that_nobody_serves_any_more_do_not_hold_up_the_others() {
    let length = 16 << 20;
    let mut lab = Lab::new(4, length, Fill::All);
    let gone: Vec<PeerKey> = (0..2).map(|piece| lab.leecher(Character::Scripted, &[piece], true)).collect();
    for &peer in &gone {
        let first = lab.pending(peer)[0];
        lab.deliver(peer, first);
        lab.says(peer, Message::Choke);
    }
    let left = lab.leecher(Character::Scripted, &[2, 3], true);
    assert!(lab.pending(left).is_empty(), "two pieces take all that the background may");
    lab.run(secs(6));
    assert!(!lab.pending(left).is_empty(), "it is asked for what it has");
}

#[test]
fn rare_pieces_beyond_the_candidates_are_found() {
    let pieces = 60_000;
    let mut lab = Lab::new(pieces, BLOCK, Fill::All);
    let seed = lab.connect(Character::Scripted, true);
    lab.says(seed, Message::HaveAll);
    // One that has hardly anything, and it lies anywhere.
    let peer = lab.leecher(Character::Scripted, &[777, 30_001, 59_000], true);
    lab.run(secs(30));
    let mut asked = BTreeSet::new();
    while let Some(&request) = lab.pending(peer).first() {
        asked.insert(request.piece.0);
        lab.deliver(peer, request);
        lab.run(secs(10));
    }
    assert_eq!(asked, BTreeSet::from([777, 30_001, 59_000]));
}
