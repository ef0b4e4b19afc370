//! Introductions of peers to each other, in virtual time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::node::tests::{addr, node_of};
use crate::node::{Blocks, Exchanged, Scope};
use crate::wire::{PeerId, PexMessage, PexPeer};

const A: TorrentKey = TorrentKey(1);
const B: TorrentKey = TorrentKey(2);

fn node(base: Instant) -> Node {
    node_of(40, base)
}

/// A peer that came from there. `holepunch`: whether it is over uTP, if it has it.
fn comes(node: &mut Node, now: Instant, n: u8, torrent: TorrentKey, from: &str, holepunch: Option<bool>) -> PeerKey {
    let peer = PeerKey(n.into());
    node.connected(now, peer, torrent, addr(from), PeerId([n; 20]), false).unwrap();
    node.has_holepunch(peer, holepunch.is_some(), holepunch == Some(true));
    peer
}

fn names(node: &mut Node, now: Instant, by: PeerKey, addrs: &[&str]) {
    let added = addrs.iter().map(|text| PexPeer { addr: addr(text), flags: 0 }).collect();
    let message = PexMessage { added, dropped: vec![] };
    assert_eq!(node.pex_heard(now, by, &message, false), Exchanged::Taken);
}

#[test]
fn two_peers_of_one_torrent_are_told_where_the_other_is() {
    let base = Instant::now();
    let mut node = node(base);
    let over_utp = comes(&mut node, base, 1, A, "203.0.113.1:7001", Some(true));
    let over_tcp = comes(&mut node, base, 2, A, "203.0.113.2:50000", Some(false));
    node.listening(base, over_utp, 6881);
    let refused = |error| Rendezvous::Refused(error);
    // Nobody knows where it listens.
    assert_eq!(node.rendezvous(base, over_tcp, addr("203.0.113.1:6881")), refused(HolepunchError::NotConnected));
    node.listening(base, over_tcp, 6881);
    let (one, two) = (addr("203.0.113.1:7001"), addr("203.0.113.2:6881"));
    let introduced = |target, target_at, asker_at| Rendezvous::Introduced { target, target_at, asker_at };
    assert_eq!(node.rendezvous(base, over_tcp, addr("203.0.113.1:6881")), introduced(over_utp, one, two));
    assert_eq!(node.rendezvous(base, over_tcp, addr("[::ffff:203.0.113.1]:7001")), introduced(over_utp, one, two));
    assert_eq!(node.rendezvous(base, over_utp, two), introduced(over_tcp, two, one));
}

#[test]
fn who_cannot_be_introduced_is_told_why() {
    let base = Instant::now();
    let mut node = node(base);
    let asker = comes(&mut node, base, 1, A, "203.0.113.1:6881", Some(true));
    comes(&mut node, base, 2, A, "203.0.113.2:6881", None);
    comes(&mut node, base, 3, B, "203.0.113.3:6881", Some(true));
    let inside = comes(&mut node, base, 4, A, "10.0.0.4:6881", Some(true));
    for (at, error) in [
        ("203.0.113.2:0", HolepunchError::NoSuchPeer),
        ("0.0.0.0:1", HolepunchError::NoSuchPeer),
        ("203.0.113.1:6881", HolepunchError::NoSelf),
        ("203.0.113.2:6881", HolepunchError::NoSupport),
        ("203.0.113.3:6881", HolepunchError::NotConnected),
        ("203.0.113.9:6881", HolepunchError::NotConnected),
        ("10.0.0.4:6881", HolepunchError::NotConnected),
    ] {
        assert_eq!(node.rendezvous(base, asker, addr(at)), Rendezvous::Refused(error), "{at}");
    }
    let verdict = node.rendezvous(base, inside, addr("203.0.113.1:6881"));
    assert_eq!(verdict, Rendezvous::Refused(HolepunchError::NotConnected), "it would tell where it is inside");
    assert_eq!(node.rendezvous(base, PeerKey(2), addr("203.0.113.1:6881")), Rendezvous::Ignored, "it has no holepunch");
    assert_eq!(node.rendezvous(base, PeerKey(77), addr("203.0.113.1:6881")), Rendezvous::Ignored);
    node.set_private(A);
    node.has_holepunch(asker, true, true);
    assert_eq!(node.rendezvous(base, asker, addr("203.0.113.2:6881")), Rendezvous::Ignored);
}

#[test]
fn ten_requests_a_minute_are_answered() {
    let base = Instant::now();
    let mut node = node(base);
    let asker = comes(&mut node, base, 1, A, "203.0.113.1:6881", Some(true));
    let answered = |node: &mut Node, now| {
        (0..50).filter(|_| node.rendezvous(now, asker, addr("203.0.113.9:1")) != Rendezvous::Ignored).count()
    };
    assert_eq!(answered(&mut node, base), 10);
    assert_eq!(answered(&mut node, base + Duration::from_secs(59)), 0);
    assert_eq!(answered(&mut node, base + Duration::from_secs(60)), 10);
}

