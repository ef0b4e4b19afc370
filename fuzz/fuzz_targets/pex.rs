//! Peer exchange (BEP 11) and local discovery (BEP 14).
#![no_main]

use swarmfs::wire::{LsdAnnounce, MAX_PEX, PexMessage};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(message) = PexMessage::decode(data) {
        assert!(message.added.len() <= MAX_PEX);
        let _ = PexMessage::decode(&message.encode()).expect("our own");
    }
    let _ = LsdAnnounce::decode(data);
});
