use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const TORRENT: [u8; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19];
/// The exchange of the private keys 01 02 .. 14 and 65 66 .. 78 for [`TORRENT`] with the initial payload `hello`, computed
/// apart from this code (Python's integers and hashlib).
const KEY_A: &str = "96e112dab29e8c5272accb9b17b26887ce54a144a4e3b697c7d159b7a817e556b0918db2b4c658e02a87f7e5fb14b18a553e084cbf3dad2d30f16596ccb982d406258c61b30c5c1dae2ddc60bdbd48d79896312aad63238c39e1a633821eb693";
const KEY_B: &str = "d32ae8cedd0de9ca4fe67e35626bb8c7cdb0966727d899f6a62fdb2b68817f9ddc4b684e3eb34030b8dba4e028b7cff3264020340cb4eab61923cdc4e4216ba873368d83f0a38e497f1f6b4e3d2012eb91a3ee6056f966f9eae732089b6fa46e";
const OFFER: &str = "78fffb0f23055a793ff7609f359e04e383ec35057866a7ec9280fa9770074e99efb2c91fe6600eb780f1f31783ba99b2dde8fdfbcfb0cbcf20bb1b2af1";
const PLAIN: &str = "6a36fe9f24b4fd18c811408aa330";
const RC4: &str = "6a36fe9f24b4fd18c8114089a330";
const WORLD: &str = "15383851d1";
const MORE: &str = "e83d8560ec";

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hex")
}

fn secret(first: u8) -> Secret {
    let bytes: Vec<u8> = (first..first + 20).collect();
    Secret(BigUint::from_bytes_be(&bytes))
}

fn ours(which: &[u8; 20]) -> Option<[u8; 20]> {
    (*which == obfuscated(&TORRENT)).then_some(TORRENT)
}

fn pair(methods: (Methods, Methods), pads: (usize, usize), seed: u64) -> (Initiator, Responder) {
    let mut rng = StdRng::seed_from_u64(seed);
    let initiator = Initiator::with(Secret::new(&mut rng), &vec![7; pads.0], TORRENT, methods.0, b"hello");
    (initiator, Responder::with(Secret::new(&mut rng), vec![9; pads.1], methods.1))
}

#[test]
fn the_bytes_are_those_that_others_compute() {
    for (taken, answer, method) in [(Methods::BOTH, PLAIN, Method::Plain), (Methods::RC4, RC4, Method::Rc4)] {
        let mut a = Initiator::with(secret(1), b"pad", TORRENT, Methods::BOTH, b"hello");
        let mut b = Responder::with(secret(101), b"a longer pad".to_vec(), taken);
        assert_eq!(a.output(), [&unhex(KEY_A)[..], b"pad"].concat());
        assert!(b.receive(&[&unhex(KEY_A)[..], b"pad"].concat(), ours).unwrap().is_none());
        assert_eq!(b.output(), [&unhex(KEY_B)[..], b"a longer pad"].concat());
        assert!(!a.has_key());
        assert!(a.receive(&[&unhex(KEY_B)[..], b"a longer pad"].concat()).unwrap().is_none());
        assert!(a.has_key());
        assert_eq!(a.output(), unhex(OFFER));
        let came = if method == Method::Rc4 { unhex(MORE) } else { b"more!".to_vec() };
        let mut at_b = b.receive(&[unhex(OFFER), came].concat(), ours).unwrap().expect("the end");
        assert_eq!((at_b.torrent, &at_b.ahead[..]), (TORRENT, &b"hellomore!"[..]));
        assert_eq!(b.output(), unhex(answer));
        let mut world = b"world".to_vec();
        if let Some((seal, _)) = &mut at_b.ciphers {
            seal.apply(&mut world);
            assert_eq!(world, unhex(WORLD));
        }
        let at_a = a.receive(&[unhex(answer), world].concat()).unwrap().expect("the end");
        assert_eq!((&at_a.ahead[..], at_a.ciphers.is_some()), (&b"world"[..], method == Method::Rc4));
    }
}

