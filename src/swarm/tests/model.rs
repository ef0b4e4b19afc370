//! Random inputs against a naive model. The laboratory checks its invariants after every one of them.

use proptest::prelude::*;

use super::*;

const PIECES: u32 = 24;
const PIECE: u64 = 3 * BLOCK;

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    Connect { fast: bool, serves: bool },
    Disconnect(usize),
    Bitfield(usize, u32),
    HaveAll(usize),
    Have(usize, u32),
    DontHave(usize, u32),
    Choke(usize, bool),
    Interested(usize, bool),
    Unchoked(u32),
    AllowedFast(usize, u32),
    Reject(usize, usize),
    Deliver(usize, usize),
    Stray(usize, u32, u32, u32),
    Request(usize, u32, u32, u32),
    Open(u64, u64, u64),
    Read(u64, u64, u64),
    Hit(u64, u64, u64),
    Withdraw(usize),
    Flush(u64),
    Close(u64),
    Evict(u32),
    Lose(u32),
    Budget(u64),
    Run(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..6usize;
    let piece = 0..PIECES + 1;
    let at = 0..u64::from(PIECES) * PIECE;
    let length = 1..200_000u64;
    let (handle, flag) = (1..4u64, any::<bool>());
    prop_oneof![
        2 => (flag, prop::bool::weighted(0.6)).prop_map(|(fast, serves)| Step::Connect { fast, serves }),
        1 => peer.clone().prop_map(Step::Disconnect),
        2 => (peer.clone(), any::<u32>()).prop_map(|(p, bits)| Step::Bitfield(p, bits)),
        2 => peer.clone().prop_map(Step::HaveAll),
        1 => (peer.clone(), 0..PIECES).prop_map(|(p, n)| Step::Have(p, n)),
        1 => (peer.clone(), 0..PIECES).prop_map(|(p, n)| Step::DontHave(p, n)),
        5 => (peer.clone(), prop::bool::weighted(0.25)).prop_map(|(p, c)| Step::Choke(p, c)),
        1 => (peer.clone(), flag).prop_map(|(p, i)| Step::Interested(p, i)),
        1 => any::<u32>().prop_map(Step::Unchoked),
        1 => (peer.clone(), 0..PIECES).prop_map(|(p, n)| Step::AllowedFast(p, n)),
        1 => (peer.clone(), 0..8usize).prop_map(|(p, n)| Step::Reject(p, n)),
        5 => (peer.clone(), 0..8usize).prop_map(|(p, n)| Step::Deliver(p, n)),
        1 => (peer.clone(), piece.clone(), 0..4u32, any::<u32>()).prop_map(|(p, n, b, l)| Step::Stray(p, n, b, l)),
        2 => (peer, piece, 0..4u32, any::<u32>()).prop_map(|(p, n, b, l)| Step::Request(p, n, b, l)),
        2 => (handle.clone(), at.clone(), length.clone()).prop_map(|(h, a, l)| Step::Open(h, a, l * 4)),
        6 => (handle.clone(), at.clone(), length.clone()).prop_map(|(h, a, l)| Step::Read(h, a, l)),
        3 => (handle.clone(), at, length).prop_map(|(h, a, l)| Step::Hit(h, a, l)),
        1 => (0..8usize).prop_map(Step::Withdraw),
        1 => handle.clone().prop_map(Step::Flush),
        1 => handle.prop_map(Step::Close),
        2 => (0..PIECES).prop_map(Step::Evict),
        1 => (0..PIECES).prop_map(Step::Lose),
        1 => (0..12 * PIECE).prop_map(Step::Budget),
        4 => (1..8_000u64).prop_map(Step::Run),
    ]
}

fn peer(lab: &Lab, n: usize) -> Option<PeerKey> {
    lab.actors.keys().nth(n).copied()
}

fn bytes(lab: &Lab, at: u64, length: u64) -> Range<u64> {
    at..(at + length).min(lab.swarm.geometry.total())
}

