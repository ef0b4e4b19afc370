use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Metadata of so many bytes, and the search for it.
fn search(length: usize) -> (Vec<u8>, MetadataFetch) {
    let metadata: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let id = TorrentId { v1: Some(InfoHash::of(&metadata)), v2: None };
    (metadata, MetadataFetch::new(id, 1))
}

fn hello(size: u64) -> ExtendedHandshake {
    ExtendedHandshake { metadata_id: Some(9), metadata_size: Some(size), ..ExtendedHandshake::default() }
}

fn part(metadata: &[u8], piece: u32) -> &[u8] {
    let start = piece as usize * METADATA_PIECE as usize;
    &metadata[start..metadata.len().min(start + METADATA_PIECE as usize)]
}

/// What it does now: requests by peer and piece, liars, and the end.
#[derive(Debug, Default)]
struct Doings {
    asked: Vec<(u64, u32)>,
    lied: Vec<u64>,
    done: Option<Vec<u8>>,
}

fn doings(search: &mut MetadataFetch) -> Doings {
    let mut all = Doings::default();
    while let Some(effect) = search.poll() {
        match effect {
            MetadataEffect::Send(PeerKey(peer), 9, MetadataMessage::Request(piece)) => all.asked.push((peer, piece)),
            MetadataEffect::Send(..) => {}
            MetadataEffect::Lied(PeerKey(peer)) => all.lied.push(peer),
            MetadataEffect::Done(bytes) => assert!(all.done.replace(bytes).is_none()),
        }
    }
    all
}

fn gives(search: &mut MetadataFetch, now: Instant, peer: u64, piece: u32, data: &[u8]) {
    search.message(now, PeerKey(peer), &MetadataMessage::Data { piece, total: None, data });
}

#[test]
fn peers_share_the_pieces_and_the_last_one_may_be_short() {
    let now = Instant::now();
    let (metadata, mut search) = search(4 * METADATA_PIECE as usize + 5);
    for peer in [1, 2] {
        search.extended(now, PeerKey(peer), &hello(metadata.len() as u64));
    }
    let asked = doings(&mut search).asked;
    assert_eq!(asked, [(1, 0), (1, 1), (2, 2), (2, 3)]);
    for (peer, piece) in asked {
        gives(&mut search, now, peer, piece, part(&metadata, piece));
    }
    let last = doings(&mut search).asked;
    assert_eq!(last, [(1, 4)], "each piece is asked for once");
    gives(&mut search, now, 1, 4, part(&metadata, 4));
    assert_eq!(doings(&mut search).done, Some(metadata));
}

#[test]
fn a_silent_peer_holds_nobody_up() {
    let now = Instant::now();
    let (metadata, mut search) = search(100);
    search.extended(now, PeerKey(1), &hello(100));
    search.extended(now, PeerKey(2), &hello(100));
    assert_eq!(doings(&mut search).asked, [(1, 0)]);
    assert_eq!(search.next_timeout(), Some(now + ASK_AGAIN));
    search.timeout(now + ASK_AGAIN);
    assert_eq!(doings(&mut search).asked, [(2, 0)]);
    search.timeout(now + SILENT);
    assert_eq!(search.peers[&PeerKey(1)].attempt, None, "it rests");
    gives(&mut search, now + SILENT, 2, 0, &metadata);
    assert_eq!(doings(&mut search).done, Some(metadata));
}

#[test]
fn a_peer_that_refuses_or_answers_amiss_rests_and_is_asked_again() {
    let now = Instant::now();
    let (metadata, mut search) = search(100);
    search.extended(now, PeerKey(1), &hello(100));
    assert_eq!(doings(&mut search).asked, [(1, 0)]);
    search.message(now, PeerKey(1), &MetadataMessage::Reject(0));
    assert!(doings(&mut search).asked.is_empty());
    let back = search.peers[&PeerKey(1)].rests.expect("it rests");
    assert!((now + 20 * SECOND..now + 70 * SECOND).contains(&back));
    search.timeout(back);
    assert_eq!(doings(&mut search).asked, [(1, 0)]);
    // Too short, and of another size.
    gives(&mut search, back, 1, 0, &metadata[1..]);
    assert!(search.peers[&PeerKey(1)].rests.is_some());
    let again = search.peers[&PeerKey(1)].rests.expect("it rests");
    search.timeout(again);
    assert_eq!(doings(&mut search).asked, [(1, 0)]);
    search.message(again, PeerKey(1), &MetadataMessage::Data { piece: 0, total: Some(101), data: &metadata });
    assert!(search.peers[&PeerKey(1)].rests.is_some());
    // What was not asked for counts for nothing.
    gives(&mut search, again, 1, 0, &metadata);
    assert_eq!(doings(&mut search).done, None);
}