#[test]
fn a_key_that_tells_the_secret_is_refused() {
    let prime = BigUint::from_bytes_be(&PRIME);
    for weak in [0u8.into(), 1u8.into(), &prime - 1u8, prime.clone(), &prime + 1u8] {
        let mut key = padded(&weak);
        let (mut a, mut b) = pair((Methods::BOTH, Methods::BOTH), (0, 0), 1);
        assert_eq!(a.receive(&key).unwrap_err(), MseError::Key);
        assert_eq!(b.receive(&key, ours).unwrap_err(), MseError::Key);
        assert!(b.output().is_empty(), "it gets nothing");
        key[95] ^= 2;
    }
    assert!(secret(1).shared(&padded(&(prime - 2u8))).is_ok());
}

#[test]
fn methods_are_agreed_or_refused() {
    const PLAIN: Methods = Methods { plain: true, rc4: false };
    for (a, b, method) in [
        (Methods::BOTH, Methods::BOTH, Ok(Method::Plain)),
        (Methods::RC4, Methods::BOTH, Ok(Method::Rc4)),
        (Methods::BOTH, Methods::RC4, Ok(Method::Rc4)),
        (PLAIN, Methods::RC4, Err(MseError::Methods)),
        (Methods::RC4, PLAIN, Err(MseError::Methods)),
        (Methods::from_bits(4), Methods::BOTH, Err(MseError::Methods)),
    ] {
        assert_eq!(b.pick(a), method);
    }
    for bits in [0, 3, 4, 1 << 31] {
        assert_eq!(Methods::BOTH.picked(bits), Err(MseError::Methods), "{bits} is not one method");
    }
    assert_eq!(Methods::RC4.picked(1), Err(MseError::Methods), "not what we offered");
}

#[test]
fn a_stranger_gets_a_key_and_nothing_else() {
    let (mut a, mut b) = pair((Methods::BOTH, Methods::BOTH), (0, 512), 2);
    let key = a.output();
    b.receive(&key, ours).unwrap();
    assert_eq!(b.output().len(), KEY_LENGTH + MAX_PAD);
    b.receive(&[0; MAX_PAD + 19], ours).unwrap();
    assert_eq!(b.receive(&[0], ours).unwrap_err(), MseError::Unsynchronised);
    assert!(b.output().is_empty());

    let (mut a, mut b) = pair((Methods::BOTH, Methods::BOTH), (0, 0), 3);
    b.receive(&a.output(), ours).unwrap();
    a.receive(&b.output()).unwrap();
    assert_eq!(b.receive(&a.output(), |_| None).unwrap_err(), MseError::Torrent);
    assert!(b.output().is_empty(), "who asks for no torrent of ours learns nothing");

    assert!(Responder::new(Methods::BOTH, 0, &mut StdRng::seed_from_u64(4)).pad.is_empty());
}

#[test]
fn what_is_sealed_otherwise_or_too_long_is_refused() {
    let offer = |text: &[u8]| {
        let (mut a, mut b) = pair((Methods::BOTH, Methods::BOTH), (3, 3), 5);
        b.receive(&a.output(), ours).unwrap();
        a.receive(&b.output()).unwrap();
        let mut proof = a.output();
        let (mut seal, mut text) = (Cipher::new(b"keyA", &b.shared, &TORRENT), text.to_vec());
        seal.apply(&mut text);
        proof.truncate(40);
        b.receive(&[proof, text].concat(), ours).map(|end| end.map(|end| end.ahead))
    };
    let head = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    assert_eq!(offer(&[1; 14]), Err(MseError::Verification));
    assert_eq!(offer(&[&head[..], &[2, 1]].concat()), Err(MseError::Pad(513)));
    assert_eq!(offer(&[&head[..], &[0, 0, 0x10, 1]].concat()), Err(MseError::Initial(4097)));
    assert_eq!(offer(&[&head[..], &[0, 1, 5, 0, 2, 6]].concat()), Ok(None), "the rest is to come");
    assert_eq!(offer(&[&head[..], &[0, 1, 5, 0, 2, 6, 7]].concat()), Ok(Some(vec![6, 7])));

    let (mut a, mut b) = pair((Methods::BOTH, Methods::BOTH), (3, 3), 6);
    b.receive(&a.output(), ours).unwrap();
    a.receive(&b.output()).unwrap();
    a.receive(&[1; MAX_PAD + 4]).unwrap();
    assert_eq!(a.receive(&[1]).unwrap_err(), MseError::Unsynchronised);
}