fn apply(lab: &mut Lab, step: Step) {
    match step {
        Step::Connect { .. } if lab.actors.len() >= 6 => {}
        Step::Connect { fast, serves: true } => drop(lab.connect(serves(400_000), fast)),
        Step::Connect { fast, serves: false } => drop(lab.connect(Character::Scripted, fast)),
        Step::Disconnect(p) => {
            if let Some(p) = peer(lab, p) {
                lab.actors.remove(&p);
                lab.input(Input::Disconnected(p));
            }
        }
        Step::Bitfield(p, bits) => say(lab, p, Message::Bitfield(bits.to_be_bytes()[..3].to_vec().into())),
        Step::HaveAll(p) => say(lab, p, Message::HaveAll),
        Step::Have(p, piece) => say(lab, p, Message::Have(PieceIndex(piece))),
        Step::DontHave(p, piece) => {
            if let Some(p) = peer(lab, p) {
                lab.input(Input::DontHave(p, PieceIndex(piece)));
            }
        }
        Step::Choke(p, true) => say(lab, p, Message::Choke),
        Step::Choke(p, false) => say(lab, p, Message::Unchoke),
        Step::Interested(p, true) => say(lab, p, Message::Interested),
        Step::Interested(p, false) => say(lab, p, Message::NotInterested),
        Step::Unchoked(bits) => {
            let keys = lab.actors.keys().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
            let keys: Vec<PeerKey> = keys.map(|(_, &key)| key).collect();
            lab.input(Input::Unchoked(&keys));
        }
        Step::AllowedFast(p, piece) => say(lab, p, Message::AllowedFast(PieceIndex(piece))),
        Step::Reject(p, n) => {
            if let Some(request) = peer(lab, p).and_then(|p| lab.pending(p).get(n).copied()) {
                say(lab, p, Message::Reject(request));
            }
        }
        Step::Deliver(p, n) => {
            if let Some(p) = peer(lab, p)
                && let Some(&request) = lab.pending(p).get(n)
            {
                lab.deliver(p, request);
            }
        }
        Step::Stray(p, piece, block, length) => {
            if let Some(p) = peer(lab, p) {
                let length = if length % 2 == 0 { BLOCK_LENGTH } else { length % (2 * BLOCK_LENGTH) };
                lab.deliver(p, Request { piece: PieceIndex(piece), begin: block * BLOCK_LENGTH, length });
            }
        }
        Step::Request(p, piece, block, length) => {
            let length = if length % 2 == 0 { BLOCK_LENGTH } else { length };
            say(lab, p, Message::Request(Request { piece: PieceIndex(piece), begin: block * BLOCK_LENGTH, length }));
        }
        Step::Open(h, at, length) => {
            let file = bytes(lab, at, length);
            lab.input(Input::Open(HandleId(h), file));
        }
        Step::Read(h, at, length) => {
            let bytes = bytes(lab, at, length);
            lab.read_through(HandleId(h), bytes, secs(5));
        }
        Step::Hit(h, at, length) => {
            let bytes = bytes(lab, at, length);
            lab.input(Input::Hit(HandleId(h), bytes));
        }
        Step::Withdraw(n) => {
            if let Some(&id) = lab.open_reads.keys().nth(n) {
                lab.open_reads.remove(&id);
                lab.input(Input::Withdraw(id));
            }
        }
        Step::Flush(h) => lab.input(Input::Flush(HandleId(h))),
        Step::Close(h) => lab.input(Input::Close(HandleId(h))),
        Step::Evict(piece) => lab.input(Input::Evicted(PieceIndex(piece))),
        Step::Lose(piece) => lab.input(Input::Lost(PieceIndex(piece))),
        Step::Budget(bytes) => lab.budget = bytes,
        Step::Run(time) => lab.run(ms(time)),
    }
}

fn say(lab: &mut Lab, p: usize, message: Message<'_>) {
    if let Some(p) = peer(lab, p) {
        lab.says(p, message);
    }
}