#[test]
fn a_lone_liar_is_named_at_once_and_one_of_several_in_the_next_round() {
    // P16: honest metadata wins within three tries.
    let now = Instant::now();
    let (metadata, mut search) = search(2 * METADATA_PIECE as usize);
    let size = metadata.len() as u64;
    let lie = vec![1; METADATA_PIECE as usize];
    search.extended(now, PeerKey(1), &hello(size));
    for (peer, piece) in doings(&mut search).asked {
        gives(&mut search, now, peer, piece, &lie);
    }
    assert_eq!(doings(&mut search).lied, [1]);
    search.disconnected(now, PeerKey(1));

    let (_, mut search) = self::search(4 * METADATA_PIECE as usize);
    let metadata: Vec<u8> = (0..4 * METADATA_PIECE).map(|n| u8::try_from(n % 251).unwrap()).collect();
    for peer in [1, 2] {
        search.extended(now, PeerKey(peer), &hello(metadata.len() as u64));
    }
    let answer = |search: &mut MetadataFetch, mut asked: Vec<(u64, u32)>| {
        // The liar is the faster one: the honest one would end the search.
        asked.sort_unstable();
        for (peer, piece) in asked {
            gives(search, now, peer, piece, if peer == 1 { &lie } else { part(&metadata, piece) });
        }
    };
    let asked = doings(&mut search).asked;
    answer(&mut search, asked);
    // Both were suspect; each now gives a copy of its own.
    let (mut lied, mut done) = (Vec::new(), None);
    for _ in 0..4 {
        let all = doings(&mut search);
        lied.extend(all.lied);
        done = done.or(all.done);
        answer(&mut search, all.asked);
    }
    assert_eq!(lied, [1]);
    assert_eq!(done.as_deref(), Some(&metadata[..]));
}

#[test]
fn what_is_claimed_takes_no_memory_and_no_place_for_long() {
    // P15: sizes are a stranger's word.
    let now = Instant::now();
    let (metadata, mut search) = search(100);
    for peer in 1..=5 {
        search.extended(now, PeerKey(peer), &hello((16 << 20) - peer));
    }
    assert_eq!(search.attempts.len(), ATTEMPTS);
    search.extended(now, PeerKey(9), &hello(100));
    assert!(doings(&mut search).asked.iter().all(|(peer, _)| *peer <= 3), "every place is taken");
    // The three are silent, and then the next two; meanwhile the honest one had its turn.
    let mut at = now;
    let mut done = None;
    for _ in 0..20 {
        at = search.next_timeout().expect("something is due");
        search.timeout(at);
        let all = doings(&mut search);
        if all.asked.iter().any(|(peer, _)| *peer == 9) {
            gives(&mut search, at, 9, 0, &metadata);
        }
        done = done.or(all.done).or_else(|| doings(&mut search).done);
        if done.is_some() {
            break;
        }
    }
    assert_eq!(done, Some(metadata));
    assert!(at <= now + SILENT + SECOND, "{:?}", at - now);
    for (id, size) in [(None, Some(5)), (Some(1), None)] {
        let none = ExtendedHandshake { metadata_id: id, metadata_size: size, ..ExtendedHandshake::default() };
        let before = search.sources();
        search.extended(at, PeerKey(77), &none);
        assert_eq!(search.sources(), before);
    }
}

