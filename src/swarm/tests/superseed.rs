//! Super-seeding (BEP 16): who is shown which piece, and when the next.

use super::*;

const PIECES: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(30);

fn lab() -> Lab {
    Lab::with_setup(Setup { super_seed: true, ..setup(PIECES, 2 * BLOCK, true, Fill::None) })
}

/// A peer with BEP 6 that has nothing, wants all and is unchoked with the others so far.
fn newcomer(lab: &mut Lab) -> PeerKey {
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveNone);
    lab.says(peer, Message::Interested);
    unchoke_all(lab);
    peer
}

fn unchoke_all(lab: &mut Lab) {
    let all: Vec<PeerKey> = lab.actors.keys().copied().collect();
    lab.input(Input::Unchoked(&all));
}

/// The pieces that a peer was shown.
fn shown(lab: &Lab, peer: PeerKey) -> Vec<PieceIndex> {
    lab.messages(peer)
        .into_iter()
        .filter_map(|m| if let Message::Have(piece) = m { Some(piece) } else { None })
        .collect()
}

fn last(lab: &Lab, peer: PeerKey) -> PieceIndex {
    *shown(lab, peer).last().expect("it was shown a piece")
}

fn block(piece: PieceIndex, index: u32) -> Request {
    Request { piece, begin: index * BLOCK_LENGTH, length: BLOCK_LENGTH }
}

/// The peer fetches the piece that it was shown last, and does not say so: who was shown it has it.
fn takes(lab: &mut Lab, peer: PeerKey) -> PieceIndex {
    let piece = last(lab, peer);
    for index in 0..2 {
        lab.says(peer, Message::Request(block(piece, index)));
        let sent = lab.actors[&peer].sent.contains(&Outgoing::Piece(block(piece, index)));
        assert!(sent, "{piece:?} is served");
    }
    piece
}

#[test]
fn it_looks_like_a_peer_with_nothing() {
    let mut lab = lab();
    let (fast, plain) = (lab.connect(Character::Scripted, true), lab.connect(Character::Scripted, false));
    assert_eq!(lab.messages(fast), [Message::HaveNone], "it has not said what it has");
    assert!(matches!(lab.messages(plain)[..], [Message::Have(_)]), "it may have nothing to say");
    lab.says(fast, Message::HaveNone);
    lab.says(fast, Message::Interested);
    assert!(matches!(lab.messages(fast)[..], [Message::HaveNone, Message::Have(_)]), "no allowed-fast set");
    assert!(!lab.swarm.greets_upload_only(fast), "they would part");
    lab.input(Input::Extended(fast, &ExtendedHandshake { upload_only_id: Some(3), ..ExtendedHandshake::default() }));
    assert_eq!(lab.messages(fast).len(), 2);
    let seed = lab.connect(Character::Scripted, true);
    lab.says(seed, Message::HaveAll);
    assert_eq!(lab.closed(seed), Some(CloseReason::BothSeeds));
}

#[test]
fn the_next_piece_is_shown_when_another_peer_has_the_last() {
    let mut lab = lab();
    let (a, b) = (newcomer(&mut lab), newcomer(&mut lab));
    let first = takes(&mut lab, a);
    lab.says(a, Message::Have(first));
    lab.run(secs(20));
    assert_eq!(shown(&lab, a), [first], "it has not passed it on");
    lab.says(b, Message::Have(first));
    assert_eq!(shown(&lab, a).len(), 2);
    assert_eq!(shown(&lab, b).len(), 1);
    let mut all = [shown(&lab, a), shown(&lab, b)].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 3, "each peer another one");
    // A bitfield shows it as well.
    let piece = takes(&mut lab, a);
    lab.leecher(Character::Scripted, &[piece.0], false);
    assert_eq!(shown(&lab, a).len(), 3);
}

#[test]
fn only_what_was_shown_is_served() {
    let mut lab = lab();
    let (fast, plain) = (newcomer(&mut lab), lab.connect(Character::Scripted, false));
    unchoke_all(&mut lab);
    for peer in [fast, plain] {
        let hidden = PieceIndex((0..PIECES).find(|&p| !shown(&lab, peer).contains(&PieceIndex(p))).unwrap());
        let before = lab.messages(peer).len();
        lab.says(peer, Message::Request(block(hidden, 0)));
        let answer = if peer == fast { vec![Message::Reject(block(hidden, 0))] } else { Vec::new() };
        assert_eq!(lab.messages(peer)[before..], answer);
        assert!(!lab.actors[&peer].sent.iter().any(|o| matches!(o, Outgoing::Piece(_))));
        for _ in 0..300 {
            lab.says(peer, Message::Request(block(hidden, 0)));
        }
        assert!(matches!(lab.closed(peer), Some(CloseReason::Protocol(_))), "nobody asks at random for long");
    }
}

#[test]
fn a_peer_alone_gets_everything() {
    let mut lab = lab();
    let peer = newcomer(&mut lab);
    let mut got = BTreeSet::new();
    for _ in 0..PIECES {
        assert_eq!(shown(&lab, peer).len(), got.len() + 1, "one ahead");
        got.insert(takes(&mut lab, peer));
    }
    assert_eq!(got.len(), PIECES as usize);
    // One that becomes lonely goes on, too.
    let mut lab = self::lab();
    let (peer, other) = (newcomer(&mut lab), newcomer(&mut lab));
    takes(&mut lab, peer);
    assert_eq!(shown(&lab, peer).len(), 1);
    lab.input(Input::Disconnected(other));
    assert_eq!(shown(&lab, peer).len(), 2);
}

