use super::*;

const T: TorrentKey = TorrentKey(1);

/// Peers with what they have sent and got, and a clock.
struct Lab {
    base: Instant,
    now: Instant,
    choker: Choker,
    peers: Vec<Candidate>,
    seeding: bool,
}

impl Lab {
    fn new(slots: usize, peers: u64, seed: u64) -> Self {
        let base = Instant::now();
        let peers = (0..peers).map(|n| candidate(n, base)).collect();
        Self { base, now: base, choker: Choker::new(slots, None, seed, base), peers, seeding: false }
    }

    /// The next round, at its time.
    fn round(&mut self) -> Vec<u64> {
        self.now = self.choker.next_round();
        let unchoked = self.choker.round(self.now, &[(T, self.seeding, self.peers.clone())]);
        assert_eq!(unchoked.len(), 1);
        let unchoked: Vec<u64> = unchoked[0].1.iter().map(|p| p.0).collect();
        for peer in &mut self.peers {
            peer.unchoked = unchoked.contains(&peer.peer.0);
        }
        unchoked
    }

    /// The one that is unchoked of those from `first` on, where the others earn their slots.
    fn optimistic(&self, first: u64) -> Option<u64> {
        let mut others = self.peers.iter().filter(|p| p.unchoked && p.peer.0 >= first);
        let one = others.next().map(|p| p.peer.0);
        assert!(others.next().is_none(), "more than one optimistic unchoke");
        one
    }

    /// Every unchoked peer is sent so much.
    fn send(&mut self, bytes: u64) {
        self.peers.iter_mut().filter(|p| p.unchoked).for_each(|p| p.sent += bytes);
    }

    fn at(&self) -> u64 {
        (self.now - self.base).as_secs()
    }
}

fn candidate(n: u64, connected: Instant) -> Candidate {
    Candidate {
        peer: PeerKey(n),
        interested: true,
        wanted: true,
        unchoked: false,
        received: 0,
        sent: 0,
        connected,
        snubbed: false,
        seed: false,
    }
}

#[test]
fn the_best_uploaders_have_the_regular_slots() {
    for seed in 0..20 {
        let mut lab = Lab::new(4, 10, seed);
        for round in 0..6 {
            for (n, peer) in lab.peers.iter_mut().enumerate() {
                peer.received += n as u64 * 10_000;
            }
            let unchoked = lab.round();
            assert_eq!(unchoked.len(), 5, "seed {seed}, round {round}");
            assert!((6..10).all(|n| unchoked.contains(&n)), "seed {seed}, round {round}: {unchoked:?}");
        }
    }
}

#[test]
fn a_peer_that_stops_giving_loses_its_slot_within_the_window() {
    let mut lab = Lab::new(1, 6, 1);
    for _ in 0..5 {
        lab.peers[0].received += 100_000;
        lab.peers[1].received += 60_000;
        assert!(lab.round().contains(&0));
    }
    let mut rounds = 0;
    while lab.peers[0].unchoked {
        lab.peers[1].received += 60_000;
        lab.send(1 << 20);
        lab.round();
        rounds += 1;
        assert!(rounds < 4, "what it gave long ago still counts");
    }
    assert!(lab.peers[1].unchoked);
    assert!(rounds > 1, "one stall within the window costs no slot");
}

#[test]
fn who_holds_a_slot_keeps_it_unless_another_gives_a_quarter_more() {
    for (challenger, keeps) in [(100_000, true), (120_000, true), (130_000, false)] {
        let mut lab = Lab::new(1, 12, 2);
        // The optimistic unchoke is among ten others.
        for round in 0..8 {
            lab.peers[0].received += 100_000;
            lab.peers[1].received += if round < 3 { 0 } else { challenger };
            lab.round();
            assert!(round > 2 || lab.peers[0].unchoked);
        }
        assert_eq!(lab.peers[0].unchoked, keeps, "against {challenger}");
        assert!(keeps || lab.peers[1].unchoked);
    }
}

#[test]
fn peers_alike_do_not_take_each_others_place() {
    let mut lab = Lab::new(4, 20, 3);
    let mut random = StdRng::seed_from_u64(3);
    lab.peers.iter_mut().for_each(|p| p.received += 1_000_000);
    lab.round();
    let mut chokes = 0;
    for _ in 0..60 {
        // All give the same, but for a tenth.
        lab.peers.iter_mut().for_each(|p| p.received += random.random_range(950_000..1_050_000));
        let before = lab.peers.clone();
        lab.round();
        chokes += lab.peers.iter().zip(&before).filter(|(now, then)| then.unchoked && !now.unchoked).count();
    }
    assert!(chokes <= 20, "{chokes} chokes in ten minutes: the optimistic unchoke's turns are 20");
}

