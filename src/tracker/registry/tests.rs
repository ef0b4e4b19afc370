use proptest::prelude::*;

use super::*;

const LIFETIME: Duration = Duration::from_secs(3600);
const HTTP: Room = Room { v4: MAX_WANTED, v6: MAX_WANTED, both: true };
const UDP: Room = Room { both: false, ..HTTP };

fn settings() -> Settings {
    Settings {
        interval: LIFETIME / 2,
        lifetime: LIFETIME,
        whitelist: None,
        max_torrents: 1_000,
        max_peers: 10_000,
        max_torrent_peers: 5_000,
    }
}

fn registry() -> Registry {
    Registry::new(settings(), 1)
}

fn query(torrent: u8, peer: u32, left: u64) -> AnnounceQuery {
    let mut id = [b'-'; 20];
    id[..4].copy_from_slice(&peer.to_be_bytes());
    AnnounceQuery {
        info_hash: [torrent; 20],
        peer_id: PeerId(id),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left,
        event: Event::None,
        numwant: u32::MAX,
        key: peer + 1,
        tracker_id: None,
    }
}

fn v4(n: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()
}

fn v6(n: u32) -> IpAddr {
    std::net::Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)).into()
}

impl Registry {
    #[track_caller]
    fn ok(&mut self, now: Instant, from: IpAddr, query: &AnnounceQuery) -> Answer {
        self.announce(now, from, query, HTTP).expect("it is served")
    }

    /// What is held in several places is the same everywhere.
    #[track_caller]
    fn check(&self) {
        let order = self.torrents.iter().map(|(hash, torrent)| (torrent.addresses(), torrent.touched, *hash));
        assert_eq!(order.collect::<BTreeSet<_>>(), self.order);
        assert_eq!(self.torrents.values().map(Torrent::addresses).sum::<usize>(), self.ages.len());
        for (age, Aged { info_hash, family, identity }) in &self.ages {
            let torrent = self.torrents.get(info_hash).expect("its torrent");
            assert_eq!(torrent.find(*family, identity).map(|entry| entry.age), Some(*age));
        }
        let empty = self.torrents.values().filter(|torrent| torrent.addresses() == 0);
        assert!(empty.into_iter().all(|torrent| torrent.downloaded > 0));
    }
}

fn names(answer: &Answer) -> Vec<String> {
    let mut names: Vec<_> = answer.peers.iter().map(|(_, addr)| addr.to_string()).collect();
    names.sort();
    names
}

fn figures(complete: u32, downloaded: u32, incomplete: u32) -> Option<ScrapeEntry> {
    Some(ScrapeEntry { complete, downloaded, incomplete })
}

#[test]
fn a_peer_gets_the_others_and_never_itself() {
    let (mut registry, now) = (registry(), Instant::now());
    assert!(registry.ok(now, v4(1), &query(1, 1, 9)).peers.is_empty());
    assert_eq!(names(&registry.ok(now, v4(2), &query(1, 2, 9))), ["10.0.0.1:6881"]);
    let again = registry.ok(now, v4(1), &query(1, 1, 9));
    assert_eq!(names(&again), ["10.0.0.2:6881"]);
    assert_eq!((again.complete, again.incomplete), (0, 2));
    assert!(registry.ok(now, v4(3), &query(2, 3, 9)).peers.is_empty(), "another torrent");
    // A client that has started again, with a new id, takes its former self's place.
    let anew = registry.ok(now, v4(1), &query(1, 7, 9));
    assert_eq!((names(&anew), anew.incomplete), (vec!["10.0.0.2:6881".to_owned()], 2));
    registry.check();
}

#[test]
fn seeds_get_leechers_only_and_leechers_get_both() {
    let (mut registry, now) = (registry(), Instant::now());
    for n in 1..4 {
        registry.ok(now, v4(n), &query(1, n, 0));
    }
    registry.ok(now, v4(4), &query(1, 4, 9));
    assert_eq!(names(&registry.ok(now, v4(1), &query(1, 1, 0))), ["10.0.0.4:6881"]);
    let leecher = registry.ok(now, v4(5), &query(1, 5, 9));
    assert_eq!((leecher.peers.len(), leecher.complete, leecher.incomplete), (4, 3, 2));
    // A leecher that has become a seed.
    registry.ok(now, v4(5), &AnnounceQuery { event: Event::Completed, ..query(1, 5, 0) });
    assert_eq!(registry.scrape(&[1; 20]), figures(4, 1, 1));
    registry.check();
}

