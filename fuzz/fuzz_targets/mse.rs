//! The encryption handshake (MSE), both sides of it, cut anywhere.
#![no_main]

use rand::SeedableRng;
use rand::rngs::StdRng;
use swarmfs::wire::mse::{Initiator, MAX_PAD, Methods, Responder, obfuscated};

const TORRENT: [u8; 20] = [7; 20];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    let find = |which: &[u8; 20]| (*which == obfuscated(&TORRENT)).then_some(TORRENT);
    let mut rng = StdRng::seed_from_u64(u64::from(first));
    let mut initiator = Initiator::new(TORRENT, Methods::BOTH, b"hello", &mut rng);
    let mut responder = Responder::new(Methods::BOTH, MAX_PAD, &mut rng);
    // Garbage from the first byte on, or after the keys were exchanged.
    if first % 2 == 0 {
        let (key, theirs) = (initiator.output(), responder.output());
        let _ = responder.receive(&key, find).and_then(|_| initiator.receive(&theirs));
        let _ = initiator.receive(&responder.output());
    }
    for part in rest.chunks(usize::from(first) + 1) {
        if responder.receive(part, find).is_err() {
            break;
        }
        let _ = responder.output();
    }
    for part in rest.chunks(usize::from(first) + 1) {
        if initiator.receive(part).is_err() {
            break;
        }
        let _ = initiator.output();
    }
});