#[test]
fn a_peer_that_has_just_begun_to_give_is_measured_from_then_on() {
    let mut lab = Lab::new(1, 2, 4);
    for _ in 0..4 {
        lab.peers[0].received += 1_000_000;
        lab.round();
    }
    // In one round of two it gave as much as the other in both.
    lab.peers[0].received += 1_000_000;
    lab.peers[1].received += 1_900_000;
    lab.round();
    assert_eq!(lab.choker.peers[&PeerKey(1)].rate(lab.now), 190_000);
    assert_eq!(lab.choker.peers[&PeerKey(0)].rate(lab.now), 100_000);
}

#[test]
fn few_candidates_are_all_unchoked_and_the_useless_never() {
    let mut lab = Lab::new(4, 7, 3);
    lab.peers[0].interested = false;
    lab.peers[1].seed = true;
    lab.peers[0].received = 1 << 30;
    assert_eq!(lab.round(), [2, 3, 4, 5, 6]);
    lab.peers[2].interested = false;
    lab.peers[3].seed = true;
    assert_eq!(lab.round(), [4, 5, 6]);
}

#[test]
fn the_optimistic_unchoke_changes_every_30_seconds() {
    let mut lab = Lab::new(1, 6, 4);
    let mut changes = Vec::new();
    let mut last = None;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        lab.peers[0].received += 1_000;
        lab.round();
        let optimistic = lab.optimistic(1);
        assert!(optimistic.is_some() && lab.peers[0].unchoked, "the regular one is not the optimistic one");
        seen.extend(optimistic);
        if optimistic != last {
            changes.push(lab.at());
            last = optimistic;
        }
    }
    assert!(changes.windows(2).all(|w| w[1] - w[0] == 30), "{changes:?}");
    assert_eq!(seen.len(), 5, "every other peer has its turn");
}

#[test]
fn an_optimistic_peer_that_gives_most_stays_and_another_is_tried() {
    let mut lab = Lab::new(1, 3, 5);
    lab.peers[0].received += 1_000;
    lab.round();
    let tried = lab.optimistic(1).unwrap();
    lab.peers[usize::try_from(tried).unwrap()].received += 1 << 20;
    // Who gave less keeps its slot until the other's turn would be over: nobody is choked who was just unchoked.
    for _ in 0..3 {
        lab.peers[usize::try_from(tried).unwrap()].received += 1 << 20;
        lab.round();
    }
    assert!(lab.peers[usize::try_from(tried).unwrap()].unchoked);
    assert!(lab.peers[usize::try_from(3 - tried).unwrap()].unchoked, "and the third is tried");
}

#[test]
fn the_wait_of_a_newcomer_counts_threefold() {
    let mut lab = Lab::new(1, 11, 6);
    let mut turns = Vec::new();
    for round in 0..240 {
        if round == 120 {
            lab.peers.push(candidate(11, lab.now));
        }
        lab.peers[0].received += 1_000;
        lab.round();
        turns.push(lab.optimistic(1).unwrap());
    }
    // Ten go round in 300 s; who comes then has waited a third of that when its turn comes, and is one of eleven after.
    let first = turns.iter().position(|&t| t == 11).unwrap();
    assert!((127..=133).contains(&first), "{first}");
    for peer in 1..11 {
        let last = turns[..120].iter().rposition(|&t| t == peer).unwrap();
        assert!(last >= 89, "{peer} waited too long: {last}");
    }
    assert!(turns[first + 3..].contains(&11), "and again");
}

#[test]
fn a_snubbed_peer_has_no_regular_slot() {
    let mut lab = Lab::new(2, 8, 7);
    for round in 0..12 {
        for peer in &mut lab.peers[..2] {
            peer.received += 1 << 20;
        }
        lab.peers[0].snubbed = round >= 4;
        lab.round();
        assert!(lab.peers[1].unchoked);
        assert!(round >= 4 || lab.peers[0].unchoked, "round {round}");
    }
    let regular = lab.peers.iter().filter(|p| p.unchoked && p.peer.0 > 1).count();
    assert_eq!(regular, 2, "its slot looks for better peers");
}

#[test]
fn while_all_snub_us_every_slot_is_optimistic() {
    let mut lab = Lab::new(4, 30, 8);
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..18 {
        lab.peers.iter_mut().for_each(|p| p.snubbed = true);
        tried.extend(lab.round());
        lab.send(4 << 20);
    }
    assert_eq!(tried.len(), 30, "five at a time, all in 180 s");
}

