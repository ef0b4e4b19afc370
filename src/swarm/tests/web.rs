//! Web seeds: runs of neighbouring blocks, reads first, peers before them in the background.

use super::*;

const MIB: u64 = 1 << 20;

fn runs(lab: &Lab, seed: PeerKey) -> Vec<Range<u64>> {
    let geometry = lab.swarm.geometry;
    let at = |r: &Request| geometry.piece_offset(r.piece) + u64::from(r.begin);
    let span = |run: &Vec<Request>| at(&run[0])..at(run.last().unwrap()) + u64::from(run.last().unwrap().length);
    lab.actors[&seed].runs.iter().map(span).collect()
}

fn asked(lab: &Lab, seed: PeerKey, piece: u32) -> bool {
    lab.pending(seed).iter().any(|r| r.piece == PieceIndex(piece))
}

/// A whole piece comes, to be judged by the test.
fn comes(lab: &mut Lab, seed: PeerKey, piece: u32) {
    let actor = lab.actors.get_mut(&seed).unwrap();
    let (whole, rest) = actor.pending.iter().partition(|r| r.piece == PieceIndex(piece));
    actor.pending = rest;
    actor.runs.iter_mut().for_each(|run| run.retain(|r| r.piece != PieceIndex(piece)));
    actor.runs.retain(|run| !run.is_empty());
    let whole: Vec<Request> = whole;
    assert_eq!(whole.len(), 4);
    for request in whole {
        lab.swarm.receive(lab.now, seed, request);
    }
}

#[test]
fn a_read_is_served_from_a_web_seed_alone() {
    let mut lab = Lab::new(64, 4 * BLOCK, Fill::None);
    let seed = lab.web_seed(serves(10 * MIB));
    lab.open();
    let took = lab.timed(10 * BLOCK..11 * BLOCK);
    assert!(took < ms(50), "{took:?}");
    assert_eq!(lab.fetched, BTreeSet::from([PieceIndex(2)]), "nothing but what was read");
    let totals = lab.swarm.totals();
    assert_eq!((totals.peers, totals.seeds, totals.web_seeds), (0, 0, 1));
    assert!(lab.swarm.candidates(lab.now).is_empty(), "it is no candidate for a slot");
    assert_eq!(lab.count(|e| *e == Effect::Starved), 0);
    assert_eq!(lab.messages(seed), []);
}

#[test]
fn a_whole_torrent_comes_in_long_runs() {
    let mut lab = Lab::new(512, 4 * BLOCK, Fill::All);
    let seed = lab.web_seed(serves(50 * MIB));
    let end = lab.now + secs(60);
    assert!(lab.run_until(end, |lab| lab.pending(seed).len() >= 2 * 100), "runs grow");
    let longest = runs(&lab, seed).iter().map(|run| run.end - run.start).max();
    assert!(longest.is_some_and(|longest| longest >= MIB), "{longest:?}");
    assert!(runs(&lab, seed).len() < WEB, "one connection is free for reads");
    assert!(lab.run_until(end, |lab| lab.swarm.complete()));
    assert_eq!(lab.swarm.totals().wasted, 0);
    assert!(lab.swarm.peers.contains_key(&seed), "it does not part as a seed from a seed");
    lab.run(secs(600));
    assert_eq!(lab.closed(seed), None, "nor when it is idle");
    assert_eq!(lab.messages(seed), []);
}

