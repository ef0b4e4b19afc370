//! What a node decides as a whole.

use std::time::Duration;

use super::priority::priority;
use super::*;

const A: TorrentKey = TorrentKey(1);

fn node(base: Instant) -> Node {
    node_of(3, base)
}

/// A node that may have so many peers.
pub(super) fn node_of(max_peers: usize, base: Instant) -> Node {
    let limits = Limits {
        peer_id: PeerId([9; 20]),
        upload_slots: 4,
        max_peers,
        upload_limit: None,
        download_limit: None,
        upload: true,
        assembly_bytes: 1 << 20,
    };
    Node::new(limits, 1, base)
}

pub(super) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_mapped_address_is_the_same_peer() {
    let base = Instant::now();
    let mut node = node(base);
    node.add_candidates(
        base,
        A,
        &[addr("[::ffff:203.0.113.7]:5"), addr("203.0.113.7:5")],
        Source::Tracker(Place::Private),
    );
    assert_eq!(node.next_dial(base), Some((A, addr("203.0.113.7:5"))));
    assert_eq!(node.next_dial(base), None);
    assert_eq!(node.connected(base, PeerKey(1), A, addr("203.0.113.7:5"), PeerId([10; 20]), true), Ok(None));
    let mapped = addr("[::ffff:203.0.113.7]:777");
    assert_eq!(node.connected(base, PeerKey(2), A, mapped, PeerId([10; 20]), false), Err(Refusal::Duplicate));
    node.ban(base, A, addr("[::ffff:203.0.113.7]:5"));
    assert_eq!(node.accept(base, addr("203.0.113.7:5")), Err(Refusal::Banned));
}

#[test]
fn what_is_blocked_is_neither_dialled_nor_accepted_whoever_names_it() {
    let base = Instant::now();
    let mut node = node(base);
    node.add_candidates(base, A, &[addr("203.0.113.9:5")], Source::User);
    let (blocks, _) = Blocks::parse(b"bad:203.0.113.7-203.0.113.9\n2001:db8::/32\n");
    node.set_scope(Scope { blocks: Arc::new(blocks), ..Scope::default() });
    let named = ["203.0.113.7:5", "[::ffff:203.0.113.8]:5", "[2001:db8::1]:5", "203.0.113.10:5"].map(addr);
    for source in [Source::User, Source::Tracker(Place::Private), Source::Dht(Place::Global), Source::Lsd] {
        node.add_candidates(base, A, &named, source);
    }
    // Nor one that was known before.
    assert_eq!(node.next_dial(base), Some((A, addr("203.0.113.10:5"))));
    assert_eq!(node.next_dial(base), None);
    assert_eq!(node.accept(base, addr("[::ffff:203.0.113.7]:9")), Err(Refusal::Blocked));
    assert_eq!(node.accept(base, addr("[2001:db8::9]:9")), Err(Refusal::Blocked));
    assert_eq!(node.accept(base, addr("203.0.113.10:9")), Ok(()));
    let verdict = node.connected(base, PeerKey(1), A, addr("203.0.113.7:5"), PeerId([1; 20]), true);
    assert_eq!(verdict, Err(Refusal::Blocked));
    // Nor by a peer that names others.
    node.connected(base, PeerKey(2), A, addr("203.0.113.10:5"), PeerId([2; 20]), true).unwrap();
    let added = ["203.0.113.7:1", "[2001:db8::5]:1", "203.0.113.11:1"];
    let added = added.map(|text| PexPeer { addr: addr(text), flags: 0 }).to_vec();
    node.pex_heard(base, PeerKey(2), &PexMessage { added, dropped: Vec::new() }, false);
    assert_eq!(node.next_dial(base), Some((A, addr("203.0.113.11:1"))));
    assert_eq!(node.next_dial(base), None);
}

#[test]
fn a_family_that_we_do_not_have_is_not_dialled() {
    let base = Instant::now();
    let mut node = node(base);
    let named = ["203.0.113.7:5", "[2001:db8::1]:5"].map(addr);
    node.set_scope(Scope { v4: false, ..Scope::default() });
    node.add_candidates(base, A, &named, Source::User);
    assert_eq!((node.next_dial(base), node.next_dial(base)), (Some((A, named[1])), None));
}

