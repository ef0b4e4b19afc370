//! Who only gives (BEP 21): what peers are told of us, and what we make of what they say.

use super::*;

/// A swarm that wants some of eight pieces.
fn wants(pieces: Range<u32>) -> Lab {
    Lab::with_setup(Setup { wanted: Some(vec![pieces]), capacity: None, ..setup(8, BLOCK, false, Fill::All) })
}

fn hello(upload_only: Option<bool>, id: Option<u8>) -> ExtendedHandshake {
    ExtendedHandshake { upload_only, upload_only_id: id, ..ExtendedHandshake::default() }
}

/// What a peer was told in extension messages.
fn told(lab: &Lab, peer: PeerKey) -> Vec<(u8, Vec<u8>)> {
    let told =
        |message| if let Message::Extended { id, payload } = message { Some((id, payload.into())) } else { None };
    lab.messages(peer).into_iter().filter_map(told).collect()
}

fn verified(lab: &mut Lab, piece: u32) {
    lab.input(Input::PieceVerified(PieceIndex(piece)));
}

#[test]
fn peers_learn_when_we_only_give_and_when_we_want_again() {
    let mut lab = wants(0..2);
    let [message, key, silent] = [(), (), ()].map(|()| lab.leecher(Character::Scripted, &[5], false));
    lab.input(Input::Extended(message, &hello(None, Some(9))));
    lab.input(Input::Extended(key, &hello(Some(false), None)));
    assert!(!lab.swarm.greets_upload_only(message));
    verified(&mut lab, 0);
    assert_eq!(told(&lab, message), []);
    verified(&mut lab, 1);
    assert!(lab.swarm.seeding() && !lab.swarm.complete() && lab.swarm.partial_seed());
    lab.input(Input::Lost(PieceIndex(1)));
    verified(&mut lab, 1);
    assert_eq!(told(&lab, message), [(9, vec![1]), (9, vec![0]), (9, vec![1])]);
    let with_key = |value: u8| (0, format!("d1:mde11:upload_onlyi{value}ee").into_bytes());
    assert_eq!(told(&lab, key), [with_key(1), with_key(0), with_key(1)]);
    assert_eq!(told(&lab, silent), [], "it may have no extensions");
    lab.input(Input::Extended(silent, &hello(None, None)));
    assert_eq!(told(&lab, silent), [with_key(1)], "its handshake came later than ours went");
    let late = lab.connect(Character::Scripted, true);
    lab.input(Input::Extended(late, &hello(None, Some(3))));
    assert!(lab.swarm.greets_upload_only(late));
    assert_eq!(told(&lab, late), [], "our handshake said so");
    for piece in 2..8 {
        verified(&mut lab, piece);
    }
    assert!(lab.swarm.seeding() && !lab.swarm.partial_seed());
    assert_eq!(told(&lab, message).len(), 3, "to be complete is no news");
}

#[test]
fn a_change_that_is_taken_back_before_it_is_told_is_not_told() {
    let mut lab = wants(0..2);
    let peer = lab.leecher(Character::Scripted, &[5], false);
    lab.input(Input::Extended(peer, &hello(None, Some(9))));
    verified(&mut lab, 0);
    lab.room = 0;
    verified(&mut lab, 1);
    lab.input(Input::Lost(PieceIndex(1)));
    lab.room = 1 << 20;
    lab.transmit(peer);
    assert_eq!(told(&lab, peer), []);
}

#[test]
fn two_that_only_give_part() {
    let mut lab = wants(0..2);
    let [asks, gives, turns, later] = [(), (), (), ()].map(|()| lab.leecher(Character::Scripted, &[5], false));
    lab.input(Input::Extended(gives, &hello(Some(true), None)));
    lab.input(Input::Extended(turns, &hello(Some(true), None)));
    lab.input(Input::UploadOnly(turns, false));
    verified(&mut lab, 0);
    assert_eq!([asks, gives, turns, later].map(|peer| lab.closed(peer)), [None; 4], "we still want something");
    verified(&mut lab, 1);
    let parted = Some(CloseReason::BothSeeds);
    assert_eq!([asks, gives, turns, later].map(|peer| lab.closed(peer)), [None, parted, None, None]);
    lab.input(Input::UploadOnly(later, true));
    assert_eq!(lab.closed(later), parted);
    lab.input(Input::Extended(asks, &hello(Some(true), None)));
    assert_eq!(lab.closed(asks), parted, "a later handshake says so");
    assert_eq!(lab.closed(turns), None);
}

#[test]
fn a_later_handshake_changes_what_it_names() {
    let mut lab = wants(0..2);
    let peer = lab.leecher(Character::Scripted, &[0], false);
    let gives = |lab: &Lab| lab.swarm.candidates(lab.now)[0].seed;
    lab.input(Input::Extended(peer, &hello(Some(true), Some(9))));
    assert!(gives(&lab));
    lab.input(Input::Extended(peer, &ExtendedHandshake { reqq: Some(100), ..hello(None, None) }));
    assert!(gives(&lab), "it was not named");
    assert_eq!(lab.swarm.peers[&peer].upload_only_id, Some(9));
    lab.input(Input::Extended(peer, &hello(Some(false), None)));
    assert!(!gives(&lab));
}

#[test]
fn who_wants_nothing_gets_neither_slot_nor_allowed_pieces() {
    let mut lab = Lab::with_setup(setup(100, BLOCK, false, Fill::All));
    for piece in 0..99 {
        verified(&mut lab, piece);
    }
    let allowed = |lab: &Lab, peer| lab.messages(peer).iter().any(|m| matches!(m, Message::AllowedFast(_)));
    let [gives, asks] = [Some(true), Some(false)].map(|upload_only| {
        let peer = lab.leecher(Character::Scripted, &[99], false);
        lab.input(Input::Extended(peer, &hello(upload_only, None)));
        lab.says(peer, Message::Interested);
        peer
    });
    assert_eq!((allowed(&lab, gives), allowed(&lab, asks)), (false, true));
    let candidates = lab.swarm.candidates(lab.now);
    assert_eq!(candidates.iter().map(|c| (c.peer, c.seed)).collect::<Vec<_>>(), [(gives, true), (asks, false)]);
    assert!(candidates.iter().all(|c| c.wanted), "we take from both what we lack");
}
