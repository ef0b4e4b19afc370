//! Datagrams of UDP trackers (BEP 15) and of their clients.
#![no_main]

use swarmfs::wire::{decode_udp_reply, decode_udp_request, encode_udp_reply, encode_udp_request};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for v6 in [false, true] {
        if let Ok(reply) = decode_udp_reply(data, v6) {
            let _ = decode_udp_reply(&encode_udp_reply(&reply), v6);
        }
    }
    if let Ok(request) = decode_udp_request(data) {
        let _ = decode_udp_request(&encode_udp_request(&request)).expect("our own");
    }
});