#[test]
fn a_read_does_not_wait_behind_the_background() {
    let mut lab = Lab::new(4_096, 4 * BLOCK, Fill::All);
    let seed = lab.web_seed(Character::Scripted);
    assert_eq!(runs(&lab, seed).len(), WEB - 1, "{:?}", runs(&lab, seed));
    lab.open();
    let id = lab.read(2_000 * BLOCK..2_001 * BLOCK);
    assert!(asked(&lab, seed, 500), "over the connection that was left");
    assert!(lab.pending(seed).len() < 16, "what would hold it up is taken back: {:?}", runs(&lab, seed));
    lab.read(3_000 * BLOCK..3_001 * BLOCK);
    assert!(asked(&lab, seed, 750));
    assert_eq!(runs(&lab, seed).len(), WEB);
    // A third one waits for the first connection that is free, and goes before everything else.
    lab.read(3_500 * BLOCK..3_501 * BLOCK);
    assert!(!asked(&lab, seed, 875));
    let first = lab.actors[&seed].runs[0].clone();
    for request in first {
        lab.deliver(seed, request);
    }
    assert!(asked(&lab, seed, 875));
    for request in lab.pending(seed).into_iter().filter(|r| r.piece == PieceIndex(500)) {
        lab.deliver(seed, request);
    }
    assert_eq!(lab.answered.get(&id), Some(&Ok(())));
}

#[test]
fn a_reader_that_moves_on_stops_its_runs() {
    let mut lab = Lab::new(4_096, 4 * BLOCK, Fill::None);
    let seed = lab.web_seed(Character::Scripted);
    lab.open();
    let id = lab.read(0..BLOCK);
    assert!(asked(&lab, seed, 0));
    lab.input(Input::Withdraw(id));
    lab.input(Input::Flush(H));
    assert_eq!(lab.pending(seed), [], "nothing of it is fetched on");
    lab.read(4_000 * BLOCK..4_001 * BLOCK);
    assert!(asked(&lab, seed, 1_000));
}

#[test]
fn peers_that_give_enough_are_left_the_background() {
    let mut lab = Lab::new(2_048, 4 * BLOCK, Fill::All);
    let peer = lab.seed(serves(8 * MIB));
    lab.run(secs(2));
    let seed = lab.web_seed(serves(2 * MIB));
    lab.run(secs(1));
    assert_eq!(lab.swarm.peers[&seed].received, 0, "they are faster than what a server may give");
    lab.open();
    let have = |lab: &Lab, piece: u32| lab.swarm.has(PieceIndex(piece));
    let far = (0..2_048).rev().find(|&piece| !have(&lab, piece)).unwrap();
    lab.timed(u64::from(far) * 4 * BLOCK..u64::from(far) * 4 * BLOCK + 1);
    lab.input(Input::Disconnected(peer));
    lab.input(Input::Close(H));
    let end = lab.now + secs(120);
    assert!(lab.run_until(end, |lab| lab.swarm.complete()), "all comes from it where there is nobody else");
}

#[test]
fn a_slow_peer_does_not_keep_a_web_seed_from_the_background() {
    let mut lab = Lab::new(512, 4 * BLOCK, Fill::All);
    lab.seed(serves(200 << 10));
    lab.web_seed(serves(10 * MIB));
    let began = lab.now;
    assert!(lab.run_until(began + secs(60), |lab| lab.swarm.complete()));
    assert!(lab.now - began < secs(6), "{:?}", lab.now - began);
}

#[test]
fn wrong_bytes_cost_the_file_and_not_the_web_seed() {
    let files: Vec<Range<u64>> = vec![0..8 * BLOCK, 8 * BLOCK..12 * BLOCK, 12 * BLOCK..16 * BLOCK];
    let mut lab = Lab::with_files(4 * BLOCK, Fill::None, files);
    let seed = lab.web_seed(Character::Scripted);
    lab.open();
    lab.read(0..BLOCK);
    comes(&mut lab, seed, 0);
    lab.input(Input::PieceFailed(PieceIndex(0), &[BlockDigest([1; 20]); 4]));
    let bad =
        lab.effects.iter().find_map(|e| if let Effect::BadWebSeed(_, p, b) = e { Some((*p, b.clone())) } else { None });
    assert_eq!(bad, Some((PieceIndex(0), 0..8 * BLOCK)));
    assert_eq!(lab.banned(), [], "nobody's address is refused");
    lab.read(5 * BLOCK..6 * BLOCK);
    assert!(!asked(&lab, seed, 0) && !asked(&lab, seed, 1), "no piece of the file is asked for");
    lab.read(8 * BLOCK..9 * BLOCK);
    assert!(asked(&lab, seed, 2), "other files are");
    assert_eq!(lab.swarm.sources(PieceIndex(0)), Sources::default());
}