#[test]
fn who_named_an_address_is_asked_once_a_minute_while_it_is_there() {
    let base = Instant::now();
    let mut node = node(base);
    let (far, local) = (addr("203.0.113.9:6881"), addr("10.0.0.9:6881"));
    let old = comes(&mut node, base, 1, A, "203.0.113.1:6881", None);
    let relay = comes(&mut node, base, 2, A, "203.0.113.2:6881", Some(false));
    names(&mut node, base, old, &["203.0.113.9:6881"]);
    assert_eq!(node.introducer(base, A, far), None, "it has no holepunch");
    names(&mut node, base, relay, &["203.0.113.9:6881", "10.0.0.9:6881"]);
    assert_eq!(node.introducer(base, A, local), None, "it may not name it");
    assert_eq!(node.introducer(base, B, far), None);
    assert_eq!(node.introducer(base, A, far), Some(relay));
    assert_eq!(node.introducer(base + Duration::from_secs(59), A, far), None);
    let later = base + Duration::from_secs(60);
    assert_eq!(node.introducer(later, A, far), Some(relay));
    comes(&mut node, later, 3, A, "203.0.113.9:6881", Some(true));
    let later = later + Duration::from_secs(60);
    assert_eq!(node.introducer(later, A, far), None, "it is connected");
    node.disconnected(later, PeerKey(3), true);
    node.disconnected(later, relay, true);
    assert_eq!(node.introducer(later, A, far), None, "who named it is gone");
}

#[test]
fn what_is_named_is_bounded() {
    let mut all = Introductions::default();
    for n in 0..5000u32 {
        all.named(A, SocketAddr::from((std::net::Ipv4Addr::from(0x0100_0000 + n), 1)), PeerKey(1));
    }
    assert_eq!(all.named[&A].len(), MAX_KNOWN);
    all.remove(PeerKey(1));
    assert!(all.named[&A].is_empty());
}

#[test]
fn an_introduction_is_followed_if_it_may_be() {
    let base = Instant::now();
    let mut node = node(base);
    let relay = comes(&mut node, base, 1, A, "203.0.113.1:6881", Some(true));
    comes(&mut node, base, 2, A, "203.0.113.2:6881", Some(true));
    node.ban(base, A, addr("203.0.113.3:6881"));
    let (blocks, _) = Blocks::parse(b"203.0.113.5\n");
    node.set_scope(Scope { blocks: Arc::new(blocks), v6: false, ..Scope::default() });
    for never in [
        "10.0.0.1:1",
        "127.0.0.1:1",
        "203.0.113.2:6881",
        "203.0.113.3:6881",
        "203.0.113.4:0",
        "203.0.113.5:1",
        "[2001:db8::1]:1",
    ] {
        assert!(!node.introduced(base, relay, addr(never)), "{never}");
    }
    let later = base + WINDOW;
    assert!(node.introduced(later, relay, addr("203.0.113.9:6881")));
    assert!(!node.introduced(later, relay, addr("203.0.113.9:6881")), "it is being dialled");
    node.punched(A, addr("203.0.113.9:6881"));
    assert!(node.introduced(later, relay, addr("203.0.113.9:6881")));
    assert!(!node.introduced(later, PeerKey(77), addr("203.0.113.8:6881")), "nobody said so");
    node.set_private(A);
    assert!(!node.introduced(later, relay, addr("203.0.113.8:6881")));
}

#[test]
fn ten_that_nobody_asked_for_are_followed_in_a_minute_and_those_that_we_asked_for_besides() {
    let base = Instant::now();
    let mut node = node(base);
    let relay = comes(&mut node, base, 1, A, "203.0.113.1:6881", Some(true));
    names(&mut node, base, relay, &["203.0.113.9:6881"]);
    assert_eq!(node.introducer(base, A, addr("203.0.113.9:6881")), Some(relay));
    let followed = |node: &mut Node, now: Instant, port: u16| {
        let target = SocketAddr::new(addr("198.51.100.1:1").ip(), port);
        let followed = node.introduced(now, relay, target);
        node.punched(A, target);
        followed
    };
    assert_eq!((1..=50).filter(|&port| followed(&mut node, base, port)).count(), 10);
    assert!(node.introduced(base, relay, addr("203.0.113.9:6881")), "we asked for it");
    assert!(!followed(&mut node, base + Duration::from_secs(59), 77));
    assert!(followed(&mut node, base + WINDOW, 77));
}

#[test]
fn attempts_at_once_are_bounded() {
    let base = Instant::now();
    let mut node = node(base);
    let relays: Vec<PeerKey> =
        (1..=8).map(|n| comes(&mut node, base, n, A, &format!("203.0.113.{n}:6881"), Some(true))).collect();
    let targets = (1..=9).map(|port| SocketAddr::new(addr("198.51.100.1:1").ip(), port));
    let all = relays.iter().flat_map(|&relay| targets.clone().map(move |at| (relay, at)));
    let all =
        all.map(|(relay, at)| (relay, SocketAddr::new(at.ip(), at.port() + 100 * u16::try_from(relay.0).unwrap())));
    assert_eq!(all.filter(|&(relay, at)| node.introduced(base, relay, at)).count(), MAX_PUNCHING);
}