#[test]
fn completed_counts_once_for_a_peer() {
    let (mut registry, now) = (registry(), Instant::now());
    let done = AnnounceQuery { event: Event::Completed, ..query(1, 1, 0) };
    for from in [v4(1), v4(1), v6(1), v6(1)] {
        registry.ok(now, from, &done);
        registry.ok(now, from, &query(1, 1, 0));
    }
    assert_eq!(registry.scrape(&[1; 20]), figures(1, 1, 0));
    // The count outlives the peer.
    registry.ok(now, v4(1), &AnnounceQuery { event: Event::Stopped, ..query(1, 1, 0) });
    assert_eq!((registry.scrape(&[1; 20]), registry.peers()), (figures(0, 1, 0), 0));
    assert_eq!(registry.scrape(&[2; 20]), None);
    registry.check();
}

#[test]
fn who_is_silent_for_a_lifetime_is_forgotten() {
    let (mut registry, now) = (registry(), Instant::now());
    registry.ok(now, v4(1), &query(1, 1, 9));
    registry.ok(now + LIFETIME / 2, v4(2), &query(1, 2, 9));
    let just_before = now + LIFETIME - Duration::from_nanos(1);
    assert_eq!(registry.ok(just_before, v4(3), &query(1, 3, 9)).peers.len(), 2);
    assert_eq!(names(&registry.ok(now + LIFETIME, v4(3), &query(1, 3, 9))), ["10.0.0.2:6881"]);
    assert_eq!(registry.scrape(&[1; 20]), figures(0, 0, 2));
    assert!(!registry.expire(now + LIFETIME * 3, 10));
    assert_eq!((registry.torrents(), registry.peers()), (0, 0));
    registry.check();
}

#[test]
fn what_expired_in_a_burst_is_never_handed_out_and_leaves_bit_by_bit() {
    let (mut registry, now) = (registry(), Instant::now());
    for n in 0..4_000 {
        registry.ok(now, v4(n), &query(1, n, 9));
    }
    let later = now + LIFETIME;
    assert!(registry.ok(later, v4(9_999), &query(1, 9_999, 9)).peers.is_empty());
    assert_eq!(registry.peers(), 4_001 - SWEEP);
    assert!(registry.expire(later, 1_000) && registry.peers() == 3_001 - SWEEP);
    assert!(!registry.expire(later, 10_000) && registry.peers() == 1);
    registry.check();
}

#[test]
fn only_a_peer_itself_can_stop_or_move_it() {
    let (mut registry, now) = (registry(), Instant::now());
    let victim = query(1, 1, 9);
    registry.ok(now, v4(1), &victim);
    let keyless = AnnounceQuery { key: 0, ..query(1, 2, 9) };
    registry.ok(now, v4(2), &keyless);
    for event in [Event::Stopped, Event::None] {
        registry.ok(now, v4(66), &AnnounceQuery { event, key: 77, ..victim.clone() });
        registry.ok(now, v4(66), &AnnounceQuery { event, key: 0, ..victim.clone() });
        registry.ok(now, v4(66), &AnnounceQuery { event, ..keyless.clone() });
        let seen = names(&registry.ok(now, v4(3), &query(1, 3, 9)));
        assert!(seen.contains(&"10.0.0.1:6881".to_owned()) && seen.contains(&"10.0.0.2:6881".to_owned()), "{seen:?}");
    }
    // With its key it moves, and stops from anywhere.
    let (mut registry, stopped) = (self::registry(), AnnounceQuery { event: Event::Stopped, ..victim.clone() });
    registry.ok(now, v4(1), &victim);
    registry.ok(now, v4(8), &victim);
    assert_eq!(names(&registry.ok(now, v4(3), &query(1, 3, 9))), ["10.0.0.8:6881"]);
    assert!(registry.ok(now, v4(9), &stopped).peers.is_empty());
    assert_eq!(registry.scrape(&[1; 20]), figures(0, 0, 1));
    // Who was never there does not make a torrent by going.
    registry.ok(now, v4(9), &AnnounceQuery { event: Event::Stopped, ..query(9, 9, 9) });
    assert_eq!(registry.torrents(), 1);
    registry.check();
}