#[test]
fn wrong_bytes_of_several_files_cost_their_piece() {
    let files: Vec<Range<u64>> = vec![0..5 * BLOCK, 5 * BLOCK..16 * BLOCK];
    let mut lab = Lab::with_files(4 * BLOCK, Fill::None, files);
    let seed = lab.web_seed(Character::Scripted);
    lab.open();
    lab.read(4 * BLOCK..5 * BLOCK);
    comes(&mut lab, seed, 1);
    lab.input(Input::PieceFailed(PieceIndex(1), &[BlockDigest([1; 20]); 4]));
    assert_eq!(lab.count(|e| matches!(e, Effect::BadWebSeed(_, _, b) if *b == (4 * BLOCK..8 * BLOCK))), 1);
    lab.read(0..BLOCK);
    assert!(asked(&lab, seed, 0));
}

#[test]
fn a_web_seed_that_rests_is_no_source_until_it_is_back() {
    let mut lab = Lab::new(64, 4 * BLOCK, Fill::None);
    let seed = lab.web_seed(Character::Scripted);
    lab.open();
    let id = lab.read(0..BLOCK);
    let before = lab.pending(seed);
    assert!(!before.is_empty());
    lab.actors.get_mut(&seed).unwrap().runs.clear();
    lab.actors.get_mut(&seed).unwrap().pending.clear();
    lab.input(Input::Web(seed, WebNews::Rests(true)));
    lab.run(secs(1));
    assert_eq!(lab.pending(seed), []);
    assert!(lab.count(|e| *e == Effect::Starved) > 0, "others are looked for");
    assert_eq!(lab.swarm.totals().web_seeds, 0);
    let reason = lab.swarm.sources(PieceIndex(0)).to_string();
    assert_eq!(reason, "no connected peer has it; of 1 web seeds, 1 rest after a failure");
    lab.input(Input::Web(seed, WebNews::Rests(false)));
    assert_eq!(lab.pending(seed).first(), before.first());
    for request in lab.pending(seed) {
        lab.deliver(seed, request);
    }
    assert_eq!(lab.answered.get(&id), Some(&Ok(())));
}

#[test]
fn what_is_returned_is_asked_for_again() {
    let mut lab = Lab::new(64, 4 * BLOCK, Fill::None);
    let (seed, other) = (lab.web_seed(Character::Scripted), lab.seed(Character::Scripted));
    lab.open();
    lab.read(0..BLOCK);
    let mine = lab.pending(seed);
    let theirs = lab.pending(other);
    assert!(!mine.is_empty() || !theirs.is_empty());
    lab.actors.get_mut(&seed).unwrap().runs.clear();
    lab.actors.get_mut(&seed).unwrap().pending.clear();
    lab.input(Input::Web(seed, WebNews::Returned(&mine)));
    let all: BTreeSet<Request> = lab.pending(seed).into_iter().chain(lab.pending(other)).collect();
    assert!((0..4).all(|n| all.contains(&lab.swarm.geometry.request(Block { piece: PieceIndex(0), index: n }))));
}

#[test]
fn a_dead_web_seed_does_not_hold_a_read_that_a_peer_can_serve() {
    let mut lab = Lab::new(64, 4 * BLOCK, Fill::None);
    lab.web_seed(Character::Scripted);
    lab.open();
    lab.seed(serves(10 * MIB));
    let took = lab.timed(0..4 * BLOCK);
    assert!(took < ms(2_000), "{took:?}");
}