/// What can be counted anew must agree with what is kept up to date.
fn recount(lab: &Lab) {
    let swarm = &lab.swarm;
    let held: u64 = swarm.geometry.all().filter(|&p| swarm.has(p)).map(|p| swarm.length(p)).sum();
    assert_eq!(swarm.totals().held, held);
    for (key, p) in &swarm.peers {
        assert_eq!(swarm.askable.contains(key), !p.choking || !p.allowed.is_empty(), "{key:?}");
        let useful = swarm.geometry.all().filter(|&n| p.has.has(n) && !swarm.has(n)).count();
        assert_eq!(p.useful as usize, useful, "{key:?}");
    }
    if swarm.picker.jobs.is_empty() {
        for piece in swarm.geometry.all() {
            let count = swarm.peers.values().filter(|p| p.has.has(piece)).count();
            let availability = swarm.picker.seeds() + u32::from(swarm.picker.availability(piece));
            assert_eq!(availability as usize, count, "{piece:?}");
        }
    }
    for id in swarm.reads.keys() {
        assert!(lab.open_reads.contains_key(id));
    }
    assert_eq!(swarm.reads.len(), lab.open_reads.len());
    for read in swarm.reads.values() {
        let missing = swarm.geometry.pieces_of(read.bytes.clone()).filter(|&p| !swarm.has(p)).count();
        assert_eq!(read.missing as usize, missing);
        assert!(missing > 0, "a read that lacks nothing still waits");
    }
    let used: u64 = swarm.partials.keys().map(|&p| swarm.length(p)).sum();
    assert_eq!(swarm.memory.used, used);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_books_balance(
        steps in prop::collection::vec(step(), 1..120),
        fill in prop_oneof![Just(Fill::None), Just(Fill::Open), Just(Fill::All)],
        seed in any::<u64>(),
    ) {
        let mut setup = setup(PIECES, PIECE, false, fill);
        setup.files = Arc::from(vec![0..7 * PIECE, 7 * PIECE..8 * PIECE + 100, 8 * PIECE + 100..u64::from(PIECES) * PIECE]);
        setup.seed = seed;
        let mut lab = Lab::with_setup(setup);
        for step in steps {
            apply(&mut lab, step);
            recount(&lab);
        }
        // Afterwards a good seed and memory are there: every read that still waits is answered in time, and a new one
        // as well.
        lab.budget += 12 * PIECE;
        lab.input(Input::Open(HandleId(9), 0..u64::from(PIECES) * PIECE));
        lab.run(secs(40));
        if !lab.swarm.complete() {
            lab.seed(serves(4_000_000));
        }
        let id = lab.read_through(HandleId(9), 0..u64::from(PIECES) * PIECE, secs(60));
        prop_assert_eq!(lab.wait(id), Ok(()));
        lab.run(secs(90));
        recount(&lab);
        prop_assert!(lab.open_reads.is_empty());
    }

    #[test]
    fn the_picker_gives_the_rarest_that_a_naive_search_finds(
        seed in any::<u64>(),
        peers in prop::collection::vec(prop::collection::vec(any::<bool>(), 60), 1..8),
        lacking in prop::collection::vec(any::<bool>(), 60),
        haves in prop::collection::vec(0..60u32, 40),
    ) {
        use rand::SeedableRng;
        let mut picker = picker::Picker::new(60, Order::RarestFirst);
        for peer in &peers {
            (0..60).filter(|&p| peer[p as usize]).for_each(|p| picker.add(PieceIndex(p)));
        }
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut lacking = lacking;
        for (n, peer) in peers.iter().enumerate() {
            // Others come to have pieces between two picks, in the order of now.
            haves.iter().skip(5 * n).take(5).for_each(|&p| picker.add(PieceIndex(p)));
            let picked = {
                let lacks = |p: PieceIndex| lacking[p.0 as usize];
                let all = 0..60;
                picker.pick(Instant::now(), &mut rng, std::slice::from_ref(&all), &lacks, &|p| peer[p.0 as usize])
            };
            let could = (0..60).filter(|&p| lacking[p as usize] && peer[p as usize]);
            let rarest = could.map(|p| picker.availability(PieceIndex(p))).min();
            prop_assert_eq!(picked.map(|p| picker.availability(p)), rarest);
            if let Some(p) = picked {
                lacking[p.0 as usize] = false;
            }
        }
    }
}