#[test]
fn one_that_gives_only_is_nobody_to_pass_pieces_on_to() {
    let mut lab = lab();
    let (peer, other) = (newcomer(&mut lab), newcomer(&mut lab));
    takes(&mut lab, peer);
    assert_eq!(shown(&lab, peer).len(), 1);
    lab.input(Input::UploadOnly(other, true));
    assert_eq!(lab.closed(other), Some(CloseReason::BothSeeds));
    assert_eq!(shown(&lab, peer).len(), 2);
}

#[test]
fn patience_ends_and_shrinks() {
    let mut lab = lab();
    let (peer, _silent) = (newcomer(&mut lab), newcomer(&mut lab));
    let start = lab.now;
    for n in 1..PIECES as usize {
        takes(&mut lab, peer);
        let end = lab.now + secs(31);
        assert!(lab.run_until(end, |lab| shown(lab, peer).len() == n + 1), "after piece {n}");
    }
    let took = lab.now - start;
    assert!(took > PATIENCE * 3 / 2 && took < PATIENCE * 2, "{took:?}");
}

#[test]
fn a_peer_without_a_slot_waits_with_one_piece_and_goes_on_with_its_slot() {
    let mut lab = lab();
    let (a, b) = (newcomer(&mut lab), newcomer(&mut lab));
    let waits = lab.connect(Character::Scripted, true);
    lab.says(waits, Message::HaveNone);
    lab.says(waits, Message::Interested);
    let piece = last(&lab, waits);
    lab.says(a, Message::Have(piece));
    lab.says(b, Message::Have(piece));
    assert_eq!(shown(&lab, waits), [piece], "that would be more that we send a second time");
    unchoke_all(&mut lab);
    assert_eq!(shown(&lab, waits).len(), 2);
    // Without anything to ask for it would not be interested, and get no slot.
    lab.input(Input::Unchoked(&[a, b]));
    let piece = last(&lab, waits);
    lab.says(waits, Message::Have(piece));
    assert_eq!(shown(&lab, waits).len(), 2);
    lab.says(waits, Message::NotInterested);
    assert_eq!(shown(&lab, waits).len(), 3);
}

#[test]
fn the_rarest_is_shown_first_and_then_what_was_shown_least_often() {
    let mut lab = lab();
    let others: Vec<u32> = (0..PIECES).filter(|p| ![2, 5].contains(p)).collect();
    let most = lab.leecher(Character::Scripted, &others, false);
    let second = newcomer(&mut lab);
    let mut rare = [last(&lab, most), last(&lab, second)];
    rare.sort_unstable();
    assert_eq!(rare, [2, 5].map(PieceIndex));
    // Both are shown, and nobody takes them: they are rarer than all others still.
    let third = newcomer(&mut lab);
    assert!(rare.contains(&last(&lab, third)), "{:?}", shown(&lab, third));
    // One is being sent now: it is as rare as those that one peer has, and the other one rarer.
    let taken = takes(&mut lab, third);
    let fourth = newcomer(&mut lab);
    assert!(rare.contains(&last(&lab, fourth)) && last(&lab, fourth) != taken);
}

#[test]
fn a_lost_piece_is_told_to_those_who_were_shown_it() {
    let mut lab = lab();
    let (a, b) = (newcomer(&mut lab), newcomer(&mut lab));
    for peer in [a, b] {
        lab.input(Input::Extended(peer, &ExtendedHandshake { donthave: Some(9), ..ExtendedHandshake::default() }));
    }
    let piece = last(&lab, a);
    let before = lab.messages(b).len();
    lab.input(Input::Lost(piece));
    lab.run(ms(300));
    let gone = Message::Extended { id: 9, payload: piece.0.to_be_bytes().to_vec().into() };
    assert!(lab.messages(a).contains(&gone));
    assert_ne!(last(&lab, a), piece, "it is shown another one");
    assert_eq!(lab.messages(b).len(), before);
}

#[test]
fn a_copy_that_is_not_whole_is_served_as_ever() {
    let mut lab = Lab::with_setup(Setup { super_seed: true, ..setup(PIECES, BLOCK, false, Fill::None) });
    lab.input(Input::PieceVerified(PieceIndex(0)));
    let peer = lab.connect(Character::Scripted, true);
    assert_eq!(lab.messages(peer), [Message::Bitfield(vec![0x80].into())]);
}

#[test]
fn a_torrent_of_many_pieces_is_looked_through_a_part_at_a_time() {
    let pieces = 50_000;
    let mut lab = Lab::with_setup(Setup { super_seed: true, ..setup(pieces, BLOCK, true, Fill::None) });
    // It lacks one piece, wherever the look begins.
    let others: Vec<u32> = (0..pieces).filter(|&p| p != 31_000).collect();
    let peer = lab.leecher(Character::Scripted, &others, false);
    lab.run(ms(1));
    assert_eq!(shown(&lab, peer), [PieceIndex(31_000)]);
    lab.input(Input::DontHave(peer, PieceIndex(7)));
    lab.says(peer, Message::Have(PieceIndex(31_000)));
    lab.run(ms(1));
    assert_eq!(shown(&lab, peer), [31_000, 7].map(PieceIndex));
}
