use std::net::Ipv4Addr;

use super::*;

const A: TorrentKey = TorrentKey(1);
const B: TorrentKey = TorrentKey(2);

fn peer(n: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(198, 51, 100, 1).into(), n + 1)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn next(dials: &mut Dials, now: Instant) -> Option<(TorrentKey, SocketAddr)> {
    dials.next(now, usize::MAX, |_| false)
}

/// When the only address is dialled next, if no event but time comes.
fn redial(dials: &mut Dials) -> Option<Instant> {
    let at = dials.next_timeout(usize::MAX)?;
    assert!(next(dials, at - Duration::from_millis(1)).is_none(), "due before its timeout");
    next(dials, at).map(|_| at)
}

#[test]
fn half_open_and_rate_are_bounded() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, (0..500).map(peer), Source::Tracker(Place::Private));
    let mut begun: Vec<Instant> = Vec::new();
    let mut now = base;
    // Every attempt fails after 100 ms.
    let mut open: VecDeque<(Instant, SocketAddr)> = VecDeque::new();
    while begun.len() < 200 {
        while let Some(&(at, addr)) = open.front().filter(|o| o.0 <= now) {
            dials.failed(at, A, addr);
            open.pop_front();
        }
        while let Some((_, addr)) = next(&mut dials, now) {
            begun.push(now);
            open.push_back((now + Duration::from_millis(100), addr));
        }
        assert!(dials.half_open() <= MAX_HALF_OPEN);
        now += Duration::from_millis(10);
    }
    for (i, &at) in begun.iter().enumerate() {
        let within = begun[i..].iter().take_while(|&&b| b < at + secs(1)).count();
        assert!(within <= MAX_PER_SECOND, "{within} dials in a second");
    }
    assert!(now - base <= secs(8), "the rate is used: 200 dials took {:?}", now - base);
}

#[test]
fn failures_wait_longer_and_then_give_up() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, [peer(0)].into_iter(), Source::Tracker(Place::Private));
    assert_eq!(next(&mut dials, base), Some((A, peer(0))));
    dials.failed(base, A, peer(0));
    assert_eq!(redial(&mut dials), Some(base + secs(60)));
    dials.failed(base + secs(60), A, peer(0));
    assert_eq!(redial(&mut dials), Some(base + secs(180)));
    dials.failed(base + secs(180), A, peer(0));
    assert_eq!(dials.next_timeout(usize::MAX), None);
    assert_eq!(next(&mut dials, base + secs(1000)), None);
    // A tracker that names it again brings it back once; a starving read does, too.
    dials.add(base + secs(1000), A, [peer(0)].into_iter(), Source::Tracker(Place::Private));
    dials.add(base + secs(1001), A, [peer(0)].into_iter(), Source::Tracker(Place::Private));
    assert_eq!(redial(&mut dials), Some(base + secs(1060)));
    dials.failed(base + secs(1060), A, peer(0));
    assert_eq!(dials.next_timeout(usize::MAX), None);
    // Not at once, and later each time: nobody may be there for days.
    let mut now = base + secs(1060);
    for wait in [10, 20, 30, 40, 50, 60, 60] {
        dials.boost(now, A);
        assert_eq!(next(&mut dials, now + secs(wait - 1)), None);
        now += secs(wait);
        assert_eq!(next(&mut dials, now), Some((A, peer(0))), "{wait}");
        dials.failed(now, A, peer(0));
    }
}

#[test]
fn a_full_list_takes_what_is_more_than_hearsay() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    let many = (0..u16::try_from(MAX_KNOWN).unwrap() + 10).map(peer);
    dials.add(base, A, many, Source::Dht(Place::Global));
    let more: SocketAddr = "203.0.113.1:1".parse().unwrap();
    dials.add(base, A, [more].into_iter(), Source::Pex(Place::Global));
    assert_eq!((dials.known(A), dials.torrents[&A].known.contains_key(&more)), (MAX_KNOWN, false));
    dials.add(base, A, [more].into_iter(), Source::Tracker(Place::Global));
    assert_eq!((dials.known(A), dials.torrents[&A].known.contains_key(&more)), (MAX_KNOWN, true));
}

#[test]
fn what_a_private_torrent_heard_before_is_forgotten_when_its_connection_ends() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, [peer(0)].into_iter(), Source::Dht(Place::Global));
    assert_eq!(next(&mut dials, base), Some((A, peer(0))));
    dials.connected(base, A, peer(0));
    dials.set_private(A);
    assert_eq!(dials.known(A), 1);
    dials.disconnected(base + secs(100), A, peer(0), secs(100), true);
    assert_eq!(dials.known(A), 0);
}

#[test]
fn who_is_found_for_a_torrent_that_is_gone_is_not_dialled() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, [peer(0)].into_iter(), Source::User);
    dials.remove(A);
    dials.add(base, A, [peer(1)].into_iter(), Source::User);
    dials.set_private(A);
    assert_eq!((next(&mut dials, base), dials.known(A)), (None, 0));
}

