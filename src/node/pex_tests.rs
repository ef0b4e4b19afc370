use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::Exchanged::{Flood, Ignored, Taken};
use super::*;

const A: TorrentKey = TorrentKey(1);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The `n`th peer, at an address of its own.
fn listed(n: u8) -> Listed {
    let addr = SocketAddr::new(Ipv4Addr::new(198, 51, 100, n).into(), 6881);
    Listed {
        peer: PeerKey(n.into()),
        ip: addr.ip(),
        listens: Some(addr),
        reachable: n.is_multiple_of(2),
        holepunch: false,
    }
}

fn addr(n: u8) -> SocketAddr {
    listed(n).listens.unwrap()
}

fn tell(exchange: &mut Exchange, now: Instant, all: &[Listed]) -> Vec<(PeerKey, PexMessage)> {
    exchange.tell(now, A, all, &BTreeSet::from([PeerKey(2)]))
}

#[test]
fn peers_are_told_of_each_other_and_then_of_changes() {
    let (base, mut exchange) = (Instant::now(), Exchange::default());
    exchange.wants(base, A, PeerKey(1), true);
    assert_eq!(tell(&mut exchange, base, &[listed(1), listed(2)]), [], "others may come");
    assert_eq!(exchange.next(), Some(base + SETTLE));
    let now = base + SETTLE;
    assert_eq!(exchange.due(now), BTreeSet::from([A]));
    let first = tell(&mut exchange, now, &[listed(1), listed(2), listed(3)]);
    let of = |n, flags| PexPeer { addr: addr(n), flags };
    let added = vec![of(2, PexPeer::SEED | PexPeer::REACHABLE), of(3, 0)];
    assert_eq!(first, [(PeerKey(1), PexMessage { added, dropped: vec![] })]);
    assert_eq!((exchange.next(), exchange.due(now + secs(1000))), (None, BTreeSet::new()), "nothing has changed");

    let then = now + secs(10);
    exchange.changed(then, A);
    assert_eq!(exchange.next(), Some(now + SEND_EVERY), "no more than once a minute");
    assert_eq!(tell(&mut exchange, now + secs(59), &[listed(1), listed(3), listed(4)]), []);
    let second = tell(&mut exchange, now + SEND_EVERY, &[listed(1), listed(3), listed(4)]);
    assert_eq!(second, [(PeerKey(1), PexMessage { added: vec![of(4, 16)], dropped: vec![addr(2)] })]);
    assert_eq!(exchange.next(), None);
}

#[test]
fn a_change_that_comes_to_nothing_is_not_told() {
    let (base, mut exchange) = (Instant::now(), Exchange::default());
    exchange.wants(base, A, PeerKey(1), true);
    tell(&mut exchange, base + SETTLE, &[listed(1), listed(2)]);
    exchange.changed(base + secs(5), A);
    assert_eq!(tell(&mut exchange, base + secs(100), &[listed(1), listed(2)]), []);
    assert_eq!(exchange.next(), None);
    exchange.changed(base + secs(5), TorrentKey(2));
    assert_eq!(exchange.next(), None, "another torrent");
}

#[test]
fn nobody_is_told_of_himself_or_of_what_lies_further_inwards() {
    let (base, mut exchange) = (Instant::now(), Exchange::default());
    let at = |n: u64, ip: &str| {
        let ip: IpAddr = ip.parse().unwrap();
        Listed { peer: PeerKey(n), ip, listens: Some(SocketAddr::new(ip, 6881)), reachable: true, holepunch: false }
    };
    let twin = Listed { peer: PeerKey(9), ..at(1, "203.0.113.1") };
    let unknown = Listed { listens: None, ..at(8, "203.0.113.8") };
    let all = [at(1, "203.0.113.1"), at(2, "10.0.0.2"), at(3, "127.0.0.3"), at(4, "203.0.113.4"), twin, unknown];
    for peer in [1, 2, 3] {
        exchange.wants(base, A, PeerKey(peer), true);
    }
    let told = tell(&mut exchange, base + SETTLE, &all);
    let names = |n: usize| told[n].1.added.iter().map(|p| p.addr.ip().to_string()).collect::<Vec<_>>();
    assert_eq!(names(0), ["203.0.113.4"]);
    assert_eq!(names(1), ["203.0.113.1", "203.0.113.4"]);
    assert_eq!(names(2), ["10.0.0.2", "203.0.113.1", "203.0.113.4"]);
}

