//! The extension handshake (BEP 10), holepunching (BEP 55), lt_donthave (BEP 54) and upload_only (BEP 21).
#![no_main]

use swarmfs::wire::{ExtendedHandshake, Holepunch, decode_donthave, decode_upload_only};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(hello) = ExtendedHandshake::decode(data) {
        assert_eq!(ExtendedHandshake::decode(&hello.encode()).map(|again| again.messages), Ok(hello.messages));
    }
    if let Ok(message) = Holepunch::decode(data) {
        assert_eq!(Holepunch::decode(&message.encode()), Ok(message));
    }
    let _ = (decode_donthave(data), decode_upload_only(data));
});
