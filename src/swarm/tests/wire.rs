//! Duties and defences on the wire.

use super::*;

fn seeding(pieces: u32) -> Lab {
    Lab::with_setup(setup(pieces, 4 * BLOCK, true, Fill::None))
}

fn request(piece: u32, begin: u32, length: u32) -> Request {
    Request { piece: PieceIndex(piece), begin, length }
}

const B: u32 = BLOCK_LENGTH;

#[test]
fn the_first_message_says_what_we_have() {
    let mut lab = seeding(9);
    let fast = lab.connect(Character::Scripted, true);
    let plain = lab.connect(Character::Scripted, false);
    assert_eq!(lab.messages(fast), [Message::HaveAll]);
    assert_eq!(lab.messages(plain), [Message::Bitfield(vec![0xff, 0x80].into())]);
    let mut lab = Lab::new(9, BLOCK, Fill::None);
    let fast = lab.connect(Character::Scripted, true);
    let plain = lab.connect(Character::Scripted, false);
    assert_eq!(lab.messages(fast), [Message::HaveNone]);
    assert_eq!(lab.messages(plain), []);
    lab.input(Input::PieceVerified(PieceIndex(8)));
    let third = lab.connect(Character::Scripted, true);
    assert_eq!(lab.messages(third), [Message::Bitfield(vec![0, 0x80].into())]);
    lab.run(ms(300));
    assert_eq!(lab.messages(plain), [Message::Have(PieceIndex(8))]);
    assert_eq!(lab.messages(third).len(), 1);
}

#[test]
fn haves_are_kept_from_those_who_have_and_dont_have_is_told() {
    let mut lab = Lab::new(8, BLOCK, Fill::None);
    let seed = lab.seed(Character::Scripted);
    let leecher = lab.leecher(Character::Scripted, &[1], true);
    let handshake = ExtendedHandshake { donthave: Some(9), reqq: Some(2_000), ..ExtendedHandshake::default() };
    lab.input(Input::Extended(leecher, &handshake));
    let before = (lab.messages(seed).len(), lab.messages(leecher).len());
    lab.input(Input::PieceVerified(PieceIndex(1)));
    lab.input(Input::PieceVerified(PieceIndex(2)));
    lab.run(ms(300));
    lab.input(Input::Evicted(PieceIndex(2)));
    lab.run(ms(300));
    assert_eq!(lab.messages(seed).len(), before.0);
    let gone = Message::Extended { id: 9, payload: vec![0, 0, 0, 2].into() };
    assert_eq!(lab.messages(leecher)[before.1..], [Message::Have(PieceIndex(2)), gone]);
}

#[test]
fn interest_follows_handles_and_lasts_a_minute() {
    let mut lab = Lab::new(8, BLOCK, Fill::None);
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveAll);
    assert_eq!(lab.messages(peer), [Message::HaveNone]);
    lab.open();
    assert_eq!(lab.messages(peer)[1..], [Message::Interested]);
    lab.input(Input::Close(H));
    lab.run(ms(59_900));
    assert_eq!(lab.messages(peer).len(), 2);
    lab.run(ms(200));
    assert_eq!(lab.messages(peer)[2..], [Message::NotInterested, Message::KeepAlive]);
    let mut warm = Lab::new(8, BLOCK, Fill::Open);
    let peer = warm.leecher(Character::Scripted, &[3], true);
    assert!(warm.messages(peer).contains(&Message::Interested));
    warm.input(Input::PieceVerified(PieceIndex(3)));
    assert_eq!(warm.messages(peer).last(), Some(&Message::NotInterested));
}

#[test]
fn uploads_go_to_the_unchoked_within_the_room() {
    let mut lab = seeding(8);
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveNone);
    lab.says(peer, Message::Interested);
    let fast = lab.messages(peer).iter().filter(|m| matches!(m, Message::AllowedFast(_))).count();
    assert_eq!(fast, 5);
    lab.input(Input::Unchoked(&[peer]));
    lab.input(Input::Unchoked(&[peer]));
    assert_eq!(lab.messages(peer).iter().filter(|m| **m == Message::Unchoke).count(), 1);
    lab.room = 20_000;
    lab.actors.get_mut(&peer).unwrap().sent.clear();
    for block in 0..4 {
        lab.says(peer, Message::Request(request(1, block * B, B)));
    }
    lab.actors.get_mut(&peer).unwrap().sent.clear();
    lab.transmit(peer);
    assert!(lab.actors[&peer].sent.len() <= 1);
    for _ in 0..4 {
        lab.transmit(peer);
    }
    assert_eq!(lab.swarm.totals().uploaded, 4 * BLOCK);
    assert_eq!(lab.swarm.candidates(lab.now)[0].sent, 4 * BLOCK);
    lab.input(Input::Unserved(peer, request(1, 0, B)));
    assert_eq!(lab.messages(peer).last(), Some(&Message::Reject(request(1, 0, B))));
    assert_eq!(lab.swarm.totals().uploaded, 3 * BLOCK);
}