#[test]
fn one_that_trickles_gives_way() {
    let now = Instant::now();
    let (metadata, mut search) = search(100);
    let claimed = 1 << 20;
    for peer in 1..=3 {
        search.extended(now, PeerKey(peer), &hello(claimed + 16 * peer));
    }
    search.extended(now, PeerKey(9), &hello(100));
    let (mut at, mut done) = (now, None);
    // Each answers one request in five seconds: never silent, and never done.
    let mut owed = doings(&mut search).asked;
    for _ in 0..20 {
        at += 5 * SECOND;
        for (peer, piece) in std::mem::take(&mut owed) {
            gives(&mut search, at, peer, piece, &vec![0; METADATA_PIECE as usize]);
        }
        search.timeout(at);
        owed = doings(&mut search).asked;
        if owed.contains(&(9, 0)) {
            gives(&mut search, at, 9, 0, &metadata);
            done = doings(&mut search).done;
            break;
        }
    }
    assert_eq!(done, Some(metadata));
    assert!(at < now + 40 * SECOND);
}

proptest::proptest! {
    /// Whatever liars do, what it ends with is the torrent's, and with an honest peer it ends.
    #[test]
    fn honest_metadata_wins(length in 1_usize..100_000, liars in 0_u64..6, seed in 0_u64..1000) {
        let (metadata, mut search) = search(length);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut now = Instant::now();
        for peer in 0..=liars {
            let size = if peer == liars || rng.random() { length as u64 } else { rng.random_range(1..200_000) };
            search.extended(now, PeerKey(peer), &hello(size));
        }
        let (mut done, mut gone) = (None, BTreeSet::new());
        for _ in 0..10_000 {
            let all = doings(&mut search);
            proptest::prop_assert!(!all.lied.contains(&liars), "the honest one is never blamed");
            for peer in all.lied {
                gone.insert(peer);
                search.disconnected(now, PeerKey(peer));
            }
            done = done.or(all.done);
            if done.is_some() {
                break;
            }
            for (peer, piece) in all.asked {
                let honest = part_or_nothing(&metadata, piece);
                match if peer == liars { 0 } else { rng.random_range(0..4) } {
                    0 => gives(&mut search, now, peer, piece, honest),
                    1 => search.message(now, PeerKey(peer), &MetadataMessage::Reject(piece)),
                    2 => gives(&mut search, now, peer, piece, &vec![7; honest.len()]),
                    _ => {}
                }
            }
            now = search.next_timeout().unwrap_or(now + SECOND);
            search.timeout(now);
        }
        proptest::prop_assert_eq!(done, Some(metadata));
    }
}

fn part_or_nothing(metadata: &[u8], piece: u32) -> &[u8] {
    let start = (piece as usize * METADATA_PIECE as usize).min(metadata.len());
    &metadata[start..metadata.len().min(start + METADATA_PIECE as usize)]
}

/// More of those who boast and never deliver than there are places, all of them here before the honest one.
#[test]
fn who_was_not_tried_yet_comes_before_who_comes_back() {
    let mut now = Instant::now();
    let (metadata, mut search) = search(100);
    for peer in 1..=12 {
        search.extended(now, PeerKey(peer), &hello((16 << 20) - peer));
    }
    search.extended(now, PeerKey(99), &hello(100));
    let begun = now;
    loop {
        let all = doings(&mut search);
        if let Some(done) = all.done {
            assert_eq!(done, metadata);
            break;
        }
        for (peer, piece) in all.asked.into_iter().filter(|(peer, _)| *peer == 99) {
            gives(&mut search, now, peer, piece, &metadata);
        }
        // None: the metadata is there.
        now = search.next_timeout().unwrap_or(now).max(now);
        search.timeout(now);
        assert!(now < begun + SECOND * 120, "it takes more than five turns of three");
    }
}

/// What has the v1 hash is the torrent's; that the link names another v2 hash is the link's fault.
#[test]
fn who_gives_what_a_links_first_hash_names_has_not_lied() {
    let now = Instant::now();
    let metadata = vec![7; 100];
    let id = TorrentId { v1: Some(InfoHash::of(&metadata)), v2: Some(InfoHashV2::of(b"another")) };
    let mut search = MetadataFetch::new(id, 1);
    search.extended(now, PeerKey(1), &hello(100));
    for (peer, piece) in doings(&mut search).asked {
        gives(&mut search, now, peer, piece, &metadata);
    }
    assert_eq!(doings(&mut search).done, Some(metadata));
}