#[test]
fn each_family_gets_its_own_and_a_peer_of_both_gets_both_and_counts_once() {
    let (mut registry, now) = (registry(), Instant::now());
    registry.ok(now, v4(1), &query(1, 1, 9));
    registry.ok(now, v6(1), &query(1, 1, 9));
    registry.ok(now, v6(2), &query(1, 2, 9));
    assert_eq!(registry.scrape(&[1; 20]), figures(0, 0, 2));
    let mapped = "::ffff:10.0.0.3".parse().expect("an address");
    let four = registry.ok(now, mapped, &query(1, 3, 9));
    assert_eq!((names(&four), four.incomplete), (vec!["10.0.0.1:6881".to_owned()], 3));
    assert_eq!(names(&registry.ok(now, v6(4), &query(1, 4, 9))), ["[fd00::1]:6881", "[fd00::2]:6881"]);
    // Peer 1 is known under both: it gets both over HTTP, its own family first; over UDP its own alone.
    let both = registry.ok(now, v4(1), &query(1, 1, 9));
    assert_eq!(names(&both), ["10.0.0.3:6881", "[fd00::2]:6881", "[fd00::4]:6881"]);
    assert!(both.peers[0].1.is_ipv4());
    let udp = registry.announce(now, v6(1), &query(1, 1, 9), UDP).expect("it is served");
    assert_eq!(names(&udp), ["[fd00::2]:6881", "[fd00::4]:6881"]);
    // What it says over one family holds for both: it is a seed now, then it is gone.
    registry.ok(now, v6(1), &query(1, 1, 0));
    assert_eq!(registry.scrape(&[1; 20]), figures(1, 0, 3));
    registry.ok(now, v4(1), &AnnounceQuery { event: Event::Stopped, ..query(1, 1, 0) });
    assert_eq!((registry.scrape(&[1; 20]), registry.peers()), (figures(0, 0, 3), 3));
    registry.check();
}

#[test]
fn as_many_as_are_wanted_each_once_and_all_in_turn() {
    let (mut registry, now) = (registry(), Instant::now());
    for n in 0..300 {
        registry.ok(now, v4(n), &query(1, n, u64::from(n % 3)));
    }
    let mut wanted = |numwant, room| {
        let asked = AnnounceQuery { numwant, ..query(1, 0, 9) };
        registry.announce(now, v4(0), &asked, room).expect("it is served").peers
    };
    for (numwant, given) in [(0, 0), (1, 1), (50, 50), (200, 200), (201, 200), (u32::MAX, 50), (1 << 31, 50)] {
        let peers = wanted(numwant, HTTP);
        assert_eq!(peers.len(), given, "{numwant}");
        assert_eq!(peers.iter().collect::<BTreeSet<_>>().len(), given, "each once");
    }
    assert_eq!(wanted(200, Room { v4: 7, ..HTTP }).len(), 7, "no more than the answer has room for");
    let mut times = BTreeMap::new();
    for _ in 0..600 {
        for (_, addr) in wanted(50, HTTP) {
            *times.entry(addr).or_insert(0u32) += 1;
        }
    }
    // Each of the 299 others is expected 100 times; five deviations are 46.
    assert_eq!(times.len(), 299);
    assert!(times.values().all(|times| (54..147).contains(times)), "{times:?}");
}