#[test]
fn a_choke_rejects_what_waited_and_a_cancel_is_answered() {
    let mut lab = seeding(600);
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveNone);
    lab.input(Input::Unchoked(&[peer]));
    lab.room = 0;
    for piece in 0..3 {
        lab.says(peer, Message::Request(request(piece, 0, B)));
    }
    lab.says(peer, Message::Cancel(request(1, 0, B)));
    lab.input(Input::Unchoked(&[]));
    lab.actors.get_mut(&peer).unwrap().sent.clear();
    lab.room = 1 << 20;
    lab.transmit(peer);
    let rejected = [1, 0, 2].map(|p| Message::Reject(request(p, 0, B)));
    assert_eq!(lab.messages(peer)[0], Message::Choke);
    assert_eq!(lab.messages(peer)[1..], rejected);
    lab.says(peer, Message::Request(request(0, 0, B)));
    assert_eq!(lab.messages(peer).last(), Some(&Message::Reject(request(0, 0, B))));
}

#[test]
fn a_choked_peer_gets_three_copies_of_its_allowed_pieces_however_often_it_asks() {
    let mut lab = seeding(8);
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveNone);
    lab.says(peer, Message::Interested);
    let allowed =
        lab.messages(peer).into_iter().find_map(|m| if let Message::AllowedFast(p) = m { Some(p) } else { None });
    let piece = allowed.expect("an allowed-fast piece").0;
    // A seed that is slow: what others give sooner is taken back.
    lab.room = 0;
    for n in 0..400 {
        lab.says(peer, Message::Request(request(piece, n % 4 * B, B)));
        lab.says(peer, Message::Cancel(request(piece, n % 4 * B, B)));
    }
    lab.room = 1 << 20;
    lab.run(secs(3));
    lab.actors.get_mut(&peer).unwrap().sent.clear();
    for n in 0..12 {
        lab.says(peer, Message::Request(request(piece, n % 4 * B, B)));
        assert_eq!(lab.actors[&peer].sent.last(), Some(&Outgoing::Piece(request(piece, n % 4 * B, B))), "block {n}");
    }
    lab.says(peer, Message::Request(request(piece, 0, B)));
    assert_eq!(lab.messages(peer).last(), Some(&Message::Reject(request(piece, 0, B))));
    assert_eq!(lab.closed(peer), None);
}

#[test]
fn an_evicted_piece_is_rejected_or_choked() {
    let mut lab = seeding(8);
    let (fast, plain) = (lab.connect(Character::Scripted, true), lab.connect(Character::Scripted, false));
    lab.input(Input::Unchoked(&[fast, plain]));
    lab.input(Input::Evicted(PieceIndex(2)));
    lab.says(fast, Message::Request(request(2, 0, B)));
    lab.says(plain, Message::Request(request(2, 0, B)));
    assert_eq!(lab.messages(fast).last(), Some(&Message::Reject(request(2, 0, B))));
    assert_eq!(lab.messages(plain).last(), Some(&Message::Choke));
    assert!(!lab.swarm.complete());
}

#[test]
fn a_flood_is_rejected_and_invalid_requests_end_it() {
    let mut lab = seeding(1_000);
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveNone);
    lab.input(Input::Unchoked(&[peer]));
    lab.room = 0;
    for n in 0..2_000 {
        lab.says(peer, Message::Request(request(n / 4, n % 4 * B, B)));
    }
    assert_eq!(lab.swarm.peers[&peer].queue.len(), 500);
    assert_eq!(lab.swarm.peers[&peer].control.len(), 1_500);
    for n in 0..=300 {
        assert_eq!(lab.closed(peer), None, "after {n}");
        lab.says(peer, Message::Request(request(0, if n % 2 == 0 { u32::MAX } else { 0 }, 1 << 31)));
    }
    assert!(lab.closed(peer).is_some());
    let plain = lab.connect(Character::Scripted, true);
    lab.says(plain, Message::Request(request(1_000, 0, B)));
    assert!(lab.closed(plain).is_some());
}