#[test]
fn a_boost_comes_once_in_five_seconds_and_not_for_the_penalised() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, [peer(0), peer(1)].into_iter(), Source::Tracker(Place::Private));
    next(&mut dials, base);
    next(&mut dials, base);
    dials.failed(base, A, peer(0));
    dials.connected(base, A, peer(1));
    dials.disconnected(base + secs(30), A, peer(1), secs(30), false);
    let mut now = base + secs(31);
    dials.boost(now, A);
    assert_eq!(next(&mut dials, now), Some((A, peer(0))));
    assert_eq!(next(&mut dials, now), None, "it broke the protocol");
    dials.failed(now, A, peer(0));
    now += secs(4);
    dials.boost(now, A);
    assert_eq!(next(&mut dials, now), None);
    now += secs(1);
    dials.boost(now, A);
    assert_eq!(next(&mut dials, now), Some((A, peer(0))));
}

#[test]
fn a_lost_connection_is_dialled_again_after_a_minute_or_by_a_boost() {
    let base = Instant::now();
    let lost = || {
        let mut dials = Dials::new(1);
        dials.add(base, A, [peer(0)].into_iter(), Source::Tracker(Place::Private));
        next(&mut dials, base);
        dials.connected(base, A, peer(0));
        assert_eq!(dials.next_timeout(usize::MAX), None, "connected peers are not dialled");
        dials.disconnected(base + secs(100), A, peer(0), secs(100), true);
        dials
    };
    assert_eq!(redial(&mut lost()), Some(base + secs(160)));
    let mut dials = lost();
    dials.boost(base + secs(101), A);
    assert_eq!(next(&mut dials, base + secs(101)), Some((A, peer(0))));
    // One that closes at once is no lost connection.
    dials.connected(base + secs(101), A, peer(0));
    dials.disconnected(base + secs(102), A, peer(0), secs(1), true);
    dials.boost(base + secs(111), A);
    assert_eq!(next(&mut dials, base + secs(111)), None);
    assert_eq!(next(&mut dials, base + secs(112)), Some((A, peer(0))), "a reader that starves waits for no minute");
    dials.connected(base + secs(112), A, peer(0));
    dials.disconnected(base + secs(113), A, peer(0), secs(1), true);
    dials.boost(base + secs(118), A);
    assert_eq!(next(&mut dials, base + secs(132)), None, "a second time it waits for longer");
    assert_eq!(next(&mut dials, base + secs(133)), Some((A, peer(0))));
}

#[test]
fn the_users_peers_come_first_sooner_and_for_ever() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, (1..20).map(peer), Source::Tracker(Place::Private));
    dials.add(base, A, [peer(0)].into_iter(), Source::User);
    assert_eq!(next(&mut dials, base), Some((A, peer(0))));

    let mut dials = Dials::new(1);
    dials.add(base, A, [peer(0)].into_iter(), Source::User);
    let (mut now, mut waits) = (base, Vec::new());
    next(&mut dials, now);
    for _ in 0..8 {
        dials.failed(now, A, peer(0));
        let at = redial(&mut dials).unwrap();
        waits.push((at - now).as_secs());
        now = at;
    }
    assert_eq!(waits, [5, 10, 20, 40, 60, 60, 60, 60]);
}

#[test]
fn torrents_take_turns() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, (0..100).map(peer), Source::Tracker(Place::Private));
    dials.add(base, B, (0..100).map(peer), Source::Tracker(Place::Private));
    let turns: Vec<_> = (0..6).filter_map(|_| next(&mut dials, base)).map(|d| d.0).collect();
    assert_eq!(turns, [A, B, A, B, A, B]);
}

#[test]
fn known_addresses_are_bounded_and_the_dead_make_room() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, (0..10_000).map(peer), Source::Tracker(Place::Private));
    assert_eq!(dials.known(A), MAX_KNOWN);
    dials.add(base, A, [peer(20_000)].into_iter(), Source::User);
    assert_eq!(next(&mut dials, base), Some((A, peer(20_000))), "the user's peer always has a place");

    let mut dials = Dials::new(1);
    dials.add(base, A, [peer(0)].into_iter(), Source::Tracker(Place::Private));
    let mut now = base;
    for _ in 0..3 {
        next(&mut dials, now);
        dials.failed(now, A, peer(0));
        now += secs(1000);
    }
    dials.add(now, A, (1..10_000).map(peer), Source::Tracker(Place::Private));
    assert_eq!(dials.known(A), MAX_KNOWN);
    assert!(!dials.torrents[&A].known.contains_key(&peer(0)));
}

#[test]
fn the_order_is_random_and_repeats_with_its_seed() {
    let order = |seed| {
        let base = Instant::now();
        let mut dials = Dials::new(seed);
        dials.add(base, A, (0..20).map(peer), Source::Tracker(Place::Private));
        (0..20).filter_map(|_| next(&mut dials, base)).map(|d| d.1.port()).collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    assert_eq!(order(1).len(), 20);
}

#[test]
fn a_removed_torrents_attempt_still_counts_until_it_ends() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, [peer(0)].into_iter(), Source::Tracker(Place::Private));
    next(&mut dials, base);
    dials.remove(A);
    assert_eq!(dials.half_open(), 1);
    dials.failed(base, A, peer(0));
    assert_eq!(dials.half_open(), 0);
    assert_eq!(dials.known(A), 0);
}

