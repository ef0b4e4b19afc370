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
        Self { base, now: base, choker: Choker::new(slots, seed, base), peers, seeding: false }
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

    fn optimistic(&self) -> Option<u64> {
        self.choker.optimistic.map(|o| o.0.0)
    }

    fn at(&self) -> u64 {
        (self.now - self.base).as_secs()
    }
}

fn candidate(n: u64, connected: Instant) -> Candidate {
    Candidate {
        peer: PeerKey(n),
        interested: true,
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
    let mut lab = Lab::new(2, 6, 1);
    for _ in 0..5 {
        lab.peers[0].received += 100_000;
        lab.peers[1].received += 50_000;
        let unchoked = lab.round();
        assert!(unchoked.contains(&0) && unchoked.contains(&1));
    }
    let mut rounds = 0;
    loop {
        lab.peers[1].received += 50_000;
        lab.peers[2].received += 50_000;
        rounds += 1;
        lab.round();
        let optimistic = lab.optimistic();
        if !lab.peers[0].unchoked || optimistic == Some(0) {
            break;
        }
        assert!(rounds < 4, "what it gave long ago still counts");
    }
    assert!(lab.peers[1].unchoked && lab.peers[2].unchoked);
    assert!(rounds > 1, "one stall within the window costs no slot");
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
        let optimistic = lab.optimistic();
        assert!(optimistic.is_some_and(|o| o != 0), "the regular one is not the optimistic one");
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
    let tried = lab.optimistic().unwrap();
    lab.peers[usize::try_from(tried).unwrap()].received += 1 << 20;
    let unchoked = lab.round();
    assert!(unchoked.contains(&tried));
    assert_ne!(lab.optimistic(), Some(tried), "it has a regular slot now");
    assert_eq!(unchoked.len(), 2);
}

#[test]
fn newcomers_are_drawn_three_times_as_often() {
    let (mut new, mut old) = (0, 0);
    for seed in 0..2_000 {
        let mut lab = Lab::new(1, 1, seed);
        // Ten that have waited long and ten that have just come; the regular slot is taken.
        let later = lab.base + Duration::from_secs(300);
        lab.peers.extend((1..11).map(|n| candidate(n, lab.base)));
        lab.peers.extend((11..21).map(|n| candidate(n, later)));
        lab.peers[0].received = 1;
        lab.choker.next = later;
        lab.round();
        match lab.optimistic() {
            Some(11..) => new += 1,
            _ => old += 1,
        }
    }
    let ratio = f64::from(new) / f64::from(old);
    assert!((2.6..3.4).contains(&ratio), "{new} newcomers, {old} others");
}

#[test]
fn a_snubbed_peer_is_unchoked_optimistically_only() {
    let mut lab = Lab::new(3, 3, 6);
    for peer in &mut lab.peers {
        peer.received = 1 << 20;
    }
    lab.peers[0].snubbed = true;
    assert_eq!(lab.round(), [0, 1, 2]);
    assert_eq!(lab.optimistic(), Some(0));
    lab.peers[1].snubbed = true;
    let unchoked = lab.round();
    assert_eq!(unchoked.len(), 2, "one of the two snubbed and the good one");
    assert!(unchoked.contains(&2));
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
    assert!(most / least < 1.25, "{least} to {most}");
}

#[test]
fn seeding_keeps_a_slot_for_its_quota_and_no_longer() {
    for (rate, held) in [(1 << 20, 60), (100, 180)] {
        let mut lab = Lab::new(1, 5, 8);
        lab.seeding = true;
        let regular = |lab: &Lab, unchoked: &[u64]| unchoked.iter().copied().find(|&p| Some(p) != lab.optimistic());
        let first = lab.round();
        let first = regular(&lab, &first).unwrap();
        let since = lab.at();
        loop {
            for peer in lab.peers.iter_mut().filter(|p| p.unchoked) {
                peer.sent += rate * 10;
            }
            let unchoked = lab.round();
            if regular(&lab, &unchoked) != Some(first) {
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
    let mut choker = Choker::new(4, 10, base);
    let torrents: Vec<_> = (0..100u32)
        .map(|t| {
            let peers = (0..5u64)
                .map(|n| Candidate { received: u64::from(t) * 1_000 + n, ..candidate(u64::from(t) * 10 + n, base) });
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
fn rounds_replay_from_their_seed() {
    let run = |seed| {
        let mut lab = Lab::new(2, 30, seed);
        (0..30).map(|_| lab.round()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