#[test]
fn many_peers_are_told_fifty_a_minute() {
    let (base, mut exchange) = (Instant::now(), Exchange::default());
    let all: Vec<Listed> = (0..=120).map(listed).collect();
    exchange.wants(base, A, PeerKey(0), true);
    let mut now = base + SETTLE;
    for count in [50, 50, 20] {
        assert_eq!(tell(&mut exchange, now, &all)[0].1.added.len(), count);
        now = exchange.next().unwrap_or(now);
    }
    assert_eq!(exchange.next(), None);
}

#[test]
fn who_wants_nothing_or_is_gone_is_told_nothing() {
    let (base, mut exchange) = (Instant::now(), Exchange::default());
    for n in 1..4 {
        exchange.wants(base, A, PeerKey(n), true);
    }
    exchange.wants(base, A, PeerKey(1), false);
    exchange.remove(PeerKey(2));
    let told = tell(&mut exchange, base + SETTLE, &[listed(1), listed(2), listed(3)]);
    assert_eq!(told.iter().map(|t| t.0).collect::<Vec<_>>(), [PeerKey(3)]);
    exchange.remove_torrent(A);
    exchange.changed(base, A);
    assert_eq!(exchange.next(), None);
}

#[test]
fn one_message_a_second_ends_in_a_close() {
    let (base, mut exchange) = (Instant::now(), Exchange::default());
    let verdicts: Vec<Exchanged> = (0..8).map(|n| exchange.heard(base + secs(n), PeerKey(1))).collect();
    assert_eq!(verdicts, [Taken, Taken, Taken, Ignored, Ignored, Ignored, Flood, Flood]);
    assert_eq!(exchange.heard(base, PeerKey(2)), Taken, "another peer");
    exchange.remove(PeerKey(1));
    assert_eq!(exchange.heard(base + secs(9), PeerKey(1)), Taken);
}

#[test]
fn one_message_a_minute_is_always_taken() {
    let (base, mut exchange) = (Instant::now(), Exchange::default());
    for n in 0..100 {
        let jitter = Duration::from_millis(n * 7919 % 900);
        assert_eq!(exchange.heard(base + secs(60 * n) + jitter, PeerKey(1)), Taken);
    }
}

proptest! {
    /// Whoever comes and goes, a peer that applies what it is told ends with those that are connected.
    #[test]
    fn what_was_told_adds_up(steps in proptest::collection::vec(proptest::collection::btree_set(1u8..80, 0..70), 1..12)) {
        let (base, mut exchange) = (Instant::now(), Exchange::default());
        exchange.wants(base, A, PeerKey(0), true);
        let (mut now, mut view, mut sent) = (base, BTreeSet::new(), None::<Instant>);
        for connected in &steps {
            let all: Vec<Listed> = std::iter::once(0).chain(connected.iter().copied()).map(listed).collect();
            exchange.changed(now, A);
            while let Some(due) = exchange.next() {
                now = due;
                for (_, message) in tell(&mut exchange, now, &all) {
                    prop_assert!(message.added.len() <= MAX_PEX && message.dropped.len() <= MAX_PEX);
                    prop_assert!(sent.is_none_or(|sent| now >= sent + SEND_EVERY));
                    sent = Some(now);
                    for added in &message.added {
                        prop_assert!(view.insert(added.addr));
                    }
                    for dropped in &message.dropped {
                        prop_assert!(view.remove(dropped));
                    }
                }
            }
            prop_assert_eq!(&view, &connected.iter().map(|&n| addr(n)).collect());
        }
    }
}