#[test]
fn nothing_is_dialled_without_a_place_for_it() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    dials.add(base, A, (0..5).map(peer), Source::Tracker(Place::Private));
    assert!(dials.next(base, 1, |_| false).is_some());
    assert!(dials.next(base, 1, |_| false).is_none(), "an attempt takes the last place");
    assert_eq!(dials.next_timeout(1), None);
    assert!(dials.next(base, 2, |_| false).is_some());
    // What is refused is skipped and forgotten.
    assert!(dials.next(base, 100, |_| true).is_none());
    assert_eq!(dials.known(A), 2);
}

#[test]
fn a_private_torrent_takes_addresses_from_trackers_and_the_user_only() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    let strangers = [Source::Pex(Place::Private), Source::Dht(Place::Global), Source::Lsd];
    for (n, from) in strangers.into_iter().enumerate() {
        dials.add(base, A, [peer(u16::try_from(n).unwrap())].into_iter(), from);
    }
    dials.add(base, A, [peer(2)].into_iter(), Source::Tracker(Place::Global));
    assert_eq!(dials.known(A), 3);
    dials.set_private(A);
    assert_eq!(dials.known(A), 1, "what strangers named is forgotten");
    assert_eq!(next(&mut dials, base), Some((A, peer(2))), "a tracker has named it as well");
    for from in strangers {
        dials.add(base, A, [peer(9)].into_iter(), from);
    }
    assert_eq!(next(&mut dials, base), None);
    dials.add(base, A, [peer(10)].into_iter(), Source::User);
    assert_eq!(next(&mut dials, base), Some((A, peer(10))));
    dials.add(base, B, [peer(9)].into_iter(), Source::Lsd);
    assert_eq!(next(&mut dials, base), Some((B, peer(9))), "another torrent is not private");
}

#[test]
fn what_lies_further_inwards_than_who_named_it_is_ignored() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    let local = || ["10.0.0.1:1", "127.0.0.1:22", "[::1]:22", "169.254.169.254:80"].map(|a| a.parse().unwrap());
    for from in [Source::Tracker(Place::Global), Source::Pex(Place::Global), Source::Dht(Place::Global)] {
        dials.add(base, A, local().into_iter(), from);
        assert_eq!(dials.known(A), 0, "{from:?}");
    }
    dials.add(base, A, local().into_iter(), Source::Dht(Place::Loopback));
    assert_eq!(dials.known(A), 3);
}

#[test]
fn among_equals_the_canonical_priority_decides_once_we_know_our_address() {
    let (base, ours) = (Instant::now(), "203.0.113.9:6881".parse::<SocketAddr>().unwrap());
    let strangers: Vec<SocketAddr> = (1..20).map(|n| SocketAddr::from(([n * 11, n, 7, n], 6881))).collect();
    let mut expected = strangers.clone();
    expected.sort_by_key(|&addr| std::cmp::Reverse(priority(ours, addr)));
    for known_before in [true, false] {
        let mut dials = Dials::new(1);
        if known_before {
            dials.set_ours([Some(ours), None]);
        }
        dials.add(base, A, strangers.iter().copied(), Source::Tracker(Place::Global));
        dials.set_ours([Some(ours), None]);
        let order: Vec<SocketAddr> = std::iter::from_fn(|| next(&mut dials, base)).map(|dial| dial.1).collect();
        assert_eq!(order, expected);
    }
    let mut dials = Dials::new(1);
    dials.set_ours([Some(ours), None]);
    let last = *expected.last().unwrap();
    dials.add(base, A, strangers.iter().copied(), Source::Tracker(Place::Global));
    dials.add(base, A, [last].into_iter(), Source::User);
    assert_eq!(next(&mut dials, base), Some((A, last)), "the user's own goes first all the same");
}

#[test]
fn an_address_is_dialled_as_it_was_reached_before() {
    let base = Instant::now();
    let mut dials = Dials::new(1);
    let (public, private) = ("8.8.8.8:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap());
    dials.add(base, A, [public, private].into_iter(), Source::User);
    let tcp = |encrypted| Way { encrypted, utp: false };
    // Nobody knows: hidden in public networks only.
    assert_eq!((dials.way(A, public), dials.way(A, private)), (tcp(true), tcp(false)));
    let reached = Way { encrypted: false, utp: true };
    dials.reached(A, public, reached);
    assert_eq!((dials.way(A, public), dials.way(A, private)), (reached, tcp(false)));
    // Each torrent knows for itself, and what nobody knows is not remembered.
    dials.reached(B, public, reached);
    assert_eq!(dials.way(B, public), tcp(true));
    dials.remove(A);
    assert_eq!(dials.way(A, public), tcp(true));
}
