//! Reads: answered, failed, striped, re-requested.

use super::*;

#[test]
fn a_read_is_answered_when_its_pieces_are_there_and_at_once_when_they_are() {
    let mut lab = Lab::new(8, 4 * BLOCK, Fill::None);
    lab.seed(serves(10_000_000));
    lab.open();
    assert!(lab.timed(100..5 * BLOCK) < ms(200));
    assert_eq!(lab.fetched.iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(lab.timed(0..10), ms(0));
    assert_eq!((lab.swarm.totals().held, lab.swarm.totals().waiting), (8 * BLOCK, 0));
}

#[test]
fn random_reads_fetch_no_more_than_the_pieces_they_touch() {
    let mut lab = Lab::new(400, 4 * BLOCK, Fill::Open);
    lab.seed(serves(10_000_000));
    lab.open();
    for piece in [300, 17, 160, 399, 18, 90] {
        let at = piece * 4 * BLOCK + 1_000;
        lab.timed(at..at + 4_096);
    }
    lab.run(secs(2));
    assert_eq!(lab.fetched.iter().map(|p| p.0).collect::<Vec<_>>(), [17, 18, 90, 160, 300, 399]);
}

#[test]
fn without_a_source_a_read_fails_at_its_deadline_and_later_ones_sooner() {
    let mut lab = Lab::new(8, 4 * BLOCK, Fill::None);
    lab.open();
    let began = lab.now;
    let id = lab.read(0..10);
    assert_eq!(lab.wait(id), Err(ReadError::Deadline(PieceIndex(0), Sources::default())));
    assert_eq!(lab.now - began, secs(60));
    let again = lab.read(5..20);
    assert_eq!(lab.answered[&again], Err(ReadError::NoSource), "the kernel's second try fails at once");
    lab.run(secs(3));
    let (began, later) = (lab.now, lab.read(0..10));
    assert_eq!(lab.wait(later), Err(ReadError::NoSource));
    assert_eq!(lab.now - began, secs(2));
    lab.run(secs(3));
    let hopeful = lab.read(0..10);
    lab.run(secs(1));
    lab.seed(serves(1_000_000));
    assert_eq!(lab.wait(hopeful), Ok(()), "a source turned up");
}

#[test]
fn a_read_that_fails_says_who_could_have_sent_what_it_lacked() {
    let mut lab = Lab::new(8, 4 * BLOCK, Fill::None);
    lab.open();
    let (asked, choking) = (lab.seed(Character::Scripted), lab.seed(Character::Scripted));
    lab.says(choking, Message::Choke);
    let id = lab.read_through(H, BLOCK..BLOCK + 10, secs(2));
    assert_eq!(lab.pending(asked).len(), 4);
    let sources = Sources { have: 2, choking: 1, asked: 1, ..Sources::default() };
    assert_eq!(lab.wait(id), Err(ReadError::Deadline(PieceIndex(0), sources)));
    assert_eq!(
        lab.answered[&id].unwrap_err().to_string(),
        "nobody delivered piece 0 in time: of 2 connected peers that have it, 1 choke us and 1 are asked for it"
    );
    let id = lab.read_through(H, 4 * BLOCK..8 * BLOCK, secs(2));
    lab.says(choking, Message::AllowedFast(PieceIndex(1)));
    let Err(ReadError::Deadline(piece, sources)) = lab.wait(id) else { panic!("it came") };
    assert_eq!((piece, sources.choking), (PieceIndex(1), 0));
    assert_eq!(Sources::default().to_string(), "no connected peer has it");
}

#[test]
fn a_source_that_appears_gives_a_hopeless_read_its_whole_time() {
    let mut lab = Lab::new(8, 4 * BLOCK, Fill::None);
    lab.open();
    let first = lab.read(0..10);
    assert_eq!(lab.wait(first), Err(ReadError::Deadline(PieceIndex(0), Sources::default())));
    lab.run(secs(3));
    let (began, id) = (lab.now, lab.read(0..10));
    lab.run(secs(1));
    lab.seed(Character::Scripted);
    let silent = Sources { have: 1, asked: 1, ..Sources::default() };
    assert_eq!(lab.wait(id), Err(ReadError::Deadline(PieceIndex(0), silent)));
    assert_eq!(lab.now - began, secs(60));
}

#[test]
fn withdrawn_demand_is_cancelled_and_shutdown_answers_everything() {
    let mut lab = Lab::new(8, 4 * BLOCK, Fill::None);
    let peer = lab.seed(Character::Scripted);
    lab.open();
    let id = lab.read(0..10);
    assert_eq!(lab.pending(peer).len(), 4);
    lab.open_reads.remove(&id);
    lab.input(Input::Withdraw(id));
    assert!(lab.pending(peer).is_empty() && lab.granted == 0);
    let other = lab.read(0..10);
    lab.input(Input::Shutdown);
    assert_eq!(lab.answered[&other], Err(ReadError::Shutdown));
    let later = lab.read(0..10);
    assert_eq!(lab.answered[&later], Err(ReadError::Shutdown));
    assert_eq!(lab.swarm.totals().waiting, 0);
}

#[test]
fn twenty_silent_seeds_beside_a_good_one_do_not_stall_a_read() {
    let mut lab = Lab::new(64, 16 * BLOCK, Fill::None);
    for _ in 0..20 {
        lab.seed(Character::Scripted);
    }
    lab.seed(serves(2_000_000));
    lab.open();
    let first = lab.timed(0..100);
    assert!(first < secs(3), "{first:?}");
    let second = lab.timed(40 * 16 * BLOCK..40 * 16 * BLOCK + 100);
    assert!(second < secs(3), "{second:?}");
    lab.run(secs(6));
    let third = lab.timed(20 * 16 * BLOCK..20 * 16 * BLOCK + 100);
    assert!(third < ms(1_000), "{third:?}");
}

#[test]
fn a_slow_peer_leaves_waited_for_blocks_to_the_fast_ones() {
    let mut lab = Lab::new(400, 16 * BLOCK, Fill::None);
    let slow = lab.seed(serves(20_000));
    let fast = lab.seed(serves(10_000_000));
    lab.open();
    for piece in 0..20 {
        let at = piece * 37 % 400 * 16 * BLOCK;
        lab.timed(at..at + 10);
    }
    let took = lab.timed(399 * 16 * BLOCK..399 * 16 * BLOCK + 10);
    assert!(took < ms(250), "{took:?}");
    let of = |p: PeerKey| lab.swarm.peers[&p].received;
    assert!(of(fast) > 20 * of(slow), "{} {}", of(fast), of(slow));
}

#[test]
fn a_late_block_is_asked_for_elsewhere_and_the_loser_gets_a_cancel() {
    let mut lab = Lab::new(4, BLOCK, Fill::None);
    let silent = lab.seed(Character::Scripted);
    lab.open();
    let id = lab.read(0..10);
    let request = lab.pending(silent)[0];
    let other = lab.seed(Character::Scripted);
    assert!(lab.pending(other).is_empty());
    lab.run(ms(999));
    assert!(lab.pending(other).is_empty());
    lab.run(ms(2));
    assert_eq!(lab.pending(other), [request]);
    assert!(matches!(lab.deliver(other, request), Receipt::Keep { .. }));
    assert_eq!(lab.answered[&id], Ok(()));
    assert!(lab.messages(silent).contains(&Message::Cancel(request)));
    assert_eq!(lab.deliver(silent, request), Receipt::Drop, "no offence, but of no use");
    assert_eq!(lab.swarm.totals().wasted, BLOCK);
    assert_eq!(lab.closed(silent), None);
}

#[test]
fn a_choke_voids_requests_and_a_block_that_still_comes_is_taken() {
    for fast in [true, false] {
        let mut lab = Lab::new(4, 2 * BLOCK, Fill::None);
        let peer = lab.connect(Character::Scripted, fast);
        lab.says(peer, Message::Bitfield(vec![0xf0].into()));
        lab.says(peer, Message::Unchoke);
        lab.open();
        let id = lab.read(0..10);
        let asked = lab.pending(peer);
        assert_eq!(asked.len(), 2);
        let other = lab.connect(Character::Scripted, true);
        lab.says(other, Message::HaveAll);
        lab.says(other, Message::Unchoke);
        lab.says(peer, Message::Choke);
        assert_eq!(lab.pending(other), asked, "at once elsewhere");
        assert!(matches!(lab.deliver(peer, asked[0]), Receipt::Keep { .. }));
        assert_eq!(lab.pending(other), asked[1..]);
        lab.deliver(other, asked[1]);
        assert_eq!(lab.answered[&id], Ok(()));
    }
}

#[test]
fn allowed_fast_pieces_are_asked_for_while_choked() {
    let mut lab = Lab::new(8, BLOCK, Fill::None);
    let peer = lab.connect(serves(1_000_000), true);
    lab.says(peer, Message::HaveAll);
    lab.open();
    let id = lab.read(3 * BLOCK..3 * BLOCK + 1);
    assert_eq!(lab.count(|e| *e == Effect::Starved), 1);
    lab.says(peer, Message::AllowedFast(PieceIndex(3)));
    assert_eq!(lab.wait(id), Ok(()));
}

#[test]
fn a_rejected_piece_is_asked_for_again_later_without_a_busy_loop() {
    let mut lab = Lab::new(8, BLOCK, Fill::None);
    let peer = lab.seed(Character::Scripted);
    lab.open();
    lab.read(0..1);
    let mut times = 0;
    let end = lab.now + secs(60);
    while lab.now < end {
        for request in lab.pending(peer) {
            times += 1;
            lab.says(peer, Message::Reject(request));
        }
        let step = lab.now + ms(50);
        lab.run_until(step, |_| false);
    }
    assert!((4..8).contains(&times), "{times} requests in a minute");
}

#[test]
fn the_reject_of_a_cancelled_request_does_not_refuse_the_next_one() {
    let mut lab = Lab::new(8, 2 * BLOCK, Fill::None);
    let peer = lab.seed(Character::Scripted);
    lab.open();
    for _ in 0..3 {
        let given_up = lab.read(0..1);
        let asked = lab.pending(peer);
        lab.open_reads.remove(&given_up);
        lab.input(Input::Withdraw(given_up));
        let id = lab.read(0..1);
        assert_eq!(lab.pending(peer), asked, "asked for again");
        // The answers to what was cancelled; `says` would take them for answers to what is asked now.
        asked.iter().for_each(|&request| lab.input(Input::Message(peer, &Message::Reject(request))));
        assert_eq!(lab.pending(peer), asked);
        assert!(asked.iter().all(|request| lab.requested(peer, *request)));
        for &request in &asked {
            lab.deliver(peer, request);
        }
        assert_eq!(lab.answered[&id], Ok(()));
        lab.input(Input::Lost(PieceIndex(0)));
    }
    lab.read(0..1);
    let asked = lab.pending(peer);
    lab.says(peer, Message::Reject(asked[0]));
    assert!(!lab.requested(peer, asked[0]), "this one is meant");
}

#[test]
fn a_slow_peer_may_send_thousands_of_blocks_that_were_cancelled() {
    let mut lab = Lab::new(64, 128 * BLOCK, Fill::None);
    let peer = lab.seed(Character::Scripted);
    lab.open();
    let mut owed = Vec::new();
    while owed.len() < 5_000 {
        let at = (owed.len() as u64 * 37 % 60) * 128 * BLOCK;
        let id = lab.read(at..at + 128 * BLOCK);
        owed.extend(lab.pending(peer));
        lab.open_reads.remove(&id);
        lab.input(Input::Withdraw(id));
    }
    for request in owed {
        lab.deliver(peer, request);
    }
    assert_eq!(lab.closed(peer), None);
    for _ in 0..5 {
        assert_eq!(lab.closed(peer), None);
        lab.deliver(peer, Request { piece: PieceIndex(63), begin: 0, length: BLOCK_LENGTH });
    }
    assert!(lab.closed(peer).is_some(), "that one was never asked for");
}

#[test]
fn starved_is_said_at_once_and_every_five_seconds() {
    let mut lab = Lab::new(8, BLOCK, Fill::None);
    lab.open();
    lab.read(0..1);
    let starved = |lab: &Lab| lab.count(|e| *e == Effect::Starved);
    assert_eq!(starved(&lab), 1);
    lab.run(ms(14_900));
    assert_eq!(starved(&lab), 3);
    let peer = lab.seed(Character::Scripted);
    lab.run(ms(900));
    assert_eq!(starved(&lab), 3);
    lab.says(peer, Message::Choke);
    lab.says(peer, Message::Unchoke);
    assert_eq!(starved(&lab), 4);
}

#[test]
fn evicted_and_lost_pieces_are_waited_for_again() {
    let mut lab = Lab::new(8, BLOCK, Fill::None);
    let peer = lab.seed(Character::Scripted);
    lab.open();
    let id = lab.read(0..2 * BLOCK);
    let asked = lab.pending(peer);
    lab.deliver(peer, asked[0]);
    lab.input(Input::Evicted(PieceIndex(0)));
    lab.deliver(peer, asked[1]);
    assert!(!lab.answered.contains_key(&id));
    let again = lab.pending(peer);
    assert_eq!(again, [asked[0]]);
    lab.deliver(peer, again[0]);
    assert_eq!(lab.answered[&id], Ok(()));
    lab.input(Input::Lost(PieceIndex(1)));
    assert!(!lab.swarm.has(PieceIndex(1)));
    assert_eq!(lab.swarm.totals().held, BLOCK);
}

#[test]
fn a_snubbed_peer_keeps_one_request_and_is_forgiven_by_a_block() {
    let mut lab = Lab::new(8, 4 * BLOCK, Fill::None);
    let peer = lab.seed(Character::Scripted);
    lab.open();
    lab.read(0..1);
    let asked = lab.pending(peer);
    assert_eq!(asked.len(), 4);
    lab.run(ms(5_001));
    assert_eq!(lab.pending(peer), asked[..1]);
    assert!(lab.swarm.candidates(lab.now)[0].snubbed);
    assert!(matches!(lab.deliver(peer, asked[1]), Receipt::Keep { .. }), "cancelled, but it comes");
    assert!(!lab.swarm.candidates(lab.now)[0].snubbed);
    assert_eq!(lab.pending(peer).len(), 2, "as many as keep so slow a peer busy");
}

#[test]
fn a_peer_that_had_nothing_while_it_choked_is_asked_once_it_unchokes() {
    let mut lab = Lab::new(8, BLOCK, Fill::All);
    let peer = lab.connect(Character::Scripted, true);
    lab.says(peer, Message::HaveAll);
    lab.says(peer, Message::AllowedFast(PieceIndex(3)));
    let asked = lab.pending(peer);
    assert_eq!(asked.len(), 1, "what a choked peer may have");
    lab.deliver(peer, asked[0]);
    assert_eq!(lab.pending(peer), []);
    lab.says(peer, Message::AllowedFast(PieceIndex(5)));
    assert_eq!(lab.pending(peer).len(), 1);
    lab.says(peer, Message::Unchoke);
    assert!(lab.pending(peer).len() >= 6, "nothing else happens that would make it look again");
}

#[test]
fn a_torrent_that_nobody_serves_takes_no_memory() {
    let mut lab = Lab::new(64, 4 * BLOCK, Fill::None);
    lab.open();
    let read = lab.read(0..40 * BLOCK);
    let choking = lab.connect(serves(3_000_000), true);
    lab.says(choking, Message::HaveAll);
    assert_eq!((lab.swarm.memory.granted, lab.wanted), (0, 0));
    lab.says(choking, Message::Unchoke);
    assert_eq!(lab.wait(read), Ok(()));
}

#[test]
fn a_peer_that_changes_its_mind_all_the_time_is_looked_at_now_and_then() {
    let mut lab = Lab::new(64, 4 * BLOCK, Fill::None);
    let peer = lab.seed(Character::Scripted);
    lab.open();
    lab.read(0..40 * BLOCK);
    let looked = lab.swarm.starved_looked;
    for _ in 0..100 {
        lab.says(peer, Message::Choke);
        lab.says(peer, Message::Unchoke);
    }
    assert_eq!(lab.swarm.starved_looked, looked);
    lab.says(peer, Message::Choke);
    let before = lab.count(|e| *e == Effect::Starved);
    let end = lab.now + secs(2);
    assert!(lab.run_until(end, |lab| lab.count(|e| *e == Effect::Starved) > before));
}

#[test]
fn a_read_beside_many_slow_peers_is_shared_out_to_the_soonest() {
    let mut lab = Lab::new(40, 4 * BLOCK, Fill::None);
    for n in 0..30 {
        lab.seed(serves(60_000 + 1_000 * n));
    }
    lab.open();
    // After a while everybody has been measured, and none would have a block within what the others need together.
    for n in 0..40u64 {
        let piece = n * 7 % 40;
        let took = lab.timed(piece * 4 * BLOCK..(piece + 1) * 4 * BLOCK);
        assert!(took < secs(1), "piece {piece}, the {n}th, took {took:?}");
    }
}

#[test]
fn one_seek_in_between_goes_before_what_streams_wait_for_and_seeks_without_end_do_not() {
    const PIECE: u64 = 16 * BLOCK;
    let mut lab = Lab::new(256, PIECE, Fill::None);
    lab.seed(serves(1_000_000));
    let file = 0..lab.swarm.geometry.total();
    let (streams, seeker) = (1..5u64, HandleId(9));
    for handle in streams.clone().map(HandleId).chain([seeker]) {
        lab.input(Input::Open(handle, file.clone()));
    }
    // Each stream waits for a piece with two reads, as the kernel does, and goes on when it is there.
    let mut next: BTreeMap<HandleId, (u64, ReadId)> = BTreeMap::new();
    let go_on = |lab: &mut Lab, next: &mut BTreeMap<HandleId, (u64, ReadId)>| {
        for n in streams.clone() {
            let at = match next.get(&HandleId(n)) {
                Some((at, id)) if lab.answered.contains_key(id) => at + PIECE,
                Some(_) => continue,
                None => (n - 1) * 50 * PIECE,
            };
            lab.read_through(HandleId(n), at..at + BLOCK, secs(60));
            let id = lab.read_through(HandleId(n), at + BLOCK..at + 2 * BLOCK, secs(60));
            next.insert(HandleId(n), (at, id));
        }
    };
    let mut streamed = |lab: &mut Lab, done: &dyn Fn(&Lab) -> bool| {
        let before = lab.fetched.len();
        while !done(lab) {
            go_on(lab, &mut next);
            lab.run(ms(10));
        }
        lab.fetched.len() - before
    };
    streamed(&mut lab, &|lab| lab.fetched.len() >= 10);
    for n in 0..8 {
        let at = (210 + 2 * n) * PIECE;
        let id = lab.read_through(seeker, at..at + BLOCK, secs(60));
        let others = streamed(&mut lab, &|lab| lab.answered.contains_key(&id)) - 1;
        assert!(others <= 1, "{others} pieces of streams came before seek {n}");
        let enough = lab.fetched.len() + 5;
        streamed(&mut lab, &|lab| lab.fetched.len() >= enough);
    }
    let (before, mut seeks) = (lab.fetched.len(), 0);
    while seeks < 10 {
        let at = (211 + 2 * seeks) * PIECE;
        let id = lab.read_through(seeker, at..at + BLOCK, secs(60));
        streamed(&mut lab, &|lab| lab.answered.contains_key(&id));
        seeks += 1;
    }
    let all = lab.fetched.len() - before;
    assert!(all >= 40, "the seeker got 10 pieces of {all}: more than a fifth");
}