#[test]
fn protocol_errors_close() {
    type Act = fn(&mut Lab, PeerKey);
    let acts: [(&str, bool, Act); 7] = [
        ("have out of range", true, |lab, p| lab.says(p, Message::Have(PieceIndex(8)))),
        ("second bitfield", true, |lab, p| {
            lab.says(p, Message::HaveNone);
            lab.says(p, Message::HaveAll);
        }),
        ("bitfield after have", true, |lab, p| {
            lab.says(p, Message::Have(PieceIndex(1)));
            lab.says(p, Message::Bitfield(vec![0xff].into()));
        }),
        ("fast without it", false, |lab, p| lab.says(p, Message::HaveAll)),
        ("unsolicited blocks", true, |lab, p| {
            for n in 0..5 {
                assert_eq!(lab.closed(p), None);
                assert_eq!(lab.deliver(p, request(n, 0, B)), Receipt::Drop);
            }
        }),
        ("keep-alive flood", true, |lab, p| {
            for _ in 0..101 {
                assert_eq!(lab.closed(p), None);
                lab.says(p, Message::KeepAlive);
            }
        }),
        ("allowed-fast out of range", true, |lab, p| lab.says(p, Message::AllowedFast(PieceIndex(8)))),
    ];
    for (name, fast, act) in acts {
        let mut lab = Lab::new(8, BLOCK, Fill::None);
        let peer = lab.connect(Character::Scripted, fast);
        act(&mut lab, peer);
        assert!(matches!(lab.closed(peer), Some(CloseReason::Protocol(_))), "{name}");
        assert!(lab.swarm.candidates(lab.now).is_empty());
    }
}

#[test]
fn silence_ends_a_connection_and_ours_is_broken_in_time() {
    let mut lab = Lab::new(8, BLOCK, Fill::None);
    let peer = lab.connect(Character::Scripted, true);
    let (start, keep_alives) =
        (lab.now, |lab: &Lab, p| lab.messages(p).iter().filter(|m| **m == Message::KeepAlive).count());
    lab.run(secs(59));
    assert_eq!(keep_alives(&lab, peer), 0);
    lab.run(secs(2));
    assert_eq!(keep_alives(&lab, peer), 1);
    let end = start + secs(200);
    assert!(lab.run_until(end, |lab| lab.closed(peer) == Some(CloseReason::Idle)));
    assert_eq!(lab.now, start + secs(120));
}

#[test]
fn two_seeds_part() {
    let mut lab = seeding(8);
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveAll);
    assert_eq!(lab.closed(peer), Some(CloseReason::BothSeeds));
    let grows = lab.connect(Character::Scripted, false);
    for piece in 0..8 {
        assert_eq!(lab.closed(grows), None);
        lab.says(grows, Message::Have(PieceIndex(piece)));
    }
    assert_eq!(lab.closed(grows), Some(CloseReason::BothSeeds));
    assert_eq!(lab.count(|e| *e == Effect::Completed), 0);
}

#[test]
fn choke_flapping_costs_little() {
    let mut lab = Lab::new(100, 16 * BLOCK, Fill::All);
    let peer = lab.seed(Character::Scripted);
    for _ in 0..100 {
        lab.says(peer, Message::Choke);
        lab.says(peer, Message::Unchoke);
        lab.run(ms(50));
    }
    assert!(lab.messages(peer).len() < 1_500, "{}", lab.messages(peer).len());
    assert_eq!(lab.closed(peer), None);
}

#[test]
fn big_bitfields_are_counted_in_steps() {
    let mut lab = Lab::new(20_000, BLOCK, Fill::None);
    let seed_bits = vec![0xff; 2_500];
    let peer = lab.connect(Character::Scripted, true);
    let mut bits = seed_bits.clone();
    bits[0] = 0x7f;
    lab.swarm.handle(lab.now, Input::Message(peer, &Message::Bitfield(bits.into())));
    let picker = |lab: &Lab, p| lab.swarm.picker.seeds() + u32::from(lab.swarm.picker.availability(PieceIndex(p)));
    let counted = |lab: &Lab| (0..20_000).filter(|&p| picker(lab, p) > 0).count();
    assert_eq!(counted(&lab), 4_095);
    assert_eq!(lab.swarm.next_timeout(), Some(lab.now));
    lab.says(peer, Message::Have(PieceIndex(0)));
    lab.run(ms(1));
    assert_eq!((counted(&lab), lab.swarm.totals().seeds), (20_000, 1));
    lab.input(Input::DontHave(peer, PieceIndex(5)));
    lab.run(ms(1));
    assert_eq!((counted(&lab), lab.swarm.totals().seeds), (19_999, 0));
    lab.input(Input::Disconnected(peer));
    lab.run(ms(1));
    assert_eq!(counted(&lab), 0);
    assert!(lab.swarm.next_timeout().is_none_or(|at| at > lab.now));
}
