//! Handshakes and messages of a stream, as a torrent of 1,000 pieces and one without metadata read them.
#![no_main]

use swarmfs::wire::{Handshake, MAX_MESSAGE, decode, decode_unjudged};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(bytes) = data.first_chunk() {
        let _ = Handshake::decode(bytes).map(|read| assert_eq!(&read.encode(), bytes));
    }
    let mut rest = data;
    while let Ok(Some((message, used))) = decode(rest, 1000) {
        assert!((4..=MAX_MESSAGE).contains(&used) && used <= rest.len());
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again.len(), message.encoded_len());
        rest = &rest[used..];
    }
    let mut rest = data;
    while let Ok(Some((_, used))) = decode_unjudged(rest) {
        rest = &rest[used..];
    }
});