#[test]
fn answers_replay_from_their_seed() {
    let run = |seed| {
        let (mut registry, now) = (Registry::new(settings(), seed), Instant::now());
        (0..200).map(|n| registry.ok(now, v4(n), &query(1, n, 9)).peers).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn what_is_not_on_the_list_is_refused_and_so_is_port_0() {
    let mut registry = Registry::new(Settings { whitelist: Some([[1; 20]].into()), ..settings() }, 1);
    let now = Instant::now();
    assert_eq!(registry.announce(now, v4(1), &query(2, 1, 9), HTTP), Err(Refusal::Unlisted));
    let nowhere = AnnounceQuery { port: 0, ..query(1, 1, 9) };
    assert_eq!(registry.announce(now, v4(1), &nowhere, HTTP), Err(Refusal::Port));
    assert_eq!(registry.torrents(), 0);
    registry.ok(now, v4(1), &query(1, 1, 9));
    assert_eq!(registry.scrape(&[1; 20]), figures(0, 0, 1));
}

#[test]
fn a_flood_of_info_hashes_is_bounded_and_pushes_out_itself() {
    let (mut registry, now) = (registry(), Instant::now());
    for n in 0..5 {
        registry.ok(now, v4(n), &query(1, n, 9));
    }
    let mut flood = query(0, 99, 9);
    for n in 0..20_000u32 {
        flood.info_hash[..4].copy_from_slice(&n.to_be_bytes());
        flood.event = if n % 7 == 0 { Event::Completed } else { Event::None };
        registry.ok(now, v4(1_000), &flood);
    }
    assert_eq!((registry.torrents(), registry.peers()), (1_000, 1_004));
    assert_eq!(registry.scrape(&[1; 20]), figures(0, 0, 5), "a swarm of five stays");
    assert!(registry.scrape(&flood.info_hash).is_some(), "so does the latest");
    registry.check();
}

#[test]
fn a_flood_of_peers_is_bounded_in_a_torrent_and_over_all() {
    let small = Settings { max_torrent_peers: 100, max_peers: 150, ..settings() };
    let (mut registry, now) = (Registry::new(small, 1), Instant::now());
    for n in 0..60 {
        registry.ok(now, v4(n), &query(2, n, 9));
    }
    for n in 0..1_000 {
        registry.ok(now, v4(n), &query(1, n, 9));
        assert!(registry.peers() <= 150);
    }
    assert_eq!(registry.scrape(&[1; 20]), figures(0, 0, 100));
    assert_eq!(registry.scrape(&[2; 20]), figures(0, 0, 50), "the emptiest torrent gave way");
    // A known peer needs no room.
    let known = registry.ok(now, v4(999), &query(1, 999, 9));
    assert_eq!((known.incomplete, registry.peers()), (100, 150));
    registry.check();
}

/// One address of a peer, in a list that is searched from end to end.
#[derive(Clone, Debug)]
struct Known {
    info_hash: [u8; 20],
    id: PeerId,
    proof: Result<u32, IpAddr>,
    addr: SocketAddr,
    seed: bool,
    completed: bool,
    announced: Instant,
}

/// The registry without limits, as plainly as can be.
#[derive(Default)]
struct Model {
    known: Vec<Known>,
    downloads: BTreeMap<[u8; 20], u32>,
}

impl Model {
    fn announce(&mut self, now: Instant, from: IpAddr, query: &AnnounceQuery) {
        self.known.retain(|known| now - known.announced < LIFETIME);
        let from = from.to_canonical();
        let proof = if query.key == 0 { Err(from) } else { Ok(query.key) };
        let is_it = |known: &Known| (known.info_hash, known.id, known.proof) == (query.info_hash, query.peer_id, proof);
        if query.event == Event::Stopped {
            self.known.retain(|known| !is_it(known));
            return;
        }
        let before = self.known.iter().any(|known| is_it(known) && known.completed);
        let completed = query.event == Event::Completed;
        if completed && !before {
            *self.downloads.entry(query.info_hash).or_default() += 1;
        }
        let addr = SocketAddr::new(from, query.port);
        self.known.retain(|known| {
            let replaced = if is_it(known) { known.addr.is_ipv4() == from.is_ipv4() } else { known.addr == addr };
            known.info_hash != query.info_hash || !replaced
        });
        self.known.push(Known {
            info_hash: query.info_hash,
            id: query.peer_id,
            proof,
            addr,
            seed: false,
            completed: false,
            announced: now,
        });
        for known in self.known.iter_mut().filter(|known| is_it(known)) {
            (known.seed, known.completed) = (query.left == 0, completed || before);
        }
    }

    fn scrape(&self, info_hash: [u8; 20]) -> Option<ScrapeEntry> {
        let count = |seed| {
            let some = self.known.iter().filter(|known| known.info_hash == info_hash && known.seed == seed);
            let peers: BTreeSet<_> = some.map(|known| (known.id, known.proof)).collect();
            u32::try_from(peers.len()).expect("few")
        };
        let downloaded = self.downloads.get(&info_hash).copied();
        let (complete, incomplete) = (count(true), count(false));
        (complete + incomplete > 0 || downloaded.is_some()).then(|| ScrapeEntry {
            complete,
            downloaded: downloaded.unwrap_or(0),
            incomplete,
        })
    }

    /// Whom an asker may hear of, and how many of the same list it may not.
    fn others(&self, query: &AnnounceQuery, v4: bool) -> (Vec<(PeerId, SocketAddr)>, usize) {
        let list = self.known.iter().filter(|known| {
            known.info_hash == query.info_hash && known.addr.is_ipv4() == v4 && !(query.left == 0 && known.seed)
        });
        let (it, others): (Vec<_>, Vec<_>) =
            list.map(|known| (known.id, known.addr)).partition(|(id, _)| *id == query.peer_id);
        (others, it.len())
    }
}

fn asked() -> impl Strategy<Value = (Duration, IpAddr, AnnounceQuery)> {
    let from = (0u32..3, 0..3).prop_map(|(n, kind)| match kind {
        0 => v4(n),
        1 => v6(n),
        _ => format!("::ffff:10.0.0.{n}").parse().expect("an address"),
    });
    let event = prop_oneof![
        4 => Just(Event::None),
        1 => Just(Event::Started),
        1 => Just(Event::Completed),
        1 => Just(Event::Stopped),
    ];
    let numwant = prop_oneof![Just(0), 1u32..6, Just(50), Just(u32::MAX)];
    let wait = prop_oneof![6 => 0u64..600, 1 => 0..2 * LIFETIME.as_secs()].prop_map(Duration::from_secs);
    (wait, from, 1u8..4, 0u32..6, 0u32..3, 0u64..2, event, numwant, 1u16..3).prop_map(
        |(wait, from, torrent, peer, key, left, event, numwant, port)| {
            (wait, from, AnnounceQuery { key, event, numwant, port, ..query(torrent, peer, left) })
        },
    )
}

proptest! {
    #[test]
    fn it_knows_what_a_plain_list_knows(asks in prop::collection::vec(asked(), 1..80), seed: u64, over_http: bool) {
        let (mut registry, mut model, mut now) = (Registry::new(settings(), seed), Model::default(), Instant::now());
        let room = if over_http { HTTP } else { UDP };
        for (wait, from, query) in asks {
            now += wait;
            let answer = registry.announce(now, from, &query, room).expect("it is served");
            while registry.expire(now, 1) {}
            model.announce(now, from, &query);
            registry.check();
            prop_assert_eq!(registry.peers(), model.known.len());
            for torrent in 1..4 {
                prop_assert_eq!(registry.scrape(&[torrent; 20]), model.scrape([torrent; 20]));
            }
            let counts = model.scrape(query.info_hash).unwrap_or_default();
            prop_assert_eq!((answer.complete, answer.incomplete), (counts.complete, counts.incomplete));

            let (addr, most) = (SocketAddr::new(from.to_canonical(), query.port), query.numwant.min(50) as usize);
            let mut left = answer.peers.clone();
            left.sort();
            left.dedup();
            prop_assert_eq!(left.len(), answer.peers.len(), "each once");
            if query.event == Event::Stopped {
                prop_assert!(left.is_empty());
                continue;
            }
            let proof = if query.key == 0 { Err(addr.ip()) } else { Ok(query.key) };
            let twin = model.known.iter().any(|known| {
                (known.info_hash, known.id, known.proof) == (query.info_hash, query.peer_id, proof)
                    && known.addr.is_ipv4() != addr.is_ipv4()
            });
            let mut wanted = most;
            for v4 in [Some(addr.is_ipv4()), (twin && over_http).then_some(!addr.is_ipv4())].into_iter().flatten() {
                let (others, itself) = model.others(&query, v4);
                let given = left.extract_if(.., |peer| others.contains(peer)).count();
                // One too many is drawn, for the asker; of a second self it is one too few.
                let least = wanted.min(others.len()).saturating_sub(itself.saturating_sub(1));
                prop_assert!((least.min(wanted)..=wanted).contains(&given), "{given} of {}", others.len());
                wanted -= given;
            }
            prop_assert!(left.is_empty(), "they are none of the torrent's others: {left:?}");
        }
    }

    #[test]
    fn no_limit_is_passed(asks in prop::collection::vec(asked(), 1..120), torrents in 1usize..3, peers in 1usize..6, of_one in 1usize..4) {
        let limits = Settings { max_torrents: torrents, max_peers: peers, max_torrent_peers: of_one, ..settings() };
        let (mut registry, mut now) = (Registry::new(limits, 1), Instant::now());
        for (wait, from, query) in asks {
            now += wait;
            registry.announce(now, from, &query, HTTP).expect("it is served");
            registry.check();
            prop_assert!(registry.torrents() <= torrents && registry.peers() <= peers);
            let figures = registry.scrape(&query.info_hash).unwrap_or_default();
            prop_assert!(figures.complete + figures.incomplete <= u32::try_from(of_one).expect("few"));
            // The one that has just announced is there.
            prop_assert!(query.event == Event::Stopped || figures.complete + figures.incomplete > 0);
        }
    }
}