#[test]
fn who_gives_nothing_back_is_tried_rarely() {
    let mut lab = Lab::new(4, 8, 9);
    let mut served = vec![0; 8];
    let minutes = 20;
    for _ in 0..6 * minutes {
        // Five trade; 6 and 7 take and never give; 5 gives a little, when it is unchoked.
        for peer in &mut lab.peers[..5] {
            peer.received += 4 << 20;
        }
        if lab.peers[5].unchoked {
            lab.peers[5].received += 1 << 14;
        }
        for peer in lab.round() {
            served[usize::try_from(peer).unwrap()] += 1;
        }
        lab.send(4 << 20);
    }
    let rider = served[6].max(served[7]);
    assert!(rider * 20 <= 6 * minutes, "{served:?}: over a twentieth of the time for one that gives nothing");
    assert!(served[6] > 0 && served[7] > 0, "{served:?}: they are tried");
    assert!(served[5] > 5 * rider, "{served:?}");
}

#[test]
fn who_gave_nothing_is_forgiven_when_it_gives() {
    let mut lab = Lab::new(1, 2, 10);
    for _ in 0..10 {
        lab.peers[0].received += 1 << 20;
        lab.round();
        lab.send(2 << 20);
    }
    assert!(!lab.peers[1].unchoked, "it had its trial");
    for _ in 0..3 {
        lab.peers[0].received += 1 << 20;
        lab.peers[1].received += 2 << 20;
        lab.round();
    }
    assert!(lab.peers[1].unchoked);
}

#[test]
fn a_mount_that_wants_nothing_serves_as_a_seed_does() {
    let mut lab = Lab::new(4, 8, 11);
    lab.peers.iter_mut().for_each(|p| p.wanted = false);
    let mut served = vec![0; 8];
    for _ in 0..240 {
        for peer in lab.round() {
            served[usize::try_from(peer).unwrap()] += 1;
        }
        lab.send(2 << 20);
    }
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(most - least <= 6, "{served:?}");
}

#[test]
fn seeding_goes_round_and_everyone_gets_the_same() {
    let mut lab = Lab::new(4, 20, 7);
    lab.seeding = true;
    for peer in &mut lab.peers {
        peer.received = peer.peer.0 << 20; // What they once gave does not count any more.
    }
    let rounds = 20 * 60;
    for _ in 0..rounds {
        lab.round();
        for peer in lab.peers.iter_mut().filter(|p| p.unchoked) {
            peer.sent += 4 << 20;
        }
    }
    let (least, most) = (lab.peers.iter().map(|p| p.sent).min(), lab.peers.iter().map(|p| p.sent).max());
    let (least, most) = (least.unwrap() as f64, most.unwrap() as f64);
    assert!(most / least < 1.06, "{least} to {most}");
}

#[test]
fn seeding_keeps_a_slot_for_its_quota_and_no_longer() {
    for (rate, held) in [(1 << 20, 30), (100, 180)] {
        let mut lab = Lab::new(1, 5, 8);
        lab.seeding = true;
        let first = lab.round();
        let since = lab.at();
        loop {
            lab.send(rate * 10);
            if lab.round() != first {
                break;
            }
            assert!(lab.at() - since < 300, "it never yields");
        }
        assert_eq!(lab.at() - since, held, "at {rate} B/s");
    }
}

#[test]
fn a_sated_peer_keeps_a_slot_that_nobody_waits_for() {
    let mut lab = Lab::new(4, 5, 9);
    lab.seeding = true;
    for _ in 0..50 {
        assert_eq!(lab.round().len(), 5);
        for peer in &mut lab.peers {
            peer.sent += 100 << 20;
        }
    }
}

#[test]
fn many_torrents_share_one_rounds_slots() {
    let base = Instant::now();
    let mut choker = Choker::new(4, None, 10, base);
    let torrents: Vec<_> = (0..100u32)
        .map(|t| {
            let peers = (0..5u64).map(|n| Candidate {
                received: u64::from(t) * 100_000 + n * 1_000,
                ..candidate(u64::from(t) * 10 + n, base)
            });
            (TorrentKey(t), false, peers.collect::<Vec<_>>())
        })
        .collect();
    let unchoked = choker.round(base + ROUND, &torrents);
    assert_eq!(unchoked.iter().map(|t| t.0).collect::<Vec<_>>(), (0..100).map(TorrentKey).collect::<Vec<_>>());
    assert_eq!(unchoked.iter().map(|t| t.1.len()).sum::<usize>(), 5);
    let best: Vec<u64> = unchoked[99].1.iter().map(|p| p.0).collect();
    assert!((991..995).all(|n| best.contains(&n)), "{best:?}");
}