#[test]
fn we_never_dial_ourselves_twice() {
    let base = Instant::now();
    let mut node = node(base);
    node.add_candidates(base, A, &[addr("10.0.0.1:1")], Source::User);
    node.next_dial(base).unwrap();
    let verdict = node.connected(base, PeerKey(1), A, addr("10.0.0.1:1"), PeerId([9; 20]), true);
    assert_eq!(verdict, Err(Refusal::Ourselves));
    assert_eq!(node.half_open(), 0);
    node.add_candidates(base, A, &[addr("10.0.0.1:1")], Source::Tracker(Place::Private));
    node.boost(base + Duration::from_secs(100), A);
    assert_eq!(node.next_timeout(), None);
    assert_eq!(node.next_dial(base + Duration::from_secs(1000)), None);
}

#[test]
fn an_incoming_peer_is_dialled_where_it_listens_once_it_is_gone() {
    let base = Instant::now();
    let mut node = node(base);
    node.accept(base, addr("10.0.0.2:40000")).unwrap();
    node.accept_done(addr("10.0.0.2:40000"));
    node.connected(base, PeerKey(1), A, addr("10.0.0.2:40000"), PeerId([1; 20]), false).unwrap();
    node.listening(base, PeerKey(1), 6881);
    node.add_candidates(base, A, &[addr("10.0.0.2:6881")], Source::Tracker(Place::Private));
    assert_eq!(node.next_dial(base), None, "it is connected");
    let gone = base + Duration::from_secs(30);
    node.disconnected(gone, PeerKey(1), true);
    assert_eq!(node.next_timeout(), Some(gone + Duration::from_secs(60)));
    assert_eq!(node.next_dial(gone + Duration::from_secs(60)), Some((A, addr("10.0.0.2:6881"))));
}

#[test]
fn a_banned_address_is_not_dialled() {
    let base = Instant::now();
    let mut node = node(base);
    node.add_candidates(base, A, &[addr("10.0.0.1:1"), addr("10.0.0.2:1")], Source::Tracker(Place::Private));
    node.ban(base, A, addr("10.0.0.1:1"));
    assert_eq!(node.next_dial(base), Some((A, addr("10.0.0.2:1"))));
    assert_eq!(node.next_dial(base), None);
}

#[test]
fn peers_that_are_exchanged_are_dialled_and_told_on() {
    let base = Instant::now();
    let mut node = node(base);
    node.connected(base, PeerKey(1), A, addr("203.0.113.1:50000"), PeerId([1; 20]), false).unwrap();
    node.wants_pex(base, PeerKey(1), true);
    let named = |text: &str, flags| PexPeer { addr: addr(text), flags };
    let added = vec![named("203.0.113.2:1", 0), named("10.0.0.1:1", 0), named("203.0.113.3:1", PexPeer::SEED)];
    let message = PexMessage { added, dropped: vec![] };
    assert_eq!(node.pex_heard(base, PeerKey(1), &message, true), Exchanged::Taken);
    assert_eq!(node.next_dial(base), Some((A, addr("203.0.113.2:1"))));
    assert_eq!(node.next_dial(base), None, "a local address, and a seed while we are one");
    node.connected(base, PeerKey(2), A, addr("203.0.113.2:1"), PeerId([2; 20]), true).unwrap();
    let due = node.next_pex().unwrap();
    assert_eq!(node.pex_due(due), BTreeSet::from([A]));
    let told = node.pex(due, A, &BTreeSet::new());
    let added = vec![named("203.0.113.2:1", PexPeer::REACHABLE)];
    assert_eq!(told, [(PeerKey(1), PexMessage { added, dropped: vec![] })]);
    assert_eq!(node.next_pex(), None);
    node.disconnected(due, PeerKey(2), true);
    assert!(node.next_pex().is_some(), "that it is gone is told");

    node.set_private(A);
    assert_eq!(node.next_pex(), None);
    node.wants_pex(base, PeerKey(1), true);
    assert_eq!(node.next_pex(), None);
    let known = node.known_peers(A);
    assert_eq!(node.pex_heard(base, PeerKey(1), &message, false), Exchanged::Ignored);
    assert_eq!(node.known_peers(A), known);
}