/// Carries what one side sends to the other in parts of these sizes.
fn parts(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let (mut out, mut rest, mut sizes) = (Vec::new(), bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let (part, after) = rest.split_at((*sizes.next().unwrap_or(&1)).clamp(1, rest.len()));
        out.push(part.to_vec());
        rest = after;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the bytes are split and padded, both sides agree, and what one seals the other opens.
    #[test]
    fn both_sides_agree(
        sizes in prop::collection::vec(1usize..700, 1..8), pads in (0usize..=512, 0usize..=512), rc4: (bool, bool),
        payload in prop::collection::vec(any::<u8>(), 0..300), seed: u64,
    ) {
        let methods = |rc4| if rc4 { Methods::RC4 } else { Methods::BOTH };
        let (mut a, mut b) = pair((methods(rc4.0), methods(rc4.1)), pads, seed);
        let (mut at_a, mut at_b) = (None, None);
        for _ in 0..3 {
            for part in parts(&a.output(), &sizes) {
                at_b = b.receive(&part, ours).expect("no error").or(at_b);
            }
            for part in parts(&b.output(), &sizes) {
                at_a = a.receive(&part).expect("no error").or(at_a);
            }
        }
        let (at_a, at_b): (Agreed, Agreed) = (at_a.expect("an end"), at_b.expect("an end"));
        prop_assert_eq!(&at_b.ahead[..], b"hello");
        prop_assert_eq!(at_b.torrent, TORRENT);
        match (at_a.ciphers, at_b.ciphers) {
            (Some((mut seal, mut open)), Some((mut their_seal, mut their_open))) => {
                prop_assert!(rc4.0 || rc4.1);
                let mut bytes = payload.clone();
                seal.apply(&mut bytes);
                prop_assert!(bytes.len() < 8 || bytes != payload);
                their_open.apply(&mut bytes);
                prop_assert_eq!(&bytes, &payload);
                their_seal.apply(&mut bytes);
                open.apply(&mut bytes);
                prop_assert_eq!(&bytes, &payload);
            }
            (None, None) => prop_assert!(!rc4.0 && !rc4.1),
            _ => prop_assert!(false, "one side seals, the other does not open"),
        }
    }

    /// Garbage ends in an error or is waited on, within what a handshake may hold; it never panics, and never agrees.
    #[test]
    fn garbage_agrees_on_nothing(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..12), seed: u64,
    ) {
        let (mut a, mut b) = pair((Methods::BOTH, Methods::BOTH), (5, 5), seed);
        let key = b.secret.public();
        let (mut a_over, mut b_over) = (false, false);
        for chunk in &chunks {
            a_over = a_over || a.receive(chunk).map(|end| assert!(end.is_none())).is_err();
            b_over = b_over || b.receive(chunk, ours).map(|end| assert!(end.is_none())).is_err();
            prop_assert!(a_over || a.input.0.len() <= MAX_PAD + 400);
            prop_assert!(b_over || b.input.0.len() <= MAX_PAD + 400);
        }
        // With a good beginning, too.
        let (mut a, mut b) = pair((Methods::BOTH, Methods::BOTH), (5, 5), seed);
        let _ = b.receive(&a.output(), ours);
        let _ = a.receive(&key);
        for chunk in &chunks {
            if a.receive(chunk).is_err() || b.receive(chunk, ours).is_err() {
                break;
            }
        }
    }

    /// A bit that is turned on the way ends the exchange, or stays within a pad or the sealed payload.
    #[test]
    fn a_flipped_bit_is_survived(at in 0usize..400, bit in 0u32..8, seed: u64) {
        let (mut a, mut b) = pair((Methods::RC4, Methods::BOTH), (20, 20), seed);
        let mut sent = 0;
        let mut spoil = |mut bytes: Vec<u8>| {
            if let Some(byte) = at.checked_sub(sent).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1 << bit;
            }
            sent += bytes.len();
            bytes
        };
        for _ in 0..3 {
            if b.receive(&spoil(a.output()), ours).is_err() || a.receive(&spoil(b.output())).is_err() {
                break;
            }
        }
    }
}
