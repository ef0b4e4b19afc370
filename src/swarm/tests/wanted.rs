//! A selection, a copy on disk, and the end of a download.

use super::*;

fn selection(wanted: Range<u32>) -> Setup {
    Setup { wanted: Some(vec![wanted]), capacity: None, ..setup(400, 4 * BLOCK, false, Fill::All) }
}

#[test]
fn a_selection_is_fetched_and_nothing_else() {
    let mut lab = Lab::with_setup(selection(100..110));
    let other = lab.leecher(serves(1_000_000), &[99, 110, 300], true);
    assert!(!lab.messages(other).contains(&Message::Interested), "it has nothing of the selection");
    let seed = lab.connect(serves(1_000_000), true);
    lab.says(seed, Message::HaveAll);
    assert!(lab.messages(seed).contains(&Message::Interested));
    // It may be asked for pieces that are not wanted long before it unchokes us.
    for piece in [5, 200] {
        lab.says(seed, Message::AllowedFast(PieceIndex(piece)));
    }
    lab.run(secs(1));
    assert!(lab.fetched.is_empty() && !lab.swarm.seeding());
    lab.says(seed, Message::Unchoke);
    lab.run(secs(10));
    assert_eq!(lab.fetched.iter().map(|p| p.0).collect::<Vec<_>>(), (100..110).collect::<Vec<_>>());
    assert_eq!((lab.swarm.wanted_left(), lab.swarm.seeding(), lab.swarm.complete()), (0, true, false));
    assert_eq!(lab.count(|effect| *effect == Effect::Completed), 0, "not every piece is there");
    assert_eq!(lab.closed(seed), Some(CloseReason::BothSeeds), "a seed has no use for a partial seed");
    assert_eq!(lab.granted, 0, "nothing is held when nothing is fetched");
    let late = lab.connect(Character::Scripted, true);
    lab.says(late, Message::HaveAll);
    assert_eq!(lab.closed(late), Some(CloseReason::BothSeeds));
}

#[test]
fn interest_ends_with_what_is_wanted_and_comes_back_with_it() {
    let mut lab = Lab::with_setup(selection(0..2));
    let peer = lab.leecher(Character::Scripted, &[0, 7], false);
    assert_eq!(lab.messages(peer).last(), Some(&Message::Interested));
    lab.input(Input::PieceVerified(PieceIndex(0)));
    assert_eq!(lab.messages(peer).last(), Some(&Message::NotInterested));
    lab.input(Input::Lost(PieceIndex(0)));
    assert_eq!(lab.messages(peer).last(), Some(&Message::Interested));
    lab.says(peer, Message::Have(PieceIndex(1)));
    lab.input(Input::PieceVerified(PieceIndex(0)));
    assert_eq!(lab.messages(peer).last(), Some(&Message::Interested), "it has another one");
    lab.input(Input::DontHave(peer, PieceIndex(1)));
    assert_eq!(lab.messages(peer).last(), Some(&Message::NotInterested));
}

/// A boundary piece is not in the copy: it may go, and does not come back, and nothing else waits for it.
#[test]
fn what_a_copy_cannot_keep_is_fetched_once() {
    let mut lab = Lab::with_setup(selection(0..400));
    lab.seed(serves(2_000_000));
    lab.run(secs(3));
    let first = *lab.fetched.first().unwrap();
    let before = (lab.fetched.len(), lab.swarm.wanted_left());
    lab.input(Input::Evicted(first));
    assert_eq!(lab.swarm.wanted_left(), before.1);
    lab.run(secs(2));
    assert!(lab.fetched.len() > before.0 + 20, "the background does not rest");
    lab.fetched.remove(&first);
    lab.run(secs(60));
    assert_eq!((lab.fetched.len(), lab.swarm.wanted_left()), (399, 0));
    assert!(lab.swarm.seeding() && !lab.swarm.has(first));
}

/// The engine tells of a piece when it is on the disk: a disk that takes nothing stops the download, not the memory.
#[test]
fn pieces_that_wait_for_the_disk_hold_their_credit() {
    let setup = setup(400, 16 * BLOCK, false, Fill::All);
    let mut lab = Lab::with_setup(Setup { capacity: None, ..setup });
    let peer = lab.seed(Character::Scripted);
    let mut came = BTreeMap::<PieceIndex, u64>::new();
    let mut receive_all = |lab: &mut Lab| {
        while let Some(&request) = lab.pending(peer).first() {
            lab.actors.get_mut(&peer).unwrap().pending.remove(0);
            assert!(matches!(lab.swarm.receive(lab.now, peer, request), Receipt::Keep { .. }));
            *came.entry(request.piece).or_default() += u64::from(request.length);
            lab.settle();
            lab.transmit(peer);
            lab.settle();
        }
        came.clone()
    };
    let whole = receive_all(&mut lab);
    assert!(whole.values().all(|bytes| *bytes == 16 * BLOCK));
    assert_eq!(whole.len() as u64 * 16 * BLOCK, 32 << 20, "what the background may hold");
    lab.input(Input::PieceVerified(*whole.keys().next().unwrap()));
    assert_eq!(receive_all(&mut lab).len(), whole.len() + 1, "one is written, one more comes");
}
