//! Credit for unfinished pieces goes back when it is of no use here.

use super::*;

const PIECE: u64 = 4 * BLOCK;

#[test]
fn a_torrent_whose_only_peer_is_silent_keeps_credit_for_one_piece() {
    for fill in [Fill::None, Fill::All] {
        let mut lab = Lab::new(32, PIECE, fill);
        let peer = lab.seed(Character::Scripted);
        lab.open();
        let id = lab.read(0..3 * PIECE);
        assert!(lab.granted > PIECE, "{fill:?}");
        for _ in 0..5 {
            lab.run(secs(10));
            assert!(lab.granted <= PIECE, "{} bytes are held with {fill:?}", lab.granted);
        }
        // It comes back to life: what it is still asked for is enough to see it.
        lab.actors.get_mut(&peer).expect("it is connected").character = serves(1_000_000);
        assert_eq!(lab.wait(id), Ok(()), "{fill:?}");
    }
}

#[test]
fn a_torrent_without_peers_gives_all_its_credit_back() {
    for fill in [Fill::None, Fill::All] {
        let mut lab = Lab::new(32, PIECE, fill);
        let peer = lab.seed(Character::Scripted);
        lab.open();
        let id = lab.read(0..PIECE);
        let first = lab.pending(peer)[0];
        lab.deliver(peer, first);
        lab.actors.remove(&peer);
        lab.input(Input::Disconnected(peer));
        lab.run(secs(10));
        assert_eq!(lab.granted, PIECE, "what came is kept for a while with {fill:?}");
        lab.run(secs(25));
        assert_eq!(lab.granted, 0, "{fill:?}");
        lab.seed(serves(1_000_000));
        assert_eq!(lab.wait(id), Ok(()), "{fill:?}");
    }
}

#[test]
fn memory_that_is_wanted_no_more_does_not_go_to_and_fro() {
    let mut lab = Lab::new(400, BLOCK, Fill::All);
    lab.budget = 3 * BLOCK;
    let peer = lab.seed(Character::Scripted);
    for _ in 0..3 {
        let request = lab.pending(peer)[0];
        lab.deliver(peer, request);
    }
    assert!(lab.wanted > 100 * BLOCK, "it waits for much more");
    let before = lab.grants;
    lab.says(peer, Message::Choke);
    lab.run(secs(10));
    assert_eq!((lab.wanted, lab.budget, lab.granted), (0, 3 * BLOCK, 0));
    assert!(lab.grants - before < 5, "{} grants that nobody needs", lab.grants - before);
}