#[test]
fn an_early_round_needs_a_free_slot_and_a_second() {
    let mut lab = Lab::new(1, 1, 11);
    lab.choker.hurry(lab.base);
    assert_eq!(lab.choker.next_round(), lab.base, "nobody is unchoked yet");
    lab.round();
    lab.choker.hurry(lab.base + Duration::from_millis(200));
    assert_eq!(lab.choker.next_round(), lab.base + EARLIEST);
    lab.peers.push(candidate(1, lab.now));
    lab.round();
    let full = lab.choker.next_round();
    lab.choker.hurry(lab.now + Duration::from_secs(3));
    assert_eq!(lab.choker.next_round(), full, "every slot is taken");
    lab.choker.forget(lab.now + Duration::from_secs(4), PeerKey(0));
    assert_eq!(lab.choker.next_round(), lab.now + Duration::from_secs(4), "one has left");
}

#[test]
fn a_slot_whose_peer_wants_nothing_any_more_goes_to_who_waits() {
    let mut lab = Lab::new(1, 3, 14);
    let unchoked = lab.round();
    let (full, soon) = (lab.choker.next_round(), lab.now + Duration::from_secs(2));
    let waits = (0..3).find(|n| !unchoked.contains(n)).unwrap();
    lab.choker.uninterested(soon, PeerKey(waits));
    assert_eq!(lab.choker.next_round(), full, "it had no slot");
    lab.choker.uninterested(soon, PeerKey(unchoked[0]));
    lab.peers[usize::try_from(unchoked[0]).unwrap()].interested = false;
    assert_eq!(lab.choker.next_round(), soon);
    let now = lab.round();
    assert!(now.contains(&waits) && now.contains(&unchoked[1]) && now.len() == 2, "{now:?}");
}

#[test]
fn rounds_replay_from_their_seed() {
    let run = |seed| {
        let mut lab = Lab::new(2, 30, seed);
        (0..30).map(|_| lab.round()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn an_early_round_fills_slots_and_takes_none_away() {
    let mut lab = Lab::new(2, 3, 12);
    lab.peers[0].received = 1 << 20;
    lab.round();
    assert_eq!(lab.peers.iter().filter(|p| p.unchoked).count(), 3);
    let due = lab.choker.next_round();
    lab.choker.forget(lab.now + Duration::from_secs(2), PeerKey(1));
    lab.peers.remove(1);
    // Two that give far more, one of which finds a place.
    for n in [8, 9] {
        lab.peers.push(Candidate { received: 1 << 30, ..candidate(n, lab.now) });
    }
    let unchoked = lab.round();
    assert_eq!(lab.now, lab.base + ROUND + Duration::from_secs(2));
    assert!(unchoked.contains(&0) && unchoked.contains(&2) && unchoked.len() == 3, "{unchoked:?}");
    assert_eq!(lab.choker.next_round(), due, "the next round comes when it would have come");
    let unchoked = lab.round();
    assert!(unchoked.contains(&8) && unchoked.contains(&9), "{unchoked:?}");
}

#[test]
fn slots_grow_while_slow_peers_leave_the_limit_unfilled() {
    let base = Instant::now();
    let limit = 1 << 20;
    let peers = (0..40).map(|n| candidate(n, base)).collect();
    let mut lab = Lab { base, now: base, choker: Choker::new(4, Some(limit), 13, base), peers, seeding: true };
    let mut counts = Vec::new();
    for _ in 0..60 {
        let unchoked = lab.round().len() as u64;
        counts.push(unchoked);
        lab.send((limit / 10 + 1).min(limit / unchoked) * 10);
    }
    assert_eq!(counts[..4], [5, 6, 7, 8], "one in a round");
    assert!(counts[10..].iter().all(|&c| c == 9), "nine of a tenth each are 90 %: {counts:?}");
    // Few are left: there is no use for so many.
    lab.peers.truncate(3);
    for _ in 0..10 {
        lab.round();
    }
    lab.peers.extend((50..60).map(|n| candidate(n, lab.now)));
    lab.send(limit);
    assert_eq!(lab.round().len(), 5);
}

#[test]
fn a_slot_that_was_added_is_not_for_those_who_give_nothing() {
    let base = Instant::now();
    let peers = (0..20).map(|n| candidate(n, base)).collect();
    let mut lab = Lab { base, now: base, choker: Choker::new(4, Some(100 << 20), 14, base), peers, seeding: false };
    for _ in 0..30 {
        lab.peers[..10].iter_mut().for_each(|p| p.received += 1 << 20);
        lab.round();
        lab.send(1 << 20);
        assert!(lab.peers[10..].iter().filter(|p| p.unchoked).count() <= 1);
    }
    assert_eq!(lab.peers[..10].iter().filter(|p| p.unchoked).count(), 10, "all that give have one");
}