#[test]
fn at_the_limit_the_lowest_priority_makes_room_and_the_users_own_stays() {
    let base = Instant::now();
    let mut node = node(base);
    let ours = addr("203.0.113.9:6881");
    let mut peers: Vec<SocketAddr> = (1..6).map(|n| SocketAddr::from(([n * 31, n, n, n], 7000))).collect();
    peers.sort_by_key(|&addr| priority(ours, addr));
    let id = |n: u8| PeerId([n; 20]);
    node.add_candidates(base, A, &peers[..1], Source::User);
    node.next_dial(base).unwrap();
    node.connected(base, PeerKey(0), A, peers[0], id(1), true).unwrap();
    for n in [1u8, 3] {
        node.connected(base, PeerKey(n.into()), A, peers[usize::from(n)], id(n + 1), false).unwrap();
    }
    let later = base + Duration::from_secs(60);
    assert_eq!(node.accept(later, peers[4]), Err(Refusal::Full), "we do not know our address");
    for by in &peers[1..3] {
        node.seen(Witness::Peer(by.ip()), ours.ip(), ours.port());
    }
    assert_eq!(node.external(true), Some(ours.ip()));
    assert_eq!(node.accept(base, peers[4]), Err(Refusal::Full), "all are new");
    assert_eq!(node.accept(later, addr("10.0.0.1:1")), Err(Refusal::Full), "a local address has no rank");
    assert_eq!(node.accept(later, peers[4]), Ok(()));
    node.accept_done(peers[4]);
    assert_eq!(node.connected(later, PeerKey(4), A, peers[4], id(5), false), Ok(None));
    assert_eq!(node.take_outranked(), [(A, PeerKey(1))]);
    assert_eq!((node.connections(), node.take_outranked()), (3, vec![]));
    assert_eq!(node.accept(later, peers[2]), Err(Refusal::Full), "below the other one");
    assert_eq!(node.connected(later, PeerKey(2), A, peers[2], id(8), false), Err(Refusal::Full));
}

#[test]
fn without_upload_everyone_stays_choked() {
    let base = Instant::now();
    let mut node = node(base);
    node.limits.upload = false;
    let candidate = Candidate {
        peer: PeerKey(1),
        interested: true,
        wanted: true,
        unchoked: false,
        received: 100,
        sent: 0,
        connected: base,
        snubbed: false,
        seed: false,
    };
    node.interest(base, PeerKey(1), true);
    let due = node.next_rechoke();
    assert_eq!(due, base + Duration::from_secs(10));
    assert_eq!(node.rechoke(due, &[(A, true, vec![candidate])]), [(A, vec![])]);
    assert!(node.next_rechoke() > due);
}

/// One torrent has every connection; another one starves, and has whom to dial.
#[test]
fn a_torrent_that_starves_gets_a_connection_of_the_one_that_has_most() {
    let (base, starving) = (Instant::now(), TorrentKey(2));
    let mut node = node(base);
    node.add_candidates(base, A, &[addr("10.0.0.1:1")], Source::User);
    node.next_dial(base).unwrap();
    for n in 1..4u8 {
        let from = SocketAddr::from(([10, 0, 0, n], 1));
        node.connected(base, PeerKey(n.into()), A, from, PeerId([n; 20]), n == 1).unwrap();
    }
    node.add_candidates(base, starving, &[addr("10.0.0.9:1")], Source::Tracker(Place::Private));
    node.boost(base, starving);
    assert_eq!((node.next_dial(base), node.take_outranked()), (None, vec![]), "all of them are new");
    let later = base + Duration::from_secs(61);
    node.boost(later, starving);
    let gone = node.take_outranked();
    assert!(matches!(gone[..], [(A, PeerKey(2 | 3))]), "not the user's own: {gone:?}");
    assert_eq!(node.next_dial(later), Some((starving, addr("10.0.0.9:1"))));
    // It has as many as the other then.
    node.connected(later, PeerKey(9), starving, addr("10.0.0.9:1"), PeerId([9; 20]), true).unwrap_err();
    node.add_candidates(later, A, &[addr("10.0.0.8:1")], Source::Tracker(Place::Private));
    node.boost(later, A);
    assert_eq!(node.take_outranked(), []);
}
